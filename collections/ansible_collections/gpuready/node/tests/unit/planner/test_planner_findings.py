"""The first broken link between the bus and the container."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from applied import converge
from gpuready.findings import CLUES, first_findings, warnings
from observed_nodes import Node, bare


@pytest.fixture(scope="module")
def whole() -> Node:
    node = converge(bare("20b5", docker="28.2.2-1"))
    node["driver"]["devices"] = [{"index": 0, "pci": "00000000:3B:00.0", "name": "A100"}]
    return node


def verification(log: str = "", way: str = "gpus", **more: Any) -> Node:
    return {"ok": False, "launch": {"way": way}, "log": log, "findings": [], **more}


def test_a_whole_node_has_no_finding(whole: Node) -> None:
    for way in ("gpus", "runtime", "cdi"):
        assert first_findings(whole, verification(way=way)) == []


def _gpu(**values: Any) -> Callable[[Node], None]:
    return lambda node: node["host"]["gpus"][0].update(values)


def _docker(node: Node) -> Node:
    return node["container_runtime"]["docker"]


def _no_runtime(node: Node) -> None:
    _docker(node)["live"]["runtimes"] = ["runc"]


def _secure(node: Node) -> None:
    node["host"]["secure_boot"] = True
    node["driver"]["loaded"] = None
    node["driver"]["on_disk"]["signed"] = False


def _fabric(**values: Any) -> Callable[[Node], None]:
    """A node with NVSwitches, and what is with its fabric manager."""

    def damage(node: Node) -> None:
        node["host"]["nvswitches"] = [{"pci": "0000:c0:00.0", "vendor_id": "10de", "device_id": "1af1"}]
        version = node["driver"]["loaded"]["version"]
        node["driver"]["fabricmanager"] = {
            "installed": True,
            "version": version,
            "enabled": True,
            "active": True,
            **values,
        }

    return damage


BROKEN: list[tuple[str, Callable[[Node], None], str, str, str]] = [
    ("no GPU", lambda n: n["host"].update(gpus=[]), "gpus", "host", "no NVIDIA GPU on the PCI bus"),
    ("nouveau", _gpu(driver_bound="nouveau"), "gpus", "host", "another driver holds the GPU: nouveau"),
    ("vfio", _gpu(driver_bound="vfio-pci"), "gpus", "host", "another driver holds the GPU: vfio-pci"),
    (
        "no driver",
        lambda n: n["driver"].update(loaded=None, on_disk=None),
        "gpus",
        "host",
        "no driver is installed for the running kernel",
    ),
    ("not loaded", lambda n: n["driver"].update(loaded=None), "gpus", "host", "installed, but not loaded"),
    ("unsigned", _secure, "gpus", "host", "Secure Boot refuses the driver"),
    (
        "mismatch",
        lambda n: n["driver"]["loaded"].update(version="580.82.07"),
        "gpus",
        "host",
        "the loaded driver and its libraries are of two versions",
    ),
    (
        "no libcuda",
        lambda n: n["driver"]["userspace"].update(libcuda=None),
        "gpus",
        "host",
        "the driver's libraries are not on the node",
    ),
    (
        "NVML mute",
        lambda n: n["driver"].update(devices=None, nvml={"error": "Unknown Error"}),
        "gpus",
        "host",
        "the driver does not answer",
    ),
    ("off the bus", lambda n: n["driver"].update(devices=[]), "gpus", "host", "does not drive every GPU"),
    (
        "no uvm",
        lambda n: n["driver"]["device_nodes"].remove("/dev/nvidia-uvm"),
        "gpus",
        "host",
        "device files are missing",
    ),
    (
        "no fabric manager",
        _fabric(installed=False, version=None, enabled=None, active=None),
        "gpus",
        "host",
        "the fabric manager is missing",
    ),
    (
        "fabric manager of another version",
        _fabric(version="535.247.01"),
        "gpus",
        "host",
        "the fabric manager and the driver are of two versions",
    ),
    ("fabric manager down", _fabric(active=False), "gpus", "host", "the fabric manager does not run"),
    ("no Docker", lambda n: _docker(n).update(installed=False), "gpus", "container_runtime", "not installed"),
    (
        "daemon.json",
        lambda n: _docker(n)["daemon_json"].update(valid=False, error="line 1"),
        "gpus",
        "container_runtime",
        "daemon.json cannot be read",
    ),
    (
        "dockerd down",
        lambda n: _docker(n)["live"].update(reachable=False, error="no socket"),
        "gpus",
        "container_runtime",
        "dockerd does not answer",
    ),
    (
        "no toolkit",
        lambda n: n["container_runtime"]["toolkit"]["binaries"].update(
            {"nvidia-container-runtime-hook": None}
        ),
        "gpus",
        "container_runtime",
        "the container toolkit is not installed",
    ),
    (
        "hook too new",
        lambda n: n["container_runtime"]["toolkit"].update(hook_newer_than_dockerd=True),
        "gpus",
        "container_runtime",
        "dockerd was started before the toolkit",
    ),
    (
        "hook off PATH",
        lambda n: n["container_runtime"]["toolkit"].update(hook_on_dockerd_path=False),
        "gpus",
        "container_runtime",
        "not on dockerd's PATH",
    ),
    ("no runtime", _no_runtime, "runtime", "container_runtime", "dockerd does not know the runtime nvidia"),
    (
        "no spec",
        lambda n: n["container_runtime"]["cdi"].update(specs=[]),
        "cdi",
        "container_runtime",
        "there is no CDI specification",
    ),
    (
        "stale spec",
        lambda n: n["container_runtime"]["cdi"]["specs"][0].update(stale=True, missing_paths=["/dev/x"]),
        "cdi",
        "container_runtime",
        "no longer fits the driver",
    ),
]


@pytest.mark.parametrize(
    ("damage", "way", "layer", "text"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN]
)
def test_broken_link_is_named(whole: Node, damage: Any, way: str, layer: str, text: str) -> None:
    node = copy.deepcopy(whole)
    damage(node)
    found = first_findings(node, verification(way=way))
    assert len(found) == 1
    assert found[0]["layer"] == layer and text in found[0]["finding"]
    assert found[0]["evidence"] and found[0]["fix"]


def test_fabric_manager_that_runs_is_no_finding(whole: Node) -> None:
    node = copy.deepcopy(whole)
    _fabric()(node)
    assert first_findings(node, verification()) == []
    # Unknown is no finding either, and without NVSwitches nobody needs one.
    node["driver"]["fabricmanager"]["installed"] = None
    assert first_findings(node, verification()) == []
    _fabric(installed=False)(node)
    node["host"]["nvswitches"] = []
    assert first_findings(node, verification()) == []


def test_mismatch_names_who_stands_in_the_way(whole: Node) -> None:
    node = copy.deepcopy(whole)
    node["driver"]["loaded"]["version"] = "580.82.07"
    row = {"name": None, "files": ["/dev/nvidia0"], "service": None, "container": None}
    node["driver"]["processes"] = [
        {**row, "pid": 7, "name": "python3", "container": "ab" * 32},
        {**row, "pid": 8},
        {**row, "pid": 9, "name": "x", "service": "nvidia-persistenced"},
    ]
    evidence = first_findings(node, verification())[0]["evidence"]
    assert evidence[0] == "loaded: 580.82.07" and evidence[2].startswith("on disk: 580.")
    assert evidence[3:] == [
        "in use by python3 (pid 7) in container abababababab",
        "in use by a process (pid 8)",
    ]


def test_kernel_without_a_driver_beside_one_that_has_it(whole: Node) -> None:
    node = copy.deepcopy(whole)
    other = {**node["driver"]["on_disk"], "kernel": "5.15.0-160-generic"}
    node["driver"].update(loaded=None, on_disk=None, on_disk_next_boot=other)
    found = first_findings(node, verification())[0]
    assert found["evidence"][1].startswith("kernel 5.15.0-160-generic has it: 580.")
    assert "reboots into the kernel that has it" in found["fix"][0]


def test_next_boot_without_a_driver_is_a_warning_and_no_finding(whole: Node) -> None:
    node = copy.deepcopy(whole)
    assert warnings(node) == []
    node["host"]["kernel"]["next_boot"] = "5.15.0-160-generic"
    assert first_findings(node, verification()) == []
    assert [row["finding"] for row in warnings(node)] == [
        "the kernel of the next boot, 5.15.0-160-generic, has no driver"
    ]
    node["driver"]["on_disk_next_boot"] = {**node["driver"]["on_disk"], "kernel": "5.15.0-160-generic"}
    assert warnings(node) == []


def test_driver_on_disk_that_will_not_fit_its_libraries_is_a_warning(whole: Node) -> None:
    node = copy.deepcopy(whole)
    node["driver"]["on_disk"]["version"] = "580.82.07"
    assert "the next boot loads" in warnings(node)[0]["finding"]
    node["driver"]["loaded"]["version"] = "580.82.07"
    assert warnings(node) == []
    assert "two versions" in first_findings(node, verification())[0]["finding"]


def test_earliest_link_hides_what_follows_from_it(whole: Node) -> None:
    node = copy.deepcopy(whole)
    node["driver"].update(loaded=None, device_nodes=[], devices=None)
    node["container_runtime"]["cdi"]["specs"] = []
    found = first_findings(node, verification(way="cdi"))
    assert [row["finding"] for row in found] == ["the driver is installed, but not loaded"]


def test_runtime_matters_only_to_those_who_use_it(whole: Node) -> None:
    node = copy.deepcopy(whole)
    _no_runtime(node)
    assert first_findings(node, verification(way="gpus")) == []


LOGS = [
    (
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].',
        "container_runtime",
        "hook was not on its PATH",
    ),
    (
        'could not select device driver "cdi" with capabilities: [[gpu]]',
        "container_runtime",
        "dockerd has no CDI",
    ),
    (
        "docker: Error response from daemon: Unknown runtime specified nvidia.",
        "container_runtime",
        "runtime nvidia",
    ),
    (
        "docker: Error response from daemon: unknown or invalid runtime name: nvidia",
        "container_runtime",
        "runtime nvidia",
    ),
    (
        "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all",
        "container_runtime",
        "no CDI specification",
    ),
    (
        "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=11.2, please update",
        "host",
        "newer driver",
    ),
    (
        "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open",
        "host",
        "libraries",
    ),
    ("nvidia-container-cli: initialization error: nvml error: driver not loaded", "host", "not loaded"),
    (
        "Error response from daemon: manifest for tensorflow/tensorflow:2.9.0-gpu not found",
        "framework",
        "does not have",
    ),
    (
        "Get https://registry:5000/v2/: http: server gave HTTP response to HTTPS client",
        "framework",
        "reached",
    ),
    ("dial tcp: lookup registry-1.docker.io: no such host", "framework", "reached"),
    (
        "kernel driver does not appear to be running on this host (x): /proc/driver/… does not exist",
        "host",
        "not loaded",
    ),
    ("no NVIDIA GPU device is present: /dev/nvidia0 does not exist", "container_runtime", "given no GPU"),
    (
        "Could not load dynamic library 'libcuda.so.1'; dlerror: libcuda.so.1: cannot open",
        "container_runtime",
        "libcuda",
    ),
    ("Could not load dynamic library 'libcudnn.so.8'; dlerror: …", "framework", "CUDA library is missing"),
    ("failed call to cuInit: UNKNOWN ERROR (303)", "container_runtime", "libcuda"),
    (
        "failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected",
        "application",
        "no GPU may be used",
    ),
    ("failed call to cuInit: CUDA_ERROR_UNKNOWN: unknown error", "host", "nvidia-uvm"),
    (
        "kernel version 580.82.7 does not match DSO version 580.95.5 -- cannot find working devices",
        "host",
        "two versions",
    ),
    (
        "failed call to cuInit: CUDA_ERROR_SYSTEM_NOT_READY: system not yet initialized",
        "host",
        "the fabric manager does not run",
    ),
    ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "host", "older than the image's CUDA"),
    ("CUDA_ERROR_INVALID_PTX", "framework", "no code that this GPU runs"),
]


@pytest.mark.parametrize(("log", "layer", "text"), LOGS, ids=[entry[0][:40] for entry in LOGS])
def test_log_is_understood(whole: Node, log: str, layer: str, text: str) -> None:
    found = first_findings(whole, verification(f"noise\n{log}\nmore noise"))
    assert len(found) == 1
    assert found[0]["layer"] == layer and text in found[0]["finding"]
    assert found[0]["evidence"] == [log] and found[0]["fix"]


def test_every_clue_is_tested(whole: Node) -> None:
    seen = {first_findings(whole, verification(log))[0]["finding"] for log, _, _ in LOGS}
    untested = {clue.text for clue in CLUES} - seen
    assert untested == {"the driver does not answer: the GPU may hang"}


def test_evidence_of_the_verdict_is_read_too(whole: Node) -> None:
    judged = [
        {
            "layer": "container_runtime",
            "finding": "x",
            "evidence": ["Unknown runtime specified nvidia"],
            "fix": [],
        }
    ]
    found = first_findings(whole, verification(findings=judged))
    assert found[0]["finding"] == "dockerd does not know the runtime nvidia"


def test_broken_link_and_log_are_not_said_twice(whole: Node) -> None:
    node = copy.deepcopy(whole)
    _no_runtime(node)
    found = first_findings(node, verification("Unknown runtime specified nvidia", way="runtime"))
    assert len(found) == 1 and found[0]["evidence"] == ["dockerd runs with: runc"]


@pytest.mark.parametrize(
    "observed", [{}, {"host": None}, {"driver": None, "container_runtime": {"docker": None}}]
)
def test_missing_facts_do_not_crash(observed: Node) -> None:
    assert isinstance(first_findings(observed, verification()), list)
    assert isinstance(first_findings(observed, None), list)
    assert warnings(observed) == []
