"""The board on a real terminal (a pty), as a person would see it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pexpect
import pytest
from kit.terminal import Shown
from terminals import PLAYBOOK

SLOW = """\
- name: Provision
  hosts: all
  gather_facts: false
  vars: {nap: 2}
  tasks:
    - name: Say something
      ansible.builtin.debug:
        msg: a word from {{ inventory_hostname }}
      when: inventory_hostname == 'gpu02'

    - name: Install the driver
      ansible.builtin.include_role:
        name: nvidia_driver

    - name: Break one
      ansible.builtin.fail:
        msg: "apt failed: E: Unable to locate package nvidia-driver-999"
      when: inventory_hostname == 'gpu02'
"""
ROW = r"^gpu01 .*▶ \d+s .*Install the driver's packages"
BOARD = re.compile(r"^play\.yml · Provision · ")


def boards(lines: list[str]) -> list[str]:
    """The first line of every board that can be seen."""
    return [line for line in lines if BOARD.match(line)]


def test_board_is_one_place_that_changes_and_failures_stand_above_it_at_once(terminal):
    terminal.write(SLOW)
    seen = terminal.shown("--forks", "2")
    assert seen.status == 2
    assert seen.ever(ROW) and seen.ever(r"^gpu02 .*▶ \d+s ")
    # One board at any time, however often it was drawn, and nothing of it left behind when it went.
    assert max(len(boards(screen)) for screen in seen.screens) == 1
    assert len(boards(seen.everything)) == 1
    assert seen.raw.count(b"Install the driver's packages") > 2
    text = seen.text
    assert "a word from gpu02" in text
    # Ansible's own words of the failure, with the task's heading.
    assert "TASK [Break one]" in text and "fatal: [gpu02]: FAILED! =>" in text
    # Tasks that went well have no lines of their own.
    assert "TASK [nvidia_driver" not in text and "changed: [" not in text
    at = text.index
    assert at("a word from") < at("fatal: [gpu02]") < at("play.yml · Provision") < at("PLAY RECAP")
    rows = [line for line in seen.everything if line.startswith("gpu0")]
    assert re.fullmatch(r"gpu01 +✔ \d+s +done", rows[0]), rows
    # A message of `fail` stands alone.
    assert re.match(r"gpu02 .*✘ apt failed: E: Unable to locate package", rows[1]), rows
    assert seen.screen.cursor.hidden is False and seen.screen.cursor.x == 0


def test_log_file_holds_what_the_default_output_would_have_said(terminal):
    terminal.write(SLOW)
    log = terminal.folder / "ansible.log"
    terminal.shown("-e", "nap=0", "--forks", "1", environ={"ANSIBLE_LOG_PATH": str(log)})
    live = log.read_text()
    log.unlink()
    terminal.piped("default", "-e", "nap=0", "--forks", "1", ANSIBLE_LOG_PATH=str(log))

    def lines(text: str) -> list[str]:
        # Headings are as wide as the terminal.
        found = [re.sub(r"^\S+ \S+ p=\d+ u=\S+ n=ansible ", "", line) for line in text.splitlines()]
        return [re.sub(r"\*{3,}", "***", line) for line in found]

    assert "TASK [nvidia_driver : Load the driver] ***" in "\n".join(lines(live))
    assert lines(live) == lines(log.read_text())


@pytest.mark.parametrize("how", ["INT", "TERM", "KILL"])
def test_cursor_comes_back_however_the_run_ends(terminal, how):
    terminal.write(SLOW)
    sent = []

    def stop(child, seen):
        if not sent and boards(seen.lines) and seen.ever(ROW):
            sent.append(how)
            child.sendintr() if how == "INT" else child.kill(getattr(signal, f"SIG{how}"))

    seen = terminal.shown("-e", "nap=30", during=stop)
    assert sent
    assert seen.screen.cursor.hidden is False
    # A shell's prompt has a line of its own, below what was going on.
    assert seen.screen.cursor.x == 0
    shown = [line for line in seen.lines if line]
    assert shown[-1].startswith("gpu02")
    assert len(boards(seen.everything)) == 1
    if how == "INT":
        assert "User interrupted execution" in seen.text and "· interrupted ·" in boards(seen.lines)[0]


ASKING = """\
- name: Ask
  hosts: all
  gather_facts: false
  vars_prompt:
    - name: colour
      prompt: Which colour
      private: false
    - name: secret
      prompt: Which password
  tasks:
    - name: Work
      ansible.builtin.raw: sleep 1

    - name: Ask once more
      ansible.builtin.pause:
        prompt: Go on with {{ colour }}
      register: answer

    - name: Show
      ansible.builtin.debug:
        msg: "{{ answer.user_input }} {{ colour }} {{ secret | length }}"
      run_once: true
