"""Who is in the way of an upgrade, and who is not."""

from __future__ import annotations

from typing import Any

import pytest
from gpuready import gpu_users

JOB = {"id": "a" * 64, "name": "training", "image": "tf:2.9", "labels": {}}
BENCH = {
    "id": "b" * 64,
    "name": "gpuready-workbench-alice",
    "image": "x",
    "labels": {gpu_users.WORKBENCH: "alice"},
}
PROBE = {"id": "c" * 64, "name": "gpuready-probe-1", "image": "tf:2.9", "labels": {}}
PLUGIN = {"id": "d" * 64, "name": "k8s_nvidia-device-plugin-ctr_x", "image": "p", "labels": {}}
IGNORED = ["nvidia-device-plugin", "dcgm-exporter", "nv-hostengine"]


def process(pid: int, name: str = "python3", **more: Any) -> dict[str, Any]:
    row = {"pid": pid, "name": name, "files": ["/dev/nvidia0"], "service": None, "container": None}
    return {**row, "user": "bob", "own": False, **more}


@pytest.mark.parametrize(
    ("containers", "processes", "found", "passing"),
    [
        ([], [], [], []),
        ([JOB], [process(1, container=JOB["id"])], ["container training (tf:2.9)"], []),
        ([], [process(7)], ["process python3 (pid 7, of bob)"], []),
        ([], [process(7, service="nvidia-persistenced")], [], []),
        # A workbench has a GPU all the time; somebody works there only when a process holds it.
        ([BENCH], [], [], []),
        (
            [BENCH],
            [process(9, container=BENCH["id"])],
            ["process python3 (pid 9, of bob, in the workbench of alice)"],
            [],
        ),
        ([PROBE], [process(3, container=PROBE["id"])], [], ["container gpuready-probe-1 (tf:2.9)"]),
        ([], [process(4, own=True)], [], ["process python3 (pid 4, of bob)"]),
        ([PLUGIN], [process(5, container=PLUGIN["id"])], [], []),
        # Of containerd's, which Docker does not know: the kernel keeps 15 letters of the name.
        ([], [process(6, name="nvidia-device-p", container="e" * 64)], [], []),
        ([], [process(6, name="dcgm-exporter")], [], []),
    ],
)
def test_only_other_peoples_work_is_in_the_way(
    containers: list[Any], processes: list[Any], found: list[str], passing: list[str]
) -> None:
    others, own = gpu_users.users(containers, processes, IGNORED)
    assert [gpu_users.describe(user) for user in others] == found
    assert [gpu_users.describe(user) for user in own] == passing
