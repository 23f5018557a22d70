"""A new driver under which no workload has its GPU: the former one comes back, and the new one stays away.

After the tests of the site, on one of its verified nodes: what fails and proves itself is the real image.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kit.nodes import Node
from kit.questions import driver_versions
from kit.runs import Player

BROKEN = "580.95.05"
NEXT_BEST = "580.82.07"


@pytest.fixture(scope="module")
def node(site_nodes: list[Node]) -> Iterator[Node]:
    """A node of the site on which one version of the driver does not work."""
    node = site_nodes[0]
    node.fault(f'cuda_error_for_version={{"{BROKEN}": 999}}')
    yield node
    node.fault("--clear")


def test_driver_that_fails_its_verification_is_rolled_back(site: Player, node: Node) -> None:
    mine = {"limit": (node.name,)}
    former = site("site.yml", variables={"nvidia_driver_branch": "570"}, **mine)
    assert former.rc == 0, former.output
    assert former.node(node.name)["status"] == "verified"
    before = driver_versions(node)
    assert before.agree and str(before.loaded).startswith("570.")

    run = site("site.yml", variables={"nvidia_driver_branch": "580"}, **mine)
    assert run.rc != 0
    document = run.node(node.name)
    assert document["status"] == "rolled_back", document["error"]
    assert BROKEN in document["error"] and str(before.loaded) in document["error"]
    assert driver_versions(node) == before
    record = document["gpu_stack"]["driver"]["record"]
    assert [entry["version"] for entry in record["rejected"]] == [BROKEN]
    assert record["unverified"] is None


def test_rejected_driver_is_not_chosen_again(site: Player, node: Node) -> None:
    run = site("site.yml", variables={"nvidia_driver_branch": "580"}, limit=(node.name,))
    assert run.rc == 0, run.output
    assert run.node(node.name)["status"] == "verified"
    assert driver_versions(node).loaded == NEXT_BEST
    again = site("site.yml", variables={"nvidia_driver_branch": "580"}, limit=(node.name,))
    assert again.rc == 0, again.output
    assert again.changed(node.name) == 0


def test_rejected_driver_is_taken_when_it_is_pinned_by_name(site: Player, node: Node) -> None:
    plan = site.plan(node.name, variables={"nvidia_driver_version": BROKEN})
    assert plan["status"] == "changes"
    assert plan["driver"]["version"] == BROKEN
