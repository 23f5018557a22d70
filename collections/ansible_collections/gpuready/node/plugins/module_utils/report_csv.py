# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""``fleet.csv``: a run as a table for spreadsheets, a row per node. Pure; used on the controller only."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from .report import LAYERS
from .report_view import complaints, get, mapping, rows, seconds_of, text, words

WORDS = {True: "ok", False: "not ok", None: ""}
#: What a spreadsheet takes for the beginning of a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = (
    "host",
    "address",
    "groups",
    "status",
    "simulated",
    "gpus",
    "gpus_listed",
    "gpus_expected",
    *(f"{layer}_{what}" for layer in LAYERS for what in ("ok", "version")),
    "os",
    "kernel",
    "driver",
    "flavour",
    "docker",
    "toolkit",
    "causes",
    "what",
    "fix",
    "drift",
    "changed_tasks",
    "reboots",
    "reloads",
    "seconds",
    "acceptance",
    "error",
)


def cell(value: Any) -> str:
    """A value as a spreadsheet shows it, and never as a formula: a node's texts are not to be run.

    >>> cell("=cmd()"), cell(None), cell(-1), cell(True)
    ("'=cmd()", '', '-1', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return str(value) if math.isfinite(value) else ""
    said = text(value)
    return f"'{said}" if said.startswith(FORMULA) else said


def _row(node: dict[str, Any]) -> dict[str, Any]:
    known = mapping(node.get("versions"))
    told = complaints(node)
    checked = rows(node.get("verification"))
    # Of several workloads, the one that has the fewest: it is what the node is good for.
    fewest = min(checked, key=lambda row: row.get("gpus_listed") or 0, default={})
    devices = rows(get(node, "gpu_stack", "driver", "devices")) or rows(
        get(node, "gpu_stack", "host", "gpus")
    )
    layers = {
        f"{layer}_{what}": WORDS.get(get(node, "layers", layer, "ok"), "")
        if what == "ok"
        else get(node, "layers", layer, "version")
        for layer in LAYERS
        for what in ("ok", "version")
    }
    drifted = [text(row.get("what")) for row in rows(node.get("drift"))] if node.get("managed_before") else []
    error = text(node.get("error")).strip().splitlines()
    return {
        "host": node.get("host"),
        "address": node.get("address"),
        "groups": " ".join(words(node.get("groups"))),
        "status": node.get("status"),
        "simulated": bool(node.get("simulated")),
        "gpus": len(devices) if node.get("gpu_stack") is not None else None,
        "gpus_listed": fewest.get("gpus_listed"),
        "gpus_expected": fewest.get("gpus_expected"),
        **layers,
        **{what: known.get(what) for what in ("os", "kernel", "driver", "flavour", "docker", "toolkit")},
        "causes": " ".join(one["key"] for one in told),
        "what": "; ".join(one["title"] for one in told),
        "fix": "; ".join(line for one in told for line in one["fix"]),
        "drift": " ".join(dict.fromkeys(drifted)),
        "changed_tasks": len(words(node.get("changed_tasks"))),
        "reboots": node.get("reboots"),
        "reloads": node.get("reloads"),
        "seconds": round(seconds_of(node), 2),
        "acceptance": get(node, "acceptance", "verdict"),
        "error": error[0] if error else None,
    }


def render(nodes: list[dict[str, Any]], fleet: dict[str, Any]) -> str:
    """The file's text: RFC 4180, with a row of names."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for node in nodes:
        row = _row(node)
        writer.writerow([cell(row[column]) for column in COLUMNS])
    for host in words(fleet.get("not_run")):
        writer.writerow([cell({"host": host, "status": "not_run"}.get(column)) for column in COLUMNS])
    return stream.getvalue()
