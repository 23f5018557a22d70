"""Ubuntu's driver packages; the branched names of NVIDIA's own repository are made here too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from binaries import DRIVERS, Driver, build_module, signature
from debs import Deb
from kernels import kernel_package_version, metapackage_version
from parts import (
    LIB,
    MODULE_NAMES,
    add_dkms_source,
    add_fabricmanager,
    add_kernel_common,
    add_libraries,
    add_persistenced,
    cuda_provides,
    dkms_scripts,
    rivals,
)

__all__ = ["LIB", "Naming", "archive_packages", "user_space_packages"]


@dataclass(frozen=True)
class Naming:
    """How one family calls its packages: nvidia-utils-<branch><suffix>, DKMS module nvidia<dkms>."""

    suffix: str  # "-server", or "" for the desktop's

    @property
    def dkms(self) -> str:
        """DKMS' name of the module."""
        return "nvidia-srv" if self.suffix else "nvidia"

    def directory(self, branch: str, flavour: str) -> str:
        """Where the precompiled modules of a kernel lie."""
        return f"nvidia-{branch}{'srv' if self.suffix else ''}{'-open' if flavour == 'open' else ''}"


def archive_packages(
    release: dict[str, Any], binaries: dict[str, dict[str, bytes]]
) -> tuple[list[Deb], list[Deb]]:
    """Everything of the driver in a release's archive, and what belongs to its proposed kernel."""
    kernels: dict[str, str] = release["kernels"]
    suites: dict[str, list[Deb]] = {"running": [], "new": []}
    packages = suites["running"]
    newest = 0
    for suffix, archive in release["families"].items():
        naming = Naming(suffix)
        rebuilds: dict[str, int] = {}
        for upstream, revision in archive:
            driver = DRIVERS[upstream]
            version = f"{upstream}-{revision}"
            rebuild = rebuilds[driver.branch] = rebuilds.get(driver.branch, -1) + 1
            packages += user_space_packages(driver, version, binaries[upstream], naming)
            if suffix:
                packages.append(fabricmanager(driver, version, binaries[upstream]))
            for flavour in driver.flavours:
                packages += source_packages(driver, version, flavour, naming)
                for key in suites.keys() & kernels.keys():
                    suites[key] += precompiled_packages(
                        driver, version, flavour, kernels[key], rebuild, naming, release["flavour"]
                    )
        newest = max(newest, *rebuilds.values())
    for key in suites.keys() & kernels.keys():
        suites[key].append(signatures(kernels[key], newest))
    for old, new in release.get("transitional", []):
        packages += transitional(old, new, newest_of(new, release["families"]["-server"]))
    return suites["running"], suites["new"]


def signatures(kernel: str, rebuild: int) -> Deb:
    """linux-signatures-nvidia-<kernel>: one for all families, as new as the newest driver."""
    return Deb(
        f"linux-signatures-nvidia-{kernel}",
        kernel_package_version(kernel, rebuild),
        f"Linux kernel signatures for nvidia modules of version {kernel}",
        section="restricted/kernel",
        files={f"/lib/modules/{kernel}/kernel/nvidia-signatures/modules.sig": (signature(), 0o644)},
    )


def newest_of(branch: str, archive: list[list[str]]) -> str:
    """The newest version of a branch in an archive."""
    return next(
        f"{upstream}-{revision}"
        for upstream, revision in reversed(archive)
        if upstream.startswith(branch + ".")
    )


def transitional(old: str, new: str, version: str) -> list[Deb]:
    """Packages of a branch that is gone: they only pull in the branch that took over."""
    stems = (
        "nvidia-utils-{}-server",
        "nvidia-headless-{}-server",
        "nvidia-headless-no-dkms-{}-server",
        "nvidia-dkms-{}-server",
        "libnvidia-compute-{}-server",
        "libnvidia-cfg1-{}-server",
        "nvidia-compute-utils-{}-server",
        "nvidia-kernel-common-{}-server",
        "nvidia-kernel-source-{}-server",
    )
    return [
        Deb(
            stem.format(old),
            version,
            f"Transitional package for {stem.format(new)}",
            section="restricted/oldlibs",
            fields={"Depends": stem.format(new)},
        )
        for stem in stems
    ]


