"""One of two verified nodes breaks: that node fails with the reason, and the other goes on.

On the lab's standing nodes, because it needs the real framework image: verification believes nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from labnodes import LAB, ROOT, Node, labctl
from runner import action_ids, plan, playbook

pytestmark = pytest.mark.lab


def verdicts() -> dict[str, dict[str, Any]]:
    """The last run's artefact of each node."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in (ROOT / "artifacts" / "latest").glob("*.json")
        if path.stem != "fleet"
    }


@pytest.fixture(scope="module")
def pair(standing: dict[str, Node]) -> tuple[Node, Node]:
    """The node to break, and the one to watch."""
    first, second = sorted(standing.values(), key=lambda node: node.name)[:2]
    return first, second


@pytest.fixture
def gpu_off(pair: tuple[Node, Node]) -> Iterator[None]:
    """Switch the first node's GPU off the bus, and on again."""
    labctl("fault", pair[0].name, "gpu_off_bus=true")
    yield
    labctl("fault", pair[0].name, "gpu_off_bus=false")


def findings_of(name: str) -> str:
    """All that the verification of a node has to say, as text."""
    verdict = verdicts()[name]
    assert verdict["status"] in ("failed", "conflict")
    (verification,) = verdict["verification"]
    assert verification["ok"] is False
    assert verification["gpus_listed"] == 0
    assert verification["findings"], verification
    return json.dumps(verification["findings"])


def test_switched_off_gpu_fails_that_node_only(pair: tuple[Node, Node], gpu_off: None) -> None:
    broken, sound = pair
    run = playbook("playbooks/verify.yml", LAB)
    assert run.code != 0, run.output
    assert run.recap[broken.name]["failed"] == 1
    assert run.recap[sound.name]["failed"] == 0
    assert verdicts()[sound.name]["status"] == "verified"
    findings = findings_of(broken.name).lower()
    assert "pci" in findings or "bus" in findings or "driver" in findings, findings


def test_removed_toolkit_is_found_and_repaired(pair: tuple[Node, Node]) -> None:
    broken, sound = pair
    broken.run("dpkg --remove --force-depends nvidia-container-toolkit && systemctl restart docker")
    run = playbook("playbooks/verify.yml", LAB)
    assert run.code != 0, run.output
    assert run.recap[sound.name]["failed"] == 0
    assert "toolkit" in findings_of(broken.name).lower()
    assert "toolkit.install" in action_ids(plan(LAB, broken.name))
    repaired = playbook("site.yml", LAB)
    assert repaired.code == 0, repaired.output
    assert repaired.recap[sound.name]["changed"] == 0, repaired.output
    assert {verdict["status"] for verdict in verdicts().values()} == {"verified"}


@pytest.fixture
def cdi_node(standing: dict[str, Node]) -> Node:
    """The standing node whose Docker knows CDI, so that gpuready manages its specification."""
    for node in standing.values():
        if plan(LAB, node.name)["plan"]["container_runtime"]["toolkit"]["cdi"]["enabled"]:
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
def test_cdi_specification_is_renewed(cdi_node: Node, damage: str) -> None:
    cdi_node.run(f"{NO_OTHER_SPECIFICATION}; {damage}")
    assert action_ids(plan(LAB, cdi_node.name)) == ["toolkit.cdi"]
    repaired = playbook("playbooks/provision.yml", LAB, limit=cdi_node.name)
    assert repaired.code == 0, repaired.output
    assert action_ids(plan(LAB, cdi_node.name)) == []


def test_container_gets_its_gpu_by_cdi(cdi_node: Node) -> None:
    """By the specification that was just renewed: dockerd must have noticed."""
    cdi_node.run(NO_OTHER_SPECIFICATION)
    run = playbook("playbooks/verify.yml", LAB, limit=cdi_node.name, variables={"gpu_verify_launch": "cdi"})
    assert run.code == 0, run.output
    (verification,) = verdicts()[cdi_node.name]["verification"]
    assert verification["ok"] is True
    assert verification["launch"]["way"] == "cdi"
    assert "nvidia.com/gpu=all" in verification["launch"]["arguments"]
