# Apache-2.0 (see LICENSE)
"""The preferences file that keeps a node's driver packages to one origin: the one definition of its content.

The planner compares it with what the node has (`apt.driver_pin`), the role `nvidia_driver` writes it.

Ubuntu, Debian, NVIDIA and others publish drivers under the same or overlapping names. A driver of which apt
takes one half here and the other half there does not work, so every other origin's driver packages get a
negative priority: apt never takes them, whatever other preferences say (a record that names packages goes
before one for all, as NVIDIA's own cuda-repository-pin-600 is). Nothing but the driver is touched: CUDA's
developer packages, for which many have NVIDIA's repository, stay as they were.
"""

from __future__ import annotations

import re
from typing import Iterable, List, Optional, Sequence

PATH = "/etc/apt/preferences.d/gpuready-nvidia-driver"
# What the CUDA repository calls itself (Label), so that the toolkit's own repository is not meant.
CUDA_LABEL = "NVIDIA CUDA"

# glob(7) patterns, as apt takes them. Left out is what is no driver: the container toolkit
# (libnvidia-container*), nvidia-cuda-toolkit and the like, and what every origin's driver may depend on
# although only the distribution has it (libnvidia-egl-wayland1; Debian's glx-alternative-nvidia,
# nvidia-support, nvidia-installer-cleanup, nvidia-kernel-common).
DRIVER_PACKAGES = (
    "cuda-drivers*",
    "firmware-nvidia-*",
    "libcuda1*",
    "libcudadebugger1*",
    "libegl-nvidia*",
    "libgl1-nvidia*",
    "libgles-nvidia*",
    "libglx-nvidia*",
    "libnvcuvid1*",
    "libnvidia-[!ce]*",
    "libnvidia-c[!o]*",
    "libnvidia-co[!n]*",
    "libnvidia-e[!g]*",
    "libnvidia-eglcore*",
    "libnvoptix1*",
    "libnvsdm*",
    "linux-modules-nvidia-*",
    "linux-objects-nvidia-*",
    "linux-signatures-nvidia-*",
    "nvidia-alternative*",
    "nvidia-compute-utils*",
    "nvidia-cuda-mps*",
    "nvidia-dkms*",
    "nvidia-driver*",
    "nvidia-egl*",
    "nvidia-fabricmanager*",
    "nvidia-firmware*",
    "nvidia-headless*",
    "nvidia-imex*",
    "nvidia-kernel-common-*",
    "nvidia-kernel-dkms*",
    "nvidia-kernel-open*",
    "nvidia-kernel-source*",
    "nvidia-kernel-support*",
    "nvidia-legacy*",
    "nvidia-libopencl1*",
    "nvidia-modprobe*",
    "nvidia-open*",
    "nvidia-opencl*",
    "nvidia-persistenced*",
    "nvidia-smi*",
    "nvidia-suspend-common*",
    "nvidia-tesla*",
    "nvidia-utils*",
    "nvidia-vdpau*",
    "nvidia-vulkan*",
    "xserver-xorg-video-nvidia*",
)

_HEADER = """\
# Managed by gpuready (nvidia_driver). The driver on this node comes from %s; packages of
# other origins would be mixed with it.
"""


def same_supplier(origin: str, other: str) -> bool:
    """Ubuntu and UbuntuESM, Debian and Debian Backports build for each other."""
    return other == origin or (other.startswith(origin) and origin in ("Ubuntu", "Debian"))


def nameable(origin: str) -> bool:
    """Can apt's preferences name this origin? A comma ends a name there."""
    return bool(origin) and not re.search(r"[,\n]", origin)


def content(origin: str, others: Iterable[str], toolkit: Sequence[str] = ()) -> str:
    """The file. `toolkit`: packages that are not to come out of the CUDA repository."""
    records = []
    if toolkit:
        records.append(_record(toolkit, "l=%s" % CUDA_LABEL))
    records += [_record(DRIVER_PACKAGES, "o=%s" % other) for other in sorted(set(others))]
    return _HEADER % origin + "\n" + "\n".join(records)


def _record(packages: Sequence[str], release: str) -> str:
    return "Package: %s\nPin: release %s\nPin-Priority: -1\n" % (" ".join(packages), release)


def blocked(text: Optional[str]) -> List[str]:
    """The origins that a preferences file of ours keeps out."""
    return re.findall(r"^Pin: release o=(.+)$", text or "", re.M)
