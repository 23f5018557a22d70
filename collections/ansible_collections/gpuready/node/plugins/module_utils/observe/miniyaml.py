"""Enough YAML to read what nvidia-ctk writes, for nodes without PyYAML.

Block mappings and sequences, plain and quoted scalars, flow sequences of scalars, comments. Whatever else it
meets (anchors, tags, block scalars, …) is an error and no guess.
"""

from __future__ import annotations

import json
import re
from typing import Any, List, NamedTuple, Tuple

_KEY = re.compile(
    r"""^("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s"'\[\]{}#&*!|>%@`,-][^:#]*?|-[^\s:#][^:#]*?)\s*:(?:\s+(.*))?$"""
)


class YamlError(ValueError):
    """This text needs a whole YAML parser."""


class _Line(NamedTuple):
    number: int
    indent: int
    text: str


def _fail(line: _Line, what: str) -> YamlError:
    return YamlError("line %d needs a whole YAML parser (%s)" % (line.number, what))


def _strip_comment(text: str) -> str:
    quote = ""
    index = -1
    while index + 1 < len(text):
        index += 1
        char = text[index]
        if quote:
            # '' stands for a quote inside single quotes, a backslash guards one inside double quotes.
            if (quote == "'" and text[index : index + 2] == "''") or (quote == '"' and char == "\\"):
                index += 1
            elif char == quote:
                quote = ""
        elif char in "\"'" and (index == 0 or text[index - 1] in " [,:"):
            quote = char
        elif char == "#" and (index == 0 or text[index - 1] in " \t"):
            return text[:index].rstrip()
    return text.rstrip()


def _lines(text: str) -> List[_Line]:
    lines: List[_Line] = []
    for number, raw in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        body = _strip_comment(raw)
        if not body.strip() or (number == 1 and body.startswith("%")):
            continue
        if body == "---":
            if lines:
                raise YamlError("line %d starts a second document" % number)
            continue
        if body == "...":
            break
        indent = len(body) - len(body.lstrip(" "))
        if body[indent] == "\t":
            raise YamlError("line %d is indented with a tab" % number)
        lines.append(_Line(number, indent, body[indent:]))
    return lines


def _scalar(line: _Line, text: str) -> Any:
    text = text.strip()
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text[0] == '"':
        try:
            return json.loads(text)
        except ValueError:
            raise _fail(line, "a quoted text") from None
    if text[0] == "'":
        if len(text) < 2 or text[-1] != "'":
            raise _fail(line, "a quoted text")
        return text[1:-1].replace("''", "'")
    if text[0] == "[":
        if text[-1] != "]":
            raise _fail(line, "a flow sequence over several lines")
        inner = text[1:-1].strip()
        return [_scalar(line, part) for part in inner.split(",")] if inner else []
    if text == "{}":
        return {}
    if text[0] in "{&*!|>%@`":
        raise _fail(line, text[0])
    if text in ("true", "True", "false", "False"):
        return text.lower() == "true"
    if re.match(r"^[-+]?(0|[1-9]\d*)$", text):
        return int(text)
    if re.match(r"^[-+]?\d+\.\d*$", text):
        return float(text)
    return text


def _block(lines: List[_Line], at: int) -> Tuple[Any, int]:
    indent = lines[at].indent
    if lines[at].text == "-" or lines[at].text.startswith("- "):
        return _sequence(lines, at, indent)
    if _KEY.match(lines[at].text):
        return _mapping(lines, at, indent)
    value = _scalar(lines[at], lines[at].text)
    return value, at + 1


def _sequence(lines: List[_Line], at: int, indent: int) -> Tuple[List[Any], int]:
    items: List[Any] = []
    while (
        at < len(lines)
        and lines[at].indent == indent
        and (lines[at].text == "-" or lines[at].text.startswith("- "))
    ):
        line = lines[at]
        rest = line.text[1:]
        body = rest.lstrip(" ")
        if body:
            # "- key: value" opens a block whose column is where the key stands.
            lines[at] = _Line(line.number, indent + 1 + len(rest) - len(body), body)
            item, at = _block(lines, at)
        elif at + 1 < len(lines) and lines[at + 1].indent > indent:
            item, at = _block(lines, at + 1)
        else:
            item, at = None, at + 1
        items.append(item)
    return items, at


def _mapping(lines: List[_Line], at: int, indent: int) -> Tuple[Any, int]:
    mapping = {}
    while at < len(lines) and lines[at].indent == indent:
        line = lines[at]
        match = _KEY.match(line.text)
        if not match:
            raise _fail(line, "no key")
        key = _scalar(line, match.group(1))
        at += 1
        if match.group(2):
            mapping[key] = _scalar(line, match.group(2))
        elif at < len(lines) and (
            lines[at].indent > indent or (lines[at].indent == indent and lines[at].text.startswith("-"))
        ):
            mapping[key], at = _block(lines, at)
        else:
            mapping[key] = None
    return mapping, at


def parse(text: str) -> Any:
    lines = _lines(text)
    if not lines:
        return None
    value, at = _block(lines, 0)
    if at != len(lines):
        raise _fail(lines[at], "its indentation")
    return value
