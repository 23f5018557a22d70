"""Whose processes are these? Read from /proc; nothing is started. Runs on nodes (Python 3.8)."""

from __future__ import annotations

import os
import pwd
import re
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Set

_CONTAINER = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_SECONDS = 10


class Row(NamedTuple):
    """A process as /proc/PID/stat has it."""

    pid: int
    parent: int
    name: str
    state: str
    cpu_seconds: float
    started: int  # ticks since the boot: with the pid, it names one process for ever


def _read(path: str) -> str:
    """A file of /proc; one that ended, or that is hidden from this user, has none."""
    try:
        with open(path, "rb") as handle:
            return handle.read().decode("utf-8", "replace")
    except OSError:
        return ""


def parse_stat(text: str, ticks_per_second: float) -> Optional[Row]:
    """The name stands in brackets and may hold anything, brackets and spaces too."""
    head, bracket, rest = text.rpartition(")")
    pid, _space, name = head.partition(" (")
    fields = rest.split()
    if not bracket or not pid.strip().isdigit() or len(fields) < 20:
        return None
    cpu = int(fields[11]) + int(fields[12])
    return Row(int(pid), int(fields[1]), name, fields[0], cpu / ticks_per_second, int(fields[19]))


class Processes:
    """The node's processes, by their pids outside of containers, which are NVML's pids as well."""

    def __init__(self, proc: str = "/proc") -> None:
        self.proc = proc
        self._ticks = float(os.sysconf("SC_CLK_TCK"))
        # The node itself may be a container.
        self._own: Set[str] = set(_CONTAINER.findall(_read(proc + "/1/cgroup")))
        self._users: Dict[int, Optional[str]] = {}

    def pids(self) -> List[int]:
        return sorted(int(name) for name in os.listdir(self.proc) if name.isdigit())

    def row(self, pid: int) -> Optional[Row]:
        return parse_stat(_read("%s/%d/stat" % (self.proc, pid)), self._ticks)

    def table(self) -> Dict[int, Row]:
        """Every process."""
        rows = (self.row(pid) for pid in self.pids())
        return {row.pid: row for row in rows if row is not None}

    def container(self, pid: int) -> Optional[str]:
        """The id of the container that a process runs in, where its cgroup tells one."""
        for identifier in _CONTAINER.findall(_read("%s/%d/cgroup" % (self.proc, pid))):
            if identifier not in self._own:
                return str(identifier)
        return None

    def in_container(self, identifier: str, table: Iterable[int]) -> Set[int]:
        """The processes of a container, those that were started with `docker exec` too."""
        return {pid for pid in table if self.container(pid) == identifier}

    def user(self, pid: int) -> Optional[str]:
        """The owner's name on the node, else the number."""
        try:
            uid = os.stat("%s/%d" % (self.proc, pid)).st_uid
        except OSError:
            return None
        if uid not in self._users:
            try:
                self._users[uid] = pwd.getpwuid(uid).pw_name
            except KeyError:
                self._users[uid] = str(uid)
        return self._users[uid]

    def describe(self, pid: int) -> Dict[str, Any]:
        """What a person wants to know of a pid that NVML names; null where it has ended or is hidden."""
        row = self.row(pid)
        return {
            "pid": pid,
            "name": row.name if row else None,
            "user": self.user(pid),
            "container_id": self.container(pid),
        }

    def libraries(self, pid: int) -> List[str]:
        """The files that a process has mapped; empty where that is hidden."""
        found = re.findall(r"^\S+ \S+ \S+ \S+ \S+ +(/.*)$", _read("%s/%d/maps" % (self.proc, pid)), re.M)
        return sorted(set(found))


def descendants(table: Dict[int, Row], roots: Iterable[int]) -> Set[int]:
    """The roots that there are, and everything that they started and that is still theirs."""
    children: Dict[int, List[int]] = {}
    for row in table.values():
        children.setdefault(row.parent, []).append(row.pid)
    found: Set[int] = set()
    waiting = [pid for pid in roots if pid in table]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def container_names(docker: Optional[str] = "docker") -> Dict[str, str]:
    """Id → name of the running containers; empty where Docker does not answer."""
    if not docker:
        return {}
    # Only here: most calls on most nodes need no container's name.
    import subprocess

    command = [docker, "ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = (line.split(None, 1) for line in done.stdout.decode("utf-8", "replace").splitlines())
    return {row[0]: row[1].split(",")[0] for row in rows if len(row) == 2} if done.returncode == 0 else {}
