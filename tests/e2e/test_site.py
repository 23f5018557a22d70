"""The main job on the lab's nodes, from bare to verified, and what happens to it afterwards.

The tests build on each other in the order in which they stand here, as a site's life does.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kit import ROOT
from kit.nodes import Node
from kit.runs import player


def test_plan_of_bare_nodes_is_readable_and_changes_nothing(site, site_nodes):
    before = {node.name: node.fingerprint() for node in site_nodes}
    run = site("playbooks/plan.yml")
    assert run.rc == 0, run.output
    for node in site_nodes:
        document = run.node(node.name)
        assert document["status"] == "planned"
        assert document["plan"]["status"] == "changes"
        actions = [action["id"] for action in document["plan"]["actions"]]
        assert {"docker.install", "toolkit.install", "image.fetch", "driver.install"} <= set(actions)
        assert all(action["reason"] for action in document["plan"]["actions"])
        assert document["plan"]["driver"]["because"]
        assert f"{node.name}: {len(actions)} changes (simulated node)" in run.output
        assert before[node.name].differences(node.fingerprint()) == []


def test_check_mode_on_bare_nodes_fails_nothing_and_changes_nothing(site, site_nodes):
    before = {node.name: node.fingerprint() for node in site_nodes}
    run = site("site.yml", check=True)
    assert run.rc == 0, run.output
    for node in site_nodes:
        assert run.node(node.name)["status"] == "planned"
        assert before[node.name].differences(node.fingerprint()) == []


def test_site_turns_bare_nodes_into_verified_ones(site, site_nodes):
    run = site("site.yml")
    assert run.rc == 0, run.output
    assert run.fleet["ok"] is True
    for node in site_nodes:
        document = run.node(node.name)
        assert document["status"] == "verified"
        assert document["simulated"] is True
        assert {layer["ok"] for layer in document["layers"].values()} == {True}
        verification = document["verification"][0]
        assert verification["framework"]["version"].startswith("2.9")
        assert verification["framework"]["cuda"] == "11.2"
        assert verification["gpus_listed"] == verification["gpus_expected"] >= 1
        assert document["apt_transactions"] <= 2
    assert "VERIFIED (simulated)" in run.output


def test_second_run_changes_nothing_and_verifies_again(site, site_nodes):
    run = site("site.yml")
    assert run.rc == 0, run.output
    for node in site_nodes:
        assert run.changed(node.name) == 0, run.node(node.name)["changed_tasks"]
        assert run.node(node.name)["status"] == "verified"
        # One observation, one probe.
        assert run.node(node.name)["module_executions"] <= 3


def test_plan_of_converged_nodes_is_empty(site, site_nodes):
    run = site("playbooks/plan.yml")
    assert run.rc == 0, run.output
    for node in site_nodes:
        plan = run.node(node.name)["plan"]
        assert plan["status"] == "converged"
        assert plan["actions"] == []
        assert f"{node.name}: nothing to do" in run.output


def test_check_mode_on_converged_nodes_reports_no_change(site, site_nodes):
    run = site("site.yml", check=True)
    assert run.rc == 0, run.output
    for node in site_nodes:
        assert run.changed(node.name) == 0


def test_verification_only_where_changed_leaves_converged_nodes_alone(site, site_nodes):
    run = site("site.yml", variables={"gpu_verify_when": "changed"})
    assert run.rc == 0, run.output
    for node in site_nodes:
        assert run.node(node.name)["status"] == "provisioned"
        assert run.node(node.name)["verification"] == []


@pytest.mark.parametrize("way", ["gpus", "runtime"])
def test_container_gets_its_gpu_in_each_way_that_this_docker_has(site, site_nodes, way):
    run = site("playbooks/verify.yml", variables={"gpu_verify_launch": way})
    assert run.rc == 0, run.output
    for node in site_nodes:
        verification = run.node(node.name)["verification"][0]
        assert verification["ok"] is True
        assert verification["launch"]["way"] == way


def test_container_gets_its_gpu_by_cdi_where_this_docker_has_it(site, site_nodes):
    planned = site("playbooks/plan.yml")
    plans = {node.name: planned.node(node.name)["plan"] for node in site_nodes}
    able = [name for name, plan in plans.items() if plan["container_runtime"]["toolkit"]["cdi"]["enabled"]]
    if not able:
        pytest.skip("no node of the site has a Docker with CDI")
    run = site("playbooks/verify.yml", variables={"gpu_verify_launch": "cdi"}, limit=able)
    assert run.rc == 0, run.output
    for name in able:
        verification = run.node(name)["verification"][0]
        assert verification["ok"] is True
        assert verification["launch"]["arguments"] == ["--device", "nvidia.com/gpu=all"]


@pytest.mark.parametrize(
    "role",
    [
        "host_prepare",
        "docker_engine",
        "nvidia_container_toolkit",
        "framework_image",
        "nvidia_driver",
        "host_reboot",
    ],
)
def test_role_alone_changes_nothing_on_converged_nodes(site, site_nodes, role):
    run = site("playbooks/role.yml", variables={"role": role})
    assert run.rc == 0, run.output
    for node in site_nodes:
        assert run.changed(node.name) == 0


def test_host_that_is_down_does_not_keep_the_others(site_nodes, tmp_path: Path):
    gone = {**site_nodes[0].inventory_variables, "ansible_port": 1}
    site = player(tmp_path, site_nodes, {"gone": gone})
    run = site("site.yml", limit=[*site.limit, "gone"])
    assert run.rc != 0
    assert run.node("gone")["status"] == "unreachable"
    assert run.node("gone")["error"]
    for node in site_nodes:
        assert run.node(node.name)["status"] == "verified"


def test_probe_computes_right_on_what_it_is_given(site_nodes):
    """The lab's GPUs cannot compute; its TensorFlow can, and what is checked is the same."""
    probe = (ROOT / "collections/ansible_collections/gpuready/node/data/probes/tensorflow.py").read_text()
    script = probe.rpartition("if __name__")[0] + (
        "import tensorflow as tf\n"
        'result = compute(tf, "/CPU:0")\n'
        "assert all(item['ok'] for item in result.values()), result\n"
        'print("computed")\n'
    )
    said = site_nodes[0].sh(
        "docker run --rm -i --network none tensorflow/tensorflow:2.9.0-gpu python3 -", stdin=script
    )
    assert said.strip() == "computed"


