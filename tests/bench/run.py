#!/usr/bin/env python3
"""Measure whole runs on fresh lab nodes and print what they cost. Printed, not asserted.

Use: ``python tests/bench/run.py [--nodes 1] [--json FILE]`` with the lab up. It makes its own nodes
(gpulab-bench-*) and removes them again. With ``--paths``: the driver's role alone on every install path, from
nothing and as a switch.

How each number is taken:

* wall: around ``ansible-playbook``, on this machine, with whatever else it does.
* modules: modules run on the node, from Ansible's own -vvv trace of what went over SSH.
* ssh: connections that the node's sshd accepted. Ansible keeps one open and runs everything through it.
* apt: transactions in the node's apt history that installed or upgraded something.
* overlap: how long the image was being pulled while apt installed the driver, from the run's log and
  from dockerd's events.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kit import LAB, ROOT
from kit.nodes import Node
from kit.runs import inventory_file

MODELS = (("a100", "ubuntu-22.04"), ("t4", "ubuntu-24.04"))
RUNS = (
    ("cold site.yml", "site.yml"),
    ("converged site.yml", "site.yml"),
    ("converged, no verification", "playbooks/provision.yml"),
    ("plan.yml", "playbooks/plan.yml"),
)
IMAGE_TASK = "framework_image : Begin to fetch the images"
DRIVER_TASK = "nvidia_driver : Install the driver's packages"
#: Install path: system, wishes of the first run, wishes of the switch.
PATHS: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "ubuntu, precompiled": (
        "ubuntu-22.04",
        {"nvidia_driver_source": "ubuntu"},
        {"nvidia_driver_source": "ubuntu", "nvidia_driver_branch": "570"},
    ),
    "ubuntu, DKMS": (
        "ubuntu-22.04",
        {"nvidia_driver_source": "ubuntu", "nvidia_driver_version": "580.82.07"},
        {"nvidia_driver_source": "ubuntu", "nvidia_driver_version": "535.247.01"},
    ),
    "cuda_repo": (
        "ubuntu-22.04",
        {"nvidia_driver_source": "cuda_repo", "nvidia_driver_branch": "580"},
        {"nvidia_driver_source": "cuda_repo", "nvidia_driver_branch": "595"},
    ),
    "debian": (
        "debian-12",
        {"nvidia_driver_source": "debian"},
        {"nvidia_driver_source": "debian", "nvidia_driver_flavour": "open"},
    ),
}


@dataclass
class Cost:
    """What one node cost in one run."""

    node: str
    modules: int
    ssh: int
    apt: int
    changed: int
    overlap: str = ""


@dataclass
class Measured:
    """One run."""

    what: str
    rc: int
    wall: float
    nodes: list[Cost] = field(default_factory=list)


def ssh_connections(node: Node) -> int:
    """Logins that sshd accepted since the node booted."""
    log = node.sh("journalctl --quiet --boot --identifier sshd --identifier sshd-session")
    return log.count("Accepted publickey")


#: How a module reaches a node: as the standard input of a python (pipelining), or as a file of its own.
MODULE = re.compile(r"/python3?[\d.]*['\"]*\s*&& sleep 0|/python3?[\d.]* \S*AnsiballZ_")


def modules_run(trace: str, node: Node) -> int:
    """Modules that Ansible ran on the node, one SSH command each."""
    port = f"Port={node.connection['port']} "
    commands = [line for line in trace.splitlines() if "SSH: EXEC" in line and port in line]
    return sum(1 for command in commands if MODULE.search(command))


def task_times(log: str, task: str) -> tuple[datetime | None, datetime | None]:
    """When a task began, and when the next one did, from the timestamps of Ansible's log."""
    begun: datetime | None = None
    for line in log.splitlines():
        match = re.match(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) .*? TASK \[(.*)\] \*", line)
        if not match:
            continue
        moment = datetime.strptime(match.group(1), "%Y-%m-%d %H:%M:%S,%f")
        if begun is not None:
            return begun, moment
        if match.group(2).startswith(task):
            begun = moment
    return begun, None


def pulled_at(node: Node, since: float) -> datetime | None:
    """When dockerd finished its last pull."""
    said = node.sh(
        f"docker events --since {int(since)} --until $(date +%s) --filter type=image --filter event=pull "
        "--format '{{.TimeNano}}' 2>/dev/null || true"
    ).split()
    return datetime.fromtimestamp(int(said[-1]) / 1e9) if said else None


