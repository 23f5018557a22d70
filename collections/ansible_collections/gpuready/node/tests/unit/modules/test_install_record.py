"""What gpuready remembers of its own doing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = str(Path(__file__).resolve().parents[6])
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.gpuready.node.plugins.modules import install_record  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "gpuready"


@pytest.fixture
def call(folder, capsys):
    def run(**arguments: Any) -> dict[str, Any]:
        arguments = {
            "name": "docker_engine",
            "folder": str(folder),
            "_ansible_check_mode": arguments.pop("check", False),
            **arguments,
        }
        capsys.readouterr()
        with patch_module_args(arguments), pytest.raises(SystemExit):
            install_record.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_what_is_added_is_merged_and_said(folder, call):
    assert call(add={"packages": ["a"], "daemon_config": {"debug": True}})["changed"]
    result = call(add={"packages": ["b", "a"], "daemon_config": {"debug": False, "mtu": 1400}})
    assert result["record"] == {"packages": ["a", "b"], "daemon_config": {"debug": True, "mtu": 1400}}
    assert json.loads((folder / "docker_engine.json").read_text()) == result["record"]


def test_the_same_again_changes_nothing(call):
    call(add={"packages": ["a"]})
    assert not call(add={"packages": ["a"]})["changed"]
    assert not call()["changed"]


def test_reading_a_record_that_is_not_there_makes_none(folder, call):
    assert call()["record"] == {}
    assert not folder.exists()


def test_check_mode_writes_nothing(folder, call):
    assert call(add={"packages": ["a"]}, check=True)["changed"]
    assert not folder.exists()


def test_forgetting_removes_the_file_and_the_empty_folder(folder, call):
    call(add={"packages": ["a"]})
    call(name="nvidia_driver", add={"packages": ["b"]})
    assert call(state="absent")["changed"]
    assert not call(state="absent")["changed"]
    assert folder.exists()
    call(name="nvidia_driver", state="absent")
    assert not folder.exists()


def test_a_record_that_was_spoilt_is_started_anew(folder, call):
    folder.mkdir()
    (folder / "docker_engine.json").write_text("not json")
    assert call()["record"] == {}
    assert call(add={"packages": ["a"]})["record"] == {"packages": ["a"]}


def test_a_name_that_is_no_role_is_refused(call):
    assert "role's name" in call(name="../etc/passwd")["msg"]
