"""What is seen of workbenches: never a secret, and nothing asked where there never was one."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import quote

from gpuready.observe import docker, schema, workbenches

FOLDER = "/etc/gpuready/workbench/alice/"
QUERY = "/containers/json?all=1&filters=" + quote(json.dumps({"label": [workbenches.LABEL_USER]}))
SHOW = (
    "Id=gpuready-workbench-alice.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n"
    "Result=success\nNRestarts=2\n"
)
DETAILS = {
    "Id": "6c8f",
    "Image": "sha256:one",
    "State": {"Running": True, "StartedAt": "2026-11-23T13:33:19Z"},
    "Config": {"Image": "gpuready/x:1", "Labels": {"io.gpuready.config": "c1", "owner": "alice"}},
    "HostConfig": {
        "PortBindings": {"8888/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8888"}], "9/tcp": None}
    },
}


def there(machine: Any, **access: Any) -> None:
    home = machine.mkdir("/srv/gpuready/home/alice")
    data = {"home": "/srv/gpuready/home/alice", "auth": "token", "tls": None, **access}
    machine.write(FOLDER + "workbench.json", json.dumps(data))
    machine.write(FOLDER + "token", "s3cret-s3cret\n", 0o600)
    for kind in workbenches.HOST_KEYS:
        machine.write(FOLDER + f"ssh_host_keys/ssh_host_{kind}_key", "private", 0o600)
        machine.write(FOLDER + f"ssh_host_keys/ssh_host_{kind}_key.pub", "public", 0o644)
    machine.answer("systemctl show", SHOW)
    machine.api[QUERY] = [{"Id": "6c8f", "Labels": {"io.gpuready.workbench": "alice"}}]
    machine.api["/containers/6c8f/json"] = DETAILS
    assert home.is_dir()


def seen(machine: Any, sock: str | None = docker.SOCKET) -> list[dict[str, Any]]:
    rows = workbenches.workbenches(machine.node, sock)
    found: list[str] = []
    schema._check(schema.GPU_STACK["application"]["workbenches"], rows, "workbenches", found)
    assert found == []
    return rows


def test_node_that_never_had_one_is_not_asked(machine: Any) -> None:
    assert seen(machine) == [] and machine.asked == []


def test_workbench_is_described_and_its_secret_is_not(machine: Any) -> None:
    there(machine)
    (row,) = seen(machine)
    assert row["unit"] == {"active": True, "enabled": True, "result": "success"}
    assert row["container"] == {
        "id": "6c8f",
        "running": True,
        "image": "gpuready/x:1",
        "image_id": "sha256:one",
        "config": "c1",
        "ports": [8888],
        "restarts": 2,
        "started_at": "2026-11-23T13:33:19Z",
    }
    assert row["token"] == {
        "auth": "token",
        "exists": True,
        "mode": "0600",
        "uid": os.geteuid(),
        "length": 13,
    }
    assert row["home"] == {"exists": True, "path": "/srv/gpuready/home/alice", "uid": os.geteuid()}
    assert "s3cret" not in json.dumps(row)


def test_host_keys_count_when_all_are_there_and_closed(machine: Any) -> None:
    there(machine)
    assert seen(machine)[0]["host_keys"] is (os.geteuid() == 0)
    machine.write(FOLDER + "ssh_host_keys/ssh_host_rsa_key", "private", 0o644)
    assert seen(machine)[0]["host_keys"] is False


def test_dockerd_that_is_down_leaves_the_rest(machine: Any) -> None:
    there(machine)
    (row,) = seen(machine, None)
    assert row["container"] is None and row["token"]["exists"]


def test_container_without_files_is_seen(machine: Any) -> None:
    machine.write("/var/lib/gpuready/gpu_workbench.json", "{}")
    machine.answer("systemctl show", "Id=gpuready-workbench-alice.service\nLoadState=not-found\n")
    machine.api[QUERY] = [{"Id": "6c8f", "Labels": {"io.gpuready.workbench": "alice"}}]
    machine.api["/containers/6c8f/json"] = DETAILS
    (row,) = seen(machine)
    assert row["container"]["running"] and row["token"] is None and row["home"]["path"] is None


def test_broken_workbench_json_is_like_none(machine: Any) -> None:
    there(machine)
    machine.write(FOLDER + "workbench.json", "{")
    assert seen(machine)[0]["token"] is None


def test_certificate_is_compared_with_the_nodes_own(machine: Any) -> None:
    there(machine, tls={"certificate": "/c.pem", "key": "/k.pem"})
    assert seen(machine)[0]["certificate_current"] is False
    machine.write("/c.pem", "one")
    machine.write(FOLDER + "tls.crt", "one")
    assert seen(machine)[0]["certificate_current"] is True
    machine.write("/c.pem", "two")
    assert seen(machine)[0]["certificate_current"] is False


def test_password_is_looked_for_where_it_is(machine: Any) -> None:
    there(machine, auth="password")
    assert seen(machine)[0]["token"]["exists"] is False
    machine.write("/etc/gpuready/workbench-passwords/alice", "x" * 43, 0o600)
    assert seen(machine)[0]["token"]["length"] == 43
