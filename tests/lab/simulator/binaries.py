"""The simulated driver's binaries: libraries and daemons, kernel modules for modinfo and depmod."""

from __future__ import annotations

import concurrent.futures
import json
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Driver:
    """One upstream driver version."""

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
        Driver("535.261.03", 12020, "Fri Jun 13 05:45:01 UTC 2025"),
        Driver("535.309.01", 12020, "Wed Jun 10 22:04:37 UTC 2026"),
        Driver("550.163.01", 12040, "Tue Apr  8 12:41:17 UTC 2025"),
        Driver("570.195.03", 12080, "Sat Sep 20 00:26:14 UTC 2025"),
        Driver("580.82.07", 13000, "Wed Aug 27 20:24:06 UTC 2025"),
        Driver("580.95.05", 13000, "Tue Sep 23 10:11:16 UTC 2025"),
        Driver("580.159.03", 13000, "Fri May  1 17:20:08 UTC 2026"),
        Driver("590.48.01", 13010, "Mon Dec  8 13:05:00 UTC 2025"),
        Driver("595.71.05", 13020, "Tue Mar 24 09:31:28 UTC 2026"),
    )
}


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


#: In place of a kernel's name in a module that is still to be "compiled" for one. The length of .modinfo
#: must not change: the name is padded with NULs that end the entry.
ANY_KERNEL = "@KERNEL@" + "_" * 64


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


def signature(
    signer: bytes = b"Canonical Ltd. Kernel Module Signing (SIMULATED)", key_id: bytes = bytes(range(20))
) -> bytes:
    """What a signed module carries after its last byte; modinfo reads the signer from it."""
    value = b"\x5a" * 256
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
