# Apache-2.0 (see LICENSE)
"""Copies of plain data. Runs on nodes too: Python 3.8."""

from __future__ import annotations

from typing import Any

_HOLDERS = (dict, list, tuple)


def plain_copy(data: Any) -> Any:
    """A copy of what JSON can say: many times faster than copy.deepcopy, which knows more."""
    if isinstance(data, dict):
        return {key: plain_copy(value) if type(value) in _HOLDERS else value for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain_copy(item) if type(item) in _HOLDERS else item for item in data]
    return data
