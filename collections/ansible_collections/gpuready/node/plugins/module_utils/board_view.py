# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""The live board as lines of text for a terminal of some size. Pure."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from .board import DONE, FAILED, PLANNED, RUNNING, STAGES_OF_STEPS, Board, Node, Progress

#: Headings of at most seven columns.
LABELS = {
    "node_access": "access",
    "node_drain": "drain",
    "host_prepare": "host",
    "docker_engine": "docker",
    "nvidia_container_toolkit": "toolkit",
    "framework_image": "image",
    "nvidia_driver": "driver",
    "host_reboot": "reboot",
    "framework_venv": "venv",
    "gpu_workbench": "bench",
    "gpu_health": "health",
    "gpu_acceptance": "accept",
}
CELL = 8  # a stage's column, with the space behind it
NOW = 26  # what the current task needs at least beside the stages' columns
#: Control characters and what changes the direction of text: a node's words must not move the cursor.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")
UNITS = {"bytes": "", "packages": "packages", "files": "files", "percent": "%"}


@dataclass(frozen=True)
class Look:
    """What the terminal can do."""

    columns: int = 80
    rows: int = 24
    unicode: bool = True
    colour: bool = True


@dataclass(frozen=True)
class Signs:
    done: str
    failed: str
    planned: str
    running: str
    dot: str
    more: str
    about: str


NICE = Signs("✔", "✘", "·", "▶", " · ", "…", "≈")
PLAIN = Signs("+", "X", ".", ">", ", ", "~", "~")
STYLES = {"done": "32", "failed": "1;31", "running": "36", "dim": "2", "bold": "1", "warn": "33"}


def width(text: str) -> int:
    """How many columns a text takes."""
    return sum(
        0
        if unicodedata.combining(letter) or unicodedata.category(letter) in ("Cf", "Mn", "Me")
        else 2
        if unicodedata.east_asian_width(letter) in "WF"
        else 1
        for letter in text
    )


def cut(text: str, columns: int, more: str = "…") -> str:
    """The text in at most so many columns."""
    if width(text) <= columns:
        return text
    if columns <= width(more):
        return more[:columns]
    kept, taken = [], 0
    for letter in text:
        taken += width(letter)
        if taken > columns - width(more):
            break
        kept.append(letter)
    return "".join(kept) + more


def pad(text: str, columns: int, more: str = "…") -> str:
    text = cut(text, columns, more)
    return text + " " * (columns - width(text))


def clean(text: str) -> str:
    """One line without anything that a terminal would obey."""
    return " ".join(UNPRINTABLE.sub(" ", text).split())


