# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind: one document per node, one for the fleet, and the table people read.

Pure but for what reads and writes a run's folder; used on the controller only. Input is what the tasks of a
run returned (``gpu_stack``, ``plan``, ``verification``); output is plain JSON types and text.

``python -m gpuready.report FOLDER`` makes the files of a run anew from its JSON documents, and
``python -m gpuready.report FOLDER FOLDER ... --into ARTIFACTS`` makes one run of several.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from .outlook import warnings
from .secrecy import redact
from .versions import upstream

SCHEMA = 1
LAYERS = ("host", "container_runtime", "framework", "application")
STATUSES = (
    "verified",
    "provisioned",
    "planned",
    "reboot_pending",
    "rolled_back",
    "conflict",
    "failed",
    "unreachable",
    "healthy",
    "cause_found",
    "unknown",
)
#: A node in one of these states is not what was asked for.
BAD_STATUSES = (
    "reboot_pending",
    "rolled_back",
    "conflict",
    "failed",
    "unreachable",
    "cause_found",
    "unknown",
)

#: Actions that may have to wait for a reboot.
AFTER_REBOOT = {
    "driver.reload",
    "driver.load",
    "driver.fabricmanager",
    "driver.persistenced",
    "host.reboot",
    "toolkit.cdi_refresh",
    "toolkit.cdi",
}

ARROW, ASCII_ARROW = "\N{RIGHTWARDS ARROW}", "->"

SYMBOLS = {True: "\N{HEAVY CHECK MARK}", False: "\N{HEAVY BALLOT X}", None: "\N{MIDDLE DOT}"}
ASCII_SYMBOLS = {True: "+", False: "x", None: "-"}
PENDING_SYMBOL, ASCII_PENDING_SYMBOL = "\N{RIGHTWARDS ARROW}", ">"


