"""gpuready's own files, units and who listens where."""

from __future__ import annotations

import hashlib

import pytest
from gpuready.observe import application

TCP = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"


def socket_row(address: str, inode: int, state: str = "0A") -> str:
    return (
        f"   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 {inode} 1 0 100"
    )


def test_who_listens_is_found_by_the_socket(machine):
    machine.write(
        "/proc/net/tcp", f"{TCP}\n{socket_row('0100007F:22B8', 4711)}\n{socket_row('00000000:0016', 12)}\n"
    )
    machine.write("/proc/812/comm", "docker-proxy\n")
    machine.link("/proc/812/fd/0", "/dev/null")
    machine.link("/proc/812/fd/4", "socket:[4711]")
    # A child that holds the same socket is not named in its place.
    machine.write("/proc/900/comm", "child\n")
    machine.link("/proc/900/fd/4", "socket:[4711]")
    assert application.listening(machine.node) == [
        {"address": "0.0.0.0", "port": 22, "process": None, "pid": None},
        {"address": "127.0.0.1", "port": 8888, "process": "docker-proxy", "pid": 812},
    ]


def test_ipv6_is_read_and_connections_are_no_listeners(machine):
    machine.write("/proc/net/tcp", f"{TCP}\n{socket_row('0100007F:22B8', 4711, state='01')}\n")
    machine.write("/proc/net/tcp6", f"{TCP}\n{socket_row('00000000000000000000000001000000:22B9', 5)}\n")
    assert application.listening(machine.node) == [
        {"address": "::1", "port": 8889, "process": None, "pid": None}
    ]


def test_node_without_a_network_listens_nowhere(machine):
    assert application.listening(machine.node) == []


@pytest.mark.parametrize(
    ("path", "mode", "hashed"),
    [
        ("/etc/gpuready/health/health.json", 0o644, True),
        ("/usr/local/lib/gpuready/gpuready-health.pyz", 0o755, True),
        ("/etc/systemd/system/gpuready-health-check.timer", 0o644, True),
        ("/etc/gpuready/workbench/alice/token", 0o600, False),
        ("/etc/gpuready/workbench/alice/group_may_read", 0o640, True),
    ],
)
def test_file_is_described_and_a_secret_has_no_digest(machine, path, mode, hashed):
    machine.write(path, "content", mode)
    found = application.files(machine.node)[path]
    assert found["mode"] == f"{mode:04o}"
    assert found["link"] is None
    assert found["sha256"] == (hashlib.sha256(b"content").hexdigest() if hashed else None)


def test_others_files_byte_code_and_links_targets_are_left_out(machine):
    machine.write("/etc/systemd/system/ssh.service", "")
    machine.write("/usr/local/lib/gpuready/__pycache__/pynvml.cpython-311.pyc", "")
    machine.write("/etc/elsewhere", "secret")
    machine.link("/etc/gpuready/workbench/alice/token", "/etc/elsewhere")
    found = application.files(machine.node)
    assert list(found) == ["/etc/gpuready/workbench/alice/token"]
    assert found["/etc/gpuready/workbench/alice/token"]["link"] == "/etc/elsewhere"
    assert found["/etc/gpuready/workbench/alice/token"]["sha256"] is None


def test_bare_node_has_nothing_of_gpuready_and_systemd_is_not_asked(machine):
    assert application.files(machine.node) == {}
    assert application.units(machine.node) == {}
    assert machine.asked == []


def test_units_are_asked_for_in_one_question(machine):
    for name in ("gpuready-health-check.timer", "gpuready-x@.service", "ssh.service"):
        machine.write(f"/etc/systemd/system/{name}", "")
    machine.answer(
        "systemctl",
        "Id=gpuready-health-check.timer\nLoadState=loaded\nActiveState=active\nSubState=waiting\n"
        "UnitFileState=enabled\nResult=success\n",
    )
    assert application.units(machine.node) == {
        "gpuready-health-check.timer": {
            "active": True,
            "enabled": True,
            "sub_state": "waiting",
            "result": "success",
        }
    }
    assert len(machine.asked) == 1
