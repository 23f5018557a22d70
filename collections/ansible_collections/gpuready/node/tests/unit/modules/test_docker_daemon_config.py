"""The module that changes daemon.json, against a dockerd and a systemd of our own in a temporary folder.

The stand-ins are programs on PATH (systemctl, dockerd, journalctl) and a server at the socket. Their dockerd
takes reloadable keys over at a reload, everything at a restart, and dies of the key `explode`.
"""

from __future__ import annotations

import json
import os
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = str(Path(__file__).resolve().parents[6])
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.gpuready.node.plugins.modules import docker_daemon_config  # noqa: E402

NVIDIA = {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}

SYSTEMCTL = """\
#!{python}
import json, sys, time
from pathlib import Path
state_file = Path({state!r}); state = json.loads(state_file.read_text())
verb, unit = sys.argv[1], sys.argv[-1]
def content():
    path = Path(state["daemon_json"])
    return json.loads(path.read_text() or "{{}}") if path.exists() else {{}}
code = 0
if verb == "show":
    active = state["active"]
    print("LoadState=loaded\\nActiveState=" + active + "\\nUnitFileState=" + state["enabled"])
    print("ExecMainStartTimestampMonotonic=%d" % (state["started"] * 1e6))
else:
    state["calls"].append(verb)
    if verb == "restart":
        wanted = content()
        state["journal"].append("level=info msg=starting")
        if "explode" in wanted or state["broken"]:
            state["active"] = "failed"
            state["journal"].append("unable to configure the Docker daemon with file daemon.json: explode")
            code = 1
        else:
            state.update(active="active", live=wanted, started=time.monotonic())
    elif verb == "reload":
        wanted = content()
        for key in ("runtimes", "default-runtime", "insecure-registries", "debug"):
            if key in wanted and not state["deaf"]:
                state["live"][key] = wanted[key]
    state_file.write_text(json.dumps(state))
sys.exit(code)
"""

DOCKERD = """\
#!{python}
import json, sys
from pathlib import Path
state = json.loads(Path({state!r}).read_text())
if "--help" in sys.argv:
    print("Options:" + (" --validate" if state["validates"] == "--validate" else ""))
else:
    path = sys.argv[sys.argv.index("--config-file") + 1]
    if not state["validates"]:
        sys.exit("something else entirely")
    if "nonsense" in json.loads(Path(path).read_text()):
        sys.exit("unable to configure the Docker daemon with file " + path + ": unknown directive nonsense")
    if state["validates"] == "as nobody":
        sys.exit("dockerd needs to be started with root. To see how to run dockerd in rootless mode, see …")
    print("configuration OK")
"""

SETPRIV = """\
#!{python}
import os, sys
arguments = [word for word in sys.argv[1:] if not word.startswith(("--reuid=", "--regid="))]
assert arguments.pop(0) == "--clear-groups" and len(arguments) == len(sys.argv) - 4
os.execvp(arguments[0], arguments)
"""

JOURNALCTL = """\
#!{python}
import json
from pathlib import Path
print("\\n".join(json.loads(Path({state!r}).read_text())["journal"]))
"""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    node: Node


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        state = self.server.node.state  # type: ignore[attr-defined]
        live = state["live"]
        body = json.dumps(
            {
                "Runtimes": {"runc": {"path": "runc"}, **live.get("runtimes", {})},
                "DefaultRuntime": live.get("default-runtime", "runc"),
                "RegistryConfig": {
                    "IndexConfigs": {name: {"Secure": False} for name in live.get("insecure-registries", [])}
                },
            }
        ).encode()
        self.send_response(200 if state["active"] == "active" else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_arguments: Any) -> None:
        pass


