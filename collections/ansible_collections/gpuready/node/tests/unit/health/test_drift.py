"""What the plan wants, held against the node: nothing drifts after a run, and every damage has its name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from applied import TODAY, converge
from gpuready.catalog import load_catalog
from gpuready.health.drift import drift
from gpuready.planner import plan
from observed_nodes import Node, bare

WISHES: dict[str, Any] = {"gpu_health_enabled": True}
CONFIG = "/etc/gpuready/health/health.json"


def config_of(planned: Node) -> dict[str, Any]:
    return json.loads(next(row["content"] for row in planned["health"]["files"] if row["path"] == CONFIG))


@pytest.fixture(scope="module")
def node() -> Node:
    return converge(bare("20b5", docker="28.5.1-0ubuntu1"), **WISHES)


@pytest.fixture(scope="module")
def expected(node: Node) -> dict[str, Any]:
    return config_of(plan(node, WISHES, load_catalog(), host="node", today=TODAY))["expected"]


def drifted(expected: dict[str, Any], node: Node, verified: dict[str, str | None] | None = None) -> list[str]:
    return [row["what"] for row in drift(expected, node, verified) if row["drifted"]]


def test_a_converged_node_has_not_drifted(node: Node, expected: dict[str, Any]) -> None:
    rows = drift(expected, node)
    assert [row for row in rows if row["drifted"]] == []
    assert {row["layer"] for row in rows} == {"host", "container_runtime", "framework"}
    assert len(rows) >= 12


def _packages(node: Node) -> list[Node]:
    return node["driver"]["packages"]


def _toolkit(node: Node) -> Node:
    return node["container_runtime"]["toolkit"]


Damage = Callable[[Node], Any]
DAMAGES: list[tuple[str, Damage, list[str]]] = [
    ("GPU gone", lambda n: n["host"].update(gpus=[]), ["gpus"]),
    ("GPU given away", lambda n: n["host"]["gpus"][0].update(driver_bound="vfio-pci"), ["gpus"]),
    ("another driver loaded", lambda n: n["driver"]["loaded"].update(version="575.1"), ["driver_loaded"]),
    ("driver unloaded", lambda n: n["driver"].update(loaded=None), ["driver_loaded"]),
    ("another flavour", lambda n: n["driver"]["loaded"].update(flavour="proprietary"), ["driver_flavour"]),
    ("another module on disk", lambda n: n["driver"]["on_disk"].update(version="575.1"), ["driver_on_disk"]),
    (
        "other libraries",
        lambda n: n["driver"]["userspace"].update(version="580.105.08"),
        ["driver_userspace"],
    ),
    ("another package", lambda n: _named(n, "nvidia-utils").update(version="580.1-1"), ["driver_packages"]),
    ("package half gone", lambda n: _named(n, "nvidia-utils").update(status="unpacked"), ["driver_packages"]),
    ("package not held", lambda n: _named(n, "nvidia-utils").update(held=False), ["driver_holds"]),
    ("persistenced stopped", lambda n: n["driver"]["persistenced"].update(active=False), ["persistenced"]),
    ("dockerd away", lambda n: n["container_runtime"]["docker"]["live"].update(reachable=False), ["docker"]),
    (
        "runtime unknown",
        lambda n: n["container_runtime"]["docker"]["live"].update(runtimes=["runc"]),
        ["docker_runtime"],
    ),
    ("another toolkit", lambda n: _toolkit(n)["packages"][0].update(version="1.0"), ["toolkit_packages"]),
    ("hook not found", lambda n: _toolkit(n).update(hook_on_dockerd_path=False), ["toolkit_hook"]),
    ("CDI stale", lambda n: n["container_runtime"]["cdi"]["specs"][0].update(stale=True), ["cdi"]),
    ("CDI gone", lambda n: n["container_runtime"]["cdi"].update(specs=[]), ["cdi"]),
    (
        "image gone",
        lambda n: n["framework"].update(images=[]),
        ["image:tensorflow/tensorflow:2.9.0-gpu"],
    ),
]


def _named(node: Node, prefix: str) -> Node:
    return next(row for row in _packages(node) if row["name"].startswith(prefix))


@pytest.mark.parametrize(("damage", "what"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_a_damage_has_its_name(node: Node, expected: dict[str, Any], damage: Damage, what: list[str]) -> None:
    changed = copy.deepcopy(node)
    damage(changed)
    assert drifted(expected, changed) == what


def test_an_image_is_the_one_that_was_verified(node: Node, expected: dict[str, Any]) -> None:
    (image,) = node["framework"]["images"]
    assert drifted(expected, node, {image["ref"]: image["id"]}) == []
    assert drifted(expected, node, {image["ref"]: "sha256:former"}) == ["image:" + image["ref"]]


def test_a_kernel_without_module_is_told_before_its_boot(node: Node, expected: dict[str, Any]) -> None:
    changed = copy.deepcopy(node)
    changed["host"]["kernel"]["next_boot"] = "5.15.0-160-generic"
    assert drifted(expected, changed) == ["driver_next_boot"]
    changed["driver"]["on_disk_next_boot"] = {"version": expected["driver"]["version"]}
    assert drifted(expected, changed) == []


def test_a_fabric_manager_must_be_the_drivers(node: Node, expected: dict[str, Any]) -> None:
    changed = copy.deepcopy(node)
    changed["driver"]["fabricmanager"] = {
        "installed": True,
        "version": "575.1",
        "enabled": True,
        "active": True,
    }
    assert drifted(expected, changed) == ["fabricmanager"]


def test_what_could_not_be_observed_has_not_drifted(node: Node, expected: dict[str, Any]) -> None:
    changed = copy.deepcopy(node)
    changed["problems"] = [
        {"probe": "driver.loaded", "error": "no"},
        {"probe": "driver.on_disk", "error": "no"},
    ]
    changed["driver"].update(loaded=None, on_disk=None, packages=None)
    changed["host"]["gpus"] = None
    changed["framework"]["images"] = None
    assert drifted(expected, changed) == []


def test_environments_and_workbenches_are_looked_at() -> None:
    expected = {
        "venvs": [{"name": "research", "path": "/opt/gpuready/venvs/research", "hash": "abc"}],
        "units": ["gpuready-workbench-alice.service"],
    }
    row = {"path": "/opt/gpuready/venvs/research", "complete": True, "stamp": {"hash": "abc"}}
    whole: Node = {
        "framework": {"venvs": [row]},
        "application": {"units": {"gpuready-workbench-alice.service": {"active": True}}},
        "container_runtime": {},
    }
    assert drifted(expected, whole) == []
    row["stamp"] = {"hash": "other"}
    whole["application"]["units"] = {}
    assert drifted(expected, whole) == ["venv:research", "unit:gpuready-workbench-alice.service"]
    whole["framework"]["venvs"] = []
    assert drifted(expected, whole)[0] == "venv:research"
