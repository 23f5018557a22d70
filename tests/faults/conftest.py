"""Nodes for the fault lab. They need the running lab: labctl up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import faulttable
import pytest
from faultlab import FaultLab, Recorder
from kit import LAB
from kit.nodes import Node, labctl
from kit.runs import Player, player
from standin import MIRROR, publish

TABLE = faulttable.load()
IMAGE = "tensorflow/tensorflow:2.9.0-gpu"
#: A node's wishes where verification's image would take minutes and prove no more.
SMALL = {
    "framework_image_registry_mirror": MIRROR,
    "docker_engine_daemon_config": {"insecure-registries": [MIRROR.partition("/")[0]]},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which node, and what becomes of it."""
    parser.addoption(
        "--fault-node",
        action="append",
        default=[],
        help=f"only the faults of this node ({', '.join(TABLE.nodes)}, {faulttable.TEXT})",
    )
    parser.addoption("--fault-host", help="play on this node of the lab, which is there already and stays")
    parser.addoption("--keep-nodes", action="store_true", help="keep the nodes and use them again")
    parser.addoption(
        "--fault-results", help="append what came of each fault to this file, a line of JSON each"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the other nodes; keep each node's tests together, in the order of its life."""
    wanted = config.getoption("--fault-node")
    stages = ("healthy_at_first", "single", "pair", "repair", "healthy_at_last")

    def place(item: pytest.Item) -> tuple[int, int]:
        stage = next((n for n, name in enumerate(stages) if name in item.name), -1)
        marker = item.get_closest_marker("fault_node")
        names = [*TABLE.nodes, faulttable.TEXT]
        return (names.index(marker.args[0]) if marker else -1, stage)

    kept, left = [], []
    for item in items:
        marker = item.get_closest_marker("fault_node")
        (left if wanted and marker and marker.args[0] not in wanted else kept).append(item)
    kept.sort(key=place)
    if left:
        config.hook.pytest_deselected(items=left)
    items[:] = kept


def pytest_configure(config: pytest.Config) -> None:
    """The marker that says which node a test plays on."""
    config.addinivalue_line("markers", "fault_node(name): the node of faults.yml that the test plays on")


@pytest.fixture(scope="session")
def recorder(request: pytest.FixtureRequest) -> Recorder:
    """Where the benchmark's lines go."""
    return Recorder(request.config.getoption("--fault-results"))


@pytest.fixture(scope="session")
def laboratory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], FaultLab]]:
    """The node of a profile, made (and converged) when it is first asked for."""
    keep = request.config.getoption("--keep-nodes")
    labs: dict[str, FaultLab] = {}
    made: list[Node] = []

    def get(name: str) -> FaultLab:
        if name not in labs:
            profile = TABLE.nodes[name]
            folder = tmp_path_factory.mktemp(f"runs-{name}")
            own = f"gpulab-faults-{name}" + ("" if keep else f"-{os.getpid()}")
            existing = request.config.getoption("--fault-host") or profile.standing
            node = Node.existing(existing) if existing else _node(profile, own, keep=keep)
            if not keep and not existing:
                made.append(node)
            if profile.standing and existing == profile.standing:
                runs = Player(folder, (LAB,), (node.name,))  # as the lab's own inventory has it
            elif profile.workload == "small":
                publish()
                runs = player(folder, [node], {node.name: SMALL})
            else:
                runs = player(folder, [node])
            lab = FaultLab(profile, TABLE, node, runs, IMAGE)
            if profile.converged:
                lab.provision()
            labs[name] = lab
        return labs[name]

    yield get
    for node in made:
        labctl("node-down", node.name, check=False)


def _node(profile: faulttable.NodeProfile, name: str, *, keep: bool) -> Node:
    found = Node.all().get(name) if keep else None
    return found or Node.up(name, gpus=profile.gpus, os=profile.os, arguments=profile.arguments)


@pytest.fixture
def lab(request: pytest.FixtureRequest, laboratory: Callable[[str], FaultLab]) -> FaultLab:
    """The node that the test's marker names."""
    marker = request.node.get_closest_marker("fault_node")
    return laboratory(marker.args[0])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for texts."""
    return tmp_path_factory.mktemp("texts")
