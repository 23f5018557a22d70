"""What a run of ansible-playbook costs, taken from outside: wall, processor time, memory, SSH commands.

Processor time is that of ansible-playbook and all that it started, the SSH clients included, as the kernel
accounts it when they end. What stays behind on purpose, an SSH client that keeps a connection open for the
next task, is asked for its own time before it is ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kit import BIN, ROOT

#: Between two looks at how much memory all processes of a run have.
LOOK_SECONDS = 0.5
#: How a module reaches a node.
MODULE = re.compile(r"/python3?[\d.]*['\"]*\s*&& sleep 0|/python3?[\d.]* \S*AnsiballZ_")
TICK = os.sysconf("SC_CLK_TCK")

#: In ssh's place: writes down what is asked of which port, and becomes ssh.
SSH = """#!/bin/sh
printf '%s\\0' "$*" >> "$COST_SSH_LOG"
exec ssh "$@"
"""


@dataclass
class Cost:
    """What one run cost."""

    rc: int
    wall: float
    cpu: float
    #: The most memory that all its processes had at once, in MiB; pages that they share are counted once.
    memory_mib: float
    #: SSH commands that ran a module, by the port of the node.
    modules: Counter[int] = field(default_factory=Counter)
    #: All SSH commands, by port.
    commands: Counter[int] = field(default_factory=Counter)
    output: str = ""


class Watch(threading.Thread):
    """The most memory of a process and its descendants."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.session = session
        self.most_kib = 0
        self._over = threading.Event()

    def run(self) -> None:
        """Look again and again."""
        while not self._over.wait(LOOK_SECONDS):
            self.most_kib = max(self.most_kib, sum(pss(pid) for pid in session_members(self.session)))

    def end(self) -> float:
        """Stop looking; MiB."""
        self._over.set()
        self.join()
        return self.most_kib / 1024


def session_members(session: int) -> list[int]:
    """Every process of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                found.append(int(entry.name))
    return found


def pss(pid: int) -> int:
    """Its memory in KiB, each shared page by its share."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def end_masters(folder: Path) -> float:
    """End the SSH connections that are kept open there; the processor time that they took."""
    used = 0.0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if not command.startswith("ssh: " + str(folder)):
                continue
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            used += (int(fields[11]) + int(fields[12])) / TICK
            os.kill(int(entry.name), signal.SIGTERM)
    return used


def port_of(command: str) -> int | None:
    """Which node an SSH command is for."""
    words = command.split()
    return next((int(word.removeprefix("Port=")) for word in words if word.startswith("Port=")), None)


def runs_module(command: str) -> bool:
    """Whether it runs a module: as the standard input of a python (pipelining), or as a file of its own."""
    return MODULE.search(command) is not None


def measure(
    command: Sequence[str], environment: dict[str, str] | None = None, *, timeout: float = 1800
) -> Cost:
    """Run a command in this repository and take all numbers; every SSH connection is made anew."""
    with tempfile.TemporaryDirectory(prefix="gr-") as name:
        folder = Path(name)
        log, ssh = folder / "ssh.log", folder / "ssh"
        ssh.write_text(SSH)
        ssh.chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        wanted = {
            **kept,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_EXECUTABLE": str(ssh),
            # A connection that an earlier run left open would hide what this one needs.
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "cp"),
            "COST_SSH_LOG": str(log),
            "MOLECULE_PROJECT_DIRECTORY": str(ROOT),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            **(environment or {}),
        }
        with (folder / "output").open("w+b") as output:
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            process = subprocess.Popen(
                list(command),
                cwd=ROOT,
                env=wanted,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            watch = Watch(process.pid)
            watch.start()
            try:
                rc = process.wait(timeout)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
                    process.wait()
            wall = time.monotonic() - started
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            memory = watch.end()
            output.seek(0)
            text = output.read().decode(errors="replace")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime + end_masters(folder)
        cost = Cost(rc, wall, cpu, memory, output=text)
        for said in log.read_text(errors="replace").split("\0") if log.exists() else ():
            port = port_of(said)
            if port is None or "-O" in said.split()[:4]:
                continue
            cost.commands[port] += 1
            cost.modules[port] += runs_module(said)
        return cost


def playbook(
    name: str, *arguments: str, environment: dict[str, str] | None = None, timeout: float = 1800
) -> Cost:
    """One run of a playbook."""
    return measure([str(BIN / "ansible-playbook"), name, *arguments], environment, timeout=timeout)


def table(rows: list[list[str]]) -> str:
    """The cells, aligned; numbers to the right."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if n and cell[:1].isdigit() else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def say(text: str) -> None:
    """Progress, beside the numbers."""
    print(text, file=sys.stderr, flush=True)
