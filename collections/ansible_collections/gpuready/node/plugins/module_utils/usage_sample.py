"""Looks at the GPUs of a node and at who uses them, once or for a while. Runs on nodes: Python 3.8."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Set

from . import chain_probe, chain_python
from .usage_processes import Processes, Row, container_names, descendants

SCHEMA = 1
#: A GPU that works with so much memory in use has somebody on it, whether NVML names him or not.
HIDDEN_MIB = 256
DOCKER_SECONDS = 20
PROGRAM_SECONDS = 25
_LIBCUDA = re.compile(r"/libcuda\.so(?:\.[\d.]+)?$")
_NO_SUCH = re.compile(r"no such (?:object|container)", re.I)

Read = Callable[..., Dict[str, Any]]


class UsageError(Exception):
    """What keeps the question from being answered, in one sentence."""


def hides(gpu: Dict[str, Any]) -> bool:
    """Whether a GPU does not tell who uses it: MIG, vGPU, WSL, a node that is itself a container."""
    if gpu.get("processes") is None:
        return True
    used = (gpu.get("memory_used_mib") or 0) >= HIDDEN_MIB and (gpu.get("utilization_percent") or 0) > 0
    return not gpu["processes"] and used


class Sampler:
    """One look after the other; what does not change between them is asked once."""

    def __init__(
        self,
        read: Read,
        processes: Optional[Processes] = None,
        names: Callable[[], Dict[str, str]] = container_names,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self.processes = processes or Processes()
        self._ask_names = names
        self._names: Dict[str, str] = {}
        self._clock = clock
        self._last: Optional[float] = None
        self._cpu: Dict[int, "tuple[int, float]"] = {}

    def name_of(self, identifier: Optional[str]) -> Optional[str]:
        """A container's name; Docker is asked when an id is new."""
        if identifier is None:
            return None
        if identifier not in self._names:
            self._names.update(dict.fromkeys([identifier], ""))
            self._names.update(self._ask_names())
        return self._names[identifier] or None

    def look(self) -> Dict[str, Any]:
        """GPUs, their processes, and what these took of the CPU since the last look."""
        now = self._clock()
        passed = None if self._last is None else now - self._last
        # What NVML noted of each process since the last look; the first one takes the last second.
        said = self._read(since_seconds=max(passed or 0.0, 1.0))
        rows: List[Dict[str, Any]] = []
        seen: Dict[int, "tuple[int, float]"] = {}
        for gpu in said.get("gpus") or []:
            shares = gpu.get("process_utilization")
            for process in gpu.get("processes") or []:
                pid = process["pid"]
                row = self.processes.row(pid)
                identifier = self.processes.container(pid)
                before = self._cpu.get(pid)
                cpu = None
                if row is not None:
                    seen[pid] = (row.started, row.cpu_seconds)
                    if passed and before is not None and before[0] == row.started:
                        cpu = round(max(0.0, row.cpu_seconds - before[1]) / passed * 100, 1)
                rows.append(
                    {
                        "pid": pid,
                        "name": row.name if row else None,
                        "type": process.get("type"),
                        "gpu": gpu.get("index"),
                        "memory_mib": process.get("memory_mib"),
                        "sm_percent": None if shares is None else shares.get(pid, 0),
                        "cpu_percent": cpu,
                        "container": {"id": identifier, "name": self.name_of(identifier)}
                        if identifier
                        else None,
                        "user": self.processes.user(pid),
                    }
                )
        self._last, self._cpu = now, seen
        return {
            "at": now,
            "driver_version": said.get("driver_version"),
            "gpus": [
                {key: value for key, value in gpu.items() if key not in ("processes", "process_utilization")}
                for gpu in said.get("gpus") or []
            ],
            "silent_gpus": [gpu.get("index") for gpu in said.get("gpus") or [] if hides(gpu)],
            "processes": rows,
            "error": said.get("error"),
        }


