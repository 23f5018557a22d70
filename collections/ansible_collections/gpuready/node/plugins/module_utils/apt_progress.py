# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""How far apt and DKMS are. Runs on nodes: Python 3.8."""

from __future__ import annotations

import glob
import os
import re
import threading
import time
from typing import Dict, Iterable, List, Optional, Tuple

from . import progress

#: How much of a package's way is behind it when apt says so of it.
WEIGHTS = (
    ("Installed", 1.0),
    ("Removed", 1.0),
    ("Completely removed", 1.0),
    ("Configuring", 0.6),
    ("Preparing to configure", 0.5),
    ("Unpacking", 0.3),
    ("Removing", 0.3),
    ("Preparing for removal", 0.1),
    ("Preparing", 0.1),
)


class Status:
    """What apt writes to APT::Status-Fd, as a step's progress."""

    def __init__(self, step: progress.Step, packages: Iterable[str]) -> None:
        self.step = step
        self._ways: Dict[str, float] = dict.fromkeys(packages, 0.0)

    def line(self, line: str) -> None:
        """`pmstatus:PACKAGE:PERCENT:words` while dpkg works, `dlstatus:NUMBER:PERCENT:words` before."""
        kind, _, rest = line.strip().partition(":")
        parts = rest.split(":", 2)
        if len(parts) != 3:
            return
        name, percent, text = parts
        if kind == "dlstatus":
            try:
                done = float(percent)
            except ValueError:
                return
            self.step.begin("percent", 100)
            self.step.tell(done, text=text)
        elif kind == "pmstatus":
            self.step.begin("packages", len(self._ways))
            if name in self._ways:
                weight = next((weight for words, weight in WEIGHTS if text.startswith(words)), 0.0)
                self._ways[name] = max(self._ways[name], weight)
            self.step.tell(sum(self._ways.values()), text=text)


class Apt:
    """A pipe for apt's status, and a thread that listens to it, around one run of apt-get."""

    def __init__(self, packages: Iterable[str]) -> None:
        names = list(packages)
        self._step = progress.Step("apt", "packages", len(names))
        self._status = Status(self._step, names)
        self._read, self.fd = os.pipe()
        self._thread = threading.Thread(target=self._listen, name="progress", daemon=True)
        self._dkms = progress.Ticker(Dkms().look)

    @property
    def options(self) -> List[str]:
        return ["--option=APT::Status-Fd=%d" % self.fd]

    def __enter__(self) -> Apt:
        self._step.__enter__()
        self._thread.start()
        self._dkms.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        os.close(self.fd)
        # A service that a package started may have inherited the other end: nobody waits for that one to end.
        self._thread.join(2)
        self._dkms.__exit__(*reason)
        self._step.__exit__(*reason)
        Dkms.forget()

    def _listen(self) -> None:
        with open(self._read, encoding="utf-8", errors="replace") as pipe:
            for line in pipe:
                self._status.line(line)


class Dkms:
    """The module that DKMS compiles now, by the log that it writes."""

    ROOT = "/var/lib/dkms"
    STEP = "dkms"
    #: A log that has been silent for longer belongs to a build that is over.
    SILENT_SECONDS = 60.0

    def __init__(self, root: str = ROOT, folder: Optional[str] = None) -> None:
        self.root, self.folder = root, folder
        self._step: Optional[progress.Step] = None
        self._log = ""

    def look(self) -> None:
        found = self.newest()
        if found is None:
            self._end()
            return
        log, module, version = found
        if log != self._log or self._step is None:
            self._end()
            self._log = log
            self._step = progress.Step(self.STEP, "files", self.whole(log, module, version), self.folder)
        self._step.tell(compiled(log), text="compiling %s %s" % (module, version))

    def _end(self) -> None:
        if self._step is not None:
            self._step.__exit__()
            self._step = None

    @classmethod
    def forget(cls) -> None:
        progress.Step(cls.STEP, "files").__exit__()

    def newest(self) -> Optional[Tuple[str, str, str]]:
        """The log that is being written, and what is compiled."""
        logs = [
            (os.stat(path).st_mtime, path)
            for path in glob.glob(os.path.join(self.root, "*/*/build/make.log"))
        ]
        fresh = [(when, path) for when, path in logs if time.time() - when < self.SILENT_SECONDS]
        if not fresh:
            return None
        path = max(fresh)[1]
        parts = path.split(os.sep)
        return path, parts[-4], parts[-3]

    @staticmethod
    def whole(log: str, module: str, version: str) -> Optional[float]:
        """How many files there are to compile: as many as for another kernel, or by the module's lists."""
        tree = os.path.dirname(os.path.dirname(log))
        for path in glob.glob(os.path.join(tree, "*/*/log/make.log")):
            return compiled(path) or None
        count = 0
        for path in glob.glob(os.path.join(os.path.dirname(log), "**", "*.Kbuild"), recursive=True):
            with open(path, encoding="utf-8", errors="replace") as file:
                count += len(re.findall(r"^\s*NV\w*_SOURCES\s*\+?=.*\.c\b", file.read(), re.MULTILINE))
        return count or None


def compiled(log: str) -> int:
    """How many files a log says to have been compiled."""
    with open(log, encoding="utf-8", errors="replace") as file:
        return sum(1 for line in file if re.match(r"\s*CC\s", line))
