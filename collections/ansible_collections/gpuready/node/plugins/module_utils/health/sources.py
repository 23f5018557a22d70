# Apache-2.0 (see LICENSE)
"""What the metrics are made of, read from the node: NVML, /proc, the kernel's log. Python 3.8."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

from .. import nvml_bindings
from ..observe import driver, host
from ..observe.node import Node, ProbeError
from ..usage_processes import Processes, container_names
from . import nvml_metrics
from .xids import count

LOG_SECONDS = 10


def nvml() -> Dict[str, Any]:
    try:
        bindings = nvml_bindings.find()
    except nvml_bindings.NoBindings as error:
        return {"driver_version": None, "cuda_version": None, "gpus": None, "error": str(error)}
    return nvml_metrics.read(bindings)


def boot_id() -> Optional[str]:
    return host.boot_id(Node())


def loaded_driver() -> Optional[Dict[str, Any]]:
    """The kernel's own word; null where no driver is loaded."""
    return driver.loaded(Node())


def processes(answer: Mapping[str, Any]) -> Dict[int, Dict[str, Any]]:
    """pid → {name, container} of everybody on a GPU."""
    pids = sorted({row["pid"] for gpu in answer["gpus"] or [] for row in gpu["processes"] or []})
    if not pids:
        return {}
    table = Processes()
    found = {pid: table.describe(pid) for pid in pids}
    # Docker is asked only where somebody in a container is on a GPU.
    names = container_names() if any(row["container_id"] for row in found.values()) else {}
    return {
        pid: {
            "name": row["name"],
            "container": names.get(row["container_id"] or "") or (row["container_id"] or "")[:12] or None,
        }
        for pid, row in found.items()
    }


def xids(before: Optional[Dict[str, Any]], boot: Optional[str]) -> Dict[str, Any]:
    return count(_kernel_log() or "", before, boot)


def kernel_log() -> Optional[str]:
    """What the kernel said in this boot; null where nobody can read it."""
    return _kernel_log()


def _kernel_log() -> Optional[str]:
    """dmesg's; where that is empty or forbidden, this boot's journal. Null: neither can be read."""
    node = Node(timeout=LOG_SECONDS)
    journal = ["journalctl", "--dmesg", "--boot", "--no-pager", "--quiet", "--output=short-monotonic"]
    for command in (["dmesg"], [*journal, "--no-hostname"]):
        try:
            result = node.run(command)
        except ProbeError:
            continue
        if result.rc == 0 and result.out.strip():
            return result.out
    return None
