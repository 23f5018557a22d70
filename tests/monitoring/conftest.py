"""A real Prometheus that scrapes a made-up fleet on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import fleet
import pytest
from kit import prometheus


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[prometheus.Prometheus]:
    """It has scraped a busy node and one in trouble long enough for every expression."""
    folder = tmp_path_factory.mktemp("prometheus")
    with (
        fleet.served(fleet.busy, fleet.troubled) as addresses,
        prometheus.running(folder, {"gpu-nodes": addresses}) as found,
    ):
        ready = "min(count_over_time(gpuready_node_info[1m])) >= 5"
        found.wait(lambda: len(found.query("gpuready_node_info")) == 2 and found.query(ready), "five scrapes")
        yield found
