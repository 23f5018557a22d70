# Apache-2.0 (see LICENSE)
"""NVML itself: the driver's libnvidia-ml.so.1 by ctypes, with pynvml's names for what is asked here.

pynvml (nvidia-ml-py) is on few nodes, and its third of a megabyte would be compiled anew for every scrape:
inside a zip Python keeps no byte code. A test holds every structure and constant here against pynvml's own.
Runs on nodes: Python 3.8.
"""

from __future__ import annotations

import ctypes
import threading
from ctypes import byref, c_char, c_char_p, c_int, c_uint, c_ulonglong, c_void_p
from typing import Any, Dict, List, Optional, Sequence, Tuple

LIBRARY = "libnvidia-ml.so.1"

NVML_SUCCESS = 0
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_INSUFFICIENT_SIZE = 7
NVML_ERROR_LIBRARY_NOT_FOUND = 12
NVML_ERROR_FUNCTION_NOT_FOUND = 13
NVML_TEMPERATURE_GPU = 0
NVML_CLOCK_SM = 1
NVML_CLOCK_MEM = 2
NVML_VOLATILE_ECC = 0
NVML_MEMORY_ERROR_TYPE_CORRECTED = 0
NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
NVML_VALUE_NOT_AVAILABLE_ulonglong = c_ulonglong(-1)
nvmlMemory_v2 = 0x02000028

_TEXT = 96  # NVML's longest of the texts asked for here
# What the library cannot say of itself, because it is not there.
_WORDS = {
    NVML_ERROR_LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
    NVML_ERROR_FUNCTION_NOT_FOUND: "Function Not Found",
}


class NVMLError(Exception):
    """An answer of NVML other than success; its text is NVML's own."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return _WORDS.get(self.value) or nvmlErrorString(self.value)


class nvmlPciInfo_t(ctypes.Structure):
    _fields_ = [
        ("busIdLegacy", c_char * 16),
        ("domain", c_uint),
        ("bus", c_uint),
        ("device", c_uint),
        ("pciDeviceId", c_uint),
        ("pciSubSystemId", c_uint),
        ("busId", c_char * 32),
    ]


class c_nvmlMemory_t(ctypes.Structure):
    _fields_ = [("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong)]


class c_nvmlMemory_v2_t(ctypes.Structure):
    _fields_ = [
        ("version", c_uint),
        ("total", c_ulonglong),
        ("reserved", c_ulonglong),
        ("free", c_ulonglong),
        ("used", c_ulonglong),
    ]


class c_nvmlUtilization_t(ctypes.Structure):
    _fields_ = [("gpu", c_uint), ("memory", c_uint)]


class c_nvmlProcessInfo_v1_t(ctypes.Structure):
    """Before driver 455; pynvml has forgotten it."""

    _fields_ = [("pid", c_uint), ("usedGpuMemory", c_ulonglong)]


class c_nvmlProcessInfo_v2_t(ctypes.Structure):
    _fields_ = [
        ("pid", c_uint),
        ("usedGpuMemory", c_ulonglong),
        ("gpuInstanceId", c_uint),
        ("computeInstanceId", c_uint),
    ]


class c_nvmlProcessUtilizationSample_t(ctypes.Structure):
    _fields_ = [
        ("pid", c_uint),
        ("timeStamp", c_ulonglong),
        ("smUtil", c_uint),
        ("memUtil", c_uint),
        ("encUtil", c_uint),
        ("decUtil", c_uint),
    ]


_library: Any = None
_lock = threading.Lock()
_functions: Dict[str, Any] = {}


def _function(name: str) -> Any:
    global _library
    with _lock:
        if _library is None:
            try:
                _library = ctypes.CDLL(LIBRARY)
            except OSError:
                raise NVMLError(NVML_ERROR_LIBRARY_NOT_FOUND) from None
        if name not in _functions:
            try:
                _functions[name] = getattr(_library, name)
            except AttributeError:  # an older driver
                raise NVMLError(NVML_ERROR_FUNCTION_NOT_FOUND) from None
        return _functions[name]


def _check(code: int) -> None:
    if code != NVML_SUCCESS:
        raise NVMLError(code)


def _ask(name: str, *arguments: Any) -> None:
    _check(_function(name)(*arguments))


def _number(name: str, handle: c_void_p, *selectors: int) -> int:
    answer = c_uint()
    _ask(name, handle, *[c_int(item) for item in selectors], byref(answer))
    return answer.value


def _text(name: str, *leading: Any) -> str:
    answer = ctypes.create_string_buffer(_TEXT)
    _ask(name, *leading, answer, c_uint(_TEXT))
    return answer.value.decode("utf-8", "replace")


def _first_of(names: Sequence[str]) -> Any:
    """The newest name that this driver's library has for a question."""
    for name in names[:-1]:
        try:
            return _function(name)
        except NVMLError as error:
            if error.value != NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
    return _function(names[-1])


def nvmlInit() -> None:
    _ask("nvmlInit_v2")


def nvmlShutdown() -> None:
    _ask("nvmlShutdown")


def nvmlErrorString(result: int) -> str:
    try:
        question = _function("nvmlErrorString")
    except NVMLError:
        return "NVML Error with code %d" % result
    question.restype = c_char_p
    return str(question(c_int(result)).decode("utf-8", "replace"))


def nvmlSystemGetDriverVersion() -> str:
    return _text("nvmlSystemGetDriverVersion")


def nvmlSystemGetCudaDriverVersion_v2() -> int:
    answer = c_int()
    _ask("nvmlSystemGetCudaDriverVersion_v2", byref(answer))
    return answer.value


def nvmlDeviceGetCount() -> int:
    answer = c_uint()
    _ask("nvmlDeviceGetCount_v2", byref(answer))
    return answer.value