def run_name(now: Any, playbook: str) -> str:
    """``<run>``: when, and which playbook (``now`` is an aware datetime in UTC)."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.splitext(os.path.basename(playbook))[0]) or "run"
    return f"{now.strftime('%Y%m%dT%H%M%SZ')}-{stem}"


# --- one node ---------------------------------------------------------------------------------------------


def _dig(value: Any, *path: str) -> Any:
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def remaining_actions(plan: dict[str, Any] | None) -> list[dict[str, Any]]:
    return list((plan or {}).get("actions") or [])


def reboot_is_pending(plan: dict[str, Any] | None) -> bool:
    """All that remains waits for a reboot that the inventory does not allow."""
    if not _dig(plan, "reboot", "needed") or _dig(plan, "reboot", "allowed") is not False:
        return False
    return {action.get("id") for action in remaining_actions(plan)} <= AFTER_REBOOT


def is_rolled_back(record: dict[str, Any]) -> bool:
    """Verification failed after a change of the driver, and the former one is back and loaded."""
    former = _dig(record.get("rolled_back"), "to")
    return bool(former) and _dig(record.get("gpu_stack"), "driver", "loaded", "version") == former


def driver_change(record: dict[str, Any]) -> dict[str, Any] | None:
    """``{from, to}``: the driver's version (and flavour, where only that differs) before and after.

    After is what was seen last or, while ``driver.install`` is still to be done, what is planned. A node that
    was rolled back is where it was; what the next run would try there is no change of this one.
    """
    if record.get("failed") and is_rolled_back(record):
        return None
    gpu_stack, plan = record.get("gpu_stack"), record.get("plan")
    now = _dig(gpu_stack, "driver", "loaded") or {}
    before = record.get("driver_before") or now
    after = now
    if any(action.get("id") == "driver.install" for action in remaining_actions(plan)):
        after = _dig(plan, "driver") or {}
    if not before.get("version") or not after.get("version"):
        return None
    if before["version"] != after["version"]:
        return {"from": before["version"], "to": after["version"]}
    flavours = before.get("flavour"), after.get("flavour")
    if all(flavours) and flavours[0] != flavours[1]:
        return {"from": f"{before['version']} {flavours[0]}", "to": f"{after['version']} {flavours[1]}"}
    return None


def node_status(record: dict[str, Any], *, planning: bool = False) -> str:
    """The one word for a node. ``planning``: the run could not have changed anything."""
    if record.get("unreachable"):
        return "unreachable"
    plan = record.get("plan")
    verifications = record.get("verification") or []
    answer = _dig(record.get("diagnosis"), "status") if record.get("diagnosed") else None
    if answer and not (answer == "healthy" and record.get("failed")):
        # The run asked what is wrong, and this is the answer.
        return str(answer)
    if record.get("failed"):
        if is_rolled_back(record):
            return "rolled_back"
        if _dig(plan, "status") == "conflict" and not verifications:
            return "conflict"
        return "reboot_pending" if reboot_is_pending(plan) else "failed"
    if verifications:
        return "verified" if all(item.get("ok") for item in verifications) else "failed"
    if _dig(plan, "status") == "conflict":
        return "conflict"
    if planning or plan is None:
        return "planned"
    if reboot_is_pending(plan):
        return "reboot_pending"
    return "provisioned" if plan.get("status") == "converged" else "planned"


def _gpu_names(gpu_stack: dict[str, Any] | None, plan: dict[str, Any] | None) -> str:
    """``2 x A100 80GB PCIe``: by NVML's names where the driver answers, by the catalog's otherwise."""
    devices = _dig(gpu_stack, "driver", "devices") or []
    names = [device.get("name") for device in devices if device.get("name")]
    if not names:
        names = [
            gpu.get("name") or gpu.get("chip") or f"GPU {gpu.get('device_id')}"
            for gpu in (_dig(gpu_stack, "host", "gpus") or (plan or {}).get("gpus") or [])
        ]
    counted = Counter(re.sub(r"^NVIDIA\s+", "", str(name)) for name in names)
    return ", ".join(name if n == 1 else f"{n} x {name}" for name, n in counted.items())


def _host_version(record: dict[str, Any], pending: bool) -> str:
    """``A100 80GB PCIe, driver 535.247.01 → 580.95.05 open (reloaded)``."""
    gpu_stack, plan = record.get("gpu_stack"), record.get("plan")
    loaded = _dig(gpu_stack, "driver", "loaded") or {}
    planned = _dig(plan, "driver") or {}
    back = record.get("rolled_back") if record.get("failed") and is_rolled_back(record) else None
    if pending and planned and not back:
        version, flavour = planned.get("version") or planned.get("branch"), planned.get("flavour")
    else:
        version, flavour = loaded.get("version"), loaded.get("flavour")
    change = driver_change(record)
    if change:
        version = f"{change['from']} {ARROW} {change['to']}"
        flavour = None if " " in change["to"] else flavour
    driver = " ".join(str(part) for part in ("driver", version, flavour) if part) if version else ""
    done = [
        word if number == 1 else f"{word} {number} times"
        for word, number in (
            ("reloaded", int(record.get("reloads") or 0)),
            ("rebooted", int(record.get("reboots") or 0)),
        )
        if number
    ]
    if back and back.get("from"):
        done.insert(0, f"back from {back['from']}")
    if driver and done:
        driver += f" ({', '.join(done)})"
    return ", ".join(part for part in (_gpu_names(gpu_stack, plan), driver) if part)


def _runtime_version(gpu_stack: dict[str, Any] | None, plan: dict[str, Any] | None) -> str:
    """What is installed; where nothing is, what would be."""
    docker = _dig(gpu_stack, "container_runtime", "docker", "version")
    toolkit = _dig(gpu_stack, "container_runtime", "toolkit", "version")
    if not docker:
        package = (_dig(plan, "container_runtime", "docker", "packages") or [{}])[0]
        candidate = _dig(gpu_stack, "apt", "candidates", str(package.get("name")), "candidate")
        docker = upstream(package.get("version") or candidate or "")
    if not toolkit:
        toolkit = upstream(_dig(plan, "container_runtime", "toolkit", "version") or "")
    return ", ".join(
        f"{name} {version}" for name, version in (("docker", docker), ("toolkit", toolkit)) if version
    )


def _framework_version(verifications: list[dict[str, Any]], plan: dict[str, Any] | None) -> str:
    parts = []
    for item in verifications:
        framework = item.get("framework") or {}
        if framework.get("version"):
            cuda = f", CUDA {framework['cuda']}" if framework.get("cuda") else ""
            parts.append(f"{framework.get('name') or 'framework'} {framework['version']}{cuda}")
    if not parts:
        rows = (plan or {}).get("workloads") or []
        parts = [str(item.get("image") or item.get("name")) for item in rows]
    return "; ".join(dict.fromkeys(parts))


def _verified(verifications: list[dict[str, Any]]) -> str:
    """``1/1 GPU (list, gpus, 3.4 s)``; of several workloads, how many of them have their GPUs."""

    def listed(item: dict[str, Any]) -> str:
        count, expected = item.get("gpus_listed") or 0, item.get("gpus_expected")
        return f"{count}/{expected} GPU" if expected is not None else f"{count} GPU"

    counts = list(dict.fromkeys(listed(item) for item in verifications))
    if not counts:
        return ""
    seconds = sum(float(item.get("seconds") or 0) for item in verifications)
    several = len(verifications) > 1
    passed = sum(1 for item in verifications if item.get("ok"))
    extras = [
        *dict.fromkeys(str(item.get("level") or "list") for item in verifications),
        *dict.fromkeys(str(_dig(item, "launch", "way")) for item in verifications if item.get("launch")),
        f"{seconds:.1f} s" if seconds else "",
    ]
    count = f"{passed}/{len(verifications)} workloads, {' and '.join(counts)}" if several else counts[0]
    return f"{count} ({', '.join(extra for extra in extras if extra)})"


def _workbenches(gpu_stack: dict[str, Any] | None) -> str:
    rows = _dig(gpu_stack, "application", "workbenches") or []
    running = sum(1 for row in rows if _dig(row, "container", "running"))
    if not rows:
        return ""
    count = str(running) if running == len(rows) else f"{running}/{len(rows)}"
    return f"{count} workbench" + ("" if len(rows) == 1 else "es")


def _monitoring(gpu_stack: dict[str, Any] | None) -> str:
    """Whether the node looks after itself, and what it said last."""
    health = _dig(gpu_stack, "application", "health") or {}
    if not health.get("program"):
        return ""
    said = [_dig(health, "last_check", "ok"), *(row.get("ok") for row in health.get("last_verify") or [])]
    return "watched: not well" if False in said else "watched"


def _application_version(verifications: list[dict[str, Any]], gpu_stack: dict[str, Any] | None) -> str:
    parts = (_verified(verifications), _workbenches(gpu_stack), _monitoring(gpu_stack))
    return ", ".join(part for part in parts if part)


def _findings(verifications: list[dict[str, Any]], layer: str) -> list[str]:
    return [
        str(finding.get("finding"))
        for item in verifications
        if not item.get("ok")
        for finding in item.get("findings") or []
        if finding.get("layer") == layer
    ]


def root_causes(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What a diagnosis names as wrong, the likeliest first."""
    causes = _dig(record.get("diagnosis"), "causes") or []
    return [cause for cause in causes if cause.get("standing") == "root"]


