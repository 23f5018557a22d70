# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""``report.html``: a run as one page that needs nothing but a browser. Pure; used on the controller only.

The page is whole without its script (everything is open then), and the script adds filter, search and sort.
What nodes said becomes text and nothing else: :func:`tag` escapes every child that is no :class:`Markup`, and
the page's own policy lets no script and no style run but the two that are in data/report.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .catalog import data_directory
from .report import BAD_STATUSES, LAYERS, NO_DRIVER, STATUSES, file_names, summary, version_order

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
MARKS = {"ok": "\N{HEAVY CHECK MARK}", "bad": "\N{HEAVY BALLOT X}", "todo": "\N{RIGHTWARDS ARROW}"}
UNKNOWN_MARK = "\N{MIDDLE DOT}"
WORDS = {"ok": "good", "bad": "broken", "todo": "to be done", "unknown": "unknown"}
TITLES = {
    "host": "Host",
    "container_runtime": "Container runtime",
    "framework": "Framework",
    "application": "Application",
}
#: Lists that say the same of many nodes name so many of them.
NAMED = 12
#: So many rows of a panel are shown; the others are in the files beside the page.
ROWS = 40
#: Before anything is drawn: the page is made for a script, if there is one.
HEAD_SCRIPT = 'document.documentElement.classList.add("js");'

_VOID = frozenset({"meta", "link", "input", "col"})
# What neither HTML nor XML can carry, and what would let a text change the order of the texts around it.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_DIRECTING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


# --- markup -----------------------------------------------------------------------------------------------


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def text(value: Any) -> str:
    """A value as a person reads it, without what no page can carry.

    >>> text("a\\x00b"), text(None), text(3.0)
    ('a\\ufffdb', '', '3.0')
    """
    if value is None:
        return ""
    return _DIRECTING.sub("\ufffd", _UNPRINTABLE.sub("\ufffd", str(value)))


def escaped(value: Any) -> Markup:
    """A child as markup."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(text(value), quote=True))


def join(children: Iterable[Any], between: Any = "") -> Markup:
    """Children in a row."""
    return Markup(escaped(between).join(escaped(child) for child in children if child is not None))


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """An element. ``class_`` is class, ``data_x`` is data-x; None and False leave an attribute out.

    >>> tag("a", "1 < 2", href="#x", title='"')
    '<a href="#x" title="&quot;">1 &lt; 2</a>'
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{escaped(value)}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if name in _VOID else f"{start}{join(children)}</{name}>")


# --- reading ----------------------------------------------------------------------------------------------


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


def layer_tone(layer: Any) -> str:
    """``ok``, ``bad``, ``todo`` (only the plan is not done) or ``unknown``."""
    ok = get(layer, "ok")
    if ok is False:
        return "todo" if get(layer, "actions") and not get(layer, "findings") else "bad"
    return "ok" if ok is True else "unknown"


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
        line = (text(node.get("error")).strip().splitlines() or ["no message was given"])[0]
        # The same of every node, but for its name and its address.
        for own in (text(node.get("host")), text(node.get("address"))):
            line = line.replace(own, "\N{HORIZONTAL ELLIPSIS}") if len(own) > 2 else line
        key = f"error-{hashlib.sha256(line.encode(errors='replace')).hexdigest()[:8]}"
        found = [{"key": key, "layer": None, "title": line[:300], "fix": []}]
    return found


# --- pieces -----------------------------------------------------------------------------------------------


def mark(tone: str) -> Markup:
    """A colour's sign, and its word for those who cannot see it."""
    return join(
        (
            tag("span", MARKS.get(tone, UNKNOWN_MARK), class_="mark", aria_hidden="true"),
            tag("span", f"{WORDS[tone]} ", class_="vh"),
        )
    )


def pill(status: Any) -> Markup:
    """A status in its colour."""
    tone = TONES.get(text(status), "unknown")
    return tag("span", mark(tone), status_words(status), class_=f"pill {tone}")


