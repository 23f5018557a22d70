"""Environments as they are found on a node, and the interpreters that could make them."""

from __future__ import annotations

import json
import os
import pwd
from typing import Any

import pytest
from gpuready.observe import venvs

PATH = "/opt/gpuready/venvs/research"
BUILD = PATH + "@0123456789ab"
STAMP = {"name": "research", "workload": "pytorch-2.5-cu124", "hash": "0123456789abcdef", "packages": {}}


@pytest.fixture
def made(machine: Any) -> Any:
    machine.write(f"{BUILD}/gpuready.json", json.dumps(STAMP))
    machine.write(f"{BUILD}/pyvenv.cfg", "home = /usr/bin\nversion = 3.11.2\n")
    machine.program("/usr/bin/python3.11")
    machine.link(f"{BUILD}/bin/python", "/usr/bin/python3.11")
    site = f"{BUILD}/lib/python3.11/site-packages"
    for name in ("torch-2.5.1+cu124", "nvidia_cudnn_cu12-9.1.0.70", "Jinja2-3.1.4"):
        machine.mkdir(f"{site}/{name}.dist-info")
    machine.link(PATH, "research@0123456789ab")
    return machine


def test_finished_environment_is_described(made: Any) -> None:
    (row,) = venvs.venvs(made.node)
    assert (row["name"], row["path"], row["target"]) == ("research", PATH, BUILD)
    assert row["complete"] and not row["foreign"] and row["stamp"] == STAMP and row["python"] == "3.11.2"
    assert row["packages"] == {"jinja2": "3.1.4", "nvidia-cudnn-cu12": "9.1.0.70", "torch": "2.5.1+cu124"}
    assert row["former"] == [] and row["used_by"] == []


def test_node_without_environments_has_none(machine: Any) -> None:
    assert venvs.venvs(machine.node) == []


@pytest.mark.parametrize("gone", ["gpuready.json", "pyvenv.cfg", "bin/python"])
def test_environment_that_lacks_a_part_is_incomplete(made: Any, gone: str) -> None:
    (made.root / (BUILD + "/" + gone).lstrip("/")).unlink()
    assert venvs.venvs(made.node)[0]["complete"] is False


def test_interpreter_that_an_upgrade_took_away_is_seen(made: Any) -> None:
    (made.root / "usr/bin/python3.11").unlink()
    assert venvs.venvs(made.node)[0]["complete"] is False


def test_build_without_a_link_is_what_an_interruption_left(made: Any) -> None:
    (made.root / PATH.lstrip("/")).unlink()
    (row,) = venvs.venvs(made.node)
    assert (row["target"], row["foreign"], row["complete"]) == (None, False, False)
    assert row["former"] == [{"path": BUILD, "used_by": []}]


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_somebody_else_made_is_foreign(machine: Any, kind: str) -> None:
    if kind == "folder":
        machine.mkdir(PATH + "/bin")
    else:
        machine.mkdir("/home/bob/env")
        machine.link(PATH, "/home/bob/env")
    assert venvs.venvs(machine.node)[0]["foreign"] is True


def test_environments_elsewhere_are_found_by_the_record(machine: Any) -> None:
    machine.write("/var/lib/gpuready/framework_venv.json", json.dumps({"environments": ["/data/v/one"]}))
    assert [row["path"] for row in venvs.venvs(machine.node)] == ["/data/v/one"]
    machine.write("/var/lib/gpuready/framework_venv.json", "[]")
    node = machine.node
    assert venvs.venvs(node) == []
    assert node.problems[0]["probe"] == "framework.venvs"


def test_processes_are_told_by_what_they_loaded_and_how_they_were_started(made: Any) -> None:
    former = PATH + "@fedcba987654"
    made.mkdir(former)
    made.program("/usr/bin/bash")
    for pid, program, maps, cmdline in (
        (101, "/usr/bin/python3.11", f"7f00 r-xp {former}/lib/python3.11/x.so\n", "python\0train.py\0"),
        (102, "/usr/bin/python3.11", "", f"{PATH}/bin/python\0-m\0http.server\0"),
        (103, "/usr/bin/python3.11", "", "/usr/bin/python3\0x.py\0"),
        (104, "/usr/bin/bash", "", f"bash\0{BUILD}/run\0"),
    ):
        made.link(f"/proc/{pid}/exe", program)
        made.write(f"/proc/{pid}/maps", maps)
        made.write(f"/proc/{pid}/cmdline", cmdline)
        made.write(f"/proc/{pid}/environ", "")
        made.write(f"/proc/{pid}/comm", "python3\n")
    (row,) = venvs.venvs(made.node)
    assert row["used_by"] == [{"pid": 102, "name": "python3"}]
    assert row["former"] == [{"path": former, "used_by": [{"pid": 101, "name": "python3"}]}]


def test_interpreters_tell_their_version_and_whether_they_can_make_environments(machine: Any) -> None:
    machine.program("/usr/bin/python3.11")
    machine.link("/usr/bin/python3", "python3.11")
    machine.program("/usr/bin/python3-config")
    machine.write("/usr/lib/python3.11/venv/__init__.py")
    machine.program("/usr/local/bin/python3.12")
    machine.write("/usr/local/lib/python3.12/venv/__init__.py")
    machine.write("/usr/local/lib/python3.12/ensurepip/__init__.py")
    machine.program("/opt/python/bin/mypython")
    machine.answer("/opt/python/bin/mypython -I -c", "3.9\n")
    assert venvs.pythons(machine.node, ["/opt/python/bin/mypython", "/nowhere/python3"]) == [
        {"path": "/usr/local/bin/python3.12", "version": "3.12", "venv": True},
        {"path": "/usr/bin/python3", "version": "3.11", "venv": False},
        {"path": "/usr/bin/python3.11", "version": "3.11", "venv": False},
        {"path": "/opt/python/bin/mypython", "version": "3.9", "venv": False},
    ]


def test_interpreter_that_does_not_answer_has_no_version(machine: Any) -> None:
    machine.program("/opt/python/bin/broken")
    machine.answer("/opt/python/bin/broken", "", "cannot execute", 126)
    (row,) = venvs.pythons(machine.node, ["/opt/python/bin/broken"])
    assert row == {"path": "/opt/python/bin/broken", "version": None, "venv": None}


def test_owner_is_told_by_name(made: Any) -> None:
    assert venvs.venvs(made.node)[0]["owner"] == pwd.getpwuid(os.geteuid()).pw_name
