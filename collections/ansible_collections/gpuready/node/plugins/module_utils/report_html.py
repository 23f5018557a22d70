# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""``report.html``: a run as one page that needs nothing but a browser. Pure; used on the controller only.

The page is whole without its script (everything is open then), and the script adds filter, search and sort.
The page's own policy lets no script and no style run but those of data/report.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .catalog import data_directory
from .report import LAYERS, summary
from .report_markup import Markup, tag
from .report_nodes import table, toolbar
from .report_overview import causes_panel, drift_panel, fleet_map, head, spread_panel, tiles, timings_panel
from .report_view import SPREADS, order, text

#: Before anything is drawn: the page is made for a script, if there is one.
HEAD_SCRIPT = 'document.documentElement.classList.add("js");'

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
