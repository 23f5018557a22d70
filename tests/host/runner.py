"""Run the repository's playbooks as a person would, and read what came of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One finished run."""

    code: int
    output: str
    seconds: float

    @property
    def text(self) -> str:
        """The output in one line, so that an expected sentence is found however it was wrapped."""
        return " ".join(self.output.split())

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """The counts of the play recap, by host."""
        names = ("ok", "changed", "unreachable", "failed")
        return {
            row[0]: dict(zip(names, map(int, row[1:]), strict=True)) for row in RECAP.findall(self.output)
        }


def ansible(*command: str, timeout: int = 900) -> Run:
    """Run an Ansible program with the repository's own configuration."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "PATH": f"{BIN}:{os.environ.get('PATH', '')}",
    }
    started = time.monotonic()
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Run(done.returncode, done.stdout + done.stderr, time.monotonic() - started)


def playbook(
    name: str,
    inventory: str | Path,
    *,
    limit: str = "",
    variables: dict[str, Any] | None = None,
    check: bool = False,
    timeout: int = 900,
) -> Run:
    """Run one of the repository's playbooks on an inventory."""
    command = ["ansible-playbook", name, "-i", str(inventory)]
    if check:
        command += ["--check", "--diff"]
    if limit:
        command += ["--limit", limit]
    if variables:
        command += ["--extra-vars", json.dumps(variables)]
    return ansible(*command, timeout=timeout)


def plan(inventory: str | Path, node: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    """Observe one node and plan; nothing is applied. Returns the module's whole result."""
    with tempfile.TemporaryDirectory() as tree:
        command = [
            "ansible",
            node,
            "-i",
            str(inventory),
            "-b",
            "-m",
            "gpuready.node.gpu_plan",
            "--tree",
            tree,
        ]
        if variables:
            command += ["--extra-vars", json.dumps(variables)]
        run = ansible(*command)
        answer = Path(tree, node)
        assert answer.exists(), run.output
        result = json.loads(answer.read_text(encoding="utf-8"))
    assert "plan" in result, run.output
    return result


def action_ids(result: dict[str, Any]) -> list[str]:
    """The ids of the planned actions, in order."""
    return [action["id"] for action in result["plan"]["actions"]]


def conflict_ids(result: dict[str, Any]) -> list[str]:
    """The ids of the planned conflicts, in order."""
    return [conflict["id"] for conflict in result["plan"]["conflicts"]]
