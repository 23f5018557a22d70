#!/usr/bin/env python3
"""Run every molecule scenario, two at a time, and say which steps ran, how long they took and what failed.

Use: ``python tests/molecule_all.py [SCENARIO ...] [--jobs N]``. Each scenario's full output is kept in
``artifacts/molecule/<scenario>.log``; a failed one's end is printed. Nodes are removed whatever happens.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LOGS = ROOT / "artifacts" / "molecule"
# The long ones first, so that the short ones fill the other half of the machine.
LONGEST_FIRST = ("gpu_workbench", "site", "framework_image", "gpu_verify", "refusals")
STEP = re.compile(r"\[\w+ > ([a-z_]+)\] Executing$")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
LIMIT_SECONDS = 1800


@dataclass
class Result:
    """What became of one scenario."""

    name: str
    ok: bool = False
    seconds: float = 0.0
    steps: list[tuple[str, float]] = field(default_factory=list)
    log: Path = LOGS


class Teller:
    """Prints whole lines from several threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """Print the text after the time since the start."""
        with self.lock:
            print(f"[{time.monotonic() - self.started:5.0f} s] {text}", flush=True)


def scenarios() -> list[str]:
    """Every scenario of the repository, the longest first."""
    names = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))
    return sorted(
        names, key=lambda name: LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)
    )


def environment() -> dict[str, str]:
    """The tools of this environment come first; molecule's own colours and ours stay out of the logs."""
    wanted = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ.get('PATH', '')}",
        "NO_COLOR": "1",
        "ANSIBLE_NOCOLOR": "1",
        "MOLECULE_COMMAND_BORDERS": "0",
        "PYTHONUNBUFFERED": "1",
    }
    for name in ("FORCE_COLOR", "PY_COLORS", "ANSIBLE_FORCE_COLOR"):
        wanted.pop(name, None)
    return wanted


def molecule(*arguments: str) -> list[str]:
    """Molecule's command line."""
    return [str(BIN / "molecule"), *arguments]


def run(name: str, teller: Teller) -> Result:
    """Run one scenario's whole sequence and note when each step began."""
    result = Result(name, log=LOGS / f"{name}.log")
    started = time.monotonic()
    begun: tuple[str, float] | None = None
    with result.log.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            molecule("test", "--destroy=always", "-s", name),
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        watchdog = threading.Timer(LIMIT_SECONDS, process.terminate)
        watchdog.start()
        assert process.stdout is not None
        for line in process.stdout:
            log.write(ANSI.sub("", line))
            log.flush()
            if match := STEP.search(ANSI.sub("", line)):
                now = time.monotonic()
                if begun:
                    result.steps.append((begun[0], now - begun[1]))
                begun = (match.group(1), now)
                teller.say(f"{name}: {match.group(1)}")
        code = process.wait()
        watchdog.cancel()
    now = time.monotonic()
    if begun:
        result.steps.append((begun[0], now - begun[1]))
    result.seconds = now - started
    result.ok = code == 0
    if not result.ok:
        clean_up(name)
    verdict = "ok" if result.ok else f"FAILED ({code}), see {result.log.relative_to(ROOT)}"
    teller.say(f"{name}: {verdict}, {result.seconds:.0f} s")
    return result


def clean_up(name: str) -> None:
    """Remove what a scenario that was cut off may have left; molecule's own removal is safe to repeat."""
    with (LOGS / f"{name}.log").open("a", encoding="utf-8") as log:
        for action in ("destroy", "reset"):
            subprocess.run(
                molecule(action, "-s", name), cwd=ROOT, env=environment(), stdout=log, stderr=log, check=False
            )


def failure(path: Path, lines: int = 70) -> str:
    """The end of a log, or what stands above the point where molecule gave up and began to clean up."""
    text = path.read_text(encoding="utf-8").splitlines()
    end = next((i for i, line in enumerate(text) if "An error occurred during the test" in line), len(text))
    return "\n".join(text[max(0, end - lines) : end])


def main() -> int:
    """Run the wanted scenarios and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", help="names; all when none is given")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    parser.add_argument("--list", action="store_true", help="name the scenarios and stop")
    options = parser.parse_args()
    known = scenarios()
    if options.list:
        print("\n".join(known))
        return 0
    if unknown := [name for name in options.scenarios if name not in known]:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(known)}")
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    teller = Teller()
    wanted = options.scenarios or known
    try:
        with ThreadPoolExecutor(max_workers=max(1, options.jobs)) as pool:
            results = list(pool.map(lambda name: run(name, teller), wanted))
    except KeyboardInterrupt:
        for name in wanted:
            with contextlib.suppress(OSError):
                clean_up(name)
        raise
    for result in results:
        if not result.ok:
            print(f"\n=== where {result.log.relative_to(ROOT)} fails\n{failure(result.log)}")
    print(f"\n{'scenario':<26} {'verdict':<8} {'seconds':>7}  steps")
    for result in results:
        steps = " ".join(f"{name} {seconds:.0f}" for name, seconds in result.steps)
        print(f"{result.name:<26} {'ok' if result.ok else 'FAILED':<8} {result.seconds:7.0f}  {steps}")
    failed = sum(not result.ok for result in results)
    teller.say(f"{len(results) - failed} scenarios passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
