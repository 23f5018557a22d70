"""The lab's nodes, past SSH and Ansible: the tests' own hands and eyes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import testinfra

from . import ROOT, fingerprint

LABCTL = (sys.executable, str(ROOT / "tests" / "lab" / "labctl"))
BOOT_SECONDS = 120


def labctl(*arguments: str, check: bool = True) -> str:
    """Run one verb of the lab; what it printed on standard output."""
    done = subprocess.run([*LABCTL, *arguments], capture_output=True, text=True, timeout=1200, check=False)
    if check and done.returncode:
        said = f"{done.stdout}{done.stderr}"
        raise RuntimeError(f"labctl {shlex.join(arguments)} ended with {done.returncode}: {said}")
    return done.stdout


@cache
def engine_environment() -> dict[str, str]:
    """How docker reaches the lab's engine."""
    said = labctl("engine")
    (address,) = {word for word in said.split() if word.startswith("DOCKER_HOST=")} or {""}
    return {**os.environ, **({"DOCKER_HOST": address.partition("=")[2]} if address else {})}


@dataclass(frozen=True)
class Node:
    """A node of the lab, by its inventory name."""

    name: str
    connection: dict[str, Any]

    @classmethod
    def up(
        cls,
        name: str,
        *,
        gpus: str = "a100",
        os: str = "ubuntu-22.04",
        profile: Path | None = None,
        arguments: Sequence[str] = (),
    ) -> Node:
        """A bare node of that name, new or again; ``profile``: a hardware profile instead of ``gpus``."""
        hardware = ["--profile", str(profile)] if profile else ["--gpus", gpus]
        said = labctl("node-up", name, *hardware, "--os", os, *arguments, "--json")
        # Progress may come before the JSON.
        connection = json.loads(said[said.index("{\n") :])
        return cls(connection["name"], connection)

    @classmethod
    def all(cls) -> dict[str, Node]:
        """Every node that runs, by name."""
        status = json.loads(labctl("status", "--json"))
        return {node["name"]: cls(node["name"], node) for node in status["nodes"] if node["running"]}

    @classmethod
    def existing(cls, name: str) -> Node:
        """A node that runs already."""
        found = cls.all().get(name)
        if found is None:
            raise RuntimeError(f"no node {name} runs in the lab: run labctl up")
        return found

    def down(self) -> None:
        """Remove it."""
        labctl("node-down", self.name)

    def sh(self, script: str, *, check: bool = True, stdin: str = "", timeout: float = 600) -> str:
        """Run a script on it as root; what it printed on standard output."""
        done = subprocess.run(
            [*LABCTL, "node-exec", self.name, "--", "bash", "-c", script],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {script}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def check_output(self, script: str) -> str:
        """The same by testinfra's name: most of :mod:`kit.questions` can be asked of a node itself."""
        return self.sh(script).strip("\n")

    def holds(self, script: str) -> bool:
        """Whether the script ends well."""
        return self.sh(f"({script}) >/dev/null 2>&1 && echo yes", check=False).strip() == "yes"

    def write(self, path: str, text: str) -> None:
        """Write a file on it."""
        self.sh(f"mkdir -p $(dirname {path}) && cat > {path}", stdin=text)

    def fingerprint(self) -> fingerprint.Fingerprint:
        """Its state, to be compared with a later one."""
        return fingerprint.take(self.sh)

    def apt_transactions(self) -> int:
        """How many runs of apt have put packages on it, by apt's own history."""
        history = self.sh("cat /var/log/apt/history.log 2>/dev/null || true")
        put = re.compile(r"^(Install|Upgrade|Reinstall|Downgrade):", re.MULTILINE)
        return sum(1 for entry in history.split("\n\n") if put.search(entry))

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
        self._wait_for_boot(before)

    def cut_power(self) -> None:
        """Take the power away in the middle of whatever it does, and give it back."""
        before = self.boot_id()
        for verb in ("kill", "start"):
            subprocess.run(
                ["docker", verb, self.name], env=engine_environment(), check=True, capture_output=True
            )
        self._wait_for_boot(before)

    def _wait_for_boot(self, before: str) -> None:
        # `degraded` is up, too: a power cut may leave units that fail.
        up = "systemctl is-active --quiet multi-user.target ssh.service"
        # In this order: the boot that goes down is up, too, when it is asked first.
        self.wait(lambda: self.boot_id() not in ("", before) and self.holds(up), f"come back after {before}")

    def wait(self, ready: Callable[[], bool], what: str, seconds: float = BOOT_SECONDS) -> None:
        """Wait until it is so."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if ready():
                return
            time.sleep(0.2)
        raise RuntimeError(f"{self.name} did not {what} within {seconds:.0f} s")

    @property
    def inventory_variables(self) -> dict[str, Any]:
        """How Ansible reaches it."""
        options = {
            "UserKnownHostsFile": self.connection["known_hosts"],
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
        }
        return {
            "ansible_host": self.connection["host"],
            "ansible_port": self.connection["port"],
            "ansible_user": self.connection["user"],
            "ansible_ssh_private_key_file": self.connection["identity_file"],
            "ansible_ssh_common_args": " ".join(f"-o {name}={value}" for name, value in options.items()),
        }

    @cached_property
    def host(self) -> Any:
        """The node as a testinfra host with root's rights, for :mod:`kit.questions`."""
        reached = self.connection
        options = ("StrictHostKeyChecking=yes", "IdentitiesOnly=yes")
        return testinfra.get_host(
            f"ssh://{reached['user']}@{reached['host']}:{reached['port']}",
            ssh_identity_file=reached["identity_file"],
            ssh_extra_args=" ".join(
                f"-o {option}" for option in (*options, f"UserKnownHostsFile={reached['known_hosts']}")
            ),
            sudo=True,
        )


def up_all(wanted: Sequence[dict[str, Any]], *, jobs: int = 3) -> list[Node]:
    """Several bare nodes at once; each entry holds the arguments of :meth:`Node.up`."""
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            return list(pool.map(lambda arguments: Node.up(**arguments), wanted))
        except RuntimeError:
            pool.shutdown(cancel_futures=True)
            for arguments in wanted:
                labctl("node-down", arguments["name"], check=False)
            raise


def down_all(nodes: Sequence[Node], *, jobs: int = 3) -> None:
    """Remove several nodes at once."""
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        list(pool.map(Node.down, nodes))
