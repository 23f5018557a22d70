"""The packages: readable by dpkg, closed under their dependencies, usable in old containers."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import build
import pytest

FROM_DISTRIBUTION = {"adduser", "libc6", "python3"}


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


def test_every_dependency_is_in_the_archive(output: Path) -> None:
    for directory in (output / "ubuntu/jammy", output / "ubuntu/noble", output / "toolkit"):
        packages = [fields(deb) for deb in sorted(directory.glob("*.deb"))]
        names = {package["Package"] for package in packages}
        versions = {(package["Package"], package["Version"]) for package in packages}
        for package in packages:
            for item in filter(None, package.get("Depends", "").split(", ")):
                match = re.fullmatch(r"(\S+)(?: \((\S+) (\S+)\))?", item)
                assert match, item
                name, relation, version = match.groups()
                assert name in names | FROM_DISTRIBUTION, f"{package['Package']} depends on {name}"
                if relation == "=":
                    assert (name, version) in versions, f"{package['Package']} depends on {item}"


def test_every_package_says_that_it_is_simulated(output: Path) -> None:
    for deb in output.rglob("*.deb"):
        assert "(SIMULATED)" in fields(deb)["Description"], deb.name


def test_package_names_are_ubuntus(output: Path) -> None:
    names = {path.name.split("_")[0] for path in (output / "ubuntu/jammy").glob("*.deb")}
    assert {
        "linux-modules-nvidia-580-server-open-6.8.0-136-generic",
        "linux-modules-nvidia-470-server-6.8.0-136-generic",
        "linux-signatures-nvidia-6.8.0-136-generic",
        "linux-headers-6.8.0-136-generic",
        "nvidia-headless-no-dkms-595-server-open",
        "nvidia-headless-535-server",
        "nvidia-utils-580-server",
        "nvidia-fabricmanager-580",
        "nvidia-utils-460-server",
    } <= names
    assert "nvidia-headless-470-server-open" not in names, "470 has no open kernel modules"


def test_precompiled_modules_carry_the_kernels_version() -> None:
    assert build.kernel_package_version("6.8.0-136-generic", 0) == "6.8.0-136.136"
    assert build.kernel_package_version("6.8.0-136-generic", 1) == "6.8.0-136.136+1"


def test_binaries_start_in_old_containers(output: Path, tmp_path: Path) -> None:
    for pattern in ("libnvidia-compute-580-server_580.95*", "nvidia-utils-580-server_580.95*"):
        deb = next((output / "ubuntu/jammy").glob(pattern))
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
        deb = next((output / "ubuntu/jammy").glob(f"{stem}_*"))
        control = fields(deb)
        assert control["Conflicts"] in control["Provides"]


def test_build_is_repeatable_and_reused(output: Path, tmp_path: Path) -> None:
    def digests(directory: Path) -> dict[str, str]:
        return {
            str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }

    command = [sys.executable, build.HERE / "build.py", "--output", tmp_path, "--kernel", "6.8.0-136-generic"]
    subprocess.run(command, check=True)
    assert digests(tmp_path) == digests(output)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "is up to date" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernel", "6.8.0-136-generic", "--codenames", "focal"], "known releases are jammy, noble"),
        (["--kernel", "../etc"], "is not a kernel release"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, build.HERE / "build.py", "--output", tmp_path / "out", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_node_tree_starts_the_hardware_at_boot(output: Path) -> None:
    node = output / "node"
    wants = node / "usr/lib/systemd/system/sysinit.target.wants/gpulab-hardware.service"
    assert wants.is_symlink() and wants.resolve().is_file()
    assert (node / "usr/lib/modules/6.8.0-136-generic/modules.order").is_file()
    assert (node / "boot/vmlinuz-6.8.0-136-generic").is_file()
    assert not (node / "lib").exists(), "would replace the symbolic link /lib of a merged-usr system"