def nvmlDeviceGetHandleByIndex(index: int) -> c_void_p:
    handle = c_void_p()
    _ask("nvmlDeviceGetHandleByIndex_v2", c_uint(index), byref(handle))
    return handle


def nvmlDeviceGetName(handle: c_void_p) -> str:
    return _text("nvmlDeviceGetName", handle)


def nvmlDeviceGetUUID(handle: c_void_p) -> str:
    return _text("nvmlDeviceGetUUID", handle)


def nvmlDeviceGetPciInfo(handle: c_void_p) -> nvmlPciInfo_t:
    answer = nvmlPciInfo_t()
    _ask("nvmlDeviceGetPciInfo_v3", handle, byref(answer))
    return answer


def nvmlDeviceGetMemoryInfo(handle: c_void_p, version: Optional[int] = None) -> Any:
    """Version 2 (driver 510 on) does not count what the driver keeps for itself as used."""
    answer: Any
    if version is None:
        answer = c_nvmlMemory_t()
        _ask("nvmlDeviceGetMemoryInfo", handle, byref(answer))
    else:
        answer = c_nvmlMemory_v2_t(version=version)
        _ask("nvmlDeviceGetMemoryInfo_v2", handle, byref(answer))
    return answer


def nvmlDeviceGetUtilizationRates(handle: c_void_p) -> c_nvmlUtilization_t:
    answer = c_nvmlUtilization_t()
    _ask("nvmlDeviceGetUtilizationRates", handle, byref(answer))
    return answer


def nvmlDeviceGetTemperature(handle: c_void_p, sensor: int) -> int:
    return _number("nvmlDeviceGetTemperature", handle, sensor)


def nvmlDeviceGetPowerUsage(handle: c_void_p) -> int:
    return _number("nvmlDeviceGetPowerUsage", handle)


def nvmlDeviceGetEnforcedPowerLimit(handle: c_void_p) -> int:
    return _number("nvmlDeviceGetEnforcedPowerLimit", handle)


def nvmlDeviceGetClockInfo(handle: c_void_p, kind: int) -> int:
    return _number("nvmlDeviceGetClockInfo", handle, kind)


def nvmlDeviceGetCurrentClocksThrottleReasons(handle: c_void_p) -> int:
    """A set of bits. Called …EventReasons since driver 535."""
    answer = c_ulonglong()
    question = _first_of(
        ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    )
    _check(question(handle, byref(answer)))
    return answer.value


def nvmlDeviceGetTotalEccErrors(handle: c_void_p, kind: int, counter: int) -> int:
    answer = c_ulonglong()
    _ask("nvmlDeviceGetTotalEccErrors", handle, c_int(kind), c_int(counter), byref(answer))
    return answer.value


def nvmlDeviceGetRemappedRows(handle: c_void_p) -> Tuple[int, int, int, int]:
    """Rows remapped for corrected and uncorrected errors; is one pending (until a reset); did one fail."""
    rows = [c_uint() for _ in range(4)]
    _ask("nvmlDeviceGetRemappedRows", handle, *[byref(row) for row in rows])
    return (rows[0].value, rows[1].value, rows[2].value, rows[3].value)


def nvmlDeviceGetMigMode(handle: c_void_p) -> List[int]:
    current, pending = c_uint(), c_uint()
    _ask("nvmlDeviceGetMigMode", handle, byref(current), byref(pending))
    return [current.value, pending.value]


def _processes(names: Sequence[Tuple[str, Any]], handle: c_void_p) -> List[Any]:
    question = _first_of([name for name, _structure in names])
    structure = next(row for name, row in names if _functions.get(name) is question)
    count = c_uint(0)
    code = question(handle, byref(count), None)
    # The list may grow between the two questions.
    while code == NVML_ERROR_INSUFFICIENT_SIZE:
        count = c_uint(count.value * 2 + 5)
        rows = (structure * count.value)()
        code = question(handle, byref(count), rows)
        if code == NVML_SUCCESS:
            return list(rows[: count.value])
    _check(code)
    return []


def _names_of(question: str) -> List[Tuple[str, Any]]:
    return [
        (question + "_v3", c_nvmlProcessInfo_v2_t),
        (question + "_v2", c_nvmlProcessInfo_v2_t),
        (question, c_nvmlProcessInfo_v1_t),
    ]


def nvmlDeviceGetComputeRunningProcesses(handle: c_void_p) -> List[Any]:
    return _processes(_names_of("nvmlDeviceGetComputeRunningProcesses"), handle)


def nvmlDeviceGetGraphicsRunningProcesses(handle: c_void_p) -> List[Any]:
    return _processes(_names_of("nvmlDeviceGetGraphicsRunningProcesses"), handle)


def nvmlDeviceGetMPSComputeRunningProcesses(handle: c_void_p) -> List[Any]:
    """What computes through the MPS server (from driver 460 on); not in the list of the others."""
    return _processes(_names_of("nvmlDeviceGetMPSComputeRunningProcesses"), handle)


def nvmlDeviceGetProcessUtilization(handle: c_void_p, since_microseconds: int) -> List[Any]:
    """A sample per process and moment since then; NVML says Not Found where there is none."""
    question = _function("nvmlDeviceGetProcessUtilization")
    since = c_ulonglong(since_microseconds)
    count = c_uint(0)
    code = question(handle, None, byref(count), since)
    if code == NVML_ERROR_INSUFFICIENT_SIZE:
        rows = (c_nvmlProcessUtilizationSample_t * count.value)()
        code = question(handle, rows, byref(count), since)
        if code == NVML_SUCCESS:
            return list(rows[: count.value])
    _check(code)
    return []