def bar(share: float, tone: str = "fill", until: float | None = None) -> Markup:
    """A bar of a share of its width, and a thin one until another share. Widths are attributes: no style."""

    def percent(part: float) -> str:
        return f"{max(0.0, min(1.0, part)) * 100:.2f}%"

    thin = tag("rect", class_="thin", x="0", y="5", width=percent(until), height="2") if until else None
    return tag(
        "svg",
        tag("rect", class_="track", width="100%", height="12", rx="2"),
        thin,
        tag("rect", class_=tone, width=percent(share), height="12", rx="2"),
        class_="bar",
        height="12",
        aria_hidden="true",
    )


def query(field: str, value: Any) -> str:
    """``driver:580.95.05``: what the search field understands."""
    said = text(value).replace('"', " ")
    return f'{field}:"{said}"' if re.search(r"[\s,]", said) or not said else f"{field}:{said}"


def chooser(said: str, *children: Any, class_: str = "choose") -> Markup:
    """A button that searches for something."""
    return tag("button", *children, type="button", class_=class_, data_query=said, title=f"show {said}")


def hosts_of(names: Sequence[str]) -> Markup:
    """Some nodes' names, and how many there are more."""
    some = join((tag("bdi", name) for name in names[:NAMED]), ", ")
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return tag("span", some, more, class_="names")


def panel(title: str, *children: Any, note: str = "", name: str = "") -> Markup:
    """A block of the overview."""
    heading = tag("h2", title, tag("small", note) if note else None)
    return tag("section", heading, *children, class_=f"panel {name}".strip())


# --- overview ---------------------------------------------------------------------------------------------


