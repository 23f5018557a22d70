"""NVIDIA's CUDA repository: names with the branch up to 580, without it from 590 on; on Debian never."""

from __future__ import annotations

from collections.abc import Iterable

from binaries import DRIVERS, Driver
from debs import Deb
from parts import (
    add_dkms_source,
    add_fabricmanager,
    add_kernel_common,
    add_libraries,
    add_persistenced,
    cuda_provides,
    dkms_scripts,
    rivals,
)
from ubuntu import Naming, source_packages, user_space_packages

Binary = dict[str, bytes]


def meta(name: str, version: str, depends: str, summary: str = "NVIDIA Driver meta-package") -> Deb:
    """A package that only pulls others in."""
    return Deb(name, version, summary, section="multiverse/devel", fields={"Depends": depends})


def pinning(driver: Driver) -> Deb:
    """nvidia-driver-pinning-<branch>: NVIDIA's own preferences file that keeps to a branch."""
    package = Deb(
        f"nvidia-driver-pinning-{driver.branch}",
        f"{driver.branch}-1",
        f"NVIDIA Driver Pinning File for branch {driver.branch}",
        architecture="all",
        section="admin",
        fields=rivals("nvidia-driver-pinning"),
    )
    package.add(
        f"/etc/apt/preferences.d/nvidia-driver-pinning-{driver.branch}",
        "Package: src:*nvidia*:any src:cuda-drivers:any src:cuda-compat:any\n"
        f"Pin: version {driver.branch}.*\nPin-Priority: 1000\n",
    )
    package.conffiles = list(package.files)
    return package


def fabricmanager(driver: Driver, revision: str, binary: Binary) -> Deb:
    """The fabric manager; its names lost the branch one branch before the driver's did."""
    named = int(driver.branch) < 580
    version = f"{driver.version}-{revision}"
    relations = {"Conflicts": "nvidia-fabricmanager", "Replaces": "nvidia-fabricmanager"}
    if named:
        relations["Provides"] = "nvidia-fabricmanager"
    package = Deb(
        f"nvidia-fabricmanager-{driver.branch}" if named else "nvidia-fabricmanager",
        version,
        "Fabric Manager for NVSwitch based systems",
        section="multiverse/admin",
        fields={"Depends": "libc6 (>= 2.2.5)", **relations},
    )
    add_fabricmanager(package, binary["nvidia-fabricmanager"])
    return package


def branched(driver: Driver, revision: str, binary: Binary) -> list[Deb]:
    """Ubuntu, up to 580: Ubuntu's desktop names, in NVIDIA's own build."""
    version, branch = f"{driver.version}-{revision}", driver.branch
    naming = Naming("")
    same = f"(= {version})"
    packages = user_space_packages(driver, version, binary, naming)
    for flavour in driver.flavours:
        packages += source_packages(driver, version, flavour, naming)
    firmware = Deb(
        f"nvidia-firmware-{branch}-{driver.version}", version, "Firmware files used by the kernel module"
    )
    packages += [
        firmware,
        # Its revision counts by itself.
        fabricmanager(driver, "1", binary),
        meta(
            f"cuda-drivers-{branch}",
            version,
            f"nvidia-headless-{branch} {same}, nvidia-utils-{branch} {same}",
        ),
        meta(
            f"nvidia-open-{branch}",
            version,
            f"nvidia-headless-{branch}-open {same}, nvidia-utils-{branch} {same}",
        ),
    ]
    return packages


