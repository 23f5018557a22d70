"""For every managed artefact: damage it in the observation, and exactly the right action comes back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from applied import TODAY, apply, converge
from gpuready.catalog import load_catalog
from gpuready.draft import ACTIONS
from gpuready.planner import plan
from observed_nodes import Node, bare, daemon_json

CATALOG = load_catalog()
ALICE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBiA03hMmM6SlW1SP3uKmvp1WSa3Op9U4xMaW610AWP2 alice@desk"
WISHES: dict[str, Any] = {
    "docker_engine_daemon_config": {"insecure-registries": ["registry:5000"], "log-driver": "journald"},
    "docker_engine_source": "docker_ce",
    "gpu_health_enabled": True,
    "framework_image_recipes": [
        {"name": "tf-notebook", "base": "tensorflow-2.9", "jupyter": True, "ssh": True, "pip": ["pandas<3"]}
    ],
    "gpu_workbench_users": [{"name": "alice", "authorized_keys": [ALICE]}],
    "framework_venv_environments": [
        {"name": "research", "workload": "pytorch-2.5-cu124", "packages": ["torchvision"]}
    ],
}
VERSION = "580.95.05"

Damage = Callable[[Node], None]


def planned(node: Node) -> Node:
    return plan(node, WISHES, CATALOG, host="node", today=TODAY)


@pytest.fixture(scope="module")
def whole() -> Node:
    """Docker 28.5 from Docker's own repository: every managed artefact is there, CDI included."""
    node = converge(bare("20b5", docker="24.0.7-0ubuntu4"), **WISHES)
    assert planned(node)["status"] == "converged"
    return node


def _docker(node: Node) -> Node:
    return node["container_runtime"]["docker"]


def _toolkit(node: Node) -> Node:
    return node["container_runtime"]["toolkit"]


def _source(node: Node, word: str) -> Node:
    return next(source for source in node["apt"]["sources"] if word in source["file"])


def _drop_source(word: str) -> Damage:
    return lambda node: node["apt"]["sources"].remove(_source(node, word))


def _set_source(word: str, **values: Any) -> Damage:
    return lambda node: _source(node, word).update(values)


def _second_source(node: Node) -> None:
    other = copy.deepcopy(_source(node, "nvidia"))
    other.update(file="/etc/apt/sources.list.d/old.list", signed_by="/etc/apt/keyrings/other.gpg")
    node["apt"]["sources"].append(other)


def _insecure_second_source(node: Node) -> None:
    _second_source(node)
    node["apt"]["sources"][-1].update(uris=["http://nvidia.github.io/libnvidia-container/stable/deb/amd64"])


def _without_package(name: str) -> Damage:
    def damage(node: Node) -> None:
        node["driver"]["packages"] = [row for row in node["driver"]["packages"] if row["name"] != name]
        node["apt"]["candidates"][name]["installed"] = None

    return damage


def _config(**changes: Any) -> Damage:
    def damage(node: Node) -> None:
        content = {**_docker(node)["daemon_json"]["content"], **changes}
        content = {key: value for key, value in content.items() if value is not None}
        _docker(node)["daemon_json"] = daemon_json(content)

    return damage


def _no_daemon_json(node: Node) -> None:
    _docker(node)["daemon_json"] = daemon_json(None)


def _unload(node: Node) -> None:
    node["driver"].update(loaded=None, device_nodes=[])
    node["host"]["gpus"][0]["driver_bound"] = None


def _loosen(packages: list[Node]) -> None:
    packages[-1]["held"] = False


def _mixed_toolkit(node: Node) -> None:
    _toolkit(node)["packages"][0]["version"] = "1.17.7-1"


def _half_toolkit(node: Node) -> None:
    del _toolkit(node)["packages"][1]


def _purge_toolkit(node: Node) -> None:
    _toolkit(node).update(packages=[], hook_on_dockerd_path=False, version=None)
    _toolkit(node)["binaries"] = dict.fromkeys(_toolkit(node)["binaries"])


def _config_files_of_toolkit(node: Node) -> None:
    _purge_toolkit(node)
    _toolkit(node)["packages"] = [
        {"name": "nvidia-container-toolkit", "version": "1.17.8-1", "held": False, "status": "config-files"}
    ]


