# Apache-2.0 (see LICENSE)
"""Edit a YAML text at a few places, and leave every other byte alone. Controller only.

The text is not written anew from its data; it is cut and spliced at the places that YAML's own parser names.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
Place = tuple[str, ...]


class SpliceError(ValueError):
    """The text cannot be read, or not be edited there; one sentence."""


# --- data: what YAML says -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opaque:
    """A value with a tag of its own (``!vault``, ``!unsafe``): compared, moved, never written anew."""

    tag: str
    value: Any


if TYPE_CHECKING:
    _Base = yaml.SafeLoader
else:
    # libyaml, as Ansible itself takes it: five times faster.
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(_Base):
    """PyYAML, which Ansible reads with, and the tags that Ansible adds."""


def _opaque(loader: Loader, suffix: str, node: yaml.Node) -> Opaque:
    if isinstance(node, yaml.ScalarNode):
        return Opaque(suffix, loader.construct_scalar(node))
    if isinstance(node, yaml.SequenceNode):
        return Opaque(suffix, loader.construct_sequence(node, deep=True))
    assert isinstance(node, yaml.MappingNode)
    return Opaque(suffix, loader.construct_mapping(node, deep=True))


def _float(loader: Loader, node: yaml.ScalarNode) -> Any:
    value = loader.construct_yaml_float(node)
    return Opaque("float", "nan") if value != value else value


Loader.add_multi_constructor("!", _opaque)
Loader.add_constructor("tag:yaml.org,2002:float", _float)


def load(text: str) -> Any:
    """The data of the one document, or a sentence about what is wrong with it."""
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpliceError(f"it cannot be parsed: {where}{said}") from None
    except (ValueError, RecursionError) as error:
        # A date such as 2026-13-45, or a mapping that contains itself.
        raise SpliceError(f"it cannot be parsed: {error}") from None


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same type all the way down (``1`` is not ``true``)."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        if [type(key) for key in one if key not in other] or len(one) != len(other):
            return False
        return all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Opaque):
        return one.tag == other.tag and same(one.value, other.value)
    return bool(one == other)


def get(data: Any, path: Place) -> Any:
    """The value at a path; None where there is none."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def put(data: Any, path: Place, value: Any) -> Any:
    """The data with another value at a path; nothing else is touched, be it shared by an alias or not."""
    if not path:
        return value
    mapping = dict(data) if isinstance(data, dict) else {}
    mapping[path[0]] = put(mapping.get(path[0]), path[1:], value)
    return mapping


def without(data: Any, path: Place) -> Any:
    """The data without what is at a path."""
    mapping = dict(data)
    if len(path) == 1:
        del mapping[path[0]]
    else:
        mapping[path[0]] = without(mapping[path[0]], path[1:])
    return mapping


# --- the text: where things are -----------------------------------------------------------------------------


