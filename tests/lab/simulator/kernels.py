"""The simulated kernels: an image to boot, headers to build against, and the metapackages that follow them.

A node is a container and boots none of them; what it says its kernel is called follows /boot (src/uname.c).
"""

from __future__ import annotations

import re

from debs import Deb

DKMS_VERSION = (
    "1:3.0.11-1ubuntu13"  # with an epoch, so that the distribution's real dkms beside it never wins
)

IMAGE_POSTINST = """#!/bin/sh
set -e
if [ "$1" = configure ]; then
    if [ -x /sbin/depmod ]; then depmod -a {kernel}; fi
    if command -v dkms >/dev/null && [ -d /lib/modules/{kernel}/build/ ]; then
        dkms autoinstall -k {kernel}
    fi
    if [ -x /usr/lib/gpulab/hardware ]; then /usr/lib/gpulab/hardware update-initramfs -c -k {kernel}; fi
fi
"""
IMAGE_POSTRM = """#!/bin/sh
set -e
if [ "$1" = remove ]; then
    rm -f /boot/initrd.img-{kernel} /var/lib/initramfs-tools/{kernel}
    rm -f /lib/modules/{kernel}/modules.*
    rmdir /lib/modules/{kernel} 2>/dev/null || true
fi
"""
HEADERS_POSTINST = """#!/bin/sh
set -e
if [ "$1" = configure ] && command -v dkms >/dev/null; then dkms autoinstall -k {kernel}; fi
"""


def kernel_package_version(kernel: str, rebuild: int) -> str:
    """Precompiled modules carry the kernel's version, and "+N" for each later driver: 6.8.0-136.136+1."""
    numbers = re.match(r"(\d+(?:\.\d+)*)(?:-(\d+))?", kernel)
    base = numbers.group(1) if numbers else "0"
    abi = numbers.group(2) if numbers and numbers.group(2) else "1"
    return f"{base}-{abi}.{abi}" + (f"+{rebuild}" if rebuild else "")


def metapackage_version(kernel: str) -> str:
    """A metapackage counts the kernel's ABI: 5.15.0.157.157."""
    return kernel_package_version(kernel, 0).replace("-", ".")


def image_version(kernel: str, os: str) -> str:
    """Ubuntu counts the ABI, Debian names the upstream release."""
    if os == "ubuntu":
        return kernel_package_version(kernel, 0)
    numbers = re.match(r"(\d+\.\d+\.\d+)-?(\d+)?", kernel)
    assert numbers
    # Debian 12's 6.1.0-40 is upstream's 6.1.153 or so; the ABI's number stands in for it here.
    return f"{numbers.group(1)}-{numbers.group(2)}" if numbers.group(2) else f"{numbers.group(1)}-1"


def image(kernel: str, os: str) -> Deb:
    """linux-image-<kernel>; Ubuntu has the modules in a package of their own."""
    package = Deb(
        f"linux-image-{kernel}",
        image_version(kernel, os),
        f"Linux kernel image for version {kernel}",
        section="kernel",
        fields={"Provides": "linux-image", "Depends": "kmod"},
    )
    package.add(
        f"/boot/vmlinuz-{kernel}", "SIMULATED kernel image: a lab node is a container and boots none\n"
    )
    package.add(f"/boot/config-{kernel}", "CONFIG_MODULES=y\nCONFIG_MODULE_SIG=y\n")
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        package.add(f"/lib/modules/{kernel}/{name}", "")
    package.scripts["postinst"] = IMAGE_POSTINST.format(kernel=kernel)
    package.scripts["postrm"] = IMAGE_POSTRM.format(kernel=kernel)
    return package


def headers(kernel: str, os: str) -> Deb:
    """linux-headers-<kernel>, so thin that they only serve the simulated dkms."""
    package = Deb(
        f"linux-headers-{kernel}",
        image_version(kernel, os),
        f"Linux kernel headers for version {kernel}",
        section="devel",
        links={f"/lib/modules/{kernel}/build": f"/usr/src/linux-headers-{kernel}"},
    )
    package.add(f"/usr/src/linux-headers-{kernel}/Makefile", "# SIMULATED kernel headers\n")
    package.add(f"/usr/src/linux-headers-{kernel}/.config", "CONFIG_MODULES=y\nCONFIG_MODULE_SIG=y\n")
    package.scripts["postinst"] = HEADERS_POSTINST.format(kernel=kernel)
    return package


def metapackages(kernel: str, flavour: str, os: str) -> list[Deb]:
    """linux-image-<flavour> and linux-headers-<flavour>; Ubuntu's linux-<flavour> is both."""
    version = metapackage_version(kernel) if os == "ubuntu" else image_version(kernel, os)
    found = [
        Deb(
            f"linux-{kind}-{flavour}",
            version,
            f"Linux {kind} metapackage for {flavour}",
            section="kernel" if kind == "image" else "devel",
            fields={"Depends": f"linux-{kind}-{kernel}"},
        )
        for kind in ("image", "headers")
    ]
    if os == "ubuntu":
        depends = f"linux-image-{flavour} (= {version}), linux-headers-{flavour} (= {version})"
        found.append(
            Deb(
                f"linux-{flavour}",
                version,
                f"Complete {flavour} Linux kernel and headers",
                section="kernel",
                fields={"Depends": depends},
            )
        )
    return found


def dkms(program: bytes) -> Deb:
    """dkms itself."""
    package = Deb(
        "dkms",
        DKMS_VERSION,
        "Dynamic Kernel Module System",
        architecture="all",
        section="kernel",
        fields={"Depends": "kmod, python3"},
    )
    package.add("/usr/sbin/dkms", program, 0o755)
    return package
