# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""How far Docker is with an image, from what it draws on a terminal. Runs on nodes: Python 3.8.

The command line is asked and not the engine itself, because it knows the node's registry credentials; and it
says bytes only to a terminal.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from typing import Dict, List, Optional, Tuple

from . import progress

#: What moves the cursor, clears lines or sets colours.
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[78=>]")
LAYER = re.compile(r"^([0-9a-f]{12}): (.+)$")
#: `Downloading [==>   ]  12.3MB/45.67MB`; without the bar on narrow terminals, and a time behind it on some.
NUMBERS = re.compile(r"([\d.]+(?:e[+-]?\d+)?)\s*([kMGT]?)B\s*/\s*([\d.]+(?:e[+-]?\d+)?)\s*([kMGT]?)B")
FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
# No line is broken on it.
COLUMNS, ROWS = 200, 500


class Layer:
    """One layer of the image."""

    def __init__(self) -> None:
        self.size: Optional[float] = None
        self.fetched = 0.0
        self.unpacked = 0.0
        self.complete = False  # it has come as a whole
        self.done = False  # and lies unpacked on the disk

    def take(self, status: str) -> None:
        word = status.split(" ")[0]
        found = NUMBERS.search(status)
        current = size = None
        if found:
            current = float(found.group(1)) * FACTORS[found.group(2)]
            size = float(found.group(3)) * FACTORS[found.group(4)]
        if word == "Downloading":
            if current is not None:
                self.fetched, self.size = max(self.fetched, current), size
        elif word == "Extracting":
            self.complete = True
            if current is not None:
                # The download's size is the better one; a tiny layer never said it.
                self.unpacked = max(self.unpacked, current)
                self.size = self.size or size
        elif status.startswith(("Verifying Checksum", "Download complete")):
            self.complete = True
        elif status.startswith("Pull complete"):
            self.complete = self.done = True
        if self.complete:
            self.fetched = self.size or self.fetched
        if self.done:
            self.unpacked = self.fetched


class Pull:
    """What `docker pull` has said so far."""

    def __init__(self) -> None:
        self.layers: Dict[str, Layer] = {}
        self.lines: List[str] = []
        self._rest = ""

    def feed(self, text: str) -> None:
        *whole, self._rest = re.split(r"[\r\n]+", self._rest + text)
        for line in whole:
            self._line(ESCAPE.sub("", line).strip())

    def _line(self, line: str) -> None:
        found = LAYER.match(line)
        if not found:
            if line:
                self.lines.append(line)
            return
        name, status = found.groups()
        if status.startswith("Already exists"):
            self.layers.pop(name, None)
        else:
            self.layers.setdefault(name, Layer()).take(status)

    @property
    def fetched(self) -> float:
        return sum(layer.fetched for layer in self.layers.values())

    @property
    def size(self) -> Optional[float]:
        """Bytes to be fetched; none as long as Docker has not begun with every layer."""
        if not self.layers or any(
            layer.size is None and not layer.complete for layer in self.layers.values()
        ):
            return None
        return sum(layer.size or layer.fetched for layer in self.layers.values())

    @property
    def complete(self) -> bool:
        """Everything is here, and what is left is to unpack it."""
        return bool(self.layers) and all(layer.complete for layer in self.layers.values())

    @property
    def unpacked(self) -> float:
        return sum(layer.unpacked for layer in self.layers.values())

    @property
    def text(self) -> str:
        there = sum(layer.complete for layer in self.layers.values())
        return "%d of %d layers" % (there, len(self.layers))


class Told:
    """Turns what a pull says into a step's progress: the bytes that come, then those that are unpacked."""

    def __init__(self, step: progress.Step, name: str) -> None:
        self.step, self.name = step, name
        self._unpacking: Optional[float] = None

    def __call__(self, pull: Pull) -> None:
        if not pull.complete or not pull.size:
            self.step.tell(pull.fetched, total=pull.size, text="%s, %s" % (self.name, pull.text))
            return
        if self._unpacking is None:
            # Much was unpacked while the rest was still coming: what is left begins here.
            self._unpacking = pull.unpacked
            self.step.begin("bytes", max(1.0, pull.size - self._unpacking))
        there = sum(layer.done for layer in pull.layers.values())
        text = "unpacking %s, %d of %d layers" % (self.name, there, len(pull.layers))
        self.step.tell(pull.unpacked - self._unpacking, text=text)


def pull(command: List[str], environment: Dict[str, str], told: Told) -> Tuple[int, str, str]:
    """Run a `docker pull` on a terminal of its own: exit status, what it said beside its layers, complaints.

    :raises OSError: when there are no terminals to be had here; nothing has been run then.
    """
    ours, its = pty.openpty()
    try:
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=its,
            stderr=subprocess.PIPE,
            env={**environment, "TERM": "xterm"},
        )
    except OSError:
        os.close(ours)
        raise
    finally:
        os.close(its)
    said, complaints = Pull(), b""
    assert process.stderr is not None
    stderr = process.stderr.fileno()
    waiting = [ours, stderr]
    try:
        while waiting:
            ready, _none, _none = select.select(waiting, [], [], 1.0)
            for source in ready:
                try:
                    part = os.read(source, 65536)
                except OSError:  # that is how a terminal ends whose program is gone
                    part = b""
                if not part:
                    waiting.remove(source)
                elif source == ours:
                    said.feed(part.decode("utf-8", "replace"))
                else:
                    complaints += part
            told(said)
        status = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
        process.stderr.close()
    said.feed("\n")
    return status, "\n".join(said.lines), complaints.decode("utf-8", "replace")


def read_of(pid: int, path: str) -> Optional[float]:
    """How many bytes of a file a process has read; none when it does not have it open."""
    folder = "/proc/%d/fd" % pid
    for name in os.listdir(folder):
        if os.readlink(os.path.join(folder, name)) != path:
            continue
        with open("/proc/%d/fdinfo/%s" % (pid, name), encoding="ascii") as file:
            for line in file:
                if line.startswith("pos:"):
                    return float(line.split()[1])
    return None
