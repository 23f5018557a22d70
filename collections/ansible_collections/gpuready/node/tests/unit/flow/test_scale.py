"""What one more node costs, in counts: seconds are measured by tests/bench/scale.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from observations import converged
from project import ROOT, Project

NODES = ["gpu01", "gpu02", "gpu03"]
#: A module on its way to a node, in Ansible's own trace: as a python's input, or as a file of its own.
MODULE = re.compile(r"<(?P<host>[^>]+)> EXEC .*(?:/python\S*\s+\S*AnsiballZ_|/python\S*\s*&& sleep 0)")

#: Imported as Ansible's main process does before it forks.
READ_AHEAD = """
from ansible.plugins.loader import action_loader, init_plugin_loader
init_plugin_loader([])
assert action_loader.get("gpuready.node.gpu_plan", class_only=True)
from ansible_collections.gpuready.node.plugins.module_utils import catalog, variables
print(catalog._load.cache_info().currsize, variables._load_specs.cache_info().currsize)
"""


@pytest.mark.parametrize(("playbook", "modules"), [("playbooks/provision.yml", 1), ("site.yml", 2)])
def test_converged_node_costs_few_module_executions(tmp_path: Path, playbook: str, modules: int) -> None:
    """The aim is at most three. Observing and planning is one, a workload's verification another one."""
    project = Project(tmp_path)
    project.inventory({name: {"ansible_host": name} for name in NODES})
    for name in NODES:
        project.observe(name, converged())
    run = project.play(playbook, "-vvv")
    assert run.rc == 0, run.text
    executed = [match["host"] for match in MODULE.finditer(run.text)]
    assert {name: executed.count(name) for name in NODES} == dict.fromkeys(NODES, modules)
    assert all(len(run.asked(name)) == 1 for name in NODES)


def test_what_every_node_needs_is_read_before_ansible_forks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ_AHEAD],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["1", "1"], done.stdout + done.stderr
