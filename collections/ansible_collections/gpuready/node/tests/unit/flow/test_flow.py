"""The whole flow with the real planner: order, refusals, reports. See project.py for what is not real."""

from __future__ import annotations

import json

import observations
import pytest
from project import Project

COLD_STEPS = [
    "nvidia_container_toolkit.source",
    "host_prepare.main",
    "docker_engine.main",
    "nvidia_container_toolkit.main",
    "framework_image.start",
    "nvidia_driver.main",
    "framework_image.finish",
]


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path)
    made.inventory({"n1": {}}, gpuready_simulated=True)
    return made


def names(steps):
    """Steps without the version that the plan had at the time."""
    return [".".join(step.split(".")[:2]) for step in steps]


def test_bare_node_takes_every_step_in_order_and_is_verified(project):
    project.observe("n1", observations.bare(), observations.with_source(), observations.converged())
    run = project.play("site.yml")
    assert run.rc == 0, run.text
    assert names(run.steps("n1")) == COLD_STEPS
    assert len(run.asked("n1")) == 3
    node = run.node("n1")
    assert node["status"] == "verified"
    assert node["simulated"] is True
    assert node["verification"][0]["ok"] is True
    assert node["verification"][0]["launch"]["arguments"] == ["--gpus", "all"]
    assert len(node["changed_tasks"]) == len(COLD_STEPS)
    assert "VERIFIED (simulated)" in run.text
    assert run.fleet["totals"] == {"verified": 1}


def test_converged_node_costs_one_observation_and_the_probe(project):
    project.observe("n1", observations.converged())
    run = project.play("site.yml")
    assert run.rc == 0, run.text
    assert run.steps("n1") == []
    assert len(run.asked("n1")) == 1
    assert run.node("n1")["module_executions"] == 2
    assert run.node("n1")["changed_tasks"] == []
    assert run.node("n1")["status"] == "verified"


def test_verification_only_where_changed_leaves_the_converged_node_alone(project):
    project.observe("n1", observations.converged())
    run = project.play("site.yml", "-e", "gpu_verify_when=changed")
    assert run.rc == 0, run.text
    assert run.node("n1")["status"] == "provisioned"
    assert run.node("n1")["module_executions"] == 1
    # Alone, the playbook verifies whatever gpu_verify_when says.
    assert (
        project.play("playbooks/verify.yml", "-e", "gpu_verify_when=changed").node("n1")["status"]
        == "verified"
    )


def test_verification_only_where_changed_verifies_what_changed(project):
    project.observe("n1", observations.bare(), observations.with_source(), observations.converged())
    run = project.play("site.yml", "-e", "gpu_verify_when=changed")
    assert run.node("n1")["status"] == "verified"


def test_plan_changes_nothing_and_prints_the_plan(project):
    project.observe("n1", observations.bare())
    run = project.play("playbooks/plan.yml")
    assert run.rc == 0, run.text
    assert run.steps("n1") == []
    assert "n1: 14 changes (simulated node)" in run.text
    assert "driver.install" in run.text
    assert "\n\nNODE " in run.text
    node = run.node("n1")
    assert node["status"] == "planned"
    assert node["plan"]["driver"]["version"] == "580.95.05"
    again = project.play("playbooks/report.yml")
    assert again.rc == 0, again.text
    assert "n1: 14 changes (simulated node)" in again.text


@pytest.mark.parametrize(
    ("tag", "steps"),
    [
        ("nvidia_driver", ["nvidia_driver.main"]),
        ("docker_engine", ["docker_engine.main"]),
        ("framework_image", ["framework_image.start", "framework_image.finish"]),
        ("gpu_verify", []),
    ],
)
def test_tag_runs_one_role_and_does_not_ask_for_a_finished_node(project, tag, steps):
    project.observe("n1", observations.with_source())
    run = project.play("site.yml", "--tags", tag)
    assert run.rc == 0, run.text
    assert names(run.steps("n1")) == steps
    assert run.node("n1")["status"] == ("verified" if tag == "gpu_verify" else "planned")


