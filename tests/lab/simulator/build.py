#!/usr/bin/env python3
"""Build the lab's simulated NVIDIA driver packages, the container toolkit stand-in and the node's file tree.

    build.py --output DIR --kernel KVER [--codenames jammy,noble]

makes DIR/ubuntu/<codename>/*.deb, DIR/toolkit/*.deb and DIR/node/ (to be copied over a node's root file
system).
Needs Python and gcc. The same input gives the same bytes, and a second run with the same input does nothing.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIB = "/usr/lib/x86_64-linux-gnu"
EPOCH = 1735689600  # every file in a package carries this time, so that builds are repeatable
MAINTAINER = "gpuready lab (SIMULATED) <lab@gpuready.invalid>"


@dataclass(frozen=True)
class Driver:
    """One upstream driver version as Ubuntu packages it."""

    version: str  # upstream
    cuda: int
    date: str  # as in the driver's own banner
    flavours: tuple[str, ...] = ("proprietary", "open")

    @property
    def branch(self) -> str:
        return self.version.split(".", maxsplit=1)[0]


DRIVERS = {
    driver.version: driver
    for driver in (
        Driver("470.256.02", 11040, "Thu May  2 14:37:44 UTC 2024", ("proprietary",)),
        Driver("535.247.01", 12020, "Mon Mar 31 18:46:51 UTC 2025"),
        Driver("535.274.02", 12020, "Fri Sep  5 20:12:24 UTC 2025"),
        Driver("570.195.03", 12080, "Sat Sep 20 00:26:14 UTC 2025"),
        Driver("580.82.07", 13000, "Wed Aug 27 20:24:06 UTC 2025"),
        Driver("580.95.05", 13000, "Tue Sep 23 10:11:16 UTC 2025"),
        Driver("590.48.01", 13010, "Mon Dec  8 13:05:00 UTC 2025"),
        Driver("595.71.05", 13020, "Tue Mar 24 09:31:28 UTC 2026"),
    )
}

# Per release: (upstream version, Ubuntu revision), oldest first within a branch; the newest is the candidate.
ARCHIVE = {
    "jammy": [
        ("470.256.02", "0ubuntu0.22.04.1"),
        ("535.247.01", "0ubuntu0.22.04.1"),
        ("535.274.02", "0ubuntu0.22.04.1"),
        ("570.195.03", "0ubuntu0.22.04.1"),
        ("580.82.07", "0ubuntu0.22.04.1"),
        ("580.95.05", "0ubuntu0.22.04.2"),
        ("595.71.05", "0ubuntu0.22.04.1"),
    ],
    "noble": [
        ("535.274.02", "0ubuntu0.24.04.1"),
        ("570.195.03", "0ubuntu0.24.04.1"),
        ("580.82.07", "0ubuntu0.24.04.1"),
        ("580.95.05", "0ubuntu0.24.04.2"),
        ("590.48.01", "0ubuntu0.24.04.1"),
        ("595.71.05", "0ubuntu0.24.04.1"),
    ],
}
# Packages of a branch that is gone: they only pull in the branch that took over.
TRANSITIONAL = {"jammy": [("460", "470")], "noble": []}
DKMS_VERSION = (
    "1:3.0.11-1ubuntu13"  # with an epoch, so that the distribution's real dkms beside it never wins
)

TOOLKIT_VERSIONS = ("1.17.8", "1.18.2")


# ------------------------------------------------------------------ Debian packages


@dataclass
class Deb:
    """A binary package. Everything in it is simulated, and its description says so."""

    name: str
    version: str
    summary: str
    architecture: str = "amd64"
    section: str = "restricted/misc"
    fields: dict[str, str] = field(default_factory=dict)  # Depends, Conflicts, …
    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)  # absolute path: (content, mode)
    links: dict[str, str] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)  # postinst, prerm, …
    conffiles: list[str] = field(default_factory=list)

    def add(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        self.files[path] = (content.encode() if isinstance(content, str) else content, mode)

    def write(self, directory: Path) -> Path:
        doc = f"/usr/share/doc/{self.name}/README.simulated"
        self.add(doc, f"{self.name} {self.version}: SIMULATED by gpuready's lab. No NVIDIA code in it.\n")
        control = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": self.architecture,
            "Maintainer": MAINTAINER,
            "Installed-Size": str(sum(len(content) for content, _ in self.files.values()) // 1024 + 1),
            **self.fields,
            "Section": self.section,
            "Priority": "optional",
            "Description": f"{self.summary} (SIMULATED)\n"
            " A stand-in for gpuready's lab, with the name, dependencies and files of the real\n"
            " package. It drives no hardware and contains no NVIDIA software.",
        }
        md5sums = "".join(
            f"{hashlib.md5(content).hexdigest()}  {path[1:]}\n"
            for path, (content, _) in sorted(self.files.items())
        )
        members = {
            "control": "".join(f"{key}: {value}\n" for key, value in control.items() if value),
            "md5sums": md5sums,
        }
        if self.conffiles:
            members["conffiles"] = "".join(path + "\n" for path in self.conffiles)
        members.update({name: text for name, text in self.scripts.items() if name == "triggers"})
        parts = {f"/{name}": (text.encode(), 0o644) for name, text in members.items()}
        parts |= {
            f"/{name}": (text.encode(), 0o755) for name, text in self.scripts.items() if name != "triggers"
        }
        control_tar = _tar(parts, {})
        data_tar = _tar(self.files, self.links)
        target = directory / f"{self.name}_{self.version}_{self.architecture}.deb"
        with target.open("wb") as out:
            out.write(b"!<arch>\n")
            for name, data in (
                ("debian-binary", b"2.0\n"),
                ("control.tar.gz", control_tar),
                ("data.tar.gz", data_tar),
            ):
                out.write(
                    b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name.encode(), EPOCH, 0, 0, b"100644", len(data))
                )
                out.write(data + b"\n" * (len(data) % 2))
        return target


def _tar(files: dict[str, tuple[bytes, int]], links: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        seen = {"."}

        def entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = kind, mode, EPOCH
            info.uname = info.gname = "root"
            return info

        tar.addfile(entry("./", tarfile.DIRTYPE, 0o755))
        for path in sorted(set(files) | set(links)):
            name = "." + path
            parent = os.path.dirname(name)
            for part in [parent[: match.start()] for match in re.finditer("/", parent + "/")]:
                if part not in seen:
                    seen.add(part)
                    tar.addfile(entry(part, tarfile.DIRTYPE, 0o755))
            if path in links:
                info = entry(name, tarfile.SYMTYPE, 0o777)
                info.linkname = links[path]
                tar.addfile(info)
            else:
                content, mode = files[path]
                info = entry(name, tarfile.REGTYPE, mode)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0)


# ------------------------------------------------------------------ C sources


def load_models() -> dict[str, dict]:
    models = json.loads((HERE / "models.json").read_text())
    return {key: value for key, value in models.items() if not key.startswith("_")}


def generated_includes(directory: Path) -> None:
    """models.inc and nvml-stubs.inc: tables made from data."""
    rows = []
    for model in load_models().values():
        major, minor = model["sm"].split(".")
        subsystem = int(model["subsystem"].split(":")[1], 16)
        rows.append(
            f'{{"{model["name"]}", "{model["arch"]}", 0x{model["device"]}, {subsystem:#x}, '
            f"{model['memory_mib']}, "
            f"{major}, {minor}, {model['sms']}, {model['watts']}}},\n"
        )
    (directory / "models.inc").write_text("".join(rows))
    names = (HERE / "src/nvml-stubs.txt").read_text().split()
    (directory / "nvml-stubs.inc").write_text("".join(f"STUB({name})\n" for name in names))


def compile_c(source: str, target: Path, include: Path, *arguments: str) -> None:
    command = [
        "gcc",
        "-std=gnu11",
        "-O1",
        "-Wall",
        "-Wno-unused-function",
        "-Wno-builtin-declaration-mismatch",
        "-Wno-unused-variable",
        "-fno-stack-protector",
        "-U_FORTIFY_SOURCE",
        f"-I{HERE / 'src'}",
        f"-I{include}",
        f"-ffile-prefix-map={HERE}=.",
        str(HERE / "src" / source),
        "-o",
        str(target),
        *arguments,
    ]
    subprocess.run(command, check=True)
    os.chmod(target, 0o755)


def build_library(name: str, target: Path, include: Path, root: str = "") -> None:
    """One of the simulated libraries, unbranded. `root` puts /proc and /dev elsewhere, for unit tests."""
    compile_c(
        f"{name}.c",
        target,
        include,
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        "-s",
        f"-Wl,-soname,{name}.so.1",
        "-Wl,--build-id=none,-z,now",
        f'-DSIM_ROOT="{root}"',
    )


def brand(data: bytes, driver: Driver) -> bytes:
    """The binary of one driver release: fills in src/release.h."""
    blank = b"@SIM_VERSION@".ljust(32, b"\0") + struct.pack("<i", 0)
    if data.count(blank) != 1:
        raise ValueError("the binary has no room for a release")
    return data.replace(blank, struct.pack("<32si", driver.version.encode(), driver.cuda))


def build_program(source: str, target: Path, include: Path, *arguments: str) -> None:
    """A program with its own entry point and old symbol versions only (see src/start.c)."""
    compile_c(
        source,
        target,
        include,
        str(HERE / "src/start.c"),
        "-nostartfiles",
        "-fPIE",
        "-pie",
        "-s",
        "-Wl,--build-id=none",
        "-Wl,--no-as-needed",
        "-l:libdl.so.2",
        *arguments,
    )


def build_module(name: str, driver: Driver | None, flavour: str, kernel: str) -> bytes:
    """A kernel module as far as modinfo and depmod care: an ELF relocatable with .modinfo and a banner."""
    licence = {"open": "Dual MIT/GPL", "proprietary": "NVIDIA", "nouveau": "GPL and additional rights"}[
        flavour
    ]
    info = [f"license={licence}"]
    banner = ""
    if driver:
        info.append(f"version={driver.version}")
        banner = (
            f"NVIDIA UNIX Open Kernel Module for x86_64  {driver.version}  Release Build  "
            f"(dvs-builder@U22-I3-AE18-23-3)  {driver.date}"
            if flavour == "open"
            else f"NVIDIA UNIX x86_64 Kernel Module  {driver.version}  {driver.date}"
        )
    if name in ("nvidia", "nouveau"):
        info += [f"alias=pci:v000010DEd*sv*sd*bc03sc{sub}i00*" for sub in ("00", "02")]
    depends = {"nvidia-uvm": "nvidia", "nvidia-modeset": "nvidia", "nvidia-drm": "nvidia-modeset"}.get(
        name, ""
    )
    info += [f"depends={depends}", "retpoline=Y", f"name={name.replace('-', '_')}"]
    info += [f"vermagic={kernel} SMP preempt mod_unload modversions "]
    return elf_object(
        {
            ".modinfo": "".join(item + "\0" for item in info).encode(),
            ".rodata.str1.8": banner.encode() + b"\0",
        }
    )


def elf_object(sections: dict[str, bytes]) -> bytes:
    """A minimal 64-bit relocatable ELF file with the given sections and an empty symbol table."""
    names = ["", *sections, ".symtab", ".strtab", ".shstrtab"]
    table = "\0".join(names).encode() + b"\0"
    offsets = {name: table.index(name.encode() + b"\0") if name else 0 for name in names}
    # A plain search can hit the tail of a longer name; positions are recomputed in order.
    position = 0
    for name in names:
        offsets[name] = position
        position += len(name) + 1
    body, headers = bytearray(b"\0" * 64), []
    contents = [*sections.items(), (".symtab", b"\0" * 24), (".strtab", b"\0"), (".shstrtab", table)]
    for name, data in contents:
        body += b"\0" * (-len(body) % 8)
        kind, link, entry = {
            ".symtab": (2, len(sections) + 2, 24),
            ".strtab": (3, 0, 0),
            ".shstrtab": (3, 0, 0),
        }.get(name, (1, 0, 0))
        flags = 2 if kind == 1 else 0
        info = 1 if kind == 2 else 0
        headers.append(
            struct.pack(
                "<IIQQQQIIQQ", offsets[name], kind, flags, 0, len(body), len(data), link, info, 8, entry
            )
        )
        body += data
    body += b"\0" * (-len(body) % 8)
    start = len(body)
    body += b"\0" * 64 + b"".join(headers)
    body[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01" + b"\0" * 9,
        1,
        62,
        1,
        0,
        0,
        start,
        0,
        64,
        0,
        0,
        64,
        len(headers) + 1,
        len(headers),
    )
    return bytes(body)


def signature() -> bytes:
    """What a signed module carries after its last byte; modinfo reads the signer from it."""
    signer, key_id, value = (
        b"Canonical Ltd. Kernel Module Signing (SIMULATED)",
        bytes(range(20)),
        b"\x5a" * 256,
    )
    trailer = struct.pack(">BBBBB3xI", 1, 6, 1, len(signer), len(key_id), len(value))
    return signer + key_id + value + trailer + b"~Module signature appended~\n"


def build_binaries(work: Path) -> dict[str, dict[str, bytes]]:
    """Per driver version: libcuda, libnvidia-ml, nvidia-smi and the two daemons."""
    include = work / "include"
    include.mkdir(parents=True)
    generated_includes(include)
    daemons = {"nvidia-persistenced": (), "nvidia-fabricmanager": ("-DFABRIC",)}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        jobs = [
            *(pool.submit(build_library, name, work / name, include) for name in ("libcuda", "libnvidia-ml")),
            pool.submit(build_program, "nvidia-smi.c", work / "nvidia-smi", include),
            *(
                pool.submit(build_program, "daemon.c", work / name, include, f'-DNAME="{name}"', *extra)
                for name, extra in daemons.items()
            ),
        ]
    for job in jobs:
        job.result()
    plain = {"nvidia-smi": (work / "nvidia-smi").read_bytes()}  # it knows no release: it asks NVML
    blank = {name: (work / name).read_bytes() for name in ("libcuda", "libnvidia-ml", *daemons)}
    return {
        driver.version: plain | {name: brand(data, driver) for name, data in blank.items()}
        for driver in DRIVERS.values()
    }


# ------------------------------------------------------------------ driver packages

PERSISTENCED_UNIT = """[Unit]
Description=NVIDIA Persistence Daemon
Wants=syslog.target
StopWhenUnneeded=true
Before=systemd-backlight@backlight:nvidia_0.service

