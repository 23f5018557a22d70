"""What gpuready itself put on the node for the application layer: its files, units, and who listens where."""

from __future__ import annotations

import hashlib
import os
import pwd
import socket
import stat
import struct
from typing import Any, Dict, Iterator, List, Optional

from . import systemd
from .node import Node

# Everything below these is gpuready's own. gpu_workbench, gpu_health and framework_venv write nowhere
# else without a record of it (install_record).
FOLDERS = ("/etc/gpuready", "/usr/local/lib/gpuready")
UNITS = "/etc/systemd/system"
PREFIX = "gpuready-"
DROP_IN = "gpuready.conf"
# A secret is known by who may read it. What its owner alone may read is not hashed: no digest of it travels.
OTHERS_MAY_READ = stat.S_IRGRP | stat.S_IROTH
LISTEN = "0A"


def files(node: Node) -> Dict[str, Dict[str, Any]]:
    """Path → what is there. A secret (readable by its owner alone) has no sha256, a link has its target."""
    return {path: _describe(node, path) for path in sorted(_own_paths(node))}


def _own_paths(node: Node) -> Iterator[str]:
    for folder in FOLDERS:
        yield from _below(node, folder)
    for name in node.listdir(UNITS):
        if name.startswith(PREFIX):
            path = UNITS + "/" + name
            if _is_folder(node, path):
                yield from _below(node, path)
            else:
                yield path
        elif name.endswith(".d") and node.lstat(_drop_in(name)) is not None:
            yield _drop_in(name)


def _drop_in(folder: str) -> str:
    """What gpuready adds to a unit of somebody else's."""
    return "/".join((UNITS, folder, DROP_IN))


def _is_folder(node: Node, path: str) -> bool:
    seen = node.lstat(path)
    return seen is not None and stat.S_ISDIR(seen.st_mode)


def _below(node: Node, folder: str) -> Iterator[str]:
    if not _is_folder(node, folder):
        return
    for name in node.listdir(folder):
        path = folder + "/" + name
        if _is_folder(node, path):
            if name != "__pycache__":
                yield from _below(node, path)
        else:
            yield path


def _describe(node: Node, path: str) -> Dict[str, Any]:
    seen = node.lstat(path)
    found: Dict[str, Any] = {"sha256": None, "mode": "", "owner": "", "link": None}
    if seen is None:
        return found
    found["mode"] = "%04o" % stat.S_IMODE(seen.st_mode)
    found["owner"] = _name(seen.st_uid)
    if stat.S_ISLNK(seen.st_mode):
        found["link"] = node.readlink(path)
    elif stat.S_ISREG(seen.st_mode) and seen.st_mode & OTHERS_MAY_READ:
        found["sha256"] = hashlib.sha256(node.data(path) or b"").hexdigest()
    return found


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def units(node: Node) -> Dict[str, Dict[str, Any]]:
    """gpuready's own units by name; templates (name@.service) are asked for by their instances only."""
    names = [
        name
        for name in node.listdir(UNITS)
        if name.startswith(PREFIX) and name.endswith((".service", ".timer", ".path", ".socket"))
    ]
    names = [name for name in names if "@." not in name]
    if not names:
        return {}
    return {
        name: {
            "active": unit.get("ActiveState") in ("active", "reloading", "activating"),
            "enabled": unit.get("UnitFileState") in ("enabled", "enabled-runtime", "alias"),
            "sub_state": unit.get("SubState") or None,
            "result": unit.get("Result") or None,
        }
        for name, unit in systemd.units(node, sorted(names)).items()
        if unit.get("LoadState") != "not-found"
    }


def listening(node: Node) -> List[Dict[str, Any]]:
    """Who listens for TCP in the host's own network."""
    found: Dict[str, Dict[str, Any]] = {}
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (node.text(path) or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == LISTEN:
                address, _colon, port = fields[1].partition(":")
                found[fields[9]] = {
                    "address": _address(address),
                    "port": int(port, 16),
                    "process": None,
                    "pid": None,
                }
    if found:
        _name_listeners(node, found)
    return sorted(found.values(), key=lambda row: (row["port"], row["address"]))


def _address(text: str) -> str:
    """The kernel writes an address as 32-bit words in the machine's own byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack("=%dI" % len(words), *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)


def _name_listeners(node: Node, found: Dict[str, Dict[str, Any]]) -> None:
    for pid in (name for name in node.listdir("/proc") if name.isdigit()):
        try:
            handles = node.listdir("/proc/%s/fd" % pid)
        except OSError:  # it has ended, or belongs to somebody else
            continue
        folder = node.host_path("/proc/%s/fd" % pid)
        for handle in handles:
            target = _target("%s/%s" % (folder, handle))
            if target is None or not target.startswith("socket:["):
                continue
            row = found.get(target[len("socket:[") : -1])
            if row is not None and row["pid"] is None:
                row["pid"] = int(pid)
                row["process"] = (node.text("/proc/%s/comm" % pid) or "").strip() or None


def _target(path: str) -> Optional[str]:
    """What a handle is; the link itself, since `socket:[4711]` is no file that could be followed."""
    try:
        return os.readlink(path)
    except OSError:
        return None
