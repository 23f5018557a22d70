# Apache-2.0 (see LICENSE)
"""Does a job really compute on the GPU? The verdict out of what was seen for a while. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

SCHEMA = 1
#: The GPU counts as used from this share of the time on, on average or at least once.
BUSY_MEAN_PERCENT = 1.0
BUSY_PEAK_PERCENT = 5.0
#: A job below this share of one CPU core does nothing.
IDLE_CPU_PERCENT = 5.0
#: One that was ready to compute in so many of the looks does not wait for anything but a CPU.
WANTING_PERCENT = 30.0
#: Below this use of the GPU, with a CPU as busy as that, the GPU waits for the CPU.
STARVED_GPU_PERCENT = 15.0
STARVED_CPU_PERCENT = 80.0

GOOD = ("on_gpu", "idle_on_gpu")
TITLES = {
    "on_gpu": "computes on the GPU",
    "idle_on_gpu": "holds the GPU, and does not compute on it at the moment",
    "on_cpu": "computes on the CPU",
    "idle": "does nothing at the moment, and holds no GPU",
    "not_running": "does not run",
    "unknown": "cannot be told",
}
#: What NVML says where there is certainly no GPU to compute on; by any other error, one may be in use.
_NO_DRIVER = ("driver not loaded", "library not found", "no devices")


def _count(number: int, what: str, more: str = "") -> str:
    return f"{number} {what if number == 1 else more or what + 's'}"


def _percent(spread: Mapping[str, float]) -> str:
    return f"{spread['mean']:g} % on average, {spread['max']:g} % at most"


def _memory(rows: Sequence[Mapping[str, Any]]) -> int | None:
    known = [row["memory_mib"] for row in rows if row.get("memory_mib") is not None]
    return sum(known) if known else None


def _sum(spreads: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Several processes' use of one GPU. Their peaks may not have been at the same time: 100 is the most."""
    return {key: min(100.0, round(sum(spread[key] for spread in spreads), 1)) for key in ("mean", "max")}


def name_of(subject: Mapping[str, Any]) -> str:
    """The job in words."""
    if subject["kind"] == "container":
        return f"container {(subject.get('container') or {}).get('name') or subject['asked']}"
    words = f"process {subject['asked']}"
    if subject.get("name"):
        words += f" ({subject['name']})"
    inside = (subject.get("container") or {}).get("name")
    return f"{words} in container {inside}" if inside else words


