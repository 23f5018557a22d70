"""A converged lab node to damage: thrown away afterwards, so that no damage is left to anybody else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "molecule" / "shared"))

from labnodes import LAB, Node, labctl, reach, running_nodes, write_inventory
from runner import playbook
from small_image import MIRROR, publish

KEPT = "gpulab-tamper"
WISHES = {
    # An image is removed and fetched again here; the real one would take minutes and prove no more.
    "framework_image_registry_mirror": MIRROR,
    "docker_engine_daemon_config": {
        "insecure-registries": [MIRROR.partition("/")[0]],
        # A setting of the user's own: one of the things that can be tampered with.
        "log-opts": {"max-size": "9m"},
    },
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where to do the damage."""
    parser.addoption("--keep-node", action="store_true", help="keep the tampered node and use it again")


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node of its own, converged by `provision.yml`."""
    keep = request.config.getoption("--keep-node")
    # Two runs at once must not damage the same node.
    name = KEPT if keep else f"{KEPT}-{os.getpid()}"
    connection = running_nodes().get(name) if keep else None
    if connection is None:
        connection = json.loads(labctl("node-up", name, "--gpus=a100", "--os=ubuntu-22.04", "--json"))
    publish()
    try:
        directory = tmp_path_factory.mktemp("inventory")
        write_inventory(directory, connection, WISHES)
        converged = playbook("playbooks/provision.yml", directory)
        assert converged.code == 0, converged.output
        yield reach(connection, directory)
    finally:
        if not keep:
            labctl("node-down", name)


@pytest.fixture(scope="session")
def standing() -> dict[str, Node]:
    """The lab's standing nodes, those that `-i lab` names, by name; converged first where they are not."""
    run = playbook("playbooks/provision.yml", LAB)
    assert run.code == 0, run.output
    return {name: reach(running_nodes()[name], LAB) for name in run.recap}