def verdict(nodes: list[dict[str, Any]], fleet: dict[str, Any]) -> Markup:
    """The page's first sentence."""
    bad = sum(1 for node in nodes if node.get("status") in BAD_STATUSES)
    missing = len(words(fleet.get("not_run")))
    good = len(nodes) - bad
    planned = sum(1 for node in nodes if node.get("status") == "planned")
    if not nodes:
        said, tone = "The run came to no node.", "unknown"
    elif not bad and not missing:
        well = "is as asked for" if planned == 0 else "can become what is asked for"
        all_of = "The one node" if len(nodes) == 1 else f"All {len(nodes)} nodes"
        said = f"{all_of} {well if len(nodes) == 1 else well.replace('is as', 'are as')}."
        tone = "todo" if planned else "ok"
    else:
        verb = "is" if bad == 1 else "are"
        said = f"{bad} of {count(len(nodes), 'node')} {verb} not as asked for" + (
            f", {good} {'is' if good == 1 else 'are'}." if good else "."
        )
        tone = "bad"
    if missing:
        said += f" The run stopped before it came to {count(missing, 'node')}."
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
        tones = [layer_tone(get(node, "layers", layer)) for layer in LAYERS]
        cells.append(
            tag(
                "a",
                *(tag("i", class_=tone) for tone in tones),
                href=f"#n{index}",
                class_=f"cell {TONES.get(status, 'unknown')}",
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


#: What of a node's versions is counted, and the field of the search.
SPREADS = (
    ("driver", "Driver"),
    ("kernel", "Kernel"),
    ("docker", "Docker"),
    ("toolkit", "Toolkit"),
    ("os", "OS"),
)


def version_of(node: dict[str, Any], what: str) -> str | None:
    """A node's version; ``none`` where the node was looked at and has none, None where nobody looked."""
    version = get(node, "versions", what)
    if version:
        return text(version)
    return NO_DRIVER if node.get("gpu_stack") is not None else None


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


# --- the table --------------------------------------------------------------------------------------------


def toolbar(nodes: list[dict[str, Any]]) -> Markup:
    """Search and filters; they need the script."""
    groups = Counter(group for node in nodes for group in words(node.get("groups")))
    choices = [tag("option", "all groups", value="")]
    choices += [
        tag("option", f"{group} ({groups[group]})", value=query("group", group))
        for group in sorted(groups, key=natural)
    ]
    layers = [tag("option", "any layer", value="")]
    layers += [
        tag("option", f"{TITLES[layer]}: {WORDS[tone]}", value=f"{layer}:{tone}")
        for layer in LAYERS
        for tone in ("bad", "todo", "unknown", "ok")
    ]
    return tag(
        "div",
        tag("label", "Search", for_="q", class_="vh"),
        tag(
            "input",
            type="search",
            id="q",
            placeholder="Search: gpu17, driver:580, status:failed, -group:canary   ( / )",
            autocomplete="off",
            spellcheck="false",
        ),
        tag("label", tag("span", "Group", class_="vh"), tag("select", *choices, id="group"))
        if len(groups) > 1
        else None,
        tag("label", tag("span", "Layer", class_="vh"), tag("select", *layers, id="layer")),
        tag("button", "Trouble only", type="button", id="trouble", aria_pressed="false"),
        tag("button", "Open all", type="button", id="all", aria_pressed="false"),
        tag("button", "Names for --limit", type="button", id="names"),
        tag("button", "Clear", type="button", id="clear"),
        tag("output", count(len(nodes), "node"), id="shown", aria_live="polite"),
        tag(
            "input",
            type="text",
            id="limit",
            readonly=True,
            hidden=True,
            aria_label="Names of the nodes shown",
        ),
        class_="toolbar js-only",
        role="search",
    )


def layer_cell(node: dict[str, Any], layer: str) -> Markup:
    """What a layer of a node is."""
    known = get(node, "layers", layer)
    tone = layer_tone(known)
    detail = text(get(known, "detail"))
    warned = words(get(known, "warnings"))
    version = text(get(known, "version"))
    if not version:
        version, detail = detail or "\N{EN DASH}", ""
    return tag(
        "td",
        tag("span", f"{TITLES[layer]} ", class_="small-only label"),
        tag(
            "div",
            tag("div", mark(tone), tag("bdi", version), class_=f"first {tone}"),
            tag("div", detail, class_="detail-line") if detail and tone != "ok" else None,
            *(tag("div", warning, class_="warning") for warning in warned),
            class_=f"layer {tone}",
        ),
        data_k=f"{('bad', 'todo', 'unknown', 'ok').index(tone)} {text(get(known, 'version'))}",
    )


def told(node: dict[str, Any]) -> str:
    """The verdict's one line."""
    found = complaints(node)
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
            "host_layer" if layer == "host" else layer: [layer_tone(get(node, "layers", layer))]
            for layer in LAYERS
        },
    }
    return {
        f"data_f_{name}": "\n".join(value for value in values if value) or None
        for name, values in fields.items()
    }


def node_rows(index: int, node: dict[str, Any], path: str, *, mixed: bool, common: set[str]) -> Markup:
    """A node's line and what opens below it.

    :param path: of the node's own document, beside the page.
    :param mixed: some nodes are simulated, and some are not.
    :param common: groups that every node is in.
    """
    status = text(node.get("status"))
    name = text(node.get("host"))
    address = text(node.get("address"))
    groups = [group for group in words(node.get("groups")) if group not in common]
    button = tag(
        "button",
        tag("span", "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}", class_="turn js-only", aria_hidden="true"),
        tag("bdi", name),
        type="button",
        class_="node",
        aria_expanded="true",
        aria_controls=f"d{index}",
    )
    below = [tag("bdi", address)] if address and address != name else []
    below += [tag("span", group, class_="tagged") for group in groups[:4]]
    line = tag(
        "tr",
        tag(
            "th",
            button,
            tag("div", join(below, " "), class_="below") if below else None,
            scope="row",
            data_k=name,
        ),
        *(layer_cell(node, layer) for layer in LAYERS),
        tag(
            "td",
            pill(status),
            tag("span", "simulated", class_="tagged") if mixed and node.get("simulated") else None,
            acceptance_badge(node),
            tag("div", told(node), class_="told"),
            data_k=f"{SEVERITY.index(status) if status in SEVERITY else 0:02d}",
        ),
        tag("td", spent(seconds_of(node)), class_="right", data_k=f"{seconds_of(node):.2f}"),
        class_="line",
    )
    detail = tag("tr", tag("td", node_detail(node, path), colspan="7"), class_="detail", id=f"d{index}")
    return tag(
        "tbody",
        line,
        detail,
        id=f"n{index}",
        class_=f"entry {TONES.get(status, 'unknown')}",
        **fields_of(node),
    )


