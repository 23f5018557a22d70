"""The driver's own word about its GPUs, through NVML."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple

from .node import MissingTool, Node, ProbeError

MIB = 1024 * 1024
FIELDS = (
    "index",
    "uuid",
    "name",
    "pci.bus_id",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "temperature.gpu",
    "driver_version",
    "mig.mode.current",
    "compute_cap",
)
# Fields that older nvidia-smi do not have (compute_cap came with 510, MIG with 450).
_LOST = re.compile(r"Unable to determine the device handle|GPU is lost")
_UNKNOWN_FIELD = re.compile(r'Field "([^"]+)" is not a valid field')

Answer = Tuple[Optional[List[Dict[str, Any]]], Dict[str, Any]]


def pci_address(bus_id: str) -> str:
    """NVML writes 00000000:3B:00.0, sysfs 0000:3b:00.0."""
    text = bus_id.strip().lower()
    match = re.match(r"^([0-9a-f]+):([0-9a-f]+:[0-9a-f]+\.[0-9a-f])$", text)
    return "%04x:%s" % (int(match.group(1), 16), match.group(2)) if match else text


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def ask_pynvml(pynvml: Any) -> Answer:
    """Through the bindings; NVML's errors are handed on verbatim."""
    facts: Dict[str, Any] = {"source": "pynvml", "driver_version": None, "cuda_version": None, "error": None}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        facts["error"] = str(error)
        return None, facts
    try:
        facts["driver_version"] = _text(pynvml.nvmlSystemGetDriverVersion())
        cuda = _optional(pynvml, lambda: pynvml.nvmlSystemGetCudaDriverVersion_v2())
        if cuda:
            facts["cuda_version"] = "%d.%d" % (cuda // 1000, cuda % 1000 // 10)
        devices = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                devices.append(_pynvml_device(pynvml, index))
            except pynvml.NVMLError as error:  # one lost GPU must not hide the others
                facts["error"] = "GPU %d: %s" % (index, error)
        return devices, facts
    except pynvml.NVMLError as error:
        facts["error"] = str(error)
        return None, facts
    finally:
        _optional(pynvml, pynvml.nvmlShutdown)


def _optional(pynvml: Any, question: Any) -> Any:
    try:
        return question()
    except (pynvml.NVMLError, AttributeError):
        return None


def _pynvml_device(pynvml: Any, index: int) -> Dict[str, Any]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = _optional(pynvml, lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    capability = _optional(pynvml, lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    utilization = _optional(pynvml, lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    mig = _optional(pynvml, lambda: pynvml.nvmlDeviceGetMigMode(handle))
    pci = _optional(pynvml, lambda: pynvml.nvmlDeviceGetPciInfo(handle))
    return {
        "index": index,
        "uuid": _optional(pynvml, lambda: _text(pynvml.nvmlDeviceGetUUID(handle))),
        "name": _optional(pynvml, lambda: _text(pynvml.nvmlDeviceGetName(handle))),
        "pci": pci_address(_text(pci.busId)) if pci is not None else None,
        "memory_total_mib": int(memory.total) // MIB if memory is not None else None,
        "memory_used_mib": int(memory.used) // MIB if memory is not None else None,
        "compute_capability": "%d.%d" % tuple(capability) if capability else None,
        "utilization_percent": utilization.gpu if utilization is not None else None,
        "temperature_c": _optional(
            pynvml, lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
        ),
        "mig_mode": bool(mig[0]) if mig is not None else None,
        "mig_instances": _mig_instances(pynvml, handle) if mig is not None and mig[0] else None,
    }


def _mig_instances(pynvml: Any, handle: Any) -> Optional[int]:
    """How many MIG devices a GPU is cut into; null when that cannot be asked."""
    slots = _optional(pynvml, lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    if slots is None:
        return None
    found = [
        _optional(pynvml, lambda slot=slot: pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot))
        for slot in range(slots)
    ]
    return sum(1 for device in found if device is not None)


def _value(text: str) -> Optional[str]:
    """nvidia-smi's ways of saying nothing: [N/A], [Not Supported], [Unknown Error], empty."""
    text = text.strip()
    return (
        None if not text or text in ("N/A", "ERR!") or (text.startswith("[") and text.endswith("]")) else text
    )


def _number(text: Optional[str]) -> Optional[int]:
    try:
        return int(float(text)) if text is not None else None
    except ValueError:
        return None


def parse_csv(text: str, fields: List[str]) -> Tuple[List[Dict[str, Any]], Optional[str]]:
    """The devices, and the driver's version."""
    devices = []
    driver_version = None
    for line in text.splitlines():
        values = [part.strip() for part in line.split(",")]
        if not line.strip():
            continue
        if len(values) != len(fields):
            raise ProbeError(
                "nvidia-smi answers %d values where %d were asked for: %s" % (len(values), len(fields), line)
            )
        row: Dict[str, Optional[str]] = {name: _value(values[at]) for at, name in enumerate(fields)}
        driver_version = row.get("driver_version") or driver_version
        mig = row.get("mig.mode.current")
        devices.append(
            {
                "index": _number(row.get("index")),
                "uuid": row.get("uuid"),
                "name": row.get("name"),
                "pci": pci_address(row["pci.bus_id"] or "") or None,
                "memory_total_mib": _number(row.get("memory.total")),
                "memory_used_mib": _number(row.get("memory.used")),
                "compute_capability": row.get("compute_cap"),
                "utilization_percent": _number(row.get("utilization.gpu")),
                "temperature_c": _number(row.get("temperature.gpu")),
                "mig_mode": mig == "Enabled" if mig is not None else None,
                "mig_instances": None,
            }
        )
    return devices, driver_version


def ask_nvidia_smi(node: Node) -> Answer:
    """Through nvidia-smi's query interface; its table and headers change with every branch."""
    facts: Dict[str, Any] = {
        "source": "nvidia-smi",
        "driver_version": None,
        "cuda_version": None,
        "error": None,
    }
    fields = list(FIELDS)
    while True:
        result = node.run(["nvidia-smi", "--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits"])
        unknown = _UNKNOWN_FIELD.search(result.out + result.err)
        if result.rc == 0 or not unknown or unknown.group(1) not in fields:
            break
        fields.remove(unknown.group(1))
    if result.rc != 0 or "No devices were found" in result.out:
        # nvidia-smi explains itself on stdout.
        facts["error"] = (result.out.strip() or result.err.strip() or "exit status %d" % result.rc)[:2000]
        if "No devices were found" in result.out:
            return [], facts
        return (_one_by_one(node, fields, facts) if _LOST.search(facts["error"]) else None), facts
    devices, facts["driver_version"] = parse_csv(result.out, fields)
    if any(device["mig_mode"] for device in devices):
        _count_mig_instances(node, devices)
    return devices, facts


def parse_list(text: str) -> Dict[int, int]:
    """`nvidia-smi -L`: GPU index → how many MIG devices are listed below it."""
    found: Dict[int, int] = {}
    index = None
    for line in text.splitlines():
        gpu = re.match(r"^GPU (\d+):", line)
        if gpu:
            index = int(gpu.group(1))
            found[index] = 0
        elif index is not None and re.match(r"^\s+MIG \S+\s+Device\s+\d+:", line):
            found[index] += 1
    return found


def _count_mig_instances(node: Node, devices: List[Dict[str, Any]]) -> None:
    """--query-gpu knows no MIG devices, so that a second question is needed where MIG is on."""
    counted = node.attempt("driver.nvml", lambda: parse_list(node.output(["nvidia-smi", "-L"])), {})
    for device in devices:
        if device["mig_mode"]:
            device["mig_instances"] = counted.get(device["index"])


def _one_by_one(node: Node, fields: List[str], facts: Dict[str, Any]) -> Optional[List[Dict[str, Any]]]:
    """The GPUs that still answer beside one that is lost; null when none does."""
    devices: List[Dict[str, Any]] = []
    for address in node.listdir("/proc/driver/nvidia/gpus"):
        command = ["nvidia-smi", "--id=" + address, "--query-gpu=" + ",".join(fields)]
        result = node.run([*command, "--format=csv,noheader,nounits"])
        if result.rc == 0:
            found, facts["driver_version"] = parse_csv(result.out, fields)
            devices += found
    return devices or None


def nvml(node: Node) -> Answer:
    """Devices (null when NVML cannot be asked) and where the answer comes from."""
    if node.root == "/":
        try:
            import pynvml
        except Exception:  # not only ImportError: a broken pynvml is no reason to fail
            pass
        else:
            return ask_pynvml(pynvml)
    try:
        return ask_nvidia_smi(node)
    except MissingTool:
        return None, {"source": None, "driver_version": None, "cuda_version": None, "error": None}
