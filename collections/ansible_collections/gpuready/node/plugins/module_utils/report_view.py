# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""What a run's documents say, read for the formats that show them: the page, JUnit and CSV.

Pure; used on the controller only. The documents may be another version's, and what stands in them was said by
nodes: what has not the shape that it should have is not shown, and breaks nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from .report import BAD_STATUSES, LAYERS, NO_DRIVER, layer_state

#: How bad a status is: what needs somebody comes first.
SEVERITY = (
    "failed",
    "conflict",
    "cause_found",
    "rolled_back",
    "unreachable",
    "reboot_pending",
    "unknown",
    "not_run",
    "planned",
    "provisioned",
    "healthy",
    "verified",
)
#: The colour of a status.
TONES = {
    "verified": "ok",
    "healthy": "ok",
    "provisioned": "ok",
    "planned": "todo",
    "reboot_pending": "todo",
    "not_run": "unknown",
    "unknown": "bad",
    "rolled_back": "bad",
    "conflict": "bad",
    "failed": "bad",
    "cause_found": "bad",
    "unreachable": "bad",
}
WORDS = {"ok": "good", "bad": "broken", "todo": "to be done", "unknown": "unknown"}
TITLES = {
    "host": "Host",
    "container_runtime": "Container runtime",
    "framework": "Framework",
    "application": "Application",
}
#: What of a node's versions is counted, and the field of the search.
SPREADS = (
    ("driver", "Driver"),
    ("kernel", "Kernel"),
    ("docker", "Docker"),
    ("toolkit", "Toolkit"),
    ("os", "OS"),
)
# What neither HTML nor XML can carry, and what would let a text change the order of the texts around it.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_DIRECTING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def text(value: Any) -> str:
    """A value as a person reads it, without what no page can carry.

    >>> text("a\\x00b"), text(None), text(3.0)
    ('a\\ufffdb', '', '3.0')
    """
    if value is None:
        return ""
    return _DIRECTING.sub("\ufffd", _UNPRINTABLE.sub("\ufffd", str(value)))


def rows(value: Any) -> list[dict[str, Any]]:
    """A list's mappings; whatever else stands there is not shown."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, (list, tuple)) else []


def mapping(value: Any) -> dict[str, Any]:
    """A mapping; of anything else, an empty one."""
    return value if isinstance(value, dict) else {}


def words(value: Any) -> list[str]:
    """A list's texts."""
    return [text(word) for word in value] if isinstance(value, (list, tuple)) else []


