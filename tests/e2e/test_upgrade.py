"""A fleet of four nodes goes from driver 570 to 580: in batches, drained, and stopped by a canary that fails.

The nodes are whole: Docker, toolkit, driver, and the fault lab's stand-in for TensorFlow, since TensorFlow is
not the point. Slurm is the stand-in of tests/standins, on this machine. In order: each test goes on where the
one before it left the fleet.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kit import ROOT
from kit.nodes import Node, down_all, up_all
from kit.questions import driver_versions
from kit.runs import Player, Run, player

sys.path.insert(0, str(ROOT / "tests" / "faults"))

from standin import MIRROR, publish

NEW = "580.95.05"
IMAGE = "tensorflow/tensorflow:2.9.0-gpu"
RECORD = "/var/lib/gpuready/node_drain.json"


@dataclass
class Fleet:
    """Four nodes, and Slurm."""

    nodes: list[Node]
    runs: Player
    slurm: Path

    @property
    def names(self) -> list[str]:
        return [node.name for node in self.nodes]

    def upgrade(self, **changes: Any) -> Run:
        return self.runs("playbooks/upgrade.yml", **changes)

    def loaded(self) -> list[str]:
        """The branch of each node's loaded driver."""
        return [str(driver_versions(node).loaded).partition(".")[0] for node in self.nodes]

    def drained(self) -> list[str]:
        nodes = json.loads(self.slurm.read_text())["nodes"]
        return [name for name, node in nodes.items() if node["flags"]]

    def told(self) -> list[tuple[str, str]]:
        """What Slurm was told since the last time, in order."""
        log = Path(f"{self.slurm}.log")
        calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        return [
            (call[1].partition("=")[2], call[2].partition("=")[2]) for call in calls if call[0] == "update"
        ]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """All on driver 570 and verified."""
    publish()
    folder = tmp_path_factory.mktemp("upgrade")
    nodes = up_all(
        [{"name": f"e2e-upgrade-{os.getpid()}-{number}", "gpus": "t4"} for number in range(4)], jobs=2
    )
    try:
        slurm = folder / "slurm.json"
        idle = {"state": "IDLE", "flags": [], "reason": None}
        slurm.write_text(json.dumps({"nodes": {node.name: idle for node in nodes}}))
        scontrol = [
            "/usr/bin/env",
            f"STANDIN_STATE={slurm}",
            sys.executable,
            str(ROOT / "tests/standins/scontrol"),
        ]
        variables = {
            "framework_image_registry_mirror": MIRROR,
            "node_drain_method": "slurm",
            "node_drain_slurm_command": scontrol,
            "node_drain_delegate_to": "localhost",
            "node_drain_become": False,
            "node_drain_interval_seconds": 0.5,
        }
        runs = player(folder, nodes, {node.name: variables for node in nodes})
        first = runs("site.yml", variables={"nvidia_driver_branch": "570"})
        assert first.rc == 0, first.output
        made = Fleet(nodes, runs, slurm)
        assert made.loaded() == ["570"] * 4
        yield made
    finally:
        down_all(nodes)


def test_forecast_names_batches_plans_and_who_is_in_the_way(fleet: Fleet) -> None:
    canary, second, *_others = fleet.nodes
    second.sh(f"docker run --detach --name training --gpus all {IMAGE} sleep infinity")
    before = [canary.fingerprint(), second.fingerprint()]
    run = fleet.upgrade(variables={"nvidia_driver_branch": "580"}, check=True)
    assert f"batch 1, the canary {canary.name}: driver 570." in run.said, run.output
    assert f"→ {NEW}" in run.said and f"it is drained in Slurm as {canary.name}" in run.said
    assert f"on its GPUs: container training ({IMAGE}): node_drain_containers is refuse" in run.said
    assert f"it stops here: {second.name} cannot be upgraded" in run.said
    # 1, 25 %, 50 % of four.
    assert "in 3 batches" in run.said
    assert run.rc != 0 and "Nothing was changed" in run.node(second.name)["error"]
    assert fleet.told() == []
    after = [canary.fingerprint(), second.fingerprint()]
    assert [old.differences(new) for old, new in zip(before, after, strict=True)] == [[], []]


def test_canary_that_fails_is_rolled_back_and_the_others_are_untouched(fleet: Fleet) -> None:
    canary = fleet.nodes[0]
    canary.fault(f'cuda_error_for_version={{"{NEW}": 999}}')
    transactions = [node.apt_transactions() for node in fleet.nodes]
    run = fleet.upgrade(variables={"nvidia_driver_branch": "580"})
    canary.fault("--clear")
    assert run.rc != 0
    document = run.node(canary.name)
    assert document["status"] == "rolled_back", document["error"]
    assert NEW in document["error"] and "It is back in service with its former driver." in document["error"]
    assert f"so these are not begun: {', '.join(fleet.names[1:])}." in document["error"]
    assert fleet.loaded() == ["570"] * 4
    assert [node.apt_transactions() for node in fleet.nodes][1:] == transactions[1:]
    assert fleet.told() == [(canary.name, "DRAIN"), (canary.name, "RESUME")]
    assert not canary.holds(f"test -e {RECORD}")


def test_share_of_failures_that_is_allowed_stops_nothing(fleet: Fleet) -> None:
    """A job is on the second node's GPU: it is left alone, and the others are upgraded around it."""
    first, second, third, fourth = fleet.names
    started = fleet.nodes[1].sh("docker inspect --format '{{.State.StartedAt}}' training")
    run = fleet.upgrade(
        # By name, since the canary has rejected it.
        variables={
            "nvidia_driver_version": NEW,
            "upgrade_batches": "1,2,1",
            "upgrade_max_fail_percentage": 50,
        }
    )
    assert run.rc != 0
    assert [run.node(name)["status"] for name in fleet.names] == [
        "verified",
        "failed",
        "verified",
        "verified",
    ], run.output
    assert "container training" in run.node(second)["error"]
    assert fleet.loaded() == ["580", "570", "580", "580"]
    told = fleet.told()
    assert told == [(name, verb) for name in (first, third, fourth) for verb in ("DRAIN", "RESUME")]
    assert fleet.drained() == []
    assert fleet.nodes[1].sh("docker inspect --format '{{.State.StartedAt}}' training") == started


def test_upgrade_that_is_cut_off_is_finished_by_the_next(fleet: Fleet) -> None:
    """In the middle of the second node; its container is stopped and started again."""
    second = fleet.nodes[1]
    wishes = {"nvidia_driver_version": NEW, "node_drain_containers": "stop", "upgrade_batches": "50%"}
    cut = fleet.upgrade(variables=wishes, cut_off_after=6)
    assert cut.rc == -1, cut.output
    assert fleet.drained() == [second.name]
    assert json.loads(second.sh(f"cat {RECORD}"))["stopped"][0]["name"] == "training"
    assert fleet.told() == [(second.name, "DRAIN")]

    run = fleet.upgrade(variables=wishes)
    assert run.rc == 0, run.output
    assert "it is drained already, by an upgrade that was cut off or failed" in run.said
    assert fleet.loaded() == ["580"] * 4
    assert fleet.told() == [(second.name, "RESUME")] and fleet.drained() == []
    assert second.sh("docker inspect --format '{{.State.Running}}' training").strip() == "true"
    assert not second.holds(f"test -e {RECORD}")
    others = [node.name for node in fleet.nodes if node is not second]
    assert [run.changed(name) for name in others] == [0, 0, 0]
    assert run.said.count("nothing to do; it stays in service") == 3
