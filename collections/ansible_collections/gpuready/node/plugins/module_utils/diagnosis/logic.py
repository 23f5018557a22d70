# Apache-2.0 (see LICENSE)
"""Conditions over signs, in Kleene's logic: what is unknown stays so, unless it cannot matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

#: A sign's name, or {"all": [...]}, {"any": [...]}, {"not": ...}.
Condition = Any


def holds(condition: Condition, state_of: Callable[[str], bool | None]) -> bool | None:
    """Whether a condition holds; None where that hangs on what is unknown.

    >>> holds({"any": ["a", {"not": "b"}]}, {"a": None, "b": False}.get)
    True
    """
    if isinstance(condition, str):
        return state_of(condition)
    ((word, operand),) = condition.items()
    if word == "not":
        state = holds(operand, state_of)
        return None if state is None else not state
    states = [holds(part, state_of) for part in operand]
    decisive = word == "any"
    if decisive in states:
        return decisive
    return None if None in states else not decisive


def leaves(condition: Condition, wanted: bool = True) -> Iterator[tuple[str, bool]]:
    """Every sign of a condition with the state that speaks for it."""
    if isinstance(condition, str):
        yield condition, wanted
        return
    ((word, operand),) = condition.items()
    if word == "not":
        yield from leaves(operand, not wanted)
        return
    for part in operand:
        yield from leaves(part, wanted)


def complaint(condition: Condition) -> str | None:
    """Why something is no condition; None when it is one."""
    if isinstance(condition, str):
        return None if condition.strip() else "an empty name is no sign"
    if not isinstance(condition, dict) or len(condition) != 1:
        return f"{condition!r} is neither a sign's name nor one of {{all: […]}}, {{any: […]}}, {{not: …}}"
    ((word, operand),) = condition.items()
    if word == "not":
        return complaint(operand)
    if word not in ("all", "any"):
        return f"{word!r} is none of all, any, not"
    if not isinstance(operand, list) or not operand:
        return f"{word} needs a list of conditions that is not empty"
    return next((found for found in map(complaint, operand) if found), None)