def get(value: Any, *path: str) -> Any:
    """What stands at the end of a path of mappings, or None."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def number(value: Any) -> float:
    """A number, or 0."""
    return float(value) if isinstance(value, (int, float)) and value == value else 0.0


def natural(value: Any) -> list[tuple[int, str]]:
    """Sorts n2 before n10."""
    return [
        (int(digits or 0), other) for digits, other in re.findall(r"(\d{1,18})|(\D+|\d)", text(value).lower())
    ]


def seconds_of(node: dict[str, Any]) -> float:
    """How long the run worked on the node."""
    return sum(number(row.get("seconds")) for row in rows(node.get("timings")))


def spent(seconds: float) -> str:
    """
    >>> spent(0.31), spent(41.2), spent(125), spent(7300)
    ('0.3 s', '41 s', '2 min 5 s', '2 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def status_words(status: Any) -> str:
    """``reboot pending``."""
    return text(status).replace("_", " ")


def count(many: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{many} {noun}{'' if many == 1 else 's'}"


def roots(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The causes of what is wrong, as the diagnosis ranks them."""
    return [row for row in rows(get(node, "diagnosis", "causes")) if row.get("standing") == "root"]


#: What differs between nodes to which the same has happened.
_NUMBERS = re.compile(r"\b(process|pid|port)( |=)\d+|0x[0-9a-f]+", re.I)
#: The line of a program's output that says what it was.
_REASON = re.compile(r"^\s*(?:E:|error:|fatal:|\w*Error:)", re.I)


def _key(kind: str, line: str) -> str:
    said = _NUMBERS.sub(r"\1 #", line)
    return f"{kind}-{hashlib.sha256(said.encode(errors='replace')).hexdigest()[:8]}"


def _first_words(node: dict[str, Any]) -> str:
    """What an error begins with and, where it quotes a program, that program's reason."""
    lines = text(node.get("error")).strip().splitlines() or ["no message was given"]
    said = " ".join([lines[0], *[line.strip() for line in lines[1:] if _REASON.match(line)][:1]])
    # The same of every node, but for its name and its address.
    for own in (text(node.get("host")), text(node.get("address"))):
        said = said.replace(own, "\N{HORIZONTAL ELLIPSIS}") if len(own) > 2 else said
    return said


def complaints(node: dict[str, Any]) -> list[dict[str, Any]]:
    """What is wrong with a node, for lists over many: ``[{key, layer, title, fix}]``."""
    if node.get("status") not in BAD_STATUSES:
        return []
    found = [
        {
            "key": text(cause.get("cause")),
            "layer": cause.get("layer"),
            "title": text(cause.get("title")),
            "fix": words(cause.get("fix")),
        }
        for cause in roots(node)
    ]
    if not found:
        found = [
            {
                "key": text(row.get("id")),
                "layer": row.get("layer"),
                "title": text(row.get("what")),
                "fix": words(row.get("options")),
            }
            for row in rows(get(node, "plan", "conflicts"))
        ]
    if not found and node.get("status") == "reboot_pending":
        reason = text(get(node, "plan", "reboot", "reason")) or "see the plan"
        found = [{"key": "reboot", "layer": "host", "title": f"a reboot is needed: {reason}", "fix": []}]
    if not found:
        found = [
            {
                "key": text(finding.get("cause")) or _key("finding", text(finding.get("finding"))),
                "layer": finding.get("layer"),
                "title": text(finding.get("finding")),
                "fix": words(finding.get("fix")),
            }
            for verification in rows(node.get("verification"))
            if not verification.get("ok")
            for finding in rows(verification.get("findings"))
        ]
    if not found:
        line = _first_words(node)
        found = [{"key": _key("error", line), "layer": None, "title": line[:300], "fix": []}]
    return found


def version_of(node: dict[str, Any], what: str) -> str | None:
    """A node's version; ``none`` where the node was looked at and has none, None where nobody looked."""
    version = get(node, "versions", what)
    if version:
        return text(version)
    return NO_DRIVER if node.get("gpu_stack") is not None else None


def told(node: dict[str, Any]) -> str:
    """The verdict's one line."""
    found = complaints(node)
    if node.get("status") == "planned":
        waiting = len(rows(get(node, "plan", "actions")))
        return f"{count(waiting, 'action')} to do" if waiting else "nothing to do"
    if not found:
        changed = len(words(node.get("changed_tasks")))
        return count(changed, "changed task") if changed else "nothing changed"
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0]['title']}{more}"


def fields_of(node: dict[str, Any]) -> dict[str, Any]:
    """What the search's fields know of a node, several values parted by line ends."""
    drifted = (
        words([row.get("what") for row in rows(node.get("drift"))]) if node.get("managed_before") else []
    )
    fields: dict[str, Sequence[str]] = {
        "host": [text(node.get("host"))],
        "address": [text(node.get("address"))],
        "group": words(node.get("groups")),
        "status": [text(node.get("status"))],
        "cause": [complaint["key"] for complaint in complaints(node)],
        "drift": list(dict.fromkeys(drifted)),
        "stage": [text(node.get("error_stage"))],
        "is": ["trouble" if node.get("status") in BAD_STATUSES else "well"],
        **{what: [version_of(node, what) or ""] for what, _title in SPREADS},
        # The field `host` is a node's name, and where a tone is looked for, its first layer.
        **{
            "host_layer" if layer == "host" else layer: [layer_state(get(node, "layers", layer))]
            for layer in LAYERS
        },
    }
    return {
        f"data_f_{name}": "\n".join(value for value in values if value) or None
        for name, values in fields.items()
    }


def order(nodes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The worst first, then by name."""

    def key(node: dict[str, Any]) -> tuple[int, list[tuple[int, str]]]:
        status = text(node.get("status"))
        return (SEVERITY.index(status) if status in SEVERITY else 0, natural(node.get("host")))

    return sorted(nodes, key=key)
