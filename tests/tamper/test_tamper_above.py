"""The same for what stands on a node's GPUs, after the node itself was damaged and repaired."""

from __future__ import annotations

import re

import below
import pytest
from above import ABOVE, WISHES
from damages import State, Step, steps
from kit.fingerprint import Fingerprint
from kit.nodes import Node
from kit.runs import Player, player

pytestmark = pytest.mark.lab


def lasting(node: Node) -> Fingerprint:
    """What a repair must bring back. A record is none of it; an image built again has a new id, metrics are
    of now, a token that was too short is made anew, and what is in a home is its user's and Jupyter's."""
    kept = node.fingerprint().lasting(but=["records", "initramfs"])
    kept = kept.without("images", lambda line: line.startswith("gpuready/"))
    passing = re.compile(r"/gpuready\.prom$|/token$|/srv/gpuready/home/[^/]+/")
    return kept.without("gpuready", lambda line: bool(passing.search(line)))


@pytest.fixture(scope="module")
def state(node: Node, provision: Player, tmp_path_factory: pytest.TempPathFactory) -> State:
    """The node with images, an environment, a workbench and monitoring."""
    furnished = player(tmp_path_factory.mktemp("above"), [node], {node.name: {**below.WISHES, **WISHES}})
    run = furnished("playbooks/provision.yml")
    assert run.rc == 0, run.output
    return State(node, furnished, lasting)


@pytest.mark.parametrize("step", tuple(steps(ABOVE)), ids=lambda step: step.name)
def test_plan_sees_the_damage_and_a_run_repairs_it(state: State, step: Step) -> None:
    if step.damage:
        state.see(step.damage)
    else:
        state.repair()
