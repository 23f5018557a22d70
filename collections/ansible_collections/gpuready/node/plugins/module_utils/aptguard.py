"""gpuready's word to unattended-upgrades: the one definition of the file that keeps it off NVIDIA's driver.

`apt_upgrade_guard` writes it, `gpu_stack_info` compares with it.
"""

from __future__ import annotations

from typing import List

DIRECTORY = "/etc/apt/apt.conf.d"
PATH = DIRECTORY + "/52gpuready-nvidia"

# Python regular expressions that unattended-upgrades matches at the start of a package's name. They name the
# driver, its libraries and the container toolkit; CUDA's developer tools and everything else stay patched.
# Ubuntu's precompiled modules (linux-modules-nvidia-…) are left out: they come with new kernels, and a kernel
# that is upgraded without its module loses the GPU at the next boot. They cannot move the driver, since they
# depend on nvidia-kernel-common at the driver's own version.
PATTERNS: List[str] = [
    r"nvidia-(driver|dkms|kernel|headless|utils|compute-utils|firmware|fabricmanager|imex|modprobe|persistenced)(-|$)",
    r"nvidia-(open|smi|legacy|tesla|alternative|settings|suspend-common|cuda-mps|xconfig)(-|$)",
    r"nvidia-(egl|opencl|vdpau|vulkan)-(common|driver|icd)",
    r"nvidia-(container-toolkit|container-runtime|docker2)(-|$)",
    r"libnvidia-",
    r"libcuda1$",
    r"xserver-xorg-video-nvidia",
    r"cuda-drivers(-|$)",
]

_HEADER = """\
// Managed by gpuready (apt_upgrade_guard). An upgrade of the running driver's libraries cuts every
// GPU container off until the next reboot, so NVIDIA's packages are upgraded on purpose only.
"""


def content() -> str:
    """The file, exactly."""
    lines = ['  "%s";' % pattern for pattern in PATTERNS]
    return _HEADER + "Unattended-Upgrade::Package-Blacklist {\n" + "\n".join(lines) + "\n};\n"
