"""NVIDIA hardware on the PCI bus, read from sysfs: no driver and no lspci needed."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from .node import Node

NVIDIA = "10de"
GPU_CLASSES = ("0300", "0302")
NVSWITCH_CLASS = "0680"
DEVICES = "/sys/bus/pci/devices"


def _hex(node: Node, path: str) -> Optional[str]:
    text = node.text(path)
    if text is None:
        return None
    text = text.strip().lower()
    return text[2:] if text.startswith("0x") else text


def nvidia_devices(node: Node) -> List[Dict[str, Any]]:
    devices = []
    for address in node.listdir(DEVICES):
        base = "%s/%s/" % (DEVICES, address)
        if _hex(node, base + "vendor") != NVIDIA:
            continue
        subsystem = (_hex(node, base + "subsystem_vendor"), _hex(node, base + "subsystem_device"))
        driver = node.readlink(base + "driver")
        devices.append(
            {
                "pci": address.lower(),
                "vendor_id": NVIDIA,
                "device_id": _hex(node, base + "device"),
                "subsystem_id": "%s:%s" % subsystem if all(subsystem) else None,
                "class": _hex(node, base + "class"),
                "driver_bound": driver.rstrip("/").rsplit("/", 1)[-1] if driver else None,
            }
        )
    return devices


def gpus(devices: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """The GPUs; the names come from the catalog, on the controller."""
    return [
        dict(device, name=None, chip=None, arch=None)
        for device in devices
        if (device["class"] or "").startswith(GPU_CLASSES)
    ]


def nvswitches(devices: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    return [
        {key: device[key] for key in ("pci", "vendor_id", "device_id")}
        for device in devices
        if (device["class"] or "").startswith(NVSWITCH_CLASS)
    ]
