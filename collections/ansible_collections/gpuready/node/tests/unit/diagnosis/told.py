"""What the tests of causes share: a diagnosis of facts, and of a text, with the shipped knowledge."""

from __future__ import annotations

import textwrap
from typing import Any

from gpuready.catalog import load_catalog
from gpuready.diagnosis import engine, reader
from gpuready.diagnosis.knowledge import load_knowledge

CATALOG = load_catalog()
KNOWN = load_knowledge(skip_broken=True)


def of_text(text: str) -> dict[str, Any]:
    text = textwrap.dedent(text)
    return engine.diagnose(reader.read(text), [("log", text)], knowledge=KNOWN, catalog=CATALOG)


def of_facts(facts: dict[str, Any], text: str = "") -> dict[str, Any]:
    texts = [("log", textwrap.dedent(text))] if text else []
    return engine.diagnose(facts, texts, knowledge=KNOWN, catalog=CATALOG)


def roots(answer: dict[str, Any]) -> list[str]:
    return [row["cause"] for row in answer["causes"] if row["standing"] == "root"]


def short(answer: dict[str, Any]) -> str:
    """What a failing test shows."""
    causes = [(row["cause"], row["standing"], row["confidence"]) for row in answer["causes"]]
    return f"{answer['status']}: {causes}; unexplained: {answer['unexplained']}"


def rows(cases: dict[str, list[str]]) -> list[tuple[str, int, str]]:
    """(cause, number, text) of every text that a cause has."""
    return [
        (cause, number, textwrap.dedent(text))
        for cause, texts in cases.items()
        for number, text in enumerate(texts)
    ]


def row_ids(found: list[tuple[str, int, str]]) -> list[str]:
    """What the tests of such rows are called."""
    return [f"{cause}-{number}" for cause, number, _text in found]