def layer_verdicts(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """``{layer: {ok, state, version, detail, actions, findings}}``; ``ok`` is null where nothing is known.

    ``state``: ``ok``, ``bad``, ``todo`` (nothing is wrong but what a run of site.yml does) or ``unknown``.
    """
    gpu_stack, plan = record.get("gpu_stack"), record.get("plan")
    verifications = record.get("verification") or []
    passed = bool(verifications) and all(item.get("ok") for item in verifications)
    layers: dict[str, dict[str, Any]] = {}
    for layer in LAYERS:
        actions = [action for action in remaining_actions(plan) if action.get("layer") == layer]
        conflicts = [
            conflict for conflict in (plan or {}).get("conflicts") or [] if conflict.get("layer") == layer
        ]
        findings = _findings(verifications, layer)
        # A failed verification has the diagnosis' causes among its findings already.
        titles = [str(cause.get("title")) for cause in root_causes(record) if cause.get("layer") == layer]
        findings += [title for title in titles if title not in findings]
        ok: bool | None
        state = ""
        if conflicts or findings:
            ok, detail = False, "; ".join([str(conflict.get("what")) for conflict in conflicts] + findings)
        elif actions:
            ok, detail, state = False, "; ".join(str(action.get("summary")) for action in actions), "todo"
        elif layer == "host" and reboot_is_pending(plan):
            ok, detail, state = False, f"a reboot is needed: {_dig(plan, 'reboot', 'reason')}", "todo"
        elif plan is None or gpu_stack is None:
            ok, detail = None, "not observed"
        elif layer == "application":
            ok, detail = (True, "") if passed else (None, "not verified in this run")
            if verifications and not passed:
                ok, detail = False, "verification failed"
        elif plan.get("status") == "conflict":
            # Nothing is planned behind a conflict: no action in a layer says nothing about it.
            ok, detail = None, "not planned: see the conflict"
        else:
            ok, detail = True, ""
        state = state or {True: "ok", False: "bad", None: "unknown"}[ok]
        version = {
            "host": lambda: _host_version(record, bool(actions)),  # noqa: B023
            "container_runtime": lambda: _runtime_version(gpu_stack, plan),
            "framework": lambda: _framework_version(verifications, plan),
            "application": lambda: _application_version(verifications, gpu_stack),
        }[layer]()
        layers[layer] = {
            "ok": ok,
            "version": version or None,
            "state": state,
            "detail": detail,
            "actions": [str(action.get("id")) for action in actions],
            "findings": findings,
            "warnings": [row["finding"] for row in warnings(gpu_stack or {}) if row["layer"] == layer],
        }
    return layers


def versions(gpu_stack: dict[str, Any] | None) -> dict[str, Any]:
    """What runs on the node now; null where it is not known or not there."""
    loaded = _dig(gpu_stack, "driver", "loaded") or {}
    return {
        "os": _dig(gpu_stack, "host", "os", "pretty_name"),
        "kernel": _dig(gpu_stack, "host", "kernel", "running"),
        "driver": loaded.get("version"),
        "flavour": loaded.get("flavour"),
        "docker": _dig(gpu_stack, "container_runtime", "docker", "version"),
        "toolkit": _dig(gpu_stack, "container_runtime", "toolkit", "version"),
    }


def timings(seconds: dict[str, float]) -> list[dict[str, Any]]:
    """``[{stage, seconds}]`` in the order of first appearance."""
    return [{"stage": stage, "seconds": round(spent, 2)} for stage, spent in seconds.items()]


#: So many of a node's tasks are named as slow, and none that was quicker than this.
SLOW_TASKS, SLOW_SECONDS = 10, 1.0


def slow_tasks(tasks: list[tuple[str, str, float]]) -> list[dict[str, Any]]:
    """Where a node's time went: ``[{task, stage, seconds}]``, the longest first."""
    longest = sorted((row for row in tasks if row[2] >= SLOW_SECONDS), key=lambda row: -row[2])[:SLOW_TASKS]
    return [{"task": task, "stage": stage, "seconds": round(spent, 2)} for task, stage, spent in longest]


# --- drift ------------------------------------------------------------------------------------------------


def managed_before(gpu_stack: dict[str, Any] | None) -> bool | None:
    """Whether gpuready has left something on the node: only then is what differs a drift."""
    if gpu_stack is None:
        return None
    return bool(
        _dig(gpu_stack, "driver", "record")
        or _dig(gpu_stack, "application", "files")
        or _dig(gpu_stack, "application", "health", "program")
    )


def glimpse(gpu_stack: Any) -> dict[str, Any] | None:
    """What the drift needs of a run's first observation: a big one for each of many nodes is not kept."""
    if not isinstance(gpu_stack, dict):
        return None
    health = _dig(gpu_stack, "application", "health") or {}
    return {
        "driver": {"record": bool(_dig(gpu_stack, "driver", "record"))},
        "application": {
            "files": bool(_dig(gpu_stack, "application", "files")),
            "health": {"program": health.get("program"), "last_check": health.get("last_check")},
        },
    }


def _checked(gpu_stack: dict[str, Any] | None) -> tuple[Any, dict[tuple[Any, Any], dict[str, Any]]]:
    """When the node's own check looked last, and what it found to differ."""
    last = _dig(gpu_stack, "application", "health", "last_check") or {}
    return last.get("at"), {(row.get("layer"), row.get("what")): row for row in last.get("drift") or []}


def drift(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What differed from the wishes as the run began, ``[{layer, what, expected, found, source, remains}]``.

    ``source``: ``plan`` (``what`` is the action that puts it right) or ``check``, the node's own look at
    itself. ``remains``: is it still so; null where nobody has looked again.
    """
    last = record.get("plan")
    first = record.get("first_plan") or last
    left = {action.get("id") for action in remaining_actions(last)}
    again = _dig(last, "status") != "conflict"
    rows: list[dict[str, Any]] = [
        {
            "layer": action.get("layer"),
            "what": action.get("id"),
            "expected": action.get("summary"),
            "found": "; ".join(str(text) for text in action.get("evidence") or []) or None,
            "source": "plan",
            "remains": action.get("id") in left if again else None,
        }
        for action in remaining_actions(first)
    ]
    began, differed = _checked(record.get("first_gpu_stack") or record.get("gpu_stack"))
    ended, differs = _checked(record.get("gpu_stack"))
    rows += [
        {
            "layer": row.get("layer"),
            "what": row.get("what"),
            "expected": row.get("expected"),
            "found": row.get("found"),
            "source": "check",
            "remains": None
            if int(record.get("observations") or 1) > 1 and began == ended
            else key in differs,
        }
        for key, row in differed.items()
    ]
    return rows


def layer_state(layer: Any) -> str:
    """A layer's ``state``; of a document that is older than this word, what it would have been."""
    said = _dig(layer, "state")
    if said in ("ok", "bad", "todo", "unknown"):
        return str(said)
    ok = _dig(layer, "ok")
    if ok is False:
        return "todo" if _dig(layer, "actions") and not _dig(layer, "findings") else "bad"
    return "ok" if ok is True else "unknown"


#: What a diagnosis rests on besides observation, plan and verification.
DIAGNOSIS_FACTS = ("container", "framework", "platform", "probes")


def _diagnosed_facts(record: dict[str, Any]) -> dict[str, Any]:
    """Kept beside the others, so that ``gpuready diagnose --facts`` can ask again without the node."""
    facts = record.get("facts") or {}
    return {name: facts[name] for name in DIAGNOSIS_FACTS if facts.get(name)}


def node_document(record: dict[str, Any], run: str, *, planning: bool = False) -> dict[str, Any]:
    """``artifacts/<run>/<host>.json``."""
    document = {
        "schema": SCHEMA,
        "run": run,
        "host": record["host"],
        "address": record.get("address"),
        "groups": list(record.get("groups") or []),
        "simulated": bool(record.get("simulated")),
        "status": node_status(record, planning=planning),
        "layers": layer_verdicts(record),
        "versions": versions(record.get("gpu_stack")),
        "gpu_stack": record.get("gpu_stack"),
        "plan": record.get("plan"),
        "verification": record.get("verification") or [],
        "diagnosis": record.get("diagnosis"),
        **_diagnosed_facts(record),
        "changed_tasks": list(record.get("changed_tasks") or []),
        "driver_change": driver_change(record),
        "rolled_back": record.get("rolled_back"),
        "reloads": int(record.get("reloads") or 0),
        "reboots": int(record.get("reboots") or 0),
        "module_executions": int(record.get("module_executions") or 0),
        "apt_transactions": int(record.get("apt_transactions") or 0),
        "apt_transactions_by_role": dict(record.get("apt_transactions_by_role") or {}),
        "timings": timings(record.get("timings") or {}),
        "slow_tasks": slow_tasks(record.get("tasks") or []),
        "managed_before": managed_before(record.get("first_gpu_stack") or record.get("gpu_stack")),
        "drift": drift(record),
        "acceptance": accepted(record),
        "error": record.get("error"),
        "error_stage": record.get("error_stage") if record.get("error") else None,
    }
    return redact(document)


def accepted(record: dict[str, Any]) -> dict[str, Any] | None:
    """What a node's document tells of its acceptance record, which is a file of its own."""
    told = record.get("acceptance")
    if not isinstance(told, dict):
        return None
    return {
        **{key: told.get(key) for key in ("verdict", "because", "digest")},
        "file": f"{ACCEPTANCES}/{file_name(record['host'])}.json",
    }


def lost_node(host: str, run: str, why: str, **more: Any) -> dict[str, Any]:
    """The document of a node of which nothing is known, because whoever was to work on it is gone.

    :param more: ``address``, ``groups``.
    """
    return node_document({"host": host, "unreachable": True, "error": why, **more}, run)


# --- the fleet --------------------------------------------------------------------------------------------

#: What of a node's document stands in the fleet's, too.
IN_FLEET = (
    "address",
    "groups",
    "status",
    "simulated",
    "layers",
    "versions",
    "changed_tasks",
    "driver_change",
    "rolled_back",
    "reloads",
    "reboots",
    "module_executions",
    "apt_transactions",
    "timings",
    "acceptance",
    "error",
)


def fleet_document(
    nodes: list[dict[str, Any]],
    *,
    run: str,
    playbook: str,
    started: str,
    finished: str,
    seconds: float,
    check_mode: bool = False,
    not_run: Iterable[str] = (),
) -> dict[str, Any]:
    """``artifacts/<run>/fleet.json``: every node of the run, the failed and unreachable ones included.

    ``not_run``: nodes that the run was for, and that it did not come to, since it stopped before.
    """
    totals = Counter(node["status"] for node in nodes)
    left_out = sorted(set(not_run) - {node["host"] for node in nodes})
    return {
        "schema": SCHEMA,
        "run": run,
        "playbook": playbook,
        "check_mode": check_mode,
        "started": started,
        "finished": finished,
        "seconds": round(seconds, 2),
        "simulated": any(node["simulated"] for node in nodes),
        "ok": not left_out and not any(node["status"] in BAD_STATUSES for node in nodes),
        "totals": {status: totals[status] for status in STATUSES if totals[status]},
        "not_run": left_out,
        "driver_spread": driver_spread(nodes),
        "drift": [
            {"host": node["host"], "managed_before": node.get("managed_before"), **row}
            for node in nodes
            for row in node.get("drift") or []
        ],
        "nodes": {
            node["host"]: {
                **{key: node.get(key) for key in IN_FLEET},
                "causes": [cause["cause"] for cause in root_causes(node)],
            }
            for node in nodes
        },
    }


#: The key of ``driver_spread`` for nodes on which no driver is loaded.
NO_DRIVER = "none"


def driver_spread(nodes: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """``{version: [hosts]}`` of the loaded driver, the newest first; nodes not observed are in none."""
    spread: dict[str, list[str]] = {}
    for node in nodes:
        if node.get("gpu_stack") is not None:
            spread.setdefault(_dig(node, "versions", "driver") or NO_DRIVER, []).append(node["host"])
    order = sorted(set(spread) - {NO_DRIVER}, key=version_order, reverse=True)
    return {version: sorted(spread[version]) for version in (*order, NO_DRIVER) if version in spread}


def version_order(version: str) -> tuple[tuple[int, str], ...]:
    """For sorting versions as a person would.

    >>> sorted(["580.95.05", "580.100.1", "90"], key=version_order)
    ['90', '580.95.05', '580.100.1']
    """
    return tuple((int(number or 0), word) for number, word in re.findall(r"(\d+)|(\D+)", version))


def _seconds_between(started: str, finished: str) -> float | None:
    try:
        return (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()
    except (TypeError, ValueError):
        return None


def load_run(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A run's folder as ``(nodes, fleet)``. A file that is none of a report's is a ``ValueError``."""
    fleet = _load(folder / "fleet.json")
    nodes = [_load(path) for path in sorted(folder.glob("*.json")) if path.name != "fleet.json"]
    return sorted((node for node in nodes if "host" in node), key=lambda node: str(node["host"])), fleet


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no file of a report of schema {SCHEMA}: run the playbook again")
    return content


def merge(
    folders: Iterable[Path], *, run: str | None = None, lost: Iterable[dict[str, Any]] = ()
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One run out of several that each worked on a part of the nodes: ``(nodes, fleet)``.

    A node that is in several parts is as the part that ended last found it.

    :param folders: the parts' folders, each with its ``fleet.json``.
    :param run: what the run is to be called; by default as the part that began first.
    :param lost: documents of nodes whose part has no folder (:func:`lost_node`).
    """
    parts = sorted((load_run(Path(folder)) for folder in folders), key=lambda part: str(part[1]["finished"]))
    nodes: dict[str, dict[str, Any]] = {node["host"]: node for node in lost}
    for some, _fleet in parts:
        nodes.update({node["host"]: node for node in some})
    fleets = [fleet for _nodes, fleet in parts]
    if not fleets and not nodes:
        raise ValueError("there is nothing to merge: no folder and no node was named")
    first = min(fleets, key=lambda fleet: str(fleet["started"]), default={})
    started, finished = str(first.get("started") or ""), str(fleets[-1]["finished"] if fleets else "")
    name = run or str(first.get("run") or "merged")
    spent = _seconds_between(started, finished)
    if spent is None or len(fleets) == 1:
        spent = max((float(fleet.get("seconds") or 0) for fleet in fleets), default=0.0)
    fleet = fleet_document(
        [{**nodes[host], "run": name} for host in sorted(nodes)],
        run=name,
        playbook=" and ".join(dict.fromkeys(str(fleet.get("playbook")) for fleet in fleets)),
        started=started,
        finished=finished,
        seconds=spent,
        check_mode=bool(fleets) and all(fleet.get("check_mode") for fleet in fleets),
        not_run={host for fleet in fleets for host in fleet.get("not_run") or []},
    )
    return [{**nodes[host], "run": name} for host in sorted(nodes)], fleet


# --- text -------------------------------------------------------------------------------------------------


def width(text: str) -> int:
    """Columns that the text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def _pad(text: str, columns: int) -> str:
    return text + " " * max(0, columns - width(text))


def _ascii(text: str) -> str:
    return text.replace(ARROW, ASCII_ARROW).encode("ascii", "replace").decode()


def _named(node: dict[str, Any]) -> str:
    """The root cause behind the verdict of a node that is not well."""
    causes = root_causes(node) if node["status"] in BAD_STATUSES else []
    if not causes:
        return ""
    more = f" and {len(causes) - 1} more" if len(causes) > 1 else ""
    return f": {causes[0]['cause']}{more}"


def _cell(layer: dict[str, Any], symbols: dict[bool | None, str], pending: str) -> str:
    symbol = pending if layer_state(layer) == "todo" else symbols[layer["ok"]]
    return f"{symbol} {layer['version'] or ''}".rstrip()


def table(
    nodes: list[dict[str, Any]], *, unicode: bool = True, columns: int | None = None
) -> list[tuple[str, str]]:
    """The table node x layer as lines: ``[(line, status)]``, the status being the row's ('' for headings).

    Where a row would not fit into ``columns``, every node becomes a small block of lines instead.
    """
    symbols = SYMBOLS if unicode else ASCII_SYMBOLS
    pending = PENDING_SYMBOL if unicode else ASCII_PENDING_SYMBOL
    titles = ["NODE", *(layer.upper().replace("_", " ") for layer in LAYERS), "VERDICT"]
    rows = []
    for node in nodes:
        verdict = node["status"].upper().replace("_", " ")
        if node["simulated"]:
            verdict += " (simulated)"
        verdict += _named(node)
        cells = [_cell(node["layers"][layer], symbols, pending) for layer in LAYERS]
        rows.append(([node["host"], *cells, verdict], node["status"]))
    if not unicode:
        rows = [([_ascii(cell) for cell in cells], status) for cells, status in rows]
    widths = [max([width(title), *(width(cells[n]) for cells, _ in rows)]) for n, title in enumerate(titles)]
    if columns is not None and sum(widths) + 2 * (len(widths) - 1) > columns:
        lines: list[tuple[str, str]] = []
        label = max(width(title) for title in titles[1:-1])
        for cells, status in rows:
            lines.append((f"{cells[0]}  {cells[-1]}", status))
            lines += [
                (f"  {_pad(title.lower(), label)}  {cell}", status)
                for title, cell in zip(titles[1:-1], cells[1:-1], strict=True)
            ]
        return lines
    lines = [("  ".join(_pad(title, w) for title, w in zip(titles, widths, strict=True)).rstrip(), "")]
    lines += [
        ("  ".join(_pad(cell, w) for cell, w in zip(cells, widths, strict=True)).rstrip(), status)
        for cells, status in rows
    ]
    return lines


def problems(nodes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """One block per node that is not what was asked for: ``[(line, status)]``."""
    lines: list[tuple[str, str]] = []
    for node in nodes:
        if node["status"] not in BAD_STATUSES:
            continue
        cause = node["error"] or ""
        if node["status"] == "reboot_pending" and not cause:
            cause = f"reboot needed: {_dig(node, 'plan', 'reboot', 'reason') or 'see the plan'}"
        lines.append(("", ""))
        lines.append((f"{node['host']}: {node['status'].replace('_', ' ')}", node["status"]))
        lines.append((textwrap.indent(cause.strip() or "no message was given", "    "), node["status"]))
    return lines


def notices(nodes: list[dict[str, Any]]) -> list[str]:
    """What is well now and will not be for long, one line each."""
    return [
        f"{node['host']}: {warning}"
        for node in nodes
        for layer in node["layers"].values()
        for warning in layer.get("warnings") or []
    ]


def summary(fleet: dict[str, Any]) -> str:
    """``2 nodes: 2 verified; 0 changed tasks, 41.3 s`` in one line."""
    nodes = fleet["nodes"]
    changed = sum(len(node["changed_tasks"]) for node in nodes.values())
    totals = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in fleet["totals"].items())
    count = f"{len(nodes)} node" + ("" if len(nodes) == 1 else "s")
    tasks = f"{changed} changed task" + ("" if changed == 1 else "s")
    would = " (check mode: nothing was changed)" if fleet["check_mode"] else ""
    return f"{count}: {totals or 'none'}; {tasks}{would}; {fleet['seconds']:.1f} s"


def plans_of(nodes: list[dict[str, Any]], fleet: dict[str, Any]) -> dict[str, str]:
    """What a run that planned or diagnosed says of each node before its table, out of the documents."""
    # They read other files of this folder.
    from .diagnosis.render import render as render_diagnosis
    from .render import render

    planning = bool(fleet.get("check_mode")) or Path(str(fleet.get("playbook"))).stem == "plan"
    found = {}
    for node in nodes:
        diagnosed = node["status"] in ("healthy", "cause_found", "unknown")
        if diagnosed and node["status"] == "healthy":
            found[node["host"]] = render_diagnosis(node["diagnosis"])
        elif planning and not diagnosed and node.get("plan"):
            found[node["host"]] = render(node["plan"])
    return found


def report_text(
    nodes: list[dict[str, Any]], fleet: dict[str, Any], plans: dict[str, str] | None = None
) -> str:
    """The whole report as plain text: what ``playbooks/report.yml`` prints again."""
    plans = plans_of(nodes, fleet) if plans is None else plans
    blocks = [text.rstrip() for text in plans.values() if text]
    blocks.append("\n".join(line for line, _ in table(nodes)))
    trouble = "\n".join(line for line, _ in problems(nodes)).strip("\n")
    if trouble:
        blocks.append(trouble)
    if notices(nodes):
        blocks.append("\n".join(notices(nodes)))
    blocks.append(summary(fleet))
    return "\n\n".join(blocks) + "\n"


# --- files ------------------------------------------------------------------------------------------------


def _write_atomically(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        # As it stands: a table's line ends are its own. What a node says may be no Unicode at all.
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def file_name(host: str) -> str:
    """An inventory name as a file name that cannot leave its folder.

    >>> file_name("../x y")
    '.._x_y'
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", host)
    return f"_{name}" if name in {"", ".", "..", "fleet"} else name


def file_names(hosts: Iterable[str]) -> dict[str, str]:
    """Every node's file name, no two the same.

    >>> file_names(["a/b", "a_b"])
    {'a/b': 'a_b-c14cddc033f6', 'a_b': 'a_b'}
    """
    known = list(dict.fromkeys(hosts))
    # The same to file systems that know no capitals.
    many = Counter(file_name(host).lower() for host in known)
    return {
        host: file_name(host)
        if many[file_name(host).lower()] == 1 or file_name(host) == host.lower()
        else f"{file_name(host)}-{hashlib.sha256(host.encode(errors='replace')).hexdigest()[:12]}"
        for host in known
    }


def formats(nodes: list[dict[str, Any]], fleet: dict[str, Any]) -> dict[str, str]:
    """The run's files for people, for CI and for spreadsheets: made of the documents alone."""
    # They read this module.
    from . import report_csv, report_html, report_junit

    return {
        "junit.xml": report_junit.render(nodes, fleet),
        "fleet.csv": report_csv.render(nodes, fleet),
        "report.html": report_html.render(nodes, fleet),
    }


#: Where a run's acceptance records lie, in its folder.
ACCEPTANCES = "acceptance"


def load_acceptances(folders: Iterable[Path]) -> dict[str, tuple[dict[str, Any], str]]:
    """Some runs' acceptance records, ``{host: (record, text)}``: of a node in several, the last one's."""
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for folder in folders:
        for path in sorted((Path(folder) / ACCEPTANCES).glob("*.json")):
            record, readable = json.loads(path.read_text(encoding="utf-8")), path.with_suffix(".txt")
            said = readable.read_text(encoding="utf-8") if readable.is_file() else ""
            found[str(record["host"])] = (record, said)
    return found


def write_run(
    root: Path,
    run: str,
    nodes: list[dict[str, Any]],
    fleet: dict[str, Any],
    text: str,
    *,
    acceptances: Mapping[str, tuple[dict[str, Any], str]] | None = None,
) -> Path:
    """Write the run's folder, then point ``latest`` at it in one step. Returns the folder.

    A run of the same name (two runs within one second) gets a number, so no run overwrites another.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder, n = root / run, 1
    while True:
        try:
            folder.mkdir()
            break
        except FileExistsError:
            n += 1
            folder = root / f"{run}.{n}"
    nodes, fleet = [{**node, "run": folder.name} for node in nodes], {**fleet, "run": folder.name}
    names = file_names([node["host"] for node in nodes])
    for node in nodes:
        content = json.dumps(node, indent=2, sort_keys=False) + "\n"
        _write_atomically(folder / f"{names[node['host']]}.json", content)
    _write_atomically(folder / "report.txt", text)
    _write_atomically(folder / "fleet.json", json.dumps(fleet, indent=2) + "\n")
    for host, (record, readable) in (acceptances or {}).items():
        (folder / ACCEPTANCES).mkdir(exist_ok=True)
        path = folder / ACCEPTANCES / f"{file_name(host)}.json"
        # As it was signed, byte for byte: its digest is over what it says.
        _write_atomically(path, json.dumps(record, indent=2) + "\n")
        _write_atomically(path.with_suffix(".txt"), readable)
    for name, content in formats(nodes, fleet).items():
        _write_atomically(folder / name, content)
    link = root / f".latest.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    try:
        os.replace(link, root / "latest")
    except OSError:
        link.unlink(missing_ok=True)
        raise
    return folder


# --- by hand ----------------------------------------------------------------------------------------------


def rebuild(folder: Path, *, check: bool = False) -> list[str]:
    """Make the files anew from the documents in a run's folder. Returns the names of those that differed."""
    nodes, fleet = load_run(folder)
    made = formats(nodes, fleet)
    if not (folder / "report.txt").exists():
        # It alone says more than the documents, where a run only planned or diagnosed.
        made["report.txt"] = report_text(nodes, fleet)
    differ = [name for name, content in made.items() if _read(folder / name) != content]
    for name in () if check else differ:
        _write_atomically(folder / name, made[name])
    return sorted(differ)


def _read(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return stream.read()
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def join_runs(folders: list[Path], into: Path, *, run: str | None = None, check: bool = False) -> Path | None:
    """Make one run of several, below ``into``. Returns its folder; none where nothing is to be written."""
    nodes, fleet = merge(folders, run=run)
    text, acceptances = report_text(nodes, fleet), load_acceptances(folders)
    return None if check else write_run(into, fleet["run"], nodes, fleet, text, acceptances=acceptances)


def main(arguments: list[str] | None = None) -> int:
    """See the module's documentation."""
    parser = argparse.ArgumentParser(
        prog="python -m gpuready.report",
        description="Make a run's files anew from its JSON documents, or one run of several.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run's folder")
    parser.add_argument(
        "--into", type=Path, metavar="ARTIFACTS", help="where the one run of several is written"
    )
    parser.add_argument("--run", help="what it is to be called")
    given = parser.parse_args(arguments)
    if given.into is None and len(given.folders) > 1:
        parser.error("several folders: say with --into where the one run is to be written")
    try:
        if given.into is None:
            rebuild(given.folders[0])
            print(given.folders[0] / "report.html")
        else:
            print(f"{join_runs(given.folders, given.into, run=given.run)}/report.html")
    except (OSError, ValueError) as error:
        print(f"gpuready.report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