def acceptance_badge(node: dict[str, Any]) -> Markup | None:
    """Whether the node was accepted into service in this run."""
    answer = text(get(node, "acceptance", "verdict"))
    if not answer:
        return None
    return tag("span", answer, class_=f"tagged {'ok' if answer == 'accepted' else 'bad'}")


def lost_rows(index: int, name: str) -> Markup:
    """A node that the run did not come to."""
    line = tag(
        "tr",
        tag("th", tag("bdi", name), scope="row", data_k=name),
        tag("td", "the run stopped before it came to this node", colspan="4"),
        tag("td", pill("not_run"), data_k=f"{SEVERITY.index('not_run'):02d}"),
        tag("td", "", class_="right", data_k="0"),
        class_="line",
    )
    return tag(
        "tbody",
        line,
        id=f"n{index}",
        class_="entry unknown",
        data_f_host=name,
        data_f_status="not_run",
        data_f_is="trouble",
    )


def table(ordered: list[dict[str, Any]], fleet: dict[str, Any]) -> Markup:
    """Every node, the worst first."""
    columns = ("Node", *(TITLES[layer] for layer in LAYERS), "Verdict", "Time")
    header = tag(
        "tr",
        *(
            tag(
                "th",
                tag("button", column, type="button", class_="sort"),
                scope="col",
                class_="right" if column == "Time" else None,
            )
            for column in columns
        ),
    )
    widths = ("w-node", *(f"w-{layer}" for layer in LAYERS), "w-verdict", "w-time")
    mixed = len({bool(node.get("simulated")) for node in ordered if node.get("gpu_stack") is not None}) > 1
    groups = [set(words(node.get("groups"))) for node in ordered]
    common = set.intersection(*groups) if groups else set()
    names = file_names([node["host"] for node in ordered])
    bodies = [
        node_rows(index, node, f"{names[node['host']]}.json", mixed=mixed, common=common)
        for index, node in enumerate(ordered)
    ]
    bodies += [lost_rows(len(ordered) + n, name) for n, name in enumerate(words(fleet.get("not_run")))]
    return tag(
        "table",
        tag("caption", "Every node and what its layers are", class_="vh"),
        tag("colgroup", *(tag("col", class_=width) for width in widths)),
        tag("thead", header),
        *bodies,
        id="nodes",
    )


# --- a node's own part ------------------------------------------------------------------------------------


def block(title: str, *children: Any) -> Markup | None:
    """A part of a node's detail; without content, none."""
    body = join(children)
    return tag("section", tag("h4", title), body) if body else None


def listed(lines: Iterable[Any], class_: str | None = None) -> Markup | None:
    """A list; of nothing, none."""
    items = [tag("li", line) for line in lines]
    return tag("ul", *items, class_=class_) if items else None


def cause_part(cause: dict[str, Any]) -> Markup:
    """One cause with its evidence and its fix."""
    confidence = number(cause.get("confidence"))
    sure = "certain" if cause.get("certain") else f"confidence {confidence:.0%}" if confidence else ""
    labels = [TITLES.get(text(cause.get("layer")), text(cause.get("layer"))), text(cause.get("cause")), sure]
    parts = [
        tag(
            "p",
            tag("strong", cause.get("title")),
            *(tag("span", label, class_="tagged") for label in labels if label),
        )
    ]
    for title, key, class_ in (
        ("seen", "evidence", None),
        ("fix", "fix", "fix"),
        ("check", "check", "commands"),
    ):
        lines = listed(words(cause.get(key)), class_)
        if lines:
            parts.append(tag("div", tag("span", title, class_="label"), lines, class_="labelled"))
    if cause.get("distinguish"):
        parts.append(tag("p", cause.get("distinguish"), class_="note"))
    return tag("div", *parts, class_="cause")


