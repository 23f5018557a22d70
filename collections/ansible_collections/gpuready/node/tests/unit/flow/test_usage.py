"""playbooks/usage.yml and watch.yml with the real plugins, on this machine's processes. See project.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import observations
import pytest
from project import Project

#: It gives way to everything else, and yet wants the CPU all the time.
BUSY = "import os; os.nice(19); print(flush=True)\nwhile True: sum(range(10000))"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.inventory({"n1": {}}, gpuready_simulated=True)
    made.observe("n1", observations.converged())
    return made


@pytest.fixture
def job() -> Iterator[subprocess.Popen[bytes]]:
    """A program that computes on the CPU, because somebody has hidden the GPU from it."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "SITE_TOKEN": "hush-hush-hush"}
    process = subprocess.Popen([sys.executable, "-c", BUSY], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


def ask(project: Project, *words: str):
    given = [word for pair in (("usage_window_seconds=1", *words)) for word in ("-e", pair)]
    return project.play("playbooks/usage.yml", *given)


def test_job_on_the_cpu_fails_with_verdict_and_reason(project, job):
    run = ask(project, f"pid={job.pid}")
    assert run.rc == 2, run.text
    assert f"n1 (simulated): process {job.pid} (python" in run.text
    assert "computes on the CPU" in run.text
    assert "CUDA_VISIBLE_DEVICES hides every GPU from the program" in run.text
    assert "hush-hush-hush" not in run.text
    assert len(run.asked("n1")) == 1, "the node is observed once, for the reason"


def test_without_the_reason_nothing_is_observed(project, job):
    run = ask(project, f"pid={job.pid}", "usage_diagnose=false")
    assert run.rc == 2 and "computes on the CPU" in run.text
    assert run.asked("n1") == []


def test_process_that_is_none_does_not_run(project):
    run = ask(project, f"pid={2**22 + 7}")
    assert run.rc == 2 and "does not run" in run.text and "there is no such process" in run.text


BAD = {
    "neither": (
        {},
        "say which job is meant: -e container=NAME (or its id), or -e pid=NUMBER with --limit NODE",
    ),
    "both": ({"pid": 1, "container": "a"}, "not both"),
    "nobody": ({"container": "nobody"}, "container: there is no container 'nobody'; docker ps --all lists:"),
    "word": ({"pid": "many"}, "pid"),
    "zero": ({"pid": 0}, "pid is 0; give the number of a process"),
    "window": (
        {"pid": 1, "usage_window_seconds": -3},
        "window_seconds is -3; give a number of seconds from 0",
    ),
    "interval": ({"pid": 1, "usage_interval_seconds": 0.01}, "interval_seconds is 0.01"),
}


def test_bad_question_is_one_error_each(project):
    project.inventory({name: variables for name, (variables, _said) in BAD.items()}, gpuready_simulated=True)
    run = project.play("playbooks/usage.yml")
    assert run.rc == 2 and "Traceback" not in run.text, run.text
    assert run.text.count("[ERROR]") == len(BAD)
    text = " ".join(run.text.split()).replace("''", "'")
    for name, (_variables, said) in BAD.items():
        assert f"fatal: [{name}]: FAILED!" in text
        assert said in text, name


def test_check_mode_answers_the_same(project, job):
    given = ["-e", f"pid={job.pid}", "-e", "usage_window_seconds=1", "--check"]
    run = project.play("playbooks/usage.yml", *given)
    assert run.rc == 2 and "computes on the CPU" in run.text


def test_table_has_every_node_once(project):
    project.inventory({"n1": {}, "n2": {}}, gpuready_simulated=True)
    run = project.play("playbooks/watch.yml", "-e", "watch_window_seconds=0")
    assert run.rc == 0, run.text
    assert "n1 (simulated)" in run.text and "n2 (simulated)" in run.text and "2 nodes" in run.text
    assert "changed=0" in run.text