[Service]
Type=forking
ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose
ExecStopPost=/bin/rm -rf /var/run/nvidia-persistenced
"""

FABRICMANAGER_UNIT = """[Unit]
Description=NVIDIA fabric manager service
After=network-online.target
Requires=network-online.target

[Service]
User=root
PrivateTmp=false
Type=forking
ExecStart=/usr/bin/nv-fabricmanager -c /usr/share/nvidia/nvswitch/fabricmanager.cfg
LimitCORE=infinity

[Install]
WantedBy=multi-user.target
"""

UDEV_RULES = """# Tag the device as master-of-seat so that logind is happy
SUBSYSTEM=="pci", ATTRS{vendor}=="0x10de", DRIVERS=="nvidia", TAG+="seat", TAG+="master-of-seat"
# Start and stop nvidia-persistenced
ACTION=="add", DEVPATH=="/bus/pci/drivers/nvidia", TAG+="systemd", \\
    ENV{SYSTEMD_WANTS}="nvidia-persistenced.service"
# Load the other modules and create their nodes
ACTION=="add", DEVPATH=="/bus/pci/drivers/nvidia", RUN+="/sbin/modprobe nvidia-modeset"
ACTION=="add", DEVPATH=="/bus/pci/drivers/nvidia", RUN+="/sbin/modprobe nvidia-uvm"
"""

NOUVEAU_BLACKLIST = """# Nouveau must not take the GPU before the NVIDIA driver does.
blacklist nouveau
blacklist lbm-nouveau
alias nouveau off
alias lbm-nouveau off
"""

MODULE_NAMES = ("nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm")


def kernel_package_version(kernel: str, rebuild: int) -> str:
    """Precompiled modules carry the kernel's version, and "+N" for each later driver: 6.8.0-136.136+1."""
    numbers = re.match(r"(\d+(?:\.\d+)*)(?:-(\d+))?", kernel)
    base = numbers.group(1) if numbers else "0"
    abi = numbers.group(2) if numbers and numbers.group(2) else "1"
    return f"{base}-{abi}.{abi}" + (f"+{rebuild}" if rebuild else "")


