"""The one exception that reaches the user as a message without a traceback."""

from __future__ import annotations


class LabError(Exception):
    """Something the user can act on; the text names what is wrong and what to do."""
