"""Every way to a driver: each package source, each kind of kernel module and GPU, all from the mirror.

All nodes play at once: in check mode, then really, then again. The tests look at what each of them came to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from kit.nodes import Node, down_all, up_all
from kit.questions import DriverVersions, driver_versions, graphics_packages
from kit.runs import Run, player
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
    wishes: dict[str, Any] = field(default_factory=dict)


def path(name: str, gpus: str, os: str, expected: str, **wishes: Any) -> Path:
    """One row of the table; ``expected`` is source/branch/flavour/install."""
    source, branch, flavour, install = expected.split("/")
    return Path(name, gpus, os, source, branch, flavour, install, wishes)


PATHS = (
    # Ubuntu's own archive: precompiled modules for the exact kernel, signed.
    path("t4-jammy", "t4", "ubuntu-22.04", "ubuntu/580/open/precompiled"),
    path("v100-noble", "v100", "ubuntu-24.04", "ubuntu/580/proprietary/precompiled"),
    path("k80-jammy", "k80", "ubuntu-22.04", "ubuntu/470/proprietary/precompiled"),
    path("b200-noble", "b200", "ubuntu-24.04", "ubuntu/580/open/precompiled"),
    path("mixed-jammy", "a100,t4", "ubuntu-22.04", "ubuntu/580/open/precompiled"),
)
#: Nodes for which there is no driver, and the word that says why.
DEAD_ENDS = ()

IDS = [row.name for row in PATHS]


@dataclass
class Came:
    """What one node came to."""

    path: Path
    checked: dict[str, Any]
    done: dict[str, Any]
    again: dict[str, Any]
    changed_again: int
    apt_transactions: int
    versions: DriverVersions
    new_graphics: set[str]
    fabricmanager: str
    run: Run


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Came]]:
    """All nodes, played through."""
    prefix = f"life-{os.getpid()}"
    nodes = dict(
        zip(
            IDS,
            up_all([{"name": f"{prefix}-{row.name}", "gpus": row.gpus, "os": row.os} for row in PATHS]),
            strict=True,
        )
    )
    try:
        yield play_through(nodes, tmp_path_factory)
    finally:
        down_all(list(nodes.values()))


def play_through(nodes: dict[str, Node], folders: pytest.TempPathFactory) -> dict[str, Came]:
    """Check, run, run again; one playbook run for all nodes each time."""
    wishes = {nodes[row.name].name: row.wishes for row in PATHS}
    play = player(folders.mktemp("paths"), nodes.values(), wishes)
    before = {name: (set(graphics_packages(node)), node.apt_transactions()) for name, node in nodes.items()}
    role = {"role": "nvidia_driver"}
    checked = play("playbooks/role.yml", variables=role, check=True)
    done = play("playbooks/role.yml", variables=role)
    again = play("playbooks/role.yml", variables=role)
    came: dict[str, Came] = {}
    for row in PATHS:
        node = nodes[row.name]
        graphics, transactions = before[row.name]
        came[row.name] = Came(
            path=row,
            checked=checked.node(node.name),
            done=done.node(node.name),
            again=again.node(node.name),
            changed_again=again.changed(node.name),
            apt_transactions=node.apt_transactions() - transactions,
            versions=driver_versions(node),
            new_graphics=set(graphics_packages(node)) - graphics,
            fabricmanager=node.sh("systemctl is-active nvidia-fabricmanager.service", check=False).strip(),
            run=done,
        )
    return came


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
    assert one.checked["plan"]["driver"]["packages"] == one.done["plan"]["driver"]["packages"]
    assert driver_actions(one.checked["plan"]) == driver_actions(one.done["plan"])


@every_path
def test_nothing_for_a_screen_is_installed(one: Came) -> None:
    assert one.new_graphics == set()
