"""Runs of a small playbook on a terminal that keeps what it shows, and without one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pexpect
import pyte

COLLECTIONS = Path(__file__).resolve().parents[6]
PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))

INVENTORY = """\
all:
  vars: {ansible_connection: local, ansible_python_interpreter: "PYTHON"}
  hosts: {gpu01: , gpu02: }
"""
CONFIGURATION = """\
[defaults]
inventory = inventory.yml
forks = 1
display_skipped_hosts = false
callback_result_format = yaml
retry_files_enabled = false
localhost_warning = false
"""
ROLE = """\
- name: Install the driver's packages
  ansible.builtin.raw: sleep {{ nap | default(0) }}
  changed_when: true

- name: Load the driver
  ansible.builtin.raw: sleep {{ nap | default(0) }}
  changed_when: false
"""


@dataclass
class Shown:
    """What a terminal was made to show."""

    columns: int
    rows: int
    raw: bytes = b""
    status: int | None = None
    screens: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.screen = pyte.HistoryScreen(self.columns, self.rows, history=5000)
        self.stream = pyte.ByteStream(self.screen)

    def feed(self, data: bytes) -> None:
        self.raw += data
        self.stream.feed(data)
        self.screens.append(self.lines)

    @property
    def lines(self) -> list[str]:
        """What is on the screen now."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def everything(self) -> list[str]:
        """What scrolled away, and what is on the screen."""
        above = [
            "".join(line[column].data for column in range(self.columns)).rstrip()
            for line in self.screen.history.top
        ]
        return above + self.lines

    @property
    def text(self) -> str:
        return "\n".join(self.everything).rstrip() + "\n"

    def ever(self, pattern: str) -> bool:
        """Whether a screen ever had a line like this."""
        return any(re.search(pattern, line) for screen in self.screens for line in screen)


class Terminal:
    """A project folder and a way to play in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "inventory.yml").write_text(INVENTORY.replace("PYTHON", sys.executable))
        (folder / "ansible.cfg").write_text(CONFIGURATION)
        tasks = folder / "roles/nvidia_driver/tasks"
        tasks.mkdir(parents=True)
        (tasks / "main.yml").write_text(ROLE)

    def write(self, playbook: str) -> None:
        (self.folder / "play.yml").write_text(playbook)

    def environment(self, callback: str, **more: str) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("ANSIBLE_", "GPUREADY_"))
            and key not in ("CI", "NO_COLOR", "COLUMNS", "LINES")
        }
        return {
            **kept,
            "LC_ALL": "C.UTF-8",
            # --list-hosts lists a set.
            "PYTHONHASHSEED": "0",
            "TERM": "xterm-256color",
            "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_STDOUT_CALLBACK": callback,
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
            **more,
        }

    def piped(self, callback: str, *words: str, **environ: str) -> tuple[int, str, str]:
        """Without a terminal: status, what was written, and what was written to the error channel."""
        ran = subprocess.run(
            [PLAYBOOK, "play.yml", *words],
            cwd=self.folder,
            env=self.environment(callback, **environ),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return ran.returncode, ran.stdout, ran.stderr

    def shown(
        self,
        *words: str,
        columns: int = 120,
        rows: int = 30,
        callback: str = "gpuready.node.board",
        during: Callable[[pexpect.spawn, Shown], None] | None = None,
        environ: dict[str, str] | None = None,
        timeout: float = 90,
    ) -> Shown:
        """On a terminal. ``during`` is called whenever something was shown, until the run ends."""
        seen = Shown(columns, rows)
        child = pexpect.spawn(
            PLAYBOOK,
            ["play.yml", *words],
            cwd=str(self.folder),
            env=self.environment(callback, **(environ or {})),
            dimensions=(rows, columns),
            timeout=timeout,
        )
        end = time.monotonic() + timeout
        try:
            while time.monotonic() < end:
                try:
                    seen.feed(child.read_nonblocking(65536, timeout=0.2))
                except pexpect.TIMEOUT:
                    pass
                except pexpect.EOF:
                    break
                if during is not None:
                    during(child, seen)
            else:
                raise AssertionError("it did not end:\n" + seen.text)
        finally:
            child.close(force=True)
        seen.status = child.exitstatus
        return seen
