"""Taking nodes out of service without nodes: what is done in which order, what is refused, and what is left.

See project.py and test_upgrade_flow.py for what is not real; the roles that take gpuready off only say so.
"""

from __future__ import annotations

import json
from pathlib import Path

import observations
import pytest
from test_upgrade_flow import HOSTS, Fleet

#: In the order of playbooks/tasks/take_off.yml; the user's own access goes last.
TAKEN_OFF = [
    "gpu_health.remove",
    "gpu_workbench.remove",
    "framework_venv.remove",
    "framework_image.remove_derived",
    "nvidia_container_toolkit.remove",
    "nvidia_driver.remove",
    "docker_engine.remove",
    "host_prepare.remove",
    "host_reboot.remove",
    "node_access.remove",
]
STEP = """
- name: Do {step}
  ansible.builtin.lineinfile:
    path: "{{{{ lookup('ansible.builtin.env', 'FLOW_STATE') }}}}/{{{{ inventory_hostname }}}}/steps"
    line: "{step}"
    insertafter: EOF
    create: true
    mode: "0644"
"""


class Leaving(Fleet):
    """The fleet, and a way out of it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        for step in TAKEN_OFF:
            role, _dot, entry = step.partition(".")
            tasks = root / "roles" / role / "tasks"
            tasks.mkdir(parents=True, exist_ok=True)
            (tasks / f"{entry}.yml").write_text(STEP.format(step=step))
        for host in HOSTS:
            self.observe(host, observations.converged())

    def offboard(self, *arguments: str):
        return self.play("playbooks/offboard.yml", *arguments)

    @property
    def hosts_in_service(self) -> list[str]:
        return list(json.loads((self.root / "hosts.json").read_text())["gpu_nodes"]["hosts"])


@pytest.fixture
def fleet(tmp_path: Path) -> Leaving:
    return Leaving(tmp_path)


def busy() -> dict:
    seen = observations.converged()
    seen["container_runtime"]["gpu_containers"] = [
        {"id": "abc", "name": "train", "image": "tf", "labels": {}}
    ]
    return seen


def test_node_is_drained_given_back_and_out_and_one_that_is_used_stays_in_service(fleet):
    fleet.observe("n2", busy())
    run = fleet.offboard("-e", "node=n[1:2]")
    assert run.rc == 2, run.text
    assert run.steps("n1") == TAKEN_OFF
    assert run.steps("n2") == [] and run.steps("n3") == []
    assert sorted(fleet.told_slurm()) == ["DRAIN n1", "DRAIN n2", "RESUME n2"]
    assert fleet.drained() == ["n1"] and fleet.record("n1") is None and fleet.record("n2") is None
    assert fleet.hosts_in_service == ["n2", "n3", "n4"]
    said = " ".join(run.text.split())
    assert "n1 is out of" in said
    assert "n2 stays in service and in the inventory. These containers use a GPU on n2: train." in said
    # It had been taken apart already, and is asked for again.
    again = fleet.offboard("-e", "node=n1")
    assert again.rc == 2 and "n1: the inventory has no such node" in " ".join(again.text.split())


def test_check_mode_changes_nothing(fleet):
    before = (fleet.root / "hosts.json").read_bytes()
    run = fleet.offboard("-e", "node=n1", "--check", "--diff")
    assert run.rc == 0, run.text
    assert fleet.told_slurm() == [] and fleet.drained() == [] and run.steps("n1") == []
    assert (fleet.root / "hosts.json").read_bytes() == before
    assert "Do node_access.remove" in run.text


def test_dead_node_leaves_the_inventory_only(fleet):
    run = fleet.offboard("-e", "node=n1", "-e", "reachable=false")
    assert run.rc == 0, run.text
    assert run.asked("n1") == [] and run.steps("n1") == [] and fleet.told_slurm() == []
    assert fleet.hosts_in_service == ["n2", "n3", "n4"]
    assert "the node itself was not asked" in " ".join(run.text.split())


def test_node_of_another_source_is_refused_before_anything(fleet):
    (fleet.root / "more.json").write_text(json.dumps({"gpu_nodes": {"hosts": {"n9": fleet.hosts["n1"]}}}))
    run = fleet.offboard("-i", "more.json", "-e", "inventory_file=hosts.json", "-e", "node=n9,n1")
    assert run.rc == 2
    assert "n9: not in hosts.json, but in another source" in " ".join(run.text.split())
    assert fleet.told_slurm() == [] and fleet.hosts_in_service == HOSTS
