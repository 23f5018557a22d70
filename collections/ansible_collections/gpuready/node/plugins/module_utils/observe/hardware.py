"""What a machine is made of, with the numbers that its makers printed on the parts.

Null is what the machine does not tell. Runs on nodes: Python 3.8.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from typing import Any, Dict, List, Optional, Set, Tuple

from . import pci, smbios
from .host import memory
from .node import Node

TABLES = "/sys/firmware/dmi/tables"
IDENTITY = "/sys/class/dmi/id"
DEVICE_TREE = "/sys/firmware/devicetree/base"
MIB = 1024 * 1024
#: A lane's rate in GT/s, as sysfs writes it → PCI Express generation.
GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
#: The kernel's own, and what containers and virtual machines get.
_NO_DISK = re.compile(r"^(?:loop|ram|zram|dm-|md|sr|fd|nbd|zd)")


def hardware(node: Node, library: Any = None) -> Dict[str, Any]:
    """Everything; `library`: NVML's bindings, null where there are none."""
    found = machine(node)
    found["cpu"] = node.attempt("hardware.cpu", lambda: cpu(node), default=dict.fromkeys(CPU_FIELDS))
    found["memory_mib"] = node.attempt("hardware.memory", lambda: memory(node)["total_mib"])
    found["gpus"] = node.attempt("hardware.gpus", lambda: gpus(node, library), default=[])
    found["nics"] = node.attempt("hardware.nics", lambda: nics(node), default=[])
    found["infiniband"] = node.attempt("hardware.infiniband", lambda: infiniband(node), default=[])
    found["disks"] = node.attempt("hardware.disks", lambda: disks(node), default=[])
    return found


def _word(node: Node, path: str) -> Optional[str]:
    """A sysfs file's text; null where there is none, or the kernel has no answer (a link that is down)."""
    try:
        text = node.text(path)
    except OSError:
        return None
    return None if text is None else text.replace("\0", "").strip() or None


def _number(node: Node, path: str) -> Optional[int]:
    text = _word(node, path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


# -- the machine itself ---------------------------------------------------------------------------------


def machine(node: Node) -> Dict[str, Any]:
    """Maker, model, serial number, firmware and memory modules: SMBIOS, or what the kernel kept of it."""
    table = node.attempt("hardware.smbios", lambda: node.data(TABLES + "/DMI"))
    entry = node.attempt("hardware.smbios", lambda: node.data(TABLES + "/smbios_entry_point"))
    found = smbios.read(table or b"", entry or b"")

    def kept(name: str) -> Optional[str]:
        return smbios.meaningful(_word(node, "%s/%s" % (IDENTITY, name)))

    for key, name in (
        ("vendor", "sys_vendor"),
        ("product", "product_name"),
        ("serial", "product_serial"),
        ("uuid", "product_uuid"),
        ("asset_tag", "chassis_asset_tag"),
    ):
        found[key] = found[key] or kept(name)
    for part, prefix, names in (
        ("board", "board_", {"vendor": "vendor", "product": "name", "serial": "serial"}),
        ("bios", "bios_", {"vendor": "vendor", "version": "version", "date": "date"}),
    ):
        for key, name in names.items():
            found[part][key] = found[part][key] or kept(prefix + name)
    # Machines without SMBIOS (small Arm boards) have a device tree.
    found["product"] = found["product"] or _word(node, DEVICE_TREE + "/model")
    found["serial"] = found["serial"] or _word(node, DEVICE_TREE + "/serial-number")
    return found


CPU_FIELDS = ("model", "sockets", "cores", "threads")


def cpu(node: Node) -> Dict[str, Any]:
    """Model, and how many sockets, cores and hardware threads the kernel uses."""
    text = node.text("/proc/cpuinfo") or ""
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.M)
    sockets: Set[str] = set()
    cores: Set[Tuple[str, str]] = set()
    threads = 0
    for name in node.listdir("/sys/devices/system/cpu"):
        if not re.match(r"^cpu\d+$", name):
            continue
        base = "/sys/devices/system/cpu/%s/topology/" % name
        socket, core = _word(node, base + "physical_package_id"), _word(node, base + "core_id")
        if socket is None or core is None:  # switched off
            continue
        threads += 1
        sockets.add(socket)
        cores.add((socket, core))
    return {
        "model": model.group(1).strip() if model else None,
        "sockets": len(sockets) or None,
        "cores": len(cores) or None,
        "threads": threads or len(re.findall(r"^processor\s*:", text, re.M)) or None,
    }


# -- GPUs -----------------------------------------------------------------------------------------------

GPU_FIELDS = (
    "index",
    "pci",
    "name",
    "uuid",
    "serial",
    "part_number",
    "vbios",
    "memory_total_mib",
    "pcie",
    "error",
)


def gpus(node: Node, library: Any) -> List[Dict[str, Any]]:
    """Every GPU on the bus, and what NVML says of it, in its order; those that it lacks come last."""
    told = {gpu["pci"]: gpu for gpu in from_nvml(node, library)}
    for device in pci.gpus(pci.nvidia_devices(node)):
        gpu = told.setdefault(device["pci"], dict(dict.fromkeys(GPU_FIELDS), pci=device["pci"]))
        gpu["pcie"] = gpu["pcie"] or link(node, device["pci"])
    return sorted(told.values(), key=lambda gpu: (gpu["index"] is None, gpu["index"] or 0, gpu["pci"] or ""))


