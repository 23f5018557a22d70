# Apache-2.0 (see LICENSE)
"""Counts the driver's Xid errors of this boot, also those that the kernel's log has long forgotten.

Pure: the log and what was counted before go in. Runs on nodes: Python 3.8.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional

# NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', …; before driver 396 without "PCI:".
_XID = re.compile(
    r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2})(?:\.[0-7])?\): (\d+)"
)
# dmesg's and journalctl's short-monotonic: seconds since the boot.
_STAMP = re.compile(r"^(?:<\d+>)?\s*\[\s*(\d+\.\d+)\]")


def count(text: str, before: Optional[Dict[str, Any]], boot: Optional[str]) -> Dict[str, Any]:
    """`{boot, last, at_last: [lines], counts: {pci: {xid: n}}}`, from the log and from the state before.

    `last` is the stamp of the newest line counted. Lines with the same stamp are told apart by their words;
    the log's own repetition of a line with one stamp counts once.
    """
    state, _lines = follow(text, before, boot)
    return state


def follow(
    text: str, before: Optional[Dict[str, Any]], boot: Optional[str]
) -> "tuple[Dict[str, Any], List[Dict[str, Any]]]":
    """The new state, as `count` gives it, and what is new in the log: `[{xid, pci, line}]`."""
    state = before if before and before.get("boot") == boot else {}
    last = float(state.get("last") or 0.0)
    at_last: List[str] = list(state.get("at_last") or [])
    counts: Dict[str, Dict[str, int]] = {
        pci: dict(numbers) for pci, numbers in (state.get("counts") or {}).items()
    }
    lines = []
    for line in text.splitlines():
        found = _XID.search(line)
        if not found:
            continue
        stamp = _STAMP.match(line)
        moment = float(stamp.group(1)) if stamp else 0.0
        words = line[found.start() :].rstrip()
        if moment < last or (moment == last and words in at_last):
            continue
        if moment > last:
            last, at_last = moment, []
        at_last.append(words)
        pci = address(found.group(1))
        numbers = counts.setdefault(pci, {})
        numbers[found.group(2)] = numbers.get(found.group(2), 0) + 1
        lines.append({"xid": int(found.group(2)), "pci": pci + ".0", "line": words})
    return {"boot": boot, "last": last, "at_last": at_last, "counts": counts}, lines


def address(text: str) -> str:
    """
    >>> address("0000:3B:00"), address("00000000:3b:00")
    ('0000:3b:00', '0000:3b:00')
    """
    domain, _colon, rest = text.lower().partition(":")
    return "%04x:%s" % (int(domain, 16), rest)