def wrong_part(node: dict[str, Any]) -> Markup | None:
    """Error, causes, conflicts and findings."""
    parts: list[Any] = []
    if node.get("error"):
        stage = f" (in {text(node.get('error_stage'))})" if node.get("error_stage") else ""
        parts.append(tag("div", tag("span", f"said{stage}", class_="label"), tag("pre", text(node["error"]))))
    named = roots(node) if node.get("status") in BAD_STATUSES else []
    parts += [cause_part(cause) for cause in named]
    parts += [
        cause_part(
            {
                "title": row.get("what"),
                "cause": row.get("id"),
                "layer": row.get("layer"),
                "evidence": row.get("because"),
                "fix": row.get("options"),
            }
        )
        for row in rows(get(node, "plan", "conflicts"))
    ]
    known = {text(cause.get("cause")) for cause in named}
    for verification in rows(node.get("verification")):
        if verification.get("ok"):
            continue
        parts += [
            cause_part({**finding, "title": finding.get("finding")})
            for finding in rows(verification.get("findings"))
            if text(finding.get("cause")) not in known or not finding.get("cause")
        ]
    back = node.get("rolled_back")
    if isinstance(back, dict):
        said = f"driver {text(back.get('from'))} was taken back, {text(back.get('to'))} is there again"
        parts.append(tag("div", tag("p", tag("strong", said)), tag("pre", back.get("why")), class_="cause"))
    rejected = node.get("acceptance")
    if isinstance(rejected, dict) and rejected.get("verdict"):
        parts.append(tag("p", tag("strong", f"acceptance: {text(rejected['verdict'])}")))
        parts.append(listed(words(rejected.get("because"))))
    return block("What is wrong" if node.get("status") in BAD_STATUSES else "Noteworthy", *parts)


def chain_part(node: dict[str, Any]) -> Markup | None:
    """The diagnosis' chain from the bus to the operation."""
    links = rows(get(node, "diagnosis", "chain"))
    if not links:
        return None
    items = []
    for link in links:
        state = link.get("state")
        tone = "ok" if state is True else "bad" if state is False else "unknown"
        evidence = "; ".join(words(link.get("evidence")))
        items.append(
            tag("li", mark(tone), status_words(link.get("link")), class_=tone, title=evidence or None)
        )
    return block("Chain", tag("ol", *items, class_="chain"))


def plan_part(node: dict[str, Any]) -> Markup | None:
    """What remains to be done, and the plan's notes."""
    steps = [
        join(
            (
                tag("code", row.get("id")),
                " ",
                row.get("summary"),
                tag("div", f"because {text(row.get('reason'))}", class_="note")
                if row.get("reason")
                else None,
            )
        )
        for row in rows(get(node, "plan", "actions"))
    ]
    return join(
        (
            block("Remains to be done", listed(steps)),
            block("Notes", listed(words(get(node, "plan", "notes")))),
        )
    )


def drift_part(node: dict[str, Any]) -> Markup | None:
    """What differed, of a node that gpuready knew already."""
    found = rows(node.get("drift"))
    if not found or not node.get("managed_before"):
        return None
    ended = {True: "still so", False: "put right", None: "not known"}
    lines = [
        tag(
            "tr",
            tag("td", tag("code", row.get("what"))),
            tag("td", row.get("expected")),
            tag("td", row.get("found")),
            tag("td", "the node's own check" if row.get("source") == "check" else "the plan"),
            tag("td", ended.get(row.get("remains") if isinstance(row.get("remains"), bool) else None)),
        )
        for row in found
    ]
    header = tag(
        "tr", *(tag("th", name, scope="col") for name in ("what", "expected", "found", "seen by", "now"))
    )
    return block("Drift", tag("table", tag("thead", header), tag("tbody", *lines), class_="plain"))