def link(node: Node, address: str) -> Optional[Dict[str, Optional[int]]]:
    """The PCI Express link as the kernel sees it: what it is, and what the GPU could."""
    base = "%s/%s/" % (pci.DEVICES, address)
    found: Dict[str, Optional[int]] = {}
    for key, prefix in (("", "current_"), ("max_", "max_")):
        speed = re.match(r"([\d.]+) GT/s", _word(node, base + prefix + "link_speed") or "")
        width = _number(node, base + prefix + "link_width")
        found[key + "generation"] = GENERATIONS.get(float(speed.group(1))) if speed else None
        # 255: the kernel does not know, as in a virtual machine.
        found[key + "width"] = None if width in (0, 255) else width
    return found if any(found.values()) else None


def from_nvml(node: Node, library: Any) -> List[Dict[str, Any]]:
    """What NVML says; nothing, and a problem of the node, where it cannot be asked."""
    if library is None:
        return []
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        node.problem("hardware.nvml", str(error))
        return []
    found = []
    try:
        for index in range(library.nvmlDeviceGetCount()):
            found.append(_gpu(node, library, index))
    except library.NVMLError as error:
        node.problem("hardware.nvml", str(error))
    finally:
        library.nvmlShutdown()
    return found


def _gpu(node: Node, library: Any, index: int) -> Dict[str, Any]:
    gpu: Dict[str, Any] = dict(dict.fromkeys(GPU_FIELDS), index=index)
    mismatch = getattr(library, "NVMLLibraryMismatchError", AttributeError)
    refusals = (library.NVMLError, AttributeError, mismatch)

    def ask(name: str) -> Any:
        try:
            answer = getattr(library, name)(handle)
        except refusals:
            return None
        return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer

    try:
        handle = library.nvmlDeviceGetHandleByIndex(index)
        bus = library.nvmlDeviceGetPciInfo(handle).busId
    except library.NVMLError as error:
        gpu["error"] = str(error)
        node.problem("hardware.nvml", "GPU %d: %s" % (index, error))
        return gpu
    text = (bus.decode() if isinstance(bus, bytes) else str(bus)).strip().lower()
    domain, _colon, rest = text.partition(":")
    memory_info = ask("nvmlDeviceGetMemoryInfo")
    links = {
        "generation": ask("nvmlDeviceGetCurrPcieLinkGeneration"),
        "width": ask("nvmlDeviceGetCurrPcieLinkWidth"),
        "max_generation": ask("nvmlDeviceGetMaxPcieLinkGeneration"),
        "max_width": ask("nvmlDeviceGetMaxPcieLinkWidth"),
    }
    gpu.update(
        pci="%04x:%s" % (int(domain, 16), rest),
        name=ask("nvmlDeviceGetName"),
        uuid=ask("nvmlDeviceGetUUID"),
        serial=smbios.meaningful(ask("nvmlDeviceGetSerial")),
        part_number=smbios.meaningful(ask("nvmlDeviceGetBoardPartNumber")),
        vbios=ask("nvmlDeviceGetVbiosVersion"),
        memory_total_mib=int(memory_info.total) // MIB if memory_info is not None else None,
        pcie=links if any(links.values()) else None,
    )
    return gpu


# -- network and disks ----------------------------------------------------------------------------------


def nics(node: Node) -> List[Dict[str, Any]]:
    """Network cards: what has a device behind it."""
    found = []
    for name in node.listdir("/sys/class/net"):
        base = "/sys/class/net/%s/" % name
        if not node.exists(base + "device"):
            continue
        speed = _number(node, base + "speed")
        driver = node.readlink(base + "device/driver")
        found.append(
            {
                "name": name,
                "mac": _word(node, base + "address"),
                # -1 and an error: the link is down.
                "speed_mbps": speed if speed and speed > 0 else None,
                "driver": driver.rsplit("/", 1)[-1] if driver else None,
            }
        )
    return found


def infiniband(node: Node) -> List[Dict[str, Any]]:
    """InfiniBand and RoCE ports."""
    found = []
    for device in node.listdir("/sys/class/infiniband"):
        base = "/sys/class/infiniband/%s/" % device
        for port in node.listdir(base + "ports"):
            state = _word(node, "%sports/%s/state" % (base, port))
            found.append(
                {
                    "name": device,
                    "port": int(port) if port.isdigit() else None,
                    "guid": _word(node, base + "node_guid"),
                    "state": state.split(":")[-1].strip().lower() if state else None,
                    "rate": _word(node, "%sports/%s/rate" % (base, port)),
                }
            )
    return found


def disks(node: Node) -> List[Dict[str, Any]]:
    """Disks with their makers' numbers."""
    found = []
    for name in node.listdir("/sys/block"):
        base = "/sys/block/%s/" % name
        sectors = _number(node, base + "size")
        if _NO_DISK.match(name) or not sectors:
            continue
        found.append(
            {
                "name": name,
                "model": _word(node, base + "device/model"),
                "serial": smbios.meaningful(_word(node, base + "device/serial")),
                "size_mib": sectors * 512 // MIB,
            }
        )
    return found


# -- who it is ------------------------------------------------------------------------------------------


def host_keys(node: Node) -> List[str]:
    """The fingerprints of the SSH server's own keys, as ssh-keygen -l writes them."""
    found = []
    for name in node.listdir("/etc/ssh"):
        if not (name.startswith("ssh_host_") and name.endswith("_key.pub")):
            continue
        words = (node.text("/etc/ssh/" + name) or "").split()
        try:
            blob = base64.b64decode(words[1], validate=True)
            struct.unpack_from(">I", blob)
        except (IndexError, ValueError, struct.error):
            continue
        digest = base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")
        found.append("SHA256:" + digest)
    return found