def test_verification_at_level_compute_fails_honestly_without_a_real_gpu(site, site_nodes):
    run = site("playbooks/verify.yml", variables={"gpu_verify_level": "compute"}, limit=[site_nodes[0].name])
    assert run.rc != 0
    document = run.node(site_nodes[0].name)
    assert document["status"] == "failed"
    assert document["verification"][0]["ok"] is False
    assert document["verification"][0]["findings"]


def other_nodes(site_nodes: list[Node]) -> list[Node]:
    return site_nodes[1:]


def test_toolkit_that_was_removed_is_seen_and_comes_back(site, site_nodes):
    node = site_nodes[0]
    node.sh(
        "apt-get -y -qq --allow-change-held-packages purge nvidia-container-toolkit "
        "nvidia-container-toolkit-base libnvidia-container-tools libnvidia-container1"
    )
    plan = site("playbooks/plan.yml").node(node.name)["plan"]
    assert "toolkit.install" in [action["id"] for action in plan["actions"]]
    bad = site("playbooks/verify.yml")
    assert bad.rc != 0
    assert bad.node(node.name)["verification"][0]["findings"][0]["layer"] == "container_runtime"
    for other in other_nodes(site_nodes):
        assert bad.node(other.name)["status"] == "verified"
    run = site("site.yml")
    assert run.rc == 0, run.output
    assert run.node(node.name)["status"] == "verified"
    for other in other_nodes(site_nodes):
        assert run.changed(other.name) == 0
    assert site("playbooks/plan.yml").node(node.name)["plan"]["status"] == "converged"


def test_daemon_json_that_is_broken_is_refused_and_left_alone(site, site_nodes):
    node = site_nodes[0]
    good = node.sh("cat /etc/docker/daemon.json")
    node.write("/etc/docker/daemon.json", good.rstrip().rstrip("}") + ",\n")
    try:
        before = node.fingerprint()
        run = site("site.yml")
        assert run.rc != 0
        assert run.node(node.name)["status"] == "conflict"
        assert "/etc/docker/daemon.json" in run.node(node.name)["error"]
        assert before.differences(node.fingerprint()) == []
        for other in other_nodes(site_nodes):
            assert run.node(other.name)["status"] == "verified"
    finally:
        node.write("/etc/docker/daemon.json", good)
    assert site("playbooks/plan.yml").node(node.name)["plan"]["status"] == "converged"


def test_gpu_that_fell_off_the_bus_fails_its_node_only(site, site_nodes):
    node = site_nodes[0]
    node.fault("gpu_off_bus=true")
    try:
        run = site("site.yml")
        assert run.rc != 0
        assert run.node(node.name)["status"] == "conflict"
        assert "GPU" in run.node(node.name)["error"]
        verified = site("playbooks/verify.yml")
        assert verified.node(node.name)["status"] in ("failed", "conflict")
        assert verified.rc != 0
        for other in other_nodes(site_nodes):
            assert run.node(other.name)["status"] == "verified"
            assert verified.node(other.name)["status"] == "verified"
    finally:
        node.fault("--clear")
    assert site("site.yml").node(node.name)["status"] == "verified"