def verification_part(node: dict[str, Any]) -> Markup | None:
    """What the frameworks said."""
    found = rows(node.get("verification"))
    if not found:
        return None
    lines = []
    for row in found:
        framework = mapping(row.get("framework"))
        version = " ".join(text(framework.get(key)) for key in ("name", "version") if framework.get(key))
        cuda = f", CUDA {text(framework['cuda'])}" if framework.get("cuda") else ""
        lines.append(
            tag(
                "tr",
                tag("td", mark("ok" if row.get("ok") else "bad"), row.get("workload")),
                tag("td", f"{text(row.get('gpus_listed') or 0)} of {text(row.get('gpus_expected'))}"),
                tag("td", version + cuda),
                tag("td", f"{text(row.get('level'))}, {text(get(row, 'launch', 'way'))}"),
                tag("td", spent(number(row.get("seconds"))), class_="right"),
                tag("td", tag("code", row.get("digest") or row.get("image") or row.get("python"))),
            )
        )
    names = ("workload", "GPUs", "framework", "how", "took", "out of")
    header = tag("tr", *(tag("th", name, scope="col") for name in names))
    return block("Verified", tag("table", tag("thead", header), tag("tbody", *lines), class_="plain"))


def time_part(node: dict[str, Any]) -> Markup | None:
    """Where the node's time went."""
    found = rows(node.get("timings"))
    if not found:
        return None
    longest = max(number(row.get("seconds")) for row in found) or 1.0
    lines = [
        tag(
            "li",
            tag("span", row.get("stage"), class_="label"),
            tag("span", spent(number(row.get("seconds"))), class_="amount"),
            bar(number(row.get("seconds")) / longest),
        )
        for row in found
    ]
    slow = [
        join((f"{spent(number(row.get('seconds')))} ", row.get("task")))
        for row in rows(node.get("slow_tasks"))[:5]
    ]
    return block(
        "Time",
        tag("ul", *lines, class_="bars time"),
        tag("p", "Longest tasks", class_="label") if slow else None,
        listed(slow),
    )


def facts_part(node: dict[str, Any], path: str) -> Markup | None:
    """Versions, and what the run did.

    :param path: of the node's own document, beside the page.
    """
    known = mapping(node.get("versions"))
    change = node.get("driver_change")
    driver = " ".join(text(known.get(key)) for key in ("driver", "flavour") if known.get(key))
    moved = (
        f"{text(change.get('from'))} \N{RIGHTWARDS ARROW} {text(change.get('to'))}"
        if isinstance(change, dict)
        else ""
    )
    facts = [
        ("address", node.get("address")),
        ("groups", ", ".join(words(node.get("groups")))),
        ("OS", known.get("os")),
        ("kernel", known.get("kernel")),
        ("driver", driver),
        ("driver changed", moved),
        ("Docker", known.get("docker")),
        ("toolkit", known.get("toolkit")),
        ("reboots", node.get("reboots") or None),
        ("driver reloads", node.get("reloads") or None),
        ("module executions", node.get("module_executions")),
        ("apt transactions", node.get("apt_transactions")),
    ]
    shown = [
        tag("div", tag("dt", name), tag("dd", tag("bdi", value)))
        for name, value in facts
        if value not in (None, "")
    ]
    record = text(get(node, "acceptance", "file"))
    document = tag(
        "p",
        "everything: ",
        tag("a", path, href=f"./{path}"),
        tag("span", ", acceptance record: ", tag("a", record, href=f"./{record}")) if record else None,
        class_="note",
    )
    return block("Node", tag("dl", *shown, class_="facts"), document)


def node_detail(node: dict[str, Any], path: str) -> Markup:
    """What opens below a node's line."""
    changed = words(node.get("changed_tasks"))
    left = (wrong_part(node), chain_part(node), plan_part(node), drift_part(node), verification_part(node))
    right = (facts_part(node, path), time_part(node), block("Changed", listed(changed)))
    return tag("div", tag("div", *left, class_="main"), tag("div", *right, class_="aside"), class_="details")


# --- the page ---------------------------------------------------------------------------------------------

