"""The table of a fleet: what it shows, at any width, of any node."""

from __future__ import annotations

import re
from typing import Any

import pytest
from gpuready.usage_table import table, width_of

GPU = {
    "index": 0,
    "name": "NVIDIA A100 80GB PCIe",
    "utilization_percent": 93,
    "memory_used_mib": 40312,
    "memory_total_mib": 81920,
    "temperature_c": 61,
    "power_watts": 241.3,
    "power_limit_watts": 300.0,
    "clock_sm_mhz": 1410,
    "throttled": {"sw_power_cap": False, "hw_thermal_slowdown": False},
    "ecc": {"corrected": 0, "uncorrected": 0},
    "error": None,
}
JOB = {
    "pid": 4711,
    "name": "python3",
    "type": "C",
    "gpu": 0,
    "memory_mib": 39800,
    "sm_percent": 93,
    "cpu_percent": 103.2,
    "container": {"id": "a" * 64, "name": "training"},
    "user": "root",
}


def look(*gpus: dict[str, Any], processes: tuple[dict[str, Any], ...] = (), **more: Any) -> dict[str, Any]:
    return {"gpus": list(gpus), "processes": list(processes), "silent_gpus": [], "error": None, **more}


def test_a_busy_gpu_and_its_process() -> None:
    lines = table({"gpu01": look(GPU, processes=(JOB,))})
    assert lines[0].split()[:3] == ["NODE", "GPU", "NAME"]
    assert re.search(
        r"gpu01 +0  A100 80GB PCIe  █{9}░  93 %  39.4/80.0 GiB  61 °C  241/300 W  1410 MHz  computing",
        lines[1],
    )
    assert lines[2].strip() == "└ 4711 C python3  39800 MiB  GPU 93 %  CPU 103 %  container training  root"
    assert lines[-1] == "1 node, 1 GPU, 1 computing, 0 held but idle"


def test_held_but_idle_is_told_from_free() -> None:
    idle = {**GPU, "utilization_percent": 0}
    held = table({"a": look(idle, processes=({**JOB, "sm_percent": 0},)), "b": look(idle)})
    assert "held, idle" in held[1] and "free" in held[3]
    assert held[-1].endswith("2 GPUs, 0 computing, 1 held but idle")


def test_means_of_several_looks_are_shown_as_single_ones_are() -> None:
    many = {**GPU, "utilization_percent": 1, "utilization": {"mean": 93.4, "max": 99.0}}
    job = {**JOB, "sm_percent": {"mean": 93.0, "max": 99.0}, "cpu_percent": {"mean": 103.2, "max": 110.0}}
    assert table({"gpu01": look(many, processes=(job,))}) == table({"gpu01": look(GPU, processes=(JOB,))})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"throttled": {"hw_thermal_slowdown": True}}, "slowed: hw_thermal_slowdown"),
        ({"throttled": {"sw_power_cap": True}}, "at its power limit"),
        ({"ecc": {"uncorrected": 2}}, "2 uncorrected ECC errors"),
        ({"remapped_rows": {"failed": True}}, "row remapping failed"),
        ({"error": "GPU is lost"}, "GPU is lost"),
        ({"mig_mode": True}, "MIG"),
    ],
)
def test_what_is_wrong_stands_in_the_row(change: dict[str, Any], said: str) -> None:
    assert said in table({"gpu01": look({**GPU, **change})})[1]


def test_unknown_values_are_dashes() -> None:
    unknown = {**dict.fromkeys(GPU), "index": 0}
    row = table({"gpu01": look(unknown)})[1]
    assert row.split() == ["gpu01", "0", "?", "-", "-", "-", "-", "-", "free"]


def test_nodes_that_do_not_answer_have_a_row() -> None:
    lines = table(
        {"a": {"unreachable": "timed out"}, "b": look(error="Driver Not Loaded"), "c": look(), "d": {}}
    )
    assert [line.split(None, 1)[1] for line in lines[1:5]] == [
        "not reached: timed out",
        "NVML: Driver Not Loaded",
        "no GPU",
        "…",
    ]
    assert "1 not reached" in lines[-1]


def test_names_from_nodes_do_not_steer_the_terminal() -> None:
    evil = {**JOB, "name": "x\x1b[2Jy\nz", "container": {"id": "1", "name": "\x1b]0;t\x07"}, "user": "a\rb"}
    text = "\n".join(table({"gpu\x1b01": look({**GPU, "name": "A\x9b31m"}, processes=(evil,))}))
    assert "\x1b" not in text and "\x07" not in text and "\r" not in text and "\x9b" not in text
    assert len(text.splitlines()) == 5


@pytest.mark.parametrize("columns", [20, 60, 80, 99, 100, 200])
@pytest.mark.parametrize("colour", [True, False])
def test_lines_fit_the_terminal(columns: int, colour: bool) -> None:
    nodes = {"gpu01": look(GPU, processes=(JOB,)), "gpu02": {"unreachable": "x" * 300}}
    lines = table(nodes, columns=columns, colour=colour)
    assert max(width_of(line) for line in lines[:-1]) <= columns
    # No colour runs on into the next line.
    assert all(line.rfind("\x1b[0m") >= line.rfind("\x1b[") for line in lines)


def test_high_tables_are_cut_and_say_so() -> None:
    nodes = {f"gpu{number:02}": look(GPU) for number in range(50)}
    lines = table(nodes, lines=20)
    assert len(lines) <= 20 and "more lines" in lines[-3]


def test_ascii_where_the_terminal_has_no_more() -> None:
    "\n".join(table({"gpu01": look(GPU, processes=(JOB,)), "b": {}}, unicode=False)).encode("ascii")


def test_simulated_nodes_say_so() -> None:
    assert "a (simulated)" in table({"a": look(GPU, simulated=True)})[1]
    assert "a (simulated)" in table({"a": look(GPU)}, simulated=["a"])[1]


def test_largest_process_comes_first() -> None:
    small = {**JOB, "pid": 1, "memory_mib": 5}
    lines = table({"gpu01": look(GPU, processes=(small, JOB))})
    assert "4711" in lines[2] and " 1 C" in lines[3]


def test_empty_fleet_is_a_header() -> None:
    assert table({})[-1] == "0 nodes, 0 GPUs, 0 computing, 0 held but idle"
