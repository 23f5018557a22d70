"""`gpuready watch`: the program that is sent, the way there, and what becomes of a node that goes away.

Not among the collection's unit tests: Ansible's own loader, which reads the inventory here, changes how
Python imports in the whole process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gpuready import cli, nvml_bindings, watch_cli
from gpuready.inputs import Trouble


def inventory(folder: Path, **hosts: dict[str, Any]) -> str:
    path = folder / "hosts.json"
    path.write_text(json.dumps({"gpu_nodes": {"hosts": hosts}}))
    return str(path)


LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}


def test_program_is_whole_and_nothing_more() -> None:
    files = watch_cli.files()
    assert {"gpuready_watch", "gpuready_watch.usage_stream", "gpuready_watch.health.nvml_metrics"} <= set(
        files
    )
    assert not [name for name in files if "planner" in name or "catalog" in name or "diagnosis" in name]
    for name, text in files.items():
        compile(text, name, "exec")


def test_command_survives_the_shell(tmp_path: Path) -> None:
    """What a node's shell runs is the loader, letter by letter, whatever the interpreter's path."""
    fake = tmp_path / "it's mine"
    fake.write_text('#!/bin/sh\nprintf %s "$2"\n')
    fake.chmod(0o755)
    command = ["sh", "-c", watch_cli.remote_command(str(fake))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == watch_cli.LOADER


def test_node_answers_with_lines_and_ends_with_its_listener() -> None:
    """The real program, as a node would run it: this machine has no GPU, and says so."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", watch_cli.LOADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(watch_cli.payload(0.5, None))
    process.stdin.flush()
    first, second = (json.loads(process.stdout.readline()) for _look in range(2))
    assert first["gpus"] == [] or first["gpus"][0]["index"] == 0
    assert set(second) >= {"gpus", "processes", "silent_gpus", "error", "load", "root"}
    process.stdin.close()
    assert process.wait(timeout=5) == 0


def test_ssh_is_asked_as_the_inventory_says() -> None:
    options = {
        "ssh_executable": "ssh",
        "ssh_args": "-o ControlMaster=auto -o ServerAliveInterval=30",
        "port": 2222,
        "private_key_file": "~/a key",
        "remote_user": "ansible",
        "ssh_common_args": "-o ProxyJump=bastion -o UserKnownHostsFile='/a b'",
        "host": "10.0.0.1",
        "timeout": 20,
        "host_key_checking": True,
    }
    words = watch_cli.ssh_command(options, "gpu01", "the command")
    assert words[0] == "ssh" and words[-2:] == ["10.0.0.1", "the command"]
    assert words.index("ControlMaster=no") < words.index("ControlMaster=auto"), "ssh takes the first"
    for word in (
        "BatchMode=yes",
        "Port=2222",
        "User=ansible",
        "ProxyJump=bastion",
        "UserKnownHostsFile=/a b",
    ):
        assert word in words
    assert f'IdentityFile="{os.path.expanduser("~/a key")}"' in words
    assert "StrictHostKeyChecking=no" not in words


def test_ways_come_from_the_inventory(tmp_path: Path) -> None:
    hosts = {
        "gpu01": {
            "ansible_host": "{{ address }}",
            "address": "192.0.2.7",
            "ansible_user": "me",
            "gpuready_simulated": True,
        },
        "gpu02": {"ansible_connection": "community.docker.docker"},
        "gpu03": {"ansible_host": "{{ undef(hint='the lab is down') }}"},
    }
    found = watch_cli.ways([inventory(tmp_path, **hosts)], "gpu_nodes")
    assert found["gpu01"].command is not None and found["gpu01"].simulated
    assert "192.0.2.7" in found["gpu01"].command and "User=me" in found["gpu01"].command
    assert found["gpu02"].command is None and "not docker" in str(found["gpu02"].trouble)
    assert found["gpu03"].command is None and "the lab is down" in str(found["gpu03"].trouble)