def load() -> Dict[str, Any]:
    """How busy the node's CPUs are."""
    try:
        one, five, fifteen = os.getloadavg()
    except OSError:
        return {"one": None, "five": None, "fifteen": None, "cpus": os.cpu_count()}
    return {
        "one": round(one, 2),
        "five": round(five, 2),
        "fifteen": round(fifteen, 2),
        "cpus": os.cpu_count(),
    }


# -- whose use is asked about ------------------------------------------------------------------------------


def _docker(docker: str, *words: str) -> chain_probe.Answer:
    try:
        return chain_probe.run([docker, *words], DOCKER_SECONDS)
    except OSError as error:
        raise UsageError("docker cannot be started: %s" % error) from error


def find_container(docker: Optional[str], asked: str) -> Dict[str, Any]:
    """The container of that name or id, running or ended."""
    if not docker:
        raise UsageError(
            "container: docker is not installed on this node, so that it has no container %r" % asked
        )
    answer = _docker(docker, "container", "inspect", "--", asked)
    if answer.rc is None:
        raise UsageError("docker did not say within %d s what the container %r is" % (DOCKER_SECONDS, asked))
    if answer.rc != 0:
        if not _NO_SUCH.search(answer.err):
            said = " ".join(answer.err.split()) or "exit status %d" % answer.rc
            raise UsageError("docker does not say what the container %r is: %s" % (asked, said))
        listed = _docker(docker, "ps", "--all", "--format", "{{.Names}}")
        there = ", ".join(listed.out.split()) or "none"
        raise UsageError("container: there is no container %r; docker ps --all lists: %s" % (asked, there))
    found = (json.loads(answer.out) or [{}])[0]
    state, config = found.get("State") or {}, found.get("Config") or {}
    return {
        "id": found.get("Id"),
        "name": str(found.get("Name") or "").lstrip("/") or None,
        "image": config.get("Image"),
        "running": bool(state.get("Running")) and not state.get("Paused"),
        "paused": bool(state.get("Paused")),
        "pid": state.get("Pid") or None,
        "exit_code": None if state.get("Running") else state.get("ExitCode"),
        "finished_at": None if state.get("Running") else state.get("FinishedAt"),
    }


class Subject:
    """A job that is asked about: a container, or a process with what it started."""

    def __init__(
        self,
        processes: Processes,
        container: Optional[Dict[str, Any]] = None,
        pid: Optional[int] = None,
        asked: str = "",
    ) -> None:
        self._processes = processes
        self.container = container
        self.asked = asked
        self.pid = pid
        self.first: Optional[Row] = None if pid is None else processes.row(pid)
        inside = None if self.first is None or pid is None else processes.container(pid)
        self.inside = inside
        # pid → [row at first, row at last]
        self.rows: Dict[int, List[Row]] = {}
        self._looks = 0
        self._wanting = 0

    @property
    def running(self) -> bool:
        if self.container is not None:
            return bool(self.container["running"])
        # A zombie has ended, only nobody has asked how.
        return self.first is not None and self.first.state not in ("Z", "X")

    def look(self) -> None:
        """Who belongs to it now."""
        if not self.running:
            return
        table = self._processes.table()
        if self.container is not None:
            members = self._processes.in_container(self.container["id"], table)
            members |= descendants(table, [self.container["pid"] or -1])
        else:
            assert self.first is not None
            now = table.get(self.first.pid)
            members = set()
            if now is not None and now.started == self.first.started:
                members = descendants(table, [self.first.pid])
        self._looks += 1
        # On a node that is busy with others it may get little of the CPU, and want all of it.
        self._wanting += any(table[pid].state == "R" for pid in members)
        for pid in members:
            row = table[pid]
            kept = self.rows.get(pid)
            if kept is None or kept[0].started != row.started:
                self.rows[pid] = [row, row]
            else:
                kept[1] = row

    @property
    def ended(self) -> bool:
        """Whether a process that ran at first is there no more."""
        if self.first is None:
            return False
        row = self._processes.row(self.first.pid)
        return row is None or row.started != self.first.started

    def describe(
        self, seconds: float, rows: Sequence[Dict[str, Any]], names: Callable[..., Any]
    ) -> Dict[str, Any]:
        """Itself and its processes; ``rows``: everybody's use of GPUs."""
        on_gpu: Dict[int, Set[int]] = {}
        for row in rows:
            on_gpu.setdefault(row["pid"], set()).add(row["gpu"])
        listed = []
        total = 0.0
        for pid, (first, last) in sorted(self.rows.items()):
            cpu = (last.cpu_seconds - first.cpu_seconds) / seconds * 100 if seconds > 0 else 0.0
            total += cpu
            paths = self._processes.libraries(pid)
            listed.append(
                {
                    "pid": pid,
                    "name": last.name,
                    "user": self._processes.user(pid),
                    "cpu_percent": round(cpu, 1),
                    "gpus": sorted(on_gpu.get(pid) or ()),
                    "libcuda": next((path for path in paths if _LIBCUDA.search(path)), None),
                    "frameworks": [
                        name
                        for name, pattern in chain_python.LOADED
                        if any(pattern.search(path) for path in paths)
                    ],
                }
            )
        identifier = self.container["id"] if self.container else self.inside
        return {
            "kind": "container" if self.container is not None else "pid",
            "asked": self.asked,
            "running": self.running and not self.ended,
            "pid": self.pid,
            "name": self.first.name if self.first else None,
            "user": self._processes.user(self.pid) if self.pid is not None else None,
            "container": dict(self.container)
            if self.container
            else ({"id": identifier, "name": names(identifier)} if identifier else None),
            "processes": listed,
            "cpu_percent": round(total, 1) if seconds > 0 else None,
            "wants_cpu_percent": round(self._wanting / self._looks * 100, 1) if self._looks else None,
            "program": None,
        }