def plain(driver: Driver, revision: str, binary: Binary) -> list[Deb]:
    """Ubuntu, from 590 on: no branch in the names; nvidia-smi is in libnvidia-compute's set."""
    version = f"{driver.version}-{revision}"
    same = f"(= {version})"
    compute = Deb(
        "libnvidia-compute",
        version,
        "NVIDIA libcompute package",
        section="multiverse/libs",
        fields={
            "Depends": f"libnvidia-common {same}, libnvidia-gpucomp {same}, libc6 (>= 2.2.5)",
            "Multi-Arch": "same",
            "Provides": cuda_provides(driver).replace("libnvidia-compute, ", "") + ", nvidia-utils",
            "Conflicts": "libnvidia-compute, nvidia-utils",
            "Replaces": "libnvidia-compute, nvidia-utils",
        },
    )
    add_libraries(compute, driver, binary)
    compute.add("/usr/bin/nvidia-smi", binary["nvidia-smi"], 0o755)
    common_libs = Deb(
        "libnvidia-common", version, "Shared files used by the NVIDIA libraries", section="multiverse/libs"
    )
    gpucomp = Deb(
        "libnvidia-gpucomp", version, "NVIDIA binary GPU compiler library", section="multiverse/libs"
    )
    cfg1 = Deb(
        "libnvidia-cfg1",
        version,
        "NVIDIA binary OpenGL/GLX configuration library",
        section="multiverse/libs",
        fields={"Depends": "libc6 (>= 2.2.5)", "Conflicts": "libnvidia-cfg1", "Replaces": "libnvidia-cfg1"},
    )
    persistenced = Deb(
        "nvidia-persistenced",
        version,
        "daemon to maintain persistent software state in the NVIDIA driver",
        section="multiverse/admin",
        fields={
            "Depends": f"libnvidia-cfg1 {same}, adduser",
            "Conflicts": "nvidia-persistenced, nvidia-compute-utils",
            "Replaces": "nvidia-persistenced, nvidia-compute-utils",
        },
    )
    add_persistenced(persistenced, binary["nvidia-persistenced"])
    firmware = Deb(
        "nvidia-firmware", version, "Firmware files used by the kernel module", section="multiverse/kernel"
    )
    modprobe = Deb("nvidia-modprobe", version, "Load the NVIDIA kernel driver", section="multiverse/admin")
    modprobe.add(
        "/usr/bin/nvidia-modprobe",
        "#!/bin/sh\n# SIMULATED nvidia-modprobe.\nexec /sbin/modprobe -q nvidia\n",
        0o755,
    )
    common = Deb(
        "nvidia-kernel-common",
        version,
        "Shared files used with the kernel module",
        section="multiverse/kernel",
        fields={
            "Depends": f"nvidia-modprobe {same}, nvidia-firmware {same}",
            "Conflicts": "nvidia-kernel-common",
            "Replaces": "nvidia-kernel-common",
        },
    )
    add_kernel_common(common)
    packages = [compute, common_libs, gpucomp, cfg1, persistenced, firmware, modprobe, common]
    for flavour in driver.flavours:
        open_ = "-open" if flavour == "open" else ""
        source = Deb(
            f"nvidia-kernel-source{open_}",
            version,
            "NVIDIA kernel source package",
            section="multiverse/kernel",
            fields={
                "Depends": f"nvidia-kernel-common {same}",
                "Provides": "nvidia-kernel-source" if open_ else "",
                "Conflicts": "nvidia-kernel-source",
                "Replaces": "nvidia-kernel-source",
            },
        )
        add_dkms_source(source, driver, flavour, "nvidia")
        dkms = Deb(
            f"nvidia-dkms{open_}",
            version,
            "NVIDIA DKMS package",
            section="multiverse/kernel",
            fields={
                "Depends": f"nvidia-kernel-source{open_} {same}, nvidia-kernel-common {same}, "
                f"nvidia-firmware {same}, dkms (>= 3.0.11)",
                **rivals("nvidia-dkms-kernel"),
            },
        )
        dkms.scripts = dkms_scripts("nvidia", driver.version)
        packages += [source, dkms]
        packages.append(
            meta(
                "nvidia-open" if open_ else "cuda-drivers",
                version,
                f"nvidia-dkms{open_} {same}, libnvidia-compute {same}, nvidia-persistenced {same}",
            )
        )
    return [*packages, fabricmanager(driver, revision, binary)]


