"""gpuready's own units: files, states, and no daemon-reload without need."""

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
from ansible_collections.gpuready.node.plugins.modules import owned_units  # noqa: E402

SYSTEMCTL = '''#!/usr/bin/env python3
"""systemctl, as far as the module knows it: units are the files of a folder, their state is a JSON file."""
import json, os, sys
units, path = os.environ["FAKE_UNITS"], os.environ["FAKE_SYSTEMD"]
state = json.load(open(path))
arguments = [word for word in sys.argv[1:] if not word.startswith("-")]
verb, names = arguments[0], arguments[1:]
state["calls"].append(sys.argv[1:])
def text(name):
    file = os.path.join(units, name)
    return open(file).read() if os.path.exists(file) else None
def load(name):
    if name not in state["loaded"] and text(name) is not None:
        state["loaded"][name] = text(name)
result = 0
if verb == "show":
    for name in names:
        load(name)
        known = name in state["loaded"]
        stale = known and state["loaded"][name] != text(name)
        print("Id=%s\\nLoadState=%s\\nActiveState=%s\\nUnitFileState=%s\\nNeedDaemonReload=%s\\n" % (
            name, "loaded" if known else "not-found",
            "active" if name in state["active"] else "inactive",
            "" if text(name) is None else "enabled" if name in state["enabled"] else "disabled",
            "yes" if stale else "no"))
elif verb == "daemon-reload":
    state["loaded"] = {name: text(name) for name in state["loaded"] if text(name) is not None}
elif verb in ("start", "restart"):
    for name in names:
        load(name)
        if "BROKEN" in (state["loaded"].get(name) or "BROKEN"):
            print("Job for %s failed." % name, file=sys.stderr)
            result = 1
        elif name not in state["active"]:
            state["active"].append(name)
elif verb == "stop":
    state["active"] = [name for name in state["active"] if name not in names]
elif verb == "enable":
    state["enabled"] += names
elif verb == "disable":
    state["enabled"] = [name for name in state["enabled"] if name not in names]
json.dump(state, open(path, "w"))
sys.exit(result)
'''
JOURNALCTL = "#!/bin/sh\necho 'the unit said why'\n"
TIMER = "gpuready-x.timer"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A folder of units and a systemd that knows it; returns a reader of its state."""
    commands, units = tmp_path / "bin", tmp_path / "units"
    commands.mkdir()
    units.mkdir()
    for name, text in (("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    state = tmp_path / "systemd.json"
    state.write_text(json.dumps({"loaded": {}, "active": [], "enabled": [], "calls": []}))
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_UNITS", str(units))
    monkeypatch.setenv("FAKE_SYSTEMD", str(state))
    monkeypatch.setattr(owned_units, "UNITS", f"{units}/")
    return lambda: json.loads(state.read_text())


@pytest.fixture
def call(systemd: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(**arguments: Any) -> dict[str, Any]:
        check = arguments.pop("check", False)
        capsys.readouterr()
        arguments.update(_ansible_check_mode=check)
        with patch_module_args(arguments), pytest.raises(SystemExit):
            owned_units.main()
        return json.loads(capsys.readouterr().out)

    return run


def unit(content: str = "[Timer]\n", name: str = TIMER) -> dict[str, Any]:
    return {"path": owned_units.UNITS + name, "content": content}


def verbs(state: dict[str, Any]) -> list[str]:
    return [next(word for word in call if not word.startswith("-")) for call in state["calls"]]


def test_new_unit_is_enabled_and_started_without_a_reload(systemd: Any, call: Any) -> None:
    result = call(files=[unit()], units=[TIMER])
    assert (result["changed"], result["reloaded"], result["started"]) == (True, False, [TIMER])
    assert (systemd()["active"], systemd()["enabled"]) == ([TIMER], [TIMER])
    assert ["--no-reload", "enable", TIMER] in systemd()["calls"]
    assert "daemon-reload" not in verbs(systemd())


def test_the_same_again_changes_nothing(systemd: Any, call: Any) -> None:
    call(files=[unit()], units=[TIMER])
    before = len(systemd()["calls"])
    assert call(files=[unit()], units=[TIMER])["changed"] is False
    assert set(verbs(systemd())[before:]) == {"show"}


def test_changed_unit_is_read_again_and_restarted(systemd: Any, call: Any) -> None:
    call(files=[unit()], units=[TIMER])
    result = call(files=[unit("[Timer]\nAccuracySec=1s\n")], units=[TIMER])
    assert (result["reloaded"], result["started"]) == (True, [TIMER])
    assert verbs(systemd())[-1] == "restart"


def test_a_drop_in_belongs_to_its_unit(systemd: Any, call: Any) -> None:
    call(files=[unit()], units=[TIMER])
    drop_in = unit("[Timer]\nAccuracySec=1s\n", f"{TIMER}.d/gpuready.conf")
    assert call(files=[unit(), drop_in], units=[TIMER])["started"] == [TIMER]
    assert call(files=[unit(), drop_in], units=[TIMER])["changed"] is False


def test_other_files_restart_nothing(systemd: Any, call: Any, tmp_path: Path) -> None:
    call(files=[unit()], units=[TIMER])
    result = call(files=[unit(), {"path": str(tmp_path / "a/b.json"), "content": "{}"}], units=[TIMER])
    assert (result["changed"], result["started"], result["reloaded"]) == (True, [], False)
    assert (tmp_path / "a/b.json").read_text() == "{}"


def test_what_runs_an_old_program_is_restarted(systemd: Any, call: Any) -> None:
    call(files=[unit()], units=[TIMER])
    assert call(files=[unit()], units=[TIMER], restarted=[TIMER])["started"] == [TIMER]


@pytest.mark.parametrize("key", ["active", "enabled"])
def test_a_unit_that_somebody_stopped_or_disabled_comes_back(
    systemd: Any, call: Any, key: str, tmp_path: Path
) -> None:
    call(files=[unit()], units=[TIMER])
    state = systemd()
    state[key] = []
    (tmp_path / "systemd.json").write_text(json.dumps(state))
    assert call(files=[unit()], units=[TIMER])["started"] == [TIMER]
    assert systemd()[key] == [TIMER]


def test_taking_away_stops_disables_and_forgets(systemd: Any, call: Any) -> None:
    call(files=[unit()], units=[TIMER])
    arguments = {"stopped": [TIMER, "gpuready-never.timer"], "absent": [owned_units.UNITS + TIMER]}
    result = call(**arguments)
    assert (result["stopped"], result["reloaded"]) == ([TIMER], True)
    state = systemd()
    assert (state["active"], state["enabled"], state["loaded"]) == ([], [], {})
    assert not Path(owned_units.UNITS + TIMER).exists()
    assert call(**arguments)["changed"] is False


def test_check_mode_says_and_does_nothing(systemd: Any, call: Any) -> None:
    result = call(files=[unit()], units=[TIMER], check=True)
    assert result["changed"] is True
    assert (result["written"], result["started"]) == ([owned_units.UNITS + TIMER], [TIMER])
    assert not Path(owned_units.UNITS + TIMER).exists()
    assert set(verbs(systemd())) == {"show"}
    assert result["diff"][0]["after"] == "[Timer]\n"


def test_a_unit_that_does_not_start_says_why(call: Any) -> None:
    result = call(files=[unit("BROKEN\n")], units=[TIMER])
    assert result["failed"] is True
    assert f"systemctl start {TIMER} failed" in result["msg"]
    assert "the unit said why" in result["msg"]


def test_a_link_in_a_files_place_is_replaced_and_not_followed(call: Any, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_text("theirs")
    Path(owned_units.UNITS + TIMER).symlink_to(foreign)
    assert call(files=[unit()])["changed"] is True
    assert foreign.read_text() == "theirs"
    assert not Path(owned_units.UNITS + TIMER).is_symlink()


def test_mode_is_brought_back(call: Any) -> None:
    call(files=[unit()])
    path = Path(owned_units.UNITS + TIMER)
    path.chmod(0o666)
    assert call(files=[unit()])["changed"] is True
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"files": [{"path": "/x", "content": "", "mode": "rw"}]}, "octal digits"),
        ({"files": [{"path": "/x", "content": "", "owner": "nobody-here"}]}, "no such account"),
        ({"restarted": [TIMER]}, "is not in units"),
    ],
)
def test_bad_arguments_are_one_clear_error(systemd: Any, call: Any, arguments: Any, words: str) -> None:
    result = call(**arguments)
    assert result["failed"] is True
    assert words in result["msg"]
    assert systemd()["calls"] == []
