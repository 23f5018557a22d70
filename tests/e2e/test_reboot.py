"""The one thing that needs a reboot: nouveau holds the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.nodes import Node
from kit.runs import Run, player


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A bare node whose GPU nouveau has taken."""
    made = Node.up("e2e-nouveau")
    made.fault("nouveau_bound=true")
    made.reboot()  # nouveau takes the GPU when the machine boots
    yield made
    made.down()


def run(node: Node, folder: Path, **variables: object) -> Run:
    return player(folder, [node])("site.yml", variables=variables)


def test_reboot_that_is_not_allowed_is_said_and_not_done(node, tmp_path):
    before = node.boot_id()
    result = run(node, tmp_path, host_reboot_allowed=False)
    assert result.rc != 0
    document = result.node(node.name)
    assert document["status"] == "reboot_pending", document["error"]
    assert "host_reboot_allowed" in document["error"]
    assert node.boot_id() == before


def test_reboot_happens_once_and_the_node_is_verified(node, tmp_path):
    before = node.boot_id()
    result = run(node, tmp_path)
    assert result.rc == 0, result.output
    assert result.node(node.name)["status"] == "verified"
    assert node.boot_id() != before
    after = node.boot_id()
    again = run(node, tmp_path)
    assert again.rc == 0, again.output
    assert again.changed(node.name) == 0
    assert node.boot_id() == after
