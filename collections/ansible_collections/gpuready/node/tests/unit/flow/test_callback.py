"""What the callback makes of a run: its changes of the driver, its rollback, its apt transactions."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import observations
import pytest
from project import Project

COLLECTIONS = str(Path(__file__).resolve().parents[6])
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

from ansible_collections.gpuready.node.plugins.callback import report as callback  # noqa: E402
from gpuready import report  # noqa: E402

OBSERVE = """
    - name: Observe
      ansible.builtin.include_role:
        name: gpuready
"""
PROBE = """
    - name: Verify
      ansible.builtin.include_role:
        name: gpu_verify
"""
ROLL_BACK = """
    - name: Remember for the report what was gone back to
      ansible.builtin.set_fact:
        __gpuready_rolled_back: {from: 595.71.05, to: 580.95.05, why: 0 of 1 GPUs}
"""
FAIL = """
    - name: Say that the changed driver was rejected
      ansible.builtin.fail:
        msg: Driver 595.71.05 failed the verification, so driver 580.95.05 is back.
"""


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path)
    made.inventory({"n1": {}}, gpuready_simulated=True)
    return made


def play(project, *parts, name="life.yml"):
    head = "- name: Live\n  hosts: gpu_nodes\n  gather_facts: false\n  tasks:\n"
    (project.root / "playbooks" / name).write_text(head + "".join(part.lstrip("\n") for part in parts))
    return project.play(f"playbooks/{name}")


def with_driver(version, boot="b1"):
    seen = copy.deepcopy(observations.converged())
    seen["host"]["boot_id"] = boot
    seen["driver"]["loaded"]["version"] = version
    return seen


def test_rolled_back_node_fails_and_keeps_both_verdicts_apart(project):
    project.observe("n1", with_driver("580.95.05"), with_driver("595.71.05"), with_driver("580.95.05"))
    rescued = (
        "    - name: Try\n      block:\n        - name: Verify\n          ansible.builtin.include_role:\n"
        "            name: gpu_verify\n"
        "      rescue:\n        - name: Go on\n          ansible.builtin.meta: noop\n"
    )
    project.behave("n1", stdout="", rc=1, stderr="CUDA_ERROR_UNKNOWN")
    run = play(project, OBSERVE, OBSERVE, rescued, ROLL_BACK, OBSERVE, FAIL)
    assert run.rc == 2, run.text
    node = run.node("n1")
    assert node["status"] == "rolled_back"
    assert node["rolled_back"]["from"] == "595.71.05" and node["rolled_back"]["why"] == "0 of 1 GPUs"
    assert [item["ok"] for item in node["rolled_back"]["verification"]] == [False]
    assert node["verification"] == []
    assert node["error"].startswith("Driver 595.71.05 failed the verification")
    assert node["reloads"] == 2 and node["driver_change"] is None
    assert "ROLLED BACK (simulated)" in run.text and "n1: rolled back" in run.text
    assert run.fleet["totals"] == {"rolled_back": 1} and run.fleet["ok"] is False


def test_rollback_that_did_not_come_to_its_end_is_a_failure(project):
    project.observe("n1", with_driver("595.71.05"))
    node = play(project, OBSERVE, ROLL_BACK, FAIL).node("n1")
    assert node["status"] == "failed" and node["rolled_back"]["to"] == "580.95.05"


def test_rollback_by_hand_is_no_failure(project):
    project.observe("n1", with_driver("595.71.05"), with_driver("580.95.05"))
    run = play(project, OBSERVE, ROLL_BACK, OBSERVE)
    assert run.rc == 0, run.text
    node = run.node("n1")
    assert node["status"] == "provisioned"
    assert node["driver_change"] == {"from": "595.71.05", "to": "580.95.05"}
    assert "driver 595.71.05 \N{RIGHTWARDS ARROW} 580.95.05 open (reloaded)" in run.text


def test_reboot_is_told_by_the_boot_and_not_taken_for_a_reload(project):
    project.observe("n1", with_driver("535.247.01"), with_driver("580.95.05", boot="b2"))
    node = play(project, OBSERVE, OBSERVE, PROBE).node("n1")
    assert (node["reboots"], node["reloads"]) == (1, 0)
    assert node["layers"]["host"]["version"].endswith(
        "driver 535.247.01 \N{RIGHTWARDS ARROW} 580.95.05 open (rebooted)"
    )
    assert node["status"] == "verified"


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ("0 upgraded, 5 newly installed, 0 to remove and 3 not upgraded.\n", 1),
        ("0 upgraded, 0 newly installed, 0 to remove and 3 not upgraded.\n", 0),
        ("0 upgraded, 0 newly installed, 4 to remove and 0 not upgraded.\n", 1),
        ("0 upgraded, 0 newly installed, 7 downgraded, 0 to remove and 0 not upgraded.\n", 1),
        ("0 upgraded, 0 newly installed, 1 reinstalled, 0 to remove and 0 not upgraded.\n", 1),
        ("0 packages upgraded, 2 newly installed, 0 to remove and 0 not upgraded.\n", 1),
        ("Summary:\n  Upgrading: 0, Installing: 0, Downgrading: 2, Removing: 0, Not Upgrading: 1\n", 1),
        ("Summary:\n  Upgrading: 0, Installing: 0, Removing: 0, Not Upgrading: 9\n", 0),
        ("Reading package lists...\n", 0),
    ],
)
def test_apt_transactions_are_counted_by_apt_s_own_words(said, count):
    assert callback.CallbackModule._apt_transactions({"stdout": "Reading...\n" + said}) == count


def test_module_that_counts_itself_is_believed():
    assert callback.CallbackModule._apt_transactions({"apt_transactions": 2, "stdout": "1 upgraded"}) == 2


def test_stages_are_timed_and_nodes_are_located(project):
    project.inventory(
        {"n1": {"ansible_host": "{{ 'gpu' ~ 17 }}.example"}, "n2": {"ansible_host": "10.0.0.18"}, "n3": {}},
        gpuready_simulated=True,
    )
    (project.root / "host_vars").mkdir()
    (project.root / "host_vars" / "n3.yml").write_text("ansible_host: 10.0.0.19\n")
    for host in ("n1", "n2", "n3"):
        project.observe(host, with_driver("580.95.05"))
    pause = "    - name: Take a while\n      ansible.builtin.command: sleep 1.2\n      changed_when: false\n"
    never = "    - name: Be left out\n      ansible.builtin.command: 'false'\n      when: false\n"
    run = play(project, never, OBSERVE, PROBE, pause)
    assert run.rc == 0, run.text
    addresses = {host: row["address"] for host, row in run.fleet["nodes"].items()}
    assert addresses == {"n1": "gpu17.example", "n2": "10.0.0.18", "n3": "10.0.0.19"}
    node = run.node("n1")
    assert node["groups"] == ["gpu_nodes"]
    assert [row["stage"] for row in node["timings"]] == ["observe", "verify", "other"]
    seconds = {row["stage"]: row["seconds"] for row in node["timings"]}
    assert seconds["other"] >= 1.2 and all(0 < spent < 60 for spent in seconds.values())
    assert sum(seconds.values()) <= run.fleet["seconds"]
    assert {"Take a while"} <= {row["task"] for row in node["slow_tasks"]}
    assert run.fleet["nodes"]["n1"]["timings"] == node["timings"]
    assert run.fleet["driver_spread"] == {"580.95.05": ["n1", "n2", "n3"]}
    assert run.fleet["drift"] == [] and run.fleet["not_run"] == []


@pytest.mark.parametrize("playbook", ["playbooks/plan.yml", "playbooks/diagnose.yml", "site.yml"])
def test_text_of_the_report_can_be_made_of_its_documents(project, playbook):
    project.observe("n1", with_driver("580.95.05"))
    folder = project.play(playbook).artifacts / "latest"
    assert report.report_text(*report.load_run(folder)) == (folder / "report.txt").read_text()


def test_report_is_printed_again_and_its_files_are_made_anew(project):
    project.observe("n1", with_driver("580.95.05"))
    run = play(project, OBSERVE, PROBE)
    page = run.artifacts / "latest" / "report.html"
    page.write_text("an old one")
    again = project.play("playbooks/report.yml")
    assert again.rc == 0 and "VERIFIED (simulated)" in again.text and page.read_text() == "an old one"
    again = project.play("playbooks/report.yml", "-e", "rebuild=true")
    assert again.rc == 0, again.text
    assert "The one node is as asked for." in page.read_text() and "changed=1" in again.text
    again = project.play("playbooks/report.yml", "-e", "rebuild=true")
    assert again.rc == 0 and "changed=0" in again.text
    merged = json.dumps({"merge": [str(page.parent.resolve()), str(project.root / "nowhere")]})
    again = project.play("playbooks/report.yml", "-e", merged)
    assert again.rc == 2 and f"{project.root}/nowhere/fleet.json" in again.text
    again = project.play("playbooks/report.yml", "-e", json.dumps({"merge": [str(page.parent.resolve())]}))
    assert again.rc == 0 and "changed=1" in again.text, again.text
    assert (run.artifacts / "latest").readlink().name.endswith("-life.2")


def test_batches_that_never_came_are_named(project):
    project.inventory({"n1": {}, "n2": {}, "n3": {}}, gpuready_simulated=True)
    for host in ("n1", "n2", "n3"):
        project.observe(host, with_driver("580.95.05"))
    head = "- name: Live\n  hosts: gpu_nodes\n  serial: 1\n  gather_facts: false\n  tasks:\n"
    fail = "    - name: Break\n      ansible.builtin.fail:\n        msg: broken\n"
    (project.root / "playbooks" / "batches.yml").write_text(head + OBSERVE.lstrip("\n") + fail)
    run = project.play("playbooks/batches.yml", "--limit", "n1,n2")
    assert run.fleet["not_run"] == ["n2"] and list(run.fleet["nodes"]) == ["n1"]
    assert run.fleet["ok"] is False
    assert run.node("n1")["error"] == "broken" and run.node("n1")["error_stage"] == "other"


def test_controller_s_own_part_is_no_node_unless_it_fails(project):
    project.observe("n1", with_driver("580.95.05"))
    head = "- name: Prepare\n  hosts: localhost\n  connection: local\n  gather_facts: false\n  tasks:\n"
    noop = "    - name: Speak\n      ansible.builtin.debug:\n        msg: hello\n"
    nodes = "- name: Live\n  hosts: gpu_nodes\n  gather_facts: false\n  tasks:\n"
    path = project.root / "playbooks" / "two.yml"
    path.write_text(head + noop + nodes + OBSERVE.lstrip("\n"))
    assert list(project.play("playbooks/two.yml").fleet["nodes"]) == ["n1"]
    path.write_text(nodes + OBSERVE.lstrip("\n") + head + noop.replace("debug", "fail"))
    fleet = project.play("playbooks/two.yml").fleet
    assert fleet["nodes"]["localhost"]["error"] == "hello" and fleet["ok"] is False


ACCEPTANCE = """
from __future__ import annotations
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(argument_spec={"rejects": {"type": "bool"}}, supports_check_mode=True)
record = {"schema": 1, "host": "n1", "verdict": "accepted", "because": ["1 of 1 GPUs"], "digest": "sha256:1"}
if module.params["rejects"]:
    record.update(verdict="rejected", because=["too hot"])
    module.fail_json(msg="n1 is rejected: too hot", acceptance=record, text="N1 REJECTED")