def _stop_docker(node: Node) -> None:
    _docker(node)["service"].update(active=False, pid=None, started_at=None)
    _docker(node)["live"] = {**dict.fromkeys(_docker(node)["live"]), "reachable": False, "error": "no socket"}
    _toolkit(node).update(hook_on_dockerd_path=None, hook_newer_than_dockerd=None)


def _stale_spec(node: Node) -> None:
    spec = node["container_runtime"]["cdi"]["specs"][0]
    spec.update(stale=True, missing_paths=["/usr/lib/x86_64-linux-gnu/libcuda.so.580.82.07"])


def _old_and_in_use(node: Node) -> None:
    node["driver"]["loaded"].update(version="580.82.07", users=1)
    node["driver"]["processes"] = [{"pid": 7, "name": "python3", "files": ["/dev/nvidia0"], "service": None}]


def _cdi_service_failed(node: Node) -> None:
    _toolkit(node)["cdi_refresh"] = {"installed": True, "failed": True}


def _cdi_service_without_spec(node: Node) -> None:
    _toolkit(node)["cdi_refresh"] = {"installed": True, "failed": False}
    node["container_runtime"]["cdi"]["specs"] = []


def _fabric(**state: Any) -> Damage:
    def damage(node: Node) -> None:
        node["host"]["nvswitches"] = [{"pci": "0000:05:00.0", "vendor_id": "10de", "device_id": "1af1"}]
        name = "nvidia-fabricmanager-580"
        row = {"name": name, "version": "580.95.05-1", "held": True, "status": "installed"}
        node["driver"]["packages"].append(row)
        node["apt"]["candidates"][name]["installed"] = "580.95.05-1"
        whole = {"installed": True, "version": "580.95.05", "enabled": True, "active": True}
        node["driver"]["fabricmanager"] = {**whole, **state}

    return damage


def _derived(node: Node) -> Node:
    return next(image for image in node["framework"]["images"] if image["ref"].startswith("gpuready/"))


def _label(name: str, value: str | None) -> Damage:
    def damage(node: Node) -> None:
        labels = _derived(node)["labels"]
        assert labels[name]
        labels[name] = value
        if value is None:
            del labels[name]

    return damage


def _former_image(node: Node) -> None:
    former = copy.deepcopy(_derived(node))
    former.update(ref="gpuready/tf-notebook:000000000000", id="sha256:former")
    node["framework"]["images"].append(former)


BENCH = "/etc/gpuready/workbench/alice/"
BENCH_UNIT = "/etc/systemd/system/gpuready-workbench-alice.service"


def _bench(node: Node) -> Node:
    return node["application"]["workbenches"][0]


def _in_bench(key: str, **values: Any) -> Damage:
    return lambda node: _bench(node)[key].update(values)


def _left_over(node: Node) -> None:
    _files(node)[BENCH + "notes.txt"] = {"sha256": "0" * 64, "mode": "0644", "owner": "root", "link": None}


def _another_bench(node: Node) -> None:
    node["application"]["workbenches"].append({**copy.deepcopy(_bench(node)), "name": "bob"})


def _venv(node: Node) -> Node:
    return node["framework"]["venvs"][0]


def _in_venv(**values: Any) -> Damage:
    return lambda node: _venv(node).update(values)


def _former_build(node: Node) -> None:
    _venv(node)["former"] = [{"path": _venv(node)["path"] + "@0123456789ab", "used_by": []}]


def _another_venv(node: Node) -> None:
    path = "/opt/gpuready/venvs/old"
    row = {**copy.deepcopy(_venv(node)), "name": "old", "path": path, "target": path + "@0123456789ab"}
    node["framework"]["venvs"].append(row)


def _no_venv_module(node: Node) -> None:
    node["framework"]["pythons"][0]["venv"] = False
    node["framework"]["venvs"] = []


HEALTH = "/etc/gpuready/health/health.json"
PROGRAM = "/usr/local/lib/gpuready/gpuready-health.pyz"
CHECK = "gpuready-health-check.timer"


def _files(node: Node) -> Node:
    return node["application"]["files"]


def _unit(name: str, **state: Any) -> Damage:
    return lambda node: node["application"]["units"][name].update(state)


