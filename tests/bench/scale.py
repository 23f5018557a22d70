#!/usr/bin/env python3
"""What one more node costs: runs over 1, 8, 32 and 64 light lab nodes, beside as many bare SSH logins.

Use: ``python tests/bench/scale.py [--nodes 1,8,32,64] [--forks N] [--tune] [--workers 1,2] [--json FILE]``
with the lab up.

It makes a node (gpulab-scale-model), provisions it, copies it as it is then (``labctl node-up --light``)
and removes everything again. Light nodes have a systemd, an SSH server, packages and files of their own;
their Docker Engine only repeats what the model's answered.

* bare: ``ssh node python3 -c pass`` to each, as many at once as Ansible has forks.
* observe + plan: playbooks/plan.yml. converged: playbooks/provision.yml, which finds nothing to do.
* wall, and its ratio to bare. cpu: of ansible-playbook and all its children, SSH clients included; each:
  per node. memory: the most that all these processes had at once.
* nodes' cpu: what the nodes themselves computed, sshd included. In the lab it is spent on the same
  processors; sixty-four real nodes have their own. A wall time of the lab is about (cpu + nodes' cpu) /
  processors.
* modules, ssh: modules and SSH commands per node.

With ``--given 1,64,256,500``: only the controller's part, without any node or lab: so many nodes are
planned for from a recorded observation, and reported.

With ``--tune``: the largest number of nodes once more with other settings than ansible.cfg's, one by one.
With ``--workers``: the same job over so many execution nodes (``gpuready distribute``).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from dataclasses import asdict, dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

import cost
from gpuready import distribute
from kit import LAB, ROOT
from kit.execution_nodes import INSTALL, address, pinned
from kit.nodes import Node, down_all, engine_environment, labctl, up_all
from kit.recorded import FIXTURES
from kit.runs import inventory_file, player

REGISTRY = "gpulab-registry:5000"
#: The workload's image is a stand-in: nothing here is verified by running it.
SMALL = {
    "framework_image_registry_mirror": f"{REGISTRY}/standin",
    "docker_engine_daemon_config": {"insecure-registries": [REGISTRY]},
}
PLAYBOOKS = {"observe + plan": "playbooks/plan.yml", "converged": "playbooks/provision.yml"}
#: Settings beside ansible.cfg's own, one by one.
OTHERWISE = {
    "as ansible.cfg says": {},
    "forks 5, Ansible's default": {"ANSIBLE_FORKS": "5"},
    "forks 10": {"ANSIBLE_FORKS": "10"},
    "forks 50": {"ANSIBLE_FORKS": "50"},
    "no pipelining": {"ANSIBLE_PIPELINING": "0"},
    "no connection reuse": {"ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ServerAliveInterval=30"},
}
CPUACCT = (Path("/sys/fs/cgroup/cpuacct/docker"), Path("/sys/fs/cgroup/system.slice"))


@dataclass
class Row:
    """One run over some nodes."""

    nodes: int
    what: str
    rc: int
    wall: float
    ratio: float | None
    cpu: float
    memory_mib: float | None
    nodes_cpu: float | None
    modules: float
    ssh: float


def nodes_seconds(containers: Sequence[str]) -> float | None:
    """Processor time of these containers so far; None where the machine does not tell."""
    total = 0
    for container in containers:
        for path in (
            CPUACCT[0] / container / "cpuacct.usage",
            CPUACCT[1] / f"docker-{container}.scope" / "cpu.stat",
        ):
            if path.exists():
                text = path.read_text()
                total += int(text) if path.name == "cpuacct.usage" else 1000 * int(text.split()[1])
                break
        else:
            return None
    return total / 1e9


def container_ids(nodes: Sequence[Node]) -> list[str]:
    """Full ids, as cgroups are named by."""
    done = subprocess.run(
        ["docker", "inspect", "--format", "{{.Id}}", *(node.name for node in nodes)],
        env=engine_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def bare(nodes: Sequence[Node], at_once: int) -> tuple[float, float]:
    """Wall and processor seconds of one login and one idle Python per node, without Ansible."""

    def login(node: Node) -> None:
        reached = node.connection
        options = {
            "UserKnownHostsFile": reached["known_hosts"],
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "Port": reached["port"],
            "ControlPath": "none",
        }
        subprocess.run(
            [
                "ssh",
                "-i",
                reached["identity_file"],
                *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
                f"{reached['user']}@{reached['host']}",
                "python3 -c pass",
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
        )

    before, started = getrusage(RUSAGE_CHILDREN), time.monotonic()
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        list(pool.map(login, nodes))
    wall, after = time.monotonic() - started, getrusage(RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Fleet:
    """The light nodes, and what is measured on them."""

    def __init__(self, nodes: Sequence[Node], folder: Path, forks: int) -> None:
        self.nodes, self.folder, self.forks = list(nodes), folder, forks
        self.containers = dict(zip((node.name for node in nodes), container_ids(nodes), strict=True))

    def _nodes_cpu(self, nodes: Sequence[Node]) -> float | None:
        return nodes_seconds([self.containers[node.name] for node in nodes])

    def bare(self, count: int) -> Row:
        """SSH alone."""
        nodes = self.nodes[:count]
        cost.say(f"{count}: bare …")
        before = self._nodes_cpu(nodes)
        wall, cpu = bare(nodes, self.forks)
        used = self._used(nodes, before)
        return Row(count, "bare ssh", 0, wall, None, cpu, None, used, 0, 1)

    def play(self, count: int, what: str, playbook: str, environment: dict[str, str]) -> Row:
        """A playbook over some of them."""
        nodes = self.nodes[:count]
        cost.say(f"{count}: {what} …")
        extra = {node.name: SMALL for node in nodes}
        inventory = inventory_file(self.folder / "fleet.json", nodes, extra)
        before = self._nodes_cpu(nodes)
        paid = cost.playbook(
            playbook,
            *("-i", str(LAB), "-i", str(inventory), "--limit", ",".join(extra)),
            environment={
                "ANSIBLE_FORKS": str(self.forks),
                "GPUREADY_ARTIFACTS_DIR": str(self.folder / "artifacts"),
                **environment,
            },
        )
        if paid.rc:
            cost.say(paid.output[-6000:])
        return Row(
            nodes=count,
            what=what,
            rc=paid.rc,
            wall=paid.wall,
            ratio=None,
            cpu=paid.cpu,
            memory_mib=paid.memory_mib,
            nodes_cpu=self._used(nodes, before),
            modules=paid.modules.total() / count,
            ssh=paid.commands.total() / count,
        )

    def _used(self, nodes: Sequence[Node], before: float | None) -> float | None:
        after = self._nodes_cpu(nodes)
        return None if before is None or after is None else after - before


def measure(fleet: Fleet, sizes: Sequence[int]) -> list[Row]:
    """Every number of nodes: bare logins, then the playbooks."""
    fleet.bare(max(sizes))  # the first login to a node costs it more than the next ones
    rows = []
    for count in sizes:
        plain = fleet.bare(count)
        rows.append(plain)
        for what, playbook in PLAYBOOKS.items():
            row = fleet.play(count, what, playbook, {})
            row.ratio = row.wall / plain.wall
            rows.append(row)
    return rows


def tune(fleet: Fleet, count: int) -> list[Row]:
    """The same observation with other settings, one by one."""
    return [
        fleet.play(count, what, PLAYBOOKS["observe + plan"], environment)
        for what, environment in OTHERWISE.items()
    ]


#: Everything of an observing run but the nodes.
GIVEN = """
- name: Plan from a recorded observation
  hosts: gpu_nodes
  gather_facts: false
  vars:
    recorded: "{{ lookup('ansible.builtin.file', '%s') | from_json }}"
  tasks:
    - name: Plan
      gpuready.node.gpu_plan:
        observed: "{{ recorded }}"
