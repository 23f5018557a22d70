"""Whatever gpuready manages, somebody will change. The plan must see it and a run must repair it.

For each artefact: damage it on a converged node → the plan names exactly the actions that repair it →
`provision.yml` applies them → the plan is empty and the node is as it was. Damages that do not disturb each
other are repaired together; each is seen alone first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from kit.fingerprint import Fingerprint
from kit.nodes import Node
from kit.questions import daemon_json
from kit.runs import Player, action_ids, conflict_ids

pytestmark = pytest.mark.lab

DAEMON_JSON = "/etc/docker/daemon.json"
EDIT_JSON = """python3 - <<'EOF'
import json
with open("/etc/docker/daemon.json") as file: data = json.load(file)
%s
with open("/etc/docker/daemon.json", "w") as file: json.dump(data, file, indent=4)
EOF
"""


@dataclass(frozen=True)
class Damage:
    """One change behind gpuready's back, and the actions with which the plan must answer.

    `shows` are the actions that this damage adds to the plan; `may` are those that may come along because the
    damage takes more with it than its own artefact.
    """

    name: str
    command: str
    shows: frozenset[str]
    may: frozenset[str] = frozenset()


def damage(name: str, command: str, *shows: str, may: tuple[str, ...] = ()) -> Damage:
    """Write a damage down in one line."""
    return Damage(name, command, frozenset(shows), frozenset(may))


# Substitutions for the node's shell.
UTILS = "$(dpkg-query -W -f '${Package}\\n' 'nvidia-utils-*' | head -n 1)"
TOOLKIT_SOURCE = "$(grep -l libnvidia-container /etc/apt/sources.list.d/*.sources)"
TOOLKIT_KEY = f"$(sed -n 's/^Signed-By: *//p' {TOOLKIT_SOURCE})"
HOOK = "/usr/bin/nvidia-container-runtime-hook"

# Each group is repaired by one run. Within a group no damage hides another.
GROUPS: dict[str, tuple[Damage, ...]] = {
    "settings": (
        damage(
            "nouveau_file_removed",
            "rm $(grep -rl 'blacklist nouveau' /etc/modprobe.d /lib/modprobe.d)",
            "host.nouveau_off",
        ),
        damage(
            "upgrade_guard_edited",
            "sed -i 's/nvidia/nvidja/' /etc/apt/apt.conf.d/52gpuready-nvidia",
            "driver.upgrade_guard",
        ),
        damage("driver_hold_removed", f"apt-mark unhold {UTILS}", "driver.hold"),
        damage("toolkit_hold_removed", "apt-mark unhold nvidia-container-toolkit", "toolkit.hold"),
        damage(
            "toolkit_source_edited",
            f"sed -i '/^URIs/s/$/-elsewhere/' {TOOLKIT_SOURCE}",
            "toolkit.source",
            may=("apt.refresh_lists",),
        ),
        damage(
            "users_wished_key_removed",
            EDIT_JSON % 'del data["log-opts"]',
            "docker.daemon_config",
            may=("docker.restart",),
        ),
        damage("image_removed", "docker image rm --force $(docker image ls --quiet)", "image.fetch"),
    ),
    "runtime": (
        damage("upgrade_guard_removed", "rm /etc/apt/apt.conf.d/52gpuready-nvidia", "driver.upgrade_guard"),
        damage(
            "runtime_removed_from_daemon_json",
            EDIT_JSON % 'del data["runtimes"]["nvidia"]',
            "toolkit.runtime",
        ),
        damage(
            "persistenced_stopped_and_disabled",
            "systemctl disable --now nvidia-persistenced.service",
            "driver.persistenced",
        ),
    ),
    "hook": (
        damage(
            "hook_newer_than_dockerd",
            # As an upgrade by hand would leave it.
            f"sleep 1.1; cp -a {HOOK} {HOOK}.new && touch {HOOK}.new && mv {HOOK}.new {HOOK}",
            "docker.restart",
        ),
        damage(
            "toolkit_key_removed",
            f"rm {TOOLKIT_KEY}",
            "toolkit.source",
            may=("apt.refresh_lists",),
        ),
    ),
    "live_runtime": (
        # daemon.json is right again, but dockerd was started while it was not.
        damage(
            "dockerd_runs_without_the_runtime",
            f"cp -a {DAEMON_JSON} /root/kept.json && "
            + EDIT_JSON % 'del data["runtimes"]'
            + f"systemctl restart docker && cp -a /root/kept.json {DAEMON_JSON}",
            "docker.restart",
        ),
    ),
    "services": (
        damage(
            "docker_stopped_and_disabled",
            "systemctl disable --now docker.service; systemctl stop docker.socket",
            "docker.service",
            may=("image.fetch",),
        ),
        damage(
            "driver_unloaded",
            "systemctl stop nvidia-persistenced.service; "
            "for m in nvidia_drm nvidia_modeset nvidia_uvm nvidia; do "
            "[ ! -e /sys/module/$m ] || modprobe -r $m || exit; done",
            "driver.load",
            may=("driver.persistenced",),
        ),
    ),
    "packages": (
        damage(
            "toolkit_package_removed",
            "dpkg --remove --force-depends nvidia-container-toolkit",
            "toolkit.install",
            may=("toolkit.hold", "docker.restart"),
        ),
        damage(
            "driver_package_removed",
            f"dpkg --remove --force-depends {UTILS}",
            "driver.install",
            may=("driver.hold", "driver.persistenced"),
        ),
        damage("package_lists_removed", "rm -rf /var/lib/apt/lists/*", "apt.refresh_lists"),
    ),
    "dpkg": (
        damage(
            "dpkg_interrupted",
            "sed -i '/^Package: sudo$/,/^$/s/^Status: .*/Status: install ok unpacked/' /var/lib/dpkg/status",
            "apt.finish_dpkg",
        ),
    ),
    "docker_package": (
        damage(
            "docker_package_removed",
            "systemctl stop docker.service docker.socket; dpkg --remove --force-depends docker.io",
            "docker.install",
            may=("docker.service", "image.fetch", "toolkit.runtime"),
        ),
    ),
}

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
}


@dataclass(frozen=True)
class Step:
    """One row of the test: a damage to be seen, or (without one) the group's repair."""

    group: str
    damage: Damage | None = None

    @property
    def name(self) -> str:
        """The row's name in pytest's output."""
        return f"{self.group}-{self.damage.name if self.damage else 'repaired'}"


