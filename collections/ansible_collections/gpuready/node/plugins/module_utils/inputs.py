# Apache-2.0 (see LICENSE)
"""Files and standard input of the command `gpuready`: read in one way, refused in one line."""

from __future__ import annotations

import os
import sys

#: More than any log that somebody wants to hand over; a mistaken path should not fill the memory.
LARGEST = 50_000_000


class Trouble(ValueError):
    """The question cannot be answered; one line that says why."""


def _read(path: str) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read()
        if os.path.getsize(path) > LARGEST:
            raise Trouble("%s: larger than %d MB; cut it to what matters" % (path, LARGEST // 1_000_000))
        with open(path, "rb") as handle:
            return handle.read()
    except OSError as error:
        raise Trouble("%s: %s" % (path, error.strerror or error)) from error


def read_text(path: str) -> str:
    """What a program or an editor wrote: all of it, or it is no text."""
    try:
        return _read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Trouble("%s: %s" % (path, error)) from error


def read_log(path: str) -> str:
    """What somebody pasted or saved: whatever its bytes are, its readable part counts."""
    data = _read(path)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        # PowerShell's > writes UTF-16.
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")
