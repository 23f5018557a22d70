"""What people complain about most in other roles (docs/pains.md), as far as no other file is about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kit import ROOT
from kit.questions import driver_packages, driver_versions
from living import Living, driver_actions, driver_conflicts

MIRROR = "http://gpulab-mirror{}/compute/cuda/repos/$(DISTRO)/$(ARCH)"


@pytest.fixture
def one(new: Callable[..., Living], request: pytest.FixtureRequest) -> Iterator[Living]:
    """A node for one test, which says which one by :func:`on`."""
    living = new(**request.function.node)
    yield living
    living.node.down()


def on(**hardware: Any) -> Callable[[Any], Any]:
    """Say on which node a test plays."""

    def mark(function: Any) -> Any:
        function.node = hardware
        return function

    return mark


def cuda_repo(path: str, *keys: str) -> dict[str, Any]:
    """The wishes for the CUDA repository at a place of the mirror, with the keys that are trusted."""
    archives = json.loads((ROOT / ".lab" / "lab.json").read_text(encoding="utf-8"))["archives"]
    url = MIRROR.format(path)
    return {
        "nvidia_driver_source": "cuda_repo",
        "nvidia_driver_branch": "580",
        "nvidia_driver_repo_url": url,
        "nvidia_driver_repo_key_url": f"{url}/3bf863cc.pub",
        "nvidia_driver_repo_key_fingerprint": [archives[key]["fingerprint"] for key in keys],
    }


@on(gpus="t4")
def test_pain_06_key_that_was_changed_is_refused_until_its_fingerprint_is_known(one: Living) -> None:
    one.converge(**cuda_repo("", "cuda"))
    one.is_settled(**cuda_repo("", "cuda"))
    # The archive moves to another key: neither taken on trust nor an obscure error of apt.
    rotated = cuda_repo("/rotated", "cuda-rotated")["nvidia_driver_repo_key_fingerprint"][0]
    run = one.refuse("nvidia_driver_repo_key_fingerprint", **cuda_repo("/rotated", "cuda"))
    assert rotated in run.said, "the fingerprint that the new key has"
    # Both are accepted while the change lasts.
    both = cuda_repo("/rotated", "cuda", "cuda-rotated")
    one.converge(**both)
    one.is_settled(**both)
    one.node.sh("apt-get update 2>&1 | tee /dev/stderr | grep -q rotated")
    assert "apt-key" not in one.node.sh("grep -rl apt-key /etc/apt || true")


@on(gpus="t4", os="ubuntu-26.04")
def test_pain_07_new_release_gets_what_its_own_apt_offers(one: Living) -> None:
    """No default that was right on an older release: apt is asked, and the error lists what it has."""
    plan = one.plan()
    driver = plan["driver"]
    offered = one.node.sh(f"apt-cache madison nvidia-utils-{driver['branch']}-server")
    assert driver["package_version"] in offered
    (conflict,) = driver_conflicts(one.plan(nvidia_driver_branch="535"))
    assert "535" in conflict["what"]
    assert driver["branch"] in str(conflict["options"]), conflict


@on(gpus="b200", os="ubuntu-24.04")
def test_pain_09_modules_of_the_wrong_flavour_are_replaced(one: Living) -> None:
    """Blackwell with proprietary modules: they load, and no GPU is there."""
    wishes = {"gpuready_workloads": ["pytorch-2.9-cu128"]}
    one.node.sh(
        "apt-get -y -qq --no-install-recommends install linux-modules-nvidia-580-server-$(uname -r) "
        "nvidia-headless-no-dkms-580-server nvidia-utils-580-server && modprobe -a nvidia nvidia_uvm"
    )
    assert "No devices" in one.node.sh("nvidia-smi 2>&1 || true")
    plan = one.plan(**wishes)
    assert driver_conflicts(plan) == []
    assert (plan["driver"]["flavour"], plan["driver"]["change"]) == ("open", "switch")
    one.converge(**wishes)
    one.is_settled(**wishes)
    assert "NVIDIA B200" in one.node.sh("nvidia-smi -L")


@on(gpus="h100,h100", os="ubuntu-24.04", arguments=["--nvswitches", "1"])
def test_pain_12_fabric_manager_that_is_missing_or_of_another_version_is_seen(one: Living) -> None:
    one.converge()
    version = one.loaded()
    node = one.node
    (package,) = (name for name in driver_packages(node) if name.startswith("nvidia-fabricmanager"))
    node.sh(f"apt-get -y -qq --allow-change-held-packages purge {package}")
    assert "driver.install" in driver_actions(one.plan())
    one.converge()
    assert driver_packages(node)[package].startswith(str(version))
    assert node.holds("systemctl is-active --quiet nvidia-fabricmanager.service")
    # It moves with the driver, in the same transaction.
    one.converge(nvidia_driver_version="580.82.07")
    assert driver_packages(node)[package].startswith("580.82.07")
    assert driver_versions(node).loaded == "580.82.07"
    assert node.holds("systemctl is-active --quiet nvidia-fabricmanager.service")
    node.sh("systemctl stop nvidia-fabricmanager.service")
    assert driver_actions(one.plan()) == ["driver.fabricmanager"]
    one.converge()
    one.is_settled()
