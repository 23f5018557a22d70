# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""A few lines at the bottom of a terminal that are drawn again and again, while text scrolls by above them.

Nothing is left to be cleaned up: the cursor is hidden only within one write, and between two writes it
stands at the beginning of the line below the last one, where a shell may go on whatever becomes of this
process.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

UP = "\x1b[{}A"
CLEAR_LINE = "\x1b[K"
CLEAR_BELOW = "\x1b[J"
# Terminals that know it show what lies between at once; the others ignore it.
BEGIN, END = "\x1b[?2026h\x1b[?25l", "\x1b[?25h\x1b[?2026l"
# Lines that are too long for a terminal that has become narrower must not be broken into two.
WRAP_OFF, WRAP_ON = "\x1b[?7l", "\x1b[?7h"


def size(stream: TextIO) -> tuple[int, int]:
    """Columns and rows of the terminal. ``COLUMNS`` and ``LINES`` are not asked, since windows change."""
    try:
        found = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    # A terminal that does not know its size says 0 (serial lines, some containers).
    return found.columns or 80, found.lines or 24


def in_foreground(stream: TextIO) -> bool:
    """Whether this process may write where a person is looking; one in the background may not."""
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return True  # it is not this terminal's job, so nobody else writes there either


class Screen:
    """The lines and where they are. Not safe for threads: the callers have Ansible's own lock."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self._shown: list[str] = []
        self._size: tuple[int, int] | None = None
        #: Whether the last text above ended with a new line: only then there is a place for the board.
        self._line_ended = True

    @property
    def visible(self) -> bool:
        return bool(self._shown)

    def size(self) -> tuple[int, int]:
        return size(self.stream)

    def may_paint(self) -> bool:
        return self._line_ended and in_foreground(self.stream)

    def lose(self, *_signal: object) -> None:
        """The process was stopped and goes on: where its lines are now, nobody knows."""
        self._shown = []

    def _up(self) -> str:
        """To the board's first line. Never above it, where other text is, even if lines were broken."""
        rows = self.size()[1]
        count = min(len(self._shown), rows - 1)
        return "\r" + (UP.format(count) if count else "")

    def paint(self, lines: list[str]) -> None:
        """Draw them in the place of those that are there."""
        now = self.size()
        if lines == self._shown and now == self._size:
            return
        if not self.may_paint():
            return
        text = "".join(f"{line}{CLEAR_LINE}\n" for line in lines)
        self._write(BEGIN + WRAP_OFF + self._up() + text + CLEAR_BELOW + WRAP_ON + END)
        self._shown, self._size = list(lines), now

    def erase(self) -> None:
        """Take them away; the cursor is where the first one was."""
        if self._shown:
            self._write(self._up() + CLEAR_BELOW)
            self._shown = []

    def above(self, text: str) -> None:
        """Remember how the text ended that has just been written above."""
        if text:
            self._line_ended = text.endswith("\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
