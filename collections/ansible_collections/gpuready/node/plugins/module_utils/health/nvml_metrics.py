# Apache-2.0 (see LICENSE)
"""NVML's metrics of every GPU: the one reader for the exporter, the live table and the usage verdict.

`read(library)` takes anything with pynvml's names: `nvml_library`, or pynvml itself. It never raises for what
NVML answers; what is not known is None. Runs on nodes: Python 3.8.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Optional

MIB = 1024 * 1024
# Why clocks are lower than they could be. Left out: idling, and clocks that somebody set.
THROTTLE_REASONS = {
    0x04: "sw_power_cap",
    0x08: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
}
FIELDS = (
    "index",
    "uuid",
    "name",
    "pci",
    "utilization_percent",
    "memory_utilization_percent",
    "memory_used_mib",
    "memory_total_mib",
    "temperature_c",
    "power_watts",
    "power_limit_watts",
    "clock_sm_mhz",
    "clock_memory_mhz",
    "throttled",
    "ecc",
    "remapped_rows",
    "mig_mode",
    "processes",
    "process_utilization",
    "error",
)
# NVML keeps samples of a process for some seconds.
SAMPLE_SECONDS = 10


def read(library: Any, now: Optional[float] = None, since_seconds: float = SAMPLE_SECONDS) -> Dict[str, Any]:
    """`{driver_version, cuda_version, gpus: [FIELDS]|None, error}`.

    `since_seconds`: how old a process's share of a GPU may be; an idle process gets no new samples.

    `gpus` is None where NVML cannot be asked at all, and then `error` says why. A GPU that does not answer
    (it is lost, say) has its own `error` beside None for everything else; the others are still read.
    """
    found: Dict[str, Any] = {"driver_version": None, "cuda_version": None, "gpus": None, "error": None}
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        found["error"] = str(error)
        return found
    ask = _Asking(library)
    try:
        found["driver_version"] = _text(ask(library.nvmlSystemGetDriverVersion))
        cuda = ask(library.nvmlSystemGetCudaDriverVersion_v2)
        found["cuda_version"] = "%d.%d" % (cuda // 1000, cuda % 1000 // 10) if cuda else None
        count = library.nvmlDeviceGetCount()
        moment = time.time() if now is None else now
        found["gpus"] = [_gpu(library, ask, index, moment - since_seconds) for index in range(count)]
    except library.NVMLError as error:
        found["error"] = str(error)
    finally:
        ask(library.nvmlShutdown)
    return found


class _Asking:
    """Asks a question that a GPU or a driver may not know."""

    def __init__(self, library: Any) -> None:
        self._refusals = tuple(
            {
                library.NVMLError,
                AttributeError,
                # pynvml's own words for a driver that has a question under an older name only
                getattr(library, "NVMLLibraryMismatchError", AttributeError),
            }
        )

    def __call__(self, question: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except self._refusals:
            return None


def _text(value: Any) -> Optional[str]:
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _gpu(library: Any, ask: _Asking, index: int, since: float) -> Dict[str, Any]:
    gpu: Dict[str, Any] = dict.fromkeys(FIELDS)
    gpu["index"] = index
    try:
        handle = library.nvmlDeviceGetHandleByIndex(index)
        # A GPU that is lost later than its handle was given says so to every question.
        gpu["name"] = _text(library.nvmlDeviceGetName(handle))
    except library.NVMLError as error:
        gpu["error"] = str(error)
        return gpu
    pci = ask(library.nvmlDeviceGetPciInfo, handle)
    utilization = ask(library.nvmlDeviceGetUtilizationRates, handle)
    memory = ask(lambda: library.nvmlDeviceGetMemoryInfo(handle, library.nvmlMemory_v2)) or ask(
        library.nvmlDeviceGetMemoryInfo, handle
    )
    mig = ask(library.nvmlDeviceGetMigMode, handle)
    gpu.update(
        uuid=_text(ask(library.nvmlDeviceGetUUID, handle)),
        pci=_address(_text(pci.busId)) if pci is not None else None,
        utilization_percent=utilization.gpu if utilization is not None else None,
        memory_utilization_percent=utilization.memory if utilization is not None else None,
        memory_used_mib=int(memory.used) // MIB if memory is not None else None,
        memory_total_mib=int(memory.total) // MIB if memory is not None else None,
        temperature_c=ask(lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)),
        power_watts=_thousandth(ask(library.nvmlDeviceGetPowerUsage, handle)),
        power_limit_watts=_thousandth(ask(library.nvmlDeviceGetEnforcedPowerLimit, handle)),
        clock_sm_mhz=ask(lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM)),
        clock_memory_mhz=ask(lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_MEM)),
        throttled=_throttled(ask(lambda: library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
        ecc=_ecc(library, ask, handle),
        remapped_rows=_rows(ask(lambda: library.nvmlDeviceGetRemappedRows(handle))),
        mig_mode=bool(mig[0]) if mig is not None else None,
        processes=_processes(library, ask, handle),
        process_utilization=_process_utilization(library, ask, handle, since),
    )
    return gpu


def _address(bus_id: Optional[str]) -> Optional[str]:
    """NVML writes 00000000:3B:00.0, sysfs 0000:3b:00.0."""
    domain, colon, rest = (bus_id or "").strip().lower().partition(":")
    try:
        return "%04x:%s" % (int(domain, 16), rest) if colon else None
    except ValueError:
        return None


def _thousandth(value: Optional[int]) -> Optional[float]:
    return None if value is None else value / 1000


def _throttled(bits: Optional[int]) -> Optional[Dict[str, bool]]:
    return None if bits is None else {name: bool(bits & bit) for bit, name in THROTTLE_REASONS.items()}


def _ecc(library: Any, ask: _Asking, handle: Any) -> Optional[Dict[str, int]]:
    """Memory errors since the driver was loaded."""

    def count(kind: int) -> Optional[int]:
        answer = ask(
            lambda: library.nvmlDeviceGetTotalEccErrors(handle, kind, library.NVML_VOLATILE_ECC)
        )  # lambda: a pynvml without the constant is an AttributeError, too
        return None if answer is None else int(answer)

    found = {
        "corrected": count(library.NVML_MEMORY_ERROR_TYPE_CORRECTED),
        "uncorrected": count(library.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
    }
    known = {kind: number for kind, number in found.items() if number is not None}
    return known or None


def _rows(answer: Any) -> Optional[Dict[str, Any]]:
    if answer is None:
        return None
    return {
        "corrected": answer[0],
        "uncorrected": answer[1],
        "pending": bool(answer[2]),
        "failed": bool(answer[3]),
    }


def _processes(library: Any, ask: _Asking, handle: Any) -> Optional[List[Dict[str, Any]]]:
    """Who has a context on the GPU, each process once; None where NVML cannot tell."""
    lists = {
        "C": ask(lambda: library.nvmlDeviceGetComputeRunningProcesses(handle)),
        "M": ask(lambda: library.nvmlDeviceGetMPSComputeRunningProcesses(handle)),
        "G": ask(lambda: library.nvmlDeviceGetGraphicsRunningProcesses(handle)),
    }
    if lists["C"] is None and lists["G"] is None:
        return None
    kinds: Dict[int, List[str]] = {}
    memory: Dict[int, Dict[str, Optional[int]]] = {}
    for letter, rows in lists.items():
        kind = "G" if letter == "G" else "C"
        for row in rows or []:
            pid = int(row.pid)
            kinds.setdefault(pid, [])
            if kind not in kinds[pid]:
                kinds[pid].append(kind)
            used = _available(library, row.usedGpuMemory)
            # One process may sit in several MIG instances: those add up. What it uses for graphics and for
            # computing is the same memory, told twice.
            per_kind = memory.setdefault(pid, {})
            before = per_kind.get(kind)
            per_kind[kind] = before if used is None else used + (before or 0)
    return [
        {
            "pid": pid,
            "type": "+".join(sorted(kinds[pid])),
            "memory_mib": _largest(memory[pid]),
        }
        for pid in sorted(kinds)
    ]


def _largest(per_kind: Dict[str, Optional[int]]) -> Optional[int]:
    known = [used for used in per_kind.values() if used is not None]
    return max(known) // MIB if known else None


def _available(library: Any, value: Any) -> Optional[int]:
    """pynvml hands out None, the library itself the highest number, where the driver does not know."""
    if value is None or value == library.NVML_VALUE_NOT_AVAILABLE_ulonglong.value:
        return None
    return int(value)


def _process_utilization(library: Any, ask: _Asking, handle: Any, since: float) -> Optional[Dict[int, int]]:
    """Per process, how much of the time it kept the GPU's multiprocessors busy when it was last sampled."""
    try:
        samples = library.nvmlDeviceGetProcessUtilization(handle, int(since * 1000000))
    except library.NVMLError as error:
        # Nobody used the GPU of late, and that is known.
        return {} if error.value == getattr(library, "NVML_ERROR_NOT_FOUND", None) else None
    except AttributeError:
        return None
    newest: Dict[int, Any] = {}
    for sample in samples:
        if sample.pid and (
            sample.pid not in newest or sample.timeStamp > newest[sample.pid].timeStamp
        ):  # pid 0: an empty slot
            newest[sample.pid] = sample
    return {int(pid): min(100, int(newest[pid].smUtil)) for pid in sorted(newest)}
