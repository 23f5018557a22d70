#!/usr/bin/env python3
"""Run everything that CI runs, in order, and say how long each step took.

A failing step does not hide the ones behind it, unless they need what it should have built (the lab).
Use: ``python tests/run_all.py [STEP ...]``; without a name, all steps run. ``--list`` names them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"


@dataclass(frozen=True)
class Step:
    """One step: a name, its commands, and whether it needs the running lab."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    needs_lab: bool = False
    gate: bool = False  # what follows with needs_lab is pointless when this fails
    at_once: int = 1  # how many of the commands run at the same time; each one's output comes when it is done


PYTHON = str(BIN / "python")
PYTEST = (PYTHON, "-m", "pytest")
# One pytest each: files of the same name in two of these are no clash then.
UNIT_PATHS = (
    "collections/ansible_collections/gpuready/node/tests/unit",
    "tests/kit",
    "tests/policy",
    "tests/lab/simulator",
    "tests/lab/unit",
    "tests/faults",
)

# The driver's whole life: mostly waiting for nodes, so more at once than cores. The longest first.
LIFE = ("paths", "switch", "blocked", "interrupted", "kernel", "pains", "remove", "mismatch")

STEPS = (
    Step(
        "lint",
        (
            (str(BIN / "ruff"), "check", "."),
            (str(BIN / "ruff"), "format", "--check", "."),
            (str(BIN / "mypy"),),
            (str(BIN / "yamllint"), "--strict", "."),
            (str(BIN / "ansible-lint"), "--offline"),
        ),
    ),
    # As many workers as cores; a file's tests stay together, since they share what they set up.
    Step(
        "unit",
        tuple(
            (*PYTEST, "-q", "-n", "auto", "--dist", "loadfile", "-m", "not lab and not gpu", path)
            for path in UNIT_PATHS
        ),
    ),
    Step("hardware", ((*PYTEST, "-q", "-m", "gpu", "tests/hardware"),)),
    Step("lab", ((PYTHON, "tests/lab/labctl", "up", "--bare"),), gate=True),
    Step("e2e", ((*PYTEST, "-v", "-m", "lab", "tests/e2e"),), needs_lab=True),
    Step(
        "host",
        (
            (
                *PYTEST,
                "-q",
                "tests/host",
                "--hosts=ansible://gpu_nodes",
                "--ansible-inventory=inventories/lab",
            ),
        ),
        needs_lab=True,
    ),
    Step("tamper", ((*PYTEST, "-v", "-m", "lab", "tests/tamper"),), needs_lab=True),
    # Three nodes' faults at a time, each in a pytest of its own; it ends with the benchmark's table. The node
    # that plays pairs only is left to `make bench-diagnosis`: the others play pairs as well.
    Step("faults", ((PYTHON, "tests/bench/diagnosis.py", "--leave-out", "pairs"),), needs_lab=True),
    Step(
        "life",
        tuple((*PYTEST, "-v", "-m", "lab", f"tests/life/test_{name}.py") for name in LIFE),
        needs_lab=True,
        at_once=4,
    ),
    Step("molecule", ((PYTHON, "tests/molecule_all.py"),), needs_lab=True),
)


def run(step: Step, environment: dict[str, str]) -> int:
    """Run the step's commands; all of them, so that one lint does not hide the next."""

    def one(command: tuple[str, ...]) -> int:
        started = time.monotonic()
        apart = step.at_once > 1
        if not apart:
            print("$", Path(command[0]).name, *command[1:], flush=True)
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            check=False,
            stdout=subprocess.PIPE if apart else None,
            stderr=subprocess.STDOUT if apart else None,
            text=True,
        )
        if apart:
            words = f"$ {Path(command[0]).name} {' '.join(command[1:])}"
            print(f"{words}\n{done.stdout}({time.monotonic() - started:.0f} s)", flush=True)
        return abs(done.returncode)

    with ThreadPoolExecutor(max_workers=step.at_once) as pool:
        return max(pool.map(one, step.commands))


def main() -> int:
    """Run the wanted steps and print a table of what passed and how long it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", help="names of steps; all when none is given")
    parser.add_argument("--list", action="store_true", help="name the steps and stop")
    options = parser.parse_args()
    names = [step.name for step in STEPS]
    if options.list:
        print("\n".join(names))
        return 0
    unknown = [name for name in options.steps if name not in names]
    if unknown:
        parser.error(f"no such step: {', '.join(unknown)}; there are {', '.join(names)}")
    wanted = [step for step in STEPS if not options.steps or step.name in options.steps]
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ.get('PATH', '')}", "PYTHONUNBUFFERED": "1"}
    results: list[tuple[str, str, float]] = []
    lab_failed = False
    for number, step in enumerate(wanted, 1):
        if step.needs_lab and lab_failed:
            results.append((step.name, "not run: no lab", 0.0))
            continue
        print(f"\n=== [{number}/{len(wanted)}] {step.name}", flush=True)
        started = time.monotonic()
        code = run(step, environment)
        seconds = time.monotonic() - started
        results.append((step.name, "ok" if code == 0 else f"FAILED ({code})", seconds))
        print(f"=== {step.name}: {results[-1][1]} after {seconds:.0f} s", flush=True)
        lab_failed = lab_failed or (step.gate and code != 0)
    failed = sum(verdict != "ok" for _name, verdict, _seconds in results)
    print(f"\n{'step':<12} {'verdict':<18} seconds")
    for name, verdict, seconds in results:
        print(f"{name:<12} {verdict:<18} {seconds:7.0f}")
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
