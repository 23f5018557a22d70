"""The lab's nodes and whole runs on them, for the end-to-end tests and the benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ansible_runner

ROOT = Path(__file__).resolve().parents[2]
LABCTL = [sys.executable, str(ROOT / "tests" / "lab" / "labctl")]
LAB_INVENTORY = ROOT / "inventories" / "lab"

#: What a run must not touch when it refuses: packages, holds, and every file that gpuready manages.
FINGERPRINT = r"""
set -u
export LC_ALL=C
dpkg-query -W -f '${Package} ${Version} ${Status}\n'
echo "# holds"; apt-mark showhold
echo "# files"
find /etc/apt /etc/docker /etc/cdi /var/run/cdi /etc/modprobe.d /etc/modules-load.d /usr/share/keyrings \
     /etc/systemd/system /var/lib/gpuready -type f -exec sha256sum {} + 2>/dev/null | sort -k2
find /etc/systemd/system -type l -printf '%p %l\n' | sort
echo "# modules"; ls /sys/module 2>/dev/null | grep -i nvidia
exit 0
"""


def labctl(*arguments: str, check: bool = True) -> str:
    """Run labctl; what it printed on standard output."""
    done = subprocess.run([*LABCTL, *arguments], capture_output=True, text=True, timeout=1200, check=False)
    if check and done.returncode:
        raise RuntimeError(
            f"labctl {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}"
        )
    return done.stdout


@dataclass(frozen=True)
class Node:
    """A node of the lab, by its inventory name."""

    name: str
    connection: dict[str, Any]

    @classmethod
    def up(cls, name: str, *, gpus: str = "a100", os: str = "ubuntu-22.04") -> Node:
        """A bare node of that name, new or again."""
        said = labctl("node-up", name, "--gpus", gpus, "--os", os, "--json")
        # Progress may come before the JSON.
        connection = json.loads(said[said.index("{\n") :])
        return cls(connection["name"], connection)

    @classmethod
    def existing(cls, name: str) -> Node:
        """A node that runs already."""
        for connection in json.loads(labctl("status", "--json"))["nodes"]:
            if connection["name"] == name:
                return cls(name, connection)
        raise RuntimeError(f"the lab has no node {name}: run labctl up")

    def down(self) -> None:
        """Remove it."""
        labctl("node-down", self.name)

    def sh(self, script: str, *, check: bool = True, stdin: str = "") -> str:
        """Run a script on it as root, past SSH and Ansible."""
        done = subprocess.run(
            [*LABCTL, "node-exec", self.name, "--", "bash", "-c", script],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {script}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """Write a file on it."""
        self.sh(f"mkdir -p $(dirname {path}) && cat > {path}", stdin=text)

    def fingerprint(self) -> str:
        """Everything on it that a refused run must leave alone."""
        return self.sh(FINGERPRINT)

    def fault(self, *settings: str) -> None:
        """Change what is wrong with its hardware: ``gpu_off_bus=true``, ``--clear``."""
        labctl("fault", self.name, *settings)

    def boot_id(self) -> str:
        """Which boot it runs; empty while it is down."""
        return self.sh("cat /proc/sys/kernel/random/boot_id", check=False).strip()

    def reboot(self) -> None:
        """Reboot it and wait until it is up again."""
        before = self.boot_id()
        self.sh("systemctl reboot", check=False)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            time.sleep(1)
            up = self.sh("systemctl is-active --quiet multi-user.target && echo up", check=False).strip()
            if up == "up" and self.boot_id() not in ("", before):
                return
        raise RuntimeError(f"{self.name} did not come back within 120 s")

    @property
    def inventory_variables(self) -> dict[str, Any]:
        """How Ansible reaches it."""
        return {
            "ansible_host": self.connection["host"],
            "ansible_port": self.connection["port"],
            "ansible_user": self.connection["user"],
            "ansible_ssh_private_key_file": self.connection["identity_file"],
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.connection['known_hosts']}",
        }


@dataclass
class Run:
    """What came of a whole run."""

    rc: int
    status: str
    text: str
    stats: dict[str, Any]
    folder: Path
    hosts: list[str] = field(default_factory=list)

    @property
    def fleet(self) -> dict[str, Any]:
        """The report's fleet document."""
        return json.loads((self.folder / "latest" / "fleet.json").read_text())

    def node(self, host: str) -> dict[str, Any]:
        """The report's document of a node."""
        return json.loads((self.folder / "latest" / f"{host}.json").read_text())

    def changed(self, host: str) -> int:
        """Changed tasks by Ansible's own count."""
        return int(self.stats.get("changed", {}).get(host, 0))


def inventory_file(path: Path, nodes: Iterable[Node], extra: dict[str, dict[str, Any]] | None = None) -> Path:
    """An inventory beside the lab's: its group variables count for these hosts too."""
    hosts = {node.name: node.inventory_variables for node in nodes}
    path.write_text(json.dumps({"gpu_nodes": {"hosts": {**hosts, **(extra or {})}}}))
    return path


def play(
    playbook: str,
    folder: Path,
    *,
    inventories: Iterable[Path | str] = (LAB_INVENTORY,),
    limit: Iterable[str] = (),
    variables: dict[str, Any] | None = None,
    arguments: str = "",
    environment: dict[str, str] | None = None,
) -> Run:
    """One run of a playbook of this repository, through ansible-runner, with its report in ``folder``."""
    (folder / "runner").mkdir(parents=True, exist_ok=True)
    command = " ".join(f"-i {inventory}" for inventory in inventories)
    hosts = list(limit)
    if hosts:
        command += f" --limit {','.join(hosts)}"
    if variables:
        file = folder / "extra_vars.json"
        file.write_text(json.dumps(variables))
        command += f" -e @{file}"
    runner = ansible_runner.run(
        private_data_dir=str(folder / "runner"),
        project_dir=str(ROOT),
        playbook=playbook,
        cmdline=f"{command} {arguments}".strip(),
        envvars={
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "GPUREADY_ARTIFACTS_DIR": str(folder / "report"),
            # Where the lab's group variables find .lab/, also for hosts of other inventories.
            "MOLECULE_PROJECT_DIRECTORY": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **(environment or {}),
        },
        quiet=True,
    )
    return Run(
        rc=runner.rc,
        status=runner.status,
        text=runner.stdout.read(),
        stats=runner.stats or {},
        folder=folder / "report",
        hosts=hosts,
    )
