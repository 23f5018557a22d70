"""playbooks/diagnose.yml with the real plugins, engine and knowledge. See project.py for what is not real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import observations
import pytest
from project import Project

GPUREADY = [sys.executable, "-m", "gpuready"]
MARKER = "GPUREADY-CHAIN "
HIDDEN = (
    "E cuda_driver.cc:271] failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected\n"
)


def script(*lines: str) -> str:
    return "".join(f"{MARKER}{line}\n" for line in ("begin", *lines, "end"))


WITH_GPU = script(
    "env CUDA_VISIBLE_DEVICES=-1",
    "device /dev/nvidia0 ok",
    "device /dev/nvidiactl ok",
    "device /dev/nvidia-uvm ok",
    "devices",
    "driver NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build",
    "library \tlibcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "ldconfig",
)
WITHOUT = script("devices", "driver NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  x", "ldconfig")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.inventory({"n1": {}}, gpuready_simulated=True)
    return made


def calls(project: Project) -> list[list[str]]:
    path = project.state / "n1" / "docker" / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def roots(document: dict[str, Any]) -> list[str]:
    return [cause["cause"] for cause in document["diagnosis"]["causes"] if cause["standing"] == "root"]


def again(project: Project, host: str = "n1") -> subprocess.CompletedProcess[str]:
    """`gpuready diagnose` on what the report wrote."""
    path = project.root / "artifacts" / "latest" / f"{host}.json"
    return subprocess.run(
        [*GPUREADY, "diagnose", "--json", "--facts", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_healthy_node_is_healthy_by_a_real_look_into_the_workload(project):
    project.observe("n1", observations.converged())
    run = project.play("playbooks/diagnose.yml")
    assert run.rc == 0, run.text
    node = run.node("n1")
    assert node["status"] == "healthy" and node["diagnosis"]["causes"] == []
    assert node["verification"][0]["ok"] is True
    assert "nothing is wrong" in run.text and "HEALTHY (simulated)" in run.text
    assert len(run.asked("n1")) == 1
    assert run.fleet["totals"] == {"healthy": 1} and run.fleet["ok"] is True
    assert node["changed_tasks"] == []
    told = again(project)
    assert told.returncode == 0 and json.loads(told.stdout)["status"] == "healthy"


def test_cause_is_named_and_fails_the_node_before_any_container_is_started(project):
    seen = observations.converged()
    seen["container_runtime"]["toolkit"]["hook_newer_than_dockerd"] = True
    project.observe("n1", seen)
    run = project.play("playbooks/diagnose.yml")
    assert run.rc == 2, run.text
    node = run.node("n1")
    assert node["status"] == "cause_found" and roots(node) == ["toolkit-unknown-to-dockerd"]
    assert node["layers"]["container_runtime"]["ok"] is False
    assert "CAUSE FOUND (simulated): toolkit-unknown-to-dockerd" in run.text
    assert "toolkit-unknown-to-dockerd" in node["error"]
    # What site.yml does about it is what the plan says.
    assert [row["id"] for row in node["diagnosis"]["causes"][0]["site"]] == ["docker.restart"]
    assert run.fleet["nodes"]["n1"]["causes"] == ["toolkit-unknown-to-dockerd"]
    assert [words for words in calls(project) if words[0] == "run"] == []
    told = again(project)
    assert told.returncode == 2
    assert roots({"diagnosis": json.loads(told.stdout)}) == ["toolkit-unknown-to-dockerd"]


def test_failed_workload_that_the_facts_do_not_explain_is_looked_into(project):
    project.observe("n1", observations.converged())
    answer = {"framework": {"name": "tensorflow", "version": "2.9.0", "cuda": "11.2"}, "devices": []}
    project.behave(
        "n1",
        stdout=f"GPUREADY-PROBE {json.dumps(answer)}\n",
        stderr=HIDDEN,
        script={"with": WITH_GPU, "without": WITHOUT},
    )
    run = project.play("playbooks/diagnose.yml")
    assert run.rc == 2, run.text
    node = run.node("n1")
    assert roots(node) == ["cuda-visible-devices-hides"], node["diagnosis"]
    assert node["container"]["env"]["CUDA_VISIBLE_DEVICES"] == "-1"
    assert node["probes"]["with_gpu"]["ran"] is True and node["probes"]["without_gpu"]["ran"] is True
    assert node["framework"]["name"] == "tensorflow" and node["framework"]["gpus_listed"] == 0
    assert node["layers"]["application"]["ok"] is False
    told = again(project)
    assert roots({"diagnosis": json.loads(told.stdout)}) == ["cuda-visible-devices-hides"]


CONTAINER = {
    "Id": "c0ffee",
    "Name": "/jupyter",
    "Image": "sha256:1",
    "State": {"Running": True, "ExitCode": 0, "OOMKilled": False},
    "Config": {"Image": "t:1", "Env": ["JUPYTER_TOKEN=verysecret"], "Labels": {}},
    "HostConfig": {"Runtime": "runc", "DeviceRequests": None},
}


def test_own_container_is_explained_without_running_a_workload(project):
    project.observe("n1", observations.converged())
    project.behave("n1", container=CONTAINER, script=WITHOUT, logs="http://x/?token=verysecret cuda\n")
    run = project.play("playbooks/diagnose.yml", "-e", "container=jupyter")
    assert run.rc == 2, run.text
    node = run.node("n1")
    assert roots(node) == ["gpus-not-requested"]
    assert node["container"]["name"] == "jupyter" and node["verification"] == []
    assert "verysecret" not in run.text
    for path in (project.root / "artifacts" / "latest").iterdir():
        assert "verysecret" not in path.read_text()
    assert not [words for words in calls(project) if words[0] == "run"]
    told = again(project)
    assert roots({"diagnosis": json.loads(told.stdout)}) == ["gpus-not-requested"]


def test_container_that_nobody_knows_is_a_mistake_of_the_question(project):
    project.observe("n1", observations.converged())
    project.behave("n1", ps="jupyter\ndb\n")
    run = project.play("playbooks/diagnose.yml", "-e", "container=jupiter")
    assert run.rc == 2
    assert "container: n1 has no container 'jupiter'; docker ps --all lists: jupyter, db" in run.text
    assert run.node("n1")["status"] == "failed"


def test_nodes_are_diagnosed_each_for_itself(project):
    project.inventory({"n1": {}, "n2": {}})
    project.observe("n1", observations.converged())
    broken = observations.converged()
    broken["container_runtime"]["docker"]["live"]["runtimes"] = ["runc"]
    broken["container_runtime"]["toolkit"]["hook_newer_than_dockerd"] = True
    project.observe("n2", broken)
    run = project.play("playbooks/diagnose.yml")
    assert run.rc == 2
    assert run.node("n1")["status"] == "healthy" and run.node("n2")["status"] == "cause_found"


def test_failed_verification_of_site_yml_shows_the_root_cause(project):
    project.observe("n1", observations.converged())
    project.behave(
        "n1", stdout="", rc=125, stderr="docker: Error response from daemon: no such thing\n" + HIDDEN
    )
    run = project.play("playbooks/verify.yml")
    assert run.rc == 2
    node = run.node("n1")
    assert node["status"] == "failed"
    assert node["verification"][0]["findings"][0]["cause"] == "cuda-visible-devices-hides"
    assert roots(node) == ["cuda-visible-devices-hides"]
    assert "FAILED (simulated): cuda-visible-devices-hides" in run.text


TASK = """\
- name: Diagnose
  hosts: gpu_nodes
  gather_facts: false
  tasks:
    - name: Say what is wrong
      gpuready.node.gpu_diagnose:
        verify: false
        must_be_healthy: false
        {more}
      register: __told
    - name: Show it
      ansible.builtin.debug:
        msg: "status={{{{ __told.diagnosis.status }}}} planned={{{{ __told.plan.status }}}}"
"""


def test_used_alone_it_observes_and_plans_itself_and_may_be_told_not_to_fail(project):
    seen = observations.converged()
    seen["container_runtime"]["toolkit"]["hook_newer_than_dockerd"] = True
    project.observe("n1", seen)
    (project.root / "playbooks" / "alone.yml").write_text(TASK.format(more=""))
    run = project.play("playbooks/alone.yml")
    assert run.rc == 0, run.text
    assert "status=cause_found planned=changes" in run.text
    assert len(run.asked("n1")) == 1 and run.node("n1")["plan"]["status"] == "changes"
    assert calls(project) == []


def test_bad_argument_is_named(project):
    project.observe("n1", observations.converged())
    (project.root / "playbooks" / "alone.yml").write_text(TASK.format(more="probe_timeout_seconds: 0"))
    run = project.play("playbooks/alone.yml")
    assert run.rc == 2 and "probe_timeout_seconds is 0; give a number of seconds" in run.text
    assert run.asked("n1") == []