def test_vault_is_opened_as_the_site_configures_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of variables that is encrypted as a whole, as many sites have it."""
    password = tmp_path / "password"
    password.write_text("open sesame")
    variables = tmp_path / "inventory/group_vars/gpu_nodes.yml"
    variables.parent.mkdir(parents=True)
    variables.write_text("ansible_user: somebody\n")
    inventory(tmp_path / "inventory", gpu01={})
    vault = [
        str(Path(sys.executable).parent / "ansible-vault"),
        "encrypt",
        "--vault-password-file",
        str(password),
    ]
    subprocess.run([*vault, str(variables)], check=True, capture_output=True)

    closed = watch_cli.ways([str(tmp_path / "inventory")], "gpu_nodes")["gpu01"]
    assert closed.command is None and "vault" in str(closed.trouble).lower()
    monkeypatch.setattr("ansible.constants.DEFAULT_VAULT_PASSWORD_FILE", str(password))
    opened = watch_cli.ways([str(tmp_path / "inventory")], "gpu_nodes")["gpu01"]
    assert opened.command is not None and "User=somebody" in opened.command


def test_node_that_takes_a_password_is_told_apart(tmp_path: Path) -> None:
    found = watch_cli.ways([inventory(tmp_path, gpu01={"ansible_password": "hunter2"})], "gpu_nodes")["gpu01"]
    assert found.command is None and "keys only" in str(found.trouble) and "hunter2" not in str(found.trouble)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--interval", "0.1"], "--interval 0.1"),
        (["--json"], "--json goes with --once"),
        (["-i", "/no/such/inventory"], "there is no such inventory"),
        (["--limit", "nobody"], "nobody"),
    ],
)
def test_bad_question_is_one_sentence(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if "-i" in words else ["-i", inventory(tmp_path, gpu01=LOCAL)]
    assert cli.main(["watch", *given, *words]) == 1
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_once_prints_a_table_and_tells_who_was_not_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = {"ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_ssh_common_args": "-F /dev/null"}
    assert cli.main(["watch", "--once", "-i", inventory(tmp_path, gpu01=LOCAL, gpu02=dead)]) == 2
    out = capsys.readouterr().out
    assert "gpu01" in out and "gpu02  not reached" in out and "2 nodes" in out


def test_json_is_what_was_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["watch", "--once", "--json", "-i", inventory(tmp_path, gpu01=LOCAL)])
    assert "processes" in json.loads(capsys.readouterr().out)["gpu01"]


def way(script: str) -> watch_cli.Way:
    return watch_cli.Way([sys.executable, "-c", script], None, False)


SAY = """
import json, sys
sys.stdin.readline()
print('Welcome to gpu01', flush=True)
print(json.dumps({'gpus': [], 'n': 1}), flush=True)
"""


def test_a_node_that_goes_away_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_cli, "RETRY_SECONDS", 0.3)
    fleet = watch_cli.Fleet({"a": way(SAY + "sys.exit('broken pipe in the wall')")}, 1.0)
    fleet.open()
    try:
        fleet.listen(5, lambda: fleet.looks()["a"].get("unreachable"))
        assert fleet.looks()["a"] == {"unreachable": "broken pipe in the wall"}
        fleet.listen(5, lambda: fleet.looks()["a"].get("n"))
        assert fleet.looks()["a"]["n"] == 1
    finally:
        fleet.close()


def test_a_node_that_hangs_does_not_hold_up_the_others() -> None:
    hanging = way("import time\ntime.sleep(60)")
    fleet = watch_cli.Fleet({"a": hanging, "b": way(SAY + "sys.stdin.readline()")}, 1.0)
    fleet.open()
    started = time.monotonic()
    try:
        fleet.listen(10, lambda: fleet.looks()["b"].get("n"))
        assert fleet.looks()["b"]["n"] == 1 and fleet.looks()["a"] == {}
        processes = [listener.process for listener in fleet.listeners]
    finally:
        fleet.close()
    assert time.monotonic() - started < 9
    assert all(process is not None and process.poll() is not None for process in processes), (
        "nothing is left behind"
    )


def test_a_node_that_falls_silent_is_not_shown_as_if_it_went_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_cli, "SILENT_SECONDS", 0.2)
    fleet = watch_cli.Fleet({"a": way(SAY + "sys.stdin.readline()")}, 0.01)
    fleet.open()
    try:
        fleet.listen(5, lambda: fleet.looks()["a"].get("n"))
        fleet.listen(0.5)
        assert fleet.looks()["a"]["unreachable"].startswith("nothing was heard for ")
    finally:
        fleet.close()


def test_live_table_is_printed_again_and_again(tmp_path: Path) -> None:
    """As a person would start it, with its output into a file."""
    command = [
        sys.executable,
        "-m",
        "gpuready",
        "watch",
        "--interval",
        "0.5",
        "-i",
        inventory(tmp_path, gpu01=LOCAL),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        seen += line.startswith("gpuready watch")
        if seen == 3:
            break
    process.terminate()
    process.stdout.close()
    assert process.wait(timeout=10) == 0


def test_bindings_travel_and_work() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from gpuready import nvml_bindings as b\n"
        "sys.modules['pynvml'] = None\n"  # as on a node that has none
        "found = b.find(sys.stdin.read(), folder='/nonexistent')\n"
        "print(found.NVMLError.__name__, found.__file__ if hasattr(found, '__file__') else 'handed')\n"
    )
    folder = str(Path(nvml_bindings.__file__).parents[1])
    command = [sys.executable, "-c", script, folder]
    done = subprocess.run(command, input=nvml_bindings.pack(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["NVMLError", "handed"]


def test_without_bindings_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_bindings, "_imported", lambda folder=None: None)
    with pytest.raises(nvml_bindings.NoBindings, match="nvidia-ml-py"):
        nvml_bindings.find(None)


def test_ansible_is_needed_only_for_watching() -> None:
    code = "import sys; sys.modules['ansible'] = None; import gpuready.cli as c; c.main(['catalog', 'list'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_trouble_is_what_the_other_verbs_raise() -> None:
    assert watch_cli.Trouble is Trouble
