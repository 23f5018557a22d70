# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""The page's upper part: what came of the run, and what many nodes have in common. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

from .report import BAD_STATUSES, LAYERS, STATUSES, layer_state, version_order
from .report_markup import Markup, bar, chooser, hosts_of, join, mark, panel, query, tag
from .report_view import (
    SPREADS,
    TITLES,
    TONES,
    WORDS,
    complaints,
    count,
    get,
    number,
    rows,
    spent,
    status_words,
    text,
    version_of,
    words,
)

#: So many rows of a panel are shown; the others are in the files beside the page.
ROWS = 40


def verdict(nodes: list[dict[str, Any]], fleet: dict[str, Any]) -> Markup:
    """The page's first sentence."""
    bad = sum(1 for node in nodes if node.get("status") in BAD_STATUSES)
    waiting = sum(
        1 for node in nodes if node.get("status") == "planned" and rows(get(node, "plan", "actions"))
    )
    missing = len(words(fleet.get("not_run")))
    good, many = len(nodes) - bad - waiting, count(len(nodes), "node")
    if not nodes:
        said, tone = "The run came to no node.", "unknown"
    elif bad:
        said, tone = f"{bad} of {many} {'is' if bad == 1 else 'are'} not as asked for", "bad"
        said += f", {good} {'is' if good == 1 else 'are'}" if good else ""
        said += f"; {waiting} {'is' if waiting == 1 else 'are'} still to be changed." if waiting else "."
    elif waiting:
        said, tone = f"{waiting} of {many} would be changed.", "todo"
    else:
        said = "The one node is as asked for." if len(nodes) == 1 else f"All {many} are as asked for."
        tone = "ok"
    if missing:
        said, tone = f"{said} The run stopped before it came to {count(missing, 'node')}.", "bad"
    return tag("p", mark(tone), said, class_=f"verdict {tone}")


def head(nodes: list[dict[str, Any]], fleet: dict[str, Any]) -> Markup:
    """What run this is, and what came of it."""
    facts = [
        ("run", fleet.get("run")),
        ("playbook", fleet.get("playbook")),
        ("started", tag("time", fleet.get("started"), datetime=fleet.get("started"))),
        ("took", spent(number(fleet.get("seconds")))),
    ]
    badges = []
    if fleet.get("check_mode"):
        badges.append(tag("span", "check mode: nothing was changed", class_="badge"))
    seen = {bool(node.get("simulated")) for node in nodes if node.get("gpu_stack") is not None}
    if seen == {True}:
        title = "the GPUs and the driver of these nodes are simulated"
        badges.append(tag("span", "simulated GPUs", class_="badge loud", title=title))
    return tag(
        "header",
        tag(
            "div",
            tag("h1", "gpuready ", tag("span", "fleet report")),
            tag(
                "div",
                *badges,
                tag("button", "Theme", type="button", id="theme", class_="js-only"),
                tag("button", "Keys", type="button", id="keys", class_="js-only", title="keyboard (?)"),
                class_="badges",
            ),
            class_="top",
        ),
        verdict(nodes, fleet),
        tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="run"),
    )


def tiles(nodes: list[dict[str, Any]], fleet: dict[str, Any]) -> Markup:
    """How many nodes are what."""
    totals = Counter(text(node.get("status")) for node in nodes)
    totals["not_run"] = len(words(fleet.get("not_run")))
    found = [
        tag(
            "button",
            tag("b", str(totals[status])),
            mark(TONES[status]),
            status_words(status),
            type="button",
            class_=f"tile {TONES[status]}",
            data_query=f"status:{status}",
            title=f"show status:{status}",
            aria_pressed="false",
        )
        for status in (*STATUSES, "not_run")
        if totals[status]
    ]
    return tag("nav", *found, class_="tiles", aria_label="Nodes by status")


def fleet_map(ordered: list[dict[str, Any]]) -> Markup:
    """Every node as a small column of its four layers."""
    cells = []
    for index, node in enumerate(ordered):
        status = text(node.get("status"))
        tones = [layer_state(get(node, "layers", layer)) for layer in LAYERS]
        cells.append(
            tag(
                "a",
                *(tag("i", class_=tone) for tone in tones),
                href=f"#n{index}",
                class_="cell trouble" if status in BAD_STATUSES else "cell",
                title=f"{text(node.get('host'))}: {status_words(status)}",
                tabindex="-1",
                data_n=index,
            )
        )
    legend = tag(
        "span",
        *(
            tag("span", tag("i", class_=tone), WORDS[tone], class_="key")
            for tone in ("ok", "todo", "bad", "unknown")
        ),
        class_="legend",
    )
    return tag(
        "section",
        tag(
            "h2",
            "Nodes and layers",
            tag("small", "each column is a node: " + ", ".join(TITLES[layer].lower() for layer in LAYERS)),
            legend,
        ),
        tag("div", *cells, class_="map", role="group", aria_label="Map of the nodes"),
        class_="panel wide",
    )


