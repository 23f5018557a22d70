#!/usr/bin/env python3
"""Play the fault lab and print how good the diagnosis is: the tests' own verdicts, counted.

Use: ``python tests/bench/diagnosis.py [--node NAME ...] [--json FILE]`` with the lab up. Every node's faults
(tests/faults) run in a process of their own, at most three at a time. It fails when one of the tests fails.

How each number is taken:

* named first, in the top three: by the ranked causes of the diagnosis of a single fault.
* both named: of the diagnosis of two faults at once.
* repaired: the cause is gone after a run, for the faults that the table calls safe or reboot.
* false alarms: diagnoses of converged nodes that name any cause.
* seconds: around ``ansible-playbook playbooks/diagnose.yml`` (connection, observation, probes, plan, report),
  around ``gpuready diagnose`` for texts, and of the reasoning alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

import faulttable
from kit import ROOT

AT_ONCE = 3
Row = dict[str, Any]


def play(node: str, folder: Path) -> tuple[int, list[Row]]:
    """One node's faults, in a pytest of their own."""
    results = folder / f"{node}.jsonl"
    command = [sys.executable, "-m", "pytest", "-v", "-m", "lab", "tests/faults", f"--fault-node={node}"]
    command += [f"--fault-results={results}", f"--basetemp={folder / node}", "-p", "no:cacheprovider"]
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(f"$ pytest tests/faults --fault-node={node}\n{done.stdout}", end="")
    print(f"({node}: {time.monotonic() - started:.0f} s)", flush=True)
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return done.returncode, [json.loads(line) for line in lines]


def share(part: int, whole: int) -> str:
    """``41 of 42 (98 %)``."""
    return f"{part} of {whole} ({100 * part // whole} %)" if whole else "none"


def seconds(values: Iterable[float]) -> str:
    """The middle one, and the longest."""
    known = sorted(values)
    if not known:
        return "not measured"
    return f"{statistics.median(known):.2f} in the middle, {known[-1]:.2f} at most"


def table(rows: Sequence[Row]) -> str:
    """The benchmark's table."""
    of = {
        kind: [row for row in rows if row["kind"] == kind] for kind in ("single", "pair", "repair", "healthy")
    }
    single, pair, healthy = of["single"], of["pair"], of["healthy"]
    live = [row for row in single if not row["recorded"]]
    on_nodes = [row["seconds"] for row in live + pair + healthy]
    # A fault that was repaired in a group and alone counts once.
    repaired = {row["id"]: bool(row["repaired"]) for row in of["repair"]}
    both = sum(set(row["expected"]) <= set(row["named"]) for row in pair)
    lines = [
        ("faults injected", f"{len(live)}, and {len(single) - len(live)} recorded"),
        ("root cause named first", share(sum(row["first"] for row in single), len(single))),
        ("root cause in the top three", share(sum(row["top_three"] for row in single), len(single))),
        ("pairs injected, both named", share(both, len(pair))),
        ("repaired by a run of site.yml", share(sum(repaired.values()), len(repaired))),
        ("false alarms on healthy nodes", share(sum(bool(row["named"]) for row in healthy), len(healthy))),
        ("seconds per diagnosis of a node", seconds(on_nodes)),
        ("seconds per diagnosis of a text", seconds(row["seconds"] for row in single if row["recorded"])),
        ("seconds of the reasoning alone", seconds(row["engine_seconds"] for row in single + pair + healthy)),
    ]
    width = max(len(name) for name, _ in lines)
    missed = [
        f"  {row['id']}: not {' and '.join(row['expected'])}, but {', '.join(row['named'][:3]) or 'nothing'}"
        for row in single + pair
        if (not row["first"] if row["kind"] == "single" else not set(row["expected"]) <= set(row["named"]))
    ]
    text = [f"{name:<{width}}  {value}" for name, value in lines]
    return "\n".join([*text, *(["missed:", *missed] if missed else [])])


def main() -> int:
    """Play every node and print the table."""
    nodes = [*faulttable.load().nodes, faulttable.TEXT]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--node", action="append", choices=nodes, help="only the faults of this node")
    parser.add_argument("--leave-out", action="append", default=[], choices=nodes, help="not this node's")
    parser.add_argument("--json", type=Path, help="also write all rows to this file")
    options = parser.parse_args()
    wanted = [node for node in options.node or nodes if node not in options.leave_out]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        played = list(pool.map(lambda node: play(node, Path(folder)), wanted))
    rows = [row for _code, node_rows in played for row in node_rows]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"\n{table(rows)}\n({time.monotonic() - started:.0f} s)")
    return max(code for code, _rows in played)


if __name__ == "__main__":
    sys.exit(main())
