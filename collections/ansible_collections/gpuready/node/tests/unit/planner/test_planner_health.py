"""Monitoring: what is planned, what is refused, and what comes off again."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from applied import TODAY, apply, converge
from gpuready.catalog import load_catalog
from gpuready.health import build
from gpuready.planner import plan
from gpuready.wishes import check
from observed_nodes import Node, bare

WISHES: dict[str, Any] = {"gpu_health_enabled": True}
UNITS = "/etc/systemd/system/"


def planned(node: Node, host: str = "node", **wishes: Any) -> Node:
    return plan(node, {**WISHES, **wishes}, load_catalog(), host=host, today=TODAY)


DROP_IN = "/etc/systemd/system/prometheus-node-exporter.service.d/gpuready.conf"


def ids(result: Node) -> list[str]:
    return [action["id"] for action in result["actions"] if action["id"].startswith("health.")]


def contents(result: Node) -> dict[str, str]:
    return {row["path"]: row["content"] for row in result["health"]["files"]}


@pytest.fixture(scope="module")
def whole() -> Node:
    return converge(bare("20b5"), **WISHES)


def exporter(node: Node, directory: bool = True, reads: str | None = None) -> Node:
    """The node with a node_exporter of its own; is the wished directory there, and which one is read?"""
    node = copy.deepcopy(node)
    found = {"installed": True, "package": False, "ours": False, "active": True, "directory": reads}
    node["application"]["health"].update(node_exporter=found, textfile_directory=directory)
    return node


def test_nothing_is_planned_where_it_is_not_wished() -> None:
    result = planned(bare("20b5"), gpu_health_enabled=False)
    assert ids(result) == []
    assert result["health"] is None


def test_a_bare_node_gets_all_of_it_and_then_nothing_is_left(whole: Node) -> None:
    assert ids(planned(bare("20b5"))) == ["health.packages", "health.configure", "health.start"]
    assert planned(whole)["status"] == "converged"


def test_it_comes_off_again_when_it_is_not_wished_any_more(whole: Node) -> None:
    result = planned(whole, gpu_health_enabled=False)
    assert ids(result) == ["health.remove"]
    assert ids(planned(apply(whole, result), gpu_health_enabled=False)) == []


def test_an_exporter_that_is_there_is_used(whole: Node) -> None:
    result = planned(exporter(bare("20b5"), reads="/var/lib/prometheus/node-exporter"))
    assert "health.packages" not in ids(result)
    assert result["conflicts"] == []
    # and left where it listens
    assert DROP_IN not in contents(result) and result["health"]["exporter_unit"] is None


@pytest.mark.parametrize(
    ("address", "place"), [(None, "127.0.0.1:9100"), ("0.0.0.0", "0.0.0.0:9100"), ("::1", "[::1]:9100")]
)
def test_the_exporter_that_is_installed_listens_where_the_wish_says(address: str | None, place: str) -> None:
    wishes = {} if address is None else {"gpu_health_node_exporter_bind_address": address}
    result = planned(bare("20b5"), **wishes)
    assert f"--web.listen-address={place} " in contents(result)[DROP_IN]
    assert result["health"]["exporter_unit"] == "prometheus-node-exporter.service"


def test_another_address_is_put_in_place(whole: Node) -> None:
    result = planned(whole, gpu_health_node_exporter_bind_address="0.0.0.0")
    assert ids(result) == ["health.configure"]


def test_where_nothing_is_published_the_exporter_is_not_opened(whole: Node) -> None:
    result = planned(whole, gpu_health_exporter="none")
    assert DROP_IN in contents(result) and DROP_IN not in result["health"]["surplus"]


@pytest.mark.parametrize(
    ("node", "wishes", "words", "option"),
    [
        (
            exporter(bare("20b5"), directory=False),
            {},
            "/var/lib/prometheus/node-exporter (gpu_health_textfile_directory) does not exist",
            "its option --collector.textfile.directory",
        ),
        (
            bare("20b5"),
            {"gpu_health_node_exporter_install_allowed": False, "absent": True},
            "does not exist",
            "set gpu_health_exporter: none",
        ),
    ],
)
def test_a_directory_that_is_absent_is_one_conflict(
    node: Node, wishes: dict[str, Any], words: str, option: str
) -> None:
    node, wishes = copy.deepcopy(node), dict(wishes)
    if wishes.pop("absent", False):
        node["application"]["health"]["textfile_directory"] = False
    result = planned(node, **wishes)
    (conflict,) = result["conflicts"]
    assert (conflict["id"], conflict["role"]) == ("health.textfile_directory", "gpu_health")
    assert words in conflict["what"]
    assert any(option in way for way in conflict["options"])
    assert ids(result) == []


def test_the_running_exporters_own_directory_is_named() -> None:
    node = exporter(bare("20b5"), reads="/srv/textfiles/")
    (conflict,) = planned(node)["conflicts"]
    assert "reads /srv/textfiles/" in conflict["what"]
    assert conflict["options"] == ["set gpu_health_textfile_directory: /srv/textfiles"]
    assert planned(node, gpu_health_textfile_directory="/srv/textfiles")["conflicts"] == []


def test_a_package_that_apt_does_not_know_is_one_conflict() -> None:
    node = converge(bare("20b5"))
    node["apt"]["lists_age_seconds"] = 5.0
    (conflict,) = planned(node)["conflicts"]
    assert conflict["id"] == "health.not_installable"
    assert "prometheus-node-exporter" in conflict["what"]


def test_a_controller_without_bindings_is_one_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "digests", lambda: {build.PROGRAM: "0" * 64})
    (conflict,) = planned(exporter(bare("20b5")))["conflicts"]
    assert conflict["id"] == "health.bindings_missing"
    assert "nvidia-ml-py" in conflict["options"][0]


def test_without_an_exporter_no_metrics_are_written(whole: Node) -> None:
    result = planned(whole, gpu_health_exporter="none")
    assert result["health"]["textfile"] is None
    assert result["health"]["surplus"] == [UNITS + "gpuready-health-metrics.service"]
    assert "gpuready-health-metrics.service" not in result["health"]["units"]
    assert ids(planned(bare("20b5"), gpu_health_exporter="none")) == ["health.configure", "health.start"]


def test_with_dcgm_the_gpus_values_are_its_own(whole: Node) -> None:
    config = contents(planned(whole, gpu_health_exporter="dcgm"))["/etc/gpuready/health/health.json"]
    assert json.loads(config)["gpu_metrics"] is False


def test_what_is_not_wished_any_more_goes(whole: Node) -> None:
    result = planned(whole, gpu_health_verify_on_package_change_enabled=False)
    assert result["health"]["surplus"] == [
        UNITS + "gpuready-health-packages.path",
        UNITS + "gpuready-health-packages.service",
    ]
    assert ids(result) == ["health.configure"]
    assert ids(planned(apply(whole, result), gpu_health_verify_on_package_change_enabled=False)) == []


def test_the_node_expects_what_is_planned(whole: Node) -> None:
    result = planned(whole)
    config = json.loads(contents(result)["/etc/gpuready/health/health.json"])
    expected = config["expected"]
    assert expected["gpus"] == 1
    assert expected["driver"]["version"] == result["driver"]["version"]
    assert expected["toolkit"]["packages"]["nvidia-container-toolkit"] == "1.17.8-1"
    assert expected["images"] == ["tensorflow/tensorflow:2.9.0-gpu"]
    (workload,) = config["workloads"]
    assert workload["workload"] == "tensorflow-2.9"
    assert workload["launch"]["way"] == result["container_runtime"]["launch"]["way"]
    assert workload["expect"] == {"framework_version": "2.9", "cuda": "11.2"}


def test_expectations_hold_nothing_that_a_damage_changes(whole: Node) -> None:
    """Else every repair of something else would also write this file."""
    node = copy.deepcopy(whole)
    node["framework"]["images"] = []
    node["driver"]["loaded"] = None
    node["container_runtime"]["docker"]["live"]["reachable"] = False
    assert contents(planned(node)) == contents(planned(whole))


def test_intervals_are_the_wished_ones(whole: Node) -> None:
    files = contents(
        planned(
            whole,
            gpu_health_metrics_interval_seconds=30,
            gpu_health_check_interval_seconds=600,
            gpu_health_verify_time="04:30",
        )
    )
    assert "metrics --every=30\n" in files[UNITS + "gpuready-health-metrics.service"]
    assert "OnUnitActiveSec=600s\n" in files[UNITS + "gpuready-health-check.timer"]
    assert "OnCalendar=*-*-* 04:30:00\n" in files[UNITS + "gpuready-health-verify.timer"]


def test_nodes_verify_at_times_of_their_own(whole: Node) -> None:
    def time_of(host: str) -> str:
        timer = contents(planned(whole, host))[UNITS + "gpuready-health-verify.timer"]
        return re.findall(r"OnCalendar=\*-\*-\* (\S+):00\n", timer)[0]

    times = {time_of(f"gpu{number:03}") for number in range(40)}
    assert len(times) > 25
    assert all("02:00" <= at < "05:00" for at in times)
    assert time_of("gpu001") == time_of("gpu001")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("gpu_health_exporter", "prometheus", "must be one of textfile, dcgm, none"),
        ("gpu_health_enabled", "perhaps", "must be true or false"),
        ("gpu_health_textfile_directory", "node-exporter", "absolute path"),
        ("gpu_health_textfile_directory", "/var/lib/my metrics", "absolute path"),
        ("gpu_health_textfile_directory", "/var/../etc", "absolute path"),
        ("gpu_health_metrics_interval_seconds", 1, "from 5 to 3600"),
        ("gpu_health_metrics_interval_seconds", "15s", "from 5 to 3600"),
        ("gpu_health_check_interval_seconds", 5, "from 30 to 86400"),
        ("gpu_health_verify_timeout_seconds", 0, "from 10 to 7200"),
        ("gpu_health_verify_time", 270, "HH:MM"),  # YAML's 4:30
        ("gpu_health_verify_time", "25:00", "HH:MM"),
        ("gpu_health_verify_level", "all", "must be one of list, compute"),
    ],
)
def test_a_wish_that_cannot_be_is_one_problem(variable: str, value: Any, words: str) -> None:
    _wishes, (problem,) = check({variable: value})
    assert problem.variable == variable
    assert words in problem.what and repr(value) in problem.what
    assert problem.options


def test_a_trailing_slash_is_no_other_directory(whole: Node) -> None:
    assert (
        planned(whole, gpu_health_textfile_directory="/var/lib/prometheus/node-exporter/")["status"]
        == "converged"
    )


def test_units_are_what_systemd_reads(whole: Node) -> None:
    for path, content in contents(planned(whole)).items():
        if not path.startswith(UNITS):
            continue
        assert content.startswith("# Managed by gpuready")
        for line in content.splitlines():
            # an empty ExecStart takes back the one that the drop-in replaces
            assert re.match(r"^(#.*|\[[A-Z][a-z]+\]|[A-Z][A-Za-z]+=\S.*|ExecStart=|)$", line), line
        if path.endswith(".service"):
            assert f"ExecStart=/usr/bin/python3 -IB {build.PROGRAM} " in content