def driver_packages(codename: str, kernel: str, binaries: dict[str, dict[str, bytes]]) -> list[Deb]:
    packages: list[Deb] = []
    archive = ARCHIVE[codename]
    rebuilds: dict[str, int] = {}
    for upstream, revision in archive:
        driver = DRIVERS[upstream]
        branch = driver.branch
        rebuild = rebuilds[branch] = rebuilds.get(branch, -1) + 1
        packages += user_space_packages(driver, f"{upstream}-{revision}", binaries[upstream])
        for flavour in driver.flavours:
            packages += module_packages(driver, f"{upstream}-{revision}", flavour, kernel, rebuild)
    newest = max(rebuilds.values())
    packages.append(
        Deb(
            f"linux-signatures-nvidia-{kernel}",
            kernel_package_version(kernel, newest),
            f"Linux kernel signatures for nvidia modules of version {kernel}",
            section="restricted/kernel",
            files={f"/lib/modules/{kernel}/kernel/nvidia-signatures/modules.sig": (signature(), 0o644)},
        )
    )
    packages += kernel_packages(kernel)
    for old, new in TRANSITIONAL[codename]:
        version = next(
            f"{upstream}-{revision}"
            for upstream, revision in reversed(archive)
            if upstream.startswith(new + ".")
        )
        for stem in (
            "nvidia-utils-{}-server",
            "nvidia-headless-{}-server",
            "nvidia-headless-no-dkms-{}-server",
            "nvidia-dkms-{}-server",
            "libnvidia-compute-{}-server",
            "libnvidia-cfg1-{}-server",
            "nvidia-compute-utils-{}-server",
            "nvidia-kernel-common-{}-server",
            "nvidia-kernel-source-{}-server",
        ):
            packages.append(
                Deb(
                    stem.format(old),
                    version,
                    f"Transitional package for {stem.format(new)}",
                    section="restricted/oldlibs",
                    fields={"Depends": stem.format(new)},
                )
            )
    return packages