def _former_health_unit(node: Node) -> None:
    path = "/etc/systemd/system/gpuready-health-former.timer"
    _files(node)[path] = {"sha256": "0" * 64, "mode": "0644", "owner": "root", "link": None}


def _no_exporter(node: Node) -> None:
    node["application"]["health"]["node_exporter"].update(
        installed=False, package=False, ours=False, active=False
    )
    node["application"]["health"]["textfile_directory"] = False


# what, how, which actions must come back
DAMAGES: list[tuple[str, Damage, list[str]]] = [
    ("dpkg interrupted", lambda n: n["apt"].update(dpkg_interrupted=True), ["apt.finish_dpkg"]),
    ("toolkit's source gone", _drop_source("nvidia"), ["toolkit.source"]),
    ("toolkit's source disabled", _set_source("nvidia", enabled=False), ["toolkit.source"]),
    (
        "toolkit's source elsewhere",
        _set_source("nvidia", uris=["https://other.example/deb"]),
        ["toolkit.source"],
    ),
    ("toolkit's source without key", _set_source("nvidia", signed_by=None), ["toolkit.source"]),
    ("toolkit's keyring gone", _set_source("nvidia", fingerprints=None), ["toolkit.source"]),
    ("toolkit's key another one", _set_source("nvidia", fingerprints=["F" * 40]), ["toolkit.source"]),
    ("toolkit's source twice, two keys", _second_source, ["toolkit.source"]),
    ("toolkit's source twice, over http", _insecure_second_source, ["toolkit.source"]),
    ("Docker's source gone", _drop_source("docker"), ["docker.source"]),
    ("Docker's key another one", _set_source("docker", fingerprints=["F" * 40]), ["docker.source"]),
    ("nouveau allowed again", lambda n: n["host"]["nouveau"].update(blacklisted=False), ["host.nouveau_off"]),
    ("toolkit purged", _purge_toolkit, ["toolkit.install", "toolkit.hold", "docker.restart"]),
    ("toolkit removed", _config_files_of_toolkit, ["toolkit.install", "toolkit.hold", "docker.restart"]),
    ("toolkit incomplete", _half_toolkit, ["toolkit.install", "toolkit.hold", "docker.restart"]),
    ("toolkit of two versions", _mixed_toolkit, ["toolkit.install", "toolkit.hold", "docker.restart"]),
    (
        "toolkit's hook deleted",
        lambda n: _toolkit(n)["binaries"].update({"nvidia-container-runtime-hook": None}),
        ["toolkit.install", "docker.restart"],
    ),
    ("toolkit not held", lambda n: _loosen(_toolkit(n)["packages"]), ["toolkit.hold"]),
    ("Docker disabled", lambda n: _docker(n)["service"].update(enabled=False), ["docker.service"]),
    ("Docker stopped", _stop_docker, ["docker.service"]),
    ("daemon.json without our runtime", _config(runtimes=None), ["toolkit.runtime"]),
    ("daemon.json without the wished key", _config(**{"log-driver": None}), ["docker.daemon_config"]),
    ("daemon.json gone", _no_daemon_json, ["docker.daemon_config", "toolkit.runtime"]),
    (
        "dockerd without the runtime",
        lambda n: _docker(n)["live"].update(runtimes=["runc"]),
        ["docker.restart"],
    ),
    (
        "dockerd without the registry",
        lambda n: _docker(n)["live"].update(insecure_registries=["127.0.0.0/8"]),
        ["docker.restart"],
    ),
    ("dockerd without CDI", lambda n: _docker(n)["live"].update(cdi_spec_dirs=None), ["docker.restart"]),
    (
        "hook newer than dockerd",
        lambda n: _toolkit(n).update(hook_newer_than_dockerd=True),
        ["docker.restart"],
    ),
    (
        "images removed",
        lambda n: n["framework"].update(images=[]),
        ["image.fetch", "image.build", "workbench.start"],
    ),
    (
        "derived image removed",
        lambda n: n["framework"]["images"].remove(_derived(n)),
        ["image.build", "workbench.start"],
    ),
    (
        "derived image of another base",
        _label("io.gpuready.base", "sha256:other"),
        ["image.build", "workbench.start"],
    ),
    (
        "derived image of another recipe",
        _label("io.gpuready.recipe_hash", "0" * 64),
        ["image.build", "workbench.start"],
    ),
    (
        "derived image that was never checked",
        _label("io.gpuready.checked", None),
        ["image.build", "workbench.start"],
    ),
    ("derived image that nothing wants", _former_image, ["image.prune"]),
    (
        "guard file changed",
        lambda n: n["apt"]["unattended_upgrades"].update(guard_file=False),
        ["driver.upgrade_guard"],
    ),
    (
        "driver's tools removed",
        _without_package("nvidia-utils-580-server"),
        ["driver.install", "driver.hold"],
    ),
    (
        "driver's module package removed",
        _without_package("linux-modules-nvidia-580-server-open-5.15.0-157-generic"),
        ["driver.install", "driver.hold"],
    ),
    ("module file deleted", lambda n: n["driver"].update(on_disk=None), ["driver.install", "driver.hold"]),
    (
        "module of another flavour",
        lambda n: n["driver"]["on_disk"].update(flavour="proprietary"),
        ["driver.install", "driver.hold"],
    ),
    (
        "libcuda deleted",
        lambda n: n["driver"]["userspace"].update(libcuda=None),
        ["driver.install", "driver.hold"],
    ),
    (
        "nvidia-smi deleted",
        lambda n: n["driver"]["userspace"].update(nvidia_smi=None),
        ["driver.install", "driver.hold"],
    ),
    ("driver not held", lambda n: _loosen(n["driver"]["packages"]), ["driver.hold"]),
    ("driver unloaded", _unload, ["driver.load"]),
    ("device file deleted", lambda n: n["driver"]["device_nodes"].remove("/dev/nvidia0"), ["driver.load"]),
    (
        "uvm's device file deleted",
        lambda n: n["driver"]["device_nodes"].remove("/dev/nvidia-uvm"),
        ["driver.load"],
    ),
    ("uvm unloaded", lambda n: n["driver"]["loaded"].update(modules=["nvidia"]), ["driver.load"]),
    (
        "persistenced stopped",
        lambda n: n["driver"]["persistenced"].update(active=False),
        ["driver.persistenced"],
    ),
    (
        "persistenced disabled",
        lambda n: n["driver"]["persistenced"].update(enabled=False),
        ["driver.persistenced"],
    ),
    ("another driver loaded", lambda n: n["driver"]["loaded"].update(version="580.82.07"), ["driver.reload"]),
    ("another driver loaded and in use", _old_and_in_use, ["host.reboot"]),
    ("initramfs stale", lambda n: n["host"]["initramfs"].update(stale=True), ["host.nouveau_off"]),
    ("CDI service failed", _cdi_service_failed, ["toolkit.cdi_refresh"]),
    ("CDI service without a specification", _cdi_service_without_spec, ["toolkit.cdi_refresh"]),
    ("fabric manager stopped", _fabric(active=False), ["driver.fabricmanager"]),
    ("fabric manager disabled", _fabric(enabled=False), ["driver.fabricmanager"]),
    ("fabric manager of another version", _fabric(version="580.82.07"), ["driver.fabricmanager"]),
    ("CDI specification deleted", lambda n: n["container_runtime"]["cdi"].update(specs=[]), ["toolkit.cdi"]),
    ("CDI specification stale", _stale_spec, ["toolkit.cdi"]),
    (
        "CDI specification of another driver",
        lambda n: n["container_runtime"]["cdi"]["specs"][0].update(driver_version="580.82.07"),
        ["toolkit.cdi"],
    ),
    ("workbench's keys gone", lambda n: _files(n).pop(BENCH + "authorized_keys"), ["workbench.configure"]),
    ("workbench's unit gone", lambda n: _files(n).pop(BENCH_UNIT), ["workbench.configure"]),
    (
        "workbench's sshd_config edited",
        lambda n: _files(n)[BENCH + "sshd_config"].update(sha256="0" * 64),
        ["workbench.configure"],
    ),
    (
        "workbench's config open to all",
        lambda n: _files(n)[BENCH + "jupyter_server_config.py"].update(mode="0666"),
        ["workbench.configure"],
    ),
    ("workbench with a file too many", _left_over, ["workbench.configure"]),
    ("workbench's token gone", _in_bench("token", exists=False, mode=None), ["workbench.configure"]),
    ("workbench's token too short", _in_bench("token", length=8), ["workbench.configure"]),
    ("workbench's token open to all", _in_bench("token", mode="0644"), ["workbench.configure"]),
    ("workbench's token somebody else's", _in_bench("token", uid=1000), ["workbench.configure"]),
    ("workbench's host keys gone", lambda n: _bench(n).update(host_keys=False), ["workbench.configure"]),
    ("workbench's home gone", _in_bench("home", exists=False, uid=None), ["workbench.configure"]),
    ("workbench stopped", _in_bench("unit", active=False), ["workbench.start"]),
    ("workbench not started at boot", _in_bench("unit", enabled=False), ["workbench.start"]),
    ("workbench's container gone", lambda n: _bench(n).update(container=None), ["workbench.start"]),
    ("workbench's container ended", _in_bench("container", running=False), ["workbench.start"]),
    ("workbench configured otherwise", _in_bench("container", config="0" * 64), ["workbench.start"]),
    ("workbench from an older image", _in_bench("container", image_id="sha256:old"), ["workbench.start"]),
    ("workbench that nobody is to have", _another_bench, ["workbench.remove"]),
    ("environment gone", lambda n: n["framework"].update(venvs=[]), ["venv.install"]),
    ("environment's name gone", _in_venv(target=None, complete=False, stamp=None), ["venv.install"]),
    ("environment broken", _in_venv(complete=False), ["venv.install"]),
    ("environment for something else", lambda n: _venv(n)["stamp"].update(hash="0" * 64), ["venv.install"]),
    (
        "environment's torch swapped",
        lambda n: _venv(n)["packages"].update(torch="2.5.1+cpu"),
        ["venv.install"],
    ),
    (
        "environment's cuDNN swapped",
        lambda n: _venv(n)["packages"].update({"nvidia-cudnn-cu12": "9.10.2.21"}),
        ["venv.install"],
    ),
    ("environment without its package", lambda n: _venv(n)["packages"].pop("torchvision"), ["venv.install"]),
    ("environment somebody else's", _in_venv(owner="bob"), ["venv.install"]),
    (
        "environment for the former Python",
        lambda n: n["framework"]["pythons"][0].update(version="3.12"),
        ["venv.install", "health.configure"],
    ),
    ("environment and what makes it gone", _no_venv_module, ["venv.packages", "venv.install"]),
    ("former build of an environment", _former_build, ["venv.remove"]),
    ("environment that nothing wants", _another_venv, ["venv.remove"]),
    ("node_exporter removed", _no_exporter, ["health.packages"]),
    ("health's expectations gone", lambda n: _files(n).pop(HEALTH), ["health.configure"]),
    (
        "health's expectations edited",
        lambda n: _files(n)[HEALTH].update(sha256="0" * 64),
        ["health.configure"],
    ),
    (
        "health's program another one",
        lambda n: _files(n)[PROGRAM].update(sha256="0" * 64),
        ["health.configure"],
    ),
    (
        "health's program not executable",
        lambda n: _files(n)[PROGRAM].update(mode="0644"),
        ["health.configure"],
    ),
    (
        "health's program somebody else's",
        lambda n: _files(n)[PROGRAM].update(owner="bob"),
        ["health.configure"],
    ),
    ("a unit of health that nothing wants", _former_health_unit, ["health.configure"]),
    ("health's timer stopped", _unit(CHECK, active=False), ["health.start"]),
    ("health's timer disabled", _unit(CHECK, enabled=False), ["health.start"]),
]


