"""The action plugins and the lookup in real runs of Ansible, on the controller alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from gpuready.catalog import annotate, load_catalog
from observed_nodes import bare

ROOT = Path(__file__).parents[7]
SITE = """\
# ours
all:
  children:
    gpu_nodes:
      hosts:
        gpu01: {ansible_host: 10.0.0.1}
      children:
        a100:
          vars: {nvidia_driver_branch: "999", site_user: gpuready}
      vars:
        ansible_user: "{{ site_user | default('ubuntu') }}"
"""
PLAY = """\
- name: Read a request
  hosts: gpu_nodes
  gather_facts: false
  tasks:
    - name: Read
      gpuready.node.onboarding_candidates:
        node: "{{ node | default('') }}"
        csv: "{{ csv | default('') }}"
        skip_bad_rows: "{{ skip_bad_rows | default(false) }}"
      register: candidates

    - name: Propose
      gpuready.node.onboarding_proposal:
        name: "{{ item.name }}"
        gpu_stack: "{{ lookup('ansible.builtin.file', observed) | from_json }}"
        variables: "{{ item.variables }}"
        connection:
          ansible_host: "{{ item.address }}"
          ansible_port: "{{ item.port }}"
          ansible_user: gpuready
      loop: "{{ candidates.candidates }}"
      register: proposals

    - name: Write
      gpuready.node.inventory_host:
        name: "{{ item.item.name }}"
        groups: [gpu_quarantine]
        variables: "{{ item.variables_dict }}"
      loop: "{{ proposals.results }}"
      register: written

    - name: Say the rest
      ansible.builtin.copy:
        dest: "{{ out }}"
        mode: "0600"
        content: >-
          {{ {"candidates": candidates, "proposals": proposals.results, "written": written.results,
              "password": password == "hush-hush"} | to_json }}
      delegate_to: localhost
      check_mode: false
      vars:
        ansible_connection: local
        password: "{{ lookup('gpuready.node.bootstrap_password', 'gpu17', csv=csv | default('')) }}"
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "hosts.yml").write_text(SITE)
    (tmp_path / "play.yml").write_text(PLAY)
    observed = annotate(bare("20b0"), load_catalog())
    (tmp_path / "observed.json").write_text(json.dumps(observed))
    return folder


def play(site: Path, *arguments: str, **variables: str) -> tuple[int, str, dict]:
    out = site.parent / "out.json"
    given = {"observed": str(site.parent / "observed.json"), "out": str(out), **variables}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(site), "play.yml", "-v", *arguments,
         "-e", json.dumps(given)],
        cwd=site.parent,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1",
             "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"), "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
             "GPUREADY_ARTIFACTS_DIR": str(site.parent / "artifacts")},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr, json.loads(out.read_text()) if out.exists() else {}


def test_request_becomes_an_entry_with_reasons(site):
    rc, text, said = play(site, "--diff", node="gpu17=10.0.0.17")
    assert rc == 0, text
    assert said["candidates"]["inventory_file"] == str(site / "hosts.yml")
    made = said["proposals"][0]
    assert made["group_names"] == ["a100"]
    # The user is what the group's own template says; the branch is one that no GPU has.
    assert made["variables_dict"] == {"ansible_host": "10.0.0.17", "nvidia_driver_branch": "auto"}
    written = (site / "hosts.yml").read_text()
    assert written.startswith(SITE)
    data = yaml.safe_load(written)["all"]["children"]["gpu_quarantine"]
    assert data == {"hosts": {"gpu17": made["variables_dict"]}}
    assert "+        gpu17:" in text and "before: " in text
    # The run's own inventory does not know it yet; the next one finds it again.
    rc, text, said = play(site, node="10.0.0.17")
    assert said["candidates"]["candidates"][0]["state"] == "quarantine"
    assert said["written"][0]["changed"] is False


def test_check_mode_writes_nothing(site):
    rc, text, said = play(site, "--check", "--diff", node="gpu17=10.0.0.17")
    assert rc == 0, text
    assert said["written"][0]["changed"] is True and (site / "hosts.yml").read_text() == SITE


def test_csv_with_a_password_that_nobody_ever_sees(site):
    csv = site.parent / "assets.csv"
    csv.write_text("name,address,bootstrap_password\ngpu17,10.0.0.17,hush-hush\ngpu18,10.0.0.300,hush-hush\n")
    rc, text, said = play(site, csv=str(csv))
    assert rc == 2 and said == {}
    assert f"{csv}: 1 of 2 nodes cannot be taken, and nothing was changed:" in text
    assert "line 3 (gpu18, 10.0.0.300): address: '10.0.0.300' is no IP address" in text
    assert "holds passwords and others can read it" in text
    assert (site / "hosts.yml").read_text() == SITE
    csv.chmod(0o600)
    rc, again, said = play(site, csv=str(csv), skip_bad_rows="true")
    assert rc == 0, again
    assert said["password"] is True and "others can read it" not in again and "left out: line 3" in again
    everything = text + again + json.dumps(said) + (site / "hosts.yml").read_text()
    everything += "".join(p.read_text() for p in (site.parent / "artifacts").rglob("*") if p.is_file())
    assert "hush-hush" not in everything


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"node": "a", "csv": "b"}, "not both"),
        ({"node": "gpu01=10.0.0.9"}, "the name gpu01 is taken: the inventory has it at 10.0.0.1"),
    ],
)
def test_bad_requests_are_one_error(site, variables, words):
    rc, text, _said = play(site, **variables)
    assert rc == 2 and words in " ".join(text.split())
    assert (site / "hosts.yml").read_text() == SITE
