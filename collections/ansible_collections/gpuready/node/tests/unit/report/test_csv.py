"""The run as a table: a row per node, and nothing in it that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import itertools
import re

import pytest
from gpuready import report, report_csv
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import fleet as made_up
from poison import ATTEMPTS, junk, poisoned, texts

NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
NODES, FLEET = made_up.run(24, not_run=("gpu900",))


def table(nodes, fleet=FLEET):
    text = report_csv.render(nodes, fleet)
    assert text.splitlines()[0] == ",".join(report_csv.COLUMNS)
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert len(rows) == len(nodes) + len(fleet["not_run"])
    for row in rows:
        assert None not in row and None not in row.values()
        for value in row.values():
            assert NUMBER.fullmatch(value) or not value.startswith(report_csv.FORMULA), value
    return rows


def test_a_row_says_what_the_node_is():
    rows = {row["host"]: row for row in table(NODES)}
    for node in NODES:
        row = rows[node["host"]]
        assert row["status"] == node["status"] and row["address"] == node["address"]
        assert row["driver"] == (node["versions"]["driver"] or "")
        assert row["causes"].split() == [cause["cause"] for cause in report.root_causes(node)] or row["what"]
        if node["status"] == "verified":
            assert (row["gpus_listed"], row["gpus_expected"]) == ("1", "1")
            assert [row[f"{layer}_ok"] for layer in report.LAYERS] == ["ok"] * 4
    assert rows["gpu900"]["status"] == "not_run"
    assert rows[NODES[0]["host"]]["simulated"] == "yes"


def test_of_several_workloads_the_one_with_the_fewest_gpus_counts():
    node = next(node for node in NODES if node["status"] == "verified")
    checked = node["verification"][0]
    row = table([node | {"verification": [checked, checked | {"gpus_listed": 0}]}])[0]
    assert (row["gpus_listed"], row["gpus_expected"]) == ("0", "1")


def test_line_ends_and_quotes_survive(tmp_path):
    node = NODES[0] | {"address": 'a "b",\nc'}
    folder = report.write_run(tmp_path, "r", [node], FLEET, "text\n")
    with (folder / "fleet.csv").open(encoding="utf-8", newline="") as stream:
        content = stream.read()
    assert content.startswith("host,") and content.count("\r\n") == 3
    assert next(csv.DictReader(io.StringIO(content, newline="")))["address"] == 'a "b",\nc'


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_no_text_of_a_node_is_a_formula(attempt):
    table([poisoned(node, lambda: attempt) for node in NODES])


@settings(max_examples=150)
@given(st.data())
def test_a_document_of_another_shape_breaks_no_table(data):
    turn = itertools.cycle(data.draw(st.lists(texts, min_size=1, max_size=5)))
    node = poisoned(data.draw(st.sampled_from(NODES)), lambda: next(turn))
    keys = [key for key in node if key not in ("host", "status", "schema", "run")]
    for key in data.draw(st.lists(st.sampled_from(keys), max_size=6)):
        node[key] = data.draw(junk)
    table([node])
