# Apache-2.0 (see LICENSE)
"""What the metrics are made of, read from the node: NVML, /proc, the kernel's log. Python 3.8."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any, Dict, Mapping, Optional

from .. import nvml_bindings
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
    return _text("/proc/sys/kernel/random/boot_id")


def _text(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read().strip()
    except OSError:
        return None


def loaded_driver() -> Optional[Dict[str, Any]]:
    """The kernel's own word; the same line tells which flavour it is."""
    text = _text("/proc/driver/nvidia/version") or ""
    found = re.search(r"NVRM version: (.*?Kernel Module.*?)\s+(\d+\.\d+(?:\.\d+)?)\b", text)
    if not found:
        return None
    return {"version": found.group(2), "flavour": "open" if "Open" in found.group(1) else "proprietary"}


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
    return count(_kernel_log(), before, boot)


def _kernel_log() -> str:
    """dmesg's; where that is empty or forbidden, the journal's of this boot."""
    for command in (
        ["dmesg"],
        [
            "journalctl",
            "--dmesg",
            "--boot",
            "--no-pager",
            "--quiet",
            "--output=short-monotonic",
            "--no-hostname",
        ],
    ):
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(os.environ, LC_ALL="C"),
                timeout=LOG_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.decode("utf-8", "replace")
    return ""
