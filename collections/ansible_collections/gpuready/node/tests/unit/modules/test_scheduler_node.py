"""Slurm and Kubernetes by their own command lines, over the stand-ins of tests/standins."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[7]
COLLECTIONS = str(ROOT / "collections")
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.gpuready.node.plugins.module_utils import scheduler  # noqa: E402
from ansible_collections.gpuready.node.plugins.modules import scheduler_node  # noqa: E402

STANDINS = ROOT / "tests" / "standins"


class World:
    """A simulated scheduler."""

    def __init__(self, program: str, path: Path) -> None:
        self.program, self.path = program, path

    def write(self, **data: Any) -> None:
        self.path.write_text(json.dumps(data))

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @property
    def calls(self) -> list[list[str]]:
        log = Path(f"{self.path}.log")
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def verbs(self) -> list[str]:
        return [call[0] for call in self.calls if call[0] not in ("get", "--oneliner")]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World("scontrol", tmp_path / "state.json")
    monkeypatch.setenv("STANDIN_STATE", str(made.path))
    return made


@pytest.fixture
def call(world: World, capsys: pytest.CaptureFixture[str]):
    def run(**arguments: Any) -> dict[str, Any]:
        kubernetes = arguments.get("scheduler") == "kubernetes"
        arguments = {
            "scheduler": "slurm",
            "interval_seconds": 0.2,
            "command": [sys.executable, str(STANDINS / ("kubectl" if kubernetes else "scontrol"))],
            "_ansible_check_mode": arguments.pop("check", False),
            "_ansible_diff": True,
            **arguments,
        }
        capsys.readouterr()
        with patch_module_args(arguments), pytest.raises(SystemExit):
            scheduler_node.main()
        return json.loads(capsys.readouterr().out)

    return run


def slurm(**more: Any) -> dict[str, Any]:
    return {"nodes": {"g1": {"state": "IDLE", "flags": [], "reason": None, **more}}}


def cluster(pods: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    node = {"labels": {"kubernetes.io/hostname": "gpu01"}, "unschedulable": False, "ready": True, **more}
    return {"nodes": {"g1": node, "g2": {**node, "labels": {}}}, "pods": pods or []}


def pod(name: str, owner: str | None = "ReplicaSet", **more: Any) -> dict[str, Any]:
    return {"name": name, "namespace": "default", "node": "g1", "labels": {}, "owner": owner, **more}


# --- Slurm


def test_slurm_node_is_drained_with_the_reason_once(world: World, call) -> None:
    world.write(**slurm())
    done = call(node="g1", state="drained", reason="new driver")
    assert done["changed"] and done["before"]["state"] == "IDLE" and done["after"]["state"] == "IDLE+DRAIN"
    assert done["after"]["reason"].startswith("new driver [root@")
    assert "state: IDLE+DRAIN" in done["diff"]["after"]
    again = call(node="g1", state="drained", reason="another")
    assert not again["changed"] and again["before"]["drained"]
    assert world.verbs() == ["update"]


def test_slurm_jobs_are_waited_for(world: World, call) -> None:
    world.write(**slurm(busy_until=time.time() + 1))
    done = call(node="g1", state="drained", wait_seconds=10)
    assert done["before"]["busy"] and not done["after"]["busy"] and done["waited_seconds"] > 0.5


def test_slurm_jobs_that_stay_are_told(world: World, call) -> None:
    world.write(**slurm(busy_until=time.time() + 60))
    done = call(node="g1", state="drained", wait_seconds=0)
    assert done["failed"] and "still has jobs on node g1 after 0 s (State=MIXED+DRAIN)" in done["msg"]


def test_slurm_node_is_resumed_also_after_it_went_down(world: World, call) -> None:
    world.write(**slurm(flags=["DRAIN"], state="DOWN", reason="new driver"))
    done = call(node="g1", state="resumed")
    assert done["changed"] and done["after"]["state"] == "IDLE" and not done["after"]["drained"]
    assert not call(node="g1", state="resumed")["changed"]


def test_slurms_agent_may_come_back_from_a_reboot_first(world: World, call) -> None:
    world.write(**slurm(flags=["DRAIN", "NOT_RESPONDING"]))
    done = call(node="g1", state="resumed", wait_seconds=1)
    assert done["changed"] and done["waited_seconds"] >= 1 and not done["after"]["responding"]


@pytest.mark.parametrize("state", ["drained", "resumed", "seen"])
def test_check_mode_only_asks(world: World, call, state: str) -> None:
    world.write(**slurm())
    assert call(node="g1", state=state, check=True)["changed"] is (state == "drained")
    assert world.data == slurm() and world.verbs() == []


def test_unknown_slurm_node_is_named(world: World, call) -> None:
    world.write(**slurm())
    done = call(node="g9", state="drained")
    assert done["failed"] and "Slurm of node g9" in done["msg"] and "Node g9 not found" in done["msg"]


@pytest.mark.parametrize(
    ("state", "drained", "busy"),
    [
        ("IDLE", False, False),
        ("ALLOCATED", False, True),
        ("MIXED*+DRAIN", True, True),
        ("IDLE+DRAIN", True, False),
        ("DOWN*+DRAIN+NOT_RESPONDING", True, False),
        ("DOWN", True, False),
        ("COMPLETING+DRAIN", True, True),
        ("IDLE+PLANNED", False, False),
        ("IDLE+CLOUD+POWERED_DOWN", False, False),
        ("IDLE$", False, False),
    ],
)
def test_slurms_states_are_read(state: str, drained: bool, busy: bool) -> None:
    seen = scheduler.slurm_node(f"NodeName=g1 State={state} ThreadsPerCore=2")
    assert (seen["drained"], seen["busy"], seen["reason"]) == (drained, busy, None)


def test_slurms_reason_ends_where_the_next_field_begins() -> None:
    said = "NodeName=g1 State=DOWN+DRAIN Reason=gpuready: a = b [root@2026-11-23T17:00:00] Comment=x"
    assert scheduler.slurm_node(said)["reason"] == "gpuready: a = b [root@2026-11-23T17:00:00]"


# --- Kubernetes


def test_kubernetes_node_is_cordoned_and_its_pods_are_gone(world: World, call) -> None:
    world.write(**cluster([pod("train"), pod("device-plugin", owner="DaemonSet"), pod("other", node="g2")]))
    done = call(scheduler="kubernetes", selector="kubernetes.io/hostname=gpu01", state="drained")
    assert done["changed"] and done["node"] == "g1" and done["after"]["state"] == "Ready,SchedulingDisabled"
    assert [row["name"] for row in world.data["pods"]] == ["device-plugin", "other"]
    assert call(scheduler="kubernetes", node="g1", state="resumed")["changed"]
    assert world.data["nodes"]["g1"]["unschedulable"] is False
    assert world.verbs() == ["drain", "uncordon"]


def test_kubernetes_pods_can_be_chosen(world: World, call) -> None:
    world.write(**cluster([pod("train", labels={"gpu": "yes"}), pod("web", labels={"gpu": "no"})]))
    call(scheduler="kubernetes", node="g1", state="drained", pod_selector="gpu=yes")
    assert [row["name"] for row in world.data["pods"]] == ["web"]


def test_pods_of_nobody_are_refused_in_kubectls_words(world: World, call) -> None:
    world.write(**cluster([pod("train", owner=None)]))
    done = call(scheduler="kubernetes", node="g1", state="drained")
    assert done["failed"] and "use --force to override): default/train" in done["msg"]
    forced = [*scheduler_node_arguments(), "--force"]
    assert call(scheduler="kubernetes", node="g1", state="drained", drain_arguments=forced)["after"][
        "drained"
    ]


def scheduler_node_arguments() -> list[str]:
    return ["--ignore-daemonsets", "--delete-emptydir-data"]


def test_pods_that_stay_are_told(world: World, call) -> None:
    world.write(**cluster([pod("train", leaves_at=time.time() + 60)]))
    done = call(scheduler="kubernetes", node="g1", state="drained", wait_seconds=1)
    assert done["failed"] and "global timeout reached: 1s" in done["msg"]


@pytest.mark.parametrize(
    ("selector", "says"),
    [("rack=9", "must be one node of the cluster, and it is none"), ("rack!=9", "it is 2: g1, g2")],
)
def test_selector_must_mean_one_node(world: World, call, selector: str, says: str) -> None:
    world.write(**cluster())
    done = call(scheduler="kubernetes", selector=selector, state="drained")
    assert done["failed"] and says in done["msg"]
    assert world.verbs() == []


# --- both


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"state": "drained"}, "node is missing"),
        ({"node": "g1", "selector": "a=b"}, "Slurm has no labels"),
        ({"node": "--all", "state": "drained"}, "would be an option"),
        ({"scheduler": "kubernetes"}, "Give either node or selector"),
        ({"scheduler": "kubernetes", "node": "g1", "selector": "a=b"}, "Give either node or selector"),
        ({"node": "g1", "wait_seconds": -1}, "wait_seconds is -1"),
        ({"node": "g1", "interval_seconds": 0.1}, "interval_seconds is 0.1"),
        ({"node": "g1", "state": "drained", "reason": " "}, "reason is empty"),
        ({"node": "g1", "command": ["/no/such/scontrol"]}, "/no/such/scontrol cannot be run here"),
    ],
)
def test_bad_input_is_one_clear_error(world: World, call, arguments: dict[str, Any], says: str) -> None:
    world.write(**slurm())
    done = call(**arguments)
    assert done["failed"] and says in done["msg"]
    assert world.verbs() == []
