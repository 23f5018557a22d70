"""The node was rebooted, once, for a reason that is on record, and the reason is gone."""

from __future__ import annotations

import json
from typing import Any


def test_reboot_is_recorded_once_with_its_reason(host: Any) -> None:
    records = json.loads(host.file("/var/lib/gpuready/reboots.json").content_string)
    assert len(records) == 1
    assert "nouveau" in records[0]["reason"]
    assert records[0]["boot_id_before"] != records[0]["boot_id_after"]
    assert records[0]["boot_id_after"] == host.check_output("cat /proc/sys/kernel/random/boot_id")


def test_nouveau_has_let_go(host: Any) -> None:
    assert not host.file("/sys/module/nouveau").exists


def test_nvidias_driver_came_up_with_the_boot(host: Any) -> None:
    assert host.file("/sys/module/nvidia").exists
    assert host.check_output("nvidia-smi -L").startswith("GPU 0:")
