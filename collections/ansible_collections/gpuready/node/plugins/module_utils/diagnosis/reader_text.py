# Apache-2.0 (see LICENSE)
"""Pasted text made plain: what a terminal, a logger, a browser or a forum put around the words is taken off.

Patterns and parsers see one form only: no colours, progress bars, quoting, typographic quotes, time stamps
or log prefixes; lines that a terminal has cut are whole again. Lines keep their order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# A line longer than this is broken at a space, so that no pattern has to walk through a megabyte.
LONGEST = 6000

_ANSI = re.compile(
    r"\x1b\[[0-9;?<=>! ]*[@-~]"  # CSI
    r"|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?"  # OSC: titles, links
    r"|\x1b[@-Z\\^_()][0-9A-Z]?|\x9b[0-9;?]*[@-~]"
)
# The escape character itself is often lost on the way: [0;31m remains.
_BARE_ANSI = re.compile(
    r"(?:\^\[|\u241b|\\x1b|\\u001b|\\e|\\033)\[[0-9;]*m"
    r"|\[(?:[0-9]{1,2};){1,4}[0-9]{1,3}m|\[(?:0|1|[349][0-7])?m(?![\]:])"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2060\ufeff\ufffc]")
_BACKSPACE = re.compile(r"[^\n\x08]\x08")
_ENTITY = re.compile(r"&(lt|gt|amp|quot|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
_ENTITIES = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'", "nbsp": " "}
_BREAKING_TAG = re.compile(r"</?(?:br|p|div|li|tr|h[1-6]|pre|blockquote)(?:\s[^<>\n]{0,300})?/?>")
_TAG = re.compile(
    r"</?(?:code|span|details|summary|strong|em|b|i|u|a|ul|ol|table|tbody|thead|td|th|tt|samp|kbd|font)"
    r"(?:\s[^<>\n]{0,300})?/?>"
)
_TYPOGRAPHY = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'", "\u00b4": "'",
        "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u201f": '"', "\u2033": '"',
        "\u2013": "-", "\u2010": "-", "\u2011": "-", "\u2212": "-", "\u2026": "...",
        "\u00a0": " ", "\u202f": " ", "\u2007": " ", "\u3000": " ",
        "\u2502": "|", "\u2503": "|", "\u2551": "|", "\u2500": "-", "\u2501": "-", "\u2550": "=",
    }
)  # fmt: skip
_EM_DASH = re.compile("\u2014(?=[a-z])")
_PROGRESS = re.compile(
    r"\d%|[#=\u2588\u2501>]{4}|\d+(?:\.\d+)?\s?[kKMG]i?B(?:/|\s|$)|ETA|it/s|^\s*[-\\|/]\s*$"
)

_QUOTE = re.compile(r"^(?:\s{0,3}>(?!>>)\s?|\s{0,3}>>(?!>)\s?)+")
_FENCE = re.compile(r"^\s*(?:```+|~~~+)\s*[\w+.#{}:=\" -]*\s*$")
_WHOLE_CODE = re.compile(r"^(\s*)(`{1,3})([^`].*[^`]|[^`])\2\s*$")
_WHOLE_BOLD = re.compile(r"^(\s*)(\*\*|__)([^*_\s].*?)\2(:?)\s*$")
_BOLD = re.compile(r"\*\*([^*\s][^*]{0,100}?)\*\*")
_ESCAPED_MARK = re.compile(r"\\([_*<>#~|])")

_ZONE = r"\s?(?:Z|UTC|GMT|CES?T|[+-]\d\d:?\d\d)?"
_AFTER = r"(?:[:,;|\s]|-\s)*"
_ISO = re.compile(
    r"\s*[\[(]?\d{4}[-/.]\d\d[-/.]\d\d[T ,_]\s?\d\d:\d\d:\d\d(?:[.,:]\d+)?"
    + _ZONE
    + r"[\])]?(?![\w/])"
    + _AFTER
)
_CRI = re.compile(r"(?:stdout|stderr) [FP] ")
_SYSLOG = re.compile(
    r"\s*(?:<\d{1,3}>)?[A-Z\u00c0-\u024fa-z]{3,5}\.?\s+\d{1,2}(?:,? \d{4})?,? "
    r"\d\d:\d\d:\d\d(?:\.\d+)?\s(?:[AP]M\s)?"
)
_UNIT = re.compile(r"(?P<host>[\w.-]+)\s(?P<program>[\w.@:/()-]+?)(?P<pid>\[\d+\])?:\s")
_DAY = re.compile(
    r"\s*\[?(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? (?:[A-Z][a-z]{2} +\d{1,2}|\d{1,2} [A-Z][a-z]{2}),? "
    r"(?:\d{4} )?\d\d:\d\d:\d\d(?: [AP]M)?(?: [A-Z]{3,4})?(?: \d{4})?\]?" + _AFTER
)
_LOCAL_DAY = re.compile(r"\s*\[\w{2,4}\.?,? +[\w.]{1,5} +[\w.]{1,5} \d\d:\d\d:\d\d \d{4}\]\s?")
_DMESG = re.compile(r"\s*(?:<\d{1,3}>)?\[\s{0,8}\d{1,9}\.\d{4,9}\](?:\[\s*[TC]\d+\])?\s?")
_FACILITY = re.compile(r"\s*(?:kern|user|daemon)\s*:(?:emerg|alert|crit|err|warn|notice|info|debug)\s*:\s")
_KERNEL = re.compile(r"\s*(?:[\w.-]+ )?kernel: ")
_GLOG = re.compile(r"\s*([IWEF])\d{4} \d\d:\d\d:\d{2,}\.\d+\s+\d+\s(?=\S+:\d+\])")
_CLOCK = re.compile(r"\s*[\[(]?\d\d:\d\d:\d\d(?:[.,]\d+)?[\])]?(?=[:,;|\s])" + _AFTER)
_WORKER = re.compile(
    r"\s*(?:\[\d+,\d+\](?:<std(?:err|out)>:?|:)|\[\d+\]<std(?:err|out)>:|\[?rank\s?\d+\]?:\s"
    r"|\((?:[\w.<>:]+,? )?pid=\d+[^()\n]{0,60}\)|\((?:raylet|autoscaler)[^()\n]{0,60}\))\s?"
)
_BUILDKIT = re.compile(r"#\d+ \d+\.\d+ ")
_LOGFMT = re.compile(r"\s*time=\"?[\dT:.Z+-]+\"? (?=level=)")
_COMPOSE = re.compile(r"\s{0,4}([A-Za-z0-9][\w.-]{0,60}?)(?:[-_]\d+)?\s{0,40}\|\s(?!.*\|\s*$)")

_FIRST = frozenset("0123456789[(<#IWEFJMASONDTm ")
_NEW_START = re.compile(
    r"\s|[|+=*#>$%-]|\d{4}-\d\d|\[|[A-Z][a-z]{2} +\d|[IWEF]\d{4} |\d\d:\d\d|Traceback"
    r"|File |[A-Z]\w*(?:Error|Warning)"
    r"|[\w.-]+@[\w.-]+[:~ ]|Collecting |Get:|Hit:|W: |E: |sudo |docker |nvidia-smi"
)
_RULE = re.compile(r"[-=+|_*~. ]*$")
_USUAL_WIDTHS = frozenset((72, 76, 78, 79, 80, 100, 120, 128, 132, 140, 150, 160, 180, 200, 211, 237, 238))


@dataclass(slots=True)
class Line:
    """A line without what was around it, as it was, and who wrote it (``kernel``, ``dockerd``, …)."""

    text: str
    raw: str
    origin: str = ""
    fence: bool = False


def _entity(match: re.Match[str]) -> str:
    name = match.group(1)
    if name in _ENTITIES:
        return _ENTITIES[name]
    number = int(name[2:], 16) if name[1] in "xX" else int(name[1:])
    return chr(number) if 31 < number < 0x110000 and not 0xD800 <= number < 0xE000 else " "


def _undecorate(text: str) -> str:
    """What concerns the whole text: escape codes, entities, tags, typography, line ends."""
    text = text.replace("\r\n", "\n")
    if "\x1b" in text or "\x9b" in text:
        text = _ANSI.sub("", text)
    if "m" in text and "[" in text:
        text = _BARE_ANSI.sub("", text)
    if "\x08" in text:
        # Overstrikes of man pages and spinners; what is nested deeper goes with the control characters.
        text = _BACKSPACE.sub("", text)
    text = _CONTROL.sub("", text)
    if "&" in text:
        text = _ENTITY.sub(_entity, text)
        text = _ENTITY.sub(_entity, text)
    if "<" in text:
        text = _BREAKING_TAG.sub("\n", text)
        text = _TAG.sub("", text)
    if "\x0c" in text or "\x85" in text:
        text = text.replace("\x0c", "\n").replace("\x85", "\n")
    return text


def _overwritten(line: str) -> list[str]:
    """A line that a progress bar drew again and again: its last state, and all that was no progress."""
    parts = [part for part in line.split("\r") if part.strip()]
    return [part for part in parts[:-1] if not _PROGRESS.search(part)] + parts[-1:]


def _split_lines(text: str) -> list[str]:
    if "\r" in text:
        if text.count("\r") > 2 and "\n" not in text:
            text = text.replace("\r", "\n")
        lines: list[str] = []
        for line in text.split("\n"):
            lines += _overwritten(line) if "\r" in line else [line]
    else:
        lines = text.split("\n")
    if any(len(line) > LONGEST for line in lines):
        lines = [piece for line in lines for piece in _pieces(line)]
    return lines


def _pieces(line: str) -> list[str]:
    pieces = []
    start = 0
    while len(line) - start > LONGEST:
        end = line.rfind(" ", start + LONGEST // 2, start + LONGEST)
        end = end if end > 0 else start + LONGEST
        pieces.append(line[start:end])
        start = end
    return [*pieces, line[start:]]


def _unwrap(lines: list[str]) -> list[str]:
    """Put together what a terminal of a fixed width has cut in the middle of a word."""
    lengths = [len(line) for line in lines]
    widest = max(lengths, default=0)
    if widest < 60:
        return lines
    full = [
        number
        for number, length in enumerate(lengths)
        if length == widest and lines[number][0] not in "|+" and not _RULE.match(lines[number])
    ]
    if not full or (len(full) < 3 and widest not in _USUAL_WIDTHS) or widest > 400:
        return lines
    if len(full) < 3 and (widest < 80 or _by_words(lines, lengths, widest)):
        return lines
    joined: list[str] = []
    cut = set(full)
    open_end = False
    for number, line in enumerate(lines):
        if open_end and line and not _NEW_START.match(line):
            joined[-1] += line
        else:
            joined.append(line)
        open_end = number in cut and not line[-1].isspace()
    return joined


def _by_words(lines: list[str], lengths: list[int], widest: int) -> bool:
    """Somebody has wrapped the text by words: then lines end where the next word would not have fitted."""
    for number in range(len(lines) - 1):
        follows = lines[number + 1]
        if widest - 18 <= lengths[number] < widest and follows[:1].islower():
            word = follows.split(None, 1)[0]
            if lengths[number] + 1 + len(word) > widest:
                return True
    # One full line alone: a whole word at its end and at the next one's beginning tell nothing about a cut.
    for number, length in enumerate(lengths[:-1]):
        if (
            length == widest
            and re.search(r"(?:^|\s)[A-Za-z]+$", lines[number])
            and re.match(r"[a-z]+(?:\s|$)", lines[number + 1])
        ):
            return True
    return False


def _strip_prefix(text: str) -> tuple[str, str]:
    """The line without time stamps and log prefixes, and who wrote it as far as the prefix tells."""
    origin = ""
    for _ in range(5):
        if not text:
            break
        first = text[0]
        match = None
        if first in "0123456789[( ":
            match = _ISO.match(text) or _DMESG.match(text) or _CLOCK.match(text)
            if match is None and first != " ":
                match = _WORKER.match(text) or _LOCAL_DAY.match(text)
            if match is not None:
                if match.re is _DMESG:
                    origin = "kernel"
                rest = text[match.end() :]
                cri = _CRI.match(rest) if match.re is _ISO else None
                if cri:
                    origin, rest = "container", rest[cri.end() :]
                else:
                    unit = _UNIT.match(rest)
                    if unit and (unit.group("pid") or unit.group("program") == "kernel"):
                        origin, rest = unit.group("program"), rest[unit.end() :]
                text = rest
                continue
        if first in "IWEF ":
            match = _GLOG.match(text)
            if match:
                return match.group(1) + " " + text[match.end() :], origin
        if first in "MTWFS[ ":
            match = _DAY.match(text)
        if match is None and first == "<":
            match = _DMESG.match(text)
            if match:
                origin = "kernel"
        if match is None and (first.isalpha() or first == "<"):
            match = _SYSLOG.match(text) if ":" in text[:30] else None
            if match:
                rest = text[match.end() :]
                unit = _UNIT.match(rest)
                if unit:
                    origin, rest = unit.group("program"), rest[unit.end() :]
                text = rest
                continue
            match = _FACILITY.match(text)
            if match is None and "kernel: " in text[:80]:
                match = _KERNEL.match(text)
            if match:
                origin = "kernel"
            elif text.startswith("time="):
                match = _LOGFMT.match(text)
            elif text.startswith("rank"):
                match = _WORKER.match(text)
        if match is None and first == "#":
            match = _BUILDKIT.match(text)
        if match is None or match.end() == 0:
            break
        text = text[match.end() :]
    return text, origin


def _strip_compose(lines: list[Line]) -> None:
    """`web-1  | …`: only where the same name stands in front of several lines, for tables have bars too."""
    named: dict[str, list[tuple[Line, int]]] = {}
    for line in lines:
        if "|" in line.text[:104]:
            match = _COMPOSE.match(line.text)
            if match:
                named.setdefault(match.group(1), []).append((line, match.end()))
    for found in named.values():
        numbered = re.match(r"[\w.-]+[-_]\d+\s*\|", found[0][0].text.strip())
        if len(found) > 1 or numbered:
            for line, end in found:
                line.text = line.text[end:]
                line.origin = "container"
                stripped, origin = _strip_prefix(line.text)
                line.text, line.origin = stripped, origin or line.origin


def _dedent(lines: list[Line]) -> None:
    """Markdown's other way to mark code: a block of its own, four columns to the right."""
    number = 0
    while number < len(lines):
        if lines[number].text[:4] not in ("    ", "\t") or (number and lines[number - 1].text):
            number += 1
            continue
        end = number
        while end < len(lines) and (not lines[end].text or lines[end].text[0] in " \t"):
            end += 1
        block = [line for line in lines[number:end] if line.text]
        indent = min(len(line.text) - len(line.text.lstrip()) for line in block)
        for line in block:
            line.text = line.text[indent:]
        number = end


