# Apache-2.0 (see LICENSE)
"""The diagnosis for people: one screen per node."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 100
LAYER_TITLES = {
    "host": "Host",
    "container_runtime": "Container runtime",
    "framework": "Framework",
    "application": "Application",
}
STATUS_WORDS = {
    "healthy": "nothing is wrong, as far as this tells",
    "cause_found": "cause found",
    "unknown": "no known cause",
}
SYMBOLS = {True: "\N{HEAVY CHECK MARK}", False: "\N{HEAVY BALLOT X}", None: "\N{MIDDLE DOT}"}
ASCII_SYMBOLS = {True: "+", False: "x", None: "-"}
#: What would tell whether a link holds.
LOOK = {
    "bus": "lspci -nnk -d 10de:",
    "secure_boot": "mokutil --sb-state",
    "module": "lsmod | grep -i nvidia; dkms status",
    "nvml": "nvidia-smi",
    "device_nodes": "ls -l /dev/nvidia*",
    "engine": "docker info",
    "toolkit": "docker run --rm --gpus all ubuntu nvidia-smi",
    "request": "docker inspect CONTAINER, or the command that started it",
    "libraries": "the program's whole output, and pip list",
}
MOST_LOOKS = 5
MOST_EVIDENCE, MOST_CONSEQUENCES = 4, 4
LABEL = 10


def _wrap(text: str, width: int, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        width=width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]


def _block(label: str, texts: Sequence[str], width: int) -> list[str]:
    """Texts behind a label, each on lines of its own."""
    lines: list[str] = []
    indent = " " * (3 + LABEL)
    for number, text in enumerate(texts):
        first = f"   {label:<{LABEL}}" if number == 0 else indent
        lines += _wrap(text, width, first, indent + "  ")
    return lines


def _chain(answer: Mapping[str, Any], width: int, symbols: Mapping[bool | None, str]) -> list[str]:
    words = [f"{row['link']}\N{NO-BREAK SPACE}{symbols[row['state']]}" for row in answer["chain"]]
    lines = textwrap.wrap(
        "  ".join(words), width=width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _who(cause: Mapping[str, Any]) -> list[str]:
    """Who repairs it: as the plan says, where there is one."""
    done = [f"{row['id']}{': ' + row['reason'] if row['reason'] else ''}" for row in cause["site"] or []]
    reboot = ", with a reboot" if cause["repair"] == "reboot" else ""
    if cause["repair"] == "manual":
        return ["by hand, see below"]
    if done:
        return [f"site.yml does it{reboot}: {done[0]}", *done[1:]]
    if cause["site"] is None:
        return [f"site.yml does it{reboot} on a node that it manages; by hand:"]
    return ["site.yml has no such step in this node's plan; by hand:"]


def _cause(number: int, cause: Mapping[str, Any], width: int) -> list[str]:
    sure = "certain" if cause["certain"] else f"{cause['confidence']:.0%}"
    lines = _wrap(
        f"{LAYER_TITLES[cause['layer']]}: {cause['title']} ({sure}; {cause['cause']})",
        width,
        f"{number}. ",
        "   ",
    )
    lines += _block("because", cause["evidence"][:MOST_EVIDENCE], width)
    lines += _block("repair", _who(cause), width)
    lines += _block("fix", cause["fix"], width)
    if not cause["certain"]:
        lines += _block("check", cause["check"], width)
    follows = [row["title"] for row in cause["consequences"]]
    if follows:
        more = len(follows) - MOST_CONSEQUENCES
        lines += _block("so", follows[:MOST_CONSEQUENCES] + ([f"and {more} more"] if more > 0 else []), width)
    return lines


def render(
    answer: Mapping[str, Any], width: int = WIDTH, symbols: Mapping[bool | None, str] = SYMBOLS
) -> str:
    """The answer of ``engine.diagnose`` as text."""
    roots = [cause for cause in answer["causes"] if cause["standing"] == "root"]
    others = [cause for cause in answer["causes"] if cause["standing"] != "root"]
    status = STATUS_WORDS[answer["status"]]
    if len(roots) > 1:
        status = f"{len(roots)} causes found"
    simulated = " (simulated node)" if answer.get("simulated") else ""
    title = f"{answer['host']}: {status}{simulated}" if answer.get("host") else status[0].upper() + status[1:]
    lines = [title, "=" * min(len(title), width), *_chain(answer, width, symbols)]
    for number, cause in enumerate(roots, start=1):
        lines += ["", *_cause(number, cause, width)]
    if others:
        lines += ["", "Less likely:" if roots else "Possible, but not sure enough:"]
        for cause in others:
            lines += _wrap(
                f"{cause['title']} ({cause['cause']}; {cause['distinguish']})",
                width,
                f"   {cause['confidence']:>4.0%}  ",
                " " * 9,
            )
    if answer["status"] == "unknown":
        broken = [row for row in answer["chain"] if row["state"] is False]
        for row in broken[:1]:
            lines += ["", *_block("broken", [f"{row['link']}: {'; '.join(row['evidence'])}"], width)]
        looks = [LOOK[row["link"]] for row in answer["chain"] if row["state"] is None and row["link"] in LOOK]
        lines += (
            ["", "It would help to see:", *(f"   {look}" for look in looks[:MOST_LOOKS])] if looks else []
        )
    if answer["unexplained"]:
        lines += ["", "Not explained:"]
        lines += [line for text in answer["unexplained"] for line in _wrap(text, width, "   ", "     ")]
    return "\n".join(lines) + "\n"
