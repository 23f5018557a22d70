"""What stands in apt's way: locks, holds, half-finished work, versions that are gone, mixed packages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from kit.questions import driver_versions
from living import Living, driver_actions, driver_conflicts

LOCK = "/var/lib/dpkg/lock-frontend"
#: Somebody's apt that takes its time; its unit has a name, so that it can be ended.
HOLD_LOCK = (
    "systemd-run --quiet --unit=life-lock python3 -c 'import fcntl, time; "
    f'file = open("{LOCK}", "w"); fcntl.lockf(file, fcntl.LOCK_EX); '
    'open("/root/locked", "w"); time.sleep(600)'
    "'"
)
#: dpkg's own hook: the second half of an installation, the configuration, never comes to an end.
STALL = """\
pre-invoke=if [ $DPKG_HOOK_ACTION = configure ]; then touch /root/stalled; sleep 600; fi
"""


@pytest.fixture
def bare(new: Callable[..., Living]) -> Iterator[Living]:
    """A bare node for one test."""
    living = new()
    yield living
    living.node.down()


@pytest.fixture
def locked(bare: Living) -> Iterator[Living]:
    """A bare node on which somebody holds apt's lock."""
    bare.node.sh(HOLD_LOCK)
    bare.node.wait(lambda: bare.node.holds("test -e /root/locked"), "hold the lock", 10)
    yield bare
    bare.node.sh("systemctl stop life-lock.service", check=False)


def test_pain_14_lock_of_another_is_waited_for(locked: Living) -> None:
    release = threading.Timer(6, locked.node.sh, args=["systemctl stop life-lock.service"])
    release.start()
    started = time.monotonic()
    locked.converge()
    release.join()
    assert time.monotonic() - started > 6
    locked.is_settled()


def test_pain_14_lock_that_is_not_released_is_one_clear_error(locked: Living) -> None:
    run = locked.play(nvidia_driver_apt_lock_timeout_seconds=3)
    assert run.rc != 0
    error = run.node(locked.name)["error"]
    assert "nvidia_driver_apt_lock_timeout_seconds" in error, error
    assert locked.packages() == {}


def test_pain_08_pinned_version_that_has_vanished_is_named_with_those_that_are_there(bare: Living) -> None:
    vanish(bare)
    (conflict,) = driver_conflicts(bare.plan(nvidia_driver_version="580.82.07"))
    assert "580.82.07" in conflict["what"]
    assert "580.95.05" in str(conflict), "what there is instead"
    bare.refuse("580.82.07", nvidia_driver_version="580.82.07")


def vanish(living: Living) -> None:
    """The archive keeps the newest version of everything only, from now on."""
    living.node.sh(
        "sed -i 's/^Suites: jammy$/Suites: jammy-latest/' /etc/apt/sources.list.d/ubuntu.sources "
        "&& apt-get -qq update"
    )


def test_pain_08_installed_version_that_has_vanished_stays(bare: Living) -> None:
    bare.converge(nvidia_driver_version="580.82.07")
    vanish(bare)
    bare.is_settled(nvidia_driver_version="580.82.07")
    bare.is_settled()


def test_pain_13_package_that_somebody_holds_is_named_and_nothing_changes(bare: Living) -> None:
    node = bare.node
    node.sh("apt-get -y -qq --no-install-recommends install nvidia-utils-535-server")
    node.sh("apt-mark hold nvidia-utils-535-server")
    plan = bare.plan(nvidia_driver_branch="580")
    (conflict,) = driver_conflicts(plan)
    assert conflict["id"] == "driver.held"
    assert "apt-mark unhold nvidia-utils-535-server" in str(conflict["options"])
    bare.refuse("nvidia-utils-535-server", nvidia_driver_branch="580")


def test_pain_13_mixed_packages_of_two_branches_become_one_in_one_transaction(bare: Living) -> None:
    node = bare.node
    # Half a driver of one branch, and one package of another that somebody tried out.
    node.sh(
        "apt-get -y -qq --no-install-recommends install nvidia-utils-535-server "
        "linux-modules-nvidia-580-server-open-$(uname -r)"
    )
    transactions = node.apt_transactions()
    bare.converge(nvidia_driver_branch="580")
    assert node.apt_transactions() == transactions + 1
    assert not [name for name in bare.packages() if "535" in name]
    bare.is_settled(nvidia_driver_branch="580")


def test_pain_13_gpureadys_own_holds_are_not_in_the_way(bare: Living) -> None:
    bare.converge(nvidia_driver_branch="535")
    transactions = bare.node.apt_transactions()
    bare.converge(nvidia_driver_branch="580")
    assert bare.node.apt_transactions() == transactions + 1
    bare.is_settled(nvidia_driver_branch="580")


def test_power_cut_in_the_middle_of_apt_is_finished_by_the_next_run(bare: Living) -> None:
    node = bare.node
    node.write("/etc/dpkg/dpkg.cfg.d/life-stall", STALL)
    run = threading.Thread(target=bare.play, daemon=True)
    run.start()
    node.wait(lambda: node.holds("test -e /root/stalled"), "come to configuring packages", 60)
    node.cut_power()
    node.sh("rm /etc/dpkg/dpkg.cfg.d/life-stall /root/stalled")
    run.join(timeout=120)
    assert "iU" in node.sh("dpkg -l '*nvidia*' | cut -c 1-3"), "unpacked, but not configured"
    observed = bare.runs("playbooks/plan.yml").node(bare.name)
    assert observed["gpu_stack"]["apt"]["dpkg_interrupted"] is True
    assert "apt.finish_dpkg" in [action["id"] for action in observed["plan"]["actions"]]
    bare.converge()
    assert driver_versions(node).agree
    bare.is_settled()
    assert driver_actions(bare.plan()) == []
