"""One of two verified nodes breaks: that node fails with the reason, and the other goes on.

On the lab's standing nodes, because it needs the real framework image: verification believes nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from kit.nodes import Node
from kit.runs import Player, Run, action_ids

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def nodes(standing: Player) -> list[Node]:
    """The standing nodes, sorted by name."""
    hosts = standing("playbooks/plan.yml").fleet["nodes"]
    return [Node.existing(name) for name in sorted(hosts)]


@pytest.fixture(scope="module")
def pair(nodes: list[Node]) -> tuple[Node, Node]:
    """The node to break, and the one to watch."""
    first, second = nodes[:2]
    return first, second


@pytest.fixture
def gpu_off(pair: tuple[Node, Node]) -> Iterator[None]:
    """Switch the first node's GPU off the bus, and on again."""
    pair[0].fault("gpu_off_bus=true")
    yield
    pair[0].fault("gpu_off_bus=false")


def findings_of(run: Run, name: str) -> str:
    """All that the verification of a node has to say, as text."""
    verdict = run.node(name)
    assert verdict["status"] in ("failed", "conflict")
    (verification,) = verdict["verification"]
    assert verification["ok"] is False
    assert verification["gpus_listed"] == 0
    assert verification["findings"], verification
    return json.dumps(verification["findings"])


def test_switched_off_gpu_fails_that_node_only(
    standing: Player, pair: tuple[Node, Node], gpu_off: None
) -> None:
    broken, sound = pair
    run = standing("playbooks/verify.yml")
    assert run.rc != 0, run.output
    assert run.count("failures", broken.name) == 1
    assert not run.failed(sound.name)
    assert run.node(sound.name)["status"] == "verified"
    findings = findings_of(run, broken.name).lower()
    assert "pci" in findings or "bus" in findings or "driver" in findings, findings


def test_removed_toolkit_is_found_and_repaired(standing: Player, pair: tuple[Node, Node]) -> None:
    broken, sound = pair
    broken.sh("dpkg --remove --force-depends nvidia-container-toolkit && systemctl restart docker")
    run = standing("playbooks/verify.yml")
    assert run.rc != 0, run.output
    assert not run.failed(sound.name)
    assert "toolkit" in findings_of(run, broken.name).lower()
    assert "toolkit.install" in action_ids(standing.plan(broken.name))
    repaired = standing("site.yml")
    assert repaired.rc == 0, repaired.output
    assert repaired.changed(sound.name) == 0, repaired.output
    assert {repaired.node(name)["status"] for name in repaired.fleet["nodes"]} == {"verified"}


@pytest.fixture
def cdi_node(standing: Player, nodes: list[Node]) -> Node:
    """The standing node whose Docker knows CDI, so that gpuready manages its specification."""
    run = standing("playbooks/plan.yml")
    for node in nodes:
        if run.plan(node.name)["container_runtime"]["toolkit"]["cdi"]["enabled"]:
            return node
    pytest.fail("no standing node has a Docker that knows CDI")


# From 1.18 on the toolkit keeps a specification of its own, which takes precedence and would be good enough.
NO_OTHER_SPECIFICATION = "rm -f /var/run/cdi/nvidia.yaml"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("rm /etc/cdi/nvidia.yaml", id="removed"),
        pytest.param(
            "sed -i 's/libcuda\\.so\\.[0-9.]*/libcuda.so.450.0/g' /etc/cdi/nvidia.yaml",
            id="stale",
        ),
    ],
)
def test_cdi_specification_is_renewed(standing: Player, cdi_node: Node, damage: str) -> None:
    cdi_node.sh(f"{NO_OTHER_SPECIFICATION}; {damage}")
    assert action_ids(standing.plan(cdi_node.name)) == ["toolkit.cdi"]
    repaired = standing("playbooks/provision.yml", limit=[cdi_node.name])
    assert repaired.rc == 0, repaired.output
    assert action_ids(standing.plan(cdi_node.name)) == []


def test_container_gets_its_gpu_by_cdi(standing: Player, cdi_node: Node) -> None:
    """By the specification that was just renewed: dockerd must have noticed."""
    cdi_node.sh(NO_OTHER_SPECIFICATION)
    run = standing("playbooks/verify.yml", limit=[cdi_node.name], variables={"gpu_verify_launch": "cdi"})
    assert run.rc == 0, run.output
    (verification,) = run.node(cdi_node.name)["verification"]
    assert verification["ok"] is True
    assert verification["launch"]["way"] == "cdi"
    assert "nvidia.com/gpu=all" in verification["launch"]["arguments"]