def test_check_mode_goes_the_whole_way_and_observes_once(project):
    project.observe("n1", observations.bare())
    run = project.play("site.yml", "--check")
    assert run.rc == 0, run.text
    assert run.steps("n1") == []
    assert len(run.asked("n1")) == 1
    assert run.node("n1")["status"] == "planned"
    assert run.fleet["check_mode"] is True
    # What lineinfile would have done, step by step.
    assert len(run.node("n1")["changed_tasks"]) == len(COLD_STEPS)


def test_check_mode_of_a_converged_node_verifies(project):
    project.observe("n1", observations.converged())
    run = project.play("site.yml", "--check")
    assert run.rc == 0, run.text
    assert run.node("n1")["status"] == "verified"


def no_gpu():
    seen = observations.bare()
    seen["host"]["gpus"] = []
    return seen


def test_conflict_is_told_before_any_change_and_others_go_on(project):
    project.inventory({"n1": {}, "n2": {}})
    project.observe("n1", no_gpu())
    project.observe("n2", observations.converged())
    run = project.play("site.yml")
    assert run.rc == 2, run.text
    assert run.steps("n1") == []
    assert run.node("n1")["status"] == "conflict"
    assert "no NVIDIA GPU" in run.node("n1")["error"]
    assert run.node("n2")["status"] == "verified"
    assert run.fleet["ok"] is False


def test_unreachable_node_is_in_the_report_and_others_go_on(project):
    project.inventory(
        {
            "n1": {},
            "down": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1},
        }
    )
    project.observe("n1", observations.converged())
    run = project.play("site.yml")
    assert run.rc == 4, run.text
    assert run.node("down")["status"] == "unreachable"
    assert "127.0.0.1" in run.node("down")["error"]
    assert run.node("n1")["status"] == "verified"
    assert run.fleet["totals"] == {"verified": 1, "unreachable": 1}


def test_observation_that_fails_is_one_clear_error(project):
    project.observe("n1", observations.bare())
    (project.state / "n1" / "broken").touch()
    run = project.play("site.yml")
    assert run.rc == 2
    assert run.node("n1")["status"] == "failed"
    assert run.node("n1")["error"] == "n1 could not be observed: the package database is locked"


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        (
            "nvidia_driver_brnach=580",
            "unknown variable nvidia_driver_brnach: did you mean nvidia_driver_branch?",
        ),
        ("gpuready_workload=[x]", "did you mean gpuready_workloads?"),
        ("nvidia_driver_flavour=opne", "nvidia_driver_flavour is 'opne', but must be one of"),
        (
            "gpu_verify_when=sometimes",
            "gpu_verify_when must be one of: always, changed, got: sometimes",
        ),
        (
            "gpu_verify_timeout_seconds=soon",
            "'gpu_verify_timeout_seconds' is of type str",
        ),
        ("host_reboot_allowed=maybe", "host_reboot_allowed is 'maybe', but must be true or false"),
    ],
)
def test_bad_variable_is_named_and_the_node_is_left_alone(project, variable, says):
    project.observe("n1", observations.bare())
    run = project.play("site.yml", "-e", variable)
    assert run.rc == 2, run.text
    assert says in run.text
    assert run.asked("n1") == []
    assert run.steps("n1") == []


def test_misspelt_variable_shows_where_it_is_written(project):
    project.observe("n1", observations.bare())
    folder = project.root / "host_vars"
    folder.mkdir()
    (folder / "n1.yml").write_text("---\nnvidia_driver_branch: '580'\nnvidia_driver_versoin: '580.95.05'\n")
    run = project.play("site.yml")
    assert "did you mean nvidia_driver_version?" in run.text
    assert "host_vars/n1.yml:3:1" in run.text


def test_lookalike_outside_the_prefixes_is_a_warning(project):
    project.observe("n1", observations.converged())
    run = project.play("playbooks/plan.yml", "-e", "nvidia_drivers_branch=580")
    assert run.rc == 0
    assert "did you mean nvidia_driver_branch?" in run.text


def test_unknown_workload_is_refused(project):
    project.observe("n1", observations.bare())
    for playbook in ("site.yml", "playbooks/verify.yml"):
        run = project.play(playbook, "-e", '{"gpuready_workloads": ["tensorflw-2.9"]}')
        assert run.rc == 2, run.text
        assert "tensorflw-2.9" in run.node("n1")["error"]
        assert run.steps("n1") == []


