"""The way of a node's progress to the board, and waiting for a job; with Ansible and without."""

from __future__ import annotations

import json
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from terminals import COLLECTIONS

if str(COLLECTIONS) not in sys.path:
    sys.path.insert(0, str(COLLECTIONS))

from ansible.errors import AnsibleConnectionFailure
from ansible.utils.display import Display
from ansible_collections.gpuready.node.plugins.module_utils import board_channel, progress

FETCH = {
    "step": "image_fetch",
    "done": 5,
    "total": 10,
    "unit": "bytes",
    "started": 0,
    "updated": 1,
    "text": "",
}


class Connection:
    transport = "ssh"
    become: object = object()

    def __init__(self, answers: list) -> None:
        self.answers, self.asked = answers, []

    def exec_command(self, command, in_data=None, sudoable=True):
        self.asked.append((command, self.become, sudoable))
        answer = self.answers.pop(0) if self.answers else b""
        if isinstance(answer, Exception):
            raise answer
        return 0, answer, b""


@pytest.fixture
def told(monkeypatch):
    """What the board was told."""
    seen = []
    monkeypatch.setattr(
        Display(), "display", lambda msg, **options: seen.append((msg, options)), raising=False
    )
    monkeypatch.setattr(Display(), board_channel.LIVE, True, raising=False)
    return seen


def watch(connection: Connection, seconds: float = 0.3) -> None:
    with board_channel.Watch(connection, "gpu01", every=0.02):
        time.sleep(seconds)


def test_progress_of_a_node_is_told_until_there_is_none(told):
    connection = Connection([b"", json.dumps(FETCH).encode() + b"\n", b"motd\n", b"", b""])
    watch(connection)
    assert [board_channel.read_message(msg) for msg, _options in told] == [("gpu01", [FETCH]), ("gpu01", [])]
    # A message for neither screen nor log: Ansible drops it where there is no board.
    assert all(options == {"screen_only": True, "log_only": True} for _msg, options in told)
    # By a connection of its own, with nobody's rights.
    assert set(connection.asked) == {(progress.READ, None, False)}
    assert connection.become is not None


def test_nothing_is_asked_without_a_board(told, monkeypatch):
    monkeypatch.delattr(Display(), board_channel.LIVE)
    connection = Connection([b"x"])
    watch(connection, 0.1)
    assert connection.asked == [] and told == []


def test_connections_that_cannot_do_two_things_are_left_alone(told):
    connection = Connection([b"x"])
    connection.transport = "winrm"
    watch(connection, 0.1)
    assert connection.asked == []


def test_connection_that_breaks_ends_the_watching_and_not_the_task(told):
    connection = Connection([AnsibleConnectionFailure("gone"), json.dumps(FETCH).encode()])
    watch(connection)
    assert len(connection.asked) == 1 and told == []


@pytest.mark.parametrize(
    "text", ["hello", board_channel.MARK, board_channel.MARK + "{}", board_channel.MARK + "[]"]
)
def test_other_messages_are_not_the_boards(text):
    assert board_channel.read_message(text) is None


WAITING = """\
- name: Wait
  hosts: gpu01
  gather_facts: false
  tasks:
    - name: Begin
      ansible.builtin.command: sh -c "sleep {{ nap }}; exit {{ code }}"
      async: 60
      poll: 0
      register: job
      changed_when: true

    - name: Wait for it
      gpuready.node.job_wait:
        jid: "{{ job.ansible_job_id }}"
        timeout_seconds: "{{ patience }}"
        poll_seconds: 0.3
      register: waited

    - name: Show
      ansible.builtin.debug:
        msg: "{{ waited.finished }} {{ waited.rc }} {{ waited.timed_out }}"
"""


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("nap=1 code=0 patience=30", 0, "True 0 False"),
        ("nap=0 code=3 patience=30", 2, "non-zero return code"),
        ("nap=20 code=0 patience=1", 2, "has not ended after"),
        ("nap=0 code=0 patience=soon", 2, "timeout_seconds"),
    ],
)
def test_job_is_waited_for_within_one_task(terminal, words, status, said):
    terminal.write(WAITING)
    found, out, err = terminal.piped("default", "-e", words)
    assert (found, said in out) == (status, True), out + err
    assert "RETRYING" not in out


