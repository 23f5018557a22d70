"""Prometheus' text format, read back by Prometheus' own parser for Python."""

from __future__ import annotations

from typing import Any

import pytest
from gpuready.health.exposition import Exposition
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families


def read(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r"), min_size=1, max_size=30)


@given(TEXT, TEXT, st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**15), 10**15))
def test_any_label_and_number_comes_back(first: str, second: str, value: Any) -> None:
    out = Exposition()
    out.add("thing", "gauge", f"about {first}", value, {"a": first, "b": second})
    assert read(out.text()) == {"gpuready_thing": [({"a": first, "b": second}, float(value))]}


def test_unknown_is_left_out_and_zero_is_not() -> None:
    out = Exposition()
    out.add("unknown", "gauge", "nothing is known", None)
    out.add("zero", "gauge", "none", 0)
    assert read(out.text()) == {"gpuready_zero": [({}, 0.0)]}
    assert "unknown" not in out.text()


def test_the_same_labels_again_replace_the_sample() -> None:
    """node_exporter drops a whole file in which one series comes twice."""
    out = Exposition()
    for value in (1, 2):
        out.add("thing", "gauge", "things", value, {"gpu": 0, "name": None})
    assert read(out.text()) == {"gpuready_thing": [({"gpu": "0"}, 2.0)]}


def test_a_family_is_told_once_and_together() -> None:
    out = Exposition()
    for gpu in (0, 1):
        out.add("first", "gauge", "one", 1, {"gpu": gpu})
        out.add("second", "gauge", "two", 2, {"gpu": gpu})
    lines = out.text().splitlines()
    assert [line.split()[2] for line in lines if line.startswith("# TYPE")] == [
        "gpuready_first",
        "gpuready_second",
    ]
    assert [line.split("{")[0] for line in lines if not line.startswith("#")] == [
        "gpuready_first",
        "gpuready_first",
        "gpuready_second",
        "gpuready_second",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(True, "1"), (False, "0"), (85899345920, "85899345920"), (0.5, "0.5")]
)
def test_numbers_are_plain(value: Any, text: str) -> None:
    out = Exposition()
    out.add("thing", "gauge", "a number", value)
    assert out.text().splitlines()[-1] == f"gpuready_thing {text}"
