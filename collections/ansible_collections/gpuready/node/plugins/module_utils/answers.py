# Apache-2.0 (see LICENSE)
"""What is said when a module gave no answer: one text for every action plugin."""

from __future__ import annotations

from typing import Any, Mapping


def failure(what: str, result: Mapping[str, Any]) -> str:
    """The error of a module that failed or died: what could not be done, why, and what the node said."""
    # A module that died may have left a traceback and nothing else.
    died = str(result.get("exception") or "").strip().splitlines()
    cause = str(result.get("msg") or (died[-1] if died else "") or "no reason was given").strip()
    said = str(result.get("module_stderr") or result.get("module_stdout") or "").strip()
    return "%s: %s%s" % (what, cause, "\nThe node said: %s" % said[-2000:] if said else "")