"""


def given(counts: Sequence[int], forks: int) -> list[Row]:
    """The controller's part of observing so many nodes."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="gpuready-given-") as name:
        folder = Path(name)
        (folder / "plan.yml").write_text(GIVEN % (FIXTURES / "a100-jammy-converged.json"))
        for count in counts:
            cost.say(f"{count}: given …")
            hosts: dict[str, dict[str, str]] = {f"node{number}": {} for number in range(count)}
            (folder / "hosts.json").write_text(json.dumps({"gpu_nodes": {"hosts": hosts}}))
            paid = cost.playbook(
                str(folder / "plan.yml"),
                *("-i", str(folder / "hosts.json")),
                environment={
                    "ANSIBLE_FORKS": str(forks),
                    "GPUREADY_ARTIFACTS_DIR": str(folder / "artifacts"),
                },
            )
            if paid.rc:
                cost.say(paid.output[-6000:])
            row = Row(count, "given, plan", paid.rc, paid.wall, None, paid.cpu, paid.memory_mib, 0.0, 0, 0)
            rows.append(row)
    return rows


@dataclass
class Shared:
    """One run in slices."""

    workers: int
    nodes: int
    ok: bool
    wall: float
    #: Processor time of this machine's part, and of each execution node.
    cpu: float
    workers_cpu: list[float]


