"""What the driver packages of every distribution share: units, rules, scripts, the source for DKMS."""

from __future__ import annotations

from binaries import ANY_KERNEL, Driver, build_module
from debs import Deb

LIB = "/usr/lib/x86_64-linux-gnu"
MODULE_NAMES = ("nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm")

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

UPDATE_INITRAMFS = """#!/bin/sh
set -e
if [ "$1" = {when} ] && [ -x /usr/sbin/update-initramfs ]; then update-initramfs -u; fi
"""
RELOAD_UNITS = """#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
fi
"""
PERSISTENCED_POSTINST = """#!/bin/sh
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
PERSISTENCED_PRERM = """#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl stop nvidia-persistenced.service || true
fi
"""
FABRICMANAGER_PRERM = PERSISTENCED_PRERM.replace("nvidia-persistenced", "nvidia-fabricmanager")


def dkms_scripts(module: str, version: str) -> dict[str, str]:
    """What dh_dkms and Ubuntu's own scripts do: build for every kernel that has headers."""
    return {
        "postinst": f"""#!/bin/sh
set -e
if [ "$1" = configure ]; then
    echo "Loading new {module}-{version} DKMS files..."
    dkms add -m {module} -v {version}
    running=$(uname -r)
    if [ ! -d /lib/modules/"$running"/build/ ]; then
        echo "Module build for kernel $running was skipped since the"
        echo "kernel headers for this kernel do not seem to be installed."
    fi
    for build in /lib/modules/*/build/; do
        [ -d "$build" ] || continue
        kernel=$(basename "$(dirname "$build")")
        echo "Building for $kernel"
        dkms install -m {module} -v {version} -k "$kernel"
    done
fi
""",
        "prerm": f"""#!/bin/sh
set -e
case "$1" in remove|upgrade|deconfigure) dkms remove -m {module} -v {version} --all ;; esac
""",
    }


def add_dkms_source(package: Deb, driver: Driver, flavour: str, module: str, stem: str = "nvidia") -> None:
    """/usr/src/<module>-<version>: the "source" is finished modules without a kernel's name in them.

    `stem`: what the files are called instead of nvidia (Debian renames them).
    """
    tree = f"/usr/src/{module}-{driver.version}"
    text = f'PACKAGE_NAME="{module}"\nPACKAGE_VERSION="{driver.version}"\nAUTOINSTALL="yes"\n'
    package.add(f"{tree}/dkms.conf", text)
    package.add(f"{tree}/FLAVOUR", flavour + "\n")
    for name in MODULE_NAMES:
        package.add(
            f"{tree}/{name.replace('nvidia', stem, 1)}.o", build_module(name, driver, flavour, ANY_KERNEL)
        )


def add_persistenced(package: Deb, binary: bytes) -> None:
    """nvidia-persistenced as Ubuntu's and NVIDIA's packages have it: a static unit that udev starts."""
    package.add("/usr/bin/nvidia-persistenced", binary, 0o755)
    package.add("/lib/systemd/system/nvidia-persistenced.service", PERSISTENCED_UNIT)
    package.scripts["postinst"] = PERSISTENCED_POSTINST
    package.scripts["prerm"] = PERSISTENCED_PRERM


def add_fabricmanager(package: Deb, binary: bytes) -> None:
    """The fabric manager, not enabled by its package."""
    package.add("/usr/bin/nv-fabricmanager", binary, 0o755)
    package.add("/lib/systemd/system/nvidia-fabricmanager.service", FABRICMANAGER_UNIT)
    package.add("/usr/share/nvidia/nvswitch/fabricmanager.cfg", "LOG_LEVEL=4\nDAEMONIZE=1\n")
    package.scripts["postinst"] = RELOAD_UNITS
    package.scripts["prerm"] = FABRICMANAGER_PRERM


def add_kernel_common(package: Deb) -> None:
    """What lies beside the kernel module: the nouveau blacklist and udev's rules."""
    package.add("/lib/modprobe.d/nvidia-graphics-drivers.conf", NOUVEAU_BLACKLIST)
    package.add("/lib/udev/rules.d/71-nvidia.rules", UDEV_RULES)
    package.scripts["postinst"] = UPDATE_INITRAMFS.format(when="configure")
    package.scripts["postrm"] = UPDATE_INITRAMFS.format(when="remove")


def add_libraries(package: Deb, driver: Driver, binary: dict[str, bytes]) -> None:
    """libcuda and libnvidia-ml where Ubuntu's and NVIDIA's packages put them."""
    for library in ("libcuda", "libnvidia-ml"):
        package.add(f"{LIB}/{library}.so.{driver.version}", binary[library], 0o644)
        package.links[f"{LIB}/{library}.so.1"] = f"{library}.so.{driver.version}"
    package.links[f"{LIB}/libcuda.so"] = "libcuda.so.1"
    package.scripts["triggers"] = "activate-noawait ldconfig\n"


def rivals(virtual: str, provides: str = "") -> dict[str, str]:
    """One package of a kind at a time: all branches provide, conflict with and replace one name."""
    return {"Provides": provides or virtual, "Conflicts": virtual, "Replaces": virtual}


def cuda_provides(driver: Driver) -> str:
    """The names that stand for libcuda and libnvidia-ml of this version."""
    return (
        f"libcuda-{driver.cuda // 1000}.{driver.cuda % 1000 // 10}-1, libcuda.so.1 (= {driver.version}), "
        "libcuda1, libnvidia-compute, libnvidia-ml.so.1, libnvidia-ml1"
    )
