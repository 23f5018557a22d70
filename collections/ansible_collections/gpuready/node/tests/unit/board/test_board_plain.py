"""Where nobody looks at a board, the output is that of Ansible's default callback, to the byte."""

from __future__ import annotations

import re
from typing import Any

import pytest

#: Every kind of event that the default callback has words for.
EVERYTHING = """\
- name: Provision
  hosts: all
  gather_facts: false
  tasks:
    - name: Install the driver
      ansible.builtin.include_role:
        name: nvidia_driver

    - name: Write a file
      ansible.builtin.copy:
        content: "one\\n"
        dest: "{{ playbook_dir }}/written-{{ inventory_hostname }}"
        mode: "0644"
      notify: Tell
      when: inventory_hostname == 'gpu01'

    - name: Loop
      ansible.builtin.raw: "{{ item }}"
      loop: [echo a, "true"]
      changed_when: item == 'true'

    - name: Say
      ansible.builtin.debug:
        msg: "hello ä ✔"

    - name: Loop over what is said
      ansible.builtin.debug:
        var: item
      loop: [1, 2]

    - name: Wait a little
      ansible.builtin.command: sleep 0.1
      async: 5
      poll: 1
      when: not ansible_check_mode and inventory_hostname == 'gpu01'

    - name: Try again
      ansible.builtin.raw: test -e {{ playbook_dir }}/never
      register: tried
      until: tried is succeeded
      retries: 2
      delay: 0
      ignore_errors: true

    - name: Keep a secret
      ansible.builtin.fail:
        msg: hunter2
      no_log: true
      ignore_errors: true

    - name: Fail in a loop
      ansible.builtin.fail:
        msg: "{{ item }}"
      loop: [first, second]
      ignore_errors: true

    - name: Rescue
      block:
        - name: Break
          ansible.builtin.fail:
            msg: rescued
      rescue:
        - name: Go on
          ansible.builtin.set_fact:
            saved: true

    - name: Skip
      ansible.builtin.command: "false"
      when: false

    - name: Be unreachable
      ansible.builtin.raw: "true"
      vars: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 1}
      when: inventory_hostname == 'gpu02'

    - name: Break one
      ansible.builtin.fail:
        msg: "apt failed\\nE: no such package"
      when: inventory_hostname == 'gpu01'

  handlers:
    - name: Tell
      ansible.builtin.debug:
        msg: told
- name: Another play
  hosts: nobody:all
  gather_facts: false
  tasks:
    - name: Count
      ansible.builtin.set_stats:
        data: {nodes: 1}
"""


def written(output: str) -> str:
    """Without what differs between two runs of the same callback."""
    output = re.sub(r"j\d{6,}\.\d+|jid=\S+|ansible_job_id: \S+", "JOB", output)
    output = re.sub(r"\b\d+:\d\d:\d\d\.\d+|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+", "TIME", output)
    return re.sub(r"ansible-(?:tmp|local)-[\w.-]+", "TEMPORARY", output)


def clear(terminal: Any) -> None:
    for file in terminal.folder.glob("written-*"):
        file.unlink()


@pytest.mark.parametrize("words", [(), ("-vv",), ("--check", "--diff")], ids=["plain", "vv", "check"])
def test_without_a_terminal_the_output_is_the_default_callbacks(terminal, words):
    terminal.write(EVERYTHING)
    seen = {}
    for callback in ("default", "gpuready.node.board"):
        clear(terminal)
        status, out, err = terminal.piped(callback, *words, ANSIBLE_SHOW_CUSTOM_STATS="1")
        seen[callback] = (status, written(out), written(err))
    assert "PLAY RECAP" in seen["default"][1]
    assert ("+one" if "--check" in words else "FAILED - RETRYING") in seen["default"][1]
    assert seen["gpuready.node.board"] == seen["default"]


SHORT = """\
- name: Provision
  hosts: all
  gather_facts: false
  tasks:
    - name: Install the driver
      ansible.builtin.include_role:
        name: nvidia_driver
    - name: Break one
      ansible.builtin.fail:
        msg: no such package
      when: inventory_hostname == 'gpu01'
"""


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (("-v",), {}),
        ((), {"CI": "true"}),
        ((), {"GPUREADY_BOARD": "off"}),
        ((), {"TERM": "dumb"}),
        (("--syntax-check",), {}),
        (("--list-hosts", "--list-tasks"), {}),
    ],
    ids=["v", "ci", "off", "dumb", "syntax", "list"],
)
def test_on_a_terminal_that_wants_no_board_the_output_is_the_default_callbacks(terminal, words, environ):
    terminal.write(SHORT)
    seen = {
        callback: terminal.shown(*words, callback=callback, environ=environ)
        for callback in ("default", "gpuready.node.board")
    }
    ours, default = seen["gpuready.node.board"], seen["default"]
    assert ours.status == default.status
    mask = rb"\d+:\d\d:\d\d\.\d+|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+"
    assert re.sub(mask, b"TIME", ours.raw) == re.sub(mask, b"TIME", default.raw)


def test_wrong_mode_is_one_error(terminal):
    terminal.write(SHORT)
    status, out, err = terminal.piped("gpuready.node.board", GPUREADY_BOARD="sometimes")
    assert status != 0
    assert "sometimes" in out + err and "mode" in out + err
