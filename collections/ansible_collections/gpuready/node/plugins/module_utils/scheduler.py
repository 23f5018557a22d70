# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""What Slurm's and Kubernetes' own programs say of a node, read. Pure; runs on nodes: Python 3.8."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Optional

#: Marks behind a state: not responding, powering up or down, rebooting, reserved, …
_MARKS = "*~#!%$@^-+"
_STATE = re.compile(r"(?:^|\s)State=(\S+)")
# A reason has spaces; the next field begins with a capital letter.
_REASON = re.compile(r"(?:^|\s)Reason=(.*?)(?=\s+[A-Z][A-Za-z]*=|\s*$)", re.S)
#: States in which jobs are still on the node.
_BUSY = {"ALLOCATED", "MIXED", "COMPLETING"}
#: States in which the scheduler gives a node no jobs, whoever is to blame.
_OUT = {"DRAIN", "DRAINED", "DRAINING", "DOWN", "FAIL", "FAILING"}


class SchedulerError(Exception):
    """What was said cannot be understood; the text says what it was."""


def slurm_node(said: str) -> Dict[str, Any]:
    """``{drained, busy, responding, state, reason}`` out of ``scontrol --oneliner show node NAME``.

    >>> slurm_node("NodeName=g1 State=MIXED+DRAIN Weight=1 Reason=fan [root@17:00]")
    {'drained': True, 'busy': True, 'responding': True, 'state': 'MIXED+DRAIN', 'reason': 'fan [root@17:00]'}
    """
    found = _STATE.search(said)
    if not found:
        raise SchedulerError("scontrol told no State= of the node: %s" % (said.strip()[:300] or "nothing"))
    state = found.group(1)
    words = {word.rstrip(_MARKS) for word in state.split("+")}
    reason = _REASON.search(said)
    return {
        "drained": bool(words & _OUT),
        "busy": bool(words & _BUSY),
        "responding": "*" not in state and "NOT_RESPONDING" not in words,
        "state": state,
        "reason": (reason.group(1).strip() or None) if reason else None,
    }


def kubernetes_node(said: str, what: str) -> Dict[str, Any]:
    """``{name, drained, busy, responding, state, reason}`` out of ``kubectl get nodes … --output json``.

    :param what: how the node was asked for, for messages.

    >>> kubernetes_node('{"metadata": {"name": "g1"}, "spec": {"unschedulable": true}}', "g1")["drained"]
    True
    """
    try:
        answer = json.loads(said)
    except ValueError:
        raise SchedulerError(
            "kubectl answered without JSON: %s" % (said.strip()[:300] or "nothing")
        ) from None
    rows: List[Any] = [answer]
    if isinstance(answer, dict) and isinstance(answer.get("items"), list):
        rows = answer["items"]
    if len(rows) != 1 or not isinstance(rows[0], dict):
        names = ", ".join(str(((row or {}).get("metadata") or {}).get("name")) for row in rows)
        raise SchedulerError(
            "%s must be one node of the cluster, and it is %s"
            % (what, "%d: %s" % (len(rows), names) if rows else "none")
        )
    row = rows[0]
    drained = bool((row.get("spec") or {}).get("unschedulable"))
    ready: Optional[str] = None
    for condition in (row.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "Ready":
            ready = str(condition.get("status"))
    state = {"True": "Ready", "False": "NotReady", None: "unknown"}.get(ready, "NotReady")
    return {
        "name": str((row.get("metadata") or {}).get("name")),
        "drained": drained,
        # Which pods are on it matters only to the drain, which waits for them itself.
        "busy": False,
        "responding": ready == "True",
        "state": state + (",SchedulingDisabled" if drained else ""),
        "reason": None,
    }