KEYS = (
    ("/", "search"),
    ("j, k or the arrows", "next, previous node"),
    ("Enter", "open or close the node"),
    ("t", "trouble only"),
    ("e", "open or close all that are shown"),
    ("Escape", "clear the search"),
    ("?", "this list"),
)
FIELDS = (
    "host",
    "address",
    "group",
    "is",
    "status",
    "cause",
    "drift",
    "stage",
    *(what for what, _title in SPREADS),
    *LAYERS,
)


def help_dialog() -> Markup:
    """The keyboard, and what the search understands."""
    keys = [tag("div", tag("dt", tag("kbd", key)), tag("dd", what)) for key, what in KEYS]
    return tag(
        "dialog",
        tag("h2", "Keys"),
        tag("dl", *keys, class_="facts"),
        tag("h2", "Search"),
        tag(
            "p",
            "All words must be found. ",
            tag("code", "field:value"),
            " looks at the beginning of one field (",
            ", ".join(FIELDS),
            "), ",
            tag("code", "a,b"),
            " means either, ",
            tag("code", "-word"),
            " means not, ",
            tag("code", '"two words"'),
            " belong together. A layer is ok, todo, bad or unknown, and a node is trouble or well. ",
            "The address of the page keeps the search.",
        ),
        tag("form", tag("button", "Close"), method="dialog"),
        id="help",
    )


@functools.cache
def _asset(name: str) -> Markup:
    content = (Path(data_directory()) / "report" / name).read_text(encoding="utf-8")
    # An end tag within would end the element; the files have none, and this keeps it so.
    if re.search(r"</(?:script|style)|<!--", content, re.I):
        raise ValueError(f"{name} would not stay within its element")
    return Markup(content)


def _hashed(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """What the page may do: show its own texts in its own style, and run its own scripts."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {' '.join(map(_hashed, styles))}",
            f"script-src {' '.join(map(_hashed, scripts))}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def icon(ok: bool) -> str:
    """A dot in the tab: green, or red."""
    colour = "%2312988a" if ok else "%23a8201a"
    shape = f"%3Ccircle cx='8' cy='8' r='7' fill='{colour}'/%3E"
    drawing = f"%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E{shape}%3C/svg%3E"
    return f"data:image/svg+xml,{drawing}"


def order(nodes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The worst first, then by name."""

    def key(node: dict[str, Any]) -> tuple[int, list[tuple[int, str]]]:
        status = text(node.get("status"))
        return (SEVERITY.index(status) if status in SEVERITY else 0, natural(node.get("host")))

    return sorted(nodes, key=key)


def render(nodes: list[dict[str, Any]], fleet: dict[str, Any]) -> str:
    """The page of a run.

    :param nodes: the nodes' documents (``<host>.json``).
    :param fleet: the fleet's (``fleet.json``).
    """
    style, script, first = _asset("report.css"), _asset("report.js"), Markup(HEAD_SCRIPT)
    ordered = order(nodes)
    overview = [causes_panel(ordered), spread_panel(ordered), drift_panel(ordered), timings_panel(ordered)]
    page = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy([style], [first, script])),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="referrer", content="no-referrer"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", f"{text(fleet.get('run'))}: gpuready fleet report"),
            tag("link", rel="icon", href=icon(bool(fleet.get("ok")))),
            tag("style", style),
            tag("script", first),
        ),
        tag(
            "body",
            tag("a", "To the nodes", href="#nodes", class_="skip"),
            head(ordered, fleet),
            tag(
                "main",
                tiles(ordered, fleet),
                fleet_map(ordered) if ordered else None,
                tag("div", *overview, class_="panels"),
                toolbar(ordered),
                table(ordered, fleet),
                tag("p", "No node matches.", id="none", hidden=True),
            ),
            tag(
                "footer",
                f"gpuready: {summary(fleet)}. ",
                "report.txt, fleet.json, fleet.csv and junit.xml lie beside this page.",
            ),
            help_dialog(),
            tag("script", script),
        ),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{page}\n"
