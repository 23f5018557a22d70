"""Who holds a device file of the driver open: what stands between it and being unloaded."""

from __future__ import annotations

import os
import re
from typing import Any, Dict, List, Optional, Set

from .node import Node, ProbeError, natural_key

PREFIX = "/dev/nvidia"
# gpuready's own looks at the GPUs last a moment; a reload of the driver stops and starts them as well.
_SERVICE = re.compile(
    r"/(nvidia-persistenced|nvidia-fabricmanager|gpuready-health-(?:metrics|check))\.service(?:/|$)", re.M
)
# The kernel keeps 15 letters of a command's name.
_COMMANDS = {"nvidia-persiste": "nvidia-persistenced", "nv-fabricmanage": "nvidia-fabricmanager"}
_UNIT = re.compile(r"\.(service|scope)(/|$)", re.M)
_CONTAINER = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def _open_files(directory: str) -> List[str]:
    """The driver's device files among a process's open ones; an ended process has none."""
    found = set()
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return []
    for name in names:
        try:
            target = os.readlink("%s/%s" % (directory, name))
        except (FileNotFoundError, ProcessLookupError):
            continue
        if target.startswith(PREFIX):
            # "/dev/nvidia0 (deleted)": udev made the file anew.
            found.add(target.split(" ", 1)[0])
    return sorted(found, key=natural_key)


def service(name: Optional[str], cgroup: str) -> Optional[str]:
    """The driver's own service that a process belongs to. Stopping the service has to end the process."""
    match = _SERVICE.search(cgroup)
    if match:
        return match.group(1)
    # Without systemd only the name is left.
    return None if _UNIT.search(cgroup) else _COMMANDS.get((name or "")[:15])


def container(cgroup: str, own: Set[str]) -> Optional[str]:
    """The id of the container that a process runs in, where its cgroup tells one."""
    for identifier in _CONTAINER.findall(cgroup):
        if identifier not in own:
            return str(identifier)
    return None


def processes(node: Node, users: Optional[int] = None) -> Optional[List[Dict[str, Any]]]:
    """Everybody who holds one of the driver's device files open; null when that cannot be told.

    `users`: the modules' use count. An open file counts in it, so that nobody can hide where it is 0.
    """
    if node.uid != 0:
        if users == 0:
            return []
        node.problem("driver.processes", "only root sees what other users' processes hold open")
        return None
    # Read without Node's care for links: a busy node has ten thousands of open files.
    proc = node.host_path("/proc")
    found = []
    hidden = []
    own: Optional[Set[str]] = None
    for pid in sorted((int(name) for name in os.listdir(proc) if name.isdigit())):
        try:
            files = _open_files("%s/%d/fd" % (proc, pid))
        except PermissionError:
            hidden.append(pid)
            continue
        if not files:
            continue
        if own is None:
            # The node itself may be a container.
            own = set(_CONTAINER.findall(node.text("/proc/1/cgroup") or ""))
        name = (node.text("/proc/%d/comm" % pid) or "").strip() or None
        cgroup = node.text("/proc/%d/cgroup" % pid) or ""
        inside = container(cgroup, own)
        found.append(
            {
                "pid": pid,
                "name": name,
                "files": files,
                "service": None if inside else service(name, cgroup),
                "container": inside,
            }
        )
    if hidden and users != 0:
        raise ProbeError(
            "%d processes do not show what they hold open (the first is %d)" % (len(hidden), hidden[0])
        )
    return found
