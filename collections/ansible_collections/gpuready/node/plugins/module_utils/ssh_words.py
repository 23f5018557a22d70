# Apache-2.0 (see LICENSE)
"""How Ansible's connection to a node is said in the words of ``ssh``. For action plugins on the "
"controller."""

from __future__ import annotations

import os
import shlex
from typing import Any


def is_ssh(connection: Any) -> bool:
    """Whether the node is reached by OpenSSH's own client."""
    return str(getattr(connection, "ansible_name", "") or connection.transport).rpartition(".")[2] == "ssh"


def words(connection: Any) -> tuple[list[str], str]:
    """``ssh`` with the options that lead to the node but no user and no secret, and the node's address."""
    found = [connection.get_option("ssh_executable") or "ssh"]
    for option in ("ssh_common_args", "ssh_extra_args"):
        found += shlex.split(connection.get_option(option) or "")
    port = connection.get_option("port")
    found += ["-p", str(port)] if port else []
    return found, str(connection.get_option("host"))


def place(name: str, connection: Any) -> str:
    """A node as an error names it: gpu17 (10.0.0.17, port 2222)."""
    address, port = str(connection.get_option("host")), connection.get_option("port")
    inner = [*([address] if address != name else []), *([f"port {port}"] if port and int(port) != 22 else [])]
    return f"{name} ({', '.join(inner)})" if inner else name


def key_file(connection: Any) -> str | None:
    """The private key that the inventory names for it."""
    path = connection.get_option("private_key_file")
    return os.path.expanduser(path) if path else None
