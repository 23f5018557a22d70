"""Questions that several tests ask a node; the node itself answers, never gpuready's own facts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

# linux-signatures-nvidia-<kernel> is left out: it belongs to a kernel and to every branch, and the held
# modules depend on its exact version, so that it cannot move alone.
DRIVER_PACKAGE = re.compile(
    r"^(nvidia-(?!container|docker|ctk)|libnvidia-(?!container)|linux-(modules|objects)-nvidia-"
    r"|xserver-xorg-video-nvidia|libcuda1$|firmware-nvidia|cuda-drivers)"
)
TOOLKIT_PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
DAEMON_JSON = "/etc/docker/daemon.json"
# What a headless node has no use for.
GRAPHICS = re.compile(
    r"^(xserver-|xorg|x11-|xinit|nvidia-settings|nvidia-xconfig|screen-resolution-extra|libgtk|libwayland"
    r"|libnvidia-(gl|fbc1|egl)|nvidia-(driver-)?(libs|full)|mesa-|libgl1)"
)
VERSION = re.compile(r"\b(\d{3}\.\d+(?:\.\d+)?)\b")


def installed_packages(host: Any) -> dict[str, str]:
    """Name and version of every package that dpkg holds to be installed."""
    lines = host.check_output(r"dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n'").splitlines()
    return {
        name: version
        for status, name, version in (line.split(" ", 2) for line in lines)
        if status == "installed"
    }


def driver_packages(host: Any) -> dict[str, str]:
    """The installed packages of the NVIDIA driver, without the container toolkit's."""
    return {name: version for name, version in installed_packages(host).items() if DRIVER_PACKAGE.match(name)}


def graphics_packages(host: Any) -> list[str]:
    """Installed packages that only a screen needs."""
    return sorted(name for name in installed_packages(host) if GRAPHICS.match(name))


@dataclass(frozen=True)
class DriverVersions:
    """What must be one version; None where there is nothing."""

    loaded: str | None
    on_disk: str | None
    userspace: str | None

    @property
    def agree(self) -> bool:
        """Whether the driver is whole and of one version."""
        return self.loaded is not None and self.loaded == self.on_disk == self.userspace


# The libraries as the loader finds them, through whatever links. Debian's modules have other file names.
VERSIONS = r"""
echo loaded: $(cat /proc/driver/nvidia/version 2>/dev/null)
for module in nvidia nvidia-current nvidia-current-open; do
    version=$(modinfo -F version $module 2>/dev/null) && break
done
echo on_disk: $version
for library in libcuda.so.1 libnvidia-ml.so.1; do
    path=$(ldconfig -p | awk -v name=$library '$1 == name && /x86-64/ {print $NF; exit}')
    echo userspace: $(readlink -f "$path" 2>/dev/null)
done
"""


def driver_versions(host: Any) -> DriverVersions:
    """The driver's version where it can differ; two libraries of different versions count as their pair."""
    found: dict[str, set[str]] = {"loaded": set(), "on_disk": set(), "userspace": set()}
    for line in host.check_output(VERSIONS).splitlines():
        part, _, text = line.partition(": ")
        if match := VERSION.search(text):
            found[part].add(match.group(1))
    return DriverVersions(*("+".join(sorted(versions)) or None for versions in found.values()))


def held_packages(host: Any) -> set[str]:
    """What `apt-mark hold` keeps in place."""
    return set(host.check_output("apt-mark showhold").split())


def gpus_on_the_bus(host: Any) -> list[str]:
    """PCI addresses of NVIDIA's display and 3D controllers; needs no driver."""
    script = (
        "for d in /sys/bus/pci/devices/*; do "
        '[ "$(cat $d/vendor 2>/dev/null)" = 0x10de ] || continue; '
        'case "$(cat $d/class)" in 0x0300*|0x0302*) basename $d;; esac; done'
    )
    return host.check_output(script).split()


def daemon_json(host: Any) -> dict[str, Any]:
    """Docker's configuration file; an absent one counts as empty, as it does for dockerd."""
    file = host.file(DAEMON_JSON)
    return json.loads(file.content_string) if file.exists else {}


def docker_info(host: Any) -> dict[str, Any]:
    """What dockerd really runs with."""
    return json.loads(host.check_output("docker info --format '{{json .}}'"))


def dockerd_path(host: Any) -> list[str]:
    """The PATH of the running dockerd: where it looks for the hook when somebody says ``--gpus``."""
    pid = host.check_output("systemctl show --property MainPID --value docker.service").strip()
    environment = host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ").splitlines()
    (path,) = (line.partition("=")[2] for line in environment if line.startswith("PATH="))
    return path.split(":")