def user_space_packages(driver: Driver, version: str, binary: dict[str, bytes], naming: Naming) -> list[Deb]:
    """Libraries, tools, and what lies beside the kernel module."""
    tail = f"{driver.branch}{naming.suffix}"
    same = f"(= {version})"
    compute = Deb(
        f"libnvidia-compute-{tail}",
        version,
        "NVIDIA libcompute package",
        section="restricted/libs",
        fields={
            "Depends": "libc6 (>= 2.2.5)",
            "Multi-Arch": "same",
            **rivals("libnvidia-compute", cuda_provides(driver)),
        },
    )
    add_libraries(compute, driver, binary)
    cfg1 = Deb(
        f"libnvidia-cfg1-{tail}",
        version,
        "NVIDIA binary OpenGL/GLX configuration library",
        section="restricted/libs",
        fields={"Depends": "libc6 (>= 2.2.5)", **rivals("libnvidia-cfg1")},
    )
    utils = Deb(
        f"nvidia-utils-{tail}",
        version,
        "NVIDIA Server Driver support binaries",
        fields={"Depends": f"libnvidia-compute-{tail} {same}", **rivals("nvidia-utils")},
    )
    utils.add("/usr/bin/nvidia-smi", binary["nvidia-smi"], 0o755)
    compute_utils = Deb(
        f"nvidia-compute-utils-{tail}",
        version,
        "NVIDIA compute utilities",
        fields={
            "Depends": f"libnvidia-compute-{tail} {same}, adduser",
            **rivals("nvidia-compute-utils", "nvidia-compute-utils, nvidia-persistenced"),
        },
    )
    add_persistenced(compute_utils, binary["nvidia-persistenced"])
    common = Deb(
        f"nvidia-kernel-common-{tail}",
        version,
        "Shared files used with the kernel module",
        fields=rivals("nvidia-kernel-common"),
    )
    add_kernel_common(common)
    return [compute, cfg1, utils, compute_utils, common]


def fabricmanager(driver: Driver, version: str, binary: dict[str, bytes]) -> Deb:
    """nvidia-fabricmanager-<branch>, which has no family."""
    package = Deb(
        f"nvidia-fabricmanager-{driver.branch}",
        version,
        "Fabric Manager for NVSwitch based systems",
        fields={"Depends": "libc6 (>= 2.2.5)", **rivals("nvidia-fabricmanager")},
    )
    add_fabricmanager(package, binary["nvidia-fabricmanager"])
    return package


def source_packages(driver: Driver, version: str, flavour: str, naming: Naming) -> list[Deb]:
    """The kernel module's source, DKMS, and the headless metapackages of one flavour."""
    branch, upstream = driver.branch, driver.version
    open_ = "-open" if flavour == "open" else ""
    tail = f"{branch}{naming.suffix}"
    same = f"(= {version})"
    source = Deb(
        f"nvidia-kernel-source-{tail}{open_}",
        version,
        "NVIDIA kernel source package",
        fields={"Depends": f"nvidia-kernel-common-{tail} {same}", **rivals("nvidia-kernel-source")},
    )
    add_dkms_source(source, driver, flavour, naming.dkms)
    headless_no_dkms = Deb(
        f"nvidia-headless-no-dkms-{tail}{open_}",
        version,
        "NVIDIA headless metapackage - no DKMS",
        fields={
            "Depends": ", ".join(
                f"{stem} {same}"
                for stem in (
                    f"nvidia-kernel-common-{tail}",
                    f"nvidia-kernel-source-{tail}{open_}",
                    f"libnvidia-compute-{tail}",
                    f"nvidia-compute-utils-{tail}",
                    f"libnvidia-cfg1-{tail}",
                )
            ),
            **rivals("nvidia-headless-no-dkms"),
        },
    )
    dkms = Deb(
        f"nvidia-dkms-{tail}{open_}",
        version,
        "NVIDIA DKMS package",
        fields={
            "Depends": f"nvidia-kernel-source-{tail}{open_} {same}, "
            f"nvidia-kernel-common-{tail} {same}, dkms (>= 3.0.11)",
            **rivals("nvidia-dkms-kernel"),
        },
    )
    dkms.scripts.update(dkms_scripts(naming.dkms, upstream))
    headless = Deb(
        f"nvidia-headless-{tail}{open_}",
        version,
        "NVIDIA headless metapackage",
        fields={
            "Depends": f"nvidia-headless-no-dkms-{tail}{open_} {same}, nvidia-dkms-{tail}{open_} {same}",
            **rivals("nvidia-headless"),
        },
    )
    return [source, headless_no_dkms, dkms, headless]


