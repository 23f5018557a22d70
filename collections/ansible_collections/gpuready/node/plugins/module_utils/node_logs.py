# Apache-2.0 (see LICENSE)
"""The ends of a node's logs that tell about its GPU, and what a few programs say. Python 3.8; reads only."""

from __future__ import annotations

import fnmatch
import os
import re
from typing import Dict, List, Optional, Sequence, Tuple

from .observe.node import MissingTool, Node, ProbeError

# What is asked of the journal, per unit.
UNITS = (
    "docker",
    "containerd",
    "nvidia-persistenced",
    "nvidia-fabricmanager",
    "nvidia-cdi-refresh",
)
# A star stands for one name.
FILES = (
    "/var/log/apt/history.log",
    "/var/log/apt/term.log",
    "/var/log/unattended-upgrades/unattended-upgrades.log",
    "/var/log/nvidia-installer.log",
    "/var/log/nvidia-container-toolkit.log",
    "/var/log/nvidia-container-runtime.log",
    "/var/log/fabricmanager.log",
    "/var/lib/dkms/nvidia/*/build/make.log",
    "/var/lib/dkms/nvidia-open/*/build/make.log",
)
COMMANDS = (
    ("nvidia-smi", ("nvidia-smi",)),
    ("nvidia-smi-query", ("nvidia-smi", "-q")),
    ("lspci", ("lspci", "-nnk", "-d", "10de:")),
    ("lsmod", ("lsmod",)),
    ("dkms-status", ("dkms", "status")),
    (
        "dpkg-list",
        (
            "dpkg",
            "-l",
            "*nvidia*",
            "libcuda*",
            "cuda-*",
            "docker*",
            "containerd*",
            "linux-image*",
            "linux-headers*",
        ),
    ),
)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


#: Of a file, its end of so many bytes is read.
LARGEST = 2_000_000


def _end_of(node: Node, path: str) -> str:
    with open(node.host_path(path), "rb") as handle:
        handle.seek(0, os.SEEK_END)
        size = handle.tell()
        handle.seek(max(0, size - LARGEST))
        return handle.read(LARGEST).decode("utf-8", "replace")


def _tail(text: str, lines: int) -> str:
    return "\n".join(text.rstrip("\n").split("\n")[-lines:])


def _matching(node: Node, pattern: str) -> List[str]:
    if "*" not in pattern:
        return [pattern] if node.is_file(pattern) else []
    parts = pattern.split("/")
    star = next(index for index, part in enumerate(parts) if "*" in part)
    folder, rest = "/".join(parts[:star]) or "/", parts[star + 1 :]
    if not node.is_dir(folder):
        return []
    names = fnmatch.filter(sorted(node.listdir(folder)), parts[star])
    paths = ["/".join([folder.rstrip("/"), name, *rest]) for name in names]
    return [path for path in paths if node.is_file(path)]


def _name(path: str) -> str:
    return _UNSAFE.sub("-", path.replace("/var/log/", "").replace("/var/lib/", "")).strip("-.")


def read(node: Node, *, lines: int, paths: Sequence[str] = ()) -> Tuple[Dict[str, str], List[Dict[str, str]]]:
    """({name: the log's end}, what could not be read and why). What is not on the node is no problem."""
    found: Dict[str, str] = {}
    problems: List[Dict[str, str]] = []

    def keep(name: str, text: Optional[str]) -> None:
        if text and text.strip():
            found[name] = _tail(text, lines)

    for unit in UNITS:
        argv = [
            "journalctl",
            "--unit",
            unit,
            "--lines",
            str(lines),
            "--no-pager",
            "--quiet",
            "--output",
            "short-iso",
        ]
        try:
            keep("journal-" + unit, node.run(argv).out)
        except MissingTool:
            break
        except ProbeError as error:
            problems.append({"log": "journal-" + unit, "error": str(error)})
    for pattern in (*FILES, *paths):
        matching = _matching(node, pattern)
        if not matching and pattern in paths:
            problems.append({"log": pattern, "error": "no such file"})
        for path in matching:
            try:
                keep(_name(path), _end_of(node, path))
            except (OSError, ProbeError) as error:
                problems.append({"log": path, "error": str(error)})
    for name, command in COMMANDS:
        try:
            answer = node.run(command)
        except MissingTool:
            continue
        except ProbeError as error:
            problems.append({"log": name, "error": str(error)})
            continue
        keep(name, answer.out + ("\n" + answer.err if answer.err.strip() else ""))
    return found, problems
