"""The state of monitoring and continuous verification (role gpu_health)."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Dict, List, Optional

from . import packages
from .node import Node

PROGRAM = "/usr/local/lib/gpuready/gpuready-health.pyz"
STATE = "/var/lib/gpuready/health/"
RECORD = "/var/lib/gpuready/gpu_health.json"
PACKAGE = "prometheus-node-exporter"
# The kernel keeps 15 letters of a command's name.
EXPORTERS = ("prometheus-node", "node_exporter")
FLAG = "--collector.textfile.directory"


def health(
    node: Node, found: Optional[List[packages.Package]], textfile_directory: Optional[str]
) -> Dict[str, Any]:
    """What watches the node, what it last found, and who would publish its metrics."""
    program = node.data(PROGRAM)
    return {
        "program": None if program is None else hashlib.sha256(program).hexdigest(),
        "last_check": _last_check(node),
        "last_verify": _last_verify(node),
        "textfile_directory": None if textfile_directory is None else node.is_dir(textfile_directory),
        "node_exporter": _exporter(node, found),
    }


def _state(node: Node, name: str) -> Dict[str, Any]:
    try:
        content = json.loads(node.text(STATE + name) or "{}")
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {}


def _last_check(node: Node) -> Optional[Dict[str, Any]]:
    state = _state(node, "check.json")
    if not state:
        return None
    return {
        "at": state.get("at"),
        "ok": bool(state.get("ok")),
        "errors": list((state.get("nvml") or {}).get("errors") or []),
        "drift": [
            {key: row.get(key) for key in ("layer", "what", "expected", "found")}
            for row in state.get("drift") or []
            if row.get("drifted")
        ],
    }


def _last_verify(node: Node) -> Optional[List[Dict[str, Any]]]:
    state = _state(node, "verify.json")
    if not state:
        return None
    return [
        {
            "workload": row.get("workload"),
            "ok": bool(row.get("ok")),
            "at": row.get("at"),
            "seconds": row.get("seconds"),
            "gpus_listed": row.get("gpus_listed"),
            "findings": [item.get("finding") for item in row.get("findings") or []],
        }
        for row in state.get("results") or []
    ]


def _exporter(node: Node, found: Optional[List[packages.Package]]) -> Dict[str, Any]:
    """Debian's package, or any node_exporter that runs; its directory is the one that its command names."""
    package = None if found is None else packages.installed(found, PACKAGE) is not None
    running = False
    directory: Optional[str] = None
    for pid in (name for name in node.listdir("/proc") if name.isdigit()):
        try:
            if (node.text("/proc/%s/comm" % pid) or "").strip() not in EXPORTERS:
                continue
            words = (node.text("/proc/%s/cmdline" % pid) or "").split("\0")
        except OSError:  # it has ended
            continue
        running = True
        directory = _directory(words) or directory
    return {
        "installed": True if running else package,
        "package": package,
        "ours": bool(package) and PACKAGE in _recorded(node),
        "active": running,
        "directory": directory,
    }


def _recorded(node: Node) -> List[str]:
    """The packages that this role brought."""
    try:
        record = json.loads(node.text(RECORD) or "{}")
    except ValueError:
        return []
    return list(record.get("packages") or []) if isinstance(record, dict) else []


def _directory(words: List[str]) -> Optional[str]:
    """
    >>> _directory(["node_exporter", "--collector.textfile.directory=/a"])
    '/a'
    >>> _directory(["node_exporter", "--collector.textfile.directory", "/b"])
    '/b'
    """
    for index, word in enumerate(words):
        if word.startswith(FLAG + "="):
            return word[len(FLAG) + 1 :] or None
        if word == FLAG:
            return words[index + 1] if index + 1 < len(words) else None
    return None