def debian(driver: Driver, revision: str, binary: Binary) -> list[Deb]:
    """Debian: nvidia-driver-cuda for computing, nvidia-kernel-[open-]dkms for the kernel."""
    version = f"{driver.version}-{revision}"
    same = f"(= {version})"

    def package(name: str, summary: str, section: str = "contrib/libs", **fields: str) -> Deb:
        return Deb(name, version, summary, section=section, fields=fields)

    # Files where libraries lie, not behind Debian's alternatives: the two sets exclude each other.
    apart = {"Conflicts": "nvidia-alternative", "Replaces": "nvidia-alternative"}
    cuda = package(
        "libcuda1",
        "NVIDIA CUDA Driver Library",
        Depends=f"libnvidia-ptxjitcompiler1 {same}, libc6 (>= 2.2.5)",
        Provides=f"libcuda.so.1 (= {driver.version}), libcuda1-any",
        **apart,
        **{"Multi-Arch": "same"},
    )
    ml = package(
        "libnvidia-ml1",
        "NVIDIA Management Library (NVML) runtime library",
        Depends="libc6 (>= 2.2.5)",
        Provides=f"libnvidia-ml.so.1 (= {driver.version})",
        **apart,
        **{"Multi-Arch": "same"},
    )
    both = package("libnvidia-both", "")
    add_libraries(both, driver, binary)
    for target, stem in ((cuda, "libcuda"), (ml, "libnvidia-ml")):
        target.files.update({path: data for path, data in both.files.items() if f"/{stem}.so" in path})
        target.links.update({path: to for path, to in both.links.items() if f"/{stem}.so" in path})
        target.scripts["triggers"] = both.scripts["triggers"]
    jit = package("libnvidia-ptxjitcompiler1", "NVIDIA PTX JIT Compiler library", **{"Multi-Arch": "same"})
    cfg = package(
        "libnvidia-cfg1", "NVIDIA binary OpenGL/GLX configuration library", Provides="libnvidia-cfg1-any"
    )
    persistenced = package(
        "nvidia-persistenced",
        "daemon to maintain persistent software state in the NVIDIA driver",
        "contrib/admin",
        Depends=f"libnvidia-cfg1 {same}, adduser",
    )
    add_persistenced(persistenced, binary["nvidia-persistenced"])
    driver_cuda = package(
        "nvidia-driver-cuda",
        "NVIDIA driver CUDA integration components",
        "contrib/utils",
        Depends=f"libcuda1 {same}, libnvidia-ml1 {same}, nvidia-persistenced {same}",
        Conflicts="nvidia-smi",
        Replaces="nvidia-smi",
        Provides="nvidia-smi",
    )
    driver_cuda.add("/usr/bin/nvidia-smi", binary["nvidia-smi"], 0o755)
    firmware = package(
        "firmware-nvidia-gsp",
        "NVIDIA GSP firmware",
        "contrib/kernel",
        Provides=f"firmware-nvidia-gsp-{driver.version}",
    )
    modprobe = package("nvidia-modprobe", "utility to load NVIDIA kernel modules", "contrib/utils")
    modprobe.add(
        "/usr/bin/nvidia-modprobe",
        "#!/bin/sh\n# SIMULATED nvidia-modprobe.\nexec /sbin/modprobe -q nvidia\n",
        0o755,
    )
    support = package(
        "nvidia-kernel-support",
        "NVIDIA binary kernel module support files",
        "contrib/kernel",
        Depends=f"nvidia-modprobe {same}, firmware-nvidia-gsp {same}",
        Conflicts="nvidia-alternative",
        Replaces="nvidia-alternative",
    )
    add_kernel_common(support)
    packages = [cuda, ml, jit, cfg, persistenced, driver_cuda, firmware, modprobe, support]
    for flavour in driver.flavours:
        open_ = flavour == "open"
        name = "nvidia-kernel-open-dkms" if open_ else "nvidia-kernel-dkms"
        dkms = package(
            name,
            "NVIDIA binary kernel module DKMS source" + (" open flavor" if open_ else ""),
            "contrib/kernel",
            Depends=f"nvidia-kernel-support {same}, dkms (>= 3.0.3-4~)",
            Provides=f"nvidia-kernel-{driver.version}",
            Conflicts="nvidia-open-kernel-dkms, "
            + ("nvidia-kernel-dkms" if open_ else "nvidia-kernel-open-dkms"),
            Replaces="nvidia-open-kernel-dkms, "
            + ("nvidia-kernel-dkms" if open_ else "nvidia-kernel-open-dkms"),
        )
        add_dkms_source(dkms, driver, flavour, "nvidia")
        dkms.scripts = dkms_scripts("nvidia", driver.version)
        packages.append(dkms)
        packages.append(
            meta(
                "nvidia-open" if open_ else "cuda-drivers",
                version,
                f"{name} {same}, nvidia-driver-cuda {same}",
            )
        )
    return [*packages, fabricmanager(driver, revision, binary)]


SCHEMES = {"branched": branched, "plain": plain, "debian": debian}


def packages(distro: dict[str, list[list[str]]], binaries: dict[str, Binary]) -> Iterable[Deb]:
    """Everything of one distribution's directory."""
    branches: dict[str, Driver] = {}
    for scheme, versions in distro.items():
        for upstream, revision in versions:
            driver = DRIVERS[upstream]
            branches[driver.branch] = driver
            yield from SCHEMES[scheme](driver, revision, binaries[upstream])
    for driver in branches.values():
        yield pinning(driver)
