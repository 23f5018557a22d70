"""What is well now and will not be after the next boot."""

from __future__ import annotations

import pytest
from applied import converge
from gpuready.outlook import warnings
from observed_nodes import Node, bare


@pytest.fixture
def whole() -> Node:
    return converge(bare("20b5", docker="28.2.2-1"))


def test_next_boot_without_a_driver_is_a_warning(whole: Node) -> None:
    assert warnings(whole) == []
    whole["host"]["kernel"]["next_boot"] = "5.15.0-160-generic"
    assert [row["finding"] for row in warnings(whole)] == [
        "the kernel of the next boot, 5.15.0-160-generic, has no driver"
    ]
    whole["driver"]["on_disk_next_boot"] = {**whole["driver"]["on_disk"], "kernel": "5.15.0-160-generic"}
    assert warnings(whole) == []


def test_driver_on_disk_that_will_not_fit_its_libraries_is_a_warning(whole: Node) -> None:
    whole["driver"]["on_disk"]["version"] = "580.82.07"
    found = warnings(whole)
    assert "the next boot loads" in found[0]["finding"]
    assert found[0]["layer"] == "host" and found[0]["fix"]
    # What is broken already is no outlook.
    whole["driver"]["loaded"]["version"] = "580.82.07"
    assert warnings(whole) == []


@pytest.mark.parametrize("observed", [{}, {"host": None}, {"driver": None, "host": {"kernel": None}}])
def test_missing_facts_are_no_warning(observed: Node) -> None:
    assert warnings(observed) == []