module.exit_json(changed=False, acceptance=record, text="N1 ACCEPTED")
"""


@pytest.mark.parametrize(("rejects", "verdict"), [("true", "rejected"), ("false", "accepted")])
def test_acceptance_is_told_and_its_record_kept(project, rejects, verdict):
    folder = project.root / "collections/ansible_collections/gpuready/node/plugins"
    (folder / "modules" / "gpu_acceptance.py").write_text(ACCEPTANCE)
    (folder / "action" / "gpu_acceptance.py").unlink(missing_ok=True)
    project.observe("n1", with_driver("580.95.05"))
    accept = f"    - name: Sign\n      gpuready.node.gpu_acceptance:\n        rejects: {rejects}\n"
    run = play(project, OBSERVE, accept)
    told = run.fleet["nodes"]["n1"]["acceptance"]
    assert told["verdict"] == verdict and told["file"] == "acceptance/n1.json"
    latest = run.artifacts / "latest"
    record = json.loads((latest / told["file"]).read_text())
    assert record["because"] == told["because"] and record["digest"] == told["digest"]
    assert (latest / "acceptance" / "n1.txt").read_text() == f"N1 {verdict.upper()}"
    assert verdict in (latest / "report.html").read_text()
    assert run.fleet["ok"] is (verdict == "accepted")
