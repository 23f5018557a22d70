"""The machine itself: its system, kernels, boot and Secure Boot."""

from __future__ import annotations

import os
import re
import shlex
import socket
import stat
from typing import Any, Dict, List, Optional

from .node import MissingTool, Node, ProbeError, natural_key

# uname's machine → dpkg's name, for the case that dpkg cannot be asked.
DPKG_ARCH = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el", "i686": "i386", "armv7l": "armhf"}
EFI_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
# shim's list of the machine owner's keys, as the running system sees it; the certificates lie in it whole.
MOK_LIST = "/sys/firmware/efi/efivars/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23"
DKMS_SETTINGS = "/etc/dkms/framework.conf"
MOK_UBUNTU, MOK_DKMS = "/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub"


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


def usable_headers(node: Node, tree: str) -> bool:
    """Can a module be built with this tree? A dangling or half-removed one is of no use to DKMS."""
    found = node.stat(tree + "/Makefile")
    if found is None or not stat.S_ISREG(found.st_mode):
        return False
    # Debian's is one line that includes the shared half's, and its scripts are another package's (kbuild).
    if found.st_size < 1024:
        for included in re.findall(r"^include\s+(/\S+)", node.text(tree + "/Makefile") or "", re.M):
            if not node.is_file(included):
                return False
    return node.readlink(tree + "/scripts") is None or node.is_dir(tree + "/scripts")


def kernels_with_headers(node: Node) -> List[str]:
    found = set()
    for kernel in node.listdir("/lib/modules"):
        if usable_headers(node, "/lib/modules/%s/build" % kernel):
            found.add(kernel)
    prefix = "linux-headers-"
    for name in node.listdir("/usr/src"):
        kernel = name[len(prefix) :]
        if not name.startswith(prefix):
            continue
        # linux-headers-6.1.0-50-common and linux-headers-5.15.0-157 are shared halves, no kernel's own.
        if kernel.endswith(("-common", "-common-rt")) or re.match(r"^[\d.]+-\d+$", kernel):
            continue
        if kernel not in found and usable_headers(node, "/usr/src/" + name):
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


def memory(node: Node) -> Dict[str, Optional[int]]:
    """Total and available memory in MiB."""
    values = {}
    for line in (node.text("/proc/meminfo") or "").splitlines():
        match = re.match(r"^(\w+):\s+(\d+) kB", line)
        if match:
            values[match.group(1)] = int(match.group(2)) // 1024
    return {"total_mib": values.get("MemTotal"), "available_mib": values.get("MemAvailable")}


# What a machine's firmware calls itself, and systemd-detect-virt's name for it.
_FIRMWARE = (
    ("kvm", re.compile(r"KVM|QEMU|Amazon EC2|Google Compute Engine|OpenStack|DigitalOcean", re.I)),
    ("microsoft", re.compile(r"^Microsoft Corporation")),
    ("vmware", re.compile(r"VMware|VMW", re.I)),
    ("oracle", re.compile(r"innotek|VirtualBox", re.I)),
    ("xen", re.compile(r"^Xen|HVM domU")),
    ("parallels", re.compile(r"Parallels")),
    ("bhyve", re.compile(r"bhyve", re.I)),
)


def virtual(node: Node) -> Optional[str]:
    """What the machine is, in the names of systemd-detect-virt: none, kvm, wsl, docker, …; null = unknown."""
    kernel_text = node.text("/proc/sys/kernel/osrelease") or node.text("/proc/version") or ""
    if re.search(r"microsoft|wsl", kernel_text, re.I):
        return "wsl"  # before any other question: a systemd of an older distribution calls it a container
    complaint = None
    try:
        result = node.run(["systemd-detect-virt"])
        if re.match(r"^[a-z][a-z0-9-]*$", result.out.strip()):
            return result.out.strip()
        complaint = "systemd-detect-virt: %s" % result.message
    except MissingTool:
        pass
    for path, name in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if node.exists(path):
            return name
    for name in ("sys_vendor", "product_name", "bios_vendor"):
        said = (node.text("/sys/class/dmi/id/" + name) or "").strip()
        for machine, pattern in _FIRMWARE:
            # A bare-metal machine of a cloud has its name as well, and no hypervisor above it.
            if pattern.search(said) and re.search(r"\bhypervisor\b", node.text("/proc/cpuinfo") or ""):
                return machine
    if complaint:
        raise ProbeError(complaint)
    return None


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


