# Apache-2.0 (see LICENSE)
"""The metrics (docs/contracts.md, section 13) out of what was read. Pure; runs on nodes: Python 3.8."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

from .exposition import Exposition

MIB = 1024 * 1024


def render(
    config: Mapping[str, Any],
    nvml: Mapping[str, Any],
    *,
    now: float,
    processes: Mapping[int, Mapping[str, Any]],
    xids: Mapping[str, Mapping[str, int]],
    known_gpus: Mapping[str, Mapping[str, Any]],
    check: Optional[Mapping[str, Any]],
    verify: Optional[Mapping[str, Any]],
    driver: Optional[Mapping[str, Any]],
) -> str:
    """`processes`: pid → {name, container}; `known_gpus`: address → labels, of this boot, lost ones too."""
    out = Exposition()
    out.add(
        "node_info", "gauge", "gpuready watches this node", 1, {"simulated": _word(config.get("simulated"))}
    )
    out.add("metrics_timestamp_seconds", "gauge", "When these metrics were read", round(now, 3))
    out.add("nvml_up", "gauge", "Does the driver's library answer (1), or not (0)?", nvml["gpus"] is not None)
    out.add("gpus_expected", "gauge", "How many GPUs the plan counts on", config["expected"].get("gpus"))
    gpus: List[Mapping[str, Any]] = nvml["gpus"] or []
    out.add(
        "gpus_found",
        "gauge",
        "How many GPUs the driver's library reads without an error",
        sum(1 for gpu in gpus if gpu["error"] is None),
    )
    if driver:
        out.add(
            "driver_info",
            "gauge",
            "The driver that the kernel runs",
            1,
            {"version": driver.get("version"), "flavour": driver.get("flavour")},
        )
    if config.get("gpu_metrics", True):
        for gpu in gpus:
            _gpu(out, gpu, processes)
        _xids(out, xids, known_gpus)
    _check(out, check)
    _verify(out, verify)
    return out.text()


def _word(value: Any) -> str:
    return "true" if value else "false"


def labels(gpu: Mapping[str, Any]) -> Dict[str, Any]:
    return {"gpu": gpu["index"], "uuid": gpu["uuid"], "name": gpu["name"]}


def _ratio(percent: Optional[float]) -> Optional[float]:
    return None if percent is None else percent / 100


def _bytes(mib: Optional[int]) -> Optional[int]:
    return None if mib is None else mib * MIB


def _hertz(mhz: Optional[int]) -> Optional[int]:
    return None if mhz is None else mhz * 1000000


def _gpu(out: Exposition, gpu: Mapping[str, Any], processes: Mapping[int, Mapping[str, Any]]) -> None:
    mine = labels(gpu)

    def gauge(name: str, text: str, value: Any, **more: Any) -> None:
        out.add(name, "gauge", text, value, dict(mine, **more))

    gauge("gpu_up", "Does this GPU answer (1), or is it lost (0)?", gpu["error"] is None)
    if gpu["error"] is not None:
        return
    gauge("gpu_info", "A GPU of this node", 1, pci=gpu["pci"], mig=_mig(gpu["mig_mode"]))
    gauge(
        "gpu_utilization_ratio", "Part of the time in which a kernel ran", _ratio(gpu["utilization_percent"])
    )
    gauge(
        "gpu_memory_utilization_ratio",
        "Part of the time in which memory was read or written",
        _ratio(gpu["memory_utilization_percent"]),
    )
    gauge("gpu_memory_used_bytes", "Memory in use", _bytes(gpu["memory_used_mib"]))
    gauge("gpu_memory_total_bytes", "Memory of the GPU", _bytes(gpu["memory_total_mib"]))
    gauge("gpu_temperature_celsius", "Temperature of the chip", gpu["temperature_c"])
    gauge("gpu_power_watts", "Power drawn", gpu["power_watts"])
    gauge("gpu_power_limit_watts", "Power that it may draw", gpu["power_limit_watts"])
    clock = "Clock frequency"
    gauge("gpu_clock_hertz", clock, _hertz(gpu["clock_sm_mhz"]), clock="sm")
    gauge("gpu_clock_hertz", clock, _hertz(gpu["clock_memory_mhz"]), clock="memory")
    for reason, holds in (gpu["throttled"] or {}).items():
        gauge("gpu_throttled", "Are the clocks lowered for this reason?", holds, reason=reason)
    for kind, errors in (gpu["ecc"] or {}).items():
        text = "Memory errors since the driver was loaded"
        out.add("gpu_ecc_errors_total", "counter", text, errors, dict(mine, kind=kind))
    rows = gpu["remapped_rows"]
    if rows is not None:
        for kind in ("corrected", "uncorrected"):
            gauge("gpu_remapped_rows", "Rows of memory replaced after errors", rows[kind], kind=kind)
        gauge("gpu_row_remap_pending", "Does a row wait for a reset to be replaced?", rows["pending"])
        gauge("gpu_row_remap_failed", "Could a row not be replaced? Such a GPU is to go", rows["failed"])
    if gpu["processes"] is None:
        return
    for kind in ("C", "G", "C+G"):
        number = sum(1 for row in gpu["processes"] if row["type"] == kind)
        gauge("gpu_processes", "Processes with a context on the GPU, by type", number, type=kind)
    for row in gpu["processes"]:
        who = processes.get(row["pid"]) or {}
        named = {
            "pid": row["pid"],
            "type": row["type"],
            "process": who.get("name"),
            "container": who.get("container"),
        }
        gauge("gpu_process_memory_bytes", "Memory that a process uses", _bytes(row["memory_mib"]), **named)
        share = (gpu["process_utilization"] or {}).get(row["pid"])
        if gpu["process_utilization"] is not None:
            text = "Part of the time in which a process kept the GPU busy"
            gauge("gpu_process_utilization_ratio", text, _ratio(share or 0), **named)


def _mig(mode: Optional[bool]) -> Optional[str]:
    return None if mode is None else "enabled" if mode else "disabled"


def _xids(
    out: Exposition,
    xids: Mapping[str, Mapping[str, int]],
    known_gpus: Mapping[str, Mapping[str, Any]],
) -> None:
    for pci in sorted(xids):
        whose = known_gpus.get(pci) or {}
        for xid in sorted(xids[pci], key=int):
            out.add(
                "gpu_xid_errors_total",
                "counter",
                "Errors that the driver wrote into the kernel's log since the boot",
                xids[pci][xid],
                dict(whose, pci=pci + ".0", xid=xid),
            )


def _check(out: Exposition, check: Optional[Mapping[str, Any]]) -> None:
    if not check:
        return
    out.add("check_ok", "gauge", "Was the node as planned at the last look?", bool(check["ok"]))
    out.add("check_timestamp_seconds", "gauge", "When that was", check["at"])
    out.add("check_seconds", "gauge", "How long it took", check["seconds"])
    for row in check["drift"]:
        what = {"layer": row["layer"], "what": row["what"]}
        text = "Is this part of the node another than planned (1), or as planned (0)?"
        out.add("drift", "gauge", text, row["drifted"], what)


def _verify(out: Exposition, verify: Optional[Mapping[str, Any]]) -> None:
    for row in (verify or {}).get("results") or []:
        who = {"workload": row["workload"]}
        out.add("verify_ok", "gauge", "Did the workload's framework see its GPUs?", bool(row["ok"]), who)
        out.add("verify_timestamp_seconds", "gauge", "When that was", row["at"], who)
        out.add("verify_seconds", "gauge", "How long its answer took", row["seconds"], who)
        out.add("verify_gpus_listed", "gauge", "How many GPUs it listed", row["gpus_listed"], who)
