"""Every way to a driver: each package source, each kind of kernel module and GPU, all from the mirror.

All nodes play at once: in check mode, then really, then again. The tests look at what each of them came to.
"""

from __future__ import annotations

import itertools
import os
import pathlib
from dataclasses import dataclass, field
from typing import Any

import pytest
from kit.nodes import Node, down_all, up_all
from kit.questions import DriverVersions, driver_packages, driver_versions, graphics_packages
from kit.runs import player
from living import driver_actions, driver_conflicts


@dataclass(frozen=True)
class Path:
    """One way: the node, the wishes, and what is to come of it."""

    name: str
    gpus: str
    os: str
    source: str
    branch: str
    flavour: str
    install: str
    nvswitches: int = 0
    wishes: dict[str, Any] = field(default_factory=dict, compare=False)

    def node(self) -> dict[str, Any]:
        """The node that goes this way, as the kit makes it."""
        return {
            "name": f"life-{os.getpid()}-{self.name}",
            "gpus": self.gpus,
            "os": self.os,
            "arguments": ["--nvswitches", str(self.nvswitches)],
        }


def path(name: str, gpus: str, os: str, expected: str, *, nvswitches: int = 0, **wishes: Any) -> Path:
    """One row of the table; ``expected`` is source/branch/flavour/install."""
    source, branch, flavour, install = expected.split("/")
    return Path(name, gpus, os, source, branch, flavour, install, nvswitches, wishes)


PATHS = (
    # Ubuntu's own archive: modules precompiled for the exact kernel, and signed.
    path("t4-jammy", "t4", "ubuntu-22.04", "ubuntu/580/open/precompiled"),
    path("v100-noble", "v100", "ubuntu-24.04", "ubuntu/580/proprietary/precompiled"),
    path("k80-jammy", "k80", "ubuntu-22.04", "ubuntu/470/proprietary/precompiled"),
    path("mixed-jammy", "a100,t4", "ubuntu-22.04", "ubuntu/580/open/precompiled"),
    path(
        "b200-noble",
        "b200",
        "ubuntu-24.04",
        "ubuntu/580/open/precompiled",
        gpuready_workloads=["pytorch-2.9-cu128"],
    ),
    path("nvswitch-noble", "h100", "ubuntu-24.04", "ubuntu/580/open/precompiled", nvswitches=4),
    # Nothing is precompiled for an older version: DKMS, with the kernel's headers.
    path("pinned-jammy", "a100", "ubuntu-22.04", "ubuntu/580/open/dkms", nvidia_driver_version="580.82.07"),
    # NVIDIA's CUDA repository, with the branch in the packages' names and without.
    path(
        "cuda-jammy",
        "a100",
        "ubuntu-22.04",
        "cuda_repo/580/open/dkms",
        nvidia_driver_source="cuda_repo",
        nvidia_driver_branch="580",
    ),
    path(
        "cuda-noble",
        "t4",
        "ubuntu-24.04",
        "cuda_repo/595/open/dkms",
        nvidia_driver_source="cuda_repo",
        nvidia_driver_branch="595",
    ),
    path(
        "cuda-bookworm",
        "a100",
        "debian-12",
        "cuda_repo/580/open/dkms",
        nvidia_driver_source="cuda_repo",
        nvidia_driver_branch="580",
    ),
    # Debian's own archive, whose components contrib and non-free are not enabled on a fresh node.
    path("bookworm", "t4", "debian-12", "debian/535/proprietary/dkms"),
    path("trixie", "a100", "debian-13", "debian/550/open/dkms", nvidia_driver_flavour="open"),
)

AT_ONCE = 4
IDS = [row.name for row in PATHS]


@dataclass
class Came:
    """What one node came to."""

    path: Path
    checked: dict[str, Any]
    done: dict[str, Any]
    again: dict[str, Any]
    announced: list[str]
    changed_again: int
    apt_transactions: int
    versions: DriverVersions
    new_graphics: set[str]
    fabricmanager: str
    packages: dict[str, str]


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Came]:
    """All nodes, played through; not all at once, since systemd's watches are few on an ordinary machine."""
    folder = tmp_path_factory.mktemp("paths")
    found: dict[str, Came] = {}
    for start in range(0, len(PATHS), AT_ONCE):
        rows = PATHS[start : start + AT_ONCE]
        nodes = up_all([row.node() for row in rows])
        try:
            found |= play_through(dict(zip(rows, nodes, strict=True)), folder)
        finally:
            down_all(nodes)
    return found


