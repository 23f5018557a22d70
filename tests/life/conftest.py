"""Small nodes for the driver's whole life. They need the running lab: labctl up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from kit.nodes import Node, labctl
from living import Living


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here runs on the lab's nodes."""
    for item in items:
        item.add_marker(pytest.mark.lab)


@pytest.fixture(scope="module")
def new(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Living]]:
    """Make bare nodes for one file of tests; they are gone when it is done."""
    # life-<file>-<process>-<n>: two runs at once do not meet.
    stem = f"life-{request.path.stem.removeprefix('test_')}-{os.getpid()}"
    made: list[Node] = []

    def make(*, gpus: str = "a100", os: str = "ubuntu-22.04", **changes: object) -> Living:
        node = Node.up(f"{stem}-{len(made)}", gpus=gpus, os=os, **changes)
        made.append(node)
        return Living.of(node, tmp_path_factory.mktemp("runs"))

    yield make
    for node in made:
        labctl("node-down", node.name, check=False)  # a test may have done it