def causes_panel(nodes: list[dict[str, Any]]) -> Markup | None:
    """What is wrong, each thing once, and what to do."""
    found: dict[str, dict[str, Any]] = {}
    hosts: dict[str, list[str]] = {}
    for node in nodes:
        for complaint in complaints(node):
            found.setdefault(complaint["key"], complaint)
            hosts.setdefault(complaint["key"], []).append(text(node.get("host")))
    if not found:
        return None
    ranked = sorted(found, key=lambda key: (-len(hosts[key]), key))
    items = []
    for key in ranked[:ROWS]:
        cause, names = found[key], hosts[key]
        items.append(
            tag(
                "li",
                chooser(query("cause", key), tag("b", str(len(names))), class_="choose number"),
                tag(
                    "div",
                    tag(
                        "p",
                        tag("strong", cause["title"]),
                        tag("span", TITLES.get(text(cause["layer"]), text(cause["layer"])), class_="tagged")
                        if cause["layer"]
                        else None,
                        class_="title",
                    ),
                    tag("ul", *(tag("li", line) for line in cause["fix"]), class_="fix")
                    if cause["fix"]
                    else None,
                    tag("p", hosts_of(names)),
                ),
            )
        )
    more = f"; the {ROWS} most frequent are shown" if len(ranked) > ROWS else ""
    note = f"{count(len(ranked), 'cause')}{more}"
    return panel("What is wrong, and what to do", tag("ol", *items, class_="causes"), note=note, name="wide")


def spread_panel(nodes: list[dict[str, Any]]) -> Markup | None:
    """Which versions run in the fleet."""
    blocks = []
    for what, title in SPREADS:
        versions = Counter(version for node in nodes if (version := version_of(node, what)))
        if not versions:
            continue
        most = max(versions.values())
        order = sorted(versions, key=version_order, reverse=True)
        shown = order[:ROWS]
        lines = [
            tag(
                "li",
                chooser(query(what, version), tag("bdi", version)),
                bar(versions[version] / most),
                tag("span", str(versions[version]), class_="amount"),
            )
            for version in shown
        ]
        rest = tag("li", f"and {len(order) - len(shown)} more") if len(order) > len(shown) else None
        kinds = count(len(order), "version")
        blocks.append(
            tag("div", tag("h3", title, tag("small", kinds)), tag("ul", *lines, rest, class_="bars"))
        )
    if not blocks:
        return None
    return panel("Versions", tag("div", *blocks, class_="columns"), note="what runs now", name="wide")


def drift_panel(nodes: list[dict[str, Any]]) -> Markup | None:
    """What differed from the wishes when the run began."""
    hosts: dict[str, set[str]] = {}
    left: Counter[str] = Counter()
    new = 0
    for node in nodes:
        differing = rows(node.get("drift"))
        if not node.get("managed_before"):
            new += bool(differing)
            continue
        for row in differing:
            what = text(row.get("what"))
            if text(node.get("host")) not in hosts.setdefault(what, set()):
                hosts[what].add(text(node.get("host")))
                left[what] += row.get("remains") is True
    if not hosts and not new:
        return None
    most = max((len(names) for names in hosts.values()), default=1)
    ranked = sorted(hosts, key=lambda what: (-len(hosts[what]), what))
    lines = [
        tag(
            "li",
            chooser(query("drift", what), what),
            bar(len(hosts[what]) / most, "fill todo"),
            tag("span", f"{len(hosts[what])}", class_="amount"),
            tag("small", f"{left[what]} remain" if left[what] else "put right", class_="left"),
        )
        for what in ranked[:ROWS]
    ]
    strangers = (
        tag("p", f"{count(new, 'node')} new to gpuready: what was missing there is no drift.", class_="note")
        if new
        else None
    )
    none = tag("p", "No node that gpuready had set up before differed.", class_="note") if not lines else None
    body = tag("ul", *lines, class_="bars drift") if lines else none
    return panel("Drift", body, strangers, note="differed when the run began")


def timings_panel(nodes: list[dict[str, Any]]) -> Markup | None:
    """How long which stage took on how many nodes."""
    stages: dict[str, list[tuple[float, str]]] = {}
    for node in nodes:
        for row in rows(node.get("timings")):
            stages.setdefault(text(row.get("stage")), []).append(
                (number(row.get("seconds")), text(node.get("host")))
            )
    if not stages:
        return None
    longest = max(max(values)[0] for values in stages.values()) or 1.0
    lines = []
    for stage, values in stages.items():
        middle, (most, slowest) = statistics.median(seconds for seconds, _host in values), max(values)
        tail: Any = spent(most)
        if len(values) > 1:
            worst = chooser(query("host", slowest), tag("bdi", slowest))
            tail = join((tag("b", spent(middle)), f", slowest {spent(most)}", worst))
        lines.append(
            tag(
                "li",
                tag("span", stage, class_="label"),
                tag("span", tail, class_="amount"),
                bar(middle / longest, until=most / longest),
            )
        )
    return panel(
        "Time", tag("ul", *lines, class_="bars time"), note="per node and stage: median, and the slowest"
    )
