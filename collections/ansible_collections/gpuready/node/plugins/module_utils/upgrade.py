# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""A fleet's upgrade: which node is in which batch, when it stops, what becomes of each. Controller only."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .gpu_users import describe

#: The first node is the canary.
DEFAULT_BATCHES: tuple[int | str, ...] = (1, "25%", "50%", "100%")
#: The variables of playbooks/upgrade.yml.
VARIABLES = ("upgrade_batches", "upgrade_max_fail_percentage")
#: From this likeness on, a variable is taken for one of them, misspelt.
LOOKS_LIKE = 0.8

#: What is bound to become of a node that never begins.
FAILING = ("unreachable", "conflict", "in_the_way")


class UpgradeError(ValueError):
    """A setting that cannot be; the text names it, its place and the fix."""


def batch_sizes(value: Any) -> list[int | str]:
    """The sizes of the batches, as Ansible's ``serial`` takes them.

    Numbers of nodes and percentages of all nodes; a list, or a text with commas.

    >>> batch_sizes("1, 25%,100%")
    [1, '25%', '100%']
    """
    how = 'give numbers of nodes and percentages, as in [1, "25%", "50%", "100%"] or 1,25%,50%,100%'
    if value is None or value == "":
        return list(DEFAULT_BATCHES)
    items: Sequence[Any]
    if isinstance(value, str):
        # JSON on the command line arrives as text.
        items = [part.strip().strip("\"'") for part in value.strip().strip("[]").split(",")]
    elif isinstance(value, Sequence):
        items = value
    else:
        items = [value]
    if not items:
        raise UpgradeError(f"upgrade_batches is empty; {how}")
    return [_size(item, how) for item in items]


def _size(item: Any, how: str) -> int | str:
    text = str(item).strip()
    # Ansible's serial takes whole percentages only, and reads 0 as "all at once".
    if isinstance(item, bool) or not re.fullmatch(r"\d+%?", text, flags=re.ASCII):
        raise UpgradeError(f"upgrade_batches has {item!r}; {how}")
    number = int(text.rstrip("%"))
    if number == 0 or (text.endswith("%") and number > 100):
        limit = "1 % to 100 %" if text.endswith("%") else "1 or more"
        raise UpgradeError(f"upgrade_batches has {item!r}, which must be {limit}; {how}")
    return f"{number}%" if text.endswith("%") else number


def max_fail(value: Any) -> float:
    """``upgrade_max_fail_percentage`` as a number.

    >>> max_fail("10%"), max_fail(0)
    (10.0, 0.0)
    """
    text = str(0 if value is None or value == "" else value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"\d+(\.\d+)?%?", text) or float(text.rstrip("%")) > 100:
        raise UpgradeError(
            f"upgrade_max_fail_percentage is {value!r}; give how much of a batch may fail, 0 to 100 (%)"
        )
    return float(text.rstrip("%"))


def mistakes(sizes: Any, percentage: Any, names: Iterable[str] = ()) -> list[str]:
    """All that is wrong with the settings, each in one sentence.

    :param names: the variables that are set; one that looks like a setting but is none is misspelt.

    >>> mistakes([1, "50%"], 0, ["upgrade_batchs"])
    ['unknown variable upgrade_batchs: did you mean upgrade_batches?']
    """
    found = []
    for name in sorted({str(name) for name in names} - set(VARIABLES)):
        nearest = difflib.get_close_matches(name, VARIABLES, n=1, cutoff=LOOKS_LIKE)
        if nearest:
            found.append(f"unknown variable {name}: did you mean {nearest[0]}?")
    for check, value in ((batch_sizes, sizes), (max_fail, percentage)):
        try:
            check(value)
        except UpgradeError as error:
            found.append(str(error))
    return found


def batches(hosts: Sequence[str], sizes: Sequence[int | str]) -> list[list[str]]:
    """The hosts in batches, exactly as Ansible's ``serial`` cuts them.

    >>> batches(["a", "b", "c", "d", "e"], [1, "50%"])
    [['a'], ['b', 'c'], ['d', 'e']]
    """
    left, cut, turn = list(hosts), [], 0
    while left:
        size = _in_hosts(sizes[min(turn, len(sizes) - 1)], len(hosts))
        cut.append(left[:size])
        left = left[size:]
        turn += 1
    return cut


def _in_hosts(size: int | str, count: int) -> int:
    if isinstance(size, str):
        return int((int(size.rstrip("%")) / 100.0) * count) or 1
    return size


# --- while it runs ----------------------------------------------------------------------------------------


def stops(failed: int, size: int, percentage: float) -> bool:
    """Whether more of a batch has failed than may.

    Ansible itself stops behind a batch of which nobody came through, whatever the limit is.
    """
    return failed * 100.0 > percentage * size or failed == size


def turn(
    host: str, hosts: Sequence[str], sizes: Any, percentage: Any, done: Iterable[str] = ()
) -> dict[str, Any]:
    """A host's turn: ``{number, of, batch: [hosts], after: [hosts], last, stopped}``.

    :param done: the hosts that have come through so far. One that is not among them when its batch is over
        has failed, or was lost in the middle.

    ``last``: whether nothing behind its batch is begun when this one host fails.
    ``stopped``: why the turn does not come, or none: ``{number, size, failed: [hosts]}`` of the first
    batch of which too many failed.
    """
    limit, cut, through = max_fail(percentage), batches(hosts, batch_sizes(sizes)), set(done)
    stopped = None
    for number, batch in enumerate(cut, start=1):
        if host in batch:
            after = [other for later in cut[number:] for other in later]
            place = {"number": number, "of": len(cut), "batch": batch, "after": after}
            return {**place, "last": bool(after) and stops(1, len(batch), limit), "stopped": stopped}
        failed = [other for other in batch if other not in through]
        if stopped is None and stops(len(failed), len(batch), limit):
            stopped = {"number": number, "size": len(batch), "failed": failed}
    raise UpgradeError(f"{host} is in no batch")


