"""What a new node's entry says, and why."""

from __future__ import annotations

import pytest
from gpuready.catalog import annotate, load_catalog
from gpuready.inventory_edit import read
from gpuready.onboarding_proposal import choose_groups, connection_variables, group_fits, propose
from gpuready.planner import plan as make_plan
from gpuready.wishes import check
from observed_nodes import bare as node
from observed_nodes import gpu

CATALOG = load_catalog()
SITE = """\
all:
  children:
    gpu_nodes:
      children: {a100: , a100_80gb: , t4: , ampere: , rtx_4090: , tesla: }
    gpu_quarantine:
    h100:
"""


def bare():
    return node("20b0")


def named(*device_ids):
    observed = annotate(
        {"host": {"gpus": [gpu(device_id) for device_id in device_ids]}, "driver": {}}, CATALOG
    )
    return observed["host"]["gpus"]


@pytest.mark.parametrize(
    ("device_ids", "group"),
    [
        (["20b5"], "a100_80gb"),
        (["20b0"], "a100"),
        (["20b5", "20b0"], "a100"),
        (["1eb8"], "t4"),
        (["2684"], "rtx_4090"),
        (["2236"], "ampere"),
        (["2236", "20b0"], "ampere"),
        (["1eb8", "20b0"], "gpu_nodes"),
        (["1db4"], "gpu_nodes"),
        (["2330"], "gpu_nodes"),
        ([], "gpu_nodes"),
    ],
)
def test_group_is_the_one_named_for_the_gpus(device_ids, group):
    chosen = choose_groups(named(*device_ids), [], read(SITE))
    assert [one["name"] for one in chosen] == [group]
    assert chosen[0]["reason"]


def test_groups_that_were_asked_for_win():
    inventory = read(SITE)
    assert choose_groups(named("20b5"), ["t4"], inventory) == [{"name": "t4", "reason": "asked for"}]
    # One that is elsewhere does not bring the node into service.
    names = [one["name"] for one in choose_groups(named("20b5"), ["h100"], inventory)]
    assert names == ["a100_80gb", "h100"]


def test_similar_names_are_not_taken_for_the_model():
    t4 = {"name": "Tesla T4", "chip": "TU104", "arch": "turing"}
    assert group_fits("nvidia_t4_nodes", t4) and group_fits("tu104", t4) and group_fits("turing", t4)
    assert not any(group_fits(group, t4) for group in ("t40", "t", "tesla", "gpu", "", "tu102", "t4_80gb"))
    assert group_fits("titan_v", {"name": "TITAN V"}) and not group_fits("v", {"name": "TITAN V"})
    assert group_fits("rtx4090", {"name": "GeForce RTX 4090"})


def test_connection_says_only_what_the_groups_do_not():
    wanted = {
        "ansible_host": "10.0.0.17",
        "ansible_port": 22,
        "ansible_user": "gpuready",
        "ansible_become": None,
    }
    found = {
        one["name"]: one["value"] for one in connection_variables("gpu17", wanted, {"ansible_user": "ubuntu"})
    }
    assert found == {"ansible_host": "10.0.0.17", "ansible_user": "gpuready"}
    assert connection_variables("10.0.0.17", wanted, {"ansible_user": "gpuready"}) == []
    assert connection_variables("10.0.0.17", {"ansible_port": "2222"}, {"ansible_port": 2222}) == []
    found = connection_variables("gpu17", {"ansible_port": "22"}, {"ansible_port": 2222})
    assert found == [{"name": "ansible_port", "value": 22, "reason": "the groups say 2222"}]


def proposal(observed, theirs=None, variables=None, asked=(), name="gpu17"):
    observed = annotate(observed, CATALOG)
    return propose(
        name=name,
        observed=observed,
        asked=asked,
        inventory=read(SITE),
        connection={"ansible_host": "10.0.0.17"},
        variables=variables or {},
        group_variables=lambda _groups: theirs or {},
        plan=lambda wishes: make_plan(observed, check(wishes)[0], CATALOG, host=name, today="2026-11-23"),
    )


def values(made):
    return {one["name"]: one["value"] for one in made.variables}


def test_node_that_fits_needs_its_address_only():
    made = proposal(bare(), {"nvidia_driver_branch": "580"})
    assert values(made) == {"ansible_host": "10.0.0.17"} and made.notes == []
    assert "gpu17 in the inventory:\n  group a100" in made.document("gpu17")["text"]


def test_demand_that_the_node_cannot_meet_is_dropped_with_the_reason():
    theirs = {
        "nvidia_driver_branch": "999",
        "nvidia_driver_flavour": "proprietary",
        "docker_engine_source": "distro",
    }
    made = proposal(bare(), theirs)
    assert values(made) == {"ansible_host": "10.0.0.17", "nvidia_driver_branch": "auto"}
    reason = made.variables[-1]["reason"]
    assert reason.startswith("its groups demand '999', and then: ") and "999" in reason


def test_what_was_asked_for_is_not_overruled():
    made = proposal(bare(), {}, {"nvidia_driver_branch": "999", "rack": "7"})
    assert values(made) == {"ansible_host": "10.0.0.17", "nvidia_driver_branch": "999", "rack": "7"}
    assert any("no variable mends this" in note for note in made.notes)
    assert values(proposal(bare(), {"rack": "7"}, {"rack": "7"})) == {"ansible_host": "10.0.0.17"}


def test_node_without_a_gpu_is_told_and_gets_no_group_by_chance():
    observed = bare()
    observed["host"]["gpus"] = []
    made = proposal(observed)
    assert [one["name"] for one in made.groups] == ["gpu_nodes"]
    assert any("no variable mends this" in note for note in made.notes)


def test_unknown_and_mixed_gpus_are_noted():
    observed = bare()
    observed["host"]["gpus"] = [gpu("20b5"), gpu("ffff", "0000:5e:00.0")]
    notes = " ".join(proposal(observed).notes)
    assert "the catalog does not know its GPU 10de:ffff" in notes and "several models" in notes


def test_address_as_a_name_is_worth_a_hint():
    made = proposal(bare(), name="10.0.0.17")
    assert any("-e node=" in note for note in made.notes)


def test_quarantine_cannot_be_asked_for():
    with pytest.raises(ValueError, match="comes out of gpu_quarantine by being accepted"):
        proposal(bare(), asked=["gpu_quarantine"])
