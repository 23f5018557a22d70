# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""How long the stages took in earlier runs, from the reports of those runs. Controller only."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

#: The newest runs of these count.
RUNS = 5
#: With so many nodes there is no need for every one of them.
FILES = 60
#: Stages that took less are no help: nothing was done there.
SHORTEST_SECONDS = 1.0


class History:
    """Reads the files when it is asked for the first time. Without any, nothing is known."""

    def __init__(self, artifacts: Path) -> None:
        self._artifacts = artifacts
        self._by_host: dict[tuple[str, str], float] | None = None
        self._by_stage: dict[str, float] = {}

    def seconds(self, host: str, stage: str) -> float | None:
        """As long as it took this host the last time; else what was usual among the others."""
        if self._by_host is None:
            self._read()
        assert self._by_host is not None
        return self._by_host.get((host, stage), self._by_stage.get(stage))

    def _read(self) -> None:
        self._by_host = {}
        every: dict[str, list[float]] = {}
        for file in self._files():
            for host, stage, seconds in _timings(file):
                self._by_host.setdefault((host, stage), seconds)  # the newest run's comes first
                every.setdefault(stage, []).append(seconds)
        self._by_stage = {stage: statistics.median(found) for stage, found in every.items()}

    def _files(self) -> list[Path]:
        try:
            runs = [path for path in self._artifacts.iterdir() if (path / "fleet.json").is_file()]
            runs = [path for path in runs if not path.is_symlink()]  # `latest` is one of the others
            runs = sorted(runs, key=lambda path: path.name, reverse=True)[:RUNS]
            return [file for run in runs for file in sorted(run.glob("*.json"))[:FILES]]
        except OSError:
            return []


def _timings(file: Path) -> list[tuple[str, str, float]]:
    """A node file's (host, stage, seconds); nothing of a file that is none."""
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
        host = str(found["host"])
        rows = [(str(row["stage"]), float(row["seconds"])) for row in found["timings"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [(host, stage, seconds) for stage, seconds in rows if seconds >= SHORTEST_SECONDS]
