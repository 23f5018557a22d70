"""A run in slices on two real execution nodes: the report is that of a local run, and a worker may die.

The execution nodes are nodes of the lab with ansible-core and ansible-runner from the lab's own index, and
with nothing of gpuready, no key and no known host. Nodes and execution nodes see each other in the lab's
network, by addresses that this machine reaches as well, so that one inventory serves both runs.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gpuready import distribute, runs
from gpuready.distribute import Worker
from kit import LAB, ROOT
from kit.execution_nodes import INSTALL, address, pinned
from kit.nodes import Node, down_all, up_all

sys.path.insert(0, str(ROOT / "tests" / "faults"))

from standin import MIRROR, publish

#: What may differ between two runs on the same nodes, wherever they ran: a path in a node's file, and why.
MAY_DIFFER = {
    r"run": "the run's own name",
    r"(.+\.)?(seconds|uptime_seconds|lists_age_seconds)": "how long something took, or has lasted",
    r"gpu_stack\.container_runtime\.docker\.service\.started_at": "systemd's clock is rounded",
    r"timings\[.*|slow_tasks\[.*": "how long the stages took",
    r"gpu_stack\.host\.memory\.available_mib|gpu_stack\.disk\[\d+\]\.free_mib": "what is free at the moment",
    r"gpu_stack\.host\.kernel_log\.lines.*": "the machine's kernel goes on talking",
    r"verification\[\d+\]\.(command\[\d+\]|log)": "its container has a name of its own; logs have times",
    r"layers\.application\.version": "says how long the verification took",
}


@dataclass(frozen=True)
class Fleet:
    """Two execution nodes, two nodes, and how to reach them."""

    workers: dict[str, Node]
    nodes: list[Node]
    inventory: Path
    ssh_config: Path
    folder: Path

    def options(self, **more: Any) -> dict[str, Any]:
        """What runs here and runs in slices have in common."""
        return {
            "inventory": [LAB, self.inventory],
            "limit": [node.name for node in self.nodes],
            # The stand-in for TensorFlow: what is verified is not the point here.
            "variables": {"framework_image_registry_mirror": MIRROR},
            "artifacts": self.folder / "artifacts",
            "timeout": 900,
            **more,
        }

    def distribute(self, playbook: str, **more: Any) -> distribute.Distribution:
        """A run in slices."""
        return distribute.distribute(
            playbook,
            workers=[Worker(name, node.name) for name, node in self.workers.items()],
            ssh_config=self.ssh_config,
            runner="/opt/runner/bin/ansible-runner",
            **self.options(**more),
        )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Execution nodes, and bare nodes for them."""
    folder = tmp_path_factory.mktemp("distribute")
    publish()
    stem = f"dist-{os.getpid()}"
    known = up_all(
        [
            {"name": f"{stem}-exec1", "gpus": ""},
            {"name": f"{stem}-exec2", "gpus": ""},
            {"name": f"{stem}-n1", "gpus": "a100"},
            {"name": f"{stem}-n2", "gpus": "t4"},
        ],
        jobs=2,
    )
    try:
        workers, nodes = known[:2], known[2:]
        installing = [threading.Thread(target=node.sh, args=(INSTALL,)) for node in workers]
        for thread in installing:
            thread.start()
        for thread in installing:
            thread.join()
        (folder / "known_hosts").write_text(pinned(nodes), encoding="utf-8")
        hosts = {}
        for node in nodes:
            hosts[node.name] = {
                **node.inventory_variables,
                "ansible_host": address(node),
                "ansible_port": 22,
                "ansible_ssh_common_args": node.inventory_variables["ansible_ssh_common_args"].replace(
                    node.connection["known_hosts"], str(folder / "known_hosts")
                ),
            }
        (folder / "hosts.json").write_text(json.dumps({"gpu_nodes": {"hosts": hosts}}), encoding="utf-8")
        (folder / "ssh_config").write_text(
            "".join(
                f"Host {node.name}\n  HostName {node.connection['host']}\n  Port {node.connection['port']}\n"
                f"  User {node.connection['user']}\n  IdentityFile {node.connection['identity_file']}\n"
                f"  UserKnownHostsFile {node.connection['known_hosts']}\n  IdentitiesOnly yes\n"
                "  StrictHostKeyChecking yes\n"
                for node in workers
            ),
            encoding="utf-8",
        )
        yield Fleet(
            dict(zip(("exec1", "exec2"), workers, strict=True)),
            nodes,
            folder / "hosts.json",
            folder / "ssh_config",
            folder,
        )
    finally:
        down_all(known)


