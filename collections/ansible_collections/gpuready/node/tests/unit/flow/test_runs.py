"""Runs as data, on the flow's project: typed results out of the report's files, errors in Ansible's words."""

from __future__ import annotations

import json
import os

import observations
import pytest
from gpuready import runs
from gpuready.cli import main
from project import Project


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = Project(tmp_path)
    made.inventory({"n1": {}, "n2": {}}, gpuready_simulated=True)
    for name in ("n1", "n2"):
        made.observe(name, observations.converged())
    for key in list(os.environ):
        if key.startswith("ANSIBLE_"):
            monkeypatch.delenv(key)
    monkeypatch.setenv("FLOW_STATE", str(made.state))
    monkeypatch.setenv("ANSIBLE_LOCAL_TEMP", str(tmp_path / ".ansible"))
    monkeypatch.setenv("ANSIBLE_REMOTE_TEMP", str(tmp_path / ".ansible"))
    monkeypatch.chdir(tmp_path)
    return made


def run(project, playbook="site", **more):
    return runs.run(playbook, inventory=project.root / "hosts.json", project=project.root, **more)


def test_result_is_typed_and_whole(project):
    heard = []
    result = run(project, on_event=heard.append)
    assert result.ok and result.rc == 0
    assert result.playbook == "site.yml" and not result.check_mode and result.simulated
    assert result.folder == project.root / "artifacts" / result.run
    assert list(result.nodes) == ["n1", "n2"]
    assert result.totals == {"verified": 2} and result.failed == ()
    node = result.nodes["n1"]
    assert node.status == "verified" and node.layers["host"].ok is True
    assert node.plan["status"] == "converged" and node.verifications[0]["ok"] is True
    assert {timing.stage for timing in node.timings} >= {"observe", "verify"}
    assert node.document == json.loads((result.folder / "n1.json").read_text())
    # What happened meanwhile, by host and task.
    kinds = {(event.kind, event.host) for event in heard}
    assert {("ok", "n1"), ("ok", "n2"), ("started", "n1")} <= kinds
    assert any(event.kind == "play" for event in heard)
    # A later reader gets the same.
    assert runs.load(project.root / "artifacts" / "latest") == result


def test_failed_node_is_a_result_and_no_error(project):
    (project.state / "n2" / "broken").touch()
    result = run(project, "verify")
    assert not result.ok and result.rc == 2
    assert result.nodes["n1"].ok and [node.host for node in result.failed] == ["n2"]
    assert "the package database is locked" in result.nodes["n2"].error


def test_limit_variables_check_and_artifacts_arrive(project, tmp_path):
    project.observe("n1", observations.bare())
    result = run(
        project,
        "playbooks/provision.yml",
        limit=["n1"],
        variables={"gpuready_workloads": ["tensorflow-2.9"], "nvidia_driver_branch": "535"},
        check=True,
        artifacts=tmp_path / "elsewhere",
    )
    assert result.check_mode and list(result.nodes) == ["n1"]
    assert result.folder.parent == tmp_path / "elsewhere"
    assert result.nodes["n1"].plan["driver"]["branch"] == "535"
    assert not (project.root / "artifacts").exists()


def test_mapping_is_an_inventory_and_extra_variables_are_no_arguments(project, monkeypatch):
    seen = []
    from ansible_runner import interface

    real = interface.run

    def spy(**options):
        seen.append(options)
        return real(**options)

    monkeypatch.setattr(interface, "run", spy)
    hosts = json.loads((project.root / "hosts.json").read_text())
    result = runs.plan(inventory=hosts, project=project.root, limit=["n1"], variables={"a_secret": "hunter2"})
    assert result.ok and result.nodes["n1"].status == "planned"
    assert "hunter2" not in json.dumps(seen, default=str)


def test_ansible_that_did_not_begin_is_an_error_with_its_words(project):
    with pytest.raises(runs.RunError, match=r"site\.yml did not begin: .*n9") as caught:
        run(project, limit=["n9"])
    assert caught.value.rc and "n9" in caught.value.output
    (project.root / "playbooks" / "broken.yml").write_text(
        "- hosts: gpu_nodes\n  tasks: [{no_such_thing: {}}]\n"
    )
    with pytest.raises(runs.RunError, match=r"broken\.yml did not begin: .*no_such_thing"):
        run(project, "broken")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"playbook": "siet"}, "there is no playbook siet in .*it has site, "),
        ({"inventory": "/nowhere/hosts"}, "inventory /nowhere/hosts: there is no such file or folder"),
        ({"inventory": []}, "inventory: none was given"),
        ({"project": "/tmp"}, "there is no site.yml in it"),
    ],
)
def test_bad_question_is_one_clear_error(project, options, words):
    wanted = {
        "playbook": "site",
        "inventory": project.root / "hosts.json",
        "project": project.root,
        **options,
    }
    with pytest.raises(runs.RunError, match=words):
        runs.run(wanted.pop("playbook"), **wanted)


def test_run_that_takes_too_long_is_stopped(project):
    project.behave("n1", seconds=60)
    with pytest.raises(runs.RunError, match="took longer than 5 s"):
        run(project, "verify", limit=["n1"], timeout=5)


def test_command_hands_over_json(project, capsys):
    (project.state / "n2" / "broken").touch()
    words = [
        "run",
        "verify",
        "-i",
        "hosts.json",
        "--project",
        str(project.root),
        "--json",
        "--limit",
        "n1,n2",
    ]
    assert main(words) == 2
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["totals"] == {"verified": 1, "failed": 1}
    assert told["nodes"]["n2"]["ok"] is False
    assert "PLAY RECAP" in printed.err
    assert main([*words, "-e", "oops"]) == 1
    assert "-e oops: write it as NAME=VALUE" in capsys.readouterr().err
