"""What the lab needs from the machine it runs on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import settings
from .errors import LabError
from .shell import output, run

#: command → package that provides it. The compiler and dpkg-dev build the simulated driver.
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "gcc": "gcc",
    "dpkg-deb": "dpkg",
    "dpkg-scanpackages": "dpkg-dev",
    "apt-ftparchive": "apt-utils",
    "gpg": "gnupg",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "ip": "iproute2",
    "iptables": "iptables",
    "tar": "tar",
}
#: file → package, for what is not a command.
FILES = {
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "/usr/include/stdio.h": "libc6-dev",
}


@dataclass(frozen=True)
class Machine:
    """The facts about this machine that decide how the lab is built."""

    distribution: str  # debian | ubuntu
    codename: str


def parse_os_release(text: str) -> dict[str, str]:
    """KEY="value" lines of an os-release file."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def problems(
    *, euid: int, platform: str, architecture: str, os_release: Mapping[str, str], has_apt: bool
) -> list[str]:
    """What keeps the lab from running here, as far as it can be told without doing anything."""
    found = []
    if platform != "linux":
        return [f"Linux (this is {platform})"]
    family = {os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()}
    if not family & {"debian", "ubuntu"} or not has_apt:
        name = os_release.get("PRETTY_NAME", "an unknown system")
        found.append(f"a Debian or Ubuntu machine with apt (this is {name})")
    if architecture not in {"x86_64", "amd64"}:
        found.append(f"an amd64 processor (this is {architecture}; TensorFlow 2.9 has no wheels for it)")
    if euid != 0:
        found.append("root (containers with their own systemd and Docker Engine are made here): use sudo")
    return found


def check() -> Machine:
    """The machine, or one message that names everything that is missing."""
    path = Path("/etc/os-release")
    release = parse_os_release(path.read_text()) if path.exists() else {}
    found = problems(
        euid=os.geteuid(),
        platform=sys.platform,
        architecture=os.uname().machine,
        os_release=release,
        has_apt=shutil.which("apt-get") is not None,
    )
    if found:
        raise LabError("the lab cannot run here; it needs:\n" + "\n".join(f"  - {item}" for item in found))
    return Machine(
        distribution="ubuntu" if release.get("ID") == "ubuntu" else "debian",
        codename=release.get("VERSION_CODENAME", ""),
    )


def check_disk(need_gib: int, *paths: Path) -> str:
    """Enough room on each file system that the lab fills, or one message with the numbers."""
    for path in paths:
        free = shutil.disk_usage(existing_parent(path)).free / settings.GIB
        if free < need_gib:
            raise LabError(
                f"the lab needs {need_gib} GiB free under {path}, which has {free:.1f} GiB: "
                "free some space, or name a directory on a larger disk with GPULAB_HOME"
            )
    return f"{need_gib} GiB needed"


def existing_parent(path: Path) -> Path:
    """The nearest directory that is there."""
    while not path.exists():
        path = path.parent
    return path


def missing_packages() -> list[str]:
    """Packages to install before anything can be built."""
    found = {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    found |= {package for path, package in FILES.items() if not Path(path).exists()}
    return sorted(found)


def install(packages: list[str]) -> None:
    """Install packages; refresh apt's lists only if they do not know one of them."""
    if not packages:
        return
    simulate = ["apt-get", "--simulate", "--quiet", "install", "--no-install-recommends", *packages]
    if subprocess.run(simulate, capture_output=True, check=False).returncode:
        run(["apt-get", "--quiet", "update"], what="apt-get update")
    run(
        [
            "apt-get",
            "--quiet",
            "--yes",
            "-oDPkg::Lock::Timeout=120",
            "install",
            "--no-install-recommends",
            *packages,
        ],
        what=f"installing {' '.join(packages)} with apt",
    )


def archive_uris(machine: Machine) -> tuple[str, str] | None:
    """The machine's own package archive and its security archive, as its apt sources name them."""
    listing = output(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"],
        what="reading apt's sources",
    )
    return pick_archive(listing, machine.codename)


def pick_archive(listing: str, codename: str) -> tuple[str, str] | None:
    """The first URI that offers the machine's own release, and the one with its security updates."""
    main = security = None
    for line in listing.splitlines():
        uri, _, suite = line.rpartition(" ")
        if suite == codename:
            main = main or uri
        elif suite == f"{codename}-security":
            security = security or uri
    return (main, security or main) if main else None


def apt_options() -> list[str]:
    """How this machine's apt fetches (proxy, certificates, checks), for other apts on it."""
    kept = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIP")
    lines = output(["apt-config", "dump"], what="apt-config").splitlines()
    return [line.rstrip(";") for line in lines if line.startswith(kept) and not line.endswith('"";')]
