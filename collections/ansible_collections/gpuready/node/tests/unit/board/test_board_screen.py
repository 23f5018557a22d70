"""The lines at the bottom of a terminal: drawn again in their place, never over other text."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from gpuready.board_screen import Screen
from kit.terminal import Shown


class Stream(io.StringIO):
    """A terminal's stream without a terminal; what is written goes to an emulator."""

    def __init__(self, columns: int = 40, rows: int = 10) -> None:
        super().__init__()
        self.shown = Shown(columns, rows)
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        # A terminal's driver turns a new line into both.
        self.shown.feed(text.replace("\n", "\r\n").encode())
        return len(text)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    stream = Stream()
    monkeypatch.setattr(
        Screen, "size", lambda _self: (stream.shown.screen.columns, stream.shown.screen.lines)
    )
    return stream


def say(screen: Screen, text: str) -> None:
    """As the callback does when something else is written."""
    screen.erase()
    screen.stream.write(text)
    screen.above(text)


def test_lines_are_drawn_in_their_place_and_text_goes_above_them(stream):
    screen = Screen(stream)
    say(screen, "first\n")
    screen.paint(["one", "two"])
    screen.paint(["one", "two and more", "three"])
    assert [line for line in stream.shown.lines if line] == ["first", "one", "two and more", "three"]
    say(screen, "second\n")
    screen.paint(["one"])
    assert [line for line in stream.shown.lines if line] == ["first", "second", "one"]
    screen.erase()
    assert [line for line in stream.shown.lines if line] == ["first", "second"]


def test_text_scrolls_away_above_the_lines_and_is_kept(stream):
    screen = Screen(stream)
    for number in range(30):
        say(screen, f"text {number}\n")
        screen.paint([f"board {number}", "row", "row"])
    screen.erase()
    assert [line for line in stream.shown.everything if line] == [f"text {number}" for number in range(30)]


def test_nothing_is_written_when_nothing_has_changed(stream):
    screen = Screen(stream)
    screen.paint(["one"])
    written = len(stream.writes)
    for _round in range(5):
        screen.paint(["one"])
    assert len(stream.writes) == written


def test_cursor_is_never_hidden_between_two_writes(stream):
    screen = Screen(stream)
    for number in range(3):
        screen.paint([f"row {number}"])
    for text in stream.writes:
        assert text.count("\x1b[?25l") == text.count("\x1b[?25h")
        assert text.rfind("\x1b[?25h") >= text.rfind("\x1b[?25l")
        assert text.count("\x1b[?7l") == text.count("\x1b[?7h")
    assert (stream.shown.screen.cursor.x, stream.shown.screen.cursor.y) == (0, 1)


def test_text_without_a_new_line_is_not_drawn_over(stream):
    screen = Screen(stream)
    screen.paint(["board"])
    say(screen, "Which colour? ")
    screen.paint(["board"])
    assert [line for line in stream.shown.lines if line] == ["Which colour?"]
    say(screen, "blue\n")
    screen.paint(["board"])
    assert [line for line in stream.shown.lines if line] == ["Which colour? blue", "board"]


def test_screen_that_became_lower_than_the_board_is_not_left(stream):
    screen = Screen(stream)
    screen.paint([f"row {number}" for number in range(9)])
    stream.shown.screen.resize(5, 40)
    # Real terminals keep the line of the cursor; pyte leaves the cursor where no line is any more.
    stream.shown.screen.cursor.y = 4
    screen.paint(["row 0", "row 1"])
    assert [line for line in stream.shown.lines if line] == ["row 0", "row 1"]


def test_after_a_stop_other_text_is_left_alone(stream):
    screen = Screen(stream)
    screen.paint(["board"])
    # The shell wrote something, and this process does not know it.
    stream.write("$ fg\n")
    screen.lose()
    screen.paint(["board"])
    assert [line for line in stream.shown.lines if line] == ["board", "$ fg", "board"]


def test_stream_that_is_no_terminal_has_a_size(tmp_path: Path):
    from gpuready import board_screen

    with open(tmp_path / "file", "w", encoding="utf-8") as file:
        assert board_screen.size(file) == (80, 24)
        assert board_screen.in_foreground(file) is True
