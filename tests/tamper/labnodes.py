"""The lab's nodes as the tamper suite uses them: how to reach one as root, and which inventory knows it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import testinfra

ROOT = Path(__file__).resolve().parents[2]
LABCTL = ROOT / "tests" / "lab" / "labctl"
LAB = ROOT / "inventories" / "lab"


def labctl(*arguments: str) -> str:
    """Run one verb of the lab."""
    done = subprocess.run(
        [sys.executable, str(LABCTL), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"labctl {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def running_nodes() -> dict[str, dict[str, Any]]:
    """How to reach every node that runs, by name."""
    return {n["name"]: n for n in json.loads(labctl("status", "--json"))["nodes"] if n["running"]}


@dataclass(frozen=True)
class Node:
    """A node of the lab."""

    name: str
    inventory: Path
    shell: Any  # a testinfra host with root's rights

    def run(self, command: str) -> str:
        """Run a shell command as root; it must succeed."""
        done = self.shell.run(command)
        assert done.rc == 0, f"{command}\n{done.stdout}{done.stderr}"
        return str(done.stdout)


def reach(connection: dict[str, Any], inventory: Path) -> Node:
    """The node behind labctl's answer."""
    options = (
        "StrictHostKeyChecking=yes",
        "IdentitiesOnly=yes",
        f"UserKnownHostsFile={connection['known_hosts']}",
    )
    shell = testinfra.get_host(
        f"ssh://{connection['user']}@{connection['host']}:{connection['port']}",
        ssh_identity_file=connection["identity_file"],
        ssh_extra_args=" ".join(f"-o {option}" for option in options),
        sudo=True,
    )
    return Node(connection["name"], inventory, shell)


def write_inventory(directory: Path, connection: dict[str, Any], variables: dict[str, Any]) -> None:
    """An inventory of that one node, with the lab's own group variables."""
    (directory / "group_vars").symlink_to(LAB / "group_vars")
    host = {
        "ansible_host": connection["host"],
        "ansible_port": connection["port"],
        "ansible_user": connection["user"],
        "ansible_ssh_private_key_file": connection["identity_file"],
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={connection['known_hosts']}",
        # Otherwise the lab's variables look for it beside the inventory.
        "gpulab_directory": str(ROOT / ".lab"),
        **variables,
    }
    text = json.dumps({"gpu_nodes": {"hosts": {connection["name"]: host}}}, indent=2)
    (directory / "hosts.yml").write_text(text, encoding="utf-8")