TELLING = """\
- name: Fetch
  hosts: gpu01
  gather_facts: false
  tasks:
    - name: Begin
      ansible.builtin.command: "{{ ansible_python_interpreter }} {{ playbook_dir }}/fetch.py"
      async: 60
      poll: 0
      register: job
      changed_when: true

    - name: Wait until the images are there
      gpuready.node.job_wait:
        jid: "{{ job.ansible_job_id }}"
        timeout_seconds: 30
        poll_seconds: 0.5
"""


@pytest.mark.skipif(not Path("/run").is_dir() or sys.platform != "linux", reason="needs a Linux /run")
def test_bytes_come_from_the_nodes_file_to_the_terminal(terminal):
    """The whole way: a step's file, the connection, the task's process, the board, the terminal."""
    folder = Path(progress.FOLDER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "try").touch()
        (folder / "try").unlink()
    except OSError:
        pytest.skip(f"{folder} is root's")
    (terminal.folder / "fetch.py").write_text(
        f"import sys, time; sys.path.insert(0, {str(Path(progress.__file__).parent)!r})\n"
        "import progress\n"
        "with progress.Step('image_fetch', 'bytes', 4 * 2**30) as step:\n"
        "    for part in range(12):\n"
        "        time.sleep(0.5); step.tell(part * 2**28, text='tensorflow:2.9.0-gpu')\n"
    )
    terminal.write(TELLING)
    seen = terminal.shown()
    assert seen.status == 0, seen.text
    assert seen.ever(
        r"^gpu01 +.*Wait until the images are there · image: \d\.\d GiB of 4\.0 GiB · \d+ % · tensorflow"
    )
    assert seen.ever(r"≈ \d+ s left")
    assert board_channel.MARK not in seen.text


def test_process_of_a_task_waits_for_no_lock_of_the_board(monkeypatch):
    """Ansible forks at any time; a lock that the board's thread holds then stays locked in the new one."""
    from ansible_collections.gpuready.node.plugins.callback import board as callback
    from ansible_collections.gpuready.node.plugins.module_utils.board import Board

    display = Display()
    before = dict(display.__dict__)
    live = callback.Live(display, Board("site.yml", 0.0))
    monkeypatch.setattr(callback.atexit, "register", lambda _function: None)
    monkeypatch.setattr(callback.signal, "signal", lambda *_arguments: None)
    hooks = []
    monkeypatch.setattr(
        callback.os, "register_at_fork", lambda **given: hooks.append(given["after_in_child"])
    )
    monkeypatch.setattr(live._thread, "start", lambda: None)
    live.start()
    try:
        assert display.display is not before.get("display") and board_channel.is_live()
        with live.lock, live._over._cond:
            (hook,) = hooks
            done = threading.Thread(target=hook, daemon=True)
            done.start()
            done.join(5)
            assert not done.is_alive()
        # What writes is Ansible's own again, and it is known that somebody looks.
        assert "display" not in display.__dict__ and "prompt_until" not in display.__dict__
        assert board_channel.is_live()
    finally:
        display.__dict__.pop(board_channel.LIVE, None)


@pytest.mark.parametrize(
    ("action", "answer", "words"),
    [
        ("ansible.builtin.fail", {"msg": "\n no GPU\nbecause"}, "no GPU"),
        (
            "ansible.builtin.command",
            {"msg": "non-zero return code", "stderr": "x"},
            "Do: non-zero return code",
        ),
        ("gpuready.node.apt_transaction", {"msg": "Task failed: apt failed"}, "Do: apt failed"),
        ("ansible.builtin.command", {"stderr": "no space left"}, "Do: no space left"),
        (
            "ansible.builtin.command",
            {"results": [{"msg": "fine"}, {"failed": True, "msg": "bad"}]},
            "Do: bad",
        ),
        ("ansible.builtin.command", {}, "Do: failed without a message"),
        (
            "ansible.builtin.command",
            {"censored": "hidden", "msg": "hunter2"},
            "Do: failed; its output is hidden (no_log)",
        ),
        (
            "gpuready.node.gpu_plan",
            {
                "unreachable": True,
                "msg": 'Task failed: Data could not be sent to remote host "10.0.0.1". Make sure this host '
                "can be reached over ssh: ssh: connect to host 10.0.0.1 port 22: Connection refused",
            },
            "ssh: connect to host 10.0.0.1 port 22: Connection refused",
        ),
    ],
)
def test_failure_is_told_in_one_line(action, answer, words):
    from ansible_collections.gpuready.node.plugins.callback import board as callback

    task = types.SimpleNamespace(name="Do", action=action, resolved_action=action, no_log=False)
    assert callback._cause(types.SimpleNamespace(task=task, result=answer)) == words
