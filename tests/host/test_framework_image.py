"""The framework: the workloads' images are on the node, under the names that people use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from workloads import images_of

pytestmark = pytest.mark.framework_image


def test_workload_images_are_present(host: Any, wished: Callable[[str, Any], Any]) -> None:
    present = set(host.check_output("docker image ls --format '{{.Repository}}:{{.Tag}}'").split())
    wanted = images_of(wished("gpuready_workloads", None))
    assert wanted
    assert set(wanted.values()) - present == set()