def share(fleet: Fleet, counts: Sequence[int], folder: Path) -> list[Shared]:
    """Observe and plan over execution nodes, each of which takes a slice."""
    cost.say(f"{max(counts)} execution nodes …")
    wanted = [{"name": f"scale-exec{number}", "gpus": ""} for number in range(1, max(counts) + 1)]
    made = up_all(wanted, jobs=2)
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.sh(INSTALL), made))
        inventory, ssh_config = folder / "slices.json", folder / "ssh_config"
        known = folder / "known_hosts"
        known.write_text(pinned(fleet.nodes))
        # As the execution nodes see them: by their own addresses.
        extra = {
            node.name: {
                **SMALL,
                "ansible_host": address(node),
                "ansible_port": 22,
                "ansible_ssh_common_args": node.inventory_variables["ansible_ssh_common_args"].replace(
                    node.connection["known_hosts"], str(known)
                ),
            }
            for node in fleet.nodes
        }
        inventory_file(inventory, fleet.nodes, extra)
        ssh_config.write_text(
            "".join(
                f"Host {node.name}\n  HostName {node.connection['host']}\n  Port {node.connection['port']}\n"
                f"  User {node.connection['user']}\n  IdentityFile {node.connection['identity_file']}\n"
                f"  UserKnownHostsFile {node.connection['known_hosts']}\n  IdentitiesOnly yes\n"
                for node in made
            )
        )
        ids = container_ids(made)
        return [one_share(fleet, made[:count], ids[:count], inventory, ssh_config) for count in counts]
    finally:
        down_all(made)


def one_share(
    fleet: Fleet, workers: Sequence[Node], ids: Sequence[str], inventory: Path, ssh_config: Path
) -> Shared:
    """One run in as many slices as there are execution nodes."""
    cost.say(f"{len(fleet.nodes)} nodes over {len(workers)} execution node(s) …")
    before = [nodes_seconds([name]) or 0.0 for name in ids]
    used, started = cpu_so_far(), time.monotonic()
    done = distribute.distribute(
        "plan",
        inventory=[LAB, inventory],
        limit=[node.name for node in fleet.nodes],
        workers=[distribute.Worker(node.name, node.name) for node in workers],
        ssh_config=ssh_config,
        runner="/opt/runner/bin/ansible-runner",
        artifacts=fleet.folder / "artifacts",
        forks=fleet.forks,
        timeout=1800,
    )
    wall = time.monotonic() - started
    spent = [(nodes_seconds([name]) or 0.0) - past for name, past in zip(ids, before, strict=True)]
    return Shared(len(workers), len(fleet.nodes), done.result.ok, wall, cpu_so_far() - used, spent)


