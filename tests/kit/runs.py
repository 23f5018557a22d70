"""A playbook's run through ansible-runner, as a person would start it, and the report that came of it."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_runner import interface

from . import BIN, LAB, ROOT
from .nodes import Node


@dataclass
class Run:
    """What came of a run. Its report is its own: later runs do not overwrite it."""

    rc: int
    output: str
    seconds: float
    stats: dict[str, Any]
    report: Path
    hosts: list[str] = field(default_factory=list)

    @property
    def said(self) -> str:
        """The output in one line, so that an expected sentence is found however it was wrapped."""
        return " ".join(self.output.split())

    @property
    def fleet(self) -> dict[str, Any]:
        """The report's fleet document."""
        return json.loads((self.report / "latest" / "fleet.json").read_text(encoding="utf-8"))

    def node(self, host: str) -> dict[str, Any]:
        """The report's document of a node."""
        return json.loads((self.report / "latest" / f"{host}.json").read_text(encoding="utf-8"))

    def plan(self, host: str) -> dict[str, Any]:
        """The last plan that was made for a node in this run."""
        plan = self.node(host)["plan"]
        assert isinstance(plan, dict), f"no plan was made for {host}: {self.output}"
        return plan

    def actions(self, host: str) -> list[str]:
        """The ids of the actions in that plan, in order."""
        return [action["id"] for action in self.plan(host)["actions"]]

    def conflicts(self, host: str) -> list[str]:
        """The ids of the conflicts in that plan, in order."""
        return [conflict["id"] for conflict in self.plan(host)["conflicts"]]

    def count(self, what: str, host: str) -> int:
        """Ansible's own count for a host: ok, changed, failures, dark (unreachable), …"""
        return int(self.stats.get(what, {}).get(host, 0))

    def changed(self, host: str) -> int:
        """Changed tasks by Ansible's own count."""
        return self.count("changed", host)

    def failed(self, host: str) -> bool:
        """Whether the host failed, or could not be reached."""
        return bool(self.count("failures", host) or self.count("dark", host))


def inventory_file(path: Path, nodes: Iterable[Node], extra: dict[str, dict[str, Any]] | None = None) -> Path:
    """An inventory to be named beside the lab's, whose group variables then count for these hosts too.

    ``extra``: more variables of a host, or more hosts.
    """
    hosts = {node.name: node.inventory_variables for node in nodes}
    for name, variables in (extra or {}).items():
        hosts[name] = {**hosts.get(name, {}), **variables}
    path.write_text(json.dumps({"gpu_nodes": {"hosts": hosts}}, indent=2), encoding="utf-8")
    return path


def environment(report: Path, more: dict[str, str] | None = None) -> dict[str, str]:
    """This repository's configuration, and nothing of what a test runner (molecule) has set for itself."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return {
        **kept,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        # ansible-runner would switch it off.
        "ANSIBLE_HOST_KEY_CHECKING": "1",
        "GPUREADY_ARTIFACTS_DIR": str(report),
        # Where the lab's group variables find .lab/, also for hosts of other inventories.
        "MOLECULE_PROJECT_DIRECTORY": str(ROOT),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        **(more or {}),
    }


def play(
    playbook: str,
    folder: Path,
    *,
    inventories: Iterable[Path | str] = (LAB,),
    limit: Iterable[str] = (),
    variables: dict[str, Any] | None = None,
    check: bool = False,
    arguments: str = "",
    environ: dict[str, str] | None = None,
    cut_off_after: int | None = None,
    answers: dict[str, str] | None = None,
    timeout: int = 1800,
) -> Run:
    """One run of a playbook of this repository; its traces are kept in a folder of its own in ``folder``.

    ``answers``: what is typed at the terminal once a line like this (a regular expression) asks for it.
    ``cut_off_after``: after so many tasks that changed something, ansible-playbook is killed.
    """
    own = Path(tempfile.mkdtemp(prefix=f"{Path(playbook).stem}-", dir=folder))
    hosts = list(limit)
    words = [f"-i {inventory}" for inventory in inventories]
    words += [f"--limit {','.join(hosts)}"] if hosts else []
    words += ["--check --diff"] if check else []
    if variables:
        file = own / "variables.json"
        file.write_text(json.dumps(variables), encoding="utf-8")
        words.append(f"-e @{file}")
    words += [arguments] if arguments else []
    runner = interface.init_runner(
        private_data_dir=str(own),
        project_dir=str(ROOT),
        playbook=playbook,
        cmdline=" ".join(words),
        quiet=True,
        suppress_env_files=True,
        passwords=answers or {},
        timeout=timeout,
    )
    wanted = environment(own / "report", environ)
    # ansible-runner began with everything that is set here; only what it added itself stays.
    added = {key: value for key, value in runner.config.env.items() if value != os.environ.get(key)}
    runner.config.env = {**added, **wanted}
    if cut_off_after is not None:
        runner.config.env["KIT_CUT_OFF_AFTER"] = str(cut_off_after)
        runner.config.env["ANSIBLE_CALLBACK_PLUGINS"] += f":{Path(__file__).parent / 'callbacks'}"
    started = time.monotonic()
    runner.run()
    seconds = time.monotonic() - started
    with runner.stdout as output:
        text = output.read()
    assert runner.status != "timeout", f"{playbook} took longer than {timeout} s:\n{text}"
    # A run that was killed has no exit status.
    rc = -1 if runner.rc is None else runner.rc
    return Run(rc, text, seconds, runner.stats or {}, own / "report", hosts)


@dataclass(frozen=True)
class Player:
    """Plays on the same hosts again and again."""

    folder: Path
    inventories: tuple[Path | str, ...]
    limit: tuple[str, ...] = ()

    def __call__(self, playbook: str, **changes: Any) -> Run:
        """Play; ``changes`` are arguments of :func:`play`."""
        return play(
            playbook, self.folder, **{"inventories": self.inventories, "limit": self.limit, **changes}
        )

    def plan(self, host: str = "", **changes: Any) -> dict[str, Any]:
        """Observe one host and plan, as ``playbooks/plan.yml`` does; nothing is applied."""
        host = host or self.limit[0]
        return self("playbooks/plan.yml", **{"limit": (host,), **changes}).plan(host)


def player(folder: Path, nodes: Iterable[Node], extra: dict[str, dict[str, Any]] | None = None) -> Player:
    """A player for some of the lab's nodes, whose own variables are in ``extra``."""
    folder.mkdir(parents=True, exist_ok=True)
    known = list(nodes)
    handle, path = tempfile.mkstemp(prefix="nodes-", suffix=".json", dir=folder)
    os.close(handle)
    return Player(folder, (LAB, inventory_file(Path(path), known, extra)), tuple(node.name for node in known))


def action_ids(plan: dict[str, Any]) -> list[str]:
    """The ids of a plan's actions, in order."""
    return [action["id"] for action in plan["actions"]]


def conflict_ids(plan: dict[str, Any]) -> list[str]:
    """The ids of a plan's conflicts, in order."""
    return [conflict["id"] for conflict in plan["conflicts"]]
