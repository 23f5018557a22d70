# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""The page's building blocks. Pure; used on the controller only.

What nodes said becomes text and nothing else: :func:`tag` escapes every child that is no :class:`Markup`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from .report_view import TONES, WORDS, status_words, text

MARKS = {"ok": "\N{HEAVY CHECK MARK}", "bad": "\N{HEAVY BALLOT X}", "todo": "\N{RIGHTWARDS ARROW}"}
UNKNOWN_MARK = "\N{MIDDLE DOT}"
#: Lists that say the same of many nodes name so many of them.
NAMED = 12
_VOID = frozenset({"meta", "link", "input", "col"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


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


# --- pieces -------------------------------------------------------------------------------------------


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