class Node:
    """A node's Docker, as far as the module can see it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.daemon_json = folder / "etc" / "docker" / "daemon.json"
        self.state_file = folder / "state.json"
        self.set(
            daemon_json=str(self.daemon_json),
            active="active",
            enabled="enabled",
            started=time.monotonic() - 100,
            live={},
            calls=[],
            journal=[],
            validates="",
            broken=False,
            deaf=False,
        )
        for name, text in (
            ("systemctl", SYSTEMCTL),
            ("dockerd", DOCKERD),
            ("journalctl", JOURNALCTL),
            ("setpriv", SETPRIV),
        ):
            program = self.bin / name
            program.write_text(text.format(python=sys.executable, state=str(self.state_file)))
            program.chmod(0o755)

    @property
    def state(self) -> dict[str, Any]:
        return json.loads(self.state_file.read_text())

    def set(self, **values: Any) -> None:
        state = self.state if self.state_file.exists() else {}
        state.update(values)
        self.state_file.write_text(json.dumps(state))

    def write(self, text: str | bytes) -> bytes:
        data = text.encode() if isinstance(text, str) else text
        self.daemon_json.parent.mkdir(parents=True, exist_ok=True)
        self.daemon_json.write_bytes(data)
        return data

    def read(self) -> dict[str, Any]:
        return json.loads(self.daemon_json.read_text())

    def files(self) -> list[str]:
        return sorted(os.listdir(self.daemon_json.parent)) if self.daemon_json.parent.exists() else []


@pytest.fixture
def node(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a relative socket path stays under the 108 bytes that sockets allow
    node = Node(tmp_path)
    monkeypatch.setenv("PATH", f"{node.bin}:{os.environ['PATH']}")
    monkeypatch.setattr(docker_daemon_config, "RELOAD_SECONDS", 0.5)
    # Never a program of the machine itself: Ansible looks in /usr/sbin even where PATH does not.
    monkeypatch.setattr(
        docker_daemon_config.AnsibleModule,
        "get_bin_path",
        lambda _self, name, *_arguments, **_options: (
            str(node.bin / name) if (node.bin / name).exists() else None
        ),
    )
    # What only root may, whoever runs the tests.
    monkeypatch.setattr(docker_daemon_config.os, "geteuid", lambda: 0)
    monkeypatch.setattr(docker_daemon_config.os, "chown", lambda *_arguments: None)
    server = Server("docker.sock", Handler)
    server.node = node
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield node
    server.shutdown()
    server.server_close()


@pytest.fixture
def call(node, capsys):
    def run(**arguments: Any) -> dict[str, Any]:
        check, diff = arguments.pop("check", False), arguments.pop("diff", True)
        arguments = {
            "path": str(node.daemon_json),
            "socket": "docker.sock",
            "restart_timeout_seconds": 2,
            "_ansible_check_mode": check,
            "_ansible_diff": diff,
            **arguments,
        }
        capsys.readouterr()
        with patch_module_args(arguments), pytest.raises(SystemExit):
            docker_daemon_config.main()
        return json.loads(capsys.readouterr().out)

    return run


# -- merging ---------------------------------------------------------------------------------------


def test_a_bare_node_gets_a_file_and_a_reload(node, call):
    result = call(config=NVIDIA)
    assert result["changed"] and result["reloaded"] and not result["restarted"]
    assert node.read() == NVIDIA
    assert node.state["live"] == NVIDIA
    assert node.state["calls"] == ["reload"]
    assert oct(node.daemon_json.stat().st_mode)[-3:] == "644"
    assert result["backup_file"] is None
    assert result["before"] is None
    assert result["after"] == NVIDIA
    assert result["validated_by"] == "structure"


def test_a_second_call_changes_nothing(node, call):
    call(config=NVIDIA)
    node.set(calls=[])
    result = call(config=NVIDIA)
    assert not result["changed"] and not result["restarted"] and not result["reloaded"]
    assert result["restart_reasons"] == []
    assert node.state["calls"] == []
    assert len(node.files()) == 1


def test_the_users_keys_order_mode_and_layout_survive(node, call):
    before = node.write(
        '{\n  "log-driver": "journald",\n  "insecure-registries": ["mine:5000"],\n  "bip": "10.9.0.1/24"\n}'
    )
    node.daemon_json.chmod(0o640)
    result = call(config={**NVIDIA, "insecure-registries": ["registry:5000"]})
    text = node.daemon_json.read_text()
    assert list(json.loads(text)) == ["log-driver", "insecure-registries", "bip", "runtimes"]
    assert json.loads(text)["insecure-registries"] == ["mine:5000", "registry:5000"]
    assert text.startswith('{\n  "log-driver": "journald",\n') and not text.endswith("\n")
    assert oct(node.daemon_json.stat().st_mode)[-3:] == "640"
    assert Path(result["backup_file"]).read_bytes() == before
    assert result["diff"]["before"] == before.decode()
    assert result["diff"]["after"] == text


def test_a_symbolic_link_stays_a_link(node, call):
    real = node.folder / "real.json"
    real.write_text('{"debug": true}')
    node.daemon_json.parent.mkdir(parents=True)
    node.daemon_json.symlink_to(real)
    call(config=NVIDIA)
    assert node.daemon_json.is_symlink()
    assert json.loads(real.read_text()) == {"debug": True, **NVIDIA}


def test_check_mode_says_what_would_happen_and_touches_nothing(node, call):
    data = node.write('{"debug": true}')
    result = call(config=NVIDIA, check=True)
    assert result["changed"] and result["reloaded"]
    assert json.loads(result["diff"]["after"]) == {"debug": True, **NVIDIA}
    assert node.daemon_json.read_bytes() == data
    assert node.files() == ["daemon.json"]
    assert node.state["calls"] == []
    result = call(config={"features": {"cdi": True}}, check=True)
    assert result["restarted"] and not result["reloaded"]


def test_check_mode_leaves_no_folder_behind(node, call):
    assert call(config=NVIDIA, check=True)["changed"]
    assert not node.daemon_json.parent.exists()


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{\n  "debug": true,\n}\n', ["not valid JSON", "line 3, column 1"]),
        (b"[]", ["a list", "line 1, column 1"]),
        (b'\xef\xbb\xbf{"debug": true}', ["byte order mark"]),
        (b'{"debug": true, "debug": false}', ['"debug" appears twice']),
    ],
)
def test_a_broken_file_is_refused_untouched(node, call, data, words):
    node.write(data)
    for check in (True, False):
        result = call(config=NVIDIA, check=check)
        assert result["failed"]
        for word in [*words, str(node.daemon_json), "Nothing was changed"]:
            assert word in result["msg"] or "trailing comma" in result["msg"]
    assert node.daemon_json.read_bytes() == data
    assert node.files() == ["daemon.json"]
    assert node.state["calls"] == []


def test_another_runtime_named_nvidia_is_refused_untouched(node, call):
    data = node.write('{"runtimes": {"nvidia": {"path": "/opt/mine/runtime"}}, "debug": true}')
    result = call(config={**NVIDIA, "debug": False})
    assert result["failed"]
    assert "runtimes.nvidia" in result["msg"] and "/opt/mine/runtime" in result["msg"]
    assert "nvidia-container-runtime" in result["msg"]
    assert [item["path"] for item in result["conflicts"]] == ["runtimes.nvidia", "debug"]
    assert node.daemon_json.read_bytes() == data
    assert node.state["calls"] == []


def test_consent_replaces_only_what_it_names(node, call):
    node.write('{"log-driver": "json-file", "debug": true}')
    assert call(config={"log-driver": "journald", "debug": False}, replace=["log-driver"])["failed"]
    assert not call(config={"log-driver": "journald"}, replace=["log-driver"]).get("failed")
    assert node.read() == {"log-driver": "journald", "debug": True}


def test_a_wish_that_dockerd_cannot_read_is_refused_by_its_shape(node, call):
    data = node.write('{"debug": true}')
    result = call(config={"log-opts": {"max-file": 3}})
    assert result["failed"] and "log-opts.max-file is 3" in result["msg"]
    assert node.daemon_json.read_bytes() == data and node.files() == ["daemon.json"]


@pytest.mark.parametrize("way", ["--validate", "as nobody"])
def test_a_wish_that_dockerd_refuses_is_refused_before_it_is_live(node, call, way):
    node.set(validates=way)
    data = node.write('{"debug": true}')
    result = call(config={"nonsense": 1})
    assert result["failed"] and "unknown directive nonsense" in result["msg"]
    assert str(node.daemon_json) in result["msg"]
    assert node.daemon_json.read_bytes() == data and node.files() == ["daemon.json"]
    assert call(config=NVIDIA)["validated_by"] == "dockerd"


def test_a_file_that_cannot_be_read_is_an_error(node, call):
    node.daemon_json.mkdir(parents=True)
    assert "Cannot read" in call(config=NVIDIA)["msg"]


def test_a_change_by_somebody_else_is_not_overwritten(node, call, monkeypatch):
    node.write('{"debug": true}')
    prepare = docker_daemon_config.ConfigFile.prepare

    def meanwhile(self, data):
        node.write('{"debug": false}')
        return prepare(self, data)

    monkeypatch.setattr(docker_daemon_config.ConfigFile, "prepare", meanwhile)
    result = call(config=NVIDIA, backup=False)
    assert result["failed"] and "by somebody else" in result["msg"]
    assert node.read() == {"debug": False}
    assert node.files() == ["daemon.json"]


# -- taking over -----------------------------------------------------------------------------------


def test_a_key_that_no_reload_takes_over_restarts(node, call):
    result = call(config={"features": {"cdi": True}})
    assert result["restarted"] and not result["reloaded"]
    assert node.state["live"] == {"features": {"cdi": True}}
    assert node.state["calls"] == ["reset-failed", "reset-failed", "restart"]


def test_a_reload_that_dockerd_ignores_becomes_a_restart(node, call):
    node.set(deaf=True)
    result = call(config=NVIDIA)
    assert result["restarted"] and not result["reloaded"]
    assert node.state["calls"] == ["reload", "reset-failed", "reset-failed", "restart"]


def test_a_dockerd_that_dies_of_the_file_is_rolled_back(node, call):
    before = node.write('{"debug":true}  \n')
    result = call(config={"explode": True})
    assert result["failed"] and result["rolled_back"]
    assert "explode" in result["msg"] and "The old file is back and dockerd runs with it" in result["msg"]
    assert result["journal"] == ["unable to configure the Docker daemon with file daemon.json: explode"]
    assert result["backup_file"] is None and node.files() == ["daemon.json"]
    assert node.daemon_json.read_bytes() == before
    assert node.state["active"] == "active" and node.state["live"] == {"debug": True}


def test_rolling_back_a_new_file_removes_it_again(node, call):
    result = call(config={"explode": True})
    assert result["failed"] and result["rolled_back"]
    assert not node.daemon_json.parent.exists()


def test_a_dockerd_that_is_broken_anyway_is_said_to_be(node, call):
    before = node.write("{}")
    node.set(broken=True)
    result = call(config={"features": {"cdi": True}})
    assert result["failed"] and not result["rolled_back"]
    assert "does not answer with it either" in result["msg"]
    assert node.daemon_json.read_bytes() == before
    result = call(config={}, restart="always")
    assert "was not changed by this call" in result["msg"]


def test_a_file_that_is_right_but_not_live_is_taken_over(node, call):
    node.write(json.dumps(NVIDIA))
    result = call(config=NVIDIA)
    assert result["changed"] and result["reloaded"] and result["backup_file"] is None
    assert "runtimes.nvidia" in result["restart_reasons"][0]
    assert not call(config=NVIDIA)["changed"]


def test_a_program_that_is_newer_than_dockerd_restarts_it(node, call):
    hook = node.bin / "nvidia-container-runtime-hook"
    hook.write_text("")
    missing = node.bin / "nvidia-cdi-hook"
    result = call(config={}, restart_if_newer=[str(hook), str(missing)])
    assert result["restarted"] and str(hook) in result["restart_reasons"][0]
    assert not call(config={}, restart_if_newer=[str(hook), str(missing)])["changed"]


def test_restart_never_leaves_dockerd_alone(node, call):
    result = call(config={"features": {"cdi": True}}, restart="never")
    assert result["changed"] and not result["restarted"] and node.state["calls"] == []


def test_restart_always_restarts_once(node, call):
    result = call(config=NVIDIA, restart="always")
    assert result["restarted"] and node.state["calls"].count("restart") == 1
    assert call(config=NVIDIA, restart="always")["changed"]


@pytest.mark.parametrize(("enabled", "started"), [("disabled", False), ("enabled", True)])
def test_a_stopped_dockerd_is_started_only_where_it_is_meant_to_run(node, call, enabled, started):
    node.set(active="inactive", enabled=enabled)
    assert call(config={}, check=True)["changed"] is started
    assert call(config=NVIDIA)["restarted"] is started
    assert not call(config=NVIDIA)["changed"]


def test_an_empty_file_that_keeps_dockerd_from_starting_becomes_an_empty_object(node, call):
    node.write("\n")
    assert not call(config={})["changed"], "this dockerd runs with it"
    node.set(active="failed", enabled="enabled")
    assert call(config={}, check=True)["changed"]
    assert call(config={})["restarted"]
    assert node.read() == {}
    assert not call(config={})["changed"]


def test_without_dockerd_only_the_file_is_written(node, call, monkeypatch):
    (node.bin / "dockerd").unlink()
    (node.bin / "systemctl").write_text("#!/bin/sh\necho LoadState=not-found\necho ActiveState=inactive\n")
    result = call(config=NVIDIA)
    assert result["changed"] and not result["restarted"] and node.read() == NVIDIA


# -- taking out ------------------------------------------------------------------------------------


def test_absent_takes_out_what_was_merged_and_no_more(node, call):
    before = '{\n    "insecure-registries": [\n        "mine:5000"\n    ],\n    "debug": true\n}\n'
    node.write(before)
    wish = {**NVIDIA, "insecure-registries": ["registry:5000"], "features": {"cdi": True}}
    call(config=wish)
    result = call(config=wish, state="absent")
    assert result["restarted"], "dockerd forgets nothing by a reload"
    assert node.daemon_json.read_text() == before
    assert not call(config=wish, state="absent")["changed"]


def test_what_was_added_is_told_for_an_exact_undo(node, call):
    node.write('{"debug": true, "insecure-registries": ["registry:5000"]}')
    wish = {**NVIDIA, "debug": True, "insecure-registries": ["registry:5000", "other:5000"]}
    added = call(config=wish)["added"]
    assert added == {**NVIDIA, "insecure-registries": ["other:5000"]}
    assert call(config=wish)["added"] == {}
    call(config=added, state="absent")
    assert node.read() == {"debug": True, "insecure-registries": ["registry:5000"]}


def test_absent_removes_a_file_that_holds_nothing_else(node, call):
    call(config=NVIDIA)
    result = call(config=NVIDIA, state="absent")
    assert result["changed"] and result["after"] is None
    assert not node.daemon_json.exists()
    assert json.loads(Path(result["backup_file"]).read_text()) == NVIDIA


def test_absent_paths_go_whatever_their_value(node, call):
    node.write(
        '{"runtimes": {"nvidia": {"path": "/opt/old"}, "x": {"path": "x"}}, "default-runtime": "nvidia"}'
    )
    call(config={"default-runtime": "nvidia"}, absent=["runtimes.nvidia"], state="absent")
    assert node.read() == {"runtimes": {"x": {"path": "x"}}}


def test_absent_from_no_file_is_nothing_to_do(node, call):
    result = call(config=NVIDIA, absent=["runtimes.nvidia"], state="absent")
    assert not result["changed"] and not node.daemon_json.exists() and result["after"] is None
