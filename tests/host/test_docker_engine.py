"""Docker: running, and with the settings that its user gave it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kit.questions import daemon_json, docker_info

pytestmark = pytest.mark.docker_engine


def lacking(wanted: Any, found: Any, where: str = "daemon.json") -> list[str]:
    """Name every wanted key that is missing or different; a list must hold at least the wanted entries."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [where]
        return [miss for key in wanted for miss in lacking(wanted[key], found.get(key), f"{where}: {key}")]
    if isinstance(wanted, list) and isinstance(found, list):
        return [f"{where}: {entry}" for entry in wanted if entry not in found]
    return [] if wanted == found else [f"{where} is {found!r}, not {wanted!r}"]


def test_docker_runs_now_and_after_a_boot(host: Any) -> None:
    service = host.service("docker")
    assert service.is_running
    assert service.is_enabled


def test_dockerd_answers(host: Any) -> None:
    assert docker_info(host)["ServerVersion"]


def test_wished_settings_are_in_daemon_json(host: Any, wished: Callable[[str, Any], Any]) -> None:
    assert lacking(wished("docker_engine_daemon_config", {}), daemon_json(host)) == []


def test_settings_from_before_gpuready_survived(host: Any, wished: Callable[[str, Any], Any]) -> None:
    """`hosttest_daemon_json_before`: what a site knows its nodes had in daemon.json before gpuready."""
    before = wished("hosttest_daemon_json_before", {})
    if not before:
        pytest.skip("the inventory names no earlier settings (hosttest_daemon_json_before)")
    assert lacking(before, daemon_json(host)) == []


def test_docker_comes_from_the_wished_source(host: Any, wished: Callable[[str, Any], Any]) -> None:
    """One of the two, and only one: their packages replace each other."""
    packages = {"distro": "docker.io", "docker_ce": "docker-ce"}
    source = wished("docker_engine_source", "distro")
    installed = {key for key, name in packages.items() if host.package(name).is_installed}
    if source == "distro" and installed == {"docker_ce"}:
        pytest.skip("the node had docker-ce before gpuready, which keeps it")
    assert installed == {source}
