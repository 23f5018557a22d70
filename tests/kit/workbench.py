"""The ways into a workbench, as its user has them: SSH from outside, and what the node's root knows of it."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = "/etc/gpuready/workbench"
PASSWORDS = "/etc/gpuready/workbench-passwords"

#: What a user types first. TensorFlow's own messages go to standard error.
LIST_GPUS = "import tensorflow as tf; print(tf.config.list_physical_devices('GPU'))"
#: The same for images without it: what the driver's own library says.
COUNT_GPUS = """import ctypes
count, cuda = ctypes.c_int(), None
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError:
    pass
if cuda is not None and cuda.cuInit(0) == 0:
    cuda.cuDeviceGetCount(ctypes.byref(count))
print(count.value)
"""


def ssh_words(variables: Mapping[str, Any]) -> list[str]:
    """``ssh`` and all that leads to a node, by the variables with which Ansible reaches it."""
    words = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"]
    words += shlex.split(str(variables.get("ansible_ssh_common_args") or ""))
    if key := private_key(variables):
        words += ["-i", str(key)]
    if port := variables.get("ansible_port"):
        words += ["-p", str(port)]
    address = str(variables.get("ansible_host") or variables["inventory_hostname"])
    user = variables.get("ansible_user")
    return [*words, f"{user}@{address}" if user else address]


def private_key(variables: Mapping[str, Any]) -> Path | None:
    """The key that opens the node, where the inventory names one; both of Ansible's names for it count."""
    names = ("ansible_ssh_private_key_file", "ansible_private_key_file")
    found = next(filter(None, (variables.get(name) for name in names)), None)
    return Path(str(found)).expanduser() if found else None


@dataclass(frozen=True)
class Door:
    """A workbench's SSH server, as it is reached from here."""

    user: str
    port: int
    known_hosts: Path
    address: str = "127.0.0.1"

    def words(self, *options: str, key: Path | str | None = None, user: str | None = None) -> list[str]:
        """``ssh -p …`` of somebody who has this key, or none; nothing of this machine's own user counts."""
        own = [
            "-F",
            "/dev/null",
            "-o",
            f"UserKnownHostsFile={self.known_hosts}",
            "-o",
            "GlobalKnownHostsFile=/dev/null",
        ]
        own += ["-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
        own += ["-o", "ConnectTimeout=20", "-o", "HostKeyAlias=workbench"]
        own += ["-i", str(key)] if key else ["-o", "IdentityFile=/dev/null"]
        for option in options:
            own += ["-o", option]
        return ["ssh", *own, "-p", str(self.port), f"{user or self.user}@{self.address}"]

    def run(
        self, command: str, *, key: Path | str, stdin: str = "", timeout: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there, as ``ssh -p PORT USER@NODE COMMAND`` does."""
        return said([*self.words("BatchMode=yes", key=key), command], timeout, stdin)

    def refusal(self, *options: str, user: str | None = None, key: Path | str | None = None) -> str:
        """What somebody is told who must not get in; getting in is a failure."""
        done = said([*self.words(*options, user=user, key=key), "true"], 60)
        assert done.returncode == 255, f"{user or self.user} got in with {options}: {done.stdout}"
        return done.stderr.strip()

    def methods(self, user: str | None = None) -> list[str]:
        """The ways of proving who one is that the server offers to this user."""
        said_there = self.refusal("PreferredAuthentications=none", "BatchMode=yes", user=user)
        _, _, offered = said_there.rpartition("Permission denied (")
        return offered.rstrip(").").split(",")


def said(words: Sequence[str], timeout: float, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run it in a session of its own, without a terminal: nobody is asked anything."""
    return subprocess.run(
        words,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        start_new_session=True,
    )


def description(host: Any, user: str) -> dict[str, Any]:
    """The workbench as gpuready left it on the node."""
    return json.loads(host.file(f"{FOLDER}/{user}/workbench.json").content_string)


def users(host: Any) -> list[str]:
    """Who has a workbench."""
    return sorted(host.file(FOLDER).listdir()) if host.file(FOLDER).exists else []


def secret(host: Any, user: str, auth: str) -> str:
    """The token or password, which root reads on the node."""
    path = f"{FOLDER}/{user}/token" if auth == "token" else f"{PASSWORDS}/{user}"
    return host.file(path).content_string.strip()


def host_key_lines(host: Any, user: str) -> str:
    """The workbench's host keys as known_hosts has them, read on the node and not taken on trust."""
    keys = host.check_output(f"cat {FOLDER}/{user}/ssh_host_keys/*.pub").splitlines()
    return "".join(f"workbench {' '.join(key.split()[:2])}\n" for key in keys)
