"""Runs are recorded by the real ARA when one variable asks for it, and not otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import observations
import pytest
from project import Project

BIN = Path(sys.executable).parent


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path)
    made.inventory({"n1": {}, "n2": {}}, gpuready_simulated=True)
    for name in ("n1", "n2"):
        made.observe(name, observations.converged())
    return made


def environment(project):
    return {
        "ARA_BASE_DIR": str(project.root / "ara"),
        "ARA_SETTINGS": str(project.root / "ara" / "settings.yaml"),
        "ARA_SECRET_KEY": "of a test",
        "ARA_TIME_ZONE": "UTC",
    }


def recorded(project, *words):
    """What ARA's own command says."""
    done = subprocess.run(
        [BIN / "ara", *words, "-f", "json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment(project)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # It may speak of its settings first.
    return json.loads(done.stdout[done.stdout.index("[\n") :])


def test_run_is_recorded_when_one_variable_asks_for_it(project):
    (project.state / "n2" / "broken").touch()
    run = project.play("playbooks/verify.yml", GPUREADY_ARA="true", **environment(project))
    assert run.rc == 2 and "callback" not in run.text.lower(), run.text
    (playbook,) = recorded(project, "playbook", "list")
    assert playbook["status"] == "failed" and playbook["path"].endswith("playbooks/verify.yml")
    hosts = {row["name"]: row for row in recorded(project, "host", "list")}
    assert (hosts["n1"]["failed"], hosts["n2"]["failed"]) == (0, 1)
    assert int(hosts["n1"]["ok"]) > 0
    # The report is as ever.
    assert run.fleet["totals"] == {"verified": 1, "failed": 1}


def test_configuration_of_the_site_may_ask_for_it(project):
    with (project.root / "ansible.cfg").open("a") as stream:
        stream.write("\n[gpuready]\nara = true\n")
    run = project.play("playbooks/plan.yml", **environment(project))
    assert run.rc == 0, run.text
    assert len(recorded(project, "playbook", "list")) == 1


def test_nothing_is_recorded_unasked(project):
    run = project.play("playbooks/plan.yml", **environment(project))
    assert run.rc == 0, run.text
    assert not (project.root / "ara").exists()


def test_run_goes_on_where_ara_is_not_installed(project):
    hidden = project.root / "hidden" / "ara"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('No module named ara')\n")
    run = project.play("playbooks/plan.yml", GPUREADY_ARA="true", PYTHONPATH=str(hidden.parent))
    assert run.rc == 0, run.text
    assert "this run is not recorded" in run.text and "install ara[server]" in " ".join(run.text.split())
    assert run.fleet["totals"] == {"planned": 2}
