"""Names, places and sizes of the lab."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PREFIX = "gpulab"
LABEL = "com.gpuready.lab"
LABEL_HASH = "com.gpuready.lab.hash"
LABEL_ROLE = "com.gpuready.lab.role"  # node | mirror | registry
LABEL_OS = "com.gpuready.lab.os"
LABEL_PORT = "com.gpuready.lab.port"

NETWORK = PREFIX
# The first one that overlaps no route of the machine is taken. Docker's own default pools are left
# out, because the nodes' own engines use them.
SUBNETS = ("10.213.47.0/24", "10.147.213.0/24", "192.168.213.0/24", "172.30.213.0/24")

MIRROR = f"{PREFIX}-mirror"
REGISTRY = f"{PREFIX}-registry"
INFRA_IMAGE = f"{PREFIX}-infra:1"

USER = "ansible"
PORTS = range(22101, 22200)
LIGHT_PORTS = range(22200, 22400)

GIB = 1024**3
# Measured: registry 4, root file systems and build leftovers 6, two nodes with the image 9 (while pulling).
DISK_COLD_GIB = 20
DISK_WARM_GIB = 2

TF_IMAGE = "tensorflow/tensorflow:2.9.0-gpu"
SLIM_IMAGE = "gpulab/python-slim:1"

SOURCE = Path(__file__).resolve().parents[1]  # tests/lab
REPO = SOURCE.parents[1]
SIMULATOR = SOURCE / "simulator"


def _made(on_debian: str, on_ubuntu: str) -> Mapping[str, str]:
    return {"debian": on_debian, "ubuntu": on_ubuntu}


@dataclass(frozen=True)
class NodeOs:
    """An operating system that a node can claim to be."""

    key: str
    distribution: str  # os-release ID
    version_id: str
    codename: str
    pretty_name: str
    #: Machine's distribution → release that the node is really made of.
    made_of: Mapping[str, str]
    #: What of its archive a fresh installation has enabled.
    components: tuple[str, ...]


UBUNTU = ("main", "restricted", "universe", "multiverse")
OSES: dict[str, NodeOs] = {
    os_.key: os_
    for os_ in (
        NodeOs(
            "ubuntu-20.04",
            "ubuntu",
            "20.04",
            "focal",
            "Ubuntu 20.04.6 LTS",
            _made("bookworm", "jammy"),
            UBUNTU,
        ),
        NodeOs(
            "ubuntu-22.04",
            "ubuntu",
            "22.04",
            "jammy",
            "Ubuntu 22.04.5 LTS",
            _made("bookworm", "jammy"),
            UBUNTU,
        ),
        NodeOs(
            "ubuntu-24.04", "ubuntu", "24.04", "noble", "Ubuntu 24.04.3 LTS", _made("trixie", "noble"), UBUNTU
        ),
        NodeOs(
            "ubuntu-26.04",
            "ubuntu",
            "26.04",
            "resolute",
            "Ubuntu 26.04 LTS",
            _made("trixie", "noble"),
            UBUNTU,
        ),
        NodeOs(
            "debian-11",
            "debian",
            "11",
            "bullseye",
            "Debian GNU/Linux 11 (bullseye)",
            _made("bullseye", "jammy"),
            ("main",),
        ),
        NodeOs(
            "debian-12",
            "debian",
            "12",
            "bookworm",
            "Debian GNU/Linux 12 (bookworm)",
            _made("bookworm", "jammy"),
            ("main",),
        ),
        NodeOs(
            "debian-13",
            "debian",
            "13",
            "trixie",
            "Debian GNU/Linux 13 (trixie)",
            _made("trixie", "noble"),
            ("main",),
        ),
    )
}
#: Root file systems that every start builds; others are built when a node needs them.
USUAL_SUITES = {"debian": ("bookworm", "trixie"), "ubuntu": ("jammy", "noble")}


@dataclass(frozen=True)
class NodeSpec:
    """One node to be: what it claims to be and which hardware it is given."""

    name: str
    os: str
    gpus: tuple[str, ...]
    port: int | None = None


DEFAULT_NODES = (
    NodeSpec("gpulab-a100", "ubuntu-22.04", ("a100",), 22101),
    NodeSpec("gpulab-t4", "ubuntu-24.04", ("t4",), 22102),
)


DEFAULT_HOME = Path("/var/lib/gpulab")


def home() -> Path:
    """Everything of the lab that is shared by all checkouts on this machine."""
    return Path(os.environ.get("GPULAB_HOME", DEFAULT_HOME))


def tag() -> str:
    """Tells a second lab on this machine (another GPULAB_HOME, its own engine) from the usual one."""
    return "" if home() == DEFAULT_HOME else hashlib.sha256(str(home()).encode()).hexdigest()[:6]


def run_dir() -> Path:
    """Sockets, pid files and locks."""
    return Path(f"/run/gpulab-{tag()}" if tag() else "/run/gpulab")


def bridge() -> str:
    """The network interface of the lab's network."""
    return f"gpulab-{tag()}" if tag() else "gpulab0"


def dot_lab() -> Path:
    """What this checkout's inventory reads: key, known hosts, fingerprints."""
    return REPO / ".lab"
