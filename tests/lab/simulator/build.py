#!/usr/bin/env python3
"""Build the lab's simulated kernels, NVIDIA driver packages, container toolkit and the node's file tree.

    build.py --output DIR

makes DIR/archives/<archive>/<suite>/<component>/*.deb, DIR/cuda/<distribution>/*.deb, DIR/toolkit/*.deb and
DIR/node/ (to be copied over a node's root file system). What each release offers is data: releases.json.
Needs Python and gcc. The same input gives the same bytes, and a second run with the same input does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import cuda_repo  # noqa: E402
import debian  # noqa: E402
import kernels  # noqa: E402
import ubuntu  # noqa: E402
from binaries import (  # noqa: E402
    ANY_KERNEL,
    build_binaries,
    build_module,
    compile_c,
    signature,
)
from debs import Deb  # noqa: E402

TOOLKIT_VERSIONS = ("1.17.8", "1.18.2")
#: In Ubuntu's multiverse, although everything else of the driver is in restricted.
MULTIVERSE = {"jammy": ("-595-server",), "noble": (), "focal": (), "resolute": ()}


def load_releases() -> dict[str, dict[str, Any]]:
    """codename → what its archives offer."""
    releases = json.loads((HERE / "releases.json").read_text())
    return {key: value for key, value in releases.items() if not key.startswith("_")}


def load_cuda_repo() -> dict[str, dict[str, list[list[str]]]]:
    """NVIDIA's name of a distribution → scheme of names → versions."""
    found: dict[str, dict[str, list[list[str]]]] = json.loads((HERE / "releases.json").read_text())[
        "_cuda_repo"
    ]
    return found


# ------------------------------------------------------------------ archives


def kernel_packages(release: dict[str, Any]) -> dict[str, list[Deb]]:
    """Which kernels the release's own suite has, and which its proposed one."""
    names, flavour, os_ = release["kernels"], release["flavour"], release["os"]
    found: dict[str, list[Deb]] = {"running": [kernels.dkms((HERE / "driver/dkms").read_bytes())], "new": []}
    for key in ("running", "new"):
        if key in names:
            found[key] += [
                kernels.image(names[key], os_),
                kernels.headers(names[key], os_),
                *kernels.metapackages(names[key], flavour, os_),
            ]
    found["running"] += [kernels.image(names[key], os_) for key in ("old", "bare") if key in names]
    return found


def component(codename: str, package: Deb) -> str:
    """Where Ubuntu has a package of the driver."""
    if package.name.startswith("nvidia-fabricmanager"):
        return "multiverse"
    user_space = not package.name.startswith("linux-")
    return (
        "multiverse"
        if user_space and any(part in package.name for part in MULTIVERSE[codename])
        else "restricted"
    )


def archives(
    codename: str, release: dict[str, Any], binaries: dict[str, dict[str, bytes]]
) -> Iterable[tuple[str, str, str, Deb]]:
    """(archive, suite, component, package) of a release."""
    own = kernel_packages(release)
    proposed = f"{codename}-proposed" + ("-updates" if release["os"] == "debian" else "")
    for suite, packages in ((codename, own["running"]), (proposed, own["new"])):
        for package in packages:
            yield release["os"], suite, "main", package
    if release["os"] == "ubuntu":
        for suite, packages in zip(
            (codename, proposed), ubuntu.archive_packages(release, binaries), strict=True
        ):
            for package in packages:
                yield "ubuntu", suite, component(codename, package), package
        for old, (version, new) in release.get("security", {}).items():
            for package in ubuntu.transitional(old, new, version):
                yield "ubuntu", f"{codename}-security", component(codename, package), package
        return
    for key, components in debian.archive_packages(release, binaries).items():
        security = key == "security"
        for name, packages in components.items():
            # Debian 11 has no component for firmware.
            place = "non-free" if codename == "bullseye" and name == "non-free-firmware" else name
            for package in packages:
                suite = f"{codename}-security" if security else codename
                yield "debian-security" if security else "debian", suite, place, package


# ------------------------------------------------------------------ node tree


def build_node(target: Path) -> None:
    """What goes over every node's root file system, whatever its release."""
    shutil.copytree(HERE / "node", target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    gpulab = target / "usr/lib/gpulab"
    shutil.copy(HERE / "models.json", gpulab / "models.json")
    (gpulab / "nouveau.ko").write_bytes(build_module("nouveau", None, "nouveau", ANY_KERNEL) + signature())
    # Every program of a node asks for the kernel's name through it.
    compile_c("uname.c", gpulab / "uname.so", HERE, "-shared", "-fPIC", "-s", "-Wl,--build-id=none")
    # Static: it runs on nodes that are older than this machine, too.
    compile_c("users.c", gpulab / "users", HERE, "-static", "-s", "-Wl,--build-id=none")
    preload = target / "etc/ld.so.preload"
    preload.parent.mkdir(exist_ok=True)
    preload.write_text("/usr/lib/gpulab/uname.so\n")


# ------------------------------------------------------------------ toolkit packages


def toolkit_packages(version: str) -> list[Deb]:
    sys.path.insert(0, str(HERE))
    from toolkit import packages

    return packages.build(version, Deb)


# ------------------------------------------------------------------ all of it


def fingerprint() -> str:
    """Changes when the output would."""
    digest = hashlib.sha256()
    compiler = subprocess.run(["gcc", "--version"], capture_output=True, check=True).stdout
    digest.update(compiler)
    for path in sources():
        digest.update(str(path.relative_to(HERE)).encode() + path.read_bytes())
        digest.update(b"x" if os.access(path, os.X_OK) else b"-")
    return digest.hexdigest()


def sources() -> list[Path]:
    """The files that the output is made of."""
    return [
        path
        for path in sorted(HERE.rglob("*"))
        if path.is_file()
        and "__pycache__" not in path.parts
        and not any(part.startswith(".") for part in path.relative_to(HERE).parts)
        and not path.name.startswith("test_")
        and path.name not in ("conftest.py", "machine.py", "README.md")
    ]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="directory to build into")
    arguments = parser.parse_args()
    if not shutil.which("gcc"):
        parser.error("gcc is needed to build the simulated driver: apt-get install gcc libc6-dev")

    started = time.monotonic()
    output: Path = arguments.output.resolve()
    stamp = output / "fingerprint"
    wanted = fingerprint()
    if stamp.exists() and stamp.read_text() == wanted:
        print(f"simulator: {output} is up to date")
        return 0
    output.mkdir(parents=True, exist_ok=True)
    for name in ("fingerprint", "archives", "cuda", "toolkit", "node", "work"):
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    binaries = build_binaries(output / "work")
    count = 0

    def put(package: Deb, *place: str) -> None:
        nonlocal count
        directory = output.joinpath(*place)
        directory.mkdir(parents=True, exist_ok=True)
        package.write(directory)
        count += 1

    for codename, release in load_releases().items():
        for archive, suite, part, package in archives(codename, release, binaries):
            put(package, "archives", archive, suite, part)
    for distribution, versions in load_cuda_repo().items():
        for package in cuda_repo.packages(versions, binaries):
            put(package, "cuda", distribution)
    for version in TOOLKIT_VERSIONS:
        for package in toolkit_packages(version):
            put(package, "toolkit")
    build_node(output / "node")
    shutil.rmtree(output / "work")
    stamp.write_text(wanted)
    print(f"simulator: {count} packages and the node tree in {output} ({time.monotonic() - started:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
