"""The toolkit: one version, known to Docker, found by dockerd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kit.questions import (
    TOOLKIT_PACKAGES,
    daemon_json,
    docker_info,
    dockerd_path,
    held_packages,
    installed_packages,
)

pytestmark = pytest.mark.nvidia_container_toolkit


def test_toolkit_packages_are_of_one_version(host: Any) -> None:
    packages = installed_packages(host)
    versions = {name: packages.get(name) for name in TOOLKIT_PACKAGES}
    assert None not in versions.values(), versions
    assert len(set(versions.values())) == 1, versions


def test_toolkit_packages_are_held(host: Any) -> None:
    assert set(TOOLKIT_PACKAGES) - held_packages(host) == set()


def test_docker_lists_the_nvidia_runtime(host: Any) -> None:
    assert "nvidia" in docker_info(host)["Runtimes"]


def test_default_runtime_is_as_wished(host: Any, wished: Callable[[str, Any], Any]) -> None:
    if wished("nvidia_container_toolkit_default_runtime", False):
        assert docker_info(host)["DefaultRuntime"] == "nvidia"
    else:
        assert daemon_json(host).get("default-runtime", "runc") != "nvidia"


def test_hook_is_found_on_dockerds_path(host: Any) -> None:
    directories = dockerd_path(host)
    found = [d for d in directories if host.file(f"{d}/nvidia-container-runtime-hook").exists]
    assert found, f"no nvidia-container-runtime-hook on dockerd's PATH {directories}"


def test_toolkit_source_is_signed_by_its_own_keyring(host: Any) -> None:
    """No conflicting Signed-By: apt still reads all of its sources."""
    result = host.run("apt-get indextargets --format '$(CODENAME)' 'Created-By: Packages'")
    assert result.rc == 0, result.stderr
    assert "Conflicting values set for option Signed-By" not in result.stderr
