"""Observations of one node on its way from bare to converged."""

from __future__ import annotations

from applied import apply, converge
from gpuready.catalog import load_catalog
from gpuready.planner import plan
from observed_nodes import Node
from observed_nodes import bare as bare_node

SOURCES = ("toolkit.source", "apt.refresh_lists", "host.nouveau_off")


def bare() -> Node:
    """Ubuntu 22.04 as it comes, with fresh lists of the distribution's archive only."""
    return bare_node("20b5", docker="20.10.24-0ubuntu1")


def with_source() -> Node:
    """The toolkit's source is there and its lists are fetched."""
    node = bare()
    todo = plan(node, {}, load_catalog(), host="n", today="2026-11-23")
    return apply(node, {**todo, "actions": [row for row in todo["actions"] if row["id"] in SOURCES]})


def converged() -> Node:
    """Everything is in place."""
    return converge(bare())