def mok_key(node: Node, system: Optional[str]) -> Optional[str]:
    """The certificate that DKMS signs modules with; null when there is none yet."""
    for path in (
        DKMS_SETTINGS,
        *(DKMS_SETTINGS + ".d/" + name for name in node.listdir(DKMS_SETTINGS + ".d")),
    ):
        for value in re.findall(r"^\s*mok_certificate=[\"']?([^\"'\s#$]+)", node.text(path) or "", re.M):
            if node.is_file(value):
                return str(value)
    # Ubuntu's dkms takes the key that shim-signed makes; elsewhere dkms makes one of its own.
    usual = [MOK_UBUNTU, MOK_DKMS] if system == "ubuntu" else [MOK_DKMS, MOK_UBUNTU]
    return next((path for path in usual if node.is_file(path)), None)


def mok_enrolled(node: Node, key: str) -> Optional[bool]:
    """Does the firmware trust the key? Null when nobody can say."""
    try:
        result = node.run(["mokutil", "--test-key", key])
    except MissingTool:
        certificate, known = node.data(key), node.data(MOK_LIST)
        if not certificate or known is None:
            raise
        return certificate in known
    # Its exit status is 0 for "is not enrolled" and 1 for "is already enrolled", and for failures.
    said = result.out + result.err
    # MokListX holds the keys that are not trusted; a request waits for a person at the next boot.
    if re.search(r"is not enrolled|is already in (MokListX|the (MokX )?enrollment request)", said):
        return False
    if re.search(r"is already (enrolled|in db|in the built-in trusted keyring)", said):
        return True
    raise ProbeError("mokutil --test-key: %s" % result.message)


def mok(node: Node, system: Optional[str], secure_boot: Optional[bool]) -> Dict[str, Any]:
    key = mok_key(node, system)
    enrolled = None
    # Without Secure Boot nobody asks for a key, and often there is no firmware to ask.
    if key is not None and secure_boot is not False:
        enrolled = node.attempt("host.mok", lambda: mok_enrolled(node, key))
    return {"key": key, "enrolled": enrolled}


def _appeared(node: Node, path: str) -> Optional[float]:
    """When a file came to this node: a package's file keeps the time of its build, so the change counts."""
    times = []
    for found in (node.lstat(path), node.stat(path)):
        if found is not None:
            times += [found.st_mtime, found.st_ctime]
    return max(times) if times else None


def stale_initramfs(node: Node, image: Optional[str], files: Optional[List[str]]) -> Optional[bool]:
    """Does it lack what blacklists nouveau? It does when it is older. Null = unknown."""
    if image is None or files is None:
        return None
    # The kernel's command line is no file of the initramfs.
    times = [_appeared(node, path) for path in files if not path.startswith("/proc/")]
    made = _appeared(node, image)
    if made is None:
        return None
    return any(time is not None and time > made for time in times)


def initramfs(node: Node, next_boot: Optional[str], blacklisting: Optional[List[str]]) -> Dict[str, Any]:
    tool = None
    for name in ("update-initramfs", "dracut"):
        tool = node.which(name)
        if tool:
            break
    image = None
    if next_boot:
        names = ["/boot/" + name % next_boot for name in ("initrd.img-%s", "initramfs-%s.img", "initrd-%s")]
        image = next((name for name in names if node.is_file(name)), None)
    return {
        "present": None if not next_boot else image is not None,
        "tool": tool,
        "stale": stale_initramfs(node, image, blacklisting),
    }
