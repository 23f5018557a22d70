"""The application: the container that a user starts by hand sees the GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kit.questions import gpus_on_the_bus
from workloads import images_of

pytestmark = pytest.mark.gpu_verify
LIST_GPUS = "import tensorflow as tf; print(tf.config.list_physical_devices('GPU'))"


def test_container_lists_every_gpu(host: Any, wished: Callable[[str, Any], Any]) -> None:
    images = images_of(wished("gpuready_workloads", None), framework="tensorflow")
    if not images:
        pytest.skip("no TensorFlow workload in this inventory")
    gpus = len(gpus_on_the_bus(host))
    for image in images.values():
        result = host.run(f'docker run --rm --gpus all {image} python3 -c "{LIST_GPUS}"')
        assert result.rc == 0, result.stderr
        assert "/physical_device:GPU:0" in result.stdout, result.stderr
        assert result.stdout.count("PhysicalDevice(") == gpus


def test_container_without_gpus_flag_lists_none(host: Any, wished: Callable[[str, Any], Any]) -> None:
    """The opposite proves that the list above is not printed regardless."""
    images = images_of(wished("gpuready_workloads", None), framework="tensorflow")
    if not images or wished("nvidia_container_toolkit_default_runtime", False):
        pytest.skip("every container gets the GPU here, or there is no TensorFlow workload")
    image = next(iter(images.values()))
    result = host.run(f'docker run --rm {image} python3 -c "{LIST_GPUS}"')
    assert result.rc == 0, result.stderr
    assert "PhysicalDevice(" not in result.stdout


def test_no_unit_of_the_chain_has_failed(host: Any) -> None:
    """A unit that failed on the way (no driver yet, no Docker yet) is not left behind."""
    result = host.run("systemctl list-units --state=failed --plain --no-legend")
    failed = [line.split()[0] for line in result.stdout.splitlines() if line.strip()]
    assert [unit for unit in failed if any(name in unit for name in ("nvidia", "docker", "containerd"))] == []
