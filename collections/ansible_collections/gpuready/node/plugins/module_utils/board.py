# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""What a run has come to, node by node: the live board's memory. Pure; knows neither Ansible nor a terminal.

Times that are passed in are seconds of one clock of the controller (``time.monotonic``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .stages import OTHER

#: The order in which a run goes through them; others follow in the order of their appearance.
ORDER = (
    "node_drain",
    "node_access",
    "observe",
    "host_prepare",
    "docker_engine",
    "nvidia_container_toolkit",
    "framework_image",
    "nvidia_driver",
    "host_reboot",
    "framework_venv",
    "gpu_workbench",
    "gpu_health",
    "verify",
    "gpu_acceptance",
    "diagnose",
)
#: Which stage a step's progress belongs to; others are told by the stage in which they are seen.
STAGES_OF_STEPS = {"image_fetch": "framework_image", "image_load": "framework_image", "dkms": "nvidia_driver"}
#: A rate is believed after so much time.
TRUSTED_SECONDS = 2.0

PLANNED, RUNNING, DONE, FAILED = "planned", "running", "done", "failed"


@dataclass
class Progress:
    """How far a long step on a node is, in the node's own words (contract, section 20)."""

    step: str
    done: float
    total: float | None
    unit: str
    text: str
    #: How long it had been going on when it was told, by the node's clock.
    seconds: float
    #: When the controller heard it.
    heard: float

    @classmethod
    def of(cls, told: Mapping[str, Any], now: float) -> Progress | None:
        """From a progress file; none where it is no such thing: what a node says need not be right."""
        done, total = told.get("done"), told.get("total")
        started, updated = told.get("started"), told.get("updated")
        numbers = [value for value in (done, started, updated) if _is_number(value)]
        if len(numbers) != 3 or not isinstance(told.get("step"), str):
            return None
        assert isinstance(done, (int, float)) and isinstance(started, (int, float))
        assert isinstance(updated, (int, float))
        return cls(
            step=str(told["step"]),
            done=max(0.0, float(done)),
            total=float(total) if _is_number(total) and total and total > 0 else None,
            unit=str(told.get("unit") or ""),
            text=str(told.get("text") or ""),
            seconds=max(0.0, float(updated) - float(started)),
            heard=now,
        )

    @property
    def share(self) -> float | None:
        """Between 0 and 1; none where nobody knows the whole."""
        return None if self.total is None else min(1.0, self.done / self.total)

    def left(self, now: float) -> float | None:
        """Seconds until it is done, at the mean rate so far."""
        if self.total is None or self.done <= 0 or self.seconds < TRUSTED_SECONDS:
            return None
        rest = max(0.0, self.total - self.done) * self.seconds / self.done
        return max(0.0, rest - (now - self.heard))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass
class Stage:
    """One part of a node's way."""

    name: str
    state: str = PLANNED
    spent: float = 0.0
    since: float | None = None

    def seconds(self, now: float) -> float:
        """How long it has taken, over all the times that the node was in it."""
        return self.spent + (now - self.since if self.since is not None else 0.0)

    def enter(self, now: float) -> None:
        """One of its tasks begins. What counts is the time in tasks, not the waiting for other nodes."""
        self.state = RUNNING
        if self.since is None:
            self.since = now

    def pause(self, now: float) -> None:
        """The task is over; another one of the same stage may follow."""
        self.spent, self.since = self.seconds(now), None

    def leave(self, now: float, state: str = DONE) -> None:
        self.pause(now)
        self.state = state


@dataclass
class Node:
    """One host of the run."""

    name: str
    stages: dict[str, Stage] = field(default_factory=dict)
    stage: str | None = None
    aside: bool = False  # the current task belongs to no stage
    task: str = ""
    task_started: float | None = None  # none: no task of this host is running
    attempt: str = ""
    cause: str | None = None
    unreachable: bool = False
    changed: int = 0
    progress: list[Progress] = field(default_factory=list)
    #: What goes on behind the tasks (async): job → stage and when it began.
    jobs: dict[str, tuple[str, float]] = field(default_factory=dict)
    started: float | None = None
    finished: float | None = None

    @property
    def state(self) -> str:
        """One word: failed, running, done, waiting (between two tasks) or new."""
        if self.cause is not None:
            return "failed"
        if self.task_started is not None:
            return "running"
        if self.started is None:
            return "new"
        return "done" if self.finished is not None else "waiting"

    def elapsed(self, now: float) -> float:
        """How long it has been worked on, from its first task to its end."""
        if self.started is None:
            return 0.0
        return (self.finished if self.finished is not None else now) - self.started

    def current_progress(self) -> list[Progress]:
        """What is going on, that of the stage itself first."""
        return sorted(
            self.progress, key=lambda told: STAGES_OF_STEPS.get(told.step, self.stage) != self.stage
        )


#: How long a stage usually takes on a host; none where nobody knows.
Expected = Callable[[str, str], "float | None"]


class Board:
    """Takes the run's events; answers what there is to see."""

    def __init__(self, title: str, now: float, expected: Expected | None = None) -> None:
        self.title = title
        self.play = ""
        self.started = now
        self.simulated = False
        self.check_mode = False
        #: How the run ended; none while it goes on.
        self.ended: str | None = None
        #: Stages that the playbook has behind what a plan names.
        self.final: tuple[str, ...] = ()
        self.nodes: dict[str, Node] = {}
        self.expected: Expected = expected or (lambda _host, _stage: None)

    # --- events -------------------------------------------------------------------------------------------

    def begin_play(self, name: str, hosts: Iterable[str]) -> None:
        self.play = name
        for host in hosts:
            self.node(host)

    def node(self, host: str) -> Node:
        return self.nodes.setdefault(host, Node(host))

    def begin_task(self, host: str, stage: str, task: str, now: float) -> None:
        """A task of a host begins. One that belongs to no stage does not end the one that the host is in."""
        node = self.node(host)
        node.started = now if node.started is None else node.started
        node.finished = None
        # Something came after the failure: it was rescued, or ignored.
        node.cause = None
        node.task, node.task_started, node.attempt = task, now, ""
        node.aside = stage == OTHER
        if node.aside:
            return
        if node.stage not in (None, stage):
            self._leave(node, now)
        node.stages.setdefault(stage, Stage(stage)).enter(now)
        node.stage = stage

    def end_task(self, host: str, now: float, *, changed: bool = False) -> None:
        node = self.node(host)
        node.task_started, node.attempt = None, ""
        node.changed += changed
        if node.stage is not None:
            node.stages[node.stage].pause(now)
        node.progress = [told for told in node.progress if told.step in STAGES_OF_STEPS]

    def fail(self, host: str, cause: str, now: float, *, unreachable: bool = False) -> None:
        """A host's task failed; the next task of the host, if there is one, forgives it."""
        node = self.node(host)
        self.end_task(host, now)
        node.cause, node.unreachable, node.progress, node.jobs = cause, unreachable, [], {}
        if node.stage is not None:
            self._leave(node, now, DONE if node.aside else FAILED)

    def begin_job(self, host: str, job: str, now: float) -> None:
        """The task that is ending left something behind that goes on."""
        node = self.node(host)
        if node.stage is not None:
            node.jobs[job] = (node.stage, now)

    def end_job(self, host: str, job: str) -> None:
        self.node(host).jobs.pop(job, None)

    def retry(self, host: str, attempt: int, of: int) -> None:
        self.node(host).attempt = f"try {attempt} of {of}"

    def plan(self, host: str, roles: Iterable[str], now: float) -> None:
        """What a plan has left for a host, in the place of what a former plan had."""
        node = self.node(host)
        node.stages = {name: stage for name, stage in node.stages.items() if stage.state != PLANNED}
        for role in (*roles, *self.final):
            node.stages.setdefault(role, Stage(role))

    def tell(self, host: str, told: Iterable[Mapping[str, Any]], now: float) -> None:
        """A host's progress files, all of them."""
        found = [Progress.of(one, now) for one in told if isinstance(one, Mapping)]
        self.node(host).progress = [one for one in found if one is not None]

    def finish(self, failed: Iterable[str], now: float) -> None:
        """The run is over."""
        self.ended = "finished"
        bad = set(failed)
        for node in self.nodes.values():
            node.task_started, node.progress, node.jobs = None, [], {}
            # Nobody promised them: a converged node may be left out of the verification.
            for name in self.final:
                if name in node.stages and node.stages[name].state == PLANNED:
                    del node.stages[name]
            if node.name not in bad:
                node.cause = None
            elif node.cause is None:
                node.cause = "failed"
            if node.stage is not None and node.stages[node.stage].state == RUNNING:
                self._leave(node, now)
            if node.started is not None and node.finished is None:
                node.finished = now

    @staticmethod
    def _leave(node: Node, now: float, state: str = DONE) -> None:
        assert node.stage is not None
        stage = node.stages[node.stage]
        if stage.state == RUNNING:
            stage.leave(now, state)

    # --- answers ------------------------------------------------------------------------------------------

    def columns(self) -> list[str]:
        """The stages of all nodes, in the order of a run."""
        found = {name for node in self.nodes.values() for name in node.stages}
        seen = dict.fromkeys(name for node in self.nodes.values() for name in node.stages)
        known = [name for name in ORDER if name in found]
        others = [name for name in seen if name not in ORDER]
        # What is not known comes where it came up: before the proof at the end.
        at = next((place for place, name in enumerate(known) if name in ("verify", "diagnose")), len(known))
        return [*known[:at], *others, *known[at:]]

    def counts(self) -> dict[str, int]:
        """How many nodes are in each state."""
        found: dict[str, int] = {}
        for node in self.nodes.values():
            found[node.state] = found.get(node.state, 0) + 1
        return found

    def stage_left(self, node: Node, now: float) -> float | None:
        """Seconds until the node's stage is over: by its own word, and not before its usual time is over."""
        if node.stage is None or node.task_started is None:
            return None
        known = [told.left(now) for told in self.told_of(node, node.stage)]
        usual = self.expected(node.name, node.stage)
        if usual is not None:
            rest = usual - node.stages[node.stage].seconds(now)
            known.append(rest if rest >= 0 else None)
        return max((left for left in known if left is not None), default=None)

    @staticmethod
    def told_of(node: Node, stage: str) -> list[Progress]:
        """The progress that belongs to one of the node's stages."""
        return [told for told in node.progress if STAGES_OF_STEPS.get(told.step, node.stage) == stage]

    def left(self, now: float) -> float | None:
        """Seconds until the last node is through what is known of its way; none where a part is unknown."""
        longest = None
        for node in self.nodes.values():
            if node.state not in ("running", "waiting"):
                continue
            ahead = [
                self.expected(node.name, stage.name)
                for stage in node.stages.values()
                if stage.state == PLANNED
            ]
            current = self.stage_left(node, now)
            if node.state == "running" and current is None:
                return None
            # What goes on behind the tasks: what former runs say is how long it was waited for.
            behind = [
                max((told.left(now) or 0.0 for told in self.told_of(node, stage)), default=0.0)
                for stage, _begun in node.jobs.values()
            ]
            if any(one is None for one in ahead) or not all(behind):
                return None
            rest = max((current or 0.0) + sum(one or 0.0 for one in ahead), *behind, 0.0)
            longest = rest if longest is None else max(longest, rest)
        return longest
