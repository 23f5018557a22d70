"""A fleet's upgrade without a fleet: batches, drains, failures and what is said.

See project.py for what is not real. Slurm is the stand-in of tests/standins; who is on the
GPUs, and each node's record, are files of the test.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import observations
import pytest
from project import NODE, ROOT, Project, Run

HOSTS = ["n1", "n2", "n3", "n4"]
#: What the little that is to be done takes: holds that are missing, of the driver and the toolkit.
APPLIED = ["nvidia_container_toolkit.main", "nvidia_driver.main"]


def unheld() -> Any:
    """A node on which little is to be done, so that the tests are quick."""
    seen = observations.converged()
    seen["apt"]["holds"] = []
    for package in [*seen["driver"]["packages"], *seen["container_runtime"]["toolkit"]["packages"]]:
        package["held"] = False
    return seen


#: Who is on the GPUs is what the test says; stopping them makes them go.
USERS = """
from __future__ import annotations
import json, os
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(
    argument_spec={
        "wait_seconds": {"type": "int", "default": 0},
        "interval_seconds": {"type": "float"},
        "stop_containers": {"type": "bool"},
        "stop_grace_seconds": {"type": "int"},
        "ignored": {"type": "list"},
    },
    supports_check_mode=True,
)
path = os.environ["FLOW_STATE"] + "/" + os.environ["FLOW_HOST"] + "/users.json"
users = json.load(open(path)) if os.path.exists(path) else []
stopped = [{"id": user["id"], "name": user["name"]} for user in users if module.params["stop_containers"]]
if stopped and not module.check_mode:
    os.unlink(path)
    users = []
waited = module.params["wait_seconds"]
module.exit_json(changed=bool(stopped), users=users, stopped=stopped, waited_seconds=waited)
"""


class Fleet(Project):
    """Four nodes, Slurm, and the playbook."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        shutil.copytree(ROOT / "roles" / "node_drain", root / "roles" / "node_drain")
        modules = root / NODE / "plugins" / "modules"
        (modules / "gpu_users.py").write_text(USERS)
        record = (modules / "install_record.py").read_text()
        here = 'os.environ["FLOW_STATE"] + "/" + os.environ["FLOW_HOST"] + "/record"'
        changed = record.replace('"default": "/var/lib/gpuready"', f'"default": {here}')
        assert changed != record
        (modules / "install_record.py").write_text(changed)
        self.slurm = self.state / "slurm.json"
        command = ["/usr/bin/env", f"STANDIN_STATE={self.slurm}", sys.executable]
        self.inventory(
            {host: {} for host in HOSTS},
            gpuready_simulated=True,
            node_drain_method="slurm",
            node_drain_slurm_command=[*command, str(ROOT / "tests/standins/scontrol")],
            node_drain_interval_seconds=0.2,
        )
        self.service()
        for host in HOSTS:
            self.due(host)

    def service(self, **nodes: dict[str, Any]) -> None:
        idle = {"state": "IDLE", "flags": [], "reason": None}
        self.slurm.write_text(
            json.dumps({"nodes": {host: {**idle, **nodes.get(host, {})} for host in HOSTS}})
        )

    def due(self, host: str) -> None:
        """Looked at twice before anything is done."""
        self.observe(host, unheld(), unheld(), observations.converged())

    def users(self, host: str) -> None:
        user = {
            "kind": "container",
            "name": "train",
            "id": "abc",
            "image": "tf",
            "text": "container train (tf)",
        }
        (self.state / host / "users.json").write_text(json.dumps([user]))

    def upgrade(self, *arguments: str) -> Run:
        return self.play("playbooks/upgrade.yml", *arguments)

    def drained(self) -> list[str]:
        nodes = json.loads(self.slurm.read_text())["nodes"]
        return [host for host, node in nodes.items() if node["flags"]]

    def record(self, host: str) -> dict[str, Any] | None:
        path = self.state / host / "record" / "node_drain.json"
        return json.loads(path.read_text()) if path.exists() else None

    def told_slurm(self) -> list[str]:
        """What Slurm was told, in order: DRAIN n1, RESUME n1, …"""
        log = Path(f"{self.slurm}.log")
        calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [
            f"{call[2].partition('=')[2]} {call[1].partition('=')[2]}"
            for call in calls
            if call[0] == "update"
        ]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def names(steps: list[str]) -> list[str]:
    return [".".join(step.split(".")[:2]) for step in steps]