def judge(
    usage: Mapping[str, Any],
    *,
    host: str,
    simulated: bool = False,
    diagnosis: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The verdict of section 14. ``diagnosis``: why the job has no GPU, where that was asked."""
    subject = usage["subject"]
    members = {row["pid"] for row in subject["processes"]}
    own = [row for row in usage["processes"] if row["pid"] in members]
    computing = [row for row in own if "C" in str(row.get("type") or "").split("+")]
    verdict, because, utilization = _verdict(usage, subject, own, computing)
    if diagnosis is not None and verdict not in GOOD:
        because = because + _why(diagnosis, subject, verdict)
    gpus = sorted({row["gpu"] for row in computing})
    return {
        "schema": SCHEMA,
        "host": host,
        "simulated": simulated,
        "subject": {key: subject.get(key) for key in ("kind", "asked", "pid", "name", "user", "container")},
        "verdict": verdict,
        "because": because,
        "gpus": [
            {key: gpu.get(key) for key in ("index", "uuid", "name", "memory_total_mib", "utilization")}
            for gpu in usage["gpus"]
            if gpu.get("index") in gpus
        ],
        "memory_mib": _memory(computing) if computing else (None if usage["error"] else 0),
        "utilization_percent": utilization,
        "cpu_percent": subject.get("cpu_percent"),
        "processes": list(subject["processes"]),
        "seconds": usage["seconds"],
        "samples": usage["samples"],
        "diagnosis": dict(diagnosis) if diagnosis is not None else None,
    }


def _verdict(
    usage: Mapping[str, Any],
    subject: Mapping[str, Any],
    own: Sequence[Mapping[str, Any]],
    computing: Sequence[Mapping[str, Any]],
) -> tuple[str, list[str], dict[str, float] | None]:
    if not subject["running"] and not computing:
        return "not_running", [_ended(subject)], None
    if usage["error"]:
        said = f"NVML says: {usage['error']}"
        if not any(word in str(usage["error"]).lower() for word in _NO_DRIVER):
            return "unknown", [said], None
        because = [f"nothing on this node can compute on a GPU; {said}"]
        return (*_without_gpu(subject, because), None)
    if computing:
        return _with_gpu(usage, computing, subject)
    broken = [f"GPU {gpu.get('index')}: {gpu['error']}" for gpu in usage["gpus"] if gpu.get("error")]
    if broken:
        return "unknown", broken, None
    silent = usage.get("silent_gpus") or []
    if silent:
        listed = ", ".join(str(index) for index in silent)
        why = (
            f"the driver does not tell who uses GPU {listed} (hidden by MIG, vGPU, WSL, nodes in a container)"
        )
        return "unknown", [why], None
    return (*_without_gpu(subject, _no_context(usage, subject, own)), None)


def _ended(subject: Mapping[str, Any]) -> str:
    container = subject.get("container") or {}
    if subject["kind"] == "container" and container.get("paused"):
        return "the container is paused"
    if subject["kind"] == "container" and container.get("exit_code") is not None:
        at = str(container.get("finished_at") or "").partition(".")[0]
        return f"the container ended with exit code {container['exit_code']}{' at ' + at if at else ''}"
    return "there is no such process" if subject.get("name") is None else "it has ended"


def _with_gpu(
    usage: Mapping[str, Any], computing: Sequence[Mapping[str, Any]], subject: Mapping[str, Any]
) -> tuple[str, list[str], dict[str, float] | None]:
    """It has a context. Does anything happen in it?"""
    because = []
    uses: list[dict[str, float]] = []
    shared = False
    for index in sorted({row["gpu"] for row in computing}):
        rows = [row for row in computing if row["gpu"] == index]
        gpu: Mapping[str, Any] = next((gpu for gpu in usage["gpus"] if gpu.get("index") == index), {})
        everybody = {
            row["pid"]
            for row in usage["processes"]
            if row["gpu"] == index and "C" in str(row.get("type") or "").split("+")
        }
        others = len(everybody - {row["pid"] for row in rows})
        memory = _memory(rows)
        held = f"{_count(len({row['pid'] for row in rows}), 'process', 'processes')} of type C on GPU {index}"
        held += f" ({gpu['name']})" if gpu.get("name") else ""
        because.append(held + (f", {memory} MiB" if memory is not None else ", memory unknown"))
        shares = [row["sm_percent"] for row in rows]
        whole = gpu.get("utilization")
        if shares and all(share is not None for share in shares):
            own = _sum(shares)
            # Drivers tell a process' share by samples, and may miss the short ones of a job that is alone.
            if not others and whole is not None and whole["mean"] > own["mean"]:
                own = dict(whole)
            uses.append(own)
            because.append(f"GPU {index}: {_percent(own)} by this job")
        elif whole is not None and (not others or whole["max"] < BUSY_MEAN_PERCENT):
            uses.append(dict(whole))
            because.append(
                f"GPU {index}: {_percent(whole)}; nobody else computes on it"
                if not others
                else f"GPU {index}: not used by anybody"
            )
        elif whole is not None:
            shared = True
            because.append(
                f"GPU {index}: {_percent(whole)}, but the driver does not tell how much of it is this job's "
                f"({_count(others, 'other process computes', 'other processes compute')} on it)"
            )
        else:
            shared = True
            because.append(f"GPU {index}: the driver does not tell how much it is used")
    span = f"{usage['seconds']:g} s, {_count(usage['samples'], 'look')}"
    because[-1] += f" ({span})"
    busy = [use for use in uses if use["mean"] >= BUSY_MEAN_PERCENT or use["max"] >= BUSY_PEAK_PERCENT]
    best = max(uses, key=lambda use: use["mean"]) if uses else None
    if busy:
        cpu = subject.get("cpu_percent")
        if best and best["mean"] < STARVED_GPU_PERCENT and cpu is not None and cpu >= STARVED_CPU_PERCENT:
            because.append(
                f"the CPU works more than the GPU ({cpu:g} % of a core): it may keep the GPU waiting, with "
                "input or with operations that have no GPU version"
            )
        idle = [gpu for gpu in uses if gpu not in busy]
        if idle:
            because.append(f"{_count(len(idle), 'of its GPUs is', 'of its GPUs are')} not used at the moment")
        return "on_gpu", because, best
    if shared:
        return "unknown", because, best
    return "idle_on_gpu", because, best


def _without_gpu(subject: Mapping[str, Any], because: list[str]) -> tuple[str, list[str]]:
    cpu = subject.get("cpu_percent")
    if cpu is None:
        return "unknown", [*because, "it was not seen long enough to say what it does"]
    if cpu < IDLE_CPU_PERCENT and (subject.get("wants_cpu_percent") or 0) >= WANTING_PERCENT:
        return "on_cpu", [
            *because,
            f"it waits for the CPU, and gets {cpu:g} % of a busy core",
        ]
    if cpu < IDLE_CPU_PERCENT:
        return "idle", [*because, f"it uses {cpu:g} % of a CPU core: it waits"]
    return "on_cpu", [*because, f"it uses {cpu:g} % of a CPU core"]


def _no_context(
    usage: Mapping[str, Any], subject: Mapping[str, Any], own: Sequence[Mapping[str, Any]]
) -> list[str]:
    processes = subject["processes"]
    if own:
        return ["it draws on the GPU (type G), and does not compute on it"]
    gpus = _count(len(usage["gpus"]), "GPU")
    if len(processes) == 1:
        because = [f"its process has no context on any of the {gpus}"]
    else:
        because = [f"none of its {len(processes)} processes has a context on any of the {gpus}"]
    loaded = next((row["libcuda"] for row in processes if row.get("libcuda")), None)
    if loaded:
        because.append(
            f"the driver's library is loaded ({loaded}), so that a GPU was looked for, and none was taken"
        )
    else:
        because.append("the driver's library (libcuda) is not loaded: nothing in it has looked for a GPU yet")
    return because


def _why(diagnosis: Mapping[str, Any], subject: Mapping[str, Any], verdict: str) -> list[str]:
    roots = [cause for cause in diagnosis.get("causes") or [] if cause.get("standing") == "root"]
    if roots:
        return [f"why: {cause['title']}" for cause in roots]
    if diagnosis.get("status") != "healthy" or verdict not in ("on_cpu", "idle"):
        return []
    if subject.get("container") or (subject.get("program") or {}).get("name"):
        could = "it has a GPU and could use it: nothing is wrong from the node to the framework"
        if verdict == "idle":
            return [could]
        return [
            f"why: {could}. The program does not ask for it (its device placement, or work that has no GPU "
            "version)"
        ]
    return ["why: nothing is wrong with the node; what the program is made of was not seen"]


def is_good(answer: Mapping[str, Any]) -> bool:
    """Whether the job has its GPU."""
    return answer["verdict"] in GOOD


def render(answer: Mapping[str, Any], width: int = 110) -> str:
    """One screen for people."""
    job, verdict = name_of(answer["subject"]), answer["verdict"]
    said = (
        f"whether {job} computes on the GPU {TITLES[verdict]}"
        if verdict == "unknown"
        else f"{job} {TITLES[verdict]}"
    )
    lines = [f"{answer['host']}{' (simulated)' if answer['simulated'] else ''}: {said}"]

    def wrapped(text: str, first: str = "  - ") -> list[str]:
        return textwrap.wrap(
            text,
            width,
            initial_indent=first,
            subsequent_indent=" " * len(first),
            break_long_words=False,
            break_on_hyphens=False,
        )

    for reason in answer["because"]:
        lines += wrapped(reason)
    for cause in (answer.get("diagnosis") or {}).get("causes") or []:
        if cause.get("standing") != "root" or answer["verdict"] in GOOD:
            continue
        for evidence in cause.get("evidence") or []:
            lines += wrapped(str(evidence), "      ")
        for fix in cause.get("fix") or []:
            lines += wrapped(str(fix), "    fix: ")
    return "\n".join(lines) + "\n"