@pytest.mark.parametrize(("damage", "expected"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES])
def test_damage_is_seen_and_repaired(whole: Node, damage: Damage, expected: list[str]) -> None:
    node = copy.deepcopy(whole)
    damage(node)
    assert node != whole
    result = planned(node)
    assert result["conflicts"] == []
    assert [action["id"] for action in result["actions"]] == expected
    assert all(action["reason"] and action["evidence"] for action in result["actions"])


def test_every_action_has_a_damage_that_asks_for_it() -> None:
    """docker.install and apt.refresh_lists are what a bare node shows."""
    asked = {identifier for _, _, actions in DAMAGES for identifier in actions}
    node = planned(bare("20b5"))
    asked |= {action["id"] for action in node["actions"]}
    coming = {"driver.source", "driver.pin"}
    coming |= {"health.remove"}  # gpu_health_enabled became false: test_planner_health.py
    assert asked | coming == set(ACTIONS)


def test_files_that_are_gone_name_the_packages_to_reinstall(whole: Node) -> None:
    node = copy.deepcopy(whole)
    node["driver"]["on_disk"] = None
    node["driver"]["userspace"]["libcuda"] = None
    driver = planned(node)["driver"]
    assert driver["reinstall"] == [
        "linux-modules-nvidia-580-server-open-5.15.0-157-generic",
        "libnvidia-compute-580-server",
    ]
    node = copy.deepcopy(whole)
    _toolkit(node)["binaries"]["nvidia-ctk"] = None
    assert len(planned(node)["container_runtime"]["toolkit"]["reinstall"]) == 4
    assert planned(whole)["driver"]["reinstall"] == []


