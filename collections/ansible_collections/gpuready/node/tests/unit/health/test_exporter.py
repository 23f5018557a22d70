"""The metrics: what NVML, the checks and the verifications say, as Prometheus reads it."""

from __future__ import annotations

from typing import Any

from gpuready.health import exporter, nvml_metrics
from test_exposition import read
from test_nvml import Library

CONFIG: dict[str, Any] = {"simulated": True, "gpu_metrics": True, "expected": {"gpus": 2}}
CHECK = {
    "ok": False,
    "at": 1790000000,
    "seconds": 0.2,
    "drift": [
        {"layer": "host", "what": "driver_loaded", "drifted": True, "expected": "580", "found": "575"},
        {"layer": "framework", "what": "image:t:1", "drifted": False, "expected": "i", "found": "i"},
    ],
}
VERIFY = {"results": [{"workload": "tf", "ok": True, "at": 1790000001, "seconds": 3.4, "gpus_listed": 2}]}


def library(**refusals: int) -> Library:
    found = Library(**refusals)
    found.answers["DeviceGetProcessUtilization"] = found.answers["DeviceGetProcessUtilization"][:2]
    return found


def rendered(
    nvml: dict[str, Any] | None = None, **changes: Any
) -> dict[str, list[tuple[dict[str, str], float]]]:
    nvml = nvml or nvml_metrics.read(library())
    for gpu in nvml["gpus"] or []:
        gpu["uuid"] = gpu["uuid"] and f"GPU-{gpu['index']}"
    known: dict[str, Any] = {
        "now": 1790000002.5,
        "processes": {700: {"name": "python3", "container": "jupyter"}},
        "xids": {"0000:3b:00": {"79": 1}},
        "known_gpus": {"0000:3b:00": {"gpu": 0, "uuid": "GPU-0", "name": "A100"}},
        "check": CHECK,
        "verify": VERIFY,
        "driver": {"version": "580.95.05", "flavour": "open"},
    }
    return read(exporter.render({**CONFIG, **changes.pop("config", {})}, nvml, **{**known, **changes}))


def value(metrics: dict[str, list[tuple[dict[str, str], float]]], metric: str, /, **labels: str) -> float:
    found = [number for have, number in metrics["gpuready_" + metric] if labels.items() <= have.items()]
    assert len(found) == 1, (metric, labels, metrics["gpuready_" + metric])
    return found[0]


def test_units_are_prometheus_own() -> None:
    metrics = rendered()
    assert value(metrics, "gpu_utilization_ratio", gpu="0") == 0.97
    assert value(metrics, "gpu_memory_used_bytes", gpu="1") == 2 * 1024**3
    assert value(metrics, "gpu_memory_total_bytes", gpu="1", uuid="GPU-1") == 80 * 1024**3
    assert value(metrics, "gpu_clock_hertz", gpu="0", clock="sm") == 1.41e9
    assert value(metrics, "gpu_power_watts", gpu="0") == 285.5
    assert value(metrics, "gpu_ecc_errors_total", gpu="0", kind="uncorrected") == 3
    assert value(metrics, "gpu_throttled", gpu="0", reason="hw_thermal_slowdown") == 1
    assert value(metrics, "gpu_throttled", gpu="0", reason="hw_slowdown") == 0
    assert value(metrics, "gpu_row_remap_pending", gpu="0") == 1


def test_processes_tell_who_computes() -> None:
    metrics = rendered()
    who = {"gpu": "0", "pid": "700", "process": "python3", "container": "jupyter", "type": "C+G"}
    assert value(metrics, "gpu_process_memory_bytes", **who) == 1024**3
    assert value(metrics, "gpu_process_utilization_ratio", **who) == 0.5
    assert value(metrics, "gpu_processes", gpu="0", type="C") == 2
    # What a process uses is not known: it is counted, and has no memory of 0.
    assert [row for row in metrics["gpuready_gpu_process_memory_bytes"] if row[0]["pid"] == "701"] == []


def test_checks_drift_and_verifications_are_told() -> None:
    metrics = rendered()
    assert value(metrics, "check_ok") == 0
    assert value(metrics, "check_timestamp_seconds") == 1790000000
    assert value(metrics, "drift", layer="host", what="driver_loaded") == 1
    assert value(metrics, "drift", what="image:t:1") == 0
    assert value(metrics, "verify_ok", workload="tf") == 1
    assert value(metrics, "verify_timestamp_seconds", workload="tf") == 1790000001
    assert value(metrics, "node_info", simulated="true") == 1
    assert value(metrics, "driver_info", version="580.95.05", flavour="open") == 1
    assert value(metrics, "gpu_xid_errors_total", gpu="0", xid="79", pci="0000:3b:00.0") == 1
    assert value(metrics, "metrics_timestamp_seconds") == 1790000002.5


def test_a_driver_that_does_not_answer_is_no_idle_gpu() -> None:
    metrics = rendered(nvml_metrics.read(library(Init=9)))
    assert value(metrics, "nvml_up") == 0
    assert value(metrics, "gpus_found") == 0
    assert value(metrics, "gpus_expected") == 2
    assert [name for name in metrics if name.startswith("gpuready_gpu_") and "xid" not in name] == []


def test_a_lost_gpu_is_told_and_has_no_values() -> None:
    nvml = nvml_metrics.read(library(handle=15))
    nvml["gpus"][1].update(uuid="GPU-1", name="Tesla T4")  # as the program knows it from before
    metrics = rendered(nvml)
    assert value(metrics, "gpu_up", gpu="1", name="Tesla T4") == 0
    assert value(metrics, "gpu_up", gpu="0") == 1
    assert value(metrics, "gpus_found") == 1
    assert [row for row in metrics["gpuready_gpu_temperature_celsius"] if row[0]["gpu"] == "1"] == []


def test_with_a_dcgm_exporter_only_the_rest_is_told() -> None:
    metrics = rendered(config={"gpu_metrics": False})
    assert [name for name in metrics if name.startswith("gpuready_gpu_")] == []
    assert value(metrics, "check_ok") == 0
    assert value(metrics, "gpus_found") == 2


def test_before_the_first_check_nothing_is_claimed() -> None:
    metrics = rendered(check=None, verify=None, driver=None, config={"expected": {"gpus": None}})
    for name in ("check_ok", "drift", "verify_ok", "driver_info", "gpus_expected"):
        assert f"gpuready_{name}" not in metrics
