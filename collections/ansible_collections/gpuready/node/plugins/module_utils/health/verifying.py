# Apache-2.0 (see LICENSE)
"""Runs the planned workloads with the probe and the judgement that gpuready itself uses. Python 3.8."""

from __future__ import annotations

import pkgutil
import shutil
import time
from typing import Any, Dict, Mapping

from .. import probe_run
from ..verification import ON_HOST, judge

KEPT = (
    "workload",
    "image",
    "image_id",
    "ok",
    "gpus_expected",
    "gpus_listed",
    "framework",
    "seconds",
    "exit_code",
)
LOG_LINES = 20


def probe_text(name: str) -> str:
    """The program holds the probes beside its code."""
    text = pkgutil.get_data(__package__ or "gpuready.health", "probes/%s.py" % name)
    return (text or b"").decode("utf-8")


def verify(config: Mapping[str, Any], reason: str) -> Dict[str, Any]:
    begun = time.monotonic()
    results = [_one(config, row) for row in config["workloads"]]
    return {
        "schema": 1,
        "at": int(time.time()),
        "reason": reason,
        "ok": all(row["ok"] for row in results),
        "seconds": round(time.monotonic() - begun, 3),
        "results": results,
    }


def _one(config: Mapping[str, Any], row: Mapping[str, Any]) -> Dict[str, Any]:
    timeout = row["timeout_seconds"]
    probe = probe_text(row["probe"])
    if row.get("python"):
        run = probe_run.run_python(row["python"], probe, row["level"], timeout)
    else:
        docker = shutil.which("docker", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        run = probe_run.probe_image(
            docker, row["image"], probe, row["level"], row["launch"]["arguments"], timeout
        )
    verification = judge(
        run,
        host=config["host"],
        simulated=bool(config["simulated"]),
        workload=row["workload"],
        image=row["image"],
        level=row["level"],
        launch=ON_HOST if row.get("python") else row["launch"],
        python=row.get("python"),
        expect=row["expect"],
        gpus_expected=config["expected"].get("gpus"),
        timeout=timeout,
    )
    kept = {key: verification[key] for key in KEPT}
    kept["at"] = int(time.time())
    kept["findings"] = verification["findings"]
    kept["log"] = [] if kept["ok"] else verification["log"].splitlines()[-LOG_LINES:]
    return kept