def overlap(log: str, node: Node, since: float) -> str:
    """How much of the driver's installation the pull ran beside."""
    pull_start, _ = task_times(log, IMAGE_TASK)
    driver_start, driver_end = task_times(log, DRIVER_TASK)
    pull_end = pulled_at(node, since)
    if not (pull_start and pull_end and driver_start and driver_end):
        return "not measured"
    both = (min(pull_end, driver_end) - max(pull_start, driver_start)).total_seconds()
    pull, driver = (pull_end - pull_start).total_seconds(), (driver_end - driver_start).total_seconds()
    return f"{max(0.0, both):.0f} s of {driver:.0f} s driver install, within a pull of {pull:.0f} s"


def measure(what: str, playbook: str, nodes: list[Node], folder: Path, *arguments: str) -> Measured:
    """Run a playbook on the nodes and take all numbers."""
    print(f"{what} …", file=sys.stderr, flush=True)
    before = {node.name: (node.apt_transactions(), ssh_connections(node)) for node in nodes}
    inventory = inventory_file(folder / "nodes.json", nodes)
    log = folder / f"{re.sub(r'[^a-z]+', '-', what)}.log"
    # A connection that an earlier run left open would hide what this one needs.
    control = folder / f"cp{time.monotonic_ns()}"
    since, started = time.time(), time.monotonic()
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible-playbook"),
            playbook,
            *(
                "-i",
                str(LAB),
                "-i",
                str(inventory),
                "--limit",
                ",".join(node.name for node in nodes),
            ),
            "-vvv",
            *arguments,
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_LOG_PATH": str(log),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(control),
            "ANSIBLE_NOCOLOR": "1",
            "GPUREADY_ARTIFACTS_DIR": str(folder / "artifacts"),
            "MOLECULE_PROJECT_DIRECTORY": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.monotonic() - started
    fleet = json.loads((folder / "artifacts" / "latest" / "fleet.json").read_text())
    measured = Measured(what, done.returncode, wall)
    text = log.read_text()
    for node in nodes:
        apt, ssh = before[node.name]
        measured.nodes.append(
            Cost(
                node=node.name,
                modules=modules_run(done.stdout, node),
                ssh=ssh_connections(node) - ssh,
                apt=node.apt_transactions() - apt,
                changed=len(fleet["nodes"][node.name]["changed_tasks"]),
                overlap=overlap(text, node, since) if what.startswith("cold") else "",
            )
        )
    if done.returncode:
        print(done.stdout[-4000:], file=sys.stderr)
    return measured


def measure_paths(folder: Path) -> list[Measured]:
    """Every install path on a node of its own: from nothing, then switched."""
    runs = []
    for n, (path, (os_, *steps)) in enumerate(PATHS.items(), 1):
        node = Node.up(f"bench-path-{n}", gpus="a100", os=os_)
        try:
            for what, wishes in zip(("from nothing", "switch"), steps, strict=True):
                variables = json.dumps({"role": "nvidia_driver", **wishes})
                runs.append(measure(f"{path}: {what}", "playbooks/role.yml", [node], folder, "-e", variables))
        finally:
            node.down()
    return runs


def table(runs: list[Measured]) -> str:
    """The numbers, aligned."""
    rows: list[list[Any]] = [["run", "wall s", "node", "modules", "ssh", "apt", "changed", "rc"]]
    notes = []
    for run in runs:
        for n, cost in enumerate(run.nodes):
            head = [run.what, f"{run.wall:.1f}"] if n == 0 else ["", ""]
            rows.append([*head, cost.node, cost.modules, cost.ssh, cost.apt, cost.changed, run.rc])
            if cost.overlap:
                notes.append(f"{cost.node}: image pull beside {cost.overlap}")
    widths = [max(len(str(row[n])) for row in rows) for n in range(len(rows[0]))]
    lines = [
        "  ".join(str(cell).ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, "", *notes])


def main() -> int:
    """Make nodes, run, print, remove."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1, help="how many fresh nodes (default: 1)")
    parser.add_argument("--paths", action="store_true", help="the driver's install paths instead")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    runs: list[Measured] = []
    nodes: list[Node] = []
    with tempfile.TemporaryDirectory(prefix="gpuready-bench-") as name:
        folder = Path(name)
        try:
            if options.paths:
                runs += measure_paths(folder)
            for n in range(0 if options.paths else options.nodes):
                gpus, os_ = MODELS[n % len(MODELS)]
                print(f"node {n + 1} of {options.nodes} …", file=sys.stderr, flush=True)
                nodes.append(Node.up(f"bench-{n + 1}", gpus=gpus, os=os_))
            for what, playbook in RUNS if nodes else ():
                runs.append(measure(what, playbook, nodes, folder))
        finally:
            for node in nodes:
                node.down()
    print(table(runs))
    if options.json:
        options.json.write_text(json.dumps([asdict(run) for run in runs], indent=2) + "\n")
    return max(run.rc for run in runs)


if __name__ == "__main__":
    sys.exit(main())
