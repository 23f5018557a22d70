"""The module on the node, with a docker that does as told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

MODULE = Path(__file__).parents[3] / "plugins" / "modules" / "container_gpu_probe.py"
IMAGE = {"Id": "sha256:1", "RepoDigests": ["r/t@sha256:2"]}


def run_module(**changes):
    arguments = {
        "image": "t:1",
        "probe_text": "print('probe')",
        "level": "list",
        "launch_arguments": ["--gpus", "all"],
        "timeout_seconds": 10,
        **changes,
    }
    done = subprocess.run(
        [sys.executable, str(MODULE)],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(MODULE.parents[5])},
    )
    return json.loads(done.stdout)


def behave(state: Path, **behaviour):
    (state / "behaviour.json").write_text(json.dumps(behaviour))


def calls(state: Path):
    return [json.loads(line) for line in (state / "calls").read_text().splitlines()]


def test_container_gets_the_probe_and_its_answer_comes_back(fake_docker):
    behave(fake_docker, image=IMAGE, stdout="GPUREADY-PROBE {}\n", stderr="a warning\n")
    run = run_module()["run"]
    assert (fake_docker / "probe").read_text() == "print('probe')"
    assert run["stdout"] == "GPUREADY-PROBE {}\n"
    assert run["stderr"] == "a warning\n"
    assert (run["exit_code"], run["timed_out"], run["image_id"]) == (0, False, "sha256:1")
    command = calls(fake_docker)[-1]
    assert command[:3] == ["run", "--rm", "-i"]
    assert command[-7:] == ["--gpus", "all", "t:1", "python3", "-", "--level", "list"]
    assert command[command.index("--pull") + 1] == "never"


def test_missing_image_is_said_and_nothing_is_run(fake_docker):
    behave(fake_docker)
    run = run_module()["run"]
    assert run["missing"] is True
    assert "No such image: t:1" in run["error"]
    assert len(calls(fake_docker)) == 1


def test_docker_that_does_not_answer_is_not_a_missing_image(fake_docker):
    behave(fake_docker, inspect_error="Cannot connect to the Docker daemon at unix:///var/run/docker.sock.")
    run = run_module()["run"]
    assert run["missing"] is False
    assert "Cannot connect" in run["error"]


def test_dockers_own_words_are_kept(fake_docker):
    behave(
        fake_docker,
        image=IMAGE,
        rc=125,
        stderr='could not select device driver "" with capabilities: [[gpu]].',
    )
    run = run_module()["run"]
    assert run["exit_code"] == 125
    assert "could not select device driver" in run["stderr"]


def test_timeout_ends_the_container_by_its_own_name(fake_docker):
    behave(fake_docker, image=IMAGE, seconds=30, stderr="hanging\n")
    started = time.monotonic()
    run = run_module(timeout_seconds=1)["run"]
    assert time.monotonic() - started < 20
    assert run["timed_out"] is True
    assert run["exit_code"] is None
    assert run["stderr"] == "hanging\n"
    made = calls(fake_docker)
    name = made[1][made[1].index("--name") + 1]
    assert ["kill", name] in made
    assert ["rm", "--force", name] in made


def test_output_gone_wild_is_cut(fake_docker):
    behave(fake_docker, image=IMAGE, stderr="x" * 500_000)
    assert len(run_module()["run"]["stderr"]) == 200_000


def test_no_docker_is_said(tmp_path, monkeypatch):
    # The module also looks in the usual sbin folders; docker may be in /usr/local/bin of this machine.
    monkeypatch.setenv("PATH", str(tmp_path))
    run = run_module()["run"]
    assert run["error"] == "there is no docker command on the node"


@pytest.mark.parametrize("level", ["list", "compute"])
def test_level_is_handed_to_the_probe(fake_docker, level):
    behave(fake_docker, image=IMAGE)
    assert run_module(level=level)["run"]["command"][-1] == level


def test_more_words_for_the_probe_come_last(fake_docker):
    behave(fake_docker, image=IMAGE)
    words = ["--seconds", "600", "--memory-mib", "81920"]
    command = run_module(level="stress", probe_arguments=words)["run"]["command"]
    assert command[-6:] == ["--level", "stress", *words]
