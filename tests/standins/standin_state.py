"""The file behind a stand-in: read, changed and written under a lock, every call noted."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any


class State:
    """What the simulated scheduler knows; written when the call is over."""

    def __init__(self, program: str) -> None:
        self.path = Path(os.environ.get("STANDIN_STATE", f"/var/lib/standin/{program}.json"))
        self.data: dict[str, Any] = {}

    def __enter__(self) -> State:
        self._lock = open(f"{self.path}.lock", "w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        with open(f"{self.path}.log", "a", encoding="utf-8") as log:
            log.write(json.dumps(sys.argv[1:]) + "\n")
        self.data = json.loads(self.path.read_text(encoding="utf-8"))
        return self

    def save(self) -> None:
        """Write it now."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.data, indent=2), encoding="utf-8")
        new.replace(self.path)

    def __exit__(self, *_error: object) -> None:
        self.save()
        self._lock.close()
