"""Steps that depend on each other, run side by side, with a line for each."""

from __future__ import annotations

import contextvars
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from .errors import LabError
from .shell import current_log

HEARTBEAT_SECONDS = 15.0


@dataclass
class Step:
    """One piece of work; `work` returns a word on what it did ("reused", "3 packages") or None."""

    key: str
    title: str
    work: Callable[[], str | None]
    needs: tuple[str, ...] = ()
    number: int = 0
    started: float = 0.0
    seconds: float = 0.0
    log: Path | None = None


@dataclass
class Board:
    """What the user sees."""

    total: int
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    running: dict[str, Step] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    drawn: bool = False

    def tty(self) -> bool:
        """Whether a line can be redrawn."""
        return self.stream.isatty()

    def line(self, text: str) -> None:
        """Print a whole line, above the status line if there is one."""
        with self.lock:
            if self.drawn:
                self.stream.write("\r\x1b[K")
                self.drawn = False
            self.stream.write(text + "\n")
            self.stream.flush()

    def beat(self, now: float) -> None:
        """Say what is going on: a redrawn line on a terminal, a new line elsewhere."""
        steps = sorted(self.running.values(), key=lambda step: step.number)
        if not steps:
            return
        if self.tty():
            parts = [
                f"[{step.number}/{self.total}] {step.title} … {now - step.started:.0f} s" for step in steps
            ]
            with self.lock:
                self.stream.write("\r\x1b[K" + "   ".join(parts)[:160])
                self.stream.flush()
                self.drawn = True
            return
        for step in steps:
            hint = last_line(step.log)
            self.line(
                f"[{step.number}/{self.total}] {step.title} … still running, {now - step.started:.0f} s"
                + (f" ({hint})" if hint else "")
            )


def last_line(log: Path | None, width: int = 70) -> str:
    """The last readable line of a log, cut to fit."""
    if log is None or not log.exists():
        return ""
    with log.open("rb") as source:
        source.seek(0, 2)
        source.seek(max(0, source.tell() - 2000))
        lines = re.split(r"[\r\n]+", source.read().decode(errors="replace").strip())
    return re.sub(r"\s+", " ", lines[-1])[:width]


def run_steps(
    steps: Iterable[Step], *, logs: Path, stream: TextIO | None = None, workers: int = 4
) -> dict[str, float]:
    """Run every step once all it needs are done; the first failure stops what has not begun."""
    todo = list(steps)
    check_graph(todo)
    for number, step in enumerate(todo, 1):
        step.number = number
        step.log = logs / f"{number:02d}-{step.key}.log"
    board = Board(len(todo), stream or sys.stderr)
    logs.mkdir(parents=True, exist_ok=True)
    done: dict[str, float] = {}
    futures: dict[Future[str | None], Step] = {}
    failure: BaseException | None = None
    last_beat = time.monotonic()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        while todo or futures:
            if failure is None:
                for step in [step for step in todo if all(need in done for need in step.needs)]:
                    if len(futures) >= workers:
                        break
                    todo.remove(step)
                    step.started = time.monotonic()
                    board.running[step.key] = step
                    futures[pool.submit(contextvars.Context().run, _work, step)] = step
            finished, _ = wait(futures, timeout=0.2, return_when=FIRST_COMPLETED)
            now = time.monotonic()
            for future in finished:
                step = futures.pop(future)
                del board.running[step.key]
                step.seconds = now - step.started
                place = f"[{step.number}/{board.total}] {step.title} …"
                error = future.exception()
                if error is not None:
                    board.line(f"{place} FAILED after {step.seconds:.0f} s")
                    failure = failure or error
                    continue
                done[step.key] = step.seconds
                word = future.result()
                board.line(f"{place} {step.seconds:.0f} s" + (f" ({word})" if word else ""))
            if failure is not None and not futures:
                break
            if now - last_beat >= (1.0 if board.tty() else HEARTBEAT_SECONDS):
                last_beat = now
                board.beat(now)
    if failure is not None:
        if isinstance(failure, LabError):
            raise failure
        raise RuntimeError("a step of the lab failed") from failure
    return done


def check_graph(steps: list[Step]) -> None:
    """Every need names an earlier step, so the graph has an order."""
    seen: set[str] = set()
    for step in steps:
        missing = [need for need in step.needs if need not in seen]
        if missing:
            raise ValueError(f"step {step.key} needs {missing}, which no earlier step provides")
        seen.add(step.key)


def _work(step: Step) -> str | None:
    if step.log is not None:
        step.log.unlink(missing_ok=True)
        current_log.set(step.log)
    return step.work()
