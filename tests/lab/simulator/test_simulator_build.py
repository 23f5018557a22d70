"""The packages: readable by dpkg, closed under their dependencies, usable in old containers."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import build
import kernels

FROM_DISTRIBUTION = {"adduser", "libc6", "python3", "kmod", "pciutils"}
JAMMY = "archives/ubuntu/jammy/restricted"


def fields(deb: Path) -> dict[str, str]:
    """The control file of a package."""
    text = subprocess.run(["dpkg-deb", "--field", deb], capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^(\S+): (.*)$", text, re.MULTILINE))


def contents(deb: Path) -> str:
    """The file list of a package."""
    return subprocess.run(["dpkg-deb", "--contents", deb], capture_output=True, text=True, check=True).stdout


def glibc_versions(path: Path) -> set[tuple[int, ...]]:
    """The C library versions a file needs."""
    text = subprocess.run(["objdump", "-T", path], capture_output=True, text=True, check=True).stdout
    return {tuple(map(int, version.split("."))) for version in re.findall(r"GLIBC_([0-9.]+)", text)}


def sources(output: Path) -> dict[str, list[Path]]:
    """What a node has enabled together: name of the setting → directories of packages."""
    found = {}
    for codename, release in build.load_releases().items():
        base = output / "archives" / release["os"]
        own = [*base.glob(f"{codename}*/*"), *(output / "archives/debian-security").glob(f"{codename}-*/*")]
        found[codename] = own
        distribution = {
            "jammy": "ubuntu2204",
            "noble": "ubuntu2404",
            "bookworm": "debian12",
            "trixie": "debian13",
        }
        if codename in distribution:
            found[distribution[codename]] = [*own, output / "cuda" / distribution[codename]]
    return {**found, "toolkit": [output / "toolkit"]}


def test_every_dependency_is_in_the_archive(output: Path) -> None:
    known: dict[Path, dict[str, str]] = {}
    for directories in sources(output).values():
        packages = [
            known.setdefault(deb, fields(deb)) for path in directories for deb in sorted(path.glob("*.deb"))
        ]
        assert packages
        names = {package["Package"] for package in packages}
        versions = {(package["Package"], package["Version"]) for package in packages}
        for package in packages:
            names |= {item.split(" ")[0] for item in package.get("Provides", "").split(", ")}
            versions |= set(re.findall(r"(\S+) \(= (\S+)\)", package.get("Provides", "")))
        for package in packages:
            depends = f"{package.get('Depends', '')}, {package.get('Pre-Depends', '')}"
            for item in filter(None, depends.split(", ")):
                alternatives = [
                    re.fullmatch(r"(\S+)(?: \((\S+) (\S+)\))?", part) for part in item.split(" | ")
                ]
                assert all(alternatives), item
                assert any(
                    match is not None
                    and match.group(1) in names | FROM_DISTRIBUTION
                    and (match.group(2) != "=" or (match.group(1), match.group(3)) in versions)
                    for match in alternatives
                ), f"{package['Package']} {package['Version']} depends on {item}"


def test_every_package_says_that_it_is_simulated(output: Path) -> None:
    for deb in output.rglob("*.deb"):
        assert "(SIMULATED)" in fields(deb)["Description"], deb.name


def test_package_names_are_ubuntus(output: Path) -> None:
    names = {path.name.split("_")[0] for path in (output / JAMMY).glob("*.deb")}
    assert {
        "linux-modules-nvidia-580-server-open-5.15.0-157-generic",
        "linux-modules-nvidia-470-server-5.15.0-157-generic",
        "linux-signatures-nvidia-5.15.0-157-generic",
        "linux-modules-nvidia-580-server-open-generic",
        "nvidia-headless-no-dkms-580-server-open",
        "nvidia-headless-535-server",
        "nvidia-utils-580-server",
        "nvidia-utils-460-server",
    } <= names
    assert "nvidia-headless-470-server-open" not in names, "470 has no open kernel modules"


def test_precompiled_modules_carry_the_kernels_version() -> None:
    assert kernels.kernel_package_version("6.8.0-136-generic", 0) == "6.8.0-136.136"
    assert kernels.kernel_package_version("6.8.0-136-generic", 1) == "6.8.0-136.136+1"
    assert kernels.metapackage_version("5.15.0-157-generic") == "5.15.0.157.157"
    assert kernels.image_version("6.12.48+deb13-amd64", "debian") == "6.12.48-1"


def names_in(directory: Path) -> set[str]:
    """Package names in a directory."""
    return {path.name.split("_")[0] for path in directory.glob("*.deb")}


def test_kernels_can_be_upgraded_missed_and_ahead_of_everything(output: Path) -> None:
    """old: image only; running and new: all that belongs to them; bare: the image, and nothing for it yet."""
    main = names_in(output / "archives/ubuntu/jammy/main")
    restricted = names_in(output / JAMMY)
    proposed = names_in(output / "archives/ubuntu/jammy-proposed/main")
    assert {f"linux-image-5.15.0-{abi}-generic" for abi in (151, 157, 164)} <= main
    assert {name for name in main if name.startswith("linux-headers-5")} == {
        "linux-headers-5.15.0-157-generic"
    }
    assert {"linux-image-generic", "linux-headers-generic", "linux-generic", "dkms"} <= main
    assert {
        "linux-image-5.15.0-161-generic",
        "linux-headers-5.15.0-161-generic",
        "linux-image-generic",
    } <= proposed
    modules = {name for name in restricted if name.startswith("linux-modules-nvidia-580-server-open-")}
    assert modules == {
        "linux-modules-nvidia-580-server-open-5.15.0-157-generic",
        "linux-modules-nvidia-580-server-open-generic",
    }
    metapackage = fields(
        next(
            (output / "archives/ubuntu/jammy-proposed/restricted").glob(
                "linux-modules-nvidia-580-server-generic_*+1_*"
            )
        )
    )
    assert metapackage["Version"] == "5.15.0.161.161+1"
    assert metapackage["Depends"].startswith(
        "linux-modules-nvidia-580-server-5.15.0-161-generic (= 5.15.0-161.161+1), "
        "nvidia-kernel-common-580-server (<= "
    )
    deb = next((output / "archives/ubuntu/jammy/main").glob("linux-image-5.15.0-164-generic_*"))
    assert "/boot/vmlinuz-5.15.0-164-generic" in contents(deb)


def test_cuda_repository_drops_the_branch_from_its_names_with_590(output: Path) -> None:
    versions = {path.name.rsplit("_", 1)[0] for path in (output / "cuda/ubuntu2404").glob("*.deb")}
    assert {
        "nvidia-headless-580-open_580.95.05-0ubuntu1",
        "nvidia-dkms-580_580.95.05-0ubuntu1",
        "libnvidia-compute-580_580.95.05-0ubuntu1",
        "nvidia-fabricmanager_580.95.05-1",
        "libnvidia-compute_590.48.01-0ubuntu1",
        "nvidia-dkms-open_595.71.05-1ubuntu1",
        "nvidia-fabricmanager_595.71.05-1ubuntu1",
        "nvidia-fabricmanager-570_570.195.03-1",
        "nvidia-driver-pinning-590_590-1",
    } <= versions
    assert not [
        name for name in versions if re.match(r"(nvidia|libnvidia)-(?!driver-pinning).*-59[05]", name)
    ]
    debian = names_in(output / "cuda/debian12")
    assert {"nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-kernel-dkms", "libcuda1"} <= debian
    assert "nvidia-open-kernel-dkms" not in debian, "that is Debian's own name of it"


def test_debian_packages_lie_where_debian_has_them(output: Path) -> None:
    base = output / "archives/debian/bookworm"
    assert {
        "nvidia-kernel-dkms",
        "libcuda1",
        "nvidia-alternative",
        "nvidia-tesla-470-kernel-dkms",
    } <= names_in(base / "non-free")
    assert "libnvidia-tesla-470-cuda1" in names_in(base / "non-free")
    assert {"nvidia-open-kernel-dkms", "nvidia-persistenced", "glx-alternative-nvidia"} <= names_in(
        base / "contrib"
    )
    assert "firmware-nvidia-gsp" in names_in(base / "non-free-firmware")
    security = output / "archives/debian-security/bookworm-security"
    assert list((security / "non-free").glob("libcuda1_535.309.01-0+deb12u1_*"))
    assert "nvidia-open-kernel-dkms" not in names_in(security / "contrib")
    listing = contents(next((base / "non-free").glob("libcuda1_*")))
    assert "./usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.535.261.03" in listing
    listing = contents(next((base / "non-free").glob("nvidia-kernel-dkms_*")))
    assert "./usr/src/nvidia-current-535.261.03/nvidia-current-uvm.o" in listing
    assert not (output / "archives/debian/bullseye/non-free-firmware").exists()


def test_binaries_start_in_old_containers(output: Path, tmp_path: Path) -> None:
    for pattern in ("libnvidia-compute-580-server_580.95*", "nvidia-utils-580-server_580.95*"):
        deb = next((output / JAMMY).glob(pattern))
        subprocess.run(["dpkg-deb", "--extract", deb, tmp_path], check=True)
    library = tmp_path / "usr/lib/x86_64-linux-gnu"
    for path in (library / "libcuda.so.1", library / "libnvidia-ml.so.1", tmp_path / "usr/bin/nvidia-smi"):
        assert max(glibc_versions(path)) <= (2, 17), path


def test_a_branch_and_a_flavour_exclude_the_others(output: Path) -> None:
    for stem in (
        "nvidia-utils-580-server",
        "nvidia-headless-no-dkms-580-server-open",
        "libnvidia-compute-535-server",
    ):
        deb = next((output / JAMMY).glob(f"{stem}_*"))
        control = fields(deb)
        assert control["Conflicts"] in control["Provides"]


def test_build_is_repeatable_and_reused(output: Path, tmp_path: Path) -> None:
    def digests(directory: Path) -> dict[str, str]:
        return {
            str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }

    command = [sys.executable, build.HERE / "build.py", "--output", tmp_path]
    subprocess.run(command, check=True)
    assert digests(tmp_path) == digests(output)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "is up to date" in again.stdout


def test_node_tree_starts_the_hardware_at_boot(output: Path) -> None:
    node = output / "node"
    wants = node / "usr/lib/systemd/system/sysinit.target.wants/gpulab-hardware.service"
    assert wants.is_symlink() and wants.resolve().is_file()
    assert (node / "etc/ld.so.preload").read_text() == "/usr/lib/gpulab/uname.so\n"
    assert not (node / "boot").exists(), "the kernel comes from its package"
    assert not (node / "lib").exists(), "would replace the symbolic link /lib of a merged-usr system"


def test_uname_says_the_kernel_that_boots(output: Path) -> None:
    """Needs the node's file at its place, so here only that it loads and leaves the real answer alone."""
    library = output / "node/usr/lib/gpulab/uname.so"
    assert max(glibc_versions(library)) <= (2, 17)
    done = subprocess.run(
        ["uname", "-r"], env={"LD_PRELOAD": str(library)}, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (f"{os.uname().release}\n", "")


def test_a_branch_past_its_end_leads_elsewhere_in_security(output: Path) -> None:
    """As Ubuntu's 535-server since its end of life: the version says 535, the package is empty."""
    deb = next((output / "archives/ubuntu/jammy-security/restricted").glob("nvidia-utils-535-server_*"))
    control = fields(deb)
    assert (control["Version"], control["Depends"]) == (
        "535.309.01-0ubuntu0.22.04.2",
        "nvidia-utils-580-server",
    )
    assert "/usr/bin/nvidia-smi" not in contents(deb)
