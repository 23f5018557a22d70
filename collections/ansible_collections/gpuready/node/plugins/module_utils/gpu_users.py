# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Whose work is on the GPUs: containers and processes that an upgrade would end. On nodes too: Python 3.8."""

from __future__ import annotations

import os
import pwd
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .observe import docker
from .observe.node import Node
from .observe.processes import processes as open_processes

#: Labels and names of what gpuready itself runs (contract, sections 10 and 12).
WORKBENCH = "io.gpuready.workbench"
PROBE = "gpuready-probe-"
HEALTH = "gpuready-health-"
#: The kernel keeps so many letters of a command's name.
COMM_LENGTH = 15


class UsersError(Exception):
    """Who uses the GPUs cannot be told; the text says why."""


def is_ignored(name: Optional[str], ignored: Sequence[str], *, process: bool = False) -> bool:
    """Whether a container or a process is no work of anybody's.

    >>> is_ignored("k8s_nvidia-device-plugin-ctr_x", ["nvidia-device-plugin"])
    True
    >>> is_ignored("nvidia-device-p", ["nvidia-device-plugin"], process=True)
    True
    >>> is_ignored("nvidia-smi", ["nvidia-device-plugin"], process=True)
    False
    """
    if not name:
        return False
    if process:
        return any(name == word[:COMM_LENGTH] for word in ignored if word)
    return any(word in name for word in ignored if word)


def users(
    containers: Sequence[Dict[str, Any]], processes: Sequence[Dict[str, Any]], ignored: Sequence[str] = ()
) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]:
    """(other people's users of the GPUs, gpuready's own looks at them, which end by themselves).

    :param containers: as ``container_runtime.gpu_containers`` of the observation.
    :param processes: as ``driver.processes``, with ``user`` and ``own`` (see :func:`look`) where known.

    A workbench that only has a GPU is nobody's work; a process in it that holds the GPU is.
    """
    found: List[Dict[str, Any]] = []
    passing: List[Dict[str, Any]] = []
    settled = {}
    benches = {}
    for row in containers:
        name = str(row.get("name") or "")
        if WORKBENCH in (row.get("labels") or {}):
            benches[row["id"]] = row["labels"][WORKBENCH]
            continue
        settled[row["id"]] = True
        if is_ignored(name, ignored):
            continue
        item = {
            "kind": "container",
            "name": name,
            "id": row["id"],
            "image": row.get("image"),
            "pid": None,
            "user": None,
            "workbench": None,
        }
        (passing if name.startswith(PROBE) else found).append(item)
    for row in processes:
        inside = row.get("container")
        if row.get("service") or inside in settled:
            continue
        name = str(row.get("name") or "?")
        if is_ignored(name, ignored, process=True):
            continue
        item = {
            "kind": "process",
            "name": name,
            "id": inside,
            "image": None,
            "pid": row["pid"],
            "user": row.get("user"),
            "workbench": benches.get(inside),
        }
        (passing if row.get("own") else found).append(item)
    return found, passing


def describe(user: Dict[str, Any]) -> str:
    """One user of the GPUs in a few words.

    >>> describe({"kind": "process", "name": "python3", "pid": 811, "user": "alice", "workbench": None})
    'process python3 (pid 811, of alice)'
    """
    if user["kind"] == "container":
        return "container %s (%s)" % (user["name"], user.get("image") or "no image")
    owner = ", of %s" % user["user"] if user.get("user") else ""
    bench = ", in the workbench of %s" % user["workbench"] if user.get("workbench") else ""
    return "process %s (pid %s%s%s)" % (user["name"], user["pid"], owner, bench)


def look(node: Node) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]:
    """(containers, processes) of a node, for :func:`users`."""
    rows = open_processes(node)
    if rows is None:
        raise UsersError(_why(node, "which processes use a GPU cannot be told"))
    detailed = []
    for row in rows:
        cgroup = node.text("/proc/%d/cgroup" % row["pid"]) or ""
        detailed.append(dict(row, user=_owner(node, row["pid"]), own=HEALTH in cgroup))
    return _containers(node), detailed


def _containers(node: Node) -> List[Dict[str, Any]]:
    process = docker.find_process(node, None)
    if process is None:
        # No dockerd, no container of Docker's; what others run shows among the processes.
        return []
    content = (docker.daemon_json(node, process.argv, bool(docker.is_snap(node))) or {}).get("content")
    sock = docker.find_socket(node, process.argv, content)
    live, _info = docker.ask(node, sock)
    if not live["reachable"]:
        raise UsersError("which containers have a GPU cannot be told: %s" % live["error"])
    before = len(node.problems)
    found = docker.gpu_containers(node, sock)
    if len(node.problems) > before:
        raise UsersError(_why(node, "which containers have a GPU cannot be told"))
    return found


def _owner(node: Node, pid: int) -> Optional[str]:
    try:
        number = os.stat(node.host_path("/proc/%d" % pid)).st_uid
    except OSError:
        return None
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _why(node: Node, what: str) -> str:
    return "%s: %s" % (what, node.problems[-1]["error"]) if node.problems else what
