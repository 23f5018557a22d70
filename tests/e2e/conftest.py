"""Nodes for the end-to-end tests. They need the running lab: labctl up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from labkit import LAB_INVENTORY, Node, Run, inventory_file, labctl, play

#: The lab's own nodes; others (made with labctl node-up) for people who want to leave those alone.
SITE_NODES = os.environ.get("GPUREADY_E2E_NODES", "gpulab-a100,gpulab-t4").split(",")

Player = Callable[..., Run]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here runs on the lab's nodes."""
    for item in items:
        item.add_marker(pytest.mark.lab)


@pytest.fixture(scope="session")
def site_nodes() -> list[Node]:
    """The nodes of the whole site, bare at first."""
    for name in SITE_NODES:
        labctl("node-reset", name)
    return [Node.existing(name) for name in SITE_NODES]


@pytest.fixture
def site(site_nodes: list[Node], tmp_path: Path) -> Player:
    """Play a playbook on the site's nodes."""
    inventory = inventory_file(tmp_path / "site.json", site_nodes)

    def run(playbook: str, **changes: Any) -> Run:
        arguments = {"limit": [node.name for node in site_nodes], **changes}
        return play(playbook, tmp_path, inventories=(LAB_INVENTORY, inventory), **arguments)

    return run


@pytest.fixture(scope="module")
def bare_node() -> Iterator[Node]:
    """A node that stays bare, since everything asked of it is refused."""
    node = Node.up("e2e-refuse")
    yield node
    node.down()


@pytest.fixture
def refused(bare_node: Node, tmp_path: Path) -> Player:
    """Play on the bare node; the run must fail and leave the node as it was."""

    def run(playbook: str = "site.yml", *, node: Node = bare_node, says: str = "", **changes: Any) -> Run:
        before = node.fingerprint()
        inventory = inventory_file(tmp_path / "one.json", [node])
        result = play(
            playbook, tmp_path, inventories=(LAB_INVENTORY, inventory), limit=[node.name], **changes
        )
        assert result.rc != 0, result.text
        error = result.node(node.name)["error"]
        assert says in error, f"{error}\n---\n{result.text}"
        assert node.fingerprint() == before
        return result

    return run