def test_library_package_that_was_taken_away_comes_back(whole: Node) -> None:
    """apt brings nothing along for packages that are there already, whatever they need."""
    node = copy.deepcopy(whole)
    library = "libnvidia-compute-580-server"
    node["driver"]["packages"] = [row for row in node["driver"]["packages"] if row["name"] != library]
    node["apt"]["candidates"][library]["installed"] = None
    node["driver"]["userspace"].update(version=None, libcuda=None, libnvidia_ml=None)
    driver = planned(node)["driver"]
    version = driver["package_version"]
    assert {"name": library, "version": version} in driver["packages"]
    assert (driver["reinstall"], driver["replaces"], driver["change"]) == ([], [], "complete")


def test_metapackage_of_the_kernels_stays_with_the_driver_that_is_repaired(whole: Node) -> None:
    """It brings the module of a kernel to come; only another driver has no use for it."""
    node = copy.deepcopy(whole)
    name = "linux-modules-nvidia-580-server-open-generic"
    node["driver"]["packages"].append(
        {"name": name, "version": "5.15.0.157.157", "held": False, "status": "installed"}
    )
    node["driver"]["userspace"]["libcuda"] = None
    assert planned(node)["driver"]["replaces"] == []
    other = plan(node, {**WISHES, "nvidia_driver_branch": "535"}, CATALOG, host="node1", today=TODAY)
    assert name in other["driver"]["replaces"]


