# Apache-2.0 (see LICENSE)
"""What a person pasted, read into the same facts that a node's observation has (docs/contracts.md, section 8)."""

from __future__ import annotations

from typing import Any

from .reader_text import normalise

__all__ = ["normalise", "read"]


def read(text: str) -> dict[str, Any]:
    """The facts that the text states; what it does not state is absent. Never raises on rubbish."""
    return {}