def user_space_packages(driver: Driver, version: str, binary: dict[str, bytes]) -> list[Deb]:
    branch, upstream = driver.branch, driver.version
    same = f"(= {version})"

    def rivals(virtual: str, provides: str = "") -> dict[str, str]:
        """One package of a kind at a time: all branches provide, conflict with and replace one name."""
        return {"Provides": provides or virtual, "Conflicts": virtual, "Replaces": virtual}

    compute = Deb(
        f"libnvidia-compute-{branch}-server",
        version,
        "NVIDIA libcompute package",
        section="restricted/libs",
        fields={
            "Depends": "libc6 (>= 2.2.5)",
            "Multi-Arch": "same",
            **rivals(
                "libnvidia-compute",
                f"libcuda-{driver.cuda // 1000}.{driver.cuda % 1000 // 10}-1, libcuda.so.1 (= {upstream}), "
                "libcuda1, libnvidia-compute, libnvidia-ml.so.1, libnvidia-ml1",
            ),
        },
    )
    for library in ("libcuda", "libnvidia-ml"):
        compute.add(f"{LIB}/{library}.so.{upstream}", binary[library], 0o644)
        compute.links[f"{LIB}/{library}.so.1"] = f"{library}.so.{upstream}"
    compute.links[f"{LIB}/libcuda.so"] = "libcuda.so.1"
    compute.scripts["triggers"] = "activate-noawait ldconfig\n"

    cfg1 = Deb(
        f"libnvidia-cfg1-{branch}-server",
        version,
        "NVIDIA binary OpenGL/GLX configuration library",
        section="restricted/libs",
        fields={"Depends": "libc6 (>= 2.2.5)", **rivals("libnvidia-cfg1")},
    )

    utils = Deb(
        f"nvidia-utils-{branch}-server",
        version,
        "NVIDIA Server Driver support binaries",
        fields={"Depends": f"libnvidia-compute-{branch}-server {same}", **rivals("nvidia-utils")},
    )
    utils.add("/usr/bin/nvidia-smi", binary["nvidia-smi"], 0o755)

    compute_utils = Deb(
        f"nvidia-compute-utils-{branch}-server",
        version,
        "NVIDIA compute utilities",
        fields={
            "Depends": f"libnvidia-compute-{branch}-server {same}, adduser",
            **rivals("nvidia-compute-utils", "nvidia-compute-utils, nvidia-persistenced"),
        },
    )
    compute_utils.add("/usr/bin/nvidia-persistenced", binary["nvidia-persistenced"], 0o755)
    compute_utils.add("/lib/systemd/system/nvidia-persistenced.service", PERSISTENCED_UNIT)
    compute_utils.scripts["postinst"] = """#!/bin/sh
set -e
if [ "$1" = configure ]; then
    if ! getent passwd nvidia-persistenced >/dev/null; then
        adduser --system --group --quiet --home /nonexistent --no-create-home \\
            --gecos "NVIDIA Persistence Daemon,,," nvidia-persistenced
    fi
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload >/dev/null || true
        if [ -n "$2" ]; then systemctl try-restart nvidia-persistenced.service >/dev/null 2>&1 || true; fi
    fi
fi
"""
    compute_utils.scripts["prerm"] = """#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl stop nvidia-persistenced.service || true
fi
"""

    common = Deb(
        f"nvidia-kernel-common-{branch}-server",
        version,
        "Shared files used with the kernel module",
        fields=rivals("nvidia-kernel-common"),
    )
    common.add("/lib/modprobe.d/nvidia-graphics-drivers.conf", NOUVEAU_BLACKLIST)
    common.add("/lib/udev/rules.d/71-nvidia.rules", UDEV_RULES)
    common.scripts["postinst"] = """#!/bin/sh
set -e
if [ "$1" = configure ] && [ -x /usr/sbin/update-initramfs ]; then update-initramfs -u; fi
"""
    common.scripts["postrm"] = """#!/bin/sh
set -e
if [ "$1" = remove ] && [ -x /usr/sbin/update-initramfs ]; then update-initramfs -u; fi
"""

    fabric = Deb(
        f"nvidia-fabricmanager-{branch}",
        version,
        "Fabric Manager for NVSwitch based systems",
        fields={"Depends": "libc6 (>= 2.2.5)", **rivals("nvidia-fabricmanager")},
    )
    fabric.add("/usr/bin/nv-fabricmanager", binary["nvidia-fabricmanager"], 0o755)
    fabric.add("/lib/systemd/system/nvidia-fabricmanager.service", FABRICMANAGER_UNIT)
    fabric.add("/usr/share/nvidia/nvswitch/fabricmanager.cfg", "LOG_LEVEL=4\nDAEMONIZE=1\n")
    fabric.scripts["postinst"] = """#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
fi
"""
    return [compute, cfg1, utils, compute_utils, common, fabric]