"""


def test_prompts_are_asked_and_answered_without_the_board_in_the_way(terminal):
    terminal.write(ASKING)
    answered = {}

    def answer(child, seen):
        text = "\n".join(seen.lines)
        for question, reply in (
            ("Which colour", "blue"),
            ("Which password", "hunter2"),
            ("Go on with", "yes"),
        ):
            if question in text and question not in answered:
                answered[question] = time.monotonic()
                # While somebody thinks, nothing moves.
                before = list(seen.lines)
                time.sleep(0.8)
                seen.feed(b"")
                assert boards(before) == []
                child.sendline(reply)
                break

    seen = terminal.shown("--limit", "gpu01", during=answer)
    assert seen.status == 0, seen.text
    assert len(answered) == 3
    assert "yes blue 7" in seen.text and "hunter2" not in seen.text
    assert "Go on with blue" in seen.text


def test_window_that_changes_its_size_is_drawn_anew_and_loses_no_words(terminal):
    terminal.write(SLOW)
    sizes = iter([(30, 60), (30, 40), (40, 160)])
    last = [time.monotonic()]

    def resize(child, seen):
        if time.monotonic() - last[0] > 1.2 and boards(seen.lines):
            last[0] = time.monotonic()
            rows, columns = next(sizes, (0, 0))
            if rows:
                child.setwinsize(rows, columns)
                seen.screen.resize(rows, columns)

    seen = terminal.shown("-e", "nap=3", "--forks", "2", during=resize)
    assert next(sizes, None) is None, "the run was too short"
    assert "a word from gpu02" in seen.text and "PLAY RECAP" in seen.text
    last_screen = [line for line in seen.lines if line.startswith("gpu01")]
    assert any("✔" in line for line in last_screen)


def test_task_with_a_debugger_is_left_to_it(terminal):
    terminal.write(
        SLOW.replace("    - name: Break one\n", "    - name: Break one\n      debugger: on_failed\n")
    )

    def leave(child, seen):
        if any("(debug)>" in line for line in seen.lines) and not leave.done:
            leave.done = True
            assert boards(seen.lines[seen.screen.cursor.y :]) == []
            child.sendline("c")

    leave.done = False
    seen = terminal.shown("-e", "nap=0", during=leave)
    assert leave.done and "PLAY RECAP" in seen.text


HUNDREDS = """\
- name: Many
  hosts: many
  gather_facts: false
  strategy: free
  tasks:
    - name: Count
      ansible.builtin.set_fact:
        number: 1

    - name: Break a few
      ansible.builtin.fail:
        msg: broken
      when: inventory_hostname in ('node007', 'node300')
"""


def test_500_hosts_fit_on_the_screen(terminal):
    terminal.write(HUNDREDS)
    names = "".join(f"    node{number:03}:\n" for number in range(500))
    (terminal.folder / "many.yml").write_text(
        f"many:\n  vars: {{ansible_connection: local}}\n  hosts:\n{names}"
    )
    seen = terminal.shown("-i", "many.yml", "--forks", "4", timeout=300)
    assert seen.status == 2
    assert seen.ever(r"^play\.yml · Many · .* 500 nodes: ") and seen.ever(r"^… and \d+ more: ")
    for screen in seen.screens:
        assert len([line for line in screen if line.startswith("play.yml · Many")]) <= 1
    assert seen.text.count("FAILED! =>") == 2


def test_output_of_a_run_in_the_background_of_a_shell_has_no_board(terminal):
    """A job that was sent to the background writes its words and nothing else to the terminal."""
    terminal.write(SLOW)
    script = (
        "import os, pty, subprocess, sys\n"
        "os.setpgid(0, 0)\n"  # not the terminal's foreground group any more
        "import signal; signal.signal(signal.SIGTTOU, signal.SIG_IGN)\n"
        "sys.exit(subprocess.call(sys.argv[1:]))\n"
    )
    (terminal.folder / "background.py").write_text(script)
    child = pexpect.spawn(
        "/bin/sh",
        ["-c", f"{sys.executable} background.py {PLAYBOOK} play.yml -e nap=0 & wait"],
        cwd=str(terminal.folder),
        env=terminal.environment("gpuready.node.board"),
        dimensions=(30, 100),
        timeout=90,
    )
    seen = Shown(100, 30)
    seen.feed(child.read())
    child.close()
    assert "PLAY RECAP" in seen.text and "fatal: [gpu02]" in seen.text
    assert not any(seen.ever(pattern) for pattern in (ROW, r"not begun"))


def test_ansible_runner_sees_its_own_events_with_the_board_configured(terminal):
    """ansible-runner puts its own callback in this one's place, or builds it upon this one."""
    terminal.write(SLOW)
    script = (
        "import json, sys, ansible_runner\n"
        "ran = ansible_runner.run(private_data_dir=sys.argv[1], project_dir=sys.argv[1],\n"
        "    playbook='play.yml', cmdline='-e nap=0', quiet=True, suppress_env_files=True)\n"
        "print(json.dumps([ran.rc, len(list(ran.events)), ran.stdout.read()]))\n"
    )
    for callback in ("gpuready.node.board", None):
        environment = terminal.environment(callback or "")
        if callback is None:
            del environment["ANSIBLE_STDOUT_CALLBACK"]
            (terminal.folder / "ansible.cfg").write_text(
                (terminal.folder / "ansible.cfg").read_text() + "stdout_callback = gpuready.node.board\n"
            )
        environment["PATH"] = f"{sys.prefix}/bin:{environment['PATH']}"
        ran = subprocess.run(
            [sys.executable, "-c", script, str(terminal.folder)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.splitlines()[-1].startswith("[2, "), ran.stdout
        assert "TASK [Break one]" in ran.stdout and "PLAY RECAP" in ran.stdout
        assert "▶" not in ran.stdout and "u25b6" not in ran.stdout
