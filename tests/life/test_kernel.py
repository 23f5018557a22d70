"""Kernels come and go: the module is there before the reboot that needs it, or the plan says it will not be.

What the lab's archives have of each kernel is in tests/lab/simulator/releases.json.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kit.questions import driver_versions
from living import Living, driver_actions, driver_conflicts

OLD = "5.15.0-151-generic"  # its headers and modules have left the archive
RUNNING = "5.15.0-157-generic"
NEW = "5.15.0-161-generic"  # with all that belongs to it, in jammy-proposed
BARE = "5.15.0-164-generic"  # nothing but the image

PROPOSED = (
    "sed 's/^Suites: jammy$/Suites: jammy-proposed/' /etc/apt/sources.list.d/ubuntu.sources "
    "> /etc/apt/sources.list.d/proposed.sources && apt-get -qq update"
)


def install(living: Living, *packages: str) -> None:
    """What a person or unattended-upgrades installs."""
    living.node.sh(f"apt-get -y -qq --no-install-recommends install {' '.join(packages)}")


def kernel(living: Living) -> str:
    """The running kernel."""
    return living.node.sh("uname -r").strip()


def boots_into(living: Living, release: str) -> None:
    """Reboot; the driver must be there at once, without anybody's help."""
    living.node.reboot()
    assert kernel(living) == release
    versions = driver_versions(living.node)
    assert versions.agree, versions


@pytest.fixture(scope="module")
def living(new: Callable[..., Living]) -> Living:
    """A node with a driver, whose kernel is then upgraded; the tests of pain 3 build on each other."""
    living = new()
    living.converge()
    living.is_settled()
    return living


def test_pain_03_new_kernel_gets_its_module_before_the_reboot(living: Living) -> None:
    living.node.sh(PROPOSED)
    install(living, f"linux-image-{NEW}")
    plan = living.plan()
    assert driver_conflicts(plan) == []
    assert plan["driver"]["change"] == "complete"
    (action,) = (action for action in plan["actions"] if action["id"] == "driver.install")
    assert NEW in str(action), action
    living.converge()
    assert kernel(living) == RUNNING, "nobody reboots for that"
    assert living.observed()["driver"]["on_disk_next_boot"]["version"] == living.loaded()
    boots_into(living, NEW)
    living.is_settled()


def test_pain_03_kernel_without_a_module_is_seen_before_the_reboot(living: Living) -> None:
    """Nothing needs a reboot here, so it is a warning; nobody is kept from working."""
    install(living, f"linux-image-{BARE}")
    plan = living.plan()
    assert driver_conflicts(plan) == []
    assert any(BARE in note for note in plan["notes"]), plan["notes"]
    living.is_settled()


def test_pain_03_reboot_into_a_kernel_without_a_module_is_refused(living: Living) -> None:
    """A planned reboot would lose the GPU: a conflict, with ways out."""
    node = living.node
    # The loaded driver is another one than the installed one, and only a reboot may bring them together.
    wishes: dict[str, Any] = {"nvidia_driver_reload_allowed": False}
    node.sh("apt-mark unhold $(apt-mark showhold) >/dev/null")
    node.sh(
        "apt-get -y -qq --no-install-recommends install linux-modules-nvidia-570-server-open-$(uname -r) "
        "nvidia-headless-no-dkms-570-server-open nvidia-utils-570-server"
    )
    plan = living.plan(**wishes)
    conflicts = {conflict["id"]: conflict for conflict in driver_conflicts(plan)}
    assert "driver.next_boot_without_module" in conflicts, (driver_actions(plan), plan["notes"])
    conflict = conflicts["driver.next_boot_without_module"]
    assert BARE in conflict["what"]
    assert f"linux-image-{BARE}" in str(conflict["options"]), conflict["options"]
    living.refuse(BARE, **wishes)
    node.sh(f"apt-get -y -qq purge linux-image-{BARE}")
    assert driver_conflicts(living.plan(**wishes)) == []


def test_pain_14_metapackage_brings_the_next_kernel_and_a_useless_reboot_is_not_repeated(
    new: Callable[..., Living],
) -> None:
    """The running kernel's headers and modules have left the archive; the metapackage brings the next one."""
    living = new(gpus="t4")
    node = living.node
    install(living, f"linux-image-{OLD}")
    node.sh(
        f"apt-get -y -qq purge linux-image-{RUNNING} linux-image-generic && systemctl reboot", check=False
    )
    node.wait(lambda: kernel_or_none(living) == OLD, f"boot {OLD}")
    checked = living.play(check=True)
    assert checked.rc == 0, checked.output
    transactions = node.apt_transactions()
    run = living.converge()
    assert driver_actions(checked.plan(living.name)) == driver_actions(run.plan(living.name))
    driver = run.plan(living.name)["driver"]
    assert (driver["install"], driver["kernel"]) == ("metapackage", RUNNING)
    assert node.apt_transactions() == transactions + 1
    assert "host.reboot" in driver_actions(living.plan())
    reboot_does_not_help(living)
    living.reboot_if_planned()
    assert kernel(living) == RUNNING
    living.converge()
    living.is_settled()


def reboot_does_not_help(living: Living) -> None:
    """The boot menu is set to the old kernel, so that a reboot changes nothing: it is not repeated."""
    living.node.write("/etc/gpulab/boot-kernel", f"{OLD}\n")
    living.reboot_if_planned()
    boot = living.node.boot_id()
    assert kernel(living) == OLD
    again = living.play(role="host_reboot")
    assert again.rc != 0, again.output
    assert "would be a loop" in again.said, again.output
    assert living.node.boot_id() == boot
    # A person mends it, and reboots.
    living.node.sh("rm /etc/gpulab/boot-kernel /var/lib/gpuready/reboots.json")


def kernel_or_none(living: Living) -> str:
    """The running kernel, or nothing while the node is down."""
    return living.node.sh("systemctl is-active --quiet multi-user.target && uname -r", check=False).strip()
