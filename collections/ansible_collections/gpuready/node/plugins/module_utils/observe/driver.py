"""NVIDIA's driver: in the kernel, on the disk, and the libraries beside it."""

from __future__ import annotations

import json
import os
import re
import stat
from typing import Any, Dict, List, Optional

from .. import driver_record, versions
from . import modprobe
from . import packages as dpkg
from .node import MissingTool, Node, ProbeError, natural_key

# "NVIDIA UNIX x86_64 Kernel Module  535.261.03  Tue …" and
# "NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (…)"
_PROC_VERSION = re.compile(
    r"^NVRM version:\s+NVIDIA UNIX (?P<what>.*?Kernel Module\b.*?)\s\s*(?P<version>\d+\.\d+(?:\.\d+)*)\b",
    re.M,
)
_SONAME_VERSION = re.compile(r"\.so\.(\d+\.\d+(?:\.\d+)*)$")
_LDCONFIG = re.compile(r"^\s*(\S+)\s+\(([^)]*)\)\s+=>\s+(\S+)$")
# Where the libraries live when ldconfig does not know them; Debian's packages link to the last ones.
LIBRARY_DIRECTORIES = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
)
# The driver's own modules, in the order in which they can be unloaded. Others (nvidia_fs, gdrdrv) use them.
MODULES = ("nvidia_drm", "nvidia_modeset", "nvidia_uvm", "nvidia_peermem", "nvidia")
# As modules.dep names the core module, in whatever directory and compression. Debian renames the files, so
# that several versions can lie side by side: nvidia-current, nvidia-current-open, nvidia-tesla-470.
_CORE_MODULE = re.compile(
    r"^(?:\S*/)?(?P<name>nvidia(?:-(?:current|tesla|legacy)(?:-[0-9]+(?:xx)?)?(?:-open)?)?)\.ko(?:\.\w+)?:",
    re.M,
)
FABRICMANAGER = re.compile(r"^nvidia-fabricmanager(-[0-9]+)?$")


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
    return {
        "version": version,
        "flavour": flavour,
        "modules": modules,
        "users": node.attempt("driver.loaded", lambda: users(node)),
    }


def users(node: Node) -> Optional[int]:
    """How often the driver's modules are in use, beyond what they hold of each other; null = unknown.

    Nobody has to be a process: the console (nvidia_drm) and other modules (nvidia_fs) count as well.
    """
    total = 0
    for name in MODULES:
        if not node.exists("/sys/module/" + name):
            continue
        text = (node.text("/sys/module/%s/refcnt" % name) or "").strip()
        if not text.isdigit():  # this kernel cannot unload modules, or is loading this one
            return None
        holders = node.listdir("/sys/module/%s/holders" % name)
        total += int(text) - sum(1 for holder in holders if holder in MODULES)
    return max(0, total)


def parse_modinfo(text: str) -> Dict[str, str]:
    """modinfo's first value of each field."""
    fields: Dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and not line[:1].isspace():
            fields.setdefault(key.strip(), value.strip())
    return fields


def core_modules(node: Node, kernel: str) -> List[str]:
    """The driver's core modules that depmod's list names for a kernel."""
    text = node.text("/lib/modules/%s/modules.dep" % kernel) or ""
    return [match.group("name") for match in _CORE_MODULE.finditer(text)]


def _modinfo(node: Node, kernel: str, name: str) -> Optional[Dict[str, str]]:
    result = node.run(["modinfo", "-k", kernel, name])
    if result.rc != 0:
        if "not found" in result.message:
            return None
        raise ProbeError("modinfo -k %s %s: %s" % (kernel, name, result.message))
    fields = parse_modinfo(result.out)
    if not fields.get("filename"):
        raise ProbeError("modinfo -k %s %s names no file" % (kernel, name))
    return fields