def module_packages(driver: Driver, version: str, flavour: str, kernel: str, rebuild: int) -> list[Deb]:
    branch, upstream = driver.branch, driver.version
    suffix = "-open" if flavour == "open" else ""
    same = f"(= {version})"
    short = f"nvidia-{branch}srv{suffix}"
    modules = {name: build_module(name, driver, flavour, kernel) for name in MODULE_NAMES}
    kernel_version = kernel_package_version(kernel, rebuild)
    where = f"/lib/modules/{kernel}/kernel/{short}"

    source = Deb(
        f"nvidia-kernel-source-{branch}-server{suffix}",
        version,
        "NVIDIA kernel source package",
        fields={
            "Depends": f"nvidia-kernel-common-{branch}-server {same}",
            "Provides": "nvidia-kernel-source",
            "Conflicts": "nvidia-kernel-source",
            "Replaces": "nvidia-kernel-source",
        },
    )
    tree = f"/usr/src/nvidia-srv-{upstream}"
    source.add(
        f"{tree}/dkms.conf", f'PACKAGE_NAME="nvidia-srv"\nPACKAGE_VERSION="{upstream}"\nAUTOINSTALL="yes"\n'
    )
    source.add(f"{tree}/FLAVOUR", flavour + "\n")
    # The "source" that the simulated dkms "compiles": finished modules without a kernel's name in them.
    for name in MODULE_NAMES:
        source.add(f"{tree}/{name}.o", build_module(name, driver, flavour, "@KERNEL@" + "_" * 64))

    objects = Deb(
        f"linux-objects-nvidia-{branch}-server{suffix}-{kernel}",
        kernel_version,
        f"Linux kernel nvidia modules for version {kernel} (objects)",
        section="restricted/kernel",
        files={f"{where}/bits/{name}.o": (data, 0o644) for name, data in modules.items()},
    )
    # The real package, too, ships parts and puts the modules together at installation.
    precompiled = Deb(
        f"linux-modules-nvidia-{branch}-server{suffix}-{kernel}",
        kernel_version,
        f"Linux kernel nvidia modules for version {kernel}",
        section="restricted/kernel",
        fields={
            "Depends": f"linux-signatures-nvidia-{kernel} (>= {kernel_package_version(kernel, 0)}), "
            f"linux-objects-nvidia-{branch}-server{suffix}-{kernel} (= {kernel_version}), "
            f"nvidia-kernel-common-{branch}-server (<= {version}), "
            f"nvidia-kernel-common-{branch}-server (>= {upstream})",
            "Provides": "nvidia-prebuilt-kernel",
        },
    )
    precompiled.scripts["postinst"] = f"""#!/bin/sh
set -e
if [ "$1" = configure ]; then
    for part in {where}/bits/*.o; do
        module=$(basename "$part" .o)
        cat "$part" /lib/modules/{kernel}/kernel/nvidia-signatures/modules.sig >{where}/"$module".ko
    done
    depmod -a {kernel}
fi
"""
    precompiled.scripts["prerm"] = f"""#!/bin/sh
set -e
rm -f {where}/*.ko
"""
    precompiled.scripts["postrm"] = f"""#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /lib/modules/{kernel} ]; then depmod -a {kernel}; fi
"""

    headless_no_dkms = Deb(
        f"nvidia-headless-no-dkms-{branch}-server{suffix}",
        version,
        "NVIDIA headless metapackage - no DKMS",
        fields={
            "Depends": ", ".join(
                f"{stem} {same}"
                for stem in (
                    f"nvidia-kernel-common-{branch}-server",
                    f"nvidia-kernel-source-{branch}-server{suffix}",
                    f"libnvidia-compute-{branch}-server",
                    f"nvidia-compute-utils-{branch}-server",
                    f"libnvidia-cfg1-{branch}-server",
                )
            ),
            "Provides": "nvidia-headless-no-dkms",
            "Conflicts": "nvidia-headless-no-dkms",
            "Replaces": "nvidia-headless-no-dkms",
        },
    )
    dkms = Deb(
        f"nvidia-dkms-{branch}-server{suffix}",
        version,
        "NVIDIA DKMS package",
        fields={
            "Depends": f"nvidia-kernel-source-{branch}-server{suffix} {same}, "
            f"nvidia-kernel-common-{branch}-server {same}, dkms (>= 3.0.11)",
            "Provides": "nvidia-dkms-kernel",
            "Conflicts": "nvidia-dkms-kernel",
            "Replaces": "nvidia-dkms-kernel",
        },
    )
    dkms.scripts["postinst"] = f"""#!/bin/sh
set -e
if [ "$1" = configure ]; then
    echo "Loading new nvidia-srv-{upstream} DKMS files..."
    dkms add -m nvidia-srv -v {upstream}
    if [ -d /lib/modules/"$(uname -r)"/build ]; then
        echo "Building for $(uname -r)"
        dkms install -m nvidia-srv -v {upstream} -k "$(uname -r)"
    else
        echo "Module build for kernel $(uname -r) was skipped since the"
        echo "kernel headers for this kernel do not seem to be installed."
    fi
fi
"""
    dkms.scripts["prerm"] = f"""#!/bin/sh
set -e
case "$1" in remove|upgrade|deconfigure) dkms remove -m nvidia-srv -v {upstream} --all ;; esac
"""
    headless = Deb(
        f"nvidia-headless-{branch}-server{suffix}",
        version,
        "NVIDIA headless metapackage",
        fields={
            "Depends": f"nvidia-headless-no-dkms-{branch}-server{suffix} {same}, "
            f"nvidia-dkms-{branch}-server{suffix} {same}",
            "Provides": "nvidia-headless",
            "Conflicts": "nvidia-headless",
            "Replaces": "nvidia-headless",
        },
    )
    return [source, objects, precompiled, headless_no_dkms, dkms, headless]


