"""The stand-ins are called what gpuready's catalog calls the real packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from gpulab import settings, simulator
from gpuready import catalog

sys.path.insert(0, str(settings.SIMULATOR))

import binaries
import build
import cuda_repo

EMPTY = dict.fromkeys(
    ("libcuda", "libnvidia-ml", "nvidia-smi", "nvidia-persistenced", "nvidia-fabricmanager"), b""
)
BINARIES = dict.fromkeys(binaries.DRIVERS, EMPTY)


def offered() -> Iterator[tuple[str, str, str, list[tuple[str, str]]]]:
    """(source, operating system, release, [(package, upstream version)]) of every archive of the lab."""
    releases, repositories = simulator.releases(), build.load_cuda_repo()
    for os_ in settings.OSES.values():
        own = [deb for *_, deb in build.archives(os_.codename, releases[os_.codename], BINARIES)]
        yield os_.distribution, os_.distribution, os_.version_id, pairs(own)
        directory = os_.distribution + os_.version_id.replace(".", "")
        if directory in repositories:
            debs = list(cuda_repo.packages(repositories[directory], BINARIES))
            yield "cuda_repo", os_.distribution, os_.version_id, pairs(debs)


def pairs(debs: list[Any]) -> list[tuple[str, str]]:
    """Names and upstream versions of what is no empty package that leads to another branch."""
    return [(deb.name, deb.version.split("-")[0]) for deb in debs if not deb.section.endswith("/oldlibs")]


@pytest.mark.parametrize("codename", ["jammy", "noble"])
def test_the_catalog_knows_which_packages_lead_elsewhere(codename: str) -> None:
    os_ = next(os_ for os_ in settings.OSES.values() if os_.codename == codename)
    source = catalog.load_catalog().package_source("ubuntu", "ubuntu", os_.version_id)
    assert source is not None
    server = next(family for family in source.families if family.family == "server")
    for branch, (version, _) in simulator.releases()[codename]["security"].items():
        assert source.leads_elsewhere(os_.version_id, server, int(branch), version)
        assert not source.leads_elsewhere(os_.version_id, server, int(branch), "535.274.02-0ubuntu0.22.04.1")


@pytest.mark.parametrize(
    ("name", "os", "release", "packages"),
    list(offered()),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_driver_of_an_archive_is_whole(
    name: str, os: str, release: str, packages: list[tuple[str, str]]
) -> None:
    """For each version that the catalog would choose, the packages that it would ask for are there."""
    source = catalog.load_catalog().package_source(name, os, release)
    assert source is not None
    known = set(packages)
    names = {package for package, _ in packages}
    seen = 0
    for family in source.families:
        for version in sorted({version for _, version in packages if version in binaries.DRIVERS}):
            branch = version.split(".")[0]

            def expand(pattern: str, is_open: bool, branch: str = branch, suffix: str = family.suffix) -> str:
                values = {"{branch}": branch, "{family}": suffix, "{open}": "-open" if is_open else ""}
                for placeholder, value in values.items():
                    pattern = pattern.replace(placeholder, value)
                return pattern

            if not family.names(int(branch)) or (expand(family.version_package, False), version) not in known:
                continue
            seen += 1
            assert (expand(family.library_package, False), version) in known
            flavours = 0
            for is_open in (False, True):
                wanted = [expand(pattern, is_open) for pattern in family.dkms_packages(is_open)]
                module = expand(family.dkms_module_package(is_open) or "", is_open)
                if not wanted or (module, version) not in known:
                    continue  # this flavour is not there in this version
                flavours += 1
                assert [package for package in wanted if (package, version) not in known] == []
                if family.kernel_metapackage:
                    pattern = expand(family.kernel_metapackage, is_open)
                    flavour = simulator.releases()[codename(os, release)]["flavour"]
                    assert pattern.replace("{kernel_flavour}", flavour) in names
            assert flavours, f"{family.family} {version} has no kernel modules"
            if family.nvswitch:
                assert (expand(family.nvswitch, False), version) in known
    assert seen, "the catalog knows none of the archive's drivers"


def codename(os: str, release: str) -> str:
    """The archive's name of a release."""
    return next(
        os_.codename for os_ in settings.OSES.values() if (os_.distribution, os_.version_id) == (os, release)
    )
