#!/usr/bin/env python3
"""Run everything that CI runs, in order, and say how long each step took.

Steps that mostly wait, for nodes that are not each other's, run at the same time; their lines then begin
with their names. A failing step does not hide the ones behind it, unless they need what it should have built
(the lab).
Use: ``python tests/run_all.py [STEP ...]``; without a name, all steps run. ``--list`` names them.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
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
    at_once: int = 1  # how many of the commands run at the same time; each one's output comes in one piece
    beside: bool = False  # runs at the same time as the step before it


#: What failed, in few lines; .ci/run ends with it.
GIST = ROOT / "artifacts" / "failures.txt"
#: pytest's short summary, Ansible's failed tasks, molecule's failed scenarios.
TELLING = re.compile(r"^(FAILED|ERROR) \S|fatal: \[|: FAILED \(")

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
    "tests/monitoring",
    "tests/report",
)

# Everything above the frameworks at once, on a node of its own.
WORKBENCH = "tests/e2e/test_workbench.py"

# Onboarding, upgrades, execution nodes, the live board: several at a time, since each has its own nodes.
FLEET = tuple(f"tests/e2e/test_{name}.py" for name in ("onboard", "upgrade", "distribute", "board"))

# The driver's whole life: mostly waiting for nodes, so more at once than cores. The longest first.
LIFE = ("paths", "switch", "blocked", "interrupted", "kernel", "pains", "remove", "mismatch")

STEPS = (
    # Chromium and Prometheus, which unit tests want as well.
    Step("tools", ((PYTHON, "tests/lab/labctl", "tools"),)),
    Step(
        "lint",
        (
            (str(BIN / "ruff"), "check", "."),
            (str(BIN / "ruff"), "format", "--check", "."),
            (str(BIN / "mypy"),),
            (str(BIN / "yamllint"), "--strict", "."),
            (str(BIN / "ansible-lint"), "--offline"),
        ),
        at_once=2,
        beside=True,
    ),
    # As many workers as cores; a file's tests stay together, since they share what they set up.
    Step(
        "unit",
        tuple(
            (*PYTEST, "-q", "-n", "auto", "--dist", "loadfile", "-m", "not lab and not gpu", path)
            for path in UNIT_PATHS
        ),
    ),
    # It fetches and unpacks packages for a good part of its time.
    Step("lab", ((PYTHON, "tests/lab/labctl", "up", "--bare"),), gate=True, beside=True),
    Step("hardware", ((*PYTEST, "-q", "-m", "gpu", "tests/hardware"),)),
    Step(
        "e2e",
        ((*PYTEST, "-v", "-m", "lab", *(f"--ignore={path}" for path in (WORKBENCH, *FLEET)), "tests/e2e"),),
        needs_lab=True,
    ),
    Step("monitoring", ((*PYTEST, "-v", "-m", "lab", "tests/monitoring"),), needs_lab=True, beside=True),
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
    # Beside what has nodes of its own: it damages one of the default nodes, too.
    Step("tamper", ((*PYTEST, "-v", "-m", "lab", "tests/tamper"),), needs_lab=True),
    Step("molecule", ((PYTHON, "tests/molecule_all.py"),), needs_lab=True, beside=True),
    # Three nodes' faults at a time, each in a pytest of its own; it ends with the benchmark's table. The node
    # that plays pairs only is left to `make bench-diagnosis`: the others play pairs as well.
    Step("faults", ((PYTHON, "tests/bench/diagnosis.py", "--leave-out", "pairs"),), needs_lab=True),
    Step("workbench", ((*PYTEST, "-v", "-m", "lab", WORKBENCH),), needs_lab=True, beside=True),
    Step(
        "fleet",
        tuple((*PYTEST, "-v", "-m", "lab", path) for path in FLEET),
        needs_lab=True,
        at_once=3,
    ),
    Step(
        "life",
        tuple((*PYTEST, "-v", "-m", "lab", f"tests/life/test_{name}.py") for name in LIFE),
        needs_lab=True,
        at_once=4,
    ),
)


def gist(output: Iterable[str], lines: int = 8) -> list[str]:
    """What a failed command's output says in few lines: the tests and tasks that failed, else its end."""
    said = [line for line in output if line.strip()]
    telling = list(dict.fromkeys(line.strip() for line in said if TELLING.search(line)))
    return [line[:180] for line in (telling[:lines] or said[-3:])]


def run(step: Step, environment: dict[str, str], *, alone: bool) -> list[str]:
    """Run all of the step's commands, so that one lint does not hide the next; what failed, in few lines."""

    def one(command: tuple[str, ...]) -> list[str]:
        started = time.monotonic()
        words = f"$ {Path(command[0]).name} {' '.join(command[1:])}"
        # Several at once, and nothing else: each one's output comes in one piece.
        gather = alone and step.at_once > 1
        lines = []
        if not gather:
            print(words if alone else f"{step.name} | {words}", flush=True)
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                if not gather:
                    print(lines[-1] if alone else f"{step.name} | {lines[-1]}", flush=True)
        if gather:
            print("\n".join([words, *lines, f"({time.monotonic() - started:.0f} s)"]), flush=True)
        if not process.returncode:
            return []
        ended = f"{step.name}: {words} ended with {process.returncode}"
        return [ended, *(f"  {line}" for line in gist(lines))]

    with ThreadPoolExecutor(max_workers=step.at_once) as pool:
        return [line for failure in pool.map(one, step.commands) for line in failure]


def groups(steps: Iterable[Step]) -> list[list[Step]]:
    """Which steps run at the same time."""
    found: list[list[Step]] = []
    for step in steps:
        if step.beside and found:
            found[-1].append(step)
        else:
            found.append([step])
    return found


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
    failures: list[str] = []
    GIST.parent.mkdir(exist_ok=True)
    GIST.write_text("", encoding="utf-8")
    started_all = time.monotonic()
    lab_failed = False

    def play(step: Step, *, alone: bool) -> tuple[str, str, float]:
        started = time.monotonic()
        failed = run(step, environment, alone=alone)
        failures.extend(failed)
        seconds = time.monotonic() - started
        verdict = "FAILED" if failed else "ok"
        print(f"=== {step.name}: {verdict} after {seconds:.0f} s", flush=True)
        return step.name, verdict, seconds

    for group in groups(wanted):
        playing = [step for step in group if not (step.needs_lab and lab_failed)]
        results += [(step.name, "not run: no lab", 0.0) for step in group if step not in playing]
        if not playing:
            continue
        place = " ".join(f"[{wanted.index(step) + 1}/{len(wanted)}] {step.name}" for step in playing)
        print(f"\n=== {place}", flush=True)
        with ThreadPoolExecutor(max_workers=len(playing)) as pool:
            alone = len(playing) == 1
            done = list(pool.map(functools.partial(play, alone=alone), playing))
        results += done
        gates = {step.name for step in playing if step.gate}
        lab_failed = lab_failed or any(name in gates and verdict != "ok" for name, verdict, _ in done)
    failed = sum(verdict != "ok" for _name, verdict, _seconds in results)
    print(f"\n{'step':<12} {'verdict':<18} seconds")
    for name, verdict, seconds in results:
        print(f"{name:<12} {verdict:<18} {seconds:7.0f}")
    print(f"{len(results) - failed} passed, {failed} failed; {time.monotonic() - started_all:.0f} s in all")
    GIST.write_text("".join(f"{line}\n" for line in failures), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