@dataclass
class Node:
    """A value and its place in the text; no comment and no blank line is before its ``end``."""

    kind: str  # map | seq | scalar | alias
    start: int
    end: int
    line: int
    column: int
    value: str = ""
    flow: bool = False
    block_scalar: bool = False
    items: list[tuple[Node, Node]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Nothing is written there at all (``key:``)."""
        return self.kind == "scalar" and self.start == self.end


class _Reader:
    """The tree of a text's nodes, of the parser's events (an alias has a place of its own there)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.events = yaml.parse(text, Loader=Loader)

    def root(self) -> Node | None:
        found = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                found = self.node(next(self.events))
        return found

    def node(self, event: Any) -> Node:
        start, end = event.start_mark, event.end_mark
        node = Node("scalar", start.index, end.index, start.line, start.column)
        if isinstance(event, yaml.AliasEvent):
            node.kind = "alias"
        elif isinstance(event, yaml.ScalarEvent):
            node.value = event.value
            node.block_scalar = event.style in ("|", ">")
            if node.block_scalar:
                node.end = self.block_scalar_end(node)
        elif isinstance(event, yaml.SequenceStartEvent):
            node.kind, node.flow = "seq", bool(event.flow_style)
            for inner in self.events:
                if isinstance(inner, yaml.SequenceEndEvent):
                    node.end = end_of(inner) if node.flow else node.end
                    break
                node.end = self.node(inner).end
        else:
            node.kind, node.flow = "map", bool(event.flow_style)
            for inner in self.events:
                if isinstance(inner, yaml.MappingEndEvent):
                    node.end = end_of(inner) if node.flow else node.end
                    break
                key = self.node(inner)
                value = self.node(next(self.events))
                node.items.append((key, value))
                node.end = max(key.end, value.end)
        return node

    def block_scalar_end(self, node: Node) -> int:
        """Blank lines behind it belong to it only where it says so (``|+``)."""
        header = self.text[node.start : line_end(self.text, node.start)]
        if "+" in header.partition("#")[0]:
            return node.end
        return node.start + len(self.text[node.start : node.end].rstrip())


def end_of(event: Any) -> int:
    """Where the parser says that something ends."""
    return int(event.end_mark.index)


def line_start(text: str, index: int) -> int:
    """Where the line begins that the index is in."""
    while index > 0 and not BREAK.match(text, index - 1):
        index -= 1
    return index


def line_end(text: str, index: int) -> int:
    """Where the line ends that the index is in, before its break."""
    found = BREAK.search(text, index)
    return found.start() if found else len(text)


def next_line(text: str, index: int) -> int:
    """Where the next line begins; the text's end where there is none."""
    found = BREAK.search(text, index)
    return found.end() if found else len(text)


def boundary(text: str, end: int, column: int) -> int:
    """The line behind an entry of a mapping at ``column`` whose content ends at ``end``.

    Comments that are indented deeper than the entry's key are the entry's own.
    """
    at_line_start = end > 0 and line_start(text, end) == end
    here = end if at_line_start else next_line(text, end)
    looked = here
    while looked < len(text):
        stop = line_end(text, looked)
        line = text[looked:stop]
        words = line.lstrip(" ")
        if words.strip() and (not words.startswith("#") or len(line) - len(words) <= column):
            break
        looked = next_line(text, looked)
        if words.strip():
            here = looked
    return here


def find(mapping: Node, key: str, path: Place = ()) -> tuple[Node, Node] | None:
    """The entry of a key."""
    found = [entry for entry in mapping.items if entry[0].kind == "scalar" and entry[0].value == key]
    if len(found) > 1:
        first, second = found[0][0].line + 1, found[1][0].line + 1
        place = " in " + ".".join(path) if path else ""
        raise SpliceError(f"{key} is there twice{place} (lines {first} and {second}): join the two by hand")
    return found[0] if found else None


# --- writing ------------------------------------------------------------------------------------------------


class Block(dict[str, Any]):
    """A mapping that is written line by line; any other value goes into its key's line."""

    comment: str | None = None


@dataclass(frozen=True)
class Raw:
    """An entry as somebody wrote it, key and comments and all, without its indentation."""

    lines: tuple[str, ...]
    data: Any


def plain(value: Any) -> Any:
    """What a value to be written reads as."""
    if isinstance(value, Raw):
        return value.data
    if isinstance(value, Block):
        return {key: plain(inner) for key, inner in value.items()} or None
    return value


def inline(value: Any, *, flow: bool = False) -> str:
    """A value in one line, such that PyYAML reads it as it is. ``flow``: within braces, as JSON writes it."""
    if flow:
        with contextlib.suppress(TypeError, ValueError):
            text = json.dumps(value, ensure_ascii=False)
            if not BREAK.search(text):
                return text
    if isinstance(value, dict):
        return "{%s}" % ", ".join(f"{inline(key)}: {inline(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return "[%s]" % ", ".join(map(inline, value))
    # Only in double quotes does a line break fit into one line.
    style = '"' if isinstance(value, str) and BREAK.search(value) else None
    try:
        # In a list, so that the dumper knows a value from a document.
        text = yaml.safe_dump(
            [value], default_flow_style=True, default_style=style, width=float("inf"), allow_unicode=True
        )
    except yaml.YAMLError:
        raise SpliceError(f"the value {value!r} cannot be written anew: move it by hand") from None
    return text.strip()[1:-1].strip()


def lines_of(block: Block, step: int) -> list[str]:
    """A block's lines, from column 0."""
    lines: list[str] = []
    for key, value in block.items():
        if isinstance(value, Raw):
            lines += value.lines
        elif isinstance(value, Block):
            if value.comment:
                lines.append(value.comment)
            lines.append(f"{inline(key)}:")
            lines += [" " * step + line if line else line for line in lines_of(value, step)]
        elif value is None:
            lines.append(f"{inline(key)}:")
        else:
            lines.append(f"{inline(key)}: {inline(value)}")
    return lines


class Text:
    """One edit of a text. Each takes the tree anew, so that no place is ever out of date."""

    def __init__(self, text: str) -> None:
        self.text = text
        found = re.search("\r\n|\n", text)
        self.newline = found.group() if found else "\n"
        #: Whether blank lines behind an entry count as its own. A text that keeps them (`|+`) wants it so.
        self.greedy = False

    def tree(self) -> Node | None:
        return _Reader(self.text).root()

    def splice(self, start: int, end: int, new: str) -> None:
        self.text = self.text[:start] + new + self.text[end:]

    def step(self, root: Node | None) -> int:
        """How far this file indents."""
        waiting = [root] if root else []
        while waiting:
            node = waiting.pop(0)
            for key, value in node.items:
                if value.kind == "map" and not value.flow and value.items:
                    if value.items[0][0].column > key.column:
                        return value.items[0][0].column - key.column
                    waiting.append(value)
        return 2

    def set(self, path: Place, value: Any) -> None:
        """Give the entry at a path another value; what is missing on the way is made."""
        root = self.tree()
        step = self.step(root)
        if root is None or (root.kind == "scalar" and self.nothing(root)):
            self.first(path, value, step, root)
            return
        mapping = root
        for depth, key in enumerate(path):
            if mapping.kind != "map":
                raise SpliceError(
                    f"line {mapping.line + 1}: {'.'.join(path[:depth])} is no mapping of its own"
                )
            entry = find(mapping, key, path[:depth])
            rest = value
            for inner in reversed(path[depth + 1 :]):
                rest = Block({inner: rest})
            if entry is None:
                self.append(mapping, key, rest, step)
                return
            last = depth == len(path) - 1
            if last or self.nothing(entry[1]):
                self.replace(mapping, entry, rest, step)
                return
            mapping = entry[1]

    def nothing(self, node: Node) -> bool:
        """A null or an empty mapping, however it is written."""
        if node.kind == "map":
            return not node.items
        return node.kind == "scalar" and self.text[node.start : node.end] in ("", "~", "null", "Null", "NULL")

    def first(self, path: Place, value: Any, step: int, root: Node | None) -> None:
        """Into a file that holds comments at the most."""
        for key in reversed(path):
            value = Block({key: value})
        at = len(self.text)
        if root is not None and not root.empty:
            self.splice(root.start, root.end, "")
            at = len(self.text)
        else:
            marker = re.search(r"^\.\.\.", self.text, re.M)
            at = marker.start() if marker else at
        self.insert(at, lines_of(value, step))

    def insert(self, at: int, lines: Sequence[str], indent: int = 0) -> None:
        """Whole lines, before the line that begins at ``at``."""
        new = "".join((" " * indent + line if line else "") + self.newline for line in lines)
        if at == len(self.text) and self.text and line_start(self.text, at) != at:
            # The file's last line lacks its end; what comes behind it need not.
            new = self.newline + new[: -len(self.newline)]
        self.splice(at, at, new)

    def append(self, mapping: Node, key: str, value: Any, step: int) -> None:
        if mapping.flow:
            self.append_in_flow(mapping, key, value)
            return
        column = self.column(mapping)
        self.insert(self.boundary(mapping.end, column), lines_of(Block({key: value}), step), column)

    def boundary(self, end: int, column: int) -> int:
        """The line behind an entry."""
        here = boundary(self.text, end, column)
        while (
            self.greedy and here < len(self.text) and not self.text[here : line_end(self.text, here)].strip()
        ):
            here = next_line(self.text, here)
        return here

    def column(self, mapping: Node) -> int:
        """Where the keys of a block mapping begin, or the question marks before them."""
        key = mapping.items[0][0]
        before = self.text[line_start(self.text, key.start) : key.start]
        return before.index("?") if "?" in before else key.column

    def append_in_flow(self, mapping: Node, key: str, value: Any) -> None:
        new = f"{inline(key, flow=True)}: {inline(plain(value), flow=True)}"
        if not mapping.items:
            at = self.text.index("{", mapping.start) + 1
            self.splice(at, at, new)
            return
        last, end = mapping.items[-1][0], mapping.items[-1][1].end
        start = line_start(self.text, last.start)
        before = self.text[start : last.start]
        gap = " " if before.strip() else self.newline + before
        if mapping.items[-1][1].empty:
            # `b:` needs its blank, or the comma would be part of a name.
            end += len(self.text[end:]) - len(self.text[end:].lstrip(" "))
        self.splice(end, end, f",{gap}{new}")

    def replace(self, mapping: Node, entry: tuple[Node, Node], value: Any, step: int) -> None:
        key, old = entry
        colon = self.colon(key, old)
        if mapping.flow:
            if colon is None:
                self.splice(key.end, key.end, f": {inline(plain(value), flow=True)}")
            else:
                self.splice(colon, max(old.end, colon), f" {inline(plain(value), flow=True)}")
            return
        if colon is None:
            raise SpliceError(f"line {key.line + 1}: {key.value} has no colon; write it as `{key.value}:`")
        deep = isinstance(value, Block) and value
        if deep:
            lines, indent = lines_of(value, step), self.column(mapping) + step
            if not self.nothing(old):
                raise SpliceError(f"line {key.line + 1}: {key.value} is no mapping; write it out as one")
            self.splice(colon, old.end, "")
            self.insert(self.boundary(colon, self.column(mapping)), lines, indent)
            return
        new = "" if value is None else f" {inline(plain(value))}"
        if old.kind in ("map", "seq") and not old.flow:
            self.splice(colon, old.end, new)
            return
        start, end = (colon, old.end) if old.empty or not new else (old.start, old.end)
        if old.block_scalar and line_start(self.text, end) == end:
            new += self.newline
        self.splice(start, end, new if start == colon else new[1:])

    def colon(self, key: Node, value: Node) -> int | None:
        """Just behind the key's colon; None where there is none (``{a, b}``)."""
        found = re.compile(r"[ \t]*:").match(self.text, key.end)
        return found.end() if found and found.end() <= max(value.start, key.end + 1) else None

    def delete(self, path: Place) -> None:
        mapping, entry = self.entry(path)
        if mapping.flow:
            self.delete_in_flow(mapping, entry)
            return
        start, end = self.lines(mapping, entry)
        if end == len(self.text) and end and line_start(self.text, end) != end:
            # The file has no newline at its end, and goes without.
            before = self.text[:start]
            breaks = [found for found in BREAK.finditer(before) if found.end() == start]
            start = breaks[-1].start() if breaks else start
        self.splice(start, end, "")

    def delete_in_flow(self, mapping: Node, entry: tuple[Node, Node]) -> None:
        index = mapping.items.index(entry)
        key, end = entry[0], max(entry[0].end, entry[1].end)
        after = self.comma(end)
        start = line_start(self.text, key.start)
        stop = after + 1 if after is not None else end
        rest = self.text[stop : line_end(self.text, stop)].strip()
        if not self.text[start : key.start].strip() and (not rest or rest.startswith("#")):
            cut = (start, next_line(self.text, stop))
        elif after is not None:
            gap = re.compile(r"[ \t]*").match(self.text, stop)
            cut = (key.start, gap.end() if gap else stop)
        else:
            cut = (key.start, end)
        self.splice(*cut, "")
        if after is None and index:
            # It was the last: JSON wants no comma behind the one that is last now.
            former = max(mapping.items[index - 1][0].end, mapping.items[index - 1][1].end)
            comma = self.comma(former)
            if comma is not None:
                gap = re.compile(r"[ \t]*").match(self.text, comma + 1)
                same_line = gap and gap.end() == cut[0]
                self.splice(comma, gap.end() if gap and same_line else comma + 1, "")

    def comma(self, index: int) -> int | None:
        """The comma behind an entry in braces, past comments."""
        found = re.compile(r"(?:\s|(?<=\s)#[^\r\n]*)*,").match(self.text, index)
        return found.end() - 1 if found else None

    def entry(self, path: Place) -> tuple[Node, tuple[Node, Node]]:
        """The mapping that has the path's last key, and its entry."""
        mapping = self.tree()
        for depth, key in enumerate(path):
            entry = (
                find(mapping, key, path[:depth]) if mapping is not None and mapping.kind == "map" else None
            )
            if mapping is None or entry is None:
                raise SpliceError(f"{'.'.join(path)} is not written out in the file itself; write it out")
            if depth == len(path) - 1:
                return mapping, entry
            mapping = entry[1]
        raise AssertionError("an entry has a name")

    def lines(self, mapping: Node, entry: tuple[Node, Node]) -> tuple[int, int]:
        """The lines of an entry of a block mapping, with the comments that are its own."""
        key, value = entry
        start = line_start(self.text, key.start)
        if self.text[start : key.start].strip(" "):
            raise SpliceError(
                f"line {key.line + 1}: {key.value} does not begin its line; write it so by hand"
            )
        return start, self.boundary(max(key.end, value.end), key.column)

    def raw(self, path: Place, data: Any) -> Any:
        """An entry to be put elsewhere, as it is written where it can be."""
        mapping, entry = self.entry(path)
        if mapping.flow:
            return data
        start, end = self.lines(mapping, entry)
        column = entry[0].column
        lines = BREAK.split(self.text[start:end])
        if lines and not lines[-1]:
            lines.pop()
        return Raw(tuple(line[min(column, len(line) - len(line.lstrip(" "))) :] for line in lines), data)