def clock(seconds: float) -> str:
    """Time that has passed: 0:07, 12:30, 1:02:03."""
    whole = int(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def short(seconds: float) -> str:
    """Time that has passed, in at most five columns."""
    if seconds < 99.5:
        return f"{seconds:.0f}s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.0f}h"


def estimate(seconds: float) -> str:
    """Time that is to come, no more exact than anybody knows it."""
    if seconds < 90:
        return f"{max(1, round(seconds / 5)) * 5} s" if seconds >= 5 else "a few s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def amount(number: float) -> str:
    """Bytes for people."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1024:.0f} KiB"


def label(stage: str) -> str:
    return LABELS.get(stage, stage)


class View:
    """Draws one board."""

    def __init__(self, board: Board, look: Look, now: float) -> None:
        self.board, self.look, self.now = board, look, now
        self.signs = NICE if look.unicode else PLAIN

    def style(self, text: str, name: str | None) -> str:
        if not self.look.colour or not name or not text.strip():
            return text
        return f"\x1b[{STYLES[name]}m{text}\x1b[0m"

    def plain(self, text: str) -> str:
        """In the letters that this terminal has."""
        text = clean(text)
        return text if self.look.unicode else text.encode("ascii", "replace").decode()

    # --- the parts ----------------------------------------------------------------------------------------

    def progress(self, told: Progress) -> str:
        words = []
        if told.unit == "bytes":
            words.append(f"{amount(told.done)} of {amount(told.total)}" if told.total else amount(told.done))
        elif told.unit == "percent":
            words.append(f"{told.done:.0f} %")
        else:
            whole = f" of {told.total:.0f}" if told.total else ""
            words.append(f"{told.done:.0f}{whole} {UNITS.get(told.unit, told.unit)}".strip())
        if told.share is not None and told.unit != "percent":
            words.append(f"{told.share * 100:.0f} %")
        if told.text:
            words.append(told.text)
        left = told.left(self.now)
        if left is not None:
            words.append(f"{self.signs.about} {estimate(left)} left")
        return self.signs.dot.join(words)

    def doing(self, node: Node) -> tuple[str, str | None]:
        """What is going on at a node, and in which style it is written."""
        if node.cause is not None:
            what = "unreachable: " if node.unreachable else ""
            return self.plain(f"{self.signs.failed} {what}{node.cause}"), "failed"
        words = []
        if node.task_started is not None:
            words.append(node.task)
            if node.attempt:
                words.append(node.attempt)
        told = node.current_progress()
        for one in told:
            own = STAGES_OF_STEPS.get(one.step, node.stage) == node.stage
            words.append(("" if own else f"{label(STAGES_OF_STEPS[one.step])}: ") + self.progress(one))
        if node.task_started is not None:
            spent = self.now - node.task_started
            if spent >= 2:
                words.append(clock(spent))
            left = self.board.stage_left(node, self.now)
            if left is not None and spent >= 2 and not any(one.left(self.now) is not None for one in told):
                words.append(f"{self.signs.about} {estimate(left)} left")
        if not words:
            others = any(one.state == "running" for one in self.board.nodes.values())
            waiting = "waits for the others" if others else "between two tasks"
            idle = {"new": "not begun", "done": "done", "waiting": waiting}[node.state]
            return idle, "done" if node.state == "done" else "dim"
        return self.plain(self.signs.dot.join(words)), None

    def cell(self, node: Node, name: str) -> tuple[str, str | None]:
        stage = node.stages.get(name)
        if stage is None:
            return "", None
        if stage.state == PLANNED:
            return self.signs.planned, "dim"
        if stage.state == FAILED:
            return f"{self.signs.failed} {short(stage.seconds(self.now))}", "failed"
        shares = [told.share for told in self.board.told_of(node, name)]
        share = next((one for one in shares if one is not None), None)
        begun = next((since for job, since in node.jobs.values() if job == name), None)
        if stage.state == RUNNING or share is not None or begun is not None:
            spent = stage.seconds(self.now) if begun is None else self.now - begun
            said = short(spent) if share is None else f"{share * 100:.0f}%"
            return f"{self.signs.running} {said}", "running"
        assert stage.state == DONE
        return f"{self.signs.done} {short(stage.seconds(self.now))}", "done"

    def head(self) -> str:
        board, counts = self.board, self.board.counts()
        words = [board.title]
        if board.play and board.play != board.title:
            words.append(board.play)
        if board.check_mode:
            words.append("check mode")
        if board.simulated:
            words.append("simulated GPUs")
        if board.ended == "interrupted":
            words.append("interrupted")
        words.append(clock(self.now - board.started))
        many = len(board.nodes)
        states = ", ".join(
            f"{counts[state]} {state if state != 'new' else 'not begun'}"
            for state in ("failed", "running", "waiting", "done", "new")
            if counts.get(state)
        )
        if many:
            words.append(f"{many} node{'s' if many != 1 else ''}: {states}")
        left = board.left(self.now)
        if left is not None and left >= 5 and board.ended is None:
            words.append(f"{self.signs.about} {estimate(left)} left")
        text = cut(self.plain(self.signs.dot.join(words)), self.look.columns - 1, self.signs.more)
        return self.style(text, "failed" if counts.get("failed") else "bold")

    # --- which nodes are shown ----------------------------------------------------------------------------

    def chosen(self, room: int) -> tuple[list[Node], list[Node]]:
        """The nodes that there is room for, in the inventory's order, and the others.

        Failures come first, but leave room for what is going on; then what runs, the longest first.
        """
        nodes = list(self.board.nodes.values())
        if len(nodes) <= room:
            return nodes, []
        room = max(1, room - 1)
        failed = [node for node in nodes if node.state == "failed"]
        running = sorted(
            (node for node in nodes if node.state == "running"), key=lambda node: node.task_started or 0.0
        )
        others = [node for state in ("waiting", "new", "done") for node in nodes if node.state == state]
        share = max(room // 2, room - len(running))
        wanted = [*failed[-share:], *running, *others, *failed[:-share]]
        taken = {node.name for node in wanted[:room]}
        return [node for node in nodes if node.name in taken], [
            node for node in nodes if node.name not in taken
        ]

    def rest(self, left_out: list[Node]) -> str:
        counts: dict[str, int] = {}
        for node in left_out:
            counts[node.state] = counts.get(node.state, 0) + 1
        words = ", ".join(
            f"{counts[state]} {state if state != 'new' else 'not begun'}"
            for state in ("failed", "running", "waiting", "done", "new")
            if state in counts
        )
        text = cut(
            f"{self.signs.more} and {len(left_out)} more: {words}", self.look.columns - 1, self.signs.more
        )
        return self.style(text, "failed" if counts.get("failed") else "dim")

    # --- the whole ----------------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """The board, never taller or wider than the terminal: a line is left for the cursor, and a column."""
        columns, room = self.look.columns - 1, self.look.rows - 1
        # An empty line parts it from what is above.
        above = [""] if room >= 8 else []
        room -= len(above)
        if room < 2 or columns < 10 or not self.board.nodes:
            return [self.head()][: max(0, room)]
        stages = self.board.columns()
        shown, left_out = self.chosen(max(1, room - 2))
        names = min(max(width(self.plain(node.name)) for node in shown) + 2, max(8, columns // 4))
        wide = names + CELL * len(stages) + NOW <= columns and room >= 4
        lines = [*above, self.head()]
        if wide and stages:
            heads = "".join(pad(label(stage), CELL - 1, self.signs.more) + " " for stage in stages)
            lines.append(self.style(cut(pad("", names) + heads, columns).rstrip(), "dim"))
        for node in shown:
            lines.append(self.row(node, stages, names, columns, wide))
        if left_out:
            lines.append(self.rest(left_out))
        return lines[: room + len(above)]

    def row(self, node: Node, stages: list[str], names: int, columns: int, wide: bool) -> str:
        said, style = self.doing(node)
        name = pad(self.plain(node.name), names - 1, self.signs.more) + " "
        parts = [self.style(name, "failed" if node.cause is not None else None)]
        used = names
        if wide:
            for stage in stages:
                text, tone = self.cell(node, stage)
                parts.append(self.style(pad(text, CELL - 1, self.signs.more), tone) + " ")
            used += CELL * len(stages)
        elif names + len(stages) + 12 <= columns:
            # One letter a stage: what is behind it and what is ahead.
            for stage in stages:
                text, tone = self.cell(node, stage)
                parts.append(self.style(text[:1] or " ", tone))
            parts.append("  ")
            used += len(stages) + 2
            if node.stage and node.cause is None and node.task_started is not None:
                said = f"{label(node.stage)}: {said}"
        elif node.stage and node.cause is None and node.task_started is not None:
            said = f"{label(node.stage)}: {said}"
        parts.append(self.style(cut(said, max(1, columns - used), self.signs.more), style))
        return "".join(parts).rstrip()


def lines(board: Board, look: Look, now: float) -> list[str]:
    """The board as a terminal shows it now."""
    return View(board, look, now).lines()
