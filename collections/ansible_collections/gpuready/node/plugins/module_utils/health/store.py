# Apache-2.0 (see LICENSE)
"""Small files that are replaced in one step: a reader sees the old one or the new one. Python 3.8."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any, Dict, Optional


def read(path: str) -> Optional[Dict[str, Any]]:
    """A JSON file's mapping; None where there is no file; ValueError where it is something else."""
    try:
        with open(path, encoding="utf-8") as handle:
            found = json.load(handle)
    except FileNotFoundError:
        return None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def write_text(path: str, text: str, mode: int = 0o644) -> None:
    folder = os.path.dirname(path)
    # node_exporter reads *.prom: a half-written file must be called otherwise.
    handle, temporary = tempfile.mkstemp(prefix="." + os.path.basename(path) + ".", suffix=".new", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: str, data: Dict[str, Any]) -> None:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    write_text(path, json.dumps(data, indent=1, sort_keys=True) + "\n")
