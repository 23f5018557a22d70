"""A world small enough to reason about by hand: a few signs, messages and causes, and one call."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from gpuready.catalog import load_catalog
from gpuready.diagnosis import engine
from gpuready.diagnosis.facts import Facts
from gpuready.diagnosis.knowledge import Knowledge, load_knowledge
from gpuready.diagnosis.signs import SIGNS, Sign, sign

NAMES = ("a", "b", "c", "d")


def _register(name: str) -> None:
    if f"test.{name}" in SIGNS:
        return

    @sign(f"test.{name}", f"{name} holds")
    def _find(facts: Facts) -> Sign:
        value = facts.get(f"framework.packages.{name}")
        return Sign(value, (f"{name} is {value}",) if value is not None else ())


for _name in NAMES:
    _register(_name)

COMMON = {"source": ["here"], "basis": "read"}


def message(name: str, pattern: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "pattern": pattern, "means": f"{name} was said", **COMMON, **more}


def cause(name: str, link: str = "toolkit", **more: Any) -> dict[str, Any]:
    row = {
        "id": name,
        "layer": "host",
        "link": link,
        "title": f"{name} is wrong",
        "distinguish": "nothing else says so",
        "check": ["look"],
        "fix": ["mend it"],
        "repair": "manual",
        "checked": "2026-11",
        **COMMON,
    }
    return {**row, **more}


def knowledge(messages: Sequence[Mapping[str, Any]], causes: Sequence[Mapping[str, Any]]) -> Knowledge:
    return _knowledge(
        yaml.safe_dump({"schema": 1, "messages": list(messages), "causes": list(causes)}, sort_keys=False)
    )


@functools.lru_cache(maxsize=256)
def _knowledge(text: str) -> Knowledge:
    with tempfile.TemporaryDirectory() as place:
        Path(place, "host.yml").write_text(text, encoding="utf-8")
        return load_knowledge(place)


def diagnose(
    known: Knowledge, text: str = "", facts: Mapping[str, Any] | None = None, **states: bool | None
) -> dict[str, Any]:
    """The answer for a text, for facts, and for the states of the signs test.a … test.d."""
    given = dict(facts or {})
    if states:
        given["framework"] = {"packages": states}
    return engine.diagnose(given, [("log", text)], knowledge=known, catalog=load_catalog())


def roots(answer: Mapping[str, Any]) -> list[str]:
    return [row["cause"] for row in answer["causes"] if row["standing"] == "root"]


def alternatives(answer: Mapping[str, Any]) -> list[str]:
    return [row["cause"] for row in answer["causes"] if row["standing"] == "alternative"]
