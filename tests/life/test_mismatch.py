"""Driver and library of different versions: what unattended upgrades and people's hands leave behind.

One node lives through it; the tests build on each other in the order in which they stand here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kit.questions import driver_versions, held_packages
from living import Living, driver_actions

OLD = "580.82.07"
NEW = "580.95.05"
#: Holds a GPU as a job does. The lab's device has no driver behind it, and opens as a mere path only.
GPU_JOB = """\
#!/usr/bin/python3
import os, time
os.open("/dev/nvidia0", os.O_PATH)
time.sleep(900)
"""
#: What an upgrade behind gpuready's back is.
UPGRADE = (
    "apt-mark unhold $(apt-mark showhold) >/dev/null; "
    "apt-get -y -qq -o Dpkg::Use-Pty=0 --only-upgrade install "
    "$(dpkg-query -W -f '${Package}\\n' '*nvidia*580*')"
)


@pytest.fixture(scope="module")
def living(new: Callable[..., Living]) -> Living:
    """A node with the older of two drivers of a branch."""
    living = new()
    living.converge(nvidia_driver_version=OLD)
    assert living.loaded() == OLD
    return living


@pytest.fixture
def mismatched(living: Living) -> Iterator[Living]:
    """Whatever was there: the older driver is loaded, the newer one is installed."""
    if living.loaded() != OLD:
        living.converge(nvidia_driver_version=OLD)
    living.node.sh(UPGRADE)
    versions = driver_versions(living.node)
    assert (versions.loaded, versions.on_disk, versions.userspace) == (OLD, NEW, NEW)
    return living


def would_upgrade(living: Living) -> str:
    """What unattended-upgrades would do now, in its own words."""
    return living.node.sh("unattended-upgrade --dry-run --debug 2>&1", timeout=300)


def test_pain_01_unattended_upgrades_leave_the_driver_alone(living: Living) -> None:
    assert "nvidia-utils-580-server" in held_packages(living.node)
    said = would_upgrade(living)
    assert "Packages that will be upgraded: \n" in said or "No packages found that can be upgraded" in said, (
        said
    )
    # The hold alone and the guard alone do it as well, and without both the driver would be upgraded.
    living.node.sh("apt-mark unhold $(apt-mark showhold)")
    guarded = would_upgrade(living)
    assert "nvidia" not in upgraded(guarded), guarded
    living.node.sh("mv /etc/apt/apt.conf.d/52gpuready-nvidia /root/")
    bare = would_upgrade(living)
    assert "nvidia-utils-580-server" in upgraded(bare), bare
    again = living.converge(nvidia_driver_version=OLD)
    assert driver_actions(again.plan(living.name)) == ["driver.upgrade_guard", "driver.hold"]
    living.is_settled(nvidia_driver_version=OLD)


def upgraded(said: str) -> str:
    """The packages of the line that says what is upgraded."""
    line = [line for line in said.splitlines() if line.startswith("Packages that will be upgraded:")]
    return line[-1].partition(":")[2] if line else ""


def test_pain_01_mismatch_is_cured_without_a_reboot(mismatched: Living) -> None:
    node = mismatched.node
    boot = node.boot_id()
    assert "mismatch" in node.sh("nvidia-smi 2>&1 || true")
    plan = mismatched.plan()
    assert "driver.reload" in driver_actions(plan)
    assert "host.reboot" not in driver_actions(plan)
    run = mismatched.converge()
    assert "driver.reload" in driver_actions(run.plan(mismatched.name))
    assert driver_versions(node).loaded == NEW
    assert node.boot_id() == boot
    mismatched.is_settled()


def test_mismatch_is_left_to_a_reboot_where_reloading_is_not_allowed(mismatched: Living) -> None:
    plan = mismatched.plan(nvidia_driver_reload_allowed=False)
    assert "driver.reload" not in driver_actions(plan)
    assert "host.reboot" in driver_actions(plan)


def test_reboot_that_is_not_allowed_is_not_in_the_plan_but_said(mismatched: Living) -> None:
    plan = mismatched.plan(nvidia_driver_reload_allowed=False, host_reboot_allowed=False)
    assert "host.reboot" not in driver_actions(plan)
    assert plan["status"] == "changes"
    assert plan["reboot"]["needed"] is True
    assert plan["reboot"]["allowed"] is False
    assert plan["reboot"]["reason"]


def test_driver_in_use_waits_for_a_reboot_that_names_who_uses_it(mismatched: Living) -> None:
    node = mismatched.node
    boot = node.boot_id()
    node.write("/root/gpu-job", GPU_JOB)
    node.sh("chmod +x /root/gpu-job && systemd-run --quiet --unit=life-gpu-job /root/gpu-job")
    run = mismatched.converge()
    plan = mismatched.plan()
    assert "driver.reload" not in driver_actions(plan)
    (reboot,) = (action for action in plan["actions"] if action["id"] == "host.reboot")
    assert "gpu-job" in str(reboot["evidence"]), reboot
    assert node.holds("systemctl is-active --quiet life-gpu-job"), "what uses the GPU goes on"
    assert driver_versions(node).loaded == OLD, run.output
    mismatched.reboot_if_planned()
    assert node.boot_id() != boot
    mismatched.converge()
    assert driver_versions(node).loaded == NEW
    mismatched.is_settled()