# -- a program on the host ---------------------------------------------------------------------------------


def _as_owner(uid: int, gid: int) -> Optional[Callable[[], None]]:
    """Become a process's owner: what lies in its folders must not run with more rights than it has."""
    if os.geteuid() != 0:
        return None

    def become() -> None:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)

    return become


def look_into(pid: int, processes: Processes) -> Optional[Dict[str, Any]]:
    """A program on the host as `framework` of a diagnosis' facts; null where it is hidden or has ended.

    Its environment, and if it is a Python what that has of frameworks: its own interpreter is asked, as its
    owner, without importing a framework (chain_python.py).
    """
    proc = processes.proc
    try:
        with open("%s/%d/cmdline" % (proc, pid), "rb") as handle:
            words = [word.decode("utf-8", "replace") for word in handle.read().split(b"\0") if word]
        with open("%s/%d/environ" % (proc, pid), "rb") as handle:
            pairs = [pair.decode("utf-8", "replace") for pair in handle.read().split(b"\0")]
        owner = os.stat("%s/%d" % (proc, pid))
        here = os.readlink("%s/%d/ns/mnt" % (proc, pid)) == os.readlink("%s/self/ns/mnt" % proc)
    except OSError:
        return None
    environment = chain_probe.environment_of(pairs)
    # The program's own variables; where they hide the GPU, that is what the diagnosis has to see.
    facts: Dict[str, Any] = {"place": "host", "name": None, "env": environment}
    # In another mount namespace its interpreter is another file.
    program = chain_python.program_of(str(pid), words) if here else None
    own = _ask_python(program, environment, owner) if program else None
    if own is None:
        return facts
    paths = processes.libraries(pid)
    libraries: Dict[str, str] = {}
    for path in paths:
        match = chain_python.LIBRARY.search(path)
        if match:
            libraries.setdefault(match.group(1).split(".so")[0], path)
    running = {
        "pid": pid,
        "executable": own["pythons"][0].get("executable"),
        "kernel": any("ipykernel" in word for word in words),
        "frameworks": [
            name for name, pattern in chain_python.LOADED if any(pattern.search(path) for path in paths)
        ],
        "libraries": libraries,
        "environ": environment,
    }
    found = chain_probe.framework_facts(dict(own, pythons=own["pythons"][:1], processes=[running]))
    return dict(found or {}, **dict(facts, name=(found or {}).get("name")))


