# Apache-2.0 (see LICENSE)
"""What the reader's parsers share: where facts are put, and which line wakes which parser.

A parser registers for literals (``@on("NVRM version")``: called for every line that has one) or for programs
(``@command("lsmod")``: called for every such command, with its output). All are called in the text's order,
so that a later statement supersedes an earlier one of the same place.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .reader_shell import CONTAINER, WINDOWS, Command, Place, Transcript, assignments, parse_launch, relevant

LineParser = Callable[["Reading", int, str, Place], None]
StatementParser = Callable[["Reading", str, "list[str]", Place], None]
CommandParser = Callable[["Reading", Command, "list[str]"], None]

LINE_PARSERS: dict[str, list[LineParser]] = {}
COMMAND_PARSERS: dict[str, list[CommandParser]] = {}
STATEMENT_PARSERS: list[StatementParser] = []

# Nobody reads more than this many lines for one literal: whoever pastes more of the same says it again.
MOST = 3000


def on(*literals: str) -> Callable[[LineParser], LineParser]:
    """Register a parser for the lines that contain one of the literals."""

    def register(parser: LineParser) -> LineParser:
        for literal in literals:
            LINE_PARSERS.setdefault(literal, []).append(parser)
        return parser

    return register


def command(*programs: str) -> Callable[[CommandParser], CommandParser]:
    """Register a parser for the output of these programs."""

    def register(parser: CommandParser) -> CommandParser:
        for program in programs:
            COMMAND_PARSERS.setdefault(program, []).append(parser)
        return parser

    return register


def statement(parser: StatementParser) -> StatementParser:
    """Register a parser for what was typed at Python's prompt, with its output."""
    STATEMENT_PARSERS.append(parser)
    return parser


def put(data: dict[str, Any], path: str, value: Any) -> None:
    """Set what lies under a dotted path."""
    names = path.split(".")
    for name in names[:-1]:
        inner = data.get(name)
        if not isinstance(inner, dict):
            inner = data[name] = {}
        data = inner
    data[names[-1]] = value


def fetch(data: Mapping[str, Any], path: str) -> Any:
    value: Any = data
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def row(rows: list[dict[str, Any]], **key: Any) -> dict[str, Any]:
    """The row with this key, made when it is not there."""
    for found in rows:
        if all(found.get(name) == value for name, value in key.items()):
            return found
    rows.append(dict(key))
    return rows[-1]


def version(text: str | None) -> str | None:
    """A driver's or library's version, or None for N/A, ERR! and the like."""
    match = re.match(r"^v?(\d{1,4}(?:\.\d+){0,4})", text or "")
    return match.group(1) if match else None


def _assigned(reading: Reading, typed: Command, output: list[str]) -> None:
    """`CUDA_VISIBLE_DEVICES=1 python train.py`."""
    for name, value in assignments(typed.words).items():
        reading.environ(name, value, typed.output_in)


class Reading:
    """One text while it is read."""

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript
        self.texts = transcript.texts
        self.stack: dict[str, Any] = {}
        self.platform: dict[str, Any] = {}
        self.probes: dict[str, Any] = {}
        self.kernel_log: list[str] = []
        self.windows_lines = 0
        self.not_collected: Place | None = None
        self.pythons: list[dict[str, Any]] = []
        self.mentions: dict[str, set[str]] = {}

    # --- places

    def concerns_host(self, place: Place) -> bool:
        """May the line be read as the Linux host's own?"""
        return place.kind not in (CONTAINER, WINDOWS)

    def put(self, path: str, value: Any, place: Place) -> None:
        """A fact of the host, if that is where the line comes from."""
        if self.concerns_host(place):
            put(self.stack, path, value)

    def list_at(self, path: str) -> list[Any]:
        value = fetch(self.stack, path)
        if not isinstance(value, list):
            value = []
            put(self.stack, path, value)
        return value

    def environ(self, name: str, value: str, place: Place) -> None:
        """A variable of a place's environment, if it matters."""
        if relevant(name) and len(value) < 2000:
            place.env[name] = value

    def command_of(self, number: int) -> Command | None:
        """The command whose output the line is."""
        commands = self.transcript.commands
        index = bisect.bisect_right(commands, number, key=lambda typed: typed.number) - 1
        if index < 0 or not commands[index].start <= number < commands[index].end:
            return None
        return commands[index]

    # --- lines

    def following(self, number: int, most: int = 60) -> Iterator[str]:
        """The lines after this one, at most so many."""
        yield from self.texts[number + 1 : number + 1 + most]

    def answered_with_nothing(self, command: Command) -> bool:
        """Was it typed at a real prompt, and came the next prompt right after it?"""
        return (
            "@" in command.prompt
            and command.end < len(self.texts)
            and not any(line.strip() for line in self.texts[command.start : command.end])
            and any(
                other.number == command.end and other.prompt == command.prompt
                for other in self.transcript.commands
            )
        ) or self._ends_with_prompt(command)

    def _ends_with_prompt(self, command: Command) -> bool:
        """The same for a transcript whose last line is a prompt without a command."""
        if "@" not in command.prompt or command.end <= command.start:
            return False
        rest = [line for line in self.texts[command.start : command.end] if line.strip()]
        return (
            bool(rest) and rest[0].lstrip("([").startswith(command.prompt) and rest[0].rstrip()[-1:] in "$#%"
        )

    # --- running the parsers

    def run(self) -> None:
        """Call every parser for what it registered for, in the order of the text."""
        text = "\n".join(self.texts)
        starts = [0]
        for line in self.texts:
            starts.append(starts[-1] + len(line) + 1)
        events: list[tuple[int, int, int, Any]] = []
        order: dict[int, int] = {}
        seen: set[tuple[int, int]] = set()
        for literal, parsers in LINE_PARSERS.items():
            position = text.find(literal)
            found = 0
            while position >= 0 and found < MOST:
                number = bisect.bisect_right(starts, position) - 1
                for line_parser in parsers:
                    rank = order.setdefault(id(line_parser), len(order))
                    if (number, rank) not in seen:
                        seen.add((number, rank))
                        events.append((number, 1, rank, line_parser))
                found += 1
                position = text.find(literal, starts[number + 1])
        for index, typed in enumerate(self.transcript.commands[:MOST]):
            if "=" in typed.text.partition(" ")[0] and parse_launch(typed.words) is None:
                events.append((typed.number, 0, index, (_assigned, typed)))
            for parser in COMMAND_PARSERS.get(typed.program, ()):
                events.append((typed.number, 0, index, (parser, typed)))
        statements = self.transcript.statements[:MOST]
        for index, (number, _, _) in enumerate(statements):
            limit = statements[index + 1][0] if index + 1 < len(statements) else number + 60
            events.append((number, 2, index, limit))
        events.sort(key=lambda event: event[:3])
        places = self.transcript.places
        for number, kind, index, what in events:
            if kind == 1:
                what(self, number, self.texts[number], places[number])
            elif kind == 2:
                _, code, place = statements[index]
                for statement_parser in STATEMENT_PARSERS:
                    statement_parser(self, code, self.texts[number + 1 : min(what, number + 200)], place)
            else:
                parser, typed = what
                parser(self, typed, self.texts[typed.start : min(typed.end, typed.start + 2000)])
