"""Ten thousand recorded nodes are planned in under five seconds of one core's time."""

from __future__ import annotations

import gc
import time

import pytest
from gpuready.catalog import load_catalog
from gpuready.planner import plan
from kit import recorded

NODES = 10_000
LIMIT_SECONDS = 5.0


def test_ten_thousand_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    nodes, catalog = list(recorded.nodes(NODES)), load_catalog()
    plan(nodes[0], {}, catalog, host="first", today=recorded.TODAY)  # the catalog's own work is done once
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
                result = plan(node, {}, catalog, host=node["host"]["hostname"], today=recorded.TODAY)
                statuses[result["status"]] = statuses.get(result["status"], 0) + 1
            seconds.append(time.process_time() - begun)
    finally:
        gc.unfreeze()
    best = min(seconds)
    with capsys.disabled():
        print(f"\n{NODES / best:.0f} nodes/s: {NODES} plans in {best:.2f} s of CPU, {statuses}", end=" ")
    assert statuses["changes"] > NODES / 2 and statuses["converged"] > NODES / 20
    assert best < LIMIT_SECONDS