def cpu_so_far() -> float:
    """Processor time of this process and its children that have ended."""
    both = [getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def shares_table(rows: Sequence[Shared]) -> str:
    """The numbers, aligned."""
    lines = [["execution nodes", "nodes", "wall s", "cpu here s", "cpu of each execution node s"]]
    for row in rows:
        each = " + ".join(f"{seconds:.1f}" for seconds in row.workers_cpu)
        count = f"{row.workers}{'' if row.ok else ' (failed)'}"
        lines.append([count, str(row.nodes), f"{row.wall:.1f}", f"{row.cpu:.1f}", each])
    return cost.table(lines)


def model(folder: Path) -> Node:
    """A provisioned node to be copied."""
    from standin import publish

    publish()
    cost.say("the model …")
    made = Node.up("scale-model", gpus="a100", os="ubuntu-22.04")
    try:
        run = player(folder / "model", [made], {made.name: SMALL})("site.yml")
        if run.rc:
            raise RuntimeError(f"the model could not be provisioned:\n{run.output[-4000:]}")
        # A container that has ended would be an image's user, which a copy has not.
        made.sh("docker container prune --force")
    except BaseException:
        made.down()
        raise
    return made


def copies(count: int, of: Node) -> list[Node]:
    """Light nodes."""
    cost.say(f"{count} copies …")
    started = time.monotonic()
    said = labctl("node-up", "scale", "--light", "--like", of.name, "--count", str(count), "--json")
    made = [Node(row["name"], row) for row in json.loads(said[said.index("[\n") :])]
    cost.say(f"{count} light nodes after {time.monotonic() - started:.0f} s")
    return made


def table(rows: Sequence[Row]) -> str:
    """The numbers, aligned."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    lines = [
        [
            "nodes",
            "run",
            "wall s",
            "x bare",
            "cpu s",
            "each ms",
            "memory MiB",
            "nodes' cpu s",
            "modules",
            "ssh",
        ]
    ]
    for row in rows:
        lines.append(
            [
                str(row.nodes),
                row.what + ("" if row.rc == 0 else f" (ended with {row.rc})"),
                f"{row.wall:.1f}",
                number(row.ratio, ".1f"),
                f"{row.cpu:.1f}",
                f"{1000 * row.cpu / row.nodes:.0f}",
                number(row.memory_mib, ".0f"),
                number(row.nodes_cpu, ".1f"),
                f"{row.modules:g}",
                f"{row.ssh:g}",
            ]
        )
    return cost.table(lines)


def configured_forks() -> int:
    """ansible.cfg's."""
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT / "ansible.cfg")
    return parser.getint("defaults", "forks")


def main() -> int:
    """Make nodes, run, print, remove."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", default="1,8,32,64", help="numbers of nodes (default: %(default)s)")
    parser.add_argument(
        "--forks", type=int, default=configured_forks(), help="default: ansible.cfg's %(default)s"
    )
    parser.add_argument("--given", default="", help="the controller's part alone, for so many nodes; no lab")
    parser.add_argument("--workers", default="", help="also over so many execution nodes, such as 1,2")
    parser.add_argument("--tune", action="store_true", help="also other settings than ansible.cfg's")
    parser.add_argument(
        "--keep", action="store_true", help="leave the nodes, and use them again the next time"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    sizes = sorted({int(word) for word in options.nodes.split(",")})
    if options.given:
        rows = given([int(word) for word in options.given.split(",")], options.forks)
        print(f"{os.cpu_count()} processors, forks {options.forks}\n{table(rows)}")
        return max(row.rc for row in rows)
    workers = sorted({int(word) for word in options.workers.split(",") if word})
    # Where the lab's group variables find .lab/, also for what is read in this process.
    os.environ["MOLECULE_PROJECT_DIRECTORY"] = str(ROOT)
    with tempfile.TemporaryDirectory(prefix="gpuready-scale-") as name:
        folder = Path(name)
        there = Node.all()
        names = [f"gpulab-scale-{number}" for number in range(1, max(sizes) + 1)]
        nodes = [there[name] for name in names if name in there]
        try:
            if len(nodes) < max(sizes):
                original = model(folder)
                try:
                    nodes = copies(max(sizes), original)
                finally:
                    original.down()
            fleet = Fleet(nodes, folder, options.forks)
            rows = measure(fleet, sizes)
            print(f"{os.cpu_count()} processors, forks {options.forks}\n{table(rows)}", flush=True)
            tuned = tune(fleet, max(sizes)) if options.tune else []
            if tuned:
                print(f"\nobserve + plan\n{table(tuned)}", flush=True)
            shared = share(fleet, workers, folder) if workers else []
            if shared:
                print(f"\nobserve + plan in slices\n{shares_table(shared)}", flush=True)
        finally:
            if not options.keep:
                labctl("node-down", *names)
    if options.json:
        numbers = {
            "runs": [asdict(row) for row in rows],
            "tuned": [asdict(row) for row in tuned],
            "slices": [asdict(part) for part in shared],
        }
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")
    failed = any(row.rc for row in [*rows, *tuned]) or not all(row.ok for row in shared)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
