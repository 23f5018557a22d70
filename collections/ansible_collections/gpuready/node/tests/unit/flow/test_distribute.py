"""A run in slices, on the flow's project: real ansible-runner jobs, and an ssh that stays on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import observations
import pytest
from gpuready import distribute, runs, slices
from gpuready.cli import main
from gpuready.distribute import Worker
from project import Project

#: Goes nowhere: the command runs here. A destination's file says how it fails.
SSH = """#!/bin/sh
echo "$@" | head -n 1 >> "$FAKE_SSH/calls"
while [ "$1" != -- ]; do
    case $1 in ForwardAgent=/*) SSH_AUTH_SOCK=${1#ForwardAgent=}; export SSH_AUTH_SOCK ;; esac
    shift
done
echo "$2" >> "$FAKE_SSH/asked"
case $2 in
    away) echo "ssh: connect to host away port 22: No route to host" >&2; exit 255 ;;
    cut)
        case $3 in *--private-data-dir*) ;; *) exec sh -c "$3" ;; esac
        sh -c "$3" | head -c 6000
        echo "Connection to cut closed by remote host." >&2
        exit 255 ;;
    mute) case $3 in *--private-data-dir*) cat > /dev/null; sleep 60 ;; *) exec sh -c "$3" ;; esac ;;
    bare) PATH=/usr/bin:/bin; exec sh -c "$3" ;;
    *) exec sh -c "$3" ;;
esac
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = Project(tmp_path / "site")
    made.inventory({f"n{n}": {} for n in range(1, 5)}, gpuready_simulated=True)
    for n in range(1, 5):
        made.observe(f"n{n}", observations.converged())
    for key in list(os.environ):
        if key.startswith("ANSIBLE_"):
            monkeypatch.delenv(key)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "ssh").write_text(SSH)
    (binaries / "ssh").chmod(0o755)
    (tmp_path / "ssh").mkdir()
    monkeypatch.setenv("FAKE_SSH", str(tmp_path / "ssh"))
    monkeypatch.setenv("PATH", f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FLOW_STATE", str(made.state))
    monkeypatch.setenv("ANSIBLE_LOCAL_TEMP", str(tmp_path / ".ansible"))
    monkeypatch.setenv("ANSIBLE_REMOTE_TEMP", str(tmp_path / ".ansible"))
    monkeypatch.chdir(made.root)
    return made


def spread(project, *workers, playbook="site", **more):
    options = {"inventory": project.root / "hosts.json", "project": project.root, **more}
    return distribute.distribute(playbook, workers=[Worker(name, name) for name in workers], **options)


def left_behind():
    return [path.name for path in Path("/tmp").glob("gpuready-slice-*")]


def without_times(document):
    """What must be the same wherever it ran."""
    if isinstance(document, dict):
        times = {"run", "seconds", "started", "finished", "timings", "slow_tasks", "at", "folder"}
        return {key: without_times(value) for key, value in document.items() if key not in times}
    if isinstance(document, list):
        return [without_times(item) for item in document]
    # Times within sentences, and the names of the probes' containers.
    said = r"\d+\.\d s\b|(?<=gpuready-probe-)[0-9a-f]+"
    return re.sub(said, "…", document) if isinstance(document, str) else document


def test_slices_give_the_report_of_one_run(project):
    (project.state / "n3" / "broken").touch()
    before = left_behind()
    lines = []
    done = spread(project, "w1", "w2", on_line=lambda worker, line: lines.append((worker, line)))
    here = runs.site(inventory=project.root / "hosts.json", project=project.root)
    assert done.result.totals == here.totals == {"verified": 3, "failed": 1}
    assert without_times(done.result.as_json()) == without_times(here.as_json())
    for name in here.nodes:
        assert without_times(done.result.nodes[name].document) == without_times(here.nodes[name].document)
    # The files, too.
    assert {path.name for path in done.result.folder.iterdir()} - {"slices"} == {
        path.name for path in here.folder.iterdir()
    }
    assert [part.hosts for part in done.slices] == [("n1", "n3"), ("n2", "n4")]
    assert {part.worker for part in done.slices} == {"w1", "w2"}
    assert all(part.error is None and part.transmitted_bytes < 3_000_000 for part in done.slices)
    # Ansible's own words are shown as they come, and kept.
    assert any("PLAY RECAP" in line for _worker, line in lines)
    assert {path.name for path in (done.result.folder / "slices").iterdir()} == {
        f"{part.number}-{part.worker}.txt" for part in done.slices
    }
    # Nothing of the site stays on an execution node.
    assert left_behind() == before


def test_workers_share_more_slices_than_there_are_workers(project):
    done = spread(project, "w1", "w2", slices_wanted=3, playbook="plan")
    assert [part.hosts for part in done.slices] == [("n1", "n4"), ("n2",), ("n3",)]
    assert done.result.ok and len(done.result.nodes) == 4


def test_worker_that_dies_loses_its_nodes_and_no_others(project):
    before = left_behind()
    done = spread(project, "w1", "cut")
    lost = next(part for part in done.slices if part.worker == "cut")
    assert not done.result.ok and done.result.rc == 4
    for host in lost.hosts:
        node = done.result.nodes[host]
        assert node.status == "unreachable"
        assert "the execution node cut (cut) was lost while it worked" in node.error
        assert "closed by remote host" in node.error
        assert node.document["groups"] == ["gpu_nodes"]
    for host in set(done.result.nodes) - set(lost.hosts):
        assert done.result.nodes[host].status == "verified"
    assert done.result.totals == {"unreachable": 2, "verified": 2}
    assert left_behind() == before


def test_slices_of_a_lost_worker_that_were_not_begun_go_to_the_others(project):
    done = spread(project, "w1", "cut", slices_wanted=3, playbook="plan")
    lost = [part for part in done.slices if part.error]
    assert len(lost) == 1 and lost[0].worker == "cut"
    assert done.result.totals == {"unreachable": len(lost[0].hosts), "planned": 4 - len(lost[0].hosts)}


def test_worker_that_falls_silent_is_lost(project):
    done = spread(project, "mute", silent_seconds=2.0, playbook="plan")
    assert done.result.totals == {"unreachable": 4}
    assert "nothing was heard of it for 2 s" in done.result.nodes["n1"].error


def test_nothing_begins_where_a_worker_cannot_work(project):
    with pytest.raises(runs.RunError) as caught:
        spread(project, "w1", "away", "bare")
    said = str(caught.value)
    assert "away (away): ssh does not get there: ssh: connect to host away port 22: No route to host" in said
    assert "bare (bare): there is no ansible-runner" in said
    assert not (project.root / "artifacts").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"playbook": "upgrade.yml"}, "cannot be cut into slices: its batches go over the whole fleet"),
        ({"limit": ["nobody*"]}, r"inventory: --limit nobody\* within gpu_nodes: .*nobody"),
        ({"slices_wanted": 0}, "slices 0: there must be one at least"),
        ({"keys": "send"}, "keys 'send': say agent or none"),
        ({"ssh_config": "/nowhere"}, "ssh_config /nowhere: there is no such file"),
    ],
)
def test_bad_question_is_one_clear_error(project, options, words):
    (project.root / "playbooks" / "upgrade.yml").write_text("[]\n")
    with pytest.raises(runs.RunError, match=words):
        spread(project, "w1", **options)


def test_workers_are_read_and_all_that_is_wrong_is_told():
    assert distribute.workers_of(["a=u@h", "b=ssh://u@h:22"]) == [
        Worker("a", "u@h"),
        Worker("b", "ssh://u@h:22"),
    ]
    with pytest.raises(runs.RunError) as caught:
        distribute.workers_of(["a=h", "a=i", "c", "d=-oProxyCommand=x"])
    assert str(caught.value) == (
        "worker: 'a' is named twice; 'c' is not NAME=SSH-DESTINATION; "
        "'d=-oProxyCommand=x': the destination begins with a hyphen"
    )
    with pytest.raises(runs.RunError, match="none was named"):
        distribute.workers_of([])


def test_command_says_who_did_what(project, capsys):
    words = ["distribute", "plan", "-i", "hosts.json", "--project", str(project.root)]
    assert main([*words, "--worker", "exec1=w1", "--worker", "exec2=w2"]) == 0
    printed = capsys.readouterr().out
    assert "exec1 | PLAY [Plan]" in printed
    assert "slice 2: exec" in printed and "2 nodes" in printed
    assert main([*words, "--worker", "exec1=away", "--json", "--quiet"]) == 1
    assert "exec1 (away): ssh does not get there" in capsys.readouterr().err


def test_reports_of_several_runs_become_one(project, capsys):
    (project.state / "n2" / "broken").touch()
    parts = [
        runs.plan(inventory=project.root / "hosts.json", project=project.root, limit=[name]).folder
        for name in ("n1", "n2")
    ]
    words = ["merge", *map(str, parts), "--artifacts", str(project.root / "together")]
    assert main(words) == 2
    assert "n2: failed" in capsys.readouterr().out
    result = runs.load(project.root / "together" / "latest")
    assert result.run.endswith("-plan-merged") and result.totals == {"planned": 1, "failed": 1}
    assert main(["merge", str(project.root / "nothing")]) == 1
    assert "nothing/fleet.json: No such file or directory" in capsys.readouterr().err


def test_results_stay_when_the_last_step_fails(project, monkeypatch):
    def fail(*_arguments, **_more):
        raise OSError("disk full")

    monkeypatch.setattr(distribute.report, "merge", fail)
    with pytest.raises(OSError, match="disk full"):
        spread(project, "w1", "w2", playbook="plan")
    saved = sorted((project.root / "artifacts").iterdir())
    assert [path.name[-8:] for path in saved] == ["-slice-1", "-slice-2"]
    assert list(runs.load(saved[0]).nodes) == ["n1", "n3"]


# --- the slices' inventories --------------------------------------------------------------------------------


def site(tmp_path: Path, text: str, **more: str) -> Path:
    folder = tmp_path / "inventory"
    folder.mkdir()
    (folder / "hosts.yml").write_text(text)
    for name, content in more.items():
        (folder / name).write_text(content)
    return folder


def read(inventory: Path, **variables):
    return distribute.read_inventory(
        runs.project_folder(), [str(inventory)], limit=[], variables=variables, pattern="gpu_nodes"
    )


def listed(answer, hosts, tmp_path: Path):
    """A slice's file, read by Ansible again."""
    path = tmp_path / "slice.yml"
    path.write_text(slices.text(slices.document(answer, hosts)))
    told = tmp_path / "told"
    told.mkdir()
    python = f"ansible_python_interpreter={sys.executable}"
    copy = f"dest={told}/{{{{ inventory_hostname }}}} content={{{{ asked | to_json }}}}"
    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible",
            "-i",
            path,
            "all",
            "-c",
            "local",
            "-m",
            "copy",
            "-a",
            copy,
            "-e",
            python,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name: json.loads(path.read_text()) for path in sorted(told.iterdir())}


def test_inventory_is_answered_here_where_only_here_can_answer(tmp_path):
    inventory = site(
        tmp_path,
        """
gpu_nodes:
  hosts:
    n1: {own: "{{ shared }}-1"}
    n2: {own: "{{ shared }}-2"}
  vars:
    shared: "{{ lookup('ansible.builtin.file', inventory_dir ~ '/secret.txt') }}"
    later: "{{ ansible_facts['kernel'] }}"
    unknown: "{{ lookup('ansible.builtin.file', ansible_facts['x']) }}"
    never: !unsafe "{{ not a template }}"
    asked: ["{{ own }}", "{{ shared }}", "{{ never }}", "{{ group_names }}"]
racks:
  children: {rack1: {hosts: {n1: }}, rack2: {hosts: {n2: }}}
""",
        **{"secret.txt": "from {{ here }}"},
    )
    answer = read(inventory)
    assert answer["hosts"]["n1"]["shared"] == {slices.UNSAFE: "from {{ here }}"}
    assert answer["hosts"]["n1"]["later"] == "{{ ansible_facts['kernel'] }}"
    assert answer["hosts"]["n1"]["unknown"].startswith("{{ lookup(")
    (inventory / "secret.txt").unlink()
    told = listed(answer, ["n1"], tmp_path)
    # Every group is known in every slice, and what is no template stays none.
    text = "from {{ here }}"
    assert told == {"n1": [f"{text}-1", text, "{{ not a template }}", ["gpu_nodes", "rack1", "racks"]]}
    assert set(slices.document(answer, ["n1"])["all"]["children"]) == {"gpu_nodes", "racks", "rack1", "rack2"}


def test_vaulted_values_are_opened_here(tmp_path, monkeypatch):
    (tmp_path / "password").write_text("open sesame\n")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(tmp_path / "password"))
    vault = Path(sys.executable).parent / "ansible-vault"
    sealed = subprocess.run(
        [vault, "encrypt_string", "hunter2 {{ x }}"], capture_output=True, text=True, check=True
    ).stdout
    indented = sealed.replace("\n", "\n      ")
    inventory = site(
        tmp_path,
        f"gpu_nodes:\n  hosts:\n    n1:\n      sealed: {indented}\n      asked: '{{{{ sealed }}}}'\n",
    )
    answer = read(inventory)
    monkeypatch.delenv("ANSIBLE_VAULT_PASSWORD_FILE")
    assert listed(answer, ["n1"], tmp_path) == {"n1": "hunter2 {{ x }}"}
    with pytest.raises(runs.RunError, match=r"n1: sealed: .*vault"):
        read(inventory)


def test_connection_files_travel_and_private_keys_do_not(tmp_path):
    for name in ("key", "known", "known two"):
        (tmp_path / name).write_text(name)
    carried = slices.Carried("/there/ssh")
    moved = carried.host(
        {
            "ansible_ssh_private_key_file": str(tmp_path / "key"),
            "ansible_ssh_common_args": (
                f"-o UserKnownHostsFile={tmp_path}/known -o GlobalKnownHostsFile=/dev/null "
                f"-o StrictHostKeyChecking=yes -i {tmp_path}/key -o IdentityFile=/nowhere/key"
            ),
        },
        default_key=None,
        known_hosts="/there/ssh/known_hosts",
    )
    assert moved["ansible_ssh_private_key_file"] == "/there/ssh/key-1.pub"
    assert moved["ansible_ssh_common_args"] == (
        "-o UserKnownHostsFile=/there/ssh/file-1 -o GlobalKnownHostsFile=/dev/null "
        "-o StrictHostKeyChecking=yes -i /there/ssh/key-1.pub -o IdentityFile=/nowhere/key"
    )
    assert "ansible_ssh_extra_args" not in moved
    assert carried.keys == {f"{tmp_path}/key": "key-1.pub"} and carried.files == {
        f"{tmp_path}/known": "file-1"
    }
    # Without a word, what this machine knows counts there, too; the site's default key is asked of the agent.
    moved = carried.host({}, default_key=str(tmp_path / "key"), known_hosts="/there/ssh/known_hosts")
    assert moved == {
        "ansible_ssh_private_key_file": "/there/ssh/key-1.pub",
        "ansible_ssh_extra_args": "-o UserKnownHostsFile=/there/ssh/known_hosts",
    }


def test_agent_has_the_inventorys_keys_and_no_others(tmp_path):
    key, closed = tmp_path / "key", tmp_path / "closed"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", closed], check=True)
    public = key.with_suffix(".pub").read_text()
    with distribute.agent_with([str(key)], [public], tmp_path) as socket:
        said = subprocess.run(
            ["ssh-add", "-L"], env={**os.environ, "SSH_AUTH_SOCK": socket}, capture_output=True, text=True
        ).stdout
        assert said.split()[1] == public.split()[1] and len(said.splitlines()) == 1
    assert not Path(socket).exists()
    with (
        pytest.raises(runs.RunError, match=r"closed cannot be used .*ssh-add"),
        distribute.agent_with([str(closed)], [Path(f"{closed}.pub").read_text()], tmp_path),
    ):
        pass


def test_project_travels_without_tests_and_caches(tmp_path):
    distribute.pack_project(runs.project_folder(), tmp_path / "project")
    names = {str(path.relative_to(tmp_path / "project")) for path in (tmp_path / "project").rglob("*")}
    assert (
        "site.yml" in names
        and "playbooks/verify.yml" in names
        and "roles/nvidia_driver/tasks/main.yml" in names
    )
    assert not [name for name in names if "/tests" in name or "__pycache__" in name or name.startswith(".")]
    archive = shutil.make_archive(str(tmp_path / "project"), "zip", tmp_path / "project")
    assert Path(archive).stat().st_size < 1_500_000
