# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""The page's table: every node's layers, and what is known of the node below its line. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from .report import BAD_STATUSES, LAYERS, file_names, layer_state
from .report_markup import Markup, bar, join, mark, pill, query, tag
from .report_view import (
    SEVERITY,
    TITLES,
    TONES,
    WORDS,
    count,
    fields_of,
    get,
    mapping,
    natural,
    number,
    roots,
    rows,
    seconds_of,
    spent,
    status_words,
    text,
    told,
    words,
)
from .stages import OTHER


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
            placeholder="Search: gpu17, driver:580, status:failed, -group:canary",
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
    tone = layer_state(known)
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


# --- what opens below a node's line --------------------------------------------------------------------


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
        stage = text(node.get("error_stage"))
        stage = f" (in {stage})" if stage and stage != OTHER else ""
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
    left = (
        wrong_part(node),
        chain_part(node),
        plan_part(node),
        drift_part(node),
        verification_part(node),
        block("Changed", listed(changed, "many")),
    )
    right = (facts_part(node, path), time_part(node))
    return tag("div", tag("div", *left, class_="main"), tag("div", *right, class_="aside"), class_="details")