def play_through(nodes: dict[Path, Node], folder: pathlib.Path) -> dict[str, Came]:
    """Check, run, run again; one playbook run for all nodes each time."""
    play = player(folder, nodes.values(), {node.name: row.wishes for row, node in nodes.items()})
    before = {
        row.name: (set(graphics_packages(node)), node.apt_transactions()) for row, node in nodes.items()
    }
    role = {"role": "nvidia_driver"}
    checked = play("playbooks/role.yml", variables=role, check=True)
    done = play("playbooks/role.yml", variables=role)
    again = play("playbooks/role.yml", variables=role)
    came: dict[str, Came] = {}
    for row, node in nodes.items():
        graphics, transactions = before[row.name]
        came[row.name] = Came(
            path=row,
            checked=checked.node(node.name),
            done=done.node(node.name),
            again=again.node(node.name),
            announced=announced(done.output, node.name),
            changed_again=again.changed(node.name),
            apt_transactions=node.apt_transactions() - transactions,
            versions=driver_versions(node),
            new_graphics=set(graphics_packages(node)) - graphics,
            fabricmanager=node.sh("systemctl is-active nvidia-fabricmanager.service", check=False).strip(),
            packages=driver_packages(node),
        )
    return came


def announced(output: str, host: str) -> list[str]:
    """The ids of the actions that a run says it begins with; it may plan again when it knows more."""
    lines = iter(output.splitlines())
    for line in lines:
        if line.startswith(f"{host}: ") and line.endswith(" to do"):
            break
    return [
        line.split(":")[0].strip()
        for line in itertools.takewhile(lambda line: line.startswith("    "), lines)
    ]


@pytest.fixture
def one(came: dict[str, Came], request: pytest.FixtureRequest) -> Came:
    """The row that a test is about."""
    return came[request.param]


every_path = pytest.mark.parametrize("one", IDS, indirect=True)


@every_path
def test_path_is_the_expected_one(one: Came) -> None:
    assert one.done["error"] is None, one.done["error"]
    driver = one.done["plan"]["driver"]
    found = (driver["source"], driver["branch"], driver["flavour"], driver["install"])
    assert found == (one.path.source, one.path.branch, one.path.flavour, one.path.install)


@every_path
def test_driver_is_whole_and_of_the_planned_version(one: Came) -> None:
    assert one.versions.agree, one.versions
    assert one.versions.loaded == one.again["plan"]["driver"]["version"]
    assert one.versions.loaded.startswith(f"{one.path.branch}.")


@every_path
def test_driver_comes_in_one_apt_transaction(one: Came) -> None:
    assert one.apt_transactions == 1


@every_path
def test_second_run_changes_nothing(one: Came) -> None:
    assert one.changed_again == 0, one.again["changed_tasks"]
    assert driver_actions(one.again["plan"]) == []
    assert driver_conflicts(one.again["plan"]) == []


@every_path
def test_check_mode_tells_the_same_story(one: Came) -> None:
    assert one.checked["error"] is None, one.checked["error"]
    assert driver_actions(one.checked["plan"]) == [
        action for action in one.announced if action.startswith(("driver.", "host.reboot"))
    ]
    foreseen = {package["name"]: package["version"] for package in one.checked["plan"]["driver"]["packages"]}
    installed = {package["name"]: package["version"] for package in one.done["plan"]["driver"]["packages"]}
    if "driver.source" in one.announced:
        # What apt has of a source that is still to be added, only the real run knows: versions, and which
        # dependencies must be named with theirs.
        assert set(foreseen) <= set(installed)
        assert set(foreseen.values()) == {None}
    else:
        assert foreseen == installed


def test_pain_12_fabric_manager_is_of_the_drivers_version_and_runs(came: dict[str, Came]) -> None:
    one = came["nvswitch-noble"]
    assert one.fabricmanager == "active"
    ((_name, version),) = (
        (name, version) for name, version in one.packages.items() if name.startswith("nvidia-fabricmanager")
    )
    assert version.partition("-")[0] == one.versions.loaded
    others = {name: other.fabricmanager for name, other in came.items() if other is not one}
    assert set(others.values()) == {"inactive"}, others


@every_path
def test_nothing_for_a_screen_is_installed(one: Came) -> None:
    assert one.new_graphics == set()
