"""Ten thousand recorded nodes are planned in under five seconds of one core's time."""

from __future__ import annotations

import gc
import json
import time
from typing import Any

import pytest
from applied import TODAY
from gpuready.catalog import load_catalog
from gpuready.planner import plan
from observed_nodes import FIXTURES

NODES = 10_000
LIMIT_SECONDS = 5.0


def recorded(count: int) -> list[dict[str, Any]]:
    """As many different nodes: fixtures with a kernel, a driver version and addresses of their own.

    Only such as are planned to the end: a node with a conflict may be cheaper.
    """
    texts = [
        text
        for text in (path.read_text(encoding="utf-8") for path in sorted(FIXTURES.glob("*.json")))
        if plan(json.loads(text), {}, load_catalog(), host="node", today=TODAY)["status"] != "conflict"
    ]
    found = []
    for number in range(count):
        text = texts[number % len(texts)]
        text = text.replace("-157-generic", f"-{100 + number % 97}-generic")
        text = text.replace("580.95.05", f"580.{95 + number % 50}.{number % 89:02d}")
        text = text.replace("0000:3b:00.0", f"0000:{16 + number % 200:02x}:00.0")
        node = json.loads(text)
        node["host"]["hostname"] = f"node{number}"
        found.append(node)
    return found


def test_ten_thousand_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    nodes, catalog = recorded(NODES), load_catalog()
    plan(nodes[0], {}, catalog, host="first", today=TODAY)  # the catalog's own work is done once
    # Ten thousand nodes in memory are a fleet's file, not the planner's garbage.
    gc.collect()
    gc.freeze()
    seconds = []
    try:
        # Processor time, not the clock's; and even that is longer where a neighbour uses the same core.
        while len(seconds) < 3 and min(seconds, default=LIMIT_SECONDS) >= LIMIT_SECONDS:
            statuses: dict[str, int] = {}
            begun = time.process_time()
            for node in nodes:
                result = plan(node, {}, catalog, host=node["host"]["hostname"], today=TODAY)
                statuses[result["status"]] = statuses.get(result["status"], 0) + 1
            seconds.append(time.process_time() - begun)
    finally:
        gc.unfreeze()
    best = min(seconds)
    with capsys.disabled():
        print(f"\n{NODES / best:.0f} nodes/s: {NODES} plans in {best:.2f} s of CPU, {statuses}", end=" ")
    assert statuses["changes"] > NODES / 2 and statuses["converged"] > NODES / 20
    assert best < LIMIT_SECONDS