def test_wishes_may_be_templates(project):
    project.inventory(
        {"n1": {}},
        site_branch="580",
        nvidia_driver_branch="{{ site_branch }}",
        docker_engine_daemon_config={"log-opts": {"max-size": "{{ site_branch }}m"}},
        framework_image_registry_mirror="{{ 'r' ~ ':5000' }}",
    )
    project.observe("n1", observations.bare())
    run = project.play("playbooks/plan.yml")
    assert run.rc == 0, run.text
    assert run.asked("n1") == [[{"name": "registry", "address": "r:5000"}]]
    because = run.node("n1")["plan"]["driver"]["because"]
    assert any(row["requirement"] == "branch 580" for row in because)
    config = run.node("n1")["plan"]["container_runtime"]["docker"]["daemon_config"]
    assert config["log-opts"] == {"max-size": "580m"}


def nouveau():
    """Converged on disk, but nouveau still holds the GPU."""
    seen = observations.converged()
    seen["host"]["nouveau"]["loaded"] = True
    seen["host"]["gpus"][0]["driver_bound"] = "nouveau"
    seen["driver"].update(loaded=None, devices=None, device_nodes=[])
    seen["driver"]["persistenced"]["active"] = False
    return seen


def test_reboot_comes_after_everything_and_the_node_is_looked_at_again(project):
    project.observe("n1", nouveau(), nouveau(), observations.converged())
    run = project.play("site.yml")
    assert run.rc == 0, run.text
    assert names(run.steps("n1")) == ["host_reboot.main"]
    assert run.node("n1")["status"] == "verified"


def test_failed_cdi_service_is_repaired_when_the_driver_is_loaded(project):
    failed = observations.converged()
    failed["container_runtime"]["toolkit"]["cdi_refresh"] = {"installed": True, "failed": True}
    project.observe("n1", failed, failed, observations.converged())
    run = project.play("site.yml")
    assert run.rc == 0, run.text
    assert "nvidia_container_toolkit.cdi_refresh" in names(run.steps("n1"))
    assert run.node("n1")["status"] == "verified"


def test_reboot_that_is_not_allowed_is_said(project):
    project.observe("n1", nouveau())
    run = project.play("site.yml", "-e", "host_reboot_allowed=false")
    assert run.rc == 2, run.text
    # The real role refuses by itself; should it not, the node still does not pass.
    node = run.node("n1")
    assert node["status"] == "reboot_pending", node["error"]
    assert "host_reboot_allowed is false" in node["error"]
    assert "nouveau" in node["error"]
    assert "REBOOT PENDING" in run.text


def test_node_that_does_not_converge_fails_with_what_remains(project):
    project.observe("n1", observations.with_source())
    run = project.play("site.yml")
    assert run.rc == 2
    node = run.node("n1")
    assert node["status"] == "failed"
    assert "Everything was applied, and yet n1 is not what was asked for." in node["error"]
    assert "driver.install (nvidia_driver)" in node["error"]
    assert node["verification"] == []


def test_gpu_that_is_not_listed_fails_the_node_with_one_message(project):
    project.inventory({"n1": {}, "n2": {}})
    for host in ("n1", "n2"):
        project.observe(host, observations.converged())
    answer = {
        "framework": {"name": "tensorflow", "version": "2.9.0", "cuda": "11.2"},
        "devices": [],
        "compute": None,
    }
    log = "E tensorflow: failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"
    project.behave("n1", stdout=f"GPUREADY-PROBE {json.dumps(answer)}\n", stderr=log)
    run = project.play("site.yml")
    assert run.rc == 2, run.text
    error = run.node("n1")["error"]
    assert error.startswith("tensorflow-2.9 does not have its GPU in the container")
    assert "the framework lists no GPU" in error
    assert log in error
    assert run.node("n1")["verification"][0]["log"] == log
    assert run.node("n1")["layers"]["application"]["ok"] is False
    assert run.node("n2")["status"] == "verified"


def test_image_that_is_missing_is_said(project):
    project.observe("n1", observations.converged())
    path = project.state / "n1" / "docker" / "behaviour.json"
    behaviour = json.loads(path.read_text())
    del behaviour["image"]
    path.write_text(json.dumps(behaviour))
    run = project.play("playbooks/verify.yml")
    assert run.rc == 2
    assert "tensorflow/tensorflow:2.9.0-gpu is not on the node" in run.node("n1")["error"]


