#!/usr/bin/env python3
"""Plan for a fleet of recorded nodes and print how long the planner takes. No lab, no Ansible, no node.

Use: ``python tests/bench/plan_many.py [--nodes 10000] [--processes 1,2] [--json FILE]``.

The nodes are the recorded observations of ``tests/fixtures/observed``, each with a kernel, a driver version
and addresses of its own, so that no two are alike. Every one is planned for itself; nothing is remembered
from one to the next. Measured is planning alone: the nodes are in memory, as after a run that observed them.

* wall: from the first process's start to the last one's end.
* cpu: processor time of all processes together. On a machine that does something else as well, this is the
  number.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpuready.catalog import load_catalog
from gpuready.planner import plan
from kit import recorded


@dataclass
class Share:
    """What one process did."""

    started: float
    ended: float
    cpu: float
    statuses: dict[str, int]


@dataclass
class Measured:
    """All processes together."""

    nodes: int
    processes: int
    wall: float
    cpu: float
    statuses: dict[str, int]


def plan_share(first: int, count: int, barrier: Any, answers: Any) -> None:
    """Plan for some of the nodes."""
    fleet = list(recorded.nodes(count, first))
    catalog = load_catalog()
    if fleet:  # the catalog's own work is done once
        plan(fleet[0], {}, catalog, host="first", today=recorded.TODAY)
    # A fleet in memory is not the planner's garbage.
    gc.collect()
    gc.freeze()
    barrier.wait()
    statuses: Counter[str] = Counter()
    started, before = time.monotonic(), time.process_time()
    for node in fleet:
        result = plan(node, {}, catalog, host=node["host"]["hostname"], today=recorded.TODAY)
        statuses[result["status"]] += 1
    answers.put(Share(started, time.monotonic(), time.process_time() - before, dict(statuses)))


def measure(nodes: int, processes: int) -> Measured:
    """Plan for all of them, in so many processes."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(processes), context.Queue()
    bounds = [nodes * n // processes for n in range(processes + 1)]
    workers = [
        context.Process(target=plan_share, args=(low, high - low, barrier, answers))
        for low, high in itertools.pairwise(bounds)
    ]
    for worker in workers:
        worker.start()
    shares = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    statuses: Counter[str] = Counter()
    for share in shares:
        statuses.update(share.statuses)
    wall = max(share.ended for share in shares) - min(share.started for share in shares)
    return Measured(nodes, processes, wall, sum(share.cpu for share in shares), dict(statuses))


def table(rows: list[Measured]) -> str:
    """The numbers, aligned."""
    lines = [f"{'nodes':>8}  {'processes':>9}  {'wall s':>7}  {'cpu s':>7}  {'ms each':>8}  plans"]
    for row in rows:
        plans = ", ".join(f"{count} {status}" for status, count in sorted(row.statuses.items()))
        each = 1000 * row.cpu / row.nodes
        lines.append(
            f"{row.nodes:>8}  {row.processes:>9}  {row.wall:>7.2f}  {row.cpu:>7.2f}  {each:>8.3f}  {plans}"
        )
    return "\n".join(lines)


def main() -> int:
    """Plan, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument(
        "--processes", default=f"1,{os.cpu_count()}", help="numbers of processes (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    wanted = dict.fromkeys(int(word) for word in options.processes.split(","))
    rows = [measure(options.nodes, count) for count in wanted]
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
