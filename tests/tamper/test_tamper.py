"""Whatever gpuready manages, somebody will change. The plan must see it and a run must repair it.

For each artefact: damage it on a converged node → the plan names exactly the actions that repair it →
`provision.yml` applies them → the plan is empty and the node is as it was. Damages that do not disturb each
other are repaired together; each is seen alone first.
"""

from __future__ import annotations

from typing import Any

import pytest
from above import ABOVE
from below import BELOW, DAEMON_JSON
from damages import State, Step, shown, steps
from kit.fingerprint import Fingerprint
from kit.nodes import Node
from kit.questions import daemon_json
from kit.runs import Player, action_ids

pytestmark = pytest.mark.lab

# A daemon.json that gpuready must not touch.
BROKEN = {
    "not_json": '{"runtimes": {"nvidia": }',
    "not_an_object": '["nvidia"]',
    "wished_key_set_to_something_else": '{"log-opts": {"max-size": "1g"}}',
    "foreign_runtime": '{"runtimes": {"nvidia": {"path": "/opt/mine/nvidia-container-runtime"}}}',
}

# What no damage here can bring about, and where it is tried instead.
ELSEWHERE = {
    "docker.source": "needs docker_engine_source: docker_ce on a node without Docker: molecule/docker_engine",
    "toolkit.cdi": "only where Docker knows CDI: test_regressions.py::test_cdi_specification_is_renewed",
    "toolkit.cdi_refresh": "likewise, with a toolkit that has the service: test_regressions.py",
    "driver.source": "needs another source than the node's own: tests/life/test_paths.py",
    "driver.pin": "needs a second origin: tests/life/test_switch.py",
    "driver.reload": "needs another version on disk than loaded: tests/life/test_mismatch.py",
    "driver.fabricmanager": "needs NVSwitches: tests/life/test_paths.py",
    "host.reboot": "molecule/host_reboot",
    "venv.packages": "needs a node without python3-venv: molecule/framework_venv",
    "health.remove": "needs gpu_health_enabled to become false: molecule/gpu_health",
}


@pytest.fixture(scope="module")
def state(node: Node, provision: Player) -> State:
    """Begins with a converged node."""
    return State(node, provision, lasting)


@pytest.fixture(scope="module")
def settings(state: State) -> dict[str, Any]:
    """What daemon.json means on the sound node."""
    return daemon_json(state.node.host)


def lasting(node: Node) -> Fingerprint:
    """What a repair must bring back; not gpuready's backups, nor its record of what it has installed.

    The bytes of daemon.json are left out as well: it is compared by meaning. And a package's own file that
    somebody has deleted, here the driver's modprobe.d file, is not brought back as long as nothing needs it.
    """
    kept = node.fingerprint().lasting(but=["records", "initramfs"])
    kept = kept.without("modprobe", lambda line: "/lib/modprobe.d" in line)
    for section in ("apt", "docker"):
        kept = kept.without(section, lambda line: "~" in line or line.endswith(DAEMON_JSON))
    return kept


@pytest.mark.parametrize("step", tuple(steps(BELOW)), ids=lambda step: step.name)
def test_plan_sees_the_damage_and_a_run_repairs_it(
    state: State, settings: dict[str, Any], step: Step
) -> None:
    if step.damage:
        state.see(step.damage)
        return
    state.repair()
    assert daemon_json(state.node.host) == settings


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_broken_daemon_json_is_a_conflict_and_stays(
    node: Node, provision: Player, state: State, text: str
) -> None:
    """What a person wrote and gpuready cannot understand is not gpuready's to overwrite."""
    node.sh(f"cp -a {DAEMON_JSON} /root/daemon.json.kept && printf '%s' '{text}' > {DAEMON_JSON}")
    try:
        before = node.fingerprint()
        plan = provision.plan()
        run = provision("playbooks/provision.yml")
        assert plan["status"] == "conflict"
        assert DAEMON_JSON in str(plan["conflicts"])
        assert run.rc != 0
        assert DAEMON_JSON in run.said
        assert before.differences(node.fingerprint()) == []
    finally:
        node.sh(f"mv /root/daemon.json.kept {DAEMON_JSON}")
    assert action_ids(provision.plan()) == []


def test_every_action_is_tampered_for() -> None:
    """A new action needs a damage here, or a reason why not."""
    from gpuready.planner import ACTIONS

    seen = shown(BELOW) | shown(ABOVE)
    assert set(ACTIONS) - seen - set(ELSEWHERE) == set()
    assert seen & set(ELSEWHERE) == set()


def test_plan_of_the_sound_node_is_readable_and_empty(node: Node, provision: Player, state: State) -> None:
    run = provision("playbooks/plan.yml")
    assert run.plan(node.name)["status"] == "converged"
    assert run.actions(node.name) == []
    assert f"{node.name}: nothing to do" in run.output
