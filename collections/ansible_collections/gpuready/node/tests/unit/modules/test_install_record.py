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
from ansible_collections.gpuready.node.plugins.module_utils import driver_record  # noqa: E402
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


# The driver's record has a schema: docs/contracts.md, section 7.

BEFORE = {
    "version": "535.247.01",
    "branch": "535",
    "flavour": "open",
    "source": "ubuntu",
    "packages": [{"name": "nvidia-utils-535-server", "version": "535.247.01-0ubuntu0.22.04.1"}],
}
NEW = {"version": "580.95.05", "package_version": "580.95.05-0ubuntu0.22.04.2", "at": "2026-11-23T05:34:00Z"}


def driver(call, **arguments: Any) -> dict[str, Any]:
    return call(name="nvidia_driver", **arguments)


def test_the_driver_s_record_has_every_key_even_before_it_is_written(folder, call):
    result = driver(call)
    assert result["record"] == driver_record.empty()
    assert not result["exists"] and not folder.exists()


def test_an_older_driver_record_is_completed_and_not_rewritten(folder, call):
    folder.mkdir()
    path = folder / "nvidia_driver.json"
    path.write_text(json.dumps({"packages": ["nvidia-utils-580-server"], "requested": [], "held": []}))
    before = path.read_text()
    result = driver(call)
    assert result["exists"] and not result["changed"] and path.read_text() == before
    assert result["record"]["packages"] == ["nvidia-utils-580-server"]
    assert result["record"]["rejected"] == [] and result["record"]["previous"] is None


def test_the_original_driver_is_said_once(call):
    driver(call, add={"files": ["/etc/apt/sources.list.d/cuda.sources"]})
    assert driver(call, add={"original": BEFORE})["record"]["original"] == BEFORE
    later = {**BEFORE, "version": "580.95.05", "branch": "580"}
    result = driver(call, add={"original": later}, set={"previous": later})
    assert result["record"]["original"] == BEFORE and result["record"]["previous"] == later


def test_that_there_was_no_driver_is_remembered_too(call):
    driver(call, add={"original": None})
    assert driver(call, add={"original": BEFORE})["record"]["original"] is None


def test_verification_clears_what_was_unverified(call):
    assert driver(call, set={"previous": BEFORE, "unverified": NEW})["record"]["unverified"] == NEW
    result = driver(call, set={"unverified": None})
    assert result["changed"] and result["record"]["unverified"] is None
    assert not driver(call, set={"unverified": None})["changed"]


def test_a_rejected_version_is_kept_beside_the_others(call):
    driver(call, add={"rejected": [{**NEW, "why": "no GPU listed"}]})
    again = driver(
        call, add={"rejected": [{**NEW, "why": "no GPU listed"}, {**NEW, "version": "590.48.01", "why": "x"}]}
    )
    assert [row["version"] for row in again["record"]["rejected"]] == ["580.95.05", "590.48.01"]


def test_what_is_taken_out_is_forgotten_and_the_rest_stays(call):
    driver(call, add={"held": ["a", "b"], "packages": ["a"]})
    result = driver(call, take_out={"held": ["a", "z"], "files": ["x"]}, add={"held": ["c"]})
    assert result["record"]["held"] == ["b", "c"] and result["record"]["packages"] == ["a"]
    assert not driver(call, take_out={"held": ["a"]})["changed"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"add": {"packages": "nvidia-utils"}}, "packages is 'nvidia-utils', not a list"),
        ({"add": {"held": [1]}}, "held holds 1, not a text"),
        ({"set": {"previous": {"version": 580}}}, "previous.version is 580, not a text"),
        ({"set": {"previous": {**BEFORE, "flavour": "closed"}}}, "previous.flavour is 'closed', not one of"),
        ({"set": {"previous": {**BEFORE, "packages": ["x"]}}}, "previous.packages holds 'x'"),
        ({"set": {"original": "535"}}, "original is '535', not a mapping"),
        ({"set": {"unverified": {"at": "now"}}}, "unverified.version is None, not a text"),
        ({"add": {"rejected": [{**NEW, "why": 1}]}}, "rejected[0].why is 1"),
        ({"set": {"rejected": None}}, "rejected is None, not a list"),
        ({"take_out": {"held": "a"}}, "take_out.held is 'a'"),
        ({"add": {"previous": BEFORE}, "take_out": {"previous": ["a"]}}, "no list of that name"),
    ],
)
def test_what_is_no_record_is_refused_and_nothing_is_written(folder, call, arguments, words):
    driver(call, set={"previous": BEFORE, "held": ["x"]})
    before = (folder / "nvidia_driver.json").read_text()
    result = driver(call, **arguments)
    assert result["failed"] and words in result["msg"]
    assert (folder / "nvidia_driver.json").read_text() == before


def test_a_spoilt_part_of_the_driver_s_record_costs_that_part_only(folder, call, monkeypatch):
    # Where Ansible's controller is loaded too, a warning goes to its display and not into the result.
    said: list[str] = []
    monkeypatch.setattr(install_record.AnsibleModule, "warn", lambda _module, text: said.append(text))
    folder.mkdir()
    (folder / "nvidia_driver.json").write_text(json.dumps({"held": ["a"], "previous": 5, "rejected": {}}))
    result = driver(call)
    assert result["record"]["held"] == ["a"] and result["record"]["previous"] is None
    assert "previous is 5" in said[0] and "rejected is {}" in said[0]
    driver(call, add={"held": ["b"]})
    assert json.loads((folder / "nvidia_driver.json").read_text()) == {"held": ["a", "b"]}


def test_check_mode_and_diff_tell_what_would_be_written(folder, call):
    driver(call, add={"held": ["a"]})
    before = (folder / "nvidia_driver.json").read_text()
    result = driver(call, add={"held": ["b"]}, check=True)
    assert result["changed"] and result["exists"] and result["record"]["held"] == ["a", "b"]
    assert (folder / "nvidia_driver.json").read_text() == result["diff"]["before"] == before
    assert json.loads(result["diff"]["after"]) == {"held": ["a", "b"]}


def test_no_half_written_file_is_left(folder, call, monkeypatch):
    driver(call, add={"held": ["a"]})
    before = (folder / "nvidia_driver.json").read_text()

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "No space left" in driver(call, add={"held": ["b"]})["msg"]
    assert [path.name for path in folder.iterdir()] == ["nvidia_driver.json"]
    assert (folder / "nvidia_driver.json").read_text() == before