def test_each_node_is_drained_changed_verified_and_resumed_batch_by_batch(fleet: Fleet) -> None:
    run = fleet.upgrade("-e", "upgrade_batches=1,2,1")
    assert run.rc == 0, run.text
    assert [names(run.steps(host)) for host in HOSTS] == [APPLIED] * 4
    assert run.fleet["totals"] == {"verified": 4}
    told = fleet.told_slurm()
    assert told[:2] == ["DRAIN n1", "RESUME n1"] and told[-2:] == ["DRAIN n4", "RESUME n4"]
    assert sorted(told[2:6]) == ["DRAIN n2", "DRAIN n3", "RESUME n2", "RESUME n3"]
    assert fleet.drained() == [] and [fleet.record(host) for host in HOSTS] == [None] * 4


def test_canary_that_fails_stops_it_and_the_next_run_finishes_it(fleet: Fleet) -> None:
    fleet.behave("n1", stdout="", rc=1)
    run = fleet.upgrade()
    assert run.rc == 2, run.text
    error = run.node("n1")["error"]
    assert "It stays out of service" in error
    assert "so these are not begun: n2, n3, n4." in error
    assert [run.steps(host) for host in HOSTS[1:]] == [[], [], []]
    assert fleet.drained() == ["n1"] and fleet.record("n1")["was_drained_before"] is False
    assert [run.node(host)["status"] for host in HOSTS] == ["failed", "planned", "planned", "planned"]

    # Another way than that in which it was drained could not put it back.
    other = fleet.upgrade("--limit", "n1", "-e", "node_drain_method=none")
    assert "n1 was drained at" in other.node("n1")["error"] and "Set it back" in other.node("n1")["error"]

    fleet.behave("n1")
    for host in HOSTS:
        fleet.observe(host, observations.converged())
    run = fleet.upgrade()
    assert run.rc == 0, run.text
    assert "it is drained already, by an upgrade that was cut off or failed" in run.text
    assert run.text.count("nothing to do; it stays in service") == 3
    assert fleet.told_slurm() == ["DRAIN n1", "RESUME n1"]
    assert fleet.drained() == [] and fleet.record("n1") is None
    assert [run.node(host)["status"] for host in HOSTS] == ["verified", *["provisioned"] * 3]


def test_node_whose_jobs_do_not_end_is_back_in_service(fleet: Fleet) -> None:
    fleet.service(n1={"busy_until": 1e12})
    run = fleet.upgrade("--limit", "n1", "-e", "node_drain_wait_seconds=1")
    assert run.rc == 2, run.text
    error = run.node("n1")["error"]
    assert "could not be taken out of service, and is back in service as it was" in error
    assert "Slurm still has jobs on node n1 after 1 s" in error
    assert "It stays" not in error
    assert fleet.told_slurm() == ["DRAIN n1", "RESUME n1"]
    assert fleet.drained() == [] and fleet.record("n1") is None and run.steps("n1") == []


def test_others_of_the_batch_are_finished_when_one_fails(fleet: Fleet) -> None:
    fleet.behave("n2", stdout="", rc=1)
    run = fleet.upgrade("-e", "upgrade_batches=1,2,1", "-e", "upgrade_max_fail_percentage=49")
    assert run.rc == 2, run.text
    assert [run.node(host)["status"] for host in HOSTS] == ["verified", "failed", "verified", "planned"]
    assert (
        "The upgrade has stopped: of batch 2, n2 failed, and at most 49 % of its 2 node(s) may"
        in " ".join(run.text.split())
    )
    assert fleet.drained() == ["n2"]


def test_unreachable_canary_stops_it(fleet: Fleet) -> None:
    fleet.inventory(
        {**fleet.hosts, "n1": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}},
        gpuready_simulated=True,
    )
    run = fleet.upgrade("-e", "upgrade_batches=1,100%")
    assert run.rc != 0, run.text
    assert "n1: not reached, or not planned for (see above); it counts as failed" in run.text
    assert "of batch 1, n1 failed" in " ".join(run.text.split())
    assert [run.steps(host) for host in HOSTS] == [[]] * 4


