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


# From 1.18 on the toolkit has a service that keeps the specification, under /var/run.
SERVICED = "/var/run/cdi/nvidia.yaml"
UNITS = "/etc/systemd/system"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(f"rm {SERVICED}", id="removed"),
        pytest.param(f"sed -i 's/libcuda\\.so\\.[0-9.]*/libcuda.so.450.0/g' {SERVICED}", id="stale"),
    ],
)
def test_cdi_specification_is_renewed_by_the_toolkits_service(
    standing: Player, cdi_node: Node, damage: str
) -> None:
    cdi_node.sh(damage)
    assert action_ids(standing.plan(cdi_node.name)) == ["toolkit.cdi_refresh"]
    repaired = standing("playbooks/provision.yml", limit=[cdi_node.name])
    assert repaired.rc == 0, repaired.output
    assert action_ids(standing.plan(cdi_node.name)) == []


@pytest.fixture
def serviceless(cdi_node: Node) -> Iterator[Node]:
    """The node as with a toolkit before 1.18: without the service, and without what it wrote."""
    away = f"cd {UNITS}; mkdir /root/away; mv nvidia-cdi-refresh.* /root/away"
    cdi_node.sh(f"set -e; systemctl stop nvidia-cdi-refresh.path nvidia-cdi-refresh.service; {away}")
    cdi_node.sh(f"set -e; systemctl daemon-reload; rm {SERVICED}")
    yield cdi_node
    back = f"mv /root/away/* {UNITS}; rmdir /root/away; systemctl daemon-reload"
    cdi_node.sh(f"set -e; {back}; systemctl restart nvidia-cdi-refresh.path nvidia-cdi-refresh.service")
    cdi_node.sh("rm -f /etc/cdi/nvidia.yaml")


def test_cdi_specification_is_renewed(standing: Player, serviceless: Node) -> None:
    for damage in ("true", "rm {0}", "sed -i 's/libcuda\\.so\\.[0-9.]*/libcuda.so.450.0/g' {0}"):
        serviceless.sh(damage.format("/etc/cdi/nvidia.yaml"))
        assert action_ids(standing.plan(serviceless.name)) == ["toolkit.cdi"], damage
        repaired = standing("playbooks/provision.yml", limit=[serviceless.name])
        assert repaired.rc == 0, repaired.output
        assert action_ids(standing.plan(serviceless.name)) == []
    verified_by_cdi(standing, serviceless)


def verified_by_cdi(standing: Player, node: Node) -> None:
    """The container gets its GPU by the specification that is there now: dockerd must have noticed."""
    run = standing("playbooks/verify.yml", limit=[node.name], variables={"gpu_verify_launch": "cdi"})
    assert run.rc == 0, run.output
    (verification,) = run.node(node.name)["verification"]
    assert verification["ok"] is True
    assert verification["launch"]["way"] == "cdi"
    assert "nvidia.com/gpu=all" in verification["launch"]["arguments"]


def test_container_gets_its_gpu_by_cdi(standing: Player, cdi_node: Node) -> None:
    verified_by_cdi(standing, cdi_node)
