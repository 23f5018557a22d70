"""Batches are Ansible's own, the share that may fail is kept to, and the forecast says all of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible.executor.playbook_executor import PlaybookExecutor
from gpuready import upgrade
from hypothesis import given
from hypothesis import strategies as st

SIZES = st.lists(
    st.one_of(st.integers(1, 12), st.integers(1, 100).map(lambda number: f"{number}%")),
    min_size=1,
    max_size=5,
)
HOSTS = ["g1", "g2", "g3", "g4"]


def ansibles_batches(hosts: list[str], sizes: list[Any]) -> list[list[str]]:
    inventory = SimpleNamespace(get_hosts=lambda pattern, order: list(hosts))
    play = SimpleNamespace(hosts="all", order=None, serial=sizes)
    return PlaybookExecutor._get_serialized_batches(SimpleNamespace(_inventory=inventory), play)


@given(st.integers(0, 130), SIZES)
def test_batches_are_those_that_ansible_makes(count: int, sizes: list[Any]) -> None:
    hosts = [f"g{number}" for number in range(count)]
    assert upgrade.batches(hosts, upgrade.batch_sizes(sizes)) == ansibles_batches(hosts, sizes)


@pytest.mark.parametrize(
    ("given_as", "sizes"),
    [
        ("", [1, "25%", "50%", "100%"]),
        (None, [1, "25%", "50%", "100%"]),
        ('[1, "25%", "50%", "100%"]', [1, "25%", "50%", "100%"]),
        ("1,25%,50%", [1, "25%", "50%"]),
        (["1", "025%"], [1, "25%"]),
        (3, [3]),
        ("50%", ["50%"]),
    ],
)
def test_sizes_are_read_however_they_are_written(given_as: Any, sizes: list[Any]) -> None:
    assert upgrade.batch_sizes(given_as) == sizes


@pytest.mark.parametrize(
    "value", [0, "0%", "101%", -1, "1,,2", "a", [True], [], ["1.5"], "12.5%", {"a": 1}, [[1]]]
)
def test_sizes_that_cannot_be_are_refused_with_the_way_to_write_them(value: Any) -> None:
    with pytest.raises(upgrade.UpgradeError, match=r"upgrade_batches .*1,25%,50%,100%"):
        upgrade.batch_sizes(value)


@pytest.mark.parametrize("value", [-1, "101", "few", True, [1]])
def test_share_that_cannot_be_is_refused(value: Any) -> None:
    with pytest.raises(upgrade.UpgradeError, match="upgrade_max_fail_percentage is"):
        upgrade.max_fail(value)


def test_mistakes_are_all_told() -> None:
    found = upgrade.mistakes(
        "x", "y", ["upgrade_max_fail_percent", "upgrade_window_of_ours", "upgrade_batches"]
    )
    assert len(found) == 3
    assert "did you mean upgrade_max_fail_percentage?" in found[0]


@given(st.integers(1, 60), SIZES, st.integers(0, 100), st.data())
def test_turn_comes_exactly_while_the_share_is_kept(
    count: int, sizes: list[Any], percentage: int, data: st.DataObject
) -> None:
    hosts = [f"g{number}" for number in range(count)]
    cut = upgrade.batches(hosts, sizes)
    done = [host for host in hosts if data.draw(st.booleans())]
    host = data.draw(st.sampled_from(hosts))
    turn = upgrade.turn(host, hosts, sizes, percentage, done)
    before = cut[: turn["number"] - 1]
    shares = [sum(other not in done for other in batch) / len(batch) for batch in before]
    bad = [number for number, share in enumerate(shares, 1) if share * 100 > percentage + 1e-9 or share == 1]
    assert (turn["stopped"] or {}).get("number") == (bad[0] if bad else None)
    assert host in turn["batch"] and turn["of"] == len(cut)
    alone = percentage * len(turn["batch"]) < 100 or len(turn["batch"]) == 1
    assert turn["last"] is (bool(turn["after"]) and alone)
    assert [*(other for batch in cut[: turn["number"]] for other in batch), *turn["after"]] == hosts


def test_host_that_was_lost_on_the_way_counts_as_failed() -> None:
    assert upgrade.turn("g2", HOSTS, "1,100%", 0)["stopped"] == {"number": 1, "size": 1, "failed": ["g1"]}
    assert upgrade.turn("g2", HOSTS, "1,100%", 0, ["g1"])["stopped"] is None


def plan(status: str = "changes", **more: Any) -> dict[str, Any]:
    actions = [{"id": "driver.install"}, {"id": "driver.reload"}] if status == "changes" else []
    driver = {"version": "580.95.05", "previous": {"version": "570.195.03"}}
    return {"status": status, "actions": actions, "driver": driver, "conflicts": [], **more}


def drain(**more: Any) -> dict[str, Any]:
    seen = {"record": None, "scheduler": None, "users": [], "refused": False, "how": "", "treatment": ""}
    return {**seen, **more}


USER = {"kind": "container", "name": "training", "image": "tf:2.9"}


@pytest.mark.parametrize(
    ("node", "fate"),
    [
        ({}, "unreachable"),
        ({"plan": plan("conflict")}, "conflict"),
        ({"plan": plan("converged")}, "untouched"),
        ({"plan": plan("converged"), "unverified": {"version": "1"}, "drain": drain()}, "finish"),
        ({"plan": plan("converged"), "drain": drain(record={"at": "x"})}, "finish"),
        ({"plan": plan(), "drain": drain()}, "upgrade"),
        ({"plan": plan(), "drain": drain(refused=True)}, "in_the_way"),
        # Nothing is done to it, so nobody is in the way.
        ({"plan": plan("converged"), "drain": drain(refused=True)}, "untouched"),
    ],
)
def test_fate_of_a_node_is_known_beforehand(node: dict[str, Any], fate: str) -> None:
    assert upgrade.fate(node) == fate


def test_forecast_says_where_it_stops_and_what_lies_behind() -> None:
    nodes = {
        "g1": {"plan": plan(), "drain": drain(how="drained in Slurm as g1")},
        "g2": {
            "plan": plan(),
            "drain": drain(refused=True, users=[USER], treatment="node_drain_containers is refuse"),
        },
        "g3": {"plan": plan("converged")},
        "g4": {"plan": plan(), "drain": drain()},
    }
    found = upgrade.forecast(nodes, "1,2,1", 0)
    assert [batch["stops"] for batch in found["batches"]] == [False, True, False]
    assert [row["reached"] for batch in found["batches"] for row in batch["hosts"]] == [
        True,
        True,
        True,
        False,
    ]
    said = upgrade.text(nodes, "1,2,1", 0)
    assert "batch 1, the canary\n  g1: driver 570.195.03 → 580.95.05, a reload of the driver" in said
    assert "drained in Slurm as g1" in said
    assert "on its GPUs: container training (tf:2.9): node_drain_containers is refuse" in said
    assert "g3: nothing to do; it stays in service" in said
    assert "it stops here: g2 cannot be upgraded" in said
    assert "it stops here" not in upgrade.text(nodes, "1,2,1", 50)


def test_batch_of_which_nobody_comes_through_stops_whatever_the_limit_is() -> None:
    assert upgrade.forecast({"g1": {}, "g2": {"plan": plan("converged")}}, "1", 100)["batches"][0]["stops"]
    assert upgrade.turn("g2", ["g1", "g2"], "1", 100)["stopped"]["failed"] == ["g1"]