def on_disk(node: Node, kernel: Optional[str]) -> Optional[Dict[str, Any]]:
    """The module that a kernel would load as nvidia; null when it has none."""
    if not kernel:
        return None
    # modinfo follows no install line, modprobe does.
    name = modprobe.module_behind(node, "nvidia") or "nvidia"
    try:
        fields = _modinfo(node, kernel, name)
        if fields is None:
            # Renamed files are found by their PCI aliases even where no install line leads to them.
            others = [other for other in core_modules(node, kernel) if other != name]
            if not others:
                return None
            fields = _modinfo(node, kernel, others[0])
            if fields is None:
                raise ProbeError("modules.dep of %s is not up to date (depmod)" % kernel)
            if name != "nvidia":
                node.problem(
                    "driver.on_disk",
                    "modprobe is told to load %s, which kernel %s lacks; it has %s"
                    % (name, kernel, ", ".join(others)),
                )
    except MissingTool:
        if not core_modules(node, kernel):
            return None
        raise ProbeError("modinfo is not installed (package kmod)") from None
    licence = fields.get("license", "")
    flavour = None
    if licence:
        flavour = "open" if "GPL" in licence or "MIT" in licence else "proprietary"
    return {
        "version": fields.get("version"),
        "flavour": flavour,
        "kernel": kernel,
        "path": fields["filename"],
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


def device_access(node: Node) -> Dict[str, Dict[str, Any]]:
    """Who may open each of the driver's device files, and what each stands for."""
    users, groups = _names(node, "/etc/passwd"), _names(node, "/etc/group")
    access: Dict[str, Dict[str, Any]] = {}
    for path in device_nodes(node):
        found = node.stat(path)
        if found is None:
            continue
        number = found.st_rdev
        access[path] = {
            "mode": "%04o" % stat.S_IMODE(found.st_mode),
            "owner": "%s:%s"
            % (users.get(found.st_uid, found.st_uid), groups.get(found.st_gid, found.st_gid)),
            "device": "%d:%d" % (os.major(number), os.minor(number)) if stat.S_ISCHR(found.st_mode) else None,
        }
    return access


def _names(node: Node, path: str) -> Dict[int, str]:
    """Number → name, of /etc/passwd or /etc/group."""
    found: Dict[int, str] = {}
    for line in (node.text(path) or "").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2].isdigit():
            found.setdefault(int(fields[2]), fields[0])
    return found


def majors(node: Node) -> Optional[Dict[str, int]]:
    """The major numbers that the kernel gave to the driver's devices; null = unknown."""
    text = node.text("/proc/devices")
    if text is None:
        return None
    characters = text.partition("Block devices:")[0]
    return {name: int(major) for major, name in re.findall(r"^\s*(\d+) (nvidia\S*)$", characters, re.M)}


def _unit_state(unit: Optional[Dict[str, str]]) -> Dict[str, Optional[bool]]:
    """`unit`: what systemd says, null when systemd cannot be asked."""
    return {
        # A static unit (Ubuntu's persistenced) is started by a udev rule and cannot be enabled further.
        "enabled": None
        if unit is None
        else unit.get("UnitFileState") in ("enabled", "enabled-runtime", "static", "indirect", "alias"),
        "active": None if unit is None else unit.get("ActiveState") in ("active", "reloading"),
    }


def persistenced(node: Node, unit: Optional[Dict[str, str]]) -> Dict[str, Any]:
    return dict({"installed": node.which("nvidia-persistenced") is not None}, **_unit_state(unit))


def fabricmanager(
    node: Node, found: Optional[List[dpkg.Package]], unit: Optional[Dict[str, str]]
) -> Dict[str, Any]:
    """Of the driver's very version, or the NVSwitches stay down."""
    version = None
    for package in found or []:
        if FABRICMANAGER.match(package.name) and package.status not in ("not-installed", "config-files"):
            version = versions.driver_version(package.version)
    installed = version is not None or node.which("nv-fabricmanager") is not None
    if not installed and found is None:
        return {"installed": None, "version": None, "enabled": None, "active": None}
    if not installed:
        # systemd remembers units whose files are gone until it is reloaded.
        return {"installed": False, "version": None, "enabled": None, "active": None}
    return dict({"installed": True, "version": version}, **_unit_state(unit))


def record(node: Node) -> Optional[Dict[str, Any]]:
    """What gpuready wrote down of its own doing; null when there is nothing."""
    text = node.text(driver_record.PATH)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ProbeError("%s is not valid JSON: %s" % (driver_record.PATH, error)) from None
    if not isinstance(content, dict):
        raise ProbeError("%s is not a JSON object" % driver_record.PATH)
    content, spoilt = driver_record.repaired(content)
    for complaint in spoilt:
        node.problem("driver.record", "%s: %s" % (driver_record.PATH, complaint))
    return driver_record.contract(content)


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
