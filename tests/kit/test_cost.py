"""The benches' own counting: a number that is printed must be a number of what it is called."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

import cost

PIPELINED = (
    "-C -o ControlMaster=auto -o Port=22101 -o ControlPath=/tmp/cp/1 127.0.0.1 /bin/sh -c "
    "'sudo -H -S -n  -u root /bin/sh -c '\"'\"'echo BECOME-SUCCESS-x ; /usr/bin/python3'\"'\"' && sleep 0'"
)


@pytest.mark.parametrize(
    ("command", "is_module"),
    [
        (PIPELINED, True),
        ("-o Port=22101 127.0.0.1 /bin/sh -c '/usr/bin/python3.8 && sleep 0'", True),
        (
            "-o Port=22101 -tt 127.0.0.1 '/usr/bin/python3 /root/.ansible/t/AnsiballZ_copy.py && sleep 0'",
            True,
        ),
        ("-o Port=22101 127.0.0.1 /bin/sh -c 'echo ~ansible && sleep 0'", False),
        (
            "-o Port=22101 127.0.0.1 /bin/sh -c 'chmod u+rwx /root/.ansible/t/AnsiballZ_copy.py && sleep 0'",
            False,
        ),
        ("-o Port=22101 127.0.0.1 'dd of=/root/.ansible/t/source bs=65536'", False),
    ],
)
def test_modules_are_told_from_other_commands(command: str, is_module: bool) -> None:
    assert cost.runs_module(command) is is_module
    assert cost.port_of(command) == 22101


def test_cost_counts_the_processor_time_of_children_and_their_memory() -> None:
    busy = "x = bytearray(64 << 20)\nimport time\nwhile time.process_time() < 1: pass"
    started = time.monotonic()
    paid = cost.measure(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"]
    )
    assert paid.rc == 0, paid.output
    assert 1.0 <= paid.cpu < 3.0 and paid.wall <= time.monotonic() - started
    assert 64 <= paid.memory_mib < 200
    assert not paid.commands


def test_table_keeps_columns() -> None:
    lines = cost.table([["run", "wall s"], ["cold", "12.5"], ["converged", "3.0"]]).splitlines()
    assert lines == ["run        wall s", "cold         12.5", "converged     3.0"]