def test_conflict_counts_as_failed_and_nothing_is_drained(fleet: Fleet) -> None:
    seen = observations.bare()
    seen["host"]["gpus"] = []
    fleet.observe("n1", seen)
    run = fleet.upgrade("--limit", "n1,n2")
    assert run.rc == 2, run.text
    assert run.node("n1")["status"] == "conflict" and "not begun: n2" in run.node("n1")["error"]
    assert fleet.told_slurm() == []


def test_node_that_somebody_else_drained_stays_drained(fleet: Fleet) -> None:
    fleet.service(n1={"flags": ["DRAIN"], "reason": "bad fan [root@x]"})
    run = fleet.upgrade("--limit", "n1")
    assert run.rc == 0, run.text
    assert "somebody has drained it already (bad fan [root@x]): it stays so in the end" in run.text
    assert run.node("n1")["status"] == "verified"
    assert fleet.told_slurm() == [] and fleet.drained() == ["n1"] and fleet.record("n1") is None


def test_containers_are_stopped_and_started_again(fleet: Fleet) -> None:
    fleet.users("n1")
    fleet.behave("n1", ps="abc\n")
    run = fleet.upgrade("--limit", "n1", "-e", "node_drain_containers=stop")
    assert run.rc == 0, run.text
    calls = [json.loads(line) for line in (fleet.state / "n1/docker/calls").read_text().splitlines()]
    assert ["start", "abc"] in calls


def test_commands_take_it_out_and_put_it_back(fleet: Fleet) -> None:
    log = fleet.root / "log"
    commands = {
        "node_drain_method": "command",
        "node_drain_commands": [["sh", "-c", f"echo out {{{{ inventory_hostname }}}} >> {log}"]],
        "node_drain_resume_commands": [["sh", "-c", f"echo in {{{{ inventory_hostname }}}} >> {log}"]],
    }
    (fleet.root / "commands.json").write_text(json.dumps(commands))
    run = fleet.upgrade("--limit", "n1,n2", "-e", "@commands.json", "-e", "upgrade_batches=1")
    assert run.rc == 0, run.text
    assert log.read_text().splitlines() == ["out n1", "in n1", "out n2", "in n2"]


def test_check_mode_tells_all_and_does_nothing(fleet: Fleet) -> None:
    fleet.users("n2")
    fleet.observe("n3", observations.converged())
    run = fleet.upgrade("--check", "-e", "upgrade_batches=1,2,1")
    assert run.rc == 2, run.text
    said = " ".join(run.text.split())
    assert "batch 1, the canary n1: 2 actions (toolkit.hold, driver.hold)" in said
    assert "it is drained in Slurm as n1" in said
    assert "on its GPUs: container train (tf): node_drain_containers is refuse so nothing is done" in said
    assert "n3: nothing to do; it stays in service" in said
    assert "it stops here: n2 cannot be upgraded, and nothing behind this batch is begun" in said
    assert fleet.told_slurm() == [] and [run.steps(host) for host in HOSTS] == [[]] * 4
    assert [fleet.record(host) for host in HOSTS] == [None] * 4
    # What would have been done to whom, task by task; the last batch is never reached.
    assert len(run.node("n1")["changed_tasks"]) >= len(APPLIED)
    assert run.node("n4")["changed_tasks"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-e", "upgrade_batches=0"], "upgrade_batches has '0', which must be 1 or more"),
        (["-e", "upgrade_batchs=1"], "unknown variable upgrade_batchs: did you mean upgrade_batches?"),
        (["--tags", "nvidia_driver"], "upgrade.yml upgrades whole nodes"),
        (
            ["-e", "node_drain_method=command"],
            "node_drain_method is command and node_drain_commands is empty",
        ),
        (["-e", "node_drain_node_name=gpu99"], "Node gpu99 not found"),
    ],
)
def test_bad_input_is_told_before_anything_is_done(fleet: Fleet, arguments: list[str], says: str) -> None:
    run = fleet.upgrade(*arguments, "--limit", "n1,n2")
    assert run.rc == 2, run.text
    assert says in " ".join(run.text.split())
    assert fleet.told_slurm() == [] and [run.steps(host) for host in HOSTS] == [[]] * 4
