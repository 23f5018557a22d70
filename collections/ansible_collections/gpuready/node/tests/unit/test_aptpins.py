"""The preferences file that keeps the origins apart, asked of apt itself."""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
from pathlib import Path

import pytest
from gpuready import aptpins
from gpuready.catalog import load_catalog
from gpuready.driver_options import names

CATALOG = load_catalog()
TOOLKIT = CATALOG.toolkit.packages
# What only a distribution has although NVIDIA's driver depends on it, or has nothing to do with the driver.
FREE = [
    "cuda-toolkit-13-0",
    "firmware-linux",
    "glx-alternative-nvidia",
    "libcudart12",
    "libnvidia-container-tools",
    "libnvidia-container1",
    "libnvidia-egl-wayland1",
    "libnvinfer10",
    "linux-image-generic",
    "nsight-systems",
    "nvidia-container-toolkit",
    "nvidia-cuda-toolkit",
    "nvidia-installer-cleanup",
    "nvidia-kernel-common",
    "nvidia-prime",
    "nvidia-settings",
    "nvidia-support",
]


def kept_out(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in aptpins.DRIVER_PACKAGES)


def test_every_driver_package_of_the_catalog_is_meant() -> None:
    missed = set()
    for source in CATALOG.package_sources:
        for family in source.families:
            patterns = [*family.closure, *family.needs, *family.precompiled, *family.dkms, *family.dkms_open]
            patterns += [text for text in (family.kernel_modules, family.kernel_metapackage) if text]
            for flavour in ("open", "proprietary"):
                found = names(patterns, 580, family, flavour, "6.8.0-85-generic", "generic")
                missed |= {name for name in found if not kept_out(name)}
    # The one name that Debian's and NVIDIA's drivers share with a package that has no version of a driver.
    assert missed <= {"nvidia-kernel-common"}


def test_what_is_no_driver_is_left_alone() -> None:
    assert [name for name in (*FREE, *TOOLKIT) if kept_out(name)] == []


def test_origins_are_read_back_from_the_file() -> None:
    text = aptpins.content("NVIDIA", ["Ubuntu", "LP-PPA-graphics-drivers"], TOOLKIT)
    assert aptpins.blocked(text) == ["LP-PPA-graphics-drivers", "Ubuntu"]
    assert aptpins.blocked(None) == []


def test_suppliers() -> None:
    assert aptpins.same_supplier("Ubuntu", "UbuntuESM")
    assert aptpins.same_supplier("Debian", "Debian Backports")
    assert not aptpins.same_supplier("NVIDIA", "NVIDIA2") and not aptpins.same_supplier("Ubuntu", "NVIDIA")
    assert aptpins.nameable("Ubuntu") and not aptpins.nameable("a,b") and not aptpins.nameable("")


class Apt:
    """An apt of its own, with archives that have nothing but names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("etc/preferences.d", "etc/sources.list.d", "etc/apt.conf.d", "state/lists/partial"):
            (root / folder).mkdir(parents=True)
        (root / "cache/archives/partial").mkdir(parents=True)
        (root / "status").write_text("")
        self.lines: list[str] = []

    def archive(self, origin: str, label: str, version: str, packages: list[str]) -> None:
        place = self.root / "archives" / origin
        place.mkdir(parents=True)
        text = "".join(
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: x\nDescription: x\n"
            f"Filename: ./{name}.deb\nSize: 1\nSHA256: {'0' * 64}\n\n"
            for name in packages
        )
        (place / "Packages").write_text(text)
        (place / "Release").write_text(
            f"Origin: {origin}\nLabel: {label}\nArchitectures: amd64\nDate: Mon, 23 Nov 2026 00:00:00 UTC\n"
        )
        self.lines.append(f"deb [trusted=yes arch=amd64] file:{place} ./")

    def __call__(self, program: str, *arguments: str) -> str:
        (self.root / "etc/sources.list").write_text("\n".join(self.lines) + "\n")
        options = {
            "Dir::Etc": self.root / "etc",
            "Dir::State": self.root / "state",
            "Dir::State::status": self.root / "status",
            "Dir::Cache": self.root / "cache",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        answer = subprocess.run([program, *words, *arguments], capture_output=True, text=True, check=True)
        assert "preferences" not in answer.stderr, answer.stderr
        return answer.stdout

    def candidates(self, *packages: str) -> dict[str, str]:
        found, name = {}, ""
        for line in self("apt-cache", "policy", *packages).splitlines():
            if not line.startswith(" "):
                name = line.rstrip(":")
            elif line.strip().startswith("Candidate: "):
                found[name] = line.split(": ")[1]
        return found


@pytest.mark.skipif(not shutil.which("apt-cache"), reason="needs apt")
def test_apt_takes_the_driver_from_one_origin_only(tmp_path: Path) -> None:
    apt = Apt(tmp_path)
    drivers = ["nvidia-utils-580-server", "libnvidia-compute-580-server", "libcuda1", "nvidia-modprobe"]
    free = ["libnvidia-egl-wayland1", "cuda-toolkit-13-0"]
    apt.archive("Ubuntu", "Ubuntu", "1", [*drivers, *free])
    apt.archive("NVIDIA", "NVIDIA CUDA", "2", [*drivers, *TOOLKIT, *free])
    apt.archive("libnvidia-container", "x", "1.17.8-1", list(TOOLKIT))
    apt("apt-get", "update")
    everything = [*drivers, *TOOLKIT, *free]
    assert set(apt.candidates(*drivers).values()) == {"2"}
    # NVIDIA's own preferences, which prefer its repository for everything.
    (tmp_path / "etc/preferences.d/cuda-repository-pin-600").write_text(
        "Package: *\nPin: release l=NVIDIA CUDA\nPin-Priority: 600\n"
    )
    pin = tmp_path / "etc/preferences.d/gpuready-nvidia-driver"

    pin.write_text(aptpins.content("Ubuntu", ["NVIDIA"], TOOLKIT))
    found = apt.candidates(*everything)
    assert {found[name] for name in (*drivers, "nvidia-modprobe") if name != "libnvidia-egl-wayland1"} == {
        "1"
    }
    assert {found[name] for name in TOOLKIT} == {"1.17.8-1"}

    pin.write_text(aptpins.content("NVIDIA", ["Ubuntu", "Debian Backports"], TOOLKIT))
    found = apt.candidates(*everything)
    assert {found[name] for name in drivers} == {"2"} and {found[name] for name in TOOLKIT} == {"1.17.8-1"}

    (tmp_path / "etc/preferences.d/cuda-repository-pin-600").unlink()
    pin.write_text(aptpins.content("Debian", ["NVIDIA", "Ubuntu"], ()))
    found = apt.candidates(*everything)
    assert found["libcuda1"] == "(none)" and found["nvidia-container-toolkit"] == "2"