_NVRM_GOES_ON = re.compile(r"NVRM:\s+(?!loading |rm_|nv_|os_|kgsp|gpu[A-Z]|nvidia[_-][a-z_]+[:(])(?=[a-z(])")


def _join_nvrm(lines: list[Line]) -> list[Line]:
    """The driver breaks its sentences into several lines of the kernel's log; put them together again."""
    joined: list[Line] = []
    for line in lines:
        bare = line.text.lstrip()
        last = joined[-1] if joined else None
        if (
            bare.startswith("NVRM:")
            and last is not None
            and last.text.startswith("NVRM:")
            and len(last.text) < 1500
        ):
            indented = line.text[0].isspace() and not last.text.endswith((".", "!"))
            goes_on = _NVRM_GOES_ON.match(bare) and not last.text.endswith((".", "!", ")"))
            if indented or goes_on:
                last.text += " " + bare[5:].lstrip()
                continue
        joined.append(line)
    return joined


def clean(text: str) -> list[Line]:
    """The text's lines, each plain and with what is known of its writer."""
    lines: list[Line] = []
    bars = False
    for raw in _unwrap(_split_lines(_undecorate(text))):
        if not raw or raw.isspace():
            lines.append(Line("", raw))
            continue
        line = raw.rstrip()
        if len(line) < 4 and line[0] not in "`~>":
            lines.append(Line(line if line.isascii() else line.translate(_TYPOGRAPHY), raw))
            continue
        if line.lstrip()[0] == ">":
            line = _QUOTE.sub("", line)
        if line[-1:] in '`~" }' or "```" in line or "~~~" in line:
            if _FENCE.match(line):
                lines.append(Line("", raw, fence=True))
                continue
            if "`" in line:
                line = _WHOLE_CODE.sub(r"\1\3", line)
        if "**" in line or "__" in line:
            line = _WHOLE_BOLD.sub(r"\1\3\4", line)
            line = _BOLD.sub(r"\1", line)
            if line[-1:] == "`":
                line = _WHOLE_CODE.sub(r"\1\3", line)
        quoted = line
        if not line.isascii():
            # What was really there stays in the line's raw form: typographic quotes break a daemon.json.
            line = _EM_DASH.sub("--", line).replace("\u2014", "-").translate(_TYPOGRAPHY)
        origin = ""
        if "\\" in line:
            line = _ESCAPED_MARK.sub(r"\1", line)
            line = line.replace('\\\\"', '"').replace('\\"', '"')
        if (line and (line[0] in _FIRST or line[0].isalpha())) or line[:1].isspace():
            line, origin = _strip_prefix(line)
        if "\\n" in line and (":\\" not in line):
            for part in line.replace("\\r", "").replace("\\n", "\n").replace("\\t", " ").split("\n"):
                lines.append(Line(part.rstrip(), quoted, origin))
            continue
        if "|" in line[:104] and not bars:
            bars = True
        lines.append(Line(line.rstrip(), quoted, origin))
    if bars:
        _strip_compose(lines)
    if "\n    " in text or "\n\t" in text:
        _dedent(lines)
    return _join_nvrm(lines) if "NVRM:" in text else lines


def normalise(text: str) -> str:
    """The text as the messages' patterns expect it."""
    return "\n".join(line.text for line in clean(text))