# --- beforehand -------------------------------------------------------------------------------------------


def fate(node: Mapping[str, Any]) -> str:
    """What will become of a node: one of ``untouched``, ``upgrade``, ``finish`` and :data:`FAILING`.

    :param node: ``{plan, unverified, drain}``; ``drain`` is what ``node_drain`` saw (``look``), or none.
    """
    plan = node.get("plan") or {}
    drain = node.get("drain") or {}
    if not plan:
        return "unreachable"
    if plan.get("status") == "conflict":
        return "conflict"
    if plan.get("status") == "changes":
        return "in_the_way" if drain.get("refused") else "upgrade"
    if drain.get("record") or node.get("unverified"):
        return "in_the_way" if drain.get("refused") else "finish"
    return "untouched"


def forecast(nodes: Mapping[str, Mapping[str, Any]], sizes: Any, percentage: Any) -> dict[str, Any]:
    """All that is known beforehand: ``{batches: [{number, hosts: [{host, fate}], failing, stops}], …}``.

    :param nodes: host by host, in the order of the inventory, what :func:`fate` wants.
    """
    checked, limit = batch_sizes(sizes), max_fail(percentage)
    rows: list[dict[str, Any]] = []
    stopped = False
    for number, hosts in enumerate(batches(list(nodes), checked), start=1):
        members = [{"host": host, "fate": fate(nodes[host]), "reached": not stopped} for host in hosts]
        failing = [row["host"] for row in members if row["fate"] in FAILING]
        ends = stops(len(failing), len(hosts), limit)
        rows.append({"number": number, "hosts": members, "failing": failing, "stops": ends and not stopped})
        stopped = stopped or ends
    return {"sizes": checked, "max_fail_percentage": limit, "batches": rows, "stops": stopped}


def _change(plan: Mapping[str, Any]) -> str:
    """The plan in one line."""
    parts = []
    driver = plan.get("driver") or {}
    previous = (driver.get("previous") or {}).get("version")
    actions = [str(action.get("id")) for action in plan.get("actions") or []]
    if "driver.install" in actions and driver.get("version"):
        parts.append(f"driver {previous + ' → ' if previous else ''}{driver['version']}")
    if "host.reboot" in actions:
        parts.append("a reboot")
    elif "driver.reload" in actions:
        parts.append("a reload of the driver")
    return f"{', '.join(parts) or f'{len(actions)} actions'} ({', '.join(actions)})"


def _drained(drain: Mapping[str, Any]) -> list[str]:
    """How it is taken out of service, and who is in the way."""
    lines = [str(drain.get("how") or "")]
    scheduler = drain.get("scheduler") or {}
    if drain.get("record"):
        lines.append("it is drained already, by an upgrade that was cut off or failed")
    elif scheduler.get("drained"):
        reason = f" ({scheduler['reason']})" if scheduler.get("reason") else ""
        lines.append(f"somebody has drained it already{reason}: it stays so in the end")
    elif scheduler.get("busy"):
        lines.append("the scheduler has jobs on it, which are waited for")
    users = drain.get("users") or []
    if users:
        lines.append(f"on its GPUs: {', '.join(describe(user) for user in users)}: {drain.get('treatment')}")
    return [line for line in lines if line]


def text(nodes: Mapping[str, Mapping[str, Any]], sizes: Any, percentage: Any) -> str:
    """The forecast for people."""
    found = forecast(nodes, sizes, percentage)
    count = len(nodes)
    shown = ", ".join(str(size) for size in found["sizes"])
    lines = [
        f"{count} node{'' if count == 1 else 's'} in {len(found['batches'])} "
        f"batch{'' if len(found['batches']) == 1 else 'es'} (upgrade_batches: {shown}); "
        f"it stops behind a batch of which more than {found['max_fail_percentage']:g} % fail"
    ]
    for batch in found["batches"]:
        canary = ", the canary" if batch["number"] == 1 and len(batch["hosts"]) == 1 else ""
        lines.append(f"batch {batch['number']}{canary}")
        for row in batch["hosts"]:
            node = nodes[row["host"]]
            lines += [f"  {line}" for line in _host(row, node)]
        if batch["stops"]:
            failing = ", ".join(batch["failing"])
            lines.append(
                f"  it stops here: {failing} cannot be upgraded, and nothing behind this batch is begun"
            )
    return "\n".join(lines)


def _host(row: Mapping[str, Any], node: Mapping[str, Any]) -> list[str]:
    host, what = row["host"], row["fate"]
    plan, drain = node.get("plan") or {}, node.get("drain") or {}
    if what == "untouched":
        return [f"{host}: nothing to do; it stays in service"]
    if what == "unreachable":
        return [f"{host}: not reached, or not planned for (see above); it counts as failed"]
    if what == "conflict":
        conflicts = "; ".join(str(item.get("what")) for item in plan.get("conflicts") or [])
        return [f"{host}: a conflict, so nothing is done and it counts as failed: {conflicts}"]
    head = _change(plan) if plan.get("status") == "changes" else "it is up to date"
    ending = "" if plan.get("status") == "changes" else "; it is verified and put back into service"
    lines = [f"{host}: {head}{ending}", *(f"  {line}" for line in _drained(drain))]
    if what == "in_the_way":
        lines.append("  so nothing is done and it counts as failed")
    return lines
