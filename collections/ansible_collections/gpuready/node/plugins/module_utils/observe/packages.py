"""Packages: one question to dpkg, answered from then on."""

from __future__ import annotations

import re
from typing import Any, Dict, Iterable, List, NamedTuple, Optional

from .node import Node

FIELDS = ("Package", "Architecture", "Version", "db:Status-Want", "db:Status-Status", "db:Status-Eflag")
FORMAT = "\\t".join("${%s}" % field for field in FIELDS) + "\\n"
COMMAND = ("dpkg-query", "--show", "--showformat=" + FORMAT)

TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
TOOLKIT_LEGACY = ("nvidia-docker2", "nvidia-container-runtime", "nvidia-container-runtime-hook")
DOCKER = ("docker-ce", "docker.io")

# What makes up NVIDIA's driver, in Ubuntu's, Debian's and NVIDIA's own package names.
_DRIVER = re.compile(
    r"^(nvidia-|libnvidia-|linux-(modules|objects|signatures)-nvidia-|xserver-xorg-video-nvidia|cuda-drivers"
    r"|lib(cuda|cudadebugger|nvcuvid|nvoptix)1(-|$)|libnvsdm|nvlsm$|firmware-nvidia-)"
)
# Named alike, but not the driver: the container toolkit, CUDA's developer tools, and what comes with a
# version of its own for whatever driver there is.
_NOT_DRIVER = re.compile(
    r"^(nvidia-container|libnvidia-container|nvidia-docker|nvidia-cuda-|nvidia-cudnn|nvidia-profiler"
    r"|nvidia-visual-profiler|nvidia-opencl-dev|nvidia-openjdk|nvidia-texture-tools|nvidia-nsight|nvidia-detect$"
    r"|nvidia-gds|nvidia-fs|nvidia-cg-|nvidia-primus|nvidia-prime|nvidia-vaapi-driver|libnvidia-ml-dev"
    r"|firmware-nvidia-graphics$)"
)


class Package(NamedTuple):
    name: str
    arch: str
    version: str
    want: str
    status: str
    eflag: str

    def facts(self) -> Dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version or None,
            "held": self.want == "hold",
            "status": self.status,
        }


def parse(text: str) -> List[Package]:
    found = []
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) == 6:
            found.append(Package(*fields))
    return found


def read(node: Node) -> List[Package]:
    return parse(node.output(COMMAND))


def is_driver(name: str) -> bool:
    return bool(_DRIVER.match(name)) and not _NOT_DRIVER.match(name)


def _known(packages: Iterable[Package]) -> List[Package]:
    """Those of which something is on the node, were it only configuration files."""
    return [package for package in packages if package.status != "not-installed"]


def driver(packages: Iterable[Package]) -> List[Dict[str, Any]]:
    return [package.facts() for package in _known(packages) if is_driver(package.name)]


def toolkit(packages: Iterable[Package]) -> List[Dict[str, Any]]:
    names = TOOLKIT + TOOLKIT_LEGACY
    return [package.facts() for package in _known(packages) if package.name in names]


def installed(packages: Iterable[Package], name: str) -> Optional[Package]:
    for package in packages:
        if package.name == name and package.status not in ("not-installed", "config-files"):
            return package
    return None


def holds(packages: Iterable[Package]) -> List[str]:
    return sorted({package.name for package in packages if package.want == "hold"})


def unfinished(packages: Iterable[Package]) -> List[str]:
    """Packages that `dpkg --configure -a` has to finish, or that must be installed again."""
    return sorted(
        {
            package.name
            for package in packages
            if package.status in ("half-configured", "half-installed", "unpacked")
            or package.eflag == "reinstreq"
        }
    )
