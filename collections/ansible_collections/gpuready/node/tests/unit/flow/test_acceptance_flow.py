"""The role gpu_acceptance with the real plugins; watch and hardware are told by files. See project.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import observations
import pytest
from gpuready import acceptance
from project import NODE, ROOT, Project, Run

#: Answers with what the test wrote down; a watch that is to last is over at once.
TELLER = """
from __future__ import annotations
import json, os
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(argument_spec={
    "state": {"type": "str"}, "name": {"type": "str"}, "interval_seconds": {"type": "float"},
    "limit_seconds": {"type": "float"}, "nvml_bindings": {"type": "str", "no_log": True},
})
folder = os.environ["FLOW_STATE"] + "/" + os.environ["FLOW_HOST"]
with open(folder + "/watched", "a") as stream:
    stream.write(json.dumps({k: v for k, v in module.params.items() if k != "nvml_bindings"}) + "\\n")
with open(folder + "/TELL.json") as stream:
    module.exit_json(changed=False, **json.load(stream))
"""
PLAY = """
- name: Accept
  hosts: gpu_nodes
  gather_facts: false
  tasks:
    - name: Accept the node
      ansible.builtin.include_role:
        name: gpu_acceptance
        tasks_from: "{{ entry | default('main') }}"
"""
A100 = "NVIDIA A100 80GB PCIe"
WATCH: dict[str, Any] = {
    "seconds": 700.0,
    "interval_seconds": 1.0,
    "samples": 700,
    "failures": 0,
    "error": None,
    "xids": [],
    "xid_count": 0,
    "ended": "told",
    "gpus": [
        {
            "index": 0,
            "name": A100,
            "temperature_c": {"max": 70.0, "mean": 65.0},
            "power_watts": {"max": 290.0, "mean": 270.0},
            "utilization_percent": {"max": 100.0, "mean": 97.0},
            "ecc_uncorrected": 0,
            "ecc_corrected": 0,
            "ecc_new": {"uncorrected": 0, "corrected": 0},
            "throttled": {},
            "remapped_rows": None,
            "lost": None,
        }
    ],
}
HARDWARE = {
    "vendor": "Dell Inc.",
    "serial": "7CXJ1A3",
    "gpus": [{"index": 0, "pci": "0000:3b:00.0", "name": A100}],
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    shutil.copytree(ROOT / "roles/gpu_acceptance", made.root / "roles/gpu_acceptance")
    for module, told in (("gpu_watch", "watch"), ("node_hardware_info", "hardware")):
        (made.root / NODE / f"plugins/modules/{module}.py").write_text(TELLER.replace("TELL", told))
    (made.root / "accept.yml").write_text(PLAY)
    made.inventory({"n1": {}}, gpuready_simulated=True)
    made.observe("n1", observations.converged())
    tell(made)
    return made


def tell(project: Project, watch: dict[str, Any] | None = WATCH, problem: str | None = None) -> None:
    folder = project.state / "n1"
    (folder / "watch.json").write_text(json.dumps({"watch": watch, "problem": problem}))
    (folder / "hardware.json").write_text(
        json.dumps({"hardware": HARDWARE, "host_keys": ["SHA256:abc"], "problems": []})
    )


def answers(**stress: Any) -> str:
    """A framework that lists, computes and works under load."""
    gpu = {"device_name": A100, "compute_capability": [8, 0]}
    good = {"ok": True, "device": "/GPU:0", "seconds": 0.1, "error": None}
    row = {
        "index": 0,
        "name": A100,
        "size": 8192,
        "iterations": 9000,
        "iterations_per_second": 15.0,
        "tflops": 16.5,
        "wrong": 0,
        "error": None,
    }
    answer = {
        "framework": {"name": "tensorflow", "version": "2.9.0", "cuda": "11.2", "cudnn": "8"},
        "devices": [{"name": "/physical_device:GPU:0", "device_type": "GPU", "details": gpu}],
        "compute": {"matmul": good, "conv": good},
        "stress": {"seconds": 600.1, "gpus": [{**row, **stress}]},
    }
    return f"GPUREADY-PROBE {json.dumps(answer)}\n"


def record(project: Project) -> dict[str, Any]:
    return json.loads((project.root / "acceptance" / "n1.json").read_text())


def play(project: Project, *words: str) -> Run:
    """The watch of this test puts down what it saw in a file of its own."""
    seen = f"__gpu_acceptance_watch_file={project.state}/n1/watch.json"
    return project.play("accept.yml", "-e", seen, *words)


def commands(project: Project) -> list[list[str]]:
    calls = (project.state / "n1/docker/calls").read_text().splitlines()
    return [words for words in map(json.loads, calls) if words[0] == "run"]


def test_node_is_verified_put_under_load_and_accepted(project: Project) -> None:
    project.behave("n1", stdout=answers())
    run = play(project, "-e", "gpu_acceptance_stress_minutes=10", "-e", "signed_by=alice")
    assert run.rc == 0, run.text
    made = record(project)
    assert made["verdict"] == "accepted" and acceptance.is_genuine(made)
    assert made["signed_by"] == "alice"
    assert made["hardware"]["serial"] == "7CXJ1A3"
    assert made["host_key"] == {"fingerprints": ["SHA256:abc"], "trust": None}
    assert made["stress"]["iterations_per_second"] == 15.0
    assert [stage["stage"] for stage in made["timings"]] == ["burn_in", "stress"]
    assert "ACCEPTED" in (project.root / "acceptance/n1.txt").read_text()
    *rounds, load = commands(project)
    assert [words[-3:] for words in rounds] == [["--level", "compute", "--every-gpu"]] * 3
    assert load[-6:-1] == ["--level", "stress", "--seconds", "600", "--memory-mib"]
    watches = [json.loads(line) for line in (project.state / "n1/watched").read_text().splitlines()]
    assert [watch["state"] for watch in watches if watch["state"]] == ["watching", "ended"]
    assert watches[1]["limit_seconds"] > 600 + 4 * 300, "longer than the burn-in can take"


def test_gpu_that_computes_wrong_under_load_is_rejected(project: Project) -> None:
    project.behave("n1", stdout=answers(wrong=3, error="3 numbers differ from what it computed at first"))
    run = play(project, "-e", "gpu_acceptance_stress_minutes=10")
    assert run.rc == 2
    (why,) = record(project)["because"]
    assert "GPU 0 failed under load (3 numbers differ" in why
    assert why in " ".join(run.text.split())


def test_burn_in_that_breaks_has_a_record_all_the_same(project: Project) -> None:
    (project.root / NODE / "data/probes/tensorflow.py").unlink()
    run = play(project, "-e", "gpu_acceptance_rounds=2")
    assert run.rc == 2
    made = record(project)
    assert made["verdict"] == "rejected" and made["rounds"] == []
    assert "there is no probe" in made["because"][0]


def test_watch_that_died_rejects(project: Project) -> None:
    project.behave("n1", stdout=answers())
    tell(project, {**WATCH, "seconds": 3.0, "samples": 3}, "the watch died after 3 s")
    run = play(project, "-e", "gpu_acceptance_rounds=1")
    assert run.rc == 2 and "the watch died after 3 s" in run.text


def test_check_mode_runs_nothing_and_writes_nothing(project: Project) -> None:
    run = play(project, "--check")
    assert run.rc == 0, run.text
    assert "would be verified 3 times at level compute" in " ".join(run.text.split())
    assert not (project.root / "acceptance").exists()
    assert not (project.state / "n1/docker/calls").exists()


def test_node_that_failed_before_is_written_down(project: Project) -> None:
    failure = {"stage": "provision", "message": "no package of that version"}
    given = json.dumps(
        {
            "entry": "reject",
            "gpu_acceptance_failure": failure,
            "gpu_acceptance_started": "2026-11-23T10:00:00",
        }
    )
    run = play(project, "-e", given)
    assert run.rc == 0, "the caller has the failure"
    made = record(project)
    assert made["because"][0] == "provision: no package of that version"
    assert made["simulated"] is True and made["started"] == "2026-11-23T10:00:00+00:00"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"gpu_acceptance_expect": {"gpu": 8}}, "gpu_acceptance_expect"),
        (
            {"gpu_acceptance_inventory_directory": "/proc/nowhere"},
            "name another folder in gpu_acceptance_inventory_directory",
        ),
    ],
)
def test_bad_values_are_one_clear_error(project: Project, given: dict[str, Any], says: str) -> None:
    project.behave("n1", stdout=answers())
    run = play(project, "-e", json.dumps({"gpu_acceptance_rounds": 1, **given}))
    assert run.rc == 2
    assert says in " ".join(run.text.split())
