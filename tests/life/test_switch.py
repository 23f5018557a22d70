"""Another branch, flavour, origin or version: when it is asked for, in one transaction, and back again.

One node that had a driver before gpuready lives through it, in the order of the tests, and is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kit.fingerprint import Fingerprint
from kit.questions import driver_versions
from living import Living, driver_actions, driver_conflicts

FOREIGN = "535.274.02"
#: Tests of this file that have passed in this run.
PASSED: set[str] = set()


@pytest.fixture(autouse=True)
def in_order(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test goes on where the one before it left the node: say so, where that one has not passed."""
    failed = request.session.testsfailed
    order = [
        name for name, item in vars(request.module).items() if name.startswith("test_") and callable(item)
    ]
    before = order[: order.index(request.function.__name__)]
    if before and before[-1] not in PASSED:
        pytest.fail(
            f"this goes on where {before[-1]} ends, which has not passed: run the whole file", pytrace=False
        )
    yield
    if request.session.testsfailed == failed:
        PASSED.add(request.function.__name__)


class Owned:
    """The node, and how it was before gpuready came."""

    def __init__(self, living: Living) -> None:
        self.living = living
        self.before: Fingerprint = living.node.fingerprint().lasting()


@pytest.fixture(scope="module")
def owned(new: Callable[..., Living]) -> Owned:
    """A node on which its owner has installed and loaded a driver, and held a part of it."""
    living = new(gpus="t4")
    living.node.sh(
        "apt-get -y -qq --no-install-recommends install linux-modules-nvidia-535-server-$(uname -r) "
        "nvidia-headless-no-dkms-535-server nvidia-utils-535-server && modprobe -a nvidia nvidia_uvm && "
        "apt-mark hold nvidia-utils-535-server"
    )
    assert driver_versions(living.node).loaded == FOREIGN
    return Owned(living)


def switch(living: Living, *, change: str, **wishes: Any) -> dict[str, Any]:
    """One change of the driver: one transaction, no reboot, and then all is settled. The plan that did it."""
    node = living.node
    transactions, boot = node.apt_transactions(), node.boot_id()
    run = living.converge(**wishes)
    plan = run.plan(living.name)
    assert plan["driver"]["change"] == change, plan["driver"]
    assert node.apt_transactions() == transactions + 1
    assert node.boot_id() == boot
    assert driver_versions(node).loaded == plan["driver"]["version"]
    living.is_settled(**wishes)
    return plan


def only_branch(living: Living, branch: str) -> None:
    """Nothing of another branch is left."""
    other = [
        name
        for name, version in living.packages().items()
        if not name.startswith("linux-") and not version.startswith(f"{branch}.")
    ]
    assert other == []


def test_driver_that_suits_stays_whoever_installed_it(owned: Owned) -> None:
    plan = owned.living.plan()
    assert driver_conflicts(plan) == []
    assert plan["driver"]["keeps_installed"] is True
    assert "driver.install" not in driver_actions(plan)


def test_owners_hold_stands_until_it_is_taken_back(owned: Owned) -> None:
    """Part of pain 13: what somebody else holds is not gpuready's to move."""
    living = owned.living
    living.refuse("nvidia-utils-535-server", nvidia_driver_branch="580")
    assert "held" in str(driver_conflicts(living.plan(nvidia_driver_branch="580")))
    living.node.sh("apt-mark unhold nvidia-utils-535-server")
    owned.before = living.node.fingerprint().lasting()


def test_branch_is_switched_in_one_transaction(owned: Owned) -> None:
    living = owned.living
    plan = switch(living, change="switch", nvidia_driver_branch="580")
    assert plan["driver"]["previous"]["version"] == FOREIGN
    only_branch(living, "580")
    record = living.observed()["driver"]["record"]
    assert record["original"]["version"] == FOREIGN
    assert record["unverified"]["version"] == plan["driver"]["version"]


def test_downgrade_by_pin_takes_the_whole_closure(owned: Owned) -> None:
    plan = switch(owned.living, change="downgrade", nvidia_driver_version="580.82.07")
    assert plan["driver"]["version"] == "580.82.07"
    assert {
        version.partition("-")[0]
        for name, version in owned.living.packages().items()
        if not name.startswith("linux-")
    } == {"580.82.07"}


def test_driver_stays_when_the_pin_is_gone(owned: Owned) -> None:
    plan = owned.living.plan()
    assert plan["driver"]["version"] == "580.82.07"
    assert "driver.install" not in driver_actions(plan)


def test_flavour_is_switched_in_one_transaction(owned: Owned) -> None:
    living = owned.living
    flavour = "open" if living.observed()["driver"]["loaded"]["flavour"] == "proprietary" else "proprietary"
    switch(living, change="switch", nvidia_driver_version="580.82.07", nvidia_driver_flavour=flavour)
    assert living.observed()["driver"]["loaded"]["flavour"] == flavour


def test_origin_is_switched_and_the_two_never_mix(owned: Owned) -> None:
    living = owned.living
    plan = switch(living, change="switch", nvidia_driver_source="cuda_repo", nvidia_driver_branch="580")
    assert plan["driver"]["origin"] == "NVIDIA"
    installed = living.node.sh("apt-cache policy $(dpkg-query -W -f '${Package}\\n' '*nvidia*580*')")
    assert "-server" not in " ".join(living.packages()), installed
    # An upgrade by hand does not mix them either: apt's candidates of the other origin are pinned away.
    said = living.node.sh("apt-get -s dist-upgrade; apt-get -s install nvidia-utils-580-server 2>&1 || true")
    assert "Inst nvidia-utils-580-server" not in said


def test_driver_of_another_origin_stays_when_nothing_is_asked(owned: Owned) -> None:
    plan = owned.living.plan()
    assert plan["driver"]["source"] == "cuda_repo"
    assert "driver.install" not in driver_actions(plan)


def test_origin_is_switched_back(owned: Owned) -> None:
    living = owned.living
    plan = switch(living, change="switch", nvidia_driver_source="ubuntu", nvidia_driver_branch="580")
    assert plan["driver"]["origin"] == "Ubuntu"
    assert "nvidia-utils-580-server" in living.packages()


def test_removal_brings_the_owners_driver_back(owned: Owned) -> None:
    """After three switches of the branch, flavour and origin."""
    living = owned.living
    run = living.play(entry_point="remove")
    assert run.rc == 0, run.output
    assert owned.before.differences(living.node.fingerprint().lasting()) == []
    assert driver_versions(living.node).loaded == FOREIGN
