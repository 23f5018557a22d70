"""A fleet of recorded nodes: the observations of tests/fixtures/observed, each as many different nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from gpuready.catalog import load_catalog
from gpuready.planner import plan

from . import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "observed"
TODAY = "2026-11-23"


@cache
def texts() -> tuple[str, ...]:
    """Those that are planned to the end, as JSON: a node with a conflict may be cheaper."""
    catalog = load_catalog()
    found = [path.read_text(encoding="utf-8") for path in sorted(FIXTURES.glob("*.json"))]
    return tuple(
        text
        for text in found
        if plan(json.loads(text), {}, catalog, host="node", today=TODAY)["status"] != "conflict"
    )


def nodes(count: int, first: int = 0) -> Iterator[dict[str, Any]]:
    """As many nodes, each with a kernel, a driver version and addresses of its own."""
    for number in range(first, first + count):
        text = texts()[number % len(texts())]
        text = text.replace("-157-generic", f"-{100 + number % 97}-generic")
        text = text.replace("580.95.05", f"580.{95 + number % 50}.{number % 89:02d}")
        text = text.replace("0000:3b:00.0", f"0000:{16 + number % 200:02x}:00.0")
        node: dict[str, Any] = json.loads(text)
        node["host"]["hostname"] = f"node{number}"
        yield node
