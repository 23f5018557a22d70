"""The plan of a bare node says all that is to be done, and making it does nothing."""

from __future__ import annotations

from typing import Any

import pytest
from kit import fingerprint
from kit.questions import gpus_on_the_bus
from kit.runs import Player

# What a bare node always needs; the contract's order.
BARE = [
    "toolkit.source",
    "host.nouveau_off",
    "docker.install",
    "toolkit.install",
    "toolkit.hold",
    "toolkit.runtime",
    "image.fetch",
    "driver.upgrade_guard",
    "driver.install",
    "driver.hold",
    "driver.load",
    "driver.persistenced",
]


@pytest.fixture(scope="module")
def planned(host: Any, site: Player) -> dict[str, Any]:
    """The report of the bare node."""
    return site("playbooks/plan.yml", limit=[host.backend.host]).node(host.backend.host)


def test_bare_node_needs_every_layer_in_order(planned: dict[str, Any]) -> None:
    assert planned["plan"]["status"] == "changes"
    assert [action["id"] for action in planned["plan"]["actions"] if action["id"] in BARE] == BARE


def test_every_action_says_why(planned: dict[str, Any]) -> None:
    silent = [
        a["id"] for a in planned["plan"]["actions"] if not (a["summary"] and a["reason"] and a["evidence"])
    ]
    assert silent == []


def test_observation_finds_the_gpus_without_a_driver(host: Any, planned: dict[str, Any]) -> None:
    stack = planned["gpu_stack"]
    assert stack["problems"] == []
    assert [gpu["pci"] for gpu in stack["host"]["gpus"]] == gpus_on_the_bus(host)
    assert all(gpu["name"] and gpu["arch"] for gpu in stack["host"]["gpus"])
    assert stack["driver"]["loaded"] is None


def test_chosen_driver_is_one_that_apt_can_install(host: Any, planned: dict[str, Any]) -> None:
    for package in planned["plan"]["driver"]["packages"]:
        assert package["version"] in host.check_output(f"apt-cache madison {package['name']}")


def test_plan_playbook_prints_the_plan_and_changes_nothing(host: Any, site: Player) -> None:
    before = fingerprint.take(host.check_output)
    run = site("playbooks/plan.yml")
    assert run.rc == 0, run.output
    assert run.changed(host.backend.host) == 0
    assert "driver.install" in run.output or "580" in run.output, run.output
    assert before.differences(fingerprint.take(host.check_output)) == []


def test_check_mode_of_the_whole_provision_changes_nothing(host: Any, site: Player) -> None:
    before = fingerprint.take(host.check_output)
    run = site("playbooks/provision.yml", check=True)
    assert run.rc == 0, run.output
    assert before.differences(fingerprint.take(host.check_output)) == []
