"""The host: nouveau out of the driver's way, apt in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kit.questions import gpus_on_the_bus

pytestmark = pytest.mark.host_prepare


def test_bus_has_an_nvidia_gpu(host: Any) -> None:
    assert gpus_on_the_bus(host), "no NVIDIA GPU on the PCI bus: this is no GPU node"


def test_nouveau_is_not_loaded(host: Any, wished: Callable[[str, Any], Any]) -> None:
    if not wished("host_prepare_nouveau_disabled", True):
        pytest.skip("the inventory keeps nouveau")
    assert not host.file("/sys/module/nouveau").exists


def test_nouveau_is_blocked_by_modprobes_own_configuration(
    host: Any, wished: Callable[[str, Any], Any]
) -> None:
    if not wished("host_prepare_nouveau_disabled", True):
        pytest.skip("the inventory keeps nouveau")
    configuration = host.check_output("modprobe --showconfig").splitlines()
    assert "blacklist nouveau" in configuration


def test_dpkg_has_no_unfinished_business(host: Any) -> None:
    assert host.check_output("dpkg --audit") == ""
