"""The run as test results: whoever reads them comes to the verdict of fleet.json."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import pytest
from gpuready import report, report_junit
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import fleet as made_up
from poison import ATTEMPTS, junk, poisoned, texts

NODES, FLEET = made_up.run(24, not_run=("gpu900",))


def suites(nodes, fleet=FLEET):
    top = ElementTree.fromstring(report_junit.render(nodes, fleet))
    assert top.tag == "testsuites"
    found = {suite.attrib["name"]: suite for suite in top}
    for suite in found.values():
        cases = suite.findall("testcase")
        assert [case.attrib["name"] for case in cases] == list(report.LAYERS)
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[attribute]) == len(suite.findall(f"testcase/{tag}"))
    for attribute in ("tests", "failures", "errors", "skipped"):
        assert int(top.attrib[attribute]) == sum(int(suite.attrib[attribute]) for suite in found.values())
    return found


def test_a_suite_fails_exactly_when_its_node_does():
    found = suites(NODES)
    assert set(found) == {*(node["host"] for node in NODES), "gpu900"}
    for node in NODES:
        suite = found[node["host"]]
        failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
        assert bool(failed) is (node["status"] in report.BAD_STATUSES), node["status"]
    assert int(found["gpu900"].attrib["errors"]) == 1


def one(kind, **changes):
    node = next(node for node in NODES if node["status"] == kind)
    return suites([{**node, **changes}])[node["host"]], node


def test_a_failure_tells_its_cause_and_its_fix():
    for node in NODES:
        for cause in report.root_causes(node):
            case = suites([node])[node["host"]].find(f"testcase[@name='{cause['layer']}']/failure")
            assert case is not None and cause["title"] in case.attrib["message"]
            assert f"fix: {cause['fix'][0]}" in case.text
            return
    raise AssertionError("the made-up fleet has no failure with a cause")


def test_an_unreachable_node_is_an_error_of_its_host():
    suite, node = one("unreachable")
    error = suite.find("testcase[@name='host']/error")
    assert error is not None and error.attrib["type"] == "unreachable" and node["error"] in error.text
    assert suite.attrib["skipped"] == "3"


@pytest.mark.parametrize(
    ("stage", "layer"),
    [("docker_engine", "container_runtime"), ("framework_image", "framework"), ("verify", "application")],
)
def test_a_failure_that_no_layer_shows_belongs_to_the_layer_of_its_stage(stage, layer):
    suite, _node = one("verified", status="failed", error="no space left", error_stage=stage)
    assert [case.attrib["name"] for case in suite if case.find("error") is not None] == [layer]


def test_what_a_plan_would_do_is_skipped_and_no_failure():
    stuck = next(node for node in NODES if (node["error"] or "").startswith("Install the driver"))
    suite = suites([{**stuck, "status": "planned", "error": None}])[stuck["host"]]
    assert (suite.attrib["failures"], suite.attrib["errors"]) == ("0", "0")
    assert suite.find("testcase[@name='host']/skipped").attrib["message"].startswith("to be done: ")


def test_times_are_those_of_the_layers_stages():
    timings = [
        {"stage": "observe", "seconds": 1.5},
        {"stage": "nvidia_driver", "seconds": 60},
        {"stage": "framework_image", "seconds": 30},
    ]
    suite, _node = one("verified", timings=timings)
    times = {case.attrib["name"]: case.attrib["time"] for case in suite.findall("testcase")}
    assert times == {
        "host": "61.50",
        "container_runtime": "0.00",
        "framework": "30.00",
        "application": "0.00",
    }
    assert suite.attrib["time"] == "91.50"


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_whatever_a_node_says_is_well_formed(attempt):
    suites([poisoned(node, lambda: attempt) | {"host": f"n{n}"} for n, node in enumerate(NODES)])


@settings(max_examples=150)
@given(st.data())
def test_a_document_of_another_shape_breaks_no_file(data):
    turn = itertools.cycle(data.draw(st.lists(texts, min_size=1, max_size=5)))
    node = poisoned(data.draw(st.sampled_from(NODES)), lambda: next(turn))
    keys = [key for key in node if key not in ("host", "status", "schema", "run")]
    for key in data.draw(st.lists(st.sampled_from(keys), max_size=6)):
        node[key] = data.draw(junk)
    suites([node | {"host": "n"}])
