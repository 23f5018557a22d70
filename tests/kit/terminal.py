"""A terminal in which a program runs, and what it shows: to be asked, or to be looked at as a picture."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pexpect
import pyte

#: The colours of the picture, by pyte's names.
COLOURS = {
    "default": "#d0d4da",
    "green": "#6cc070",
    "red": "#ff6b68",
    "cyan": "#5bc8d8",
    "brown": "#e0b45a",
    "blue": "#6ea8ff",
    "magenta": "#d08be0",
}


@dataclass
class Shown:
    """What a terminal was made to show."""

    columns: int
    rows: int
    raw: bytes = b""
    status: int | None = None
    screens: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.screen = pyte.HistoryScreen(self.columns, self.rows, history=5000)
        self.stream = pyte.ByteStream(self.screen)

    def feed(self, data: bytes) -> None:
        """More of what the program wrote."""
        self.raw += data
        self.stream.feed(data)
        self.screens.append(self.lines)

    @property
    def lines(self) -> list[str]:
        """What is on the screen now."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def everything(self) -> list[str]:
        """What scrolled away, and what is on the screen."""
        above = [
            "".join(line[column].data for column in range(self.columns)).rstrip()
            for line in self.screen.history.top
        ]
        return above + self.lines

    @property
    def text(self) -> str:
        """All of it as one text."""
        return "\n".join(self.everything).rstrip() + "\n"

    def ever(self, pattern: str) -> bool:
        """Whether a screen ever had a line like this."""
        return any(re.search(pattern, line) for screen in self.screens for line in screen)

    def html(self) -> str:
        """The screen as a page, in its colours."""
        rows = []
        for y in range(self.screen.lines):
            line, spans, last = self.screen.buffer[y], "", None
            for x in range(self.screen.columns):
                cell = line[x]
                look = (cell.fg, cell.bold)
                if look != last:
                    colour = COLOURS.get(cell.fg, COLOURS["default"])
                    weight = ";font-weight:bold" if cell.bold else ""
                    spans += ("</span>" if last else "") + f'<span style="color:{colour}{weight}">'
                    last = look
                spans += html.escape(cell.data)
            rows.append(spans + "</span>")
        style = (
            "body{margin:0;background:#16191d}"
            "pre{margin:0;padding:18px 20px;display:inline-block;font:15px/1.36 'DejaVu Sans Mono',monospace}"
        )
        body = "\n".join(rows)
        return f'<!doctype html><meta charset="utf-8"><style>{style}</style><pre>{body}</pre>'

    def picture(self, path: Path) -> Path:
        """The screen as a picture, made by a browser."""
        from .browser import chromium

        path.parent.mkdir(parents=True, exist_ok=True)
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 2000, "height": 1400}, device_scale_factor=1.5)
            page.set_content(self.html())
            page.locator("pre").screenshot(path=str(path))
        return path


def watch(
    command: Sequence[str],
    *,
    cwd: Path,
    environ: Mapping[str, str],
    columns: int = 120,
    rows: int = 30,
    timeout: float = 90,
    during: Callable[[pexpect.spawn, Shown], None] | None = None,
) -> Shown:
    """Run a program in a terminal until it ends; ``during`` is called when it may have shown something."""
    seen = Shown(columns, rows)
    child = pexpect.spawn(
        command[0],
        list(command[1:]),
        cwd=str(cwd),
        env=dict(environ),
        dimensions=(rows, columns),
        timeout=timeout,
    )
    end = time.monotonic() + timeout
    try:
        while time.monotonic() < end:
            try:
                seen.feed(child.read_nonblocking(65536, timeout=0.2))
            except pexpect.TIMEOUT:
                pass
            except pexpect.EOF:
                break
            if during is not None:
                during(child, seen)
        else:
            raise AssertionError(f"it did not end within {timeout:.0f} s:\n{seen.text}")
    finally:
        child.close(force=True)
    seen.status = child.exitstatus
    return seen
