# Apache-2.0 (see LICENSE)
"""Signs: named statements about the facts, each true, false or unknown, with its evidence.

A cause's conditions (``data/symptoms``) are made of them. They are pure functions of :class:`~.facts.Facts`,
and do not care whether a fact was observed on a node, found by a probe, or read out of pasted text.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .facts import Facts


class Sign(NamedTuple):
    """A statement's truth (None: unknown) and what it rests on, in words with the observed values."""

    state: bool | None
    evidence: tuple[str, ...] = ()


def yes(*evidence: str) -> Sign:
    """It holds."""
    return Sign(True, evidence)


def no(*evidence: str) -> Sign:
    """It does not hold."""
    return Sign(False, evidence)


UNKNOWN = Sign(None)


class Definition(NamedTuple):
    """A sign's name, what it says when it holds, and how it is found."""

    name: str
    says: str
    find: Callable[[Facts], Sign]


SIGNS: dict[str, Definition] = {}


def sign(name: str, says: str) -> Callable[[Callable[[Facts], Sign]], Callable[[Facts], Sign]]:
    """Register a sign under ``<subject>.<statement>``, for instance ``module.loaded``."""

    def register(find: Callable[[Facts], Sign]) -> Callable[[Facts], Sign]:
        if name in SIGNS:
            raise ValueError(f"the sign {name} is defined twice")
        SIGNS[name] = Definition(name, says, find)
        return find

    return register


def ask(name: str, facts: Facts, definitions: Mapping[str, Definition] = SIGNS) -> Sign:
    """A sign by its name, found once for the same facts; KeyError where there is no such sign."""
    found: Sign = facts.recall("sign " + name, lambda: definitions[name].find(facts))
    return found


def speaking(facts: Facts, *names: str, state: bool = True) -> list[str]:
    """The evidence of those of these signs that are in that state; without any, what the sign says."""
    found: list[str] = []
    for name in names:
        answer = ask(name, facts)
        if answer.state is state:
            found += answer.evidence or (SIGNS[name].says,)
    return found


def load_signs() -> dict[str, Definition]:
    """All signs; importing their modules registers them."""
    for part in ("host", "runtime", "framework"):
        importlib.import_module(f".signs_{part}", __package__)
    return SIGNS
