"""Runs of a small playbook on a terminal that keeps what it shows, and without one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
from kit.terminal import Shown, watch

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
        return watch(
            [PLAYBOOK, "play.yml", *words],
            cwd=self.folder,
            environ=self.environment(callback, **(environ or {})),
            columns=columns,
            rows=rows,
            during=during,
            timeout=timeout,
        )
