"""NVML's metrics out of what a driver answers or refuses."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from gpuready.health import nvml_metrics


def test_throttle_reasons_are_pynvmls() -> None:
    for bit, name in nvml_metrics.THROTTLE_REASONS.items():
        camel = "".join(part.title() for part in name.split("_"))
        assert getattr(pynvml, f"nvmlClocksThrottleReason{camel}") == bit


class Refused(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return {3: "Not Supported", 6: "Not Found", 9: "Driver Not Loaded", 15: "GPU is lost"}[self.value]


GIB = 1024**3
NOT_AVAILABLE = 2**64 - 1


def process(pid: int, memory: int | None) -> Any:
    return SimpleNamespace(pid=pid, usedGpuMemory=memory)


def test_every_question_is_pynvmls() -> None:
    """A misspelt one would look like a driver that does not support it."""
    asked = set(re.findall(r"library\.(\w+)", Path(nvml_metrics.__file__).read_text(encoding="utf-8")))
    assert len(asked) > 20
    assert [name for name in asked if not hasattr(pynvml, name)] == []


class Library:
    """A driver with two GPUs; every question can be made to fail."""

    NVMLError = Refused
    NVML_ERROR_NOT_FOUND = 6
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_VOLATILE_ECC = 0
    NVML_MEMORY_ERROR_TYPE_CORRECTED = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VALUE_NOT_AVAILABLE_ulonglong = ctypes.c_ulonglong(-1)
    nvmlMemory_v2 = 0x02000028

    def __init__(self, **refusals: int) -> None:
        self.refusals = refusals
        self.open = 0
        self.answers: dict[str, Any] = {
            "SystemGetDriverVersion": "580.95.05",
            "SystemGetCudaDriverVersion_v2": 13000,
            "DeviceGetCount": 2,
            "DeviceGetName": b"NVIDIA A100 80GB PCIe",
            "DeviceGetUUID": "GPU-1",
            "DeviceGetPciInfo": SimpleNamespace(busId=b"00000000:3B:00.0"),
            "DeviceGetMemoryInfo": SimpleNamespace(total=80 * GIB, used=2 * GIB, free=78 * GIB),
            "DeviceGetUtilizationRates": SimpleNamespace(gpu=97, memory=41),
            "DeviceGetTemperature": 61,
            "DeviceGetPowerUsage": 285500,
            "DeviceGetEnforcedPowerLimit": 300000,
            "DeviceGetClockInfo": 1410,
            "DeviceGetCurrentClocksThrottleReasons": 0x04 | 0x40 | 0x01,
            "DeviceGetTotalEccErrors": 3,
            "DeviceGetRemappedRows": (1, 0, 1, 0),
            "DeviceGetMigMode": [0, 0],
            "DeviceGetComputeRunningProcesses": [process(700, GIB), process(701, NOT_AVAILABLE)],
            "DeviceGetMPSComputeRunningProcesses": [process(702, None)],
            "DeviceGetGraphicsRunningProcesses": [process(700, GIB), process(650, 4 * 1024**2)],
            "DeviceGetProcessUtilization": [
                SimpleNamespace(pid=700, timeStamp=5, smUtil=90),
                SimpleNamespace(pid=700, timeStamp=9, smUtil=50),
                SimpleNamespace(pid=0, timeStamp=9, smUtil=0),
            ],
        }

    def nvmlInit(self) -> None:
        if "Init" in self.refusals:
            raise Refused(self.refusals["Init"])
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if self.refusals.get("handle") and index == 1:
            raise Refused(self.refusals["handle"])
        return index

    def __getattr__(self, name: str) -> Any:
        question = name[4:]
        if question not in self.answers:
            raise AttributeError(name)

        def answer(*_arguments: Any) -> Any:
            if question in self.refusals:
                raise Refused(self.refusals[question])
            return self.answers[question]

        return answer


def test_read_tells_all_of_a_gpu() -> None:
    library = Library()
    found = nvml_metrics.read(library)
    assert library.open == 0
    assert (found["driver_version"], found["cuda_version"], found["error"]) == ("580.95.05", "13.0", None)
    assert len(found["gpus"]) == 2
    assert found["gpus"][0] == {
        "index": 0,
        "uuid": "GPU-1",
        "name": "NVIDIA A100 80GB PCIe",
        "pci": "0000:3b:00.0",
        "utilization_percent": 97,
        "memory_utilization_percent": 41,
        "memory_used_mib": 2048,
        "memory_total_mib": 81920,
        "temperature_c": 61,
        "power_watts": 285.5,
        "power_limit_watts": 300.0,
        "clock_sm_mhz": 1410,
        "clock_memory_mhz": 1410,
        "throttled": {
            "sw_power_cap": True,
            "hw_slowdown": False,
            "sync_boost": False,
            "sw_thermal_slowdown": False,
            "hw_thermal_slowdown": True,
            "hw_power_brake_slowdown": False,
        },
        "ecc": {"corrected": 3, "uncorrected": 3},
        "remapped_rows": {"corrected": 1, "uncorrected": 0, "pending": True, "failed": False},
        "mig_mode": False,
        "processes": [
            {"pid": 650, "type": "G", "memory_mib": 4},
            {"pid": 700, "type": "C+G", "memory_mib": 1024},
            {"pid": 701, "type": "C", "memory_mib": None},
            {"pid": 702, "type": "C", "memory_mib": None},
        ],
        "process_utilization": {700: 50},
        "error": None,
    }


def test_a_process_in_several_mig_instances_adds_up() -> None:
    library = Library()
    library.answers["DeviceGetComputeRunningProcesses"] = [process(7, GIB), process(7, GIB)]
    library.answers["DeviceGetGraphicsRunningProcesses"] = []
    library.answers["DeviceGetMPSComputeRunningProcesses"] = []
    assert nvml_metrics.read(library)["gpus"][0]["processes"] == [{"pid": 7, "type": "C", "memory_mib": 2048}]


def test_driver_that_cannot_be_asked_is_an_error_and_not_zero_gpus() -> None:
    found = nvml_metrics.read(Library(Init=9))
    assert found == {
        "driver_version": None,
        "cuda_version": None,
        "gpus": None,
        "error": "Driver Not Loaded",
    }


def test_lost_gpu_hides_no_other() -> None:
    gpus = nvml_metrics.read(Library(handle=15))["gpus"]
    assert gpus[0]["error"] is None and gpus[0]["utilization_percent"] == 97
    lost = {key: value for key, value in gpus[1].items() if value is not None}
    assert lost == {"index": 1, "error": "GPU is lost"}


@pytest.mark.parametrize(
    ("question", "field"),
    [
        ("DeviceGetUtilizationRates", "utilization_percent"),
        ("DeviceGetMemoryInfo", "memory_used_mib"),
        ("DeviceGetTemperature", "temperature_c"),
        ("DeviceGetPowerUsage", "power_watts"),
        ("DeviceGetEnforcedPowerLimit", "power_limit_watts"),
        ("DeviceGetClockInfo", "clock_sm_mhz"),
        ("DeviceGetCurrentClocksThrottleReasons", "throttled"),
        ("DeviceGetTotalEccErrors", "ecc"),
        ("DeviceGetRemappedRows", "remapped_rows"),
        ("DeviceGetMigMode", "mig_mode"),
        ("DeviceGetPciInfo", "pci"),
        ("DeviceGetUUID", "uuid"),
        ("DeviceGetProcessUtilization", "process_utilization"),
    ],
)
def test_what_a_gpu_does_not_support_is_unknown(question: str, field: str) -> None:
    gpu = nvml_metrics.read(Library(**{question: 3}))["gpus"][0]
    assert gpu[field] is None
    assert gpu["name"] == "NVIDIA A100 80GB PCIe"


def test_no_process_sampled_of_late_is_known() -> None:
    gpu = nvml_metrics.read(Library(DeviceGetProcessUtilization=6))["gpus"][0]
    assert gpu["process_utilization"] == {}


def test_processes_that_cannot_be_told_are_unknown() -> None:
    library = Library(DeviceGetComputeRunningProcesses=3, DeviceGetGraphicsRunningProcesses=3)
    assert nvml_metrics.read(library)["gpus"][0]["processes"] is None
