"""The driver: one version everywhere, kept in place, and answering."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from kit.questions import driver_packages, gpus_on_the_bus, held_packages, installed_packages

pytestmark = pytest.mark.nvidia_driver
VERSION = re.compile(r"\b(\d{3}\.\d+(?:\.\d+)?)\b")


def test_loaded_module_equals_module_on_disk_and_userspace(host: Any) -> None:
    loaded = VERSION.search(host.file("/proc/driver/nvidia/version").content_string)
    assert loaded, "the nvidia module is not loaded"
    on_disk = host.check_output("modinfo -F version nvidia").strip()
    libraries = host.check_output(
        "ls /usr/lib/*-linux-gnu/libcuda.so.* /usr/lib/*-linux-gnu/libnvidia-ml.so.*"
    )
    userspace = set(VERSION.findall(libraries))
    assert {loaded.group(1), on_disk} | userspace == {loaded.group(1)}


@pytest.mark.parametrize("module", ["nvidia", "nvidia_uvm"])
def test_module_is_loaded(host: Any, module: str) -> None:
    assert host.file(f"/sys/module/{module}").exists


def test_nvidia_smi_lists_every_gpu_on_the_bus(host: Any) -> None:
    rows = host.check_output(
        "nvidia-smi --query-gpu=index,name,driver_version --format=csv,noheader"
    ).splitlines()
    assert len(rows) == len(gpus_on_the_bus(host)) > 0


def test_driver_packages_are_of_one_version(host: Any) -> None:
    versions = {
        match.group(1)
        for name, version in driver_packages(host).items()
        if not name.startswith("linux-") and (match := VERSION.match(version))
    }
    assert len(versions) == 1, driver_packages(host)


def test_driver_packages_are_held(host: Any, wished: Callable[[str, Any], Any]) -> None:
    if not wished("nvidia_driver_hold_enabled", True):
        pytest.skip("the inventory does not want holds")
    # A metapackage names no kernel: held, it would keep the next kernel's module away.
    held = {
        name
        for name in driver_packages(host)
        if not name.startswith("linux-modules-nvidia-") or re.search(r"-\d+\.\d+\.\d+-", name)
    }
    assert held
    assert held - held_packages(host) == set()


def guard_patterns(host: Any) -> list[re.Pattern[str]]:
    """The name patterns that unattended-upgrades must leave alone, as apt itself reads its configuration."""
    dump = host.check_output("apt-config dump Unattended-Upgrade::Package-Blacklist")
    return [re.compile(pattern) for pattern in re.findall(r'Package-Blacklist::\s+"([^"]+)"', dump)]


def test_unattended_upgrades_leave_the_driver_alone(host: Any, wished: Callable[[str, Any], Any]) -> None:
    if not wished("nvidia_driver_upgrade_guard_enabled", True):
        pytest.skip("the inventory does not want the guard")
    patterns = guard_patterns(host)
    # The modules of the kernels come with the kernels, at the driver's version.
    ours = [name for name in driver_packages(host) if not name.startswith("linux-")]
    unguarded = [name for name in ours if not any(p.match(name) for p in patterns)]
    assert unguarded == []


def test_unattended_upgrades_still_update_everything_else(
    host: Any, wished: Callable[[str, Any], Any]
) -> None:
    if not wished("nvidia_driver_upgrade_guard_enabled", True):
        pytest.skip("the inventory does not want the guard")
    ours = [p for p in guard_patterns(host) if "nvidia" in p.pattern]
    caught = [
        name for name in installed_packages(host) if "nvidia" not in name and any(p.match(name) for p in ours)
    ]
    assert caught == []


def test_persistenced_runs_now_and_after_a_boot(host: Any, wished: Callable[[str, Any], Any]) -> None:
    if not wished("nvidia_driver_persistenced_enabled", True):
        pytest.skip("the inventory does not want persistenced")
    service = host.service("nvidia-persistenced")
    assert service.is_running
    # Ubuntu's unit is static: udev pulls it in. Elsewhere it must be enabled.
    state = host.run("systemctl is-enabled nvidia-persistenced").stdout.strip()
    assert state in ("enabled", "enabled-runtime", "static", "indirect")
