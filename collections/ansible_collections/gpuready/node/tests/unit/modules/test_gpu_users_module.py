"""Waiting for whoever works on the GPUs, and stopping containers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = str(Path(__file__).resolve().parents[6])
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.gpuready.node.plugins.module_utils import gpu_users as users  # noqa: E402
from ansible_collections.gpuready.node.plugins.module_utils.observe.node import Node  # noqa: E402
from ansible_collections.gpuready.node.plugins.modules import gpu_users  # noqa: E402

JOB = {"id": "a" * 64, "name": "training", "image": "tf:2.9", "labels": {}}
PROBE = {"id": "c" * 64, "name": "gpuready-probe-1", "image": "tf:2.9", "labels": {}}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the next looks find, one after the other; the last one stands."""
    looks: list[Any] = []
    monkeypatch.setattr(users, "look", lambda _node: (looks.pop(0) if len(looks) > 1 else looks[0], []))
    return looks


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def run(**arguments: Any) -> dict[str, Any]:
        arguments = {
            "interval_seconds": 0.2,
            "_ansible_check_mode": arguments.pop("check", False),
            **arguments,
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            gpu_users.main()
        answer = json.loads(capsys.readouterr().out)
        calls = tmp_path / "calls"
        answer["calls"] = calls.read_text().splitlines() if calls.exists() else []
        return answer

    return run


def test_look_names_them_and_does_not_wait(seen: list[Any], call) -> None:
    seen[:] = [[JOB]]
    done = call()
    assert [user["text"] for user in done["users"]] == ["container training (tf:2.9)"]
    assert not done["changed"] and done["waited_seconds"] < 0.2


def test_waiting_ends_when_they_are_gone(seen: list[Any], call) -> None:
    seen[:] = [[JOB], [JOB], []]
    done = call(wait_seconds=30)
    assert done["users"] == [] and 0.3 < done["waited_seconds"] < 5


def test_waiting_ends_when_the_time_is_over(seen: list[Any], call) -> None:
    seen[:] = [[JOB]]
    assert call(wait_seconds=1)["users"]


def test_gpureadys_own_verification_is_waited_for_in_any_case(seen: list[Any], call) -> None:
    seen[:] = [[PROBE], [PROBE], []]
    assert call()["users"] == []


def test_containers_are_stopped_and_named(seen: list[Any], call) -> None:
    seen[:] = [[JOB], []]
    done = call(stop_containers=True, stop_grace_seconds=7, _ansible_diff=True)
    assert (
        done["changed"] and done["stopped"] == [{"id": JOB["id"], "name": "training"}] and done["users"] == []
    )
    assert done["calls"] == [f"stop --time 7 {JOB['id']}"]
    assert done["diff"] == {"before": "container training (tf:2.9)\n", "after": ""}


def test_check_mode_stops_nothing_and_says_what_it_would(seen: list[Any], call) -> None:
    seen[:] = [[JOB]]
    done = call(stop_containers=True, wait_seconds=60, check=True)
    assert done["changed"] and done["stopped"] and done["users"] and done["calls"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"wait_seconds": -1}, "wait_seconds is -1"),
        ({"stop_grace_seconds": -1}, "stop_grace_seconds is -1"),
        ({"interval_seconds": 0}, "interval_seconds is 0"),
    ],
)
def test_bad_input_is_one_clear_error(seen: list[Any], call, arguments: dict[str, Any], says: str) -> None:
    seen[:] = [[]]
    done = call(**arguments)
    assert done["failed"] and says in done["msg"]


def machine(root: Path, **processes: str) -> Node:
    """A recorded machine without Docker; each process' cgroup, by its name."""
    (root / "proc/1").mkdir(parents=True)
    (root / "proc/1/cgroup").write_text("0::/init.scope\n")
    for pid, (name, cgroup) in enumerate(processes.items(), start=811):
        folder = root / "proc" / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "fd/3").symlink_to("/dev/nvidia0")
        (folder / "comm").write_text(f"{name}\n")
        (folder / "cgroup").write_text(f"0::{cgroup}\n")
    return Node(root=str(root), uid=0)


def test_processes_are_read_with_their_owners(tmp_path: Path) -> None:
    node = machine(
        tmp_path,
        job="/user.slice/session.scope",
        python3="/system.slice/gpuready-health-verify.service",
        nvidia="/system.slice/nvidia-persistenced.service",
    )
    found, passing = users.users(*users.look(node))
    assert [user["name"] for user in found] == ["job"]
    assert [user["name"] for user in passing] == ["python3"]
    assert found[0]["user"] is not None


def test_who_is_not_root_cannot_tell(tmp_path: Path) -> None:
    node = Node(root=str(machine(tmp_path).root), uid=1000)
    with pytest.raises(users.UsersError, match="only root sees"):
        users.look(node)
