"""The container runtime's causes from facts alone: a healthy node, and one thing that is wrong with it."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import pytest
from applied import converge
from gpuready.catalog import load_catalog
from gpuready.diagnosis.facts import Facts
from gpuready.diagnosis.signs import SIGNS, load_signs
from gpuready.planner import plan
from observed_nodes import bare
from told import KNOWN, of_facts, roots, short

CATALOG = load_catalog()
HEALTHY = converge(bare("20b5"))
HEALTHY["driver"]["devices"] = [
    {
        "index": 0,
        "uuid": "GPU-5f0c1d52-7a2e-4c3b-9d67-0b1e8c2f4a11",
        "name": "NVIDIA A100 80GB PCIe",
        "pci": "0000:3b:00.0",
        "memory_total_mib": 81920,
        "memory_used_mib": 0,
        "compute_capability": "8.0",
        "mig_mode": False,
    }
]
HEALTHY["driver"]["nvml"] = {
    "source": "pynvml",
    "driver_version": HEALTHY["driver"]["loaded"]["version"],
    "cuda_version": "13.0",
    "error": None,
}
load_signs()


def node(**wishes: Any) -> dict[str, Any]:
    """The facts of a healthy node, with its plan."""
    stack = copy.deepcopy(HEALTHY)
    return {"gpu_stack": stack, "plan": plan(stack, wishes, CATALOG, host="node", today="2026-11-23")}


def runtime(facts: dict[str, Any]) -> dict[str, Any]:
    return facts["gpu_stack"]["container_runtime"]


def with_cdi(facts: dict[str, Any]) -> dict[str, Any]:
    """A node whose Docker turns --gpus into CDI devices, with a specification that fits."""
    version = facts["gpu_stack"]["driver"]["userspace"]["version"]
    docker = runtime(facts)["docker"]
    docker["version"] = docker["live"]["server_version"] = "29.2.1"
    docker["live"]["cdi_spec_dirs"] = ["/etc/cdi", "/var/run/cdi"]
    runtime(facts)["cdi"] = {
        "specs": [
            {
                "path": "/var/run/cdi/nvidia.yaml",
                "error": None,
                "cdi_version": "0.5.0",
                "kind": "nvidia.com/gpu",
                "devices": ["0", "all"],
                "driver_version": version,
                "stale": False,
                "missing_paths": [],
                "device_nodes": ["/dev/nvidia0", "/dev/nvidia-uvm", "/dev/nvidiactl"],
                "wrong_devices": [],
            }
        ]
    }
    facts["plan"]["container_runtime"]["toolkit"]["cdi"]["enabled"] = True
    return facts


def container(**more: Any) -> dict[str, Any]:
    """A container that somebody asks about; it was given a GPU by --gpus and has it."""
    version = HEALTHY["driver"]["loaded"]["version"]
    found: dict[str, Any] = {
        "name": "train",
        "image": "tensorflow/tensorflow:2.9.0-gpu",
        "architecture": "amd64",
        "running": True,
        "compose": False,
        "way": "docker",
        "requests": {
            "gpus": True,
            "runtime": None,
            "cdi_devices": [],
            "devices": [],
            "privileged": False,
            "count": -1,
            "device_ids": None,
        },
        "env": {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"},
        "device_nodes": ["/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidiactl"],
        "device_access": {"/dev/nvidiactl": "ok", "/dev/nvidia0": "ok", "/dev/nvidia-uvm": "ok"},
        "proc_driver_version": version,
        "libcuda": {
            "path": "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
            "version": version,
            "kind": "driver",
        },
        "nvidia_smi": {"ok": True, "error": None, "driver_version": version},
    }
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(found.get(name), dict):
            found[name] = {**found[name], **value}
        else:
            found[name] = value
    return found


NOT_ASKED = {"gpus": False, "count": None}
EMPTY = {
    "device_nodes": [],
    "device_access": {},
    "libcuda": False,
    "nvidia_smi": {"ok": False, "error": "nvidia-smi: not found", "driver_version": None},
}


# -- one change per cause --------------------------------------------------------------------------


def docker_gone(facts):
    runtime(facts)["docker"].update(installed=False, package=None, version=None, live=None)


def docker_stopped(facts):
    docker = runtime(facts)["docker"]
    docker["service"].update(active=False)
    docker["live"] = dict.fromkeys(docker["live"]) | {
        "reachable": False,
        "error": "no such file: docker.sock",
    }


def docker_refuses_us(facts):
    docker_stopped(facts)
    runtime(facts)["docker"]["service"].update(active=True)
    runtime(facts)["docker"]["live"]["error"] = "/var/run/docker.sock: Permission denied"


def daemon_json(facts, **fields):
    runtime(facts)["docker"]["daemon_json"].update(fields)


def broken(error):
    def change(facts):
        docker_stopped(facts)
        daemon_json(
            facts, valid=False, error=error, content=None, runtimes={}, features={}, default_runtime=None
        )

    return change


def json_key_twice(facts):
    """dockerd takes the last of the two; gpuready does not choose."""
    daemon_json(facts, valid=False, error='the key "runtimes" appears twice in one object', content=None)


def json_empty(facts):
    docker_stopped(facts)
    daemon_json(facts, content={}, runtimes={}, sha256=hashlib.sha256(b"").hexdigest())


def json_unreadable(facts):
    docker_stopped(facts)
    daemon_json(facts, valid=None, error="Is a directory", content=None, runtimes={}, sha256=None)


def json_with(**keys):
    def change(facts):
        docker_stopped(facts)
        content = {**runtime(facts)["docker"]["daemon_json"]["content"], **keys}
        daemon_json(facts, content=content, default_runtime=content.get("default-runtime"))
        runtime(facts)["docker"]["service"]["exec_start"] = ["/usr/bin/dockerd", "-H", "fd://"]

    return change


def default_runtime_undefined(facts):
    json_with(**{"default-runtime": "nvidia"})(facts)
    content = dict(runtime(facts)["docker"]["daemon_json"]["content"])
    del content["runtimes"]
    daemon_json(facts, content=content, runtimes={})


def snap(facts):
    runtime(facts)["docker"].update(snap=True, package=None)


def rootless(facts):
    runtime(facts)["docker"].update(rootless=True)


def docker_old(facts):
    runtime(facts)["docker"]["version"] = "18.09.7"
    runtime(facts)["docker"]["live"]["server_version"] = "18.09.7"


def toolkit_gone(facts):
    toolkit = runtime(facts)["toolkit"]
    toolkit.update(packages=[], version=None, hook_on_dockerd_path=False, hook_newer_than_dockerd=False)
    toolkit["binaries"] = dict.fromkeys(toolkit["binaries"])


def hook_gone(facts):
    runtime(facts)["toolkit"]["binaries"]["nvidia-container-runtime-hook"] = None
    runtime(facts)["toolkit"].update(hook_on_dockerd_path=False)


def versions_mixed(facts):
    runtime(facts)["toolkit"]["packages"][0]["version"] = "1.14.3-1"


def hook_young(facts):
    runtime(facts)["toolkit"]["hook_newer_than_dockerd"] = True


def hook_off_path(facts):
    runtime(facts)["toolkit"]["hook_on_dockerd_path"] = False


def runtime_gone(facts):
    daemon_json(facts, content={"log-level": "warn"}, runtimes={})
    runtime(facts)["docker"]["live"]["runtimes"] = ["runc"]
    facts["plan"] = plan(facts["gpu_stack"], {}, CATALOG, host="node", today="2026-11-23")


def runtime_not_live(facts):
    runtime(facts)["docker"]["live"]["runtimes"] = ["runc"]


def runtime_program_gone(facts):
    daemon_json(
        facts,
        runtime_paths={"nvidia": {"path": "/opt/old/nvidia-container-runtime", "found": False}},
    )


def legacy(facts):
    runtime(facts)["toolkit"]["packages"].append(
        {"name": "nvidia-docker2", "version": "2.13.0-1", "held": False, "status": "installed"}
    )


def config(**values):
    def change(facts):
        base = {"path": "/etc/nvidia-container-runtime/config.toml", "ldconfig_exists": None}
        runtime(facts)["toolkit"]["config"] = {**base, **values}

    return change


def no_cdi_spec(facts):
    with_cdi(facts)
    runtime(facts)["cdi"]["specs"] = []


def spec(**fields):
    def change(facts):
        with_cdi(facts)
        runtime(facts)["cdi"]["specs"][0].update(fields)

    return change


def spec_twice(facts):
    with_cdi(facts)
    again = {**runtime(facts)["cdi"]["specs"][0], "path": "/var/run/cdi/nvidia.json"}
    runtime(facts)["cdi"]["specs"].append(again)


def image_gone(facts):
    facts["gpu_stack"]["framework"]["images"] = []


def registry_gone(facts):
    image_gone(facts)
    facts["gpu_stack"]["framework"]["endpoints"] = [
        {"name": "registry", "address": "registry:5000", "reachable": False, "error": "timed out"}
    ]


def disk_full(facts):
    image_gone(facts)
    facts["gpu_stack"]["disk"] = [
        {"path": "/", "total_mib": 90000, "free_mib": 50000},
        {"path": "/var/lib/docker", "total_mib": 9000, "free_mib": 40},
    ]


NODES = {
    "docker-not-installed": docker_gone,
    "docker-not-running": docker_stopped,
    "docker-socket-not-permitted": docker_refuses_us,
    "daemon-json-broken": broken("the file is not valid JSON: Expecting ',' delimiter at line 4, column 5"),
    "daemon-json-bom": broken(
        "the file starts with a UTF-8 byte order mark, which dockerd refuses at line 1"
    ),
    "daemon-json-key-twice": json_key_twice,
    "daemon-json-empty": json_empty,
    "daemon-json-not-readable": json_unreadable,
    "daemon-json-conflicting-flags": json_with(hosts=["unix:///var/run/docker.sock"]),
    "daemon-json-unknown-option": json_with(runtime="nvidia"),
    "default-runtime-undefined": default_runtime_undefined,
    "docker-is-snap": snap,
    "docker-is-rootless": rootless,
    "docker-too-old": docker_old,
    "toolkit-missing": toolkit_gone,
    "toolkit-hook-missing": hook_gone,
    "toolkit-versions-mixed": versions_mixed,
    "toolkit-unknown-to-dockerd": hook_young,
    "toolkit-not-on-dockerd-path": hook_off_path,
    "runtime-missing-from-daemon-json": runtime_gone,
    "runtime-unknown-to-dockerd": runtime_not_live,
    "runtime-program-missing": runtime_program_gone,
    "legacy-nvidia-docker2": legacy,
    "ldconfig-path-wrong": config(ldconfig="@/sbin/ldconfig.real", ldconfig_exists=False),
    "hook-refused-in-this-mode": config(mode="cdi"),
    "cdi-spec-missing": no_cdi_spec,
    "cdi-spec-stale": spec(
        stale=True, driver_version="535.183.01", missing_paths=["/usr/lib/libcuda.so.535"]
    ),
    "cdi-wrong-uvm-major": spec(
        stale=True, wrong_devices=[{"path": "/dev/nvidia-uvm", "spec": "508:0", "host": "511:0"}]
    ),
    "cdi-spec-without-uvm": spec(device_nodes=["/dev/nvidia0", "/dev/nvidiactl"]),
    "cdi-spec-unreadable": spec(kind=None, devices=None, stale=None, error="not YAML"),
    "cdi-spec-twice": spec_twice,
    "image-not-present": image_gone,
    "registry-unreachable": registry_gone,
    "disk-full": disk_full,
}

CONTAINERS = {
    "gpus-not-requested": container(requests=NOT_ASKED, **EMPTY),
    "compose-without-device-reservation": container(requests=NOT_ASKED, compose=True, **EMPTY),
    "kubernetes-gpu-not-requested": container(requests=NOT_ASKED, way="kubernetes", **EMPTY),
    "devices-given-by-hand": container(
        requests={**NOT_ASKED, "devices": ["/dev/nvidia0", "/dev/nvidiactl"]},
        libcuda=False,
        nvidia_smi=EMPTY["nvidia_smi"],
    ),
    "visible-devices-void": container(
        requests={**NOT_ASKED, "runtime": "nvidia"}, env={"NVIDIA_VISIBLE_DEVICES": "void"}, **EMPTY
    ),
    "requested-gpu-absent": container(requests={"device_ids": ["7"]}, running=False, **EMPTY),
    "driver-capabilities-without-compute": container(
        env={"NVIDIA_DRIVER_CAPABILITIES": "utility"}, libcuda=False, nvidia_smi={"ok": None}
    ),
    "gpu-lost-after-daemon-reload": container(
        device_access={"/dev/nvidiactl": "denied", "/dev/nvidia0": "denied"},
        nvidia_smi={"ok": False, "error": "Failed to initialize NVML: Unknown Error"},
    ),
    "devices-not-permitted-in-container": container(
        device_access={"/dev/nvidiactl": "no_permission", "/dev/nvidia0": "no_permission"},
        nvidia_smi={"ok": False, "error": "Failed to initialize NVML: Insufficient Permissions"},
    ),
    "container-without-uvm": container(device_nodes=["/dev/nvidia0", "/dev/nvidiactl"]),
    "stub-libcuda-first": container(
        libcuda={"path": "/usr/local/cuda/lib64/stubs/libcuda.so.1", "kind": "stub", "version": None}
    ),
    "driver-libraries-in-image": container(libcuda={"version": "470.129.06"}),
    "driver-capabilities-without-utility": container(
        env={"NVIDIA_DRIVER_CAPABILITIES": "compute,video"}, nvidia_smi=EMPTY["nvidia_smi"]
    ),
    "libcuda-not-injected": container(libcuda=False, nvidia_smi={"ok": None}),
    "container-without-device-files": container(device_nodes=[], nvidia_smi=EMPTY["nvidia_smi"]),
    "image-other-architecture": container(architecture="arm64", running=False, **EMPTY),
}


def test_a_healthy_node_is_healthy():
    assert of_facts(node())["status"] == "healthy"
    assert of_facts(with_cdi(node()))["status"] == "healthy"


def test_a_container_that_has_its_gpu_is_no_cause():
    answer = of_facts({**node(), "container": container()})
    assert roots(answer) == [], short(answer)
    links = {row["link"]: row["state"] for row in answer["chain"]}
    assert [links[name] for name in ("engine", "toolkit", "image", "request", "libcuda")] == [True] * 5


@pytest.mark.parametrize("cause", NODES)
def test_a_node_with_one_fault_has_one_cause(cause):
    facts = node()
    NODES[cause](facts)
    answer = of_facts(facts)
    assert roots(answer) == [cause], short(answer)
    assert answer["causes"][0]["certain"]
    layer = answer["causes"][0]["layer"]
    assert layer in ("container_runtime", "framework")


@pytest.mark.parametrize("cause", CONTAINERS)
def test_a_container_with_one_fault_has_one_cause(cause):
    answer = of_facts({**node(), "container": CONTAINERS[cause]})
    assert roots(answer) == [cause], short(answer)
    assert answer["causes"][0]["certain"]


def test_what_the_plan_repairs_is_read_from_the_plan():
    facts = node()
    hook_young(facts)
    facts["plan"] = plan(facts["gpu_stack"], {}, CATALOG, host="node", today="2026-11-23")
    (cause,) = of_facts(facts)["causes"]
    assert cause["repair"] == "safe"
    assert [row["id"] for row in cause["site"]] == ["docker.restart"]


@pytest.mark.parametrize("cause", NODES)
def test_the_repair_class_is_what_the_planner_really_does(cause):
    """safe: the plan of that very node has one of the actions that the cause names."""
    facts = node()
    NODES[cause](facts)
    known = KNOWN.causes[cause]
    todo = plan(facts["gpu_stack"], {}, CATALOG, host="node", today="2026-11-23")
    planned = {row["id"] for row in todo["actions"]}
    if known.repair == "safe":
        assert planned & set(known.actions), (sorted(planned), todo["conflicts"])
    else:
        assert known.repair == "manual"


def test_facts_beat_an_old_line_of_a_log():
    """The toolkit is there and dockerd knows it: what was said before counts no more."""
    said = 'could not select device driver "" with capabilities: [[gpu]]'
    answer = of_facts({**node(), "container": container()}, said)
    assert "toolkit-missing" not in roots(answer)
    assert "toolkit-unknown-to-dockerd" not in roots(answer)


def test_a_toolkit_without_its_main_package_is_none():
    """nvidia-ctk is in the base package, which stays when the other is removed."""
    facts = node()
    toolkit = runtime(facts)["toolkit"]
    toolkit["packages"] = [row for row in toolkit["packages"] if row["name"] != "nvidia-container-toolkit"]
    hook_gone(facts)
    facts["plan"] = plan(facts["gpu_stack"], {}, CATALOG, host="node", today="2026-11-23")
    answer = of_facts(facts)
    assert roots(answer) == ["toolkit-missing"]
    assert "toolkit.install" in [row["id"] for row in answer["causes"][0]["site"]]


def test_a_device_that_no_specification_names():
    facts = with_cdi(node())
    asked = {"gpus": False, "count": None, "cdi_devices": ["nvidia.com/gpu=5"]}
    facts["container"] = container(requests=asked, running=False, **EMPTY)
    assert roots(of_facts(facts)) == ["cdi-device-unknown"]


def test_a_driver_root_that_is_not_the_hosts():
    facts = {**node(), "container": container(**EMPTY)}
    config(root="/run/nvidia/driver")(facts)
    assert "toolkit-driver-root-wrong" in roots(of_facts(facts))


def test_another_engine_than_this_machines():
    facts = node()
    docker_stopped(facts)
    runtime(facts)["docker"]["docker_host"] = "tcp://10.0.0.9:2375"
    assert roots(of_facts(facts)) == ["docker-context-elsewhere"]


def test_mapped_users_explain_what_is_denied():
    facts = {**node(), "container": container(**EMPTY)}
    runtime(facts)["docker"]["live"]["security_options"] = ["name=userns"]
    said = (
        "nvidia-container-cli: mount error: mount operation failed: /proc: operation not permitted: unknown"
    )
    answer = of_facts(facts, said)
    assert "userns-remap-hides-gpu" in roots(answer), short(answer)


def test_no_cgroups_and_a_lost_gpu_are_told_apart():
    facts = {**node(), "container": CONTAINERS["gpu-lost-after-daemon-reload"]}
    config(no_cgroups=True)(facts)
    assert roots(of_facts(facts)) == ["devices-denied-by-no-cgroups"]


def test_two_faults_are_both_named():
    facts = {**node(), "container": CONTAINERS["gpus-not-requested"]}
    runtime_not_live(facts)
    assert roots(of_facts(facts)) == ["runtime-unknown-to-dockerd", "gpus-not-requested"]


def test_a_request_without_the_engines_word_stays_unknown():
    def state(name: str, data: dict[str, Any]) -> bool | None:
        return SIGNS[name].find(Facts(data, CATALOG)).state

    assert state("request.none", {}) is None
    assert state("request.none", {"container": {"requests": {"gpus": None}}}) is None
    assert state("request.none", {"container": {"requests": {"gpus": False}}}) is True
    default = {
        "container_runtime": {"docker": {"live": {"default_runtime": "nvidia", "runtimes": ["nvidia"]}}}
    }
    assert state("request.none", {"container": {"requests": {"gpus": False}}, "gpu_stack": default}) is False


@pytest.mark.parametrize(
    "name", sorted(name for name, row in SIGNS.items() if "signs_runtime" in row.find.__module__)
)
def test_a_sign_of_nothing_is_unknown_and_never_fails(name):
    assert SIGNS[name].find(Facts({}, CATALOG)).state is None
    for odd in (
        {"gpu_stack": None, "container": 7},
        {"gpu_stack": {"container_runtime": []}, "container": {}},
    ):
        SIGNS[name].find(Facts(odd, CATALOG))
