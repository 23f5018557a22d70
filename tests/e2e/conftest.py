"""Nodes for the end-to-end tests. They need the running lab: labctl up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.nodes import Node, labctl
from kit.runs import Player, Run, player

#: The lab's own nodes; others (made with labctl node-up) for people who want to leave those alone.
SITE_NODES = os.environ.get("GPUREADY_E2E_NODES", "gpulab-a100,gpulab-t4").split(",")


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
    return player(tmp_path, site_nodes)


@pytest.fixture(scope="module")
def bare_node() -> Iterator[Node]:
    """A node that stays bare, since everything asked of it is refused."""
    node = Node.up("e2e-refuse")
    yield node
    node.down()


@pytest.fixture
def refused(bare_node: Node, tmp_path: Path) -> Callable[..., Run]:
    """Play on the bare node; the run must fail and leave the node as it was."""

    def run(playbook: str = "site.yml", *, node: Node = bare_node, says: str = "", **changes: Any) -> Run:
        before = node.fingerprint()
        result = player(tmp_path, [node])(playbook, **changes)
        assert result.rc != 0, result.output
        error = result.node(node.name)["error"]
        assert says in error, f"{error}\n---\n{result.output}"
        assert before.differences(node.fingerprint()) == []
        return result

    return run
