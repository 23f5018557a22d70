#!/usr/bin/env python3
"""gpuready and a plain playbook do the same job on the same fresh lab node; what each costs is printed.

Use: ``python tests/bench/compare.py [--rounds 1] [--image small|tensorflow] [--json FILE]`` with the lab
up. Every contestant of every round has a node of its own (gpulab-compare-*), bare, of the same model, and
alone.

The job: a bare Ubuntu 22.04 with an A100 gets NVIDIA's driver 580 (precompiled, open), Docker CE, the
container toolkit and the workload's image, all from the lab's mirror, and the workload's framework names
its GPU. The yardstick is ``yardstick.yml``: what a competent admin writes from the install guides. Both run
with this repository's ansible.cfg: pipelining, one connection per node.

* cold: the bare node. converged: the same once more. converged again: and once more, so that a job that
  undoes and redoes its own work is seen.
* wall, cpu: of ansible-playbook and all its children on this machine, SSH clients included.
* modules: modules run on the node, one SSH command each. ssh: all SSH commands. apt: transactions in the
  node's apt history that installed or upgraded something. changed: by Ansible's own recap.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

import cost
from kit import LAB
from kit.nodes import Node
from kit.runs import inventory_file

REGISTRY = "gpulab-registry:5000"
RUNS = ("cold", "converged", "converged again")
#: Image of the workload as each contestant is told to find it.
IMAGES = {
    # TensorFlow itself: 4 GB, and its own import of three seconds.
    "tensorflow": REGISTRY,
    # A stand-in that answers as TensorFlow 2.9 would, and says that it is simulated.
    "small": f"{REGISTRY}/standin",
}


@dataclass
class Result:
    """One run of one contestant."""

    contestant: str
    run: str
    rc: int
    wall: float
    cpu: float
    memory_mib: float
    modules: int
    ssh: int
    apt: int
    changed: int


def contestants(image: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Playbook and variables of each."""
    mirror = IMAGES[image]
    return {
        "gpuready": (
            "site.yml",
            {
                "docker_engine_source": "docker_ce",
                "framework_image_registry_mirror": mirror,
                "docker_engine_daemon_config": {"insecure-registries": [REGISTRY]},
            },
        ),
        "yardstick": (
            "tests/bench/yardstick.yml",
            {
                "yardstick_docker_url": "http://gpulab-mirror/docker-ce/linux/ubuntu",
                "yardstick_toolkit_url": "http://gpulab-mirror/libnvidia-container",
                "yardstick_image": f"{mirror}/tensorflow/tensorflow:2.9.0-gpu",
                "yardstick_daemon": {"insecure-registries": [REGISTRY]},
            },
        ),
    }


def changed_tasks(output: str, node: Node) -> int:
    """Ansible's own count."""
    match = re.search(rf"^{re.escape(node.name)}\s+: ok=\d+\s+changed=(\d+)", output, re.MULTILINE)
    return int(match.group(1)) if match else -1


def play(
    contestant: str, playbook: str, variables: dict[str, Any], run: str, node: Node, folder: Path
) -> Result:
    """One run."""
    cost.say(f"{contestant}: {run} …")
    inventory = inventory_file(folder / "nodes.json", [node])
    file = folder / "variables.json"
    file.write_text(json.dumps(variables))
    before = node.apt_transactions()
    paid = cost.playbook(
        playbook,
        *("-i", str(LAB), "-i", str(inventory), "--limit", node.name, "-e", f"@{file}"),
        environment={"GPUREADY_ARTIFACTS_DIR": str(folder / "artifacts")},
    )
    if paid.rc:
        cost.say(paid.output[-4000:])
    port = int(node.connection["port"])
    return Result(
        contestant=contestant,
        run=run,
        rc=paid.rc,
        wall=paid.wall,
        cpu=paid.cpu,
        memory_mib=paid.memory_mib,
        modules=paid.modules[port],
        ssh=paid.commands[port],
        apt=node.apt_transactions() - before,
        changed=changed_tasks(paid.output, node),
    )


def play_round(number: int, image: str, folder: Path) -> list[Result]:
    """Each contestant on a fresh node; who begins changes from round to round."""
    results = []
    order = list(contestants(image).items())
    for name, (playbook, variables) in order if number % 2 else reversed(order):
        node = Node.up(f"compare-{name}", gpus="a100", os="ubuntu-22.04")
        try:
            results += [play(name, playbook, variables, run, node, folder) for run in RUNS]
        finally:
            node.down()
    return results


def summary(results: list[Result]) -> list[list[str]]:
    """A row per run and contestant, the median of the rounds, and how the two compare."""
    rows = [["run", "contestant", "wall s", "cpu s", "memory MiB", "modules", "ssh", "apt", "changed"]]
    for run in RUNS:
        both: dict[str, list[float]] = {}
        for name in ("yardstick", "gpuready"):
            found = [result for result in results if (result.contestant, result.run) == (name, run)]
            numbers = [
                statistics.median([getattr(result, key) for result in found])
                for key in ("wall", "cpu", "memory_mib", "modules", "ssh", "apt", "changed")
            ]
            both[name] = numbers
            cells = [f"{numbers[0]:.1f}", f"{numbers[1]:.1f}", *(f"{number:.0f}" for number in numbers[2:])]
            rows.append([run, name, *cells])
        ratios = [
            f"{theirs / ours:.1f}x" if ours and theirs else "-"
            for theirs, ours in zip(both["yardstick"], both["gpuready"], strict=True)
        ]
        rows.append(["", "yardstick : gpuready", *ratios])
    return rows


def main() -> int:
    """Make nodes, run, print, remove."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=1, help="how often everything (default: 1); the median counts"
    )
    parser.add_argument("--image", choices=sorted(IMAGES), default="small", help="default: small")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    if options.image == "small":
        from standin import publish

        cost.say(f"published {publish()}")
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="gpuready-compare-") as name:
        for number in range(1, options.rounds + 1):
            results += play_round(number, options.image, Path(name))
    print(cost.table(summary(results)))
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return max(result.rc for result in results)


if __name__ == "__main__":
    sys.exit(main())
