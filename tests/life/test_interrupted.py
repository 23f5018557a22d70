"""A run that is killed between any two tasks: the next one converges, and a removal gives the node back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from kit.nodes import labctl
from living import Living

JOBS = 2


def test_run_that_is_cut_off_after_any_change_is_finished_by_the_next(new: Callable[..., Living]) -> None:
    pool = [new(gpus="t4") for _ in range(JOBS)]
    whole = pool[0].converge(nvidia_driver_branch="570")
    changes = whole.changed(pool[0].name)
    assert changes >= 4, "sources, packages, holds, modules: each is a task of its own"
    tasks = whole.node(pool[0].name)["changed_tasks"]

    def cut(living: Living, after: int) -> list[str]:
        labctl("node-reset", living.name)
        before = living.node.fingerprint().lasting()
        run = living.play(cut=after, nvidia_driver_branch="570")
        if run.rc != -1:
            return [f"after {after} changes the run was not cut off but ended with {run.rc}: {run.output}"]
        where = f"cut off after {tasks[after - 1]!r}"
        troubles = []
        if after % 2:
            # An odd one is taken away as it is; the others are finished first.
            removed = living.play(entry_point="remove")
            troubles += [f"{where}: remove failed: {removed.output}"] if removed.rc else []
            left = before.differences(living.node.fingerprint().lasting())
            troubles += [f"{where}, removed: {line}" for line in left]
        try:
            living.converge(nvidia_driver_branch="570")
            living.is_settled(nvidia_driver_branch="570")
        except AssertionError as error:
            troubles.append(f"{where}: {error}")
        return troubles

    def work(number: int) -> list[str]:
        return [line for after in range(1 + number, changes, JOBS) for line in cut(pool[number], after)]

    with ThreadPoolExecutor(max_workers=JOBS) as threads:
        troubles = [line for lines in threads.map(work, range(JOBS)) for line in lines]
    assert troubles == []