def precompiled_packages(
    driver: Driver, version: str, flavour: str, kernel: str, rebuild: int, naming: Naming, kernel_flavour: str
) -> list[Deb]:
    """The signed modules of one kernel, and the metapackage that follows the kernel."""
    open_ = "-open" if flavour == "open" else ""
    tail = f"{driver.branch}{naming.suffix}"
    where = f"/lib/modules/{kernel}/kernel/{naming.directory(driver.branch, flavour)}"
    kernel_version = kernel_package_version(kernel, rebuild)
    objects = Deb(
        f"linux-objects-nvidia-{tail}{open_}-{kernel}",
        kernel_version,
        f"Linux kernel nvidia modules for version {kernel} (objects)",
        section="restricted/kernel",
        files={
            f"{where}/bits/{name}.o": (build_module(name, driver, flavour, kernel), 0o644)
            for name in MODULE_NAMES
        },
    )
    # The real package, too, ships parts and puts the modules together at installation.
    modules = Deb(
        f"linux-modules-nvidia-{tail}{open_}-{kernel}",
        kernel_version,
        f"Linux kernel nvidia modules for version {kernel}",
        section="restricted/kernel",
        fields={
            "Depends": f"linux-image-{kernel} | linux-image-unsigned-{kernel}, "
            f"linux-signatures-nvidia-{kernel} (>= {kernel_package_version(kernel, 0)}), "
            f"linux-objects-nvidia-{tail}{open_}-{kernel} (= {kernel_version}), "
            f"nvidia-kernel-common-{tail} (<= {version}), "
            f"nvidia-kernel-common-{tail} (>= {driver.version})",
            "Provides": "nvidia-prebuilt-kernel",
        },
    )
    modules.scripts["postinst"] = f"""#!/bin/sh
set -e
if [ "$1" = configure ]; then
    for part in {where}/bits/*.o; do
        module=$(basename "$part" .o)
        cat "$part" /lib/modules/{kernel}/kernel/nvidia-signatures/modules.sig >{where}/"$module".ko
    done
    depmod -a {kernel}
fi
"""
    modules.scripts["prerm"] = f"""#!/bin/sh
set -e
rm -f {where}/*.ko
"""
    modules.scripts["postrm"] = f"""#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /lib/modules/{kernel} ]; then depmod -a {kernel}; fi
"""
    metapackage = Deb(
        f"linux-modules-nvidia-{tail}{open_}-{kernel_flavour}",
        metapackage_version(kernel) + (f"+{rebuild}" if rebuild else ""),
        f"Extra drivers for nvidia-{tail} for the {kernel_flavour} flavour",
        section="restricted/kernel",
        fields={
            "Depends": f"linux-modules-nvidia-{tail}{open_}-{kernel} (= {kernel_version}), "
            f"nvidia-kernel-common-{tail} (<= {version}), nvidia-kernel-common-{tail} (>= {driver.version})"
        },
    )
    return [objects, modules, metapackage]
