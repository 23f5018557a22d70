"""Debian nodes of the lab with NVIDIA's real driver. They need the running lab: labctl up.

Real: every package and its archive's index, apt, dpkg, DKMS, the compiler, Debian's kernels and headers,
modprobe, update-initramfs. Simulated: the GPU on the PCI bus. The kernel that runs is this machine's, so the
module that DKMS builds is Debian's kernel's, which the next boot would take.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from kit import ROOT
from story import Story

sys.path.insert(0, str(ROOT / "tests" / "lab"))

#: Debian's releases to go through; a build takes minutes.
RELEASES = os.environ.get("GPUREADY_REAL_RELEASES", "bookworm,bullseye,trixie").split(",")
#: Leave the nodes for a look around.
KEEP = os.environ.get("GPUREADY_REAL_KEEP") == "1"

measured: list[tuple[str, str, float]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Only when asked for by the marker's name: make test-real-driver."""
    for item in items:
        item.add_marker(pytest.mark.real_driver)


def story_of(codename: str, tmp_path_factory: pytest.TempPathFactory, **wishes: object) -> Iterator[Story]:
    """A node's story; what is measured in it is printed at the end."""
    if codename not in RELEASES:
        pytest.skip(f"{codename} is not among GPUREADY_REAL_RELEASES={','.join(RELEASES)}")
    told = Story.begin(codename, tmp_path_factory.mktemp(codename), dict(wishes))
    yield told
    measured.extend((codename, what, seconds) for what, seconds in told.seconds.items())
    if not KEEP:
        told.node.down()


@pytest.fixture(scope="module")
def bookworm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Debian 12: first the release's own version by name, then the security team's."""
    yield from story_of("bookworm", tmp_path_factory)


@pytest.fixture(scope="module")
def bullseye(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Debian 11: branch 470, without open modules."""
    yield from story_of("bullseye", tmp_path_factory)


@pytest.fixture(scope="module")
def trixie(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Debian 13, whose module does not build for the newest kernel of its own archive."""
    yield from story_of("trixie", tmp_path_factory)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long each step took."""
    if measured:
        terminalreporter.section("measured")
    for codename, what, seconds in measured:
        terminalreporter.write_line(f"{codename:10} {what:45} {seconds:6.0f} s")
