"""A converged lab node to damage: thrown away afterwards, so that no damage is left to anybody else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from kit import LAB, ROOT
from kit.nodes import Node
from kit.runs import Player, player

sys.path.insert(0, str(ROOT / "molecule" / "shared"))

from below import WISHES
from small_image import publish

KEPT = "gpulab-tamper"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where to do the damage."""
    parser.addoption("--keep-node", action="store_true", help="keep the tampered node and use it again")


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node of its own."""
    keep = request.config.getoption("--keep-node")
    # Two runs at once must not damage the same node.
    name = KEPT if keep else f"{KEPT}-{os.getpid()}"
    made = (Node.all().get(name) if keep else None) or Node.up(name)
    yield made
    if not keep:
        made.down()


@pytest.fixture(scope="session")
def provision(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Player:
    """Play on that node, which is converged by `provision.yml` first."""
    publish()
    runs = player(tmp_path_factory.mktemp("runs"), [node], {node.name: WISHES})
    converged = runs("playbooks/provision.yml")
    assert converged.rc == 0, converged.output
    return runs


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Player:
    """Play on the lab's standing nodes, those that `-i lab` names; converged first where they are not."""
    runs = Player(tmp_path_factory.mktemp("runs"), (LAB,))
    run = runs("playbooks/provision.yml")
    assert run.rc == 0, run.output
    return runs
