"""A made-up fleet's run: recorded observations, the real planner's plans and the real diagnosis.

Only the names, the times and what was verified are invented, by a seed: the same fleet each time. Every
document says that it is simulated.
"""

from __future__ import annotations

import copy
import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuready import report
from gpuready.catalog import annotate, load_catalog
from gpuready.diagnosis import engine
from gpuready.diagnosis.knowledge import load_knowledge
from gpuready.planner import plan

from . import ROOT

OBSERVED = ROOT / "tests" / "fixtures" / "observed"
RUN = "20261123T020000Z-site"
TODAY = "2026-11-23"
#: Versions that converged nodes run, and how often.
DRIVERS = {"580.95.05": 86, "580.82.07": 9, "580.65.06": 5}
#: Usual seconds of a stage: of a node where all is done already, and of one that was worked on.
CONVERGED = {"observe": 2.1, "verify": 6.4}
WORKED = {
    "observe": 3.9,
    "host_prepare": 8.0,
    "docker_engine": 31.0,
    "nvidia_container_toolkit": 9.0,
    "framework_image": 74.0,
    "nvidia_driver": 96.0,
    "host_reboot": 41.0,
    "verify": 7.1,
}

Record = dict[str, Any]


@functools.cache
def _text(name: str) -> str:
    return (OBSERVED / f"{name}.json").read_text(encoding="utf-8")