def steps() -> Iterator[Step]:
    """Every group's damages, then its repair."""
    for group, damages in GROUPS.items():
        yield from (Step(group, one) for one in damages)
        yield Step(group)


class State:
    """What the rows hand on: the sound node's fingerprint and daemon.json, and what was planned last."""

    def __init__(self) -> None:
        self.sound: Fingerprint
        self.boot_id = ""
        self.daemon_json: dict[str, Any] = {}
        self.planned: set[str] = set()


@pytest.fixture(scope="module")
def state(node: Node, provision: Player) -> State:
    """Begins with a converged node."""
    known = State()
    assert action_ids(provision.plan()) == []
    known.sound = lasting(node)
    known.boot_id = node.boot_id()
    known.daemon_json = daemon_json(node.host)
    return known


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


@pytest.mark.parametrize("step", tuple(steps()), ids=lambda step: step.name)
def test_plan_sees_the_damage_and_a_run_repairs_it(
    node: Node, provision: Player, state: State, step: Step
) -> None:
    if step.damage:
        node.sh(step.damage.command)
        plan = provision.plan()
        found = set(action_ids(plan))
        new = found - state.planned
        vanished = state.planned - found
        state.planned = found
        assert conflict_ids(plan) == []
        assert step.damage.shows <= new, plan["actions"]
        assert new - step.damage.shows <= step.damage.may, plan["actions"]
        assert vanished == set(), plan["actions"]
        return
    state.planned = set()
    run = provision("playbooks/provision.yml")
    assert run.rc == 0, run.output
    assert action_ids(provision.plan()) == []
    assert state.sound.differences(lasting(node)) == []
    assert daemon_json(node.host) == state.daemon_json
    assert node.boot_id() == state.boot_id, "no damage here needs a reboot"


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

    seen = {action for damages in GROUPS.values() for one in damages for action in one.shows}
    assert set(ACTIONS) - seen - set(ELSEWHERE) == set()
    assert seen & set(ELSEWHERE) == set()


def test_plan_of_the_sound_node_is_readable_and_empty(node: Node, provision: Player, state: State) -> None:
    run = provision("playbooks/plan.yml")
    assert run.plan(node.name)["status"] == "converged"
    assert run.actions(node.name) == []
    assert f"{node.name}: nothing to do" in run.output