def kernel_packages(kernel: str) -> list[Deb]:
    """Headers of the running kernel, and dkms: both so thin that they only serve the simulated driver."""
    headers = Deb(
        f"linux-headers-{kernel}",
        kernel_package_version(kernel, 0),
        f"Linux kernel headers for version {kernel}",
        section="devel",
        links={f"/lib/modules/{kernel}/build": f"/usr/src/linux-headers-{kernel}"},
    )
    headers.add(f"/usr/src/linux-headers-{kernel}/Makefile", "# SIMULATED kernel headers\n")
    headers.add(f"/usr/src/linux-headers-{kernel}/.config", "CONFIG_MODULES=y\nCONFIG_MODULE_SIG=y\n")
    headers.scripts["postinst"] = f"""#!/bin/sh
set -e
if [ "$1" = configure ] && command -v dkms >/dev/null; then dkms autoinstall -k {kernel}; fi
"""
    dkms = Deb("dkms", DKMS_VERSION, "Dynamic Kernel Module System", architecture="all", section="kernel")
    dkms.add("/usr/sbin/dkms", (HERE / "driver/dkms").read_bytes(), 0o755)
    return [headers, dkms]


# ------------------------------------------------------------------ node tree


def build_node(target: Path, kernel: str) -> None:
    shutil.copytree(HERE / "node", target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / "models.json", target / "usr/lib/gpulab/models.json")
    (target / "usr/lib/gpulab/nouveau.ko").write_bytes(
        build_module("nouveau", None, "nouveau", kernel) + signature()
    )
    modules = target / "usr/lib/modules" / kernel
    modules.mkdir(parents=True)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        (modules / name).write_bytes(b"")
    boot = target / "boot"
    boot.mkdir()
    (boot / f"vmlinuz-{kernel}").write_text(
        "SIMULATED kernel image: a lab node is a container and boots none\n"
    )
    (boot / f"config-{kernel}").write_text("CONFIG_MODULES=y\nCONFIG_MODULE_SIG=y\n")


