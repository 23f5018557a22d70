"""The machine itself: its system, kernels, boot and Secure Boot."""

from __future__ import annotations

import os
import re
import shlex
import socket
from typing import Any, Dict, List, Optional

from .node import Node, ProbeError, natural_key

# uname's machine → dpkg's name, for the case that dpkg cannot be asked.
DPKG_ARCH = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el", "i686": "i386", "armv7l": "armhf"}
EFI_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"


def hostname(node: Node) -> Optional[str]:
    if node.root == "/":
        return socket.gethostname()
    name = node.text("/proc/sys/kernel/hostname") or node.text("/etc/hostname")
    return name.strip() if name else None


def os_release(node: Node) -> Dict[str, Any]:
    """Reads os-release the way a shell would, without running one."""
    text = node.text("/etc/os-release")
    if text is None:
        text = node.text("/usr/lib/os-release")
    if text is None:
        raise ProbeError("neither /etc/os-release nor /usr/lib/os-release exists")
    values: Dict[str, str] = {}
    for line in text.splitlines():
        key, equals, raw = line.strip().partition("=")
        if not equals or key.startswith("#"):
            continue
        try:
            words = shlex.split(raw)
        except ValueError:  # an unbalanced quote spoils one line, not the file
            words = [raw.strip("\"'")]
        values[key] = " ".join(words)
    return {
        "id": values.get("ID"),
        "version_id": values.get("VERSION_ID"),
        "codename": values.get("VERSION_CODENAME") or values.get("UBUNTU_CODENAME"),
        "pretty_name": values.get("PRETTY_NAME"),
    }


def running_kernel(node: Node) -> Optional[str]:
    if node.root == "/":
        return os.uname().release
    text = node.text("/proc/sys/kernel/osrelease")
    return text.strip() if text else None


def machine_arch(node: Node) -> Optional[str]:
    if node.root == "/":
        return DPKG_ARCH.get(os.uname().machine, os.uname().machine)
    return None


def boot_kernels(node: Node) -> List[str]:
    """The kernels that /boot offers, oldest first."""
    kernels = []
    for name in node.listdir("/boot"):
        if not name.startswith("vmlinuz-") or name.endswith((".old", ".bak", ".efi.signed", "-rescue")):
            continue
        if ".dpkg-" in name or not node.is_file("/boot/" + name):
            continue
        kernels.append(name[len("vmlinuz-") :])
    return sorted(kernels, key=natural_key)


def kernels_with_headers(node: Node) -> List[str]:
    found = set()
    for kernel in node.listdir("/lib/modules"):
        build = "/lib/modules/%s/build" % kernel
        # A dangling or half-removed tree is of no use to DKMS.
        if node.is_file(build + "/Makefile"):
            found.add(kernel)
    prefix = "linux-headers-"
    for name in node.listdir("/usr/src"):
        kernel = name[len(prefix) :]
        if not name.startswith(prefix) or not node.is_file("/usr/src/%s/Makefile" % name):
            continue
        # linux-headers-6.1.0-50-common and linux-headers-5.15.0-157 are shared halves, no kernel's own.
        if kernel.endswith("-common") or re.match(r"^[\d.]+-\d+$", kernel):
            continue
        found.add(kernel)
    return sorted(found, key=natural_key)


def kernel(node: Node) -> Dict[str, Any]:
    installed = boot_kernels(node)
    return {
        "running": running_kernel(node),
        "next_boot": installed[-1] if installed else None,
        "installed": installed,
        "headers": kernels_with_headers(node),
    }


def boot_id(node: Node) -> Optional[str]:
    text = node.text("/proc/sys/kernel/random/boot_id")
    return text.strip() if text else None


def uptime(node: Node) -> Optional[float]:
    text = node.text("/proc/uptime")
    return float(text.split()[0]) if text else None


def _efi_flag(node: Node, name: str) -> Optional[bool]:
    """The byte after an EFI variable's four attribute bytes."""
    data = node.data("/sys/firmware/efi/efivars/%s-%s" % (name, EFI_GLOBAL))
    if data is None or len(data) < 5:
        return None
    return data[4] == 1


def secure_boot(node: Node) -> Optional[bool]:
    if not node.is_dir("/sys/firmware/efi"):
        return False
    enabled = _efi_flag(node, "SecureBoot")
    if enabled is None:
        if not node.listdir("/sys/firmware/efi/efivars"):
            node.problem("host.secure_boot", "/sys/firmware/efi/efivars is empty or not mounted")
        return None
    # In setup mode the firmware checks no signature, whatever SecureBoot says.
    return enabled and not _efi_flag(node, "SetupMode")


def initramfs(node: Node, next_boot: Optional[str]) -> Dict[str, Any]:
    tool = None
    for name in ("update-initramfs", "dracut"):
        tool = node.which(name)
        if tool:
            break
    present = None
    if next_boot:
        present = any(
            node.is_file("/boot/" + name % next_boot)
            for name in ("initrd.img-%s", "initramfs-%s.img", "initrd-%s")
        )
    return {"present": present, "tool": tool}