@functools.cache
def _seen(name: str, driver: str, allowed: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recorded node, with another driver, and its plan."""
    stack = annotate(json.loads(_text(name).replace("580.95.05", driver)), load_catalog())
    wishes = {} if allowed else {"host_reboot_allowed": False}
    return stack, plan(stack, wishes, load_catalog(), host="node", today=TODAY)


def observed(host: str, name: str, *, driver: str = "580.95.05", allowed: bool = True) -> Record:
    """What a run knows of a node that is as this recorded one."""
    stack, todo = copy.deepcopy(_seen(name, driver, allowed))
    stack["host"]["hostname"] = host
    stack["driver"]["record"] = stack["driver"].get("record") or {"packages": []}
    return {
        "host": host,
        "simulated": True,
        "gpu_stack": stack,
        "first_gpu_stack": report.glimpse(stack),
        "plan": {**todo, "host": host, "simulated": True},
        "module_executions": 3,
    }


def diagnosed(record: Record) -> dict[str, Any]:
    """What the diagnosis says of what the run knows."""
    facts = {"gpu_stack": record["gpu_stack"], "plan": record["plan"]}
    return engine.diagnose(
        facts, knowledge=load_knowledge(), catalog=load_catalog(), host=record["host"], simulated=True
    )


def verification(record: Record, *, ok: bool = True, seconds: float = 5.1) -> dict[str, Any]:
    """What a container with TensorFlow said."""
    gpus = len(record["plan"]["gpus"])
    workload = record["plan"]["workloads"][0]
    findings = [
        {"layer": cause["layer"], "finding": cause["title"], "cause": cause["cause"]}
        | {key: cause[key] for key in ("evidence", "fix")}
        for cause in (record.get("diagnosis") or {}).get("causes", [])
        if cause["standing"] == "root"
    ]
    return {
        "schema": 1,
        "host": record["host"],
        "simulated": True,
        "workload": workload["name"],
        "place": "container",
        "image": workload["image"],
        "digest": f"{workload['image'].partition(':')[0]}@sha256:{'4f2a' * 16}",
        "level": "list",
        "launch": {"way": "gpus"},
        "ok": ok,
        "gpus_expected": gpus,
        "gpus_listed": gpus if ok else 0,
        "framework": {"name": "tensorflow", "version": "2.9.0", "cuda": "11.2", "cudnn": "8"},
        "seconds": round(seconds, 1),
        "findings": [] if ok else findings,
    }


def _converged(host: str, dice: random.Random) -> Record:
    driver = dice.choices(list(DRIVERS), list(DRIVERS.values()))[0]
    name = dice.choice(["a100-jammy-converged"] * 3 + ["t4-noble-converged"])
    return observed(host, name, driver=driver)


def _verified(host: str, dice: random.Random) -> Record:
    record = _converged(host, dice)
    record["verification"] = [verification(record, seconds=dice.uniform(3, 9))]
    return record


def _repaired(host: str, dice: random.Random) -> Record:
    """It had drifted, and was put right."""
    before = dice.choice(
        ["a100-jammy-hook-newer-than-dockerd", "a100-jammy-another-driver-loaded", "a100-jammy-user-settings"]
    )
    _stack, first = _seen(before, "580.95.05", True)
    record = _verified(host, dice) | {"first_plan": first, "observations": 2, "apt_transactions": 0}
    record["changed_tasks"] = [action["summary"] for action in first["actions"]]
    return record


def _new(host: str, dice: random.Random) -> Record:
    """It was bare, and everything was installed."""
    _stack, first = _seen("a100-jammy-bare", "580.95.05", True)
    record = _verified(host, dice) | {"first_plan": first, "observations": 2, "apt_transactions": 2}
    record |= {"first_gpu_stack": {"driver": {"record": False}}, "reboots": 1, "module_executions": 41}
    record["changed_tasks"] = [action["summary"] for action in first["actions"]]
    return record


def _failed(fixture: str) -> Callable[[str, random.Random], Record]:
    def made(host: str, dice: random.Random) -> Record:
        record = observed(host, fixture)
        record["diagnosis"] = diagnosed(record)
        record["verification"] = [verification(record, ok=False, seconds=dice.uniform(3, 9))]
        titles = [item["finding"] for item in record["verification"][0]["findings"]]
        record |= {"failed": True, "error_stage": "verify"}
        record["error"] = f"{host}: TensorFlow lists 0 of 1 GPUs.\n" + "\n".join(titles)
        return record

    return made


def _conflict(host: str, dice: random.Random) -> Record:
    record = observed(host, dice.choice(["a100-jammy-broken-daemon-json", "v100-jammy-595-installed"]))
    said = [f"{row['what']}\n  {'; '.join(row['options'])}" for row in record["plan"]["conflicts"]]
    return record | {"failed": True, "error": "\n".join(said), "error_stage": "observe"}


def _waiting(host: str, dice: random.Random) -> Record:
    record = observed(host, "a100-jammy-reboot-pending", allowed=False)
    return record | {"failed": True, "error": None}


def _rolled_back(host: str, dice: random.Random) -> Record:
    record = _verified(host, dice)
    loaded = record["gpu_stack"]["driver"]["loaded"]["version"]
    back = {"from": "595.71.05", "to": loaded, "why": "TensorFlow lists 0 of 1 GPUs", "verification": []}
    said = f"Driver 595.71.05 failed the verification on {host}, so driver {loaded} is back."
    return record | {
        "failed": True,
        "rolled_back": back,
        "error": said,
        "error_stage": "nvidia_driver",
        "reloads": 2,
    }


def _unreachable(host: str, dice: random.Random) -> Record:
    said = f"Observe the node and plan: ssh: connect to host {host} port 22: No route to host"
    return {"host": host, "unreachable": True, "error": said, "error_stage": "observe"}


def _stuck(host: str, dice: random.Random) -> Record:
    record = observed(host, "a100-jammy-dkms-only") | {"first_gpu_stack": {"driver": {"record": False}}}
    said = (
        "Install the driver: apt-get failed with 100\n"
        "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 812 (unattended-upgr)\n"
    )
    return record | {"failed": True, "error": said, "error_stage": "nvidia_driver"}


#: What becomes of nodes, and of how many in a thousand.
KINDS: dict[Callable[[str, random.Random], Record], int] = {
    _verified: 872,
    _repaired: 50,
    _new: 24,
    _failed("a100-jammy-hook-newer-than-dockerd"): 14,
    _failed("a100-jammy-another-driver-loaded"): 6,
    _conflict: 8,
    _waiting: 8,
    _rolled_back: 4,
    _unreachable: 8,
    _stuck: 6,
}


def _timed(record: Record, dice: random.Random) -> Record:
    if record.get("unreachable"):
        stages = {"observe": 20.0}
    elif record.get("first_plan") and not record["first_gpu_stack"]["driver"]["record"]:
        stages = WORKED
    elif record.get("changed_tasks"):
        stages = {stage: WORKED[stage] for stage in ("observe", "nvidia_container_toolkit", "verify")}
    else:
        stages = CONVERGED
    record["timings"] = {stage: usual * dice.lognormvariate(0, 0.35) for stage, usual in stages.items()}
    record["tasks"] = [
        (f"Work in {stage}", stage, spent * 0.8) for stage, spent in record["timings"].items() if spent > 10
    ]
    return record


def records(count: int, *, seed: int = 1) -> list[Record]:
    """So many nodes of four racks, as the callback collects them in a run of site.yml."""
    dice = random.Random(seed)
    # As near to the shares as can be, so that a small fleet has all kinds, too.
    total = sum(KINDS.values())
    kinds = [kind for kind, share in KINDS.items() for _ in range(max(1, round(count * share / total)))]
    healthy = next(iter(KINDS))
    while len(kinds) > count and healthy in kinds:
        kinds.remove(healthy)
    kinds = [*kinds, *[healthy] * (count - len(kinds))][:count]
    dice.shuffle(kinds)
    found = []
    for number, kind in enumerate(kinds, start=1):
        host = f"gpu{number:03d}"
        record = _timed(kind(host, dice), dice)
        record["address"] = f"10.20.{number // 250}.{number % 250 + 1}"
        record["groups"] = ["gpu_nodes", f"rack{number % 4 + 1}"] + (["canary"] if number % 50 == 0 else [])
        found.append(record)
    return found


def run(count: int, *, seed: int = 1, not_run: tuple[str, ...] = ()) -> tuple[list[Record], dict[str, Any]]:
    """The run's documents: ``(nodes, fleet)``."""
    nodes = [report.node_document(record, RUN) for record in records(count, seed=seed)]
    fleet = report.fleet_document(
        nodes,
        run=RUN,
        playbook="site.yml",
        started="2026-11-23T02:00:00+00:00",
        finished="2026-11-23T02:11:42+00:00",
        seconds=702.4,
        not_run=not_run,
    )
    return nodes, fleet


def write(root: Path, count: int, *, seed: int = 1) -> Path:
    """The run's folder below ``root``, with all its files."""
    nodes, fleet = run(count, seed=seed)
    return report.write_run(root, RUN, nodes, fleet, report.report_text(nodes, fleet))