# ------------------------------------------------------------------ toolkit packages


def toolkit_packages(version: str) -> list[Deb]:
    sys.path.insert(0, str(HERE))
    from toolkit import packages

    return packages.build(version, Deb)


# ------------------------------------------------------------------ all of it


def fingerprint(arguments: argparse.Namespace) -> str:
    digest = hashlib.sha256(repr((arguments.kernel, arguments.codenames)).encode())
    compiler = subprocess.run(["gcc", "--version"], capture_output=True, check=True).stdout
    digest.update(compiler)
    for path in sorted(HERE.rglob("*")):
        tests = path.name.startswith("test_") or path.name in ("conftest.py", "machine.py", "README.md")
        if path.is_file() and "__pycache__" not in path.parts and not tests:
            digest.update(
                str(path.relative_to(HERE)).encode() + path.read_bytes() + oct(path.stat().st_mode).encode()
            )
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="directory to build into")
    parser.add_argument("--kernel", required=True, help="the nodes' kernel release, as uname -r prints it")
    parser.add_argument(
        "--codenames", default="jammy,noble", help="Ubuntu releases, comma-separated (%(default)s)"
    )
    arguments = parser.parse_args()
    codenames = [name for name in arguments.codenames.split(",") if name]
    unknown = [name for name in codenames if name not in ARCHIVE]
    if unknown or not codenames:
        parser.error(f"--codenames {arguments.codenames!r}: known releases are {', '.join(ARCHIVE)}")
    if not re.fullmatch(r"[0-9][A-Za-z0-9.+~-]*", arguments.kernel):
        parser.error(f"--kernel {arguments.kernel!r} is not a kernel release such as 6.8.0-136-generic")
    if not shutil.which("gcc"):
        parser.error("gcc is needed to build the simulated driver: apt-get install gcc libc6-dev")

    started = time.monotonic()
    output: Path = arguments.output.resolve()
    stamp = output / "fingerprint"
    wanted = fingerprint(arguments)
    if stamp.exists() and stamp.read_text() == wanted:
        print(f"simulator: {output} is up to date")
        return 0
    output.mkdir(parents=True, exist_ok=True)
    for name in ("fingerprint", "ubuntu", "toolkit", "node", "work"):
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    binaries = build_binaries(output / "work")
    count = 0
    for codename in codenames:
        directory = output / "ubuntu" / codename
        directory.mkdir(parents=True)
        for package in driver_packages(codename, arguments.kernel, binaries):
            package.write(directory)
            count += 1
    directory = output / "toolkit"
    directory.mkdir()
    for version in TOOLKIT_VERSIONS:
        for package in toolkit_packages(version):
            package.write(directory)
            count += 1
    build_node(output / "node", arguments.kernel)
    shutil.rmtree(output / "work")
    stamp.write_text(wanted)
    print(f"simulator: {count} packages and the node tree in {output} ({time.monotonic() - started:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
