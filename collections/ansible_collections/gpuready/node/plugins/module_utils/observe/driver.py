"""NVIDIA's driver: in the kernel, on the disk, and the libraries beside it."""

from __future__ import annotations

import re
import stat
from typing import Any, Dict, List, Optional

from .node import MissingTool, Node, ProbeError, Result, natural_key

# "NVIDIA UNIX x86_64 Kernel Module  535.261.03  Tue …" and
# "NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (…)"
_PROC_VERSION = re.compile(
    r"^NVRM version:\s+NVIDIA UNIX (?P<what>.*?Kernel Module\b.*?)\s\s*(?P<version>\d+\.\d+(?:\.\d+)*)\b",
    re.M,
)
_SONAME_VERSION = re.compile(r"\.so\.(\d+\.\d+(?:\.\d+)*)$")
_LDCONFIG = re.compile(r"^\s*(\S+)\s+\(([^)]*)\)\s+=>\s+(\S+)$")
# Where the libraries live when ldconfig does not know them.
LIBRARY_DIRECTORIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")


def loaded(node: Node) -> Optional[Dict[str, Any]]:
    """The module in the kernel now; null when none is loaded."""
    modules = [name for name in node.listdir("/sys/module") if name == "nvidia" or name.startswith("nvidia_")]
    text = node.text("/proc/driver/nvidia/version")
    if "nvidia" not in modules and text is None:
        return None
    version = None
    flavour = None
    match = _PROC_VERSION.search(text) if text else None
    if match:
        version = match.group("version")
        flavour = "open" if "open" in match.group("what").lower() else "proprietary"
    elif text:
        node.problem(
            "driver.loaded",
            "/proc/driver/nvidia/version reads unlike any known driver: %s" % text.strip()[:200],
        )
    if version is None:
        version = (node.text("/sys/module/nvidia/version") or "").strip() or None
    return {"version": version, "flavour": flavour, "modules": modules}


def parse_modinfo(text: str) -> Dict[str, str]:
    """modinfo's first value of each field."""
    fields: Dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and not line[:1].isspace():
            fields.setdefault(key.strip(), value.strip())
    return fields


def _has_module(node: Node, kernel: str) -> bool:
    """Without modinfo: does depmod's list name an nvidia module at all?"""
    text = node.text("/lib/modules/%s/modules.dep" % kernel) or ""
    return re.search(r"(^|/)nvidia\.ko(\.\w+)?:", text, re.M) is not None


def on_disk(node: Node, kernel: Optional[str]) -> Optional[Dict[str, Any]]:
    """The module that a kernel would load; null when it has none."""
    if not kernel:
        return None
    try:
        result: Result = node.run(["modinfo", "-k", kernel, "nvidia"])
    except MissingTool:
        if not _has_module(node, kernel):
            return None
        raise ProbeError("modinfo is not installed (package kmod)") from None
    if result.rc != 0:
        if "not found" in result.message:
            return None
        raise ProbeError("modinfo -k %s nvidia: %s" % (kernel, result.message))
    fields = parse_modinfo(result.out)
    path = fields.get("filename")
    if not path:
        raise ProbeError("modinfo -k %s nvidia names no file" % kernel)
    licence = fields.get("license", "")
    flavour = None
    if licence:
        flavour = "open" if "GPL" in licence or "MIT" in licence else "proprietary"
    return {
        "version": fields.get("version"),
        "flavour": flavour,
        "kernel": kernel,
        "path": path,
        "signed": bool(fields.get("sig_id") or fields.get("signer") or fields.get("sig_key")),
    }


def libraries(node: Node, names: List[str]) -> Dict[str, Optional[str]]:
    """The real file behind each soname, 64 bit first, as the dynamic loader would find it."""
    found: Dict[str, str] = {}
    try:
        text = node.output(["ldconfig", "-p"])
    except ProbeError as error:
        node.problem("driver.userspace", error)
        text = ""
    for line in text.splitlines():
        match = _LDCONFIG.match(line)
        if not match or match.group(1) not in names:
            continue
        name, flags, path = match.groups()
        if "x86-64" not in flags and "AArch64" not in flags:
            continue  # a 32-bit library serves no container
        # ldconfig's cache outlives the files it lists.
        if name not in found and node.exists(path):
            found[name] = path
    for name in names:
        for directory in LIBRARY_DIRECTORIES:
            if name not in found and node.exists("%s/%s" % (directory, name)):
                found[name] = "%s/%s" % (directory, name)
    return {name: node.real(found[name]) if name in found else None for name in names}


def library_version(path: Optional[str]) -> Optional[str]:
    match = _SONAME_VERSION.search(path or "")
    return match.group(1) if match else None


def userspace(node: Node) -> Dict[str, Any]:
    paths = libraries(node, ["libcuda.so.1", "libnvidia-ml.so.1"])
    libcuda, libnvidia_ml = paths["libcuda.so.1"], paths["libnvidia-ml.so.1"]
    return {
        # libcuda may be a forward-compatibility copy; NVML's library always belongs to the driver.
        "version": library_version(libnvidia_ml) or library_version(libcuda),
        "libcuda": libcuda,
        "libnvidia_ml": libnvidia_ml,
        "nvidia_smi": node.which("nvidia-smi"),
    }


def device_nodes(node: Node) -> List[str]:
    nodes = []
    for name in node.listdir("/dev"):
        if not name.startswith("nvidia"):
            continue
        found = node.stat("/dev/" + name)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            nodes.append("/dev/" + name)
    return sorted(nodes, key=natural_key)


def persistenced(node: Node, unit: Optional[Dict[str, str]]) -> Dict[str, Any]:
    """`unit`: what systemd says, null when systemd cannot be asked."""
    return {
        "installed": node.which("nvidia-persistenced") is not None,
        # A static unit (Ubuntu's) is started by a udev rule and cannot be enabled further.
        "enabled": None
        if unit is None
        else unit.get("UnitFileState") in ("enabled", "enabled-runtime", "static", "indirect", "alias"),
        "active": None if unit is None else unit.get("ActiveState") in ("active", "reloading"),
    }


def dkms(node: Node) -> Optional[List[Dict[str, Any]]]:
    """What `dkms status` would say, read from its tree; null when DKMS is not installed."""
    tree = "/var/lib/dkms"
    if node.which("dkms") is None:
        return None
    found: List[Dict[str, Any]] = []
    for module in node.listdir(tree):
        for version in node.listdir("%s/%s" % (tree, module)):
            base = "%s/%s/%s" % (tree, module, version)
            if version.startswith("kernel-") or not node.is_dir(base):
                continue
            built = False
            for kernel in node.listdir(base):
                if kernel in ("source", "build") or not node.is_dir("%s/%s" % (base, kernel)):
                    continue
                for arch in node.listdir("%s/%s" % (base, kernel)):
                    if not node.is_dir("%s/%s/%s/module" % (base, kernel, arch)):
                        continue
                    built = True
                    link = node.readlink("%s/%s/kernel-%s-%s" % (tree, module, kernel, arch))
                    installed = link is not None and link.split("/")[0] == version
                    found.append(
                        {
                            "module": module,
                            "version": version,
                            "kernel": kernel,
                            "status": "installed" if installed else "built",
                        }
                    )
            if not built:
                broken = not node.exists(base + "/source")
                found.append(
                    {
                        "module": module,
                        "version": version,
                        "kernel": None,
                        "status": "broken" if broken else "added",
                    }
                )
    return found
