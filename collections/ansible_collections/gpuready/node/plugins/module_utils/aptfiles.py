"""Files of apt's configuration, changed together or not at all, with what was there kept for the way back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from typing import Any, Dict, List, NamedTuple, Optional

BACKUPS = "/var/backups/gpuready/apt_source"


class Change(NamedTuple):
    """One file to come (`after` null: to go)."""

    path: str
    before: Optional[bytes]
    after: Optional[bytes]
    keep: bool  # `before` is somebody else's work, to be put back by state=absent


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Files:
    """The file system, or a test's copy of a piece of it."""

    def __init__(self, root: str = "/") -> None:
        self.root = root

    def at(self, path: str) -> str:
        return path if self.root == "/" else os.path.join(self.root, path.lstrip("/"))

    def read(self, path: str) -> Optional[bytes]:
        try:
            with open(self.at(path), "rb") as handle:
                return handle.read()
        except FileNotFoundError:
            return None

    def listdir(self, path: str) -> List[str]:
        try:
            return sorted(os.listdir(self.at(path)))
        except FileNotFoundError:
            return []

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Whole or not at all; a present file keeps its owner and mode, a link its target."""
        target = os.path.realpath(self.at(path))
        directory = os.path.dirname(target)
        os.makedirs(directory, mode=0o755, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".gpuready-", dir=directory)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            try:
                present = os.stat(target)
                os.chown(temporary, present.st_uid, present.st_gid)
                mode = present.st_mode & 0o7777
            except FileNotFoundError:
                pass
            os.chmod(temporary, mode)
            os.rename(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.at(path))

    def put(self, path: str, data: Optional[bytes]) -> None:
        if data is None:
            self.remove(path)
        else:
            self.write(path, data)

    def apply(self, changes: List[Change]) -> None:
        """All of them, in order; after an error the files are as they were."""
        done: List[Change] = []
        try:
            for change in changes:
                self.put(change.path, change.after)
                done.append(change)
        except BaseException:
            for change in reversed(done):
                # One that cannot be put back must not keep the others from it.
                with contextlib.suppress(OSError):
                    self.put(change.path, change.before)
            raise


class Backups:
    """What a managed source took the place of: one directory per source, with an index."""

    def __init__(self, files: Files, name: str) -> None:
        self.files = files
        self.directory = "%s/%s" % (BACKUPS, name)
        self.index = self.directory + "/index.json"

    def entries(self) -> List[Dict[str, Any]]:
        """[{path, backup, left}], `left` being the checksum of what was left at the path (null: nothing)."""
        data = self.files.read(self.index)
        if data is None:
            return []
        entries = json.loads(data.decode("utf-8"))
        return entries if isinstance(entries, list) else []

    def changes(self, kept: List[Change]) -> List[Change]:
        """The changes that record `kept` before it happens."""
        if not kept:
            return []
        entries = self.entries()
        result = []
        taken = len(entries)
        for change in kept:
            before = change.before or b""
            taken += 1
            backup = "%s/%03d-%s" % (self.directory, taken, os.path.basename(change.path))
            result.append(Change(backup, None, before, False))
            left = None if change.after is None else sha256(change.after)
            entries.append({"path": change.path, "backup": backup, "left": left})
        text = json.dumps(entries, indent=2) + "\n"
        result.append(Change(self.index, self.files.read(self.index), text.encode("utf-8"), False))
        return result
