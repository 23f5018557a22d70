# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""How far a long step is, told by a file on the node for whoever wants to know. Runs on nodes: Python 3.8.

The file is ``/run/gpuready/progress/<step>.json``, one line: ``{step, done, total, unit, started, updated,
text}``. It is there for as long as the step goes on. Telling is a courtesy: what goes wrong with it never
stops the step.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from typing import Any, Callable, Dict, List, Optional

FOLDER = "/run/gpuready/progress"
#: A file that nobody has touched for a minute was left behind by a step that was killed.
READ = "/bin/sh -c 'find %s -maxdepth 1 -name \"*.json\" -mmin -1 -exec cat {} + 2>/dev/null'" % FOLDER
UNITS = ("bytes", "packages", "files", "percent")
#: Not written more often, and written again after so long though nothing has changed.
PAUSE_SECONDS = 0.5
BEAT_SECONDS = 10.0


class Step:
    """A step that tells how far it is, as a context manager."""

    def __init__(
        self, name: str, unit: str, total: Optional[float] = None, folder: Optional[str] = None
    ) -> None:
        self.name, self.unit, self.total = name, unit, total
        self.done = 0.0
        self.text = ""
        self.path = os.path.join(folder or FOLDER, name + ".json")
        self.started = time.time()
        self._written = 0.0
        self._said: Optional[Dict[str, Any]] = None

    def __enter__(self) -> Step:
        self.tell(0, force=True)
        return self

    def __exit__(self, *_reason: object) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        with contextlib.suppress(OSError):
            # The last one puts the light out; where there is another step, they are not empty.
            os.rmdir(FOLDER)
            os.rmdir(os.path.dirname(FOLDER))

    def begin(self, unit: str, total: Optional[float] = None) -> None:
        """Another part of the step, which is counted in another way."""
        if unit != self.unit:
            self.unit, self.started, self.done = unit, time.time(), 0.0
        self.total = total

    def tell(
        self, done: float, total: Optional[float] = None, text: Optional[str] = None, force: bool = False
    ) -> None:
        """So much is done, of so much."""
        self.done = done
        self.total = self.total if total is None else total
        self.text = self.text if text is None else text
        now = time.monotonic()
        said = {"done": self.done, "total": self.total, "unit": self.unit, "text": self.text}
        waited = now - self._written
        if not force and (waited < PAUSE_SECONDS or (said == self._said and waited < BEAT_SECONDS)):
            return
        self._written, self._said = now, said
        self._write({"step": self.name, "started": self.started, "updated": time.time(), **said})

    def _write(self, told: Dict[str, Any]) -> None:
        new = "%s.%d" % (self.path, os.getpid())
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
            with open(new, "w", encoding="utf-8") as file:
                file.write(json.dumps(told) + "\n")
            os.chmod(new, 0o644)
            os.replace(new, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new)


class Ticker:
    """Calls a function every so often while a block runs, for steps that must be asked how far they are."""

    def __init__(self, look: Callable[[], None], every: float = 1.0) -> None:
        self._look, self._every = look, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._over.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._over.wait(self._every):
            try:
                self._look()
            except (OSError, ValueError):
                continue  # what is looked at comes and goes


def parse(text: str) -> List[Dict[str, Any]]:
    """The progress that files' lines tell; what is none is left out."""
    found = []
    for line in text.splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and isinstance(told.get("step"), str):
            found.append(told)
    return sorted(found, key=lambda told: str(told["step"]))