@pytest.fixture(autouse=True)
def _lab_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the lab's group variables find .lab/."""
    monkeypatch.setenv("MOLECULE_PROJECT_DIRECTORY", str(ROOT))
    for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        monkeypatch.delenv(name)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document with its path."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for n, item in enumerate(value):
            yield from leaves(item, f"{path}[{n}]")
    else:
        yield path, value


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The paths at which two documents differ."""
    first, second = dict(leaves(one)), dict(leaves(other))
    nothing = object()
    return {
        path: (first.get(path), second.get(path))
        for path in sorted({*first, *second})
        if first.get(path, nothing) != second.get(path, nothing)
    }


def test_two_execution_nodes_provision_and_verify_the_fleet(fleet: Fleet) -> None:
    done = fleet.distribute("site")
    result = done.result
    assert result.ok, [(node.host, node.error) for node in result.failed]
    assert result.totals == {"verified": 2}
    assert {part.worker for part in done.slices} == {"exec1", "exec2"}
    assert all(len(part.hosts) == 1 for part in done.slices)
    for node in result.nodes.values():
        assert node.plan and node.plan["status"] == "converged"
        assert node.verifications[0]["gpus_listed"] == 1 and node.simulated
        assert node.changed_tasks
    assert {"report.html", "junit.xml", "fleet.csv", "fleet.json", "report.txt"} <= {
        path.name for path in result.folder.iterdir()
    }
    # The project, its inventory and all else are gone again; a private key has never been there.
    for node in fleet.workers.values():
        assert node.sh("ls -d /tmp/gpuready-slice-* 2>/dev/null || true") == ""
        assert node.sh("grep -rlE 'PRIVATE K[E]Y' /home /tmp /root 2>/dev/null || true") == ""
    # What travels is small: the project without its tests.
    assert all(part.transmitted_bytes < 3_000_000 for part in done.slices)


def test_report_is_that_of_a_local_run(fleet: Fleet) -> None:
    """On the same nodes, one after the other: all that differs is told above, with its reason."""
    spread = fleet.distribute("site").result
    local = runs.site(**fleet.options())
    assert spread.ok and local.ok
    assert spread.totals == local.totals and list(spread.nodes) == list(local.nodes)
    for name, node in local.nodes.items():
        found = differences(node.document, spread.nodes[name].document)
        unexplained = {
            path: values
            for path, values in found.items()
            if not any(re.fullmatch(pattern, path) for pattern in MAY_DIFFER)
        }
        assert unexplained == {}
    times = ("run", "seconds", "started", "finished", "timings", "nodes")
    fleets = [json.loads((result.folder / "fleet.json").read_text()) for result in (local, spread)]
    assert {key: value for key, value in fleets[0].items() if key not in times} == {
        key: value for key, value in fleets[1].items() if key not in times
    }
    files = [{path.name for path in result.folder.iterdir()} for result in (local, spread)]
    assert files[1] - files[0] == {"slices"} and files[0] <= files[1]


def test_worker_that_loses_its_power_costs_its_own_nodes_only(fleet: Fleet) -> None:
    cut = threading.Event()
    threads: list[threading.Thread] = []

    def listen(worker: str, line: str) -> None:
        if worker == "exec2" and line.startswith("TASK") and not cut.is_set():
            cut.set()
            threads.append(threading.Thread(target=fleet.workers["exec2"].cut_power))
            threads[0].start()

    done = fleet.distribute("plan", on_line=listen)
    threads[0].join()
    (lost,) = [part for part in done.slices if part.error]
    assert lost.worker == "exec2"
    for host, node in done.result.nodes.items():
        if host in lost.hosts:
            assert node.status == "unreachable"
            assert "the execution node exec2" in str(node.error) and "was lost while it worked" in str(
                node.error
            )
        else:
            assert node.status == "planned", node.error
    assert done.result.totals == {"unreachable": 1, "planned": 1} and not done.result.ok
    # It is back, and so are its nodes.
    again = fleet.distribute("plan", limit=list(lost.hosts))
    assert again.result.ok