@pytest.mark.parametrize(
    ("way", "arguments"),
    [
        ("gpus", ["--gpus", "all"]),
        ("runtime", ["--runtime=nvidia", "--env", "NVIDIA_VISIBLE_DEVICES=all"]),
        ("cdi", ["--device", "nvidia.com/gpu=all"]),
    ],
)
def test_launch_can_be_chosen(project, way, arguments):
    project.observe("n1", observations.converged())
    run = project.play("playbooks/verify.yml", "-e", f"gpu_verify_launch={way}")
    verification = run.node("n1")["verification"]
    if run.rc:  # the plan may refuse what this Docker cannot do, and must then say so
        assert "CDI" in run.node("n1")["error"]
    else:
        assert verification[0]["launch"]["way"] == way
        assert verification[0]["launch"]["arguments"] == arguments


def test_one_role_alone(project):
    project.observe("n1", observations.bare())
    run = project.play("playbooks/role.yml", "-e", "role=docker_engine")
    assert run.rc == 0, run.text
    assert names(run.steps("n1")) == ["docker_engine.main"]
    assert "there is no role docker" in project.play("playbooks/role.yml", "-e", "role=docker").text
    assert "say which role" in project.play("playbooks/role.yml").text
    wrong = project.play("playbooks/role.yml", "-e", "role=docker_engine", "-e", "entry_point=undo")
    assert "no entry point undo" in wrong.text


def test_report_that_cannot_be_written_is_a_warning(project):
    project.observe("n1", observations.converged())
    (project.root / "full").write_text("not a folder")
    run = project.play("site.yml", GPUREADY_ARTIFACTS_DIR=str(project.root / "full"))
    assert run.rc == 0
    assert f"the report could not be written to {project.root}/full" in " ".join(run.text.split())
    assert "VERIFIED" in run.text


def test_report_goes_where_it_is_told(project):
    project.observe("n1", observations.converged())
    other = project.root / "elsewhere"
    project.play("site.yml", GPUREADY_ARTIFACTS_DIR=str(other))
    assert (other / "latest" / "n1.json").is_file()
    assert not (project.root / "artifacts").exists()
    assert "VERIFIED" in project.play("playbooks/report.yml", GPUREADY_ARTIFACTS_DIR=str(other)).text
    assert "there is no report in" in project.play("playbooks/report.yml").text


def test_terminal_without_unicode_gets_ascii(project):
    project.observe("n1", observations.converged())
    run = project.play("site.yml", TERM="linux")
    assert "+ docker 20.10.24" in run.text
    assert "\N{HEAVY CHECK MARK}" not in run.text


def test_inventory_typo_and_missing_group_are_errors(project):
    project.observe("n1", observations.bare())
    run = project.play("site.yml", "-i", "labb")
    assert run.rc != 0
    assert "labb" in run.text
    (project.root / "other.json").write_text(json.dumps({"nodes": {"hosts": {"n1": {}}}}))
    (project.root / "hosts.json").unlink()
    (project.root / "other.json").rename(project.root / "hosts.json")
    run = project.play("site.yml")
    assert run.rc != 0
    assert "gpu_nodes" in run.text


def test_other_playbooks_get_no_report(project):
    (project.root / "other.yml").write_text(
        "- hosts: gpu_nodes\n  gather_facts: false\n  tasks:\n    - ansible.builtin.debug: {msg: hello}\n"
    )
    run = project.play("other.yml")
    assert run.rc == 0
    assert "GPUREADY" not in run.text
    assert not (project.root / "artifacts").exists()


def test_hidden_results_do_not_reach_the_report(project):
    project.observe("n1", observations.converged())
    (project.root / "secret.yml").write_text(
        "- hosts: gpu_nodes\n  gather_facts: false\n  tasks:\n"
        "    - gpuready.node.gpu_plan:\n"
        "    - ansible.builtin.fail: {msg: hunter2}\n      no_log: true\n"
    )
    run = project.play("secret.yml")
    assert run.rc == 2
    assert run.node("n1")["error"] == "ansible.builtin.fail: failed; its output is hidden (no_log)"
    assert "hunter2" not in "".join(path.read_text() for path in run.artifacts.rglob("*.*") if path.is_file())