def _ask_python(program: str, environment: Dict[str, str], owner: os.stat_result) -> Optional[Dict[str, Any]]:
    """What chain_python.py says, run by that interpreter as the owner and with the job's variables."""
    try:
        done = subprocess.run(
            [program, "-c", chain_probe.python_text()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PROGRAM_SECONDS,
            cwd="/",
            env=dict({"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C"}, **environment),
            preexec_fn=_as_owner(owner.st_uid, owner.st_gid),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    survey = chain_probe.parse(done.stdout.decode("utf-8", "replace")).get("python")
    return survey if isinstance(survey, dict) and survey.get("pythons") else None


# -- for a while -------------------------------------------------------------------------------------------


def _spread(values: Sequence[Any]) -> Optional[Dict[str, float]]:
    known = [float(value) for value in values if value is not None]
    return {"mean": round(sum(known) / len(known), 1), "max": round(max(known), 1)} if known else None


def watch(
    sampler: Sampler,
    subject: Optional[Subject],
    window: float,
    interval: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Dict[str, Any]:
    """Look again and again; means and peaks of what was seen."""
    began = clock()
    looks: List[Dict[str, Any]] = []
    while True:
        looks.append(sampler.look())
        if subject is not None:
            subject.look()
        left = began + window - clock()
        # Without NVML there is nothing to wait for, but for what a job does with the CPU.
        if left <= 0 or (subject is None and looks[-1]["error"]):
            break
        sleep(min(interval, left))
    seconds = clock() - began
    gpus = []
    for gpu in looks[-1]["gpus"]:
        same = [row for look in looks for row in look["gpus"] if row.get("index") == gpu.get("index")]
        gpus.append(dict(gpu, utilization=_spread([row.get("utilization_percent") for row in same])))
    rows: Dict[Any, List[Dict[str, Any]]] = {}
    for look in looks:
        for row in look["processes"]:
            rows.setdefault((row["gpu"], row["pid"]), []).append(row)
    processes = []
    for (_gpu, _pid), seen in sorted(rows.items()):
        memory = [row["memory_mib"] for row in seen if row["memory_mib"] is not None]
        # A look that did not find it counts as none: it did not compute then.
        absent = [0] * (len(looks) - len(seen)) if any(row["sm_percent"] is not None for row in seen) else []
        processes.append(
            dict(
                seen[-1],
                type="+".join(
                    sorted({kind for row in seen for kind in str(row["type"] or "").split("+") if kind})
                ),
                memory_mib=max(memory) if memory else None,
                sm_percent=_spread([*(row["sm_percent"] for row in seen), *absent]),
                cpu_percent=_spread([row["cpu_percent"] for row in seen]),
            )
        )
    return {
        "schema": SCHEMA,
        "seconds": round(seconds, 2),
        "samples": len(looks),
        "driver_version": looks[-1]["driver_version"],
        "gpus": gpus,
        # In every look: one that ended meanwhile leaves its memory for a moment.
        "silent_gpus": sorted(set.intersection(*(set(look["silent_gpus"]) for look in looks))),
        "processes": processes,
        "load": load(),
        "error": looks[-1]["error"],
        "subject": subject.describe(seconds, processes, sampler.name_of) if subject else None,
    }


def add_program(usage: Dict[str, Any], processes: Processes) -> None:
    """What a Python on the host has of frameworks, where the job has no GPU: the diagnosis asks that."""
    subject = usage["subject"]
    if subject["container"] is not None or any(row["gpus"] for row in subject["processes"]):
        return
    # The one that has loaded a framework, else the busiest.
    for row in sorted(subject["processes"], key=lambda row: (not row["frameworks"], -row["cpu_percent"])):
        found = look_into(row["pid"], processes)
        if found is not None:
            subject["program"] = found
            return
