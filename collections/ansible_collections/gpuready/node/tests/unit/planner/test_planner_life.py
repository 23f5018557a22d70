"""Whatever the node: a plan that is applied leaves nothing to do, and never a node that lost its GPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from applied import TODAY, apply, modules_on_disk, obey_pin
from gpuready.catalog import load_catalog
from gpuready.planner import plan
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st
from observed_nodes import Node, archive, bare, become, kernel_version, merge, offer, source_row

CATALOG = load_catalog()
relaxed = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

SYSTEMS = [("ubuntu", "22.04"), ("ubuntu", "24.04"), ("debian", "12"), ("debian", "13")]
KERNELS = {
    "ubuntu": ["5.15.0-157-generic", "5.15.0-160-generic", "5.15.0-170-generic"],
    "debian": ["6.1.0-40-amd64", "6.1.0-41-amd64", "6.1.0-44-amd64"],
}
GPUS = ["1db4", "1eb8", "20b5", "2236", "26b5", "2330"]
OWN = {
    ("ubuntu", "22.04"): {470: "470.256.02", 535: "535.274.02", 580: "580.95.05", 595: "595.71.05"},
    ("ubuntu", "24.04"): {535: "535.274.02", 570: "570.195.03", 580: "580.95.05", 590: "590.48.01"},
    ("debian", "12"): {535: "535.261.03"},
    ("debian", "13"): {550: "550.163.01"},
}
CUDA = {570: "570.211.01", 580: "580.126.09", 590: "590.48.01", 595: "595.91.07"}
BEFORE_THE_LISTS = {
    "toolkit.source",
    "docker.source",
    "driver.source",
    "driver.pin",
    "apt.finish_dpkg",
    "apt.refresh_lists",
}
JOB = {"pid": 4711, "name": "python3", "files": ["/dev/nvidia0"], "service": None}
DAEMON = {"pid": 811, "name": "nvidia-persiste", "files": ["/dev/nvidia0"], "service": "nvidia-persistenced"}


def packaged(versions: dict[int, str], revision: str) -> dict[int, list[str]]:
    return {branch: [f"{version}-{revision}"] for branch, version in versions.items()}


class World:
    """A node, what its archives have, and what only a new source would show."""

    def __init__(self, os_id: str, release: str, running: str) -> None:
        self.os_id, self.release = os_id, release
        self.node = become(bare("20b5"), CATALOG, os_id, release)
        self.node["host"]["kernel"].update(
            running=running, next_boot=running, installed=[running], headers=[]
        )
        self.hidden: Node = {}

    def source(self, name: str) -> Any:
        found = CATALOG.package_source(name, self.os_id, self.release)
        assert found is not None
        return found

    def cuda(self, branches: dict[int, str], known: bool) -> None:
        found = archive(self.source("cuda_repo"), packaged(branches, "1"))
        if not known:
            merge(self.hidden, found)
            return
        merge(self.node["apt"]["candidates"], found)
        distro = self.source("cuda_repo").distro[self.release]
        row = source_row(f"https://developer.download.nvidia.com/compute/cuda/repos/{distro}/x86_64", "/", [])
        row.update(signed_by="/usr/share/keyrings/cuda-archive-keyring.gpg")
        row.update(fingerprints=["EB693B3035CD5710E231E123A4B469963BF863CC"])
        self.node["apt"]["sources"].append(row)

    def plan(self, wishes: dict[str, Any]) -> dict[str, Any]:
        return plan(self.node, wishes, CATALOG, host="node1", today=TODAY)

    def carry_out(self, todo: dict[str, Any], wishes: dict[str, Any]) -> dict[str, Any]:
        """Apply as playbooks/tasks/apply.yml does, and return the plan that was applied in the end.

        Sources and lists come first. What they show decides which versions there are, and whether what was
        asked for exists at all, so the plan is made again before anything else is done; it may be a conflict.
        """
        if "apt.refresh_lists" in [action["id"] for action in todo["actions"]]:
            first = [action for action in todo["actions"] if action["id"] in BEFORE_THE_LISTS]
            self.node = apply(self.node, {**todo, "actions": first}, self.hidden)
            todo = self.plan(wishes)
            if todo["status"] == "conflict":
                return todo
        self.node = apply(self.node, todo, self.hidden)
        return todo

    def converge(self, wishes: dict[str, Any]) -> bool:
        """False where the plan finds a conflict on the way."""
        for _ in range(3):
            todo = self.plan(wishes)
            if todo["status"] != "conflict":
                todo = self.carry_out(todo, wishes)
            if todo["status"] == "conflict":
                return False
        return True


@st.composite
def worlds(draw: st.DrawFn) -> tuple[World, dict[str, Any]]:
    os_id, release = draw(st.sampled_from(SYSTEMS))
    running, later, latest = KERNELS[os_id]
    world = World(os_id, release, running)
    node, candidates = world.node, world.node["apt"]["candidates"]
    node["host"]["gpus"] = bare(*draw(st.lists(st.sampled_from(GPUS), min_size=1, max_size=2)))["host"][
        "gpus"
    ]
    known = draw(st.sampled_from([[running, later, latest], [running], [running, later], [later, latest]]))
    for kernel in known:
        candidates[f"linux-headers-{kernel}"] = offer(kernel_version(kernel))
    own = world.source("auto")
    branches = draw(
        st.lists(st.sampled_from(sorted(OWN[os_id, release])), unique=True, min_size=1, max_size=3)
    )
    made_for = draw(st.sampled_from([[running], [running, later, latest], [running, later], [latest], []]))
    revision = f"0ubuntu0.{release}.1" if os_id == "ubuntu" else f"1~deb{release}u1"
    versions = packaged({branch: OWN[os_id, release][branch] for branch in branches}, revision)
    found = archive(
        own,
        versions,
        made_for,
        metapackage=draw(st.sampled_from([None, *made_for])) if made_for else None,
    )
    if os_id == "ubuntu" or draw(st.booleans()):
        merge(candidates, found)
        if os_id == "debian":
            node["apt"]["sources"][0]["components"] += own.components[release]
    else:
        merge(world.hidden, found)
    if draw(st.booleans()):
        world.cuda(
            {branch: CUDA[branch] for branch in draw(st.sets(st.sampled_from(sorted(CUDA)), min_size=1))},
            True,
        )
    else:
        world.cuda(CUDA, False)
    if draw(st.integers(0, 5)) == 0:
        node["host"]["nvswitches"] = [{"pci": "0000:05:00.0", "vendor_id": "10de", "device_id": "1af1"}]
    if draw(st.integers(0, 5)) == 0:
        node["apt"].update(lists_age_seconds=9e6)

    # What is there already: the work of an earlier run with other wishes, on which time has worked since.
    if draw(st.booleans()) and world.converge(draw(wishes(os_id))):
        node = world.node
        age(draw, world, [running, later, latest])
    node = world.node
    if draw(st.integers(0, 4)) == 0 and not node["driver"]["loaded"]:
        node["host"]["nouveau"]["loaded"] = True
        node["host"]["gpus"][0]["driver_bound"] = "nouveau"
    return world, draw(wishes(os_id))


def age(draw: st.DrawFn, world: World, kernels: list[str]) -> None:
    """What happens to a node between two runs."""
    node = world.node
    candidates = node["apt"]["candidates"]
    happened = draw(
        st.sets(st.sampled_from(["kernel", "reboot", "newer", "unload", "job", "pinless", "old"]))
    )
    if "newer" in happened:
        # The archive moves on within a branch, and forgets what it had.
        for name, entry in list(candidates.items()):
            if "580" in name and entry["versions"][0].startswith("580.95.05"):
                newer = entry["versions"][0].replace("580.95.05", "580.105.08")
                origins = entry["origins"].pop(entry["versions"][0])
                entry.update(candidate=newer, versions=[newer], origins={newer: origins})
                if entry["installed"]:
                    entry["versions"].append(entry["installed"])
        obey_pin(node)
    if "kernel" in happened:
        node["host"]["kernel"]["installed"] = sorted({*node["host"]["kernel"]["installed"], kernels[1]})
        node["host"]["kernel"]["next_boot"] = node["host"]["kernel"]["installed"][-1]
    dkms = not any(row["name"].startswith("linux-modules-nvidia-") for row in node["driver"]["packages"])
    flavour = (node["driver"]["on_disk"] or {}).get("flavour", "open")
    modules_on_disk(node, flavour, dkms)
    if "reboot" in happened or "unload" in happened:
        node["driver"].update(loaded=None, device_nodes=[], processes=[])
    elif node["driver"]["loaded"]:
        node["driver"].update(processes=[DAEMON])
        node["driver"]["loaded"]["users"] = 1
        if "old" in happened:
            node["driver"]["loaded"]["version"] = "580.65.06"
        if "job" in happened:
            node["driver"].update(processes=[DAEMON, JOB])
    if "reboot" in happened:
        kernel = node["host"]["kernel"]
        kernel["running"] = kernel["next_boot"]
        modules_on_disk(node, flavour, dkms)
    if "pinless" in happened:
        node["apt"]["driver_pin"] = None
        obey_pin(node)


def wishes(os_id: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "nvidia_driver_source": st.sampled_from(["auto", os_id, "cuda_repo"]),
            "nvidia_driver_branch": st.sampled_from(["auto"] * 4 + ["535", "580", "590"]),
            "nvidia_driver_flavour": st.sampled_from(["auto", "auto", "open", "proprietary"]),
            "nvidia_driver_min_version": st.sampled_from(["460.27", "460.27", "535", "580"]),
            "nvidia_driver_reload_allowed": st.booleans(),
            "nvidia_driver_hold_enabled": st.booleans(),
            "nvidia_driver_persistenced_enabled": st.booleans(),
            "host_reboot_allowed": st.sampled_from([True, True, True, False]),
            "gpuready_workloads": st.sampled_from(
                [["tensorflow-2.9"], ["tensorflow-2.18"], ["pytorch-2.5-cu124"]]
            ),
        },
    )


def has_module(node: Node, kernel: str) -> bool:
    found = node["driver"]["on_disk" if kernel == node["host"]["kernel"]["running"] else "on_disk_next_boot"]
    return found is not None


@relaxed
@given(worlds())
def test_plan_is_empty_after_two_rounds(chosen: tuple[World, dict[str, Any]]) -> None:
    world, wished = chosen
    first = todo = world.plan(wished)
    target(0.0 if todo["status"] == "conflict" else 1.0)
    if todo["status"] == "conflict":
        assert all(row["options"] for row in todo["conflicts"])
        return
    for _ in range(2):
        if todo["status"] == "converged":
            break
        assert all(action["reason"] and action["evidence"] for action in todo["actions"])
        todo = world.carry_out(todo, wished)
        if todo["status"] == "conflict":
            # Only fresh lists can bring it to light; what they show does not go away by itself.
            assert todo is not first and all(row["options"] for row in todo["conflicts"])
            assert world.plan(wished)["status"] == "conflict"
            return
        rebooting = "host.reboot" in [action["id"] for action in todo["actions"]]
        if rebooting:
            assert world.node["driver"]["loaded"], f"the reboot lost the GPU: {todo['reboot']}"
        todo = world.plan(wished)
    remaining = [action["id"] for action in todo["actions"]]
    assert not todo["conflicts"], todo["conflicts"]
    if todo["reboot"]["needed"]:
        assert wished.get("host_reboot_allowed") is False and remaining == [], remaining
        return
    assert (todo["status"], remaining) == ("converged", []), first["driver"]
    driver = todo["driver"]
    assert driver["keeps_installed"] and driver["change"] == "none"
    state = world.node["driver"]
    assert state["loaded"]["version"] == state["on_disk"]["version"] == state["userspace"]["version"]
    assert has_module(world.node, world.node["host"]["kernel"]["running"])
    held = {row["name"] for row in state["packages"] if row["held"]}
    assert not any("-generic" in name and not name[-9].isdigit() for name in held if "linux-" in name)


@relaxed
@given(worlds())
def test_nothing_is_planned_for_a_node_with_a_conflict_in_the_driver(
    chosen: tuple[World, dict[str, Any]],
) -> None:
    world, wished = chosen
    before = copy.deepcopy(world.node)
    todo = world.plan(wished)
    assert world.node == before
    if todo["driver"] is None:
        assert [row for row in todo["conflicts"] if row["id"].startswith(("driver.", "host.", "framework."))]
        assert not [action["id"] for action in todo["actions"] if action["id"].startswith("driver.")]


@pytest.mark.parametrize("system", SYSTEMS, ids=" ".join)
def test_bare_node_of_every_system_gets_its_driver(system: tuple[str, str]) -> None:
    os_id, release = system
    world = World(os_id, release, KERNELS[os_id][0])
    world.node["apt"]["candidates"][f"linux-headers-{KERNELS[os_id][0]}"] = offer("1")
    own = world.source("auto")
    revision = "0ubuntu1" if os_id == "ubuntu" else f"1~deb{release}u1"
    found = archive(own, packaged(OWN[system], revision), KERNELS[os_id][:1], metapackage=KERNELS[os_id][0])
    merge(world.node["apt"]["candidates"] if os_id == "ubuntu" else world.hidden, found)
    first = world.plan({})
    ids = [action["id"] for action in first["actions"]]
    assert ("driver.source" in ids) == (os_id == "debian") and "driver.pin" not in ids
    assert world.converge({}) and world.plan({})["status"] == "converged"