def test_spec_of_cdi_refresh_service_counts(whole: Node) -> None:
    """nvidia-cdi-refresh writes /var/run/cdi, which goes before /etc/cdi."""
    node = copy.deepcopy(whole)
    spec = node["container_runtime"]["cdi"]["specs"][0]
    old = {**spec, "stale": True, "driver_version": "1.0"}
    node["container_runtime"]["cdi"]["specs"] = [old, {**spec, "path": "/var/run/cdi/nvidia.yaml"}]
    assert planned(node)["status"] == "converged"
    node["container_runtime"]["cdi"]["specs"][1]["stale"] = True
    assert planned(node)["container_runtime"]["toolkit"]["cdi"]["spec"] == "/var/run/cdi/nvidia.yaml"


def test_switched_off_guards_are_not_planned(whole: Node) -> None:
    node = copy.deepcopy(whole)
    node["apt"]["unattended_upgrades"]["guard_file"] = False
    _loosen(node["driver"]["packages"])
    node["driver"]["persistenced"].update(active=False)
    node["host"]["nouveau"]["blacklisted"] = False
    off = {
        "nvidia_driver_upgrade_guard_enabled": False,
        "nvidia_driver_hold_enabled": False,
        "nvidia_driver_persistenced_enabled": False,
        "host_prepare_nouveau_disabled": False,
    }
    result = plan(node, {**WISHES, **off}, CATALOG, host="node", today=TODAY)
    # Only what the node itself expects of holds and persistenced follows.
    assert [action["id"] for action in result["actions"]] == ["health.configure"]


def test_several_damages_are_repaired_at_once(whole: Node) -> None:
    node = copy.deepcopy(whole)
    _unload(node)
    _purge_toolkit(node)
    node["framework"]["images"] = []
    assert planned(apply(node, planned(node)))["status"] == "converged"
