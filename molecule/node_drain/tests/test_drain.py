"""A node that was drained, and the ways in which it comes back, or never goes out.

In order: each test leaves the node in service and without a record; the first finds it drained.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from kit.runs import Player, Run

RECORD = "/var/lib/gpuready/node_drain.json"
#: Whoever holds a file of this name open looks like a job: the node has no driver.
GPU = "/dev/nvidia-of-a-test"
KUBERNETES = {
    "node_drain_method": "kubernetes",
    "node_drain_node_name": "",
    "node_drain_kubernetes_selector": "kubernetes.io/hostname=gpu01",
}


def role(site: Player, entry: str, **variables: Any) -> Run:
    chosen = {"role": "node_drain", "entry_point": entry, **variables}
    return site("playbooks/role.yml", variables=chosen)


def state(host: Any, program: str = "scontrol") -> dict[str, Any]:
    return json.loads(host.file(f"/var/lib/standin/{program}.json").content_string)


def flags(host: Any) -> list[str]:
    return state(host)["nodes"]["gpu01"]["flags"]


def calls(host: Any, program: str = "scontrol") -> list[list[str]]:
    said = host.file(f"/var/lib/standin/{program}.json.log").content_string
    return [json.loads(line) for line in said.splitlines()]


def error(run: Run) -> str:
    """What a failed run said, in one line."""
    assert run.rc != 0, run.output
    return run.said


def in_service(host: Any) -> bool:
    return flags(host) == [] and not host.file(RECORD).exists


@pytest.fixture
def job(host: Any):
    """Somebody's process on a GPU."""
    host.check_output(
        f"mknod {GPU} c 1 3 && systemd-run --quiet --unit job-of-a-test sh -c 'exec sleep 600 < {GPU}'"
    )
    yield "process sleep (pid "
    host.check_output(f"systemctl stop job-of-a-test; rm -f {GPU}")


def test_node_is_drained_once_and_on_record(host: Any) -> None:
    record = json.loads(host.file(RECORD).content_string)
    assert {key: record[key] for key in ("method", "by_gpuready", "was_drained_before", "complete")} == {
        "method": "slurm",
        "by_gpuready": True,
        "was_drained_before": False,
        "complete": True,
    }
    assert flags(host) == ["DRAIN"]
    assert state(host)["nodes"]["gpu01"]["reason"].startswith("gpuready: the node is being upgraded [")
    assert len([call for call in calls(host) if call[0] == "update"]) == 1


def test_node_is_put_back_once(host: Any, site: Player) -> None:
    run = role(site, "resume")
    assert run.rc == 0, run.output
    assert in_service(host)
    asked = len(calls(host))
    run = role(site, "resume")
    assert run.rc == 0, run.output
    assert run.changed("gpulab-mol-drain") == 0 and len(calls(host)) == asked


def test_node_that_somebody_else_drained_stays_drained(host: Any, site: Player) -> None:
    host.check_output("scontrol update NodeName=gpu01 State=DRAIN Reason=fan")
    assert role(site, "main").rc == 0
    assert json.loads(host.file(RECORD).content_string)["was_drained_before"] is True
    run = role(site, "resume")
    assert run.rc == 0 and "was drained by somebody else before, and stays so" in run.said, run.output
    assert flags(host) == ["DRAIN"] and not host.file(RECORD).exists
    host.check_output("scontrol update NodeName=gpu01 State=RESUME")


def test_work_on_the_gpus_is_refused_and_nothing_is_changed(host: Any, site: Player, job: str) -> None:
    asked = len([call for call in calls(host) if call[0] == "update"])
    said = error(role(site, "main"))
    assert job in said and "Nothing was changed" in said and "node_drain_containers" in said
    assert in_service(host)
    assert len([call for call in calls(host) if call[0] == "update"]) == asked


def test_work_that_does_not_end_puts_the_node_back(host: Any, site: Player, job: str) -> None:
    said = error(role(site, "main", node_drain_containers="wait"))
    assert job in said and "waited for 2 s" in said and "back in service as it was" in said
    assert in_service(host)


def test_pods_leave_by_label_and_the_node_comes_back(host: Any, site: Player) -> None:
    run = role(site, "main", **KUBERNETES)
    assert run.rc == 0, run.output
    cluster = state(host, "kubectl")
    assert cluster["nodes"]["worker-7"]["unschedulable"] is True
    assert [pod["name"] for pod in cluster["pods"]] == ["device-plugin"]
    assert role(site, "resume", **KUBERNETES).rc == 0
    assert state(host, "kubectl")["nodes"]["worker-7"]["unschedulable"] is False


def test_commands_run_once_and_one_that_fails_is_undone(host: Any, site: Player) -> None:
    log = "/root/of-a-test"
    good = {
        "node_drain_commands": [["sh", "-c", f"echo out >> {log}"]],
        "node_drain_resume_commands": [["sh", "-c", f"echo in >> {log}"]],
    }
    for _twice in range(2):
        assert role(site, "main", **good).rc == 0
    assert role(site, "resume", **good).rc == 0
    assert host.check_output(f"cat {log}").split() == ["out", "in"]
    said = error(role(site, "main", node_drain_commands=[["sh", "-c", "echo broken >&2; exit 3"]]))
    assert "could not be taken out of service, and is back in service as it was" in said
    assert in_service(host)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"node_drain_node_name": "gpu99"}, "Node gpu99 not found"),
        ({"node_drain_slurm_command": ["/opt/scontrol"]}, "/opt/scontrol cannot be run here"),
        (
            {"node_drain_method": "none", "node_drain_commands": [["true"]]},
            "set node_drain_method to command",
        ),
    ],
)
def test_bad_input_is_one_clear_error(host: Any, site: Player, variables: dict[str, Any], says: str) -> None:
    assert says in error(role(site, "main", **variables))
    assert in_service(host)


def test_check_mode_drains_nothing(host: Any, site: Player) -> None:
    run = site("playbooks/role.yml", variables={"role": "node_drain"}, check=True)
    assert run.rc == 0, run.output
    assert in_service(host)


def test_removal_forgets_and_leaves_the_node_drained(host: Any, site: Player) -> None:
    assert role(site, "main").rc == 0
    assert role(site, "remove").rc == 0
    assert not host.file(RECORD).exists and flags(host) == ["DRAIN"]
