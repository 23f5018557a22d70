"""Broken hosts by their facts alone: what the signs say, and the cause that comes first, with its repair."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from gpuready import planner
from gpuready.catalog import load_catalog
from gpuready.diagnosis.engine import diagnose
from gpuready.diagnosis.facts import Facts
from gpuready.diagnosis.knowledge import load_knowledge
from gpuready.diagnosis.signs import load_signs

FIXTURES = Path(__file__).parents[7] / "tests" / "fixtures" / "observed"
KNOWLEDGE = load_knowledge(skip_broken=True)
CATALOG = load_catalog()
SIGNS = load_signs()
HOST_LINKS = (
    "bus",
    "packages",
    "binding",
    "secure_boot",
    "module",
    "versions",
    "nvml",
    "fabric",
    "device_nodes",
)
KERNEL = "5.15.0-157-generic"
DEVICE = {
    "index": 0,
    "uuid": "GPU-0a1b2c3d",
    "name": "NVIDIA A100 80GB PCIe",
    "pci": "0000:3b:00.0",
    "memory_total_mib": 81920,
    "memory_used_mib": 0,
    "compute_capability": "8.0",
    "mig_mode": False,
    "mig_instances": None,
}
NO_LIBRARIES = {"version": None, "libcuda": None, "libnvidia_ml": None, "nvidia_smi": None}
OPEN = {"version": "580.95.05", "flavour": "open", "modules": ["nvidia", "nvidia_uvm"], "users": 0}


def healthy() -> dict:
    """A converged node whose driver lists its GPU."""
    stack = json.loads((FIXTURES / "a100-jammy-converged.json").read_text(encoding="utf-8"))
    stack["driver"]["devices"] = [copy.deepcopy(DEVICE)]
    stack["driver"]["nvml"] = {
        "source": "pynvml",
        "driver_version": "580.95.05",
        "cuda_version": "13.0",
        "error": None,
    }
    stack["host"]["kernel_log"] = {"source": "dmesg", "lines": []}
    stack["host"]["virtual"] = "none"
    stack["apt"]["errors"] = []
    stack["apt"]["broken"] = []
    return stack


def changed(**changes) -> dict:
    """The healthy node with values replaced; `host__gpus__0__device_id` names a place."""
    stack = healthy()
    for path, value in changes.items():
        *way, last = path.split("__")
        place = stack
        for name in way:
            place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
        if isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    return stack


def unloaded(**changes) -> dict:
    """…and no module loaded, so that NVML has nobody to ask."""
    base = {
        "driver__loaded": None,
        "driver__devices": None,
        "driver__nvml__error": "Driver Not Loaded",
        "driver__device_nodes": [],
        "driver__device_access": {},
        "host__gpus__0__driver_bound": None,
    }
    return changed(**{**base, **changes})


def silent(**changes) -> dict:
    """…and a loaded driver that drives no GPU."""
    return changed(**{"driver__devices": [], **changes})


def log(*lines: str) -> dict:
    return {"source": "dmesg", "lines": list(lines)}


def dkms(status: str, kernel: str | None) -> list[dict]:
    return [{"module": "nvidia", "version": "580.95.05", "kernel": kernel, "status": status}]


DKMS_PACKAGES = [
    {
        "name": "nvidia-dkms-580-server-open",
        "version": "580.95.05-0ubuntu0.22.04.2",
        "held": False,
        "status": "installed",
    },
    {
        "name": "nvidia-utils-580-server",
        "version": "580.95.05-0ubuntu0.22.04.2",
        "held": False,
        "status": "installed",
    },
]
LIBRARIES_ONLY = [
    {"name": name, "version": "580.95.05-0ubuntu0.22.04.2", "held": False, "status": "installed"}
    for name in ("nvidia-utils-580-server", "libnvidia-compute-580-server", "libnvidia-cfg1-580-server")
]
GPU = {"pci": "0000:3b:00.0", "vendor_id": "10de", "device_id": "20b5", "driver_bound": "nvidia"}
NO_MODULE = {"driver__on_disk": None, "driver__packages": DKMS_PACKAGES}
SWITCHES = [{"pci": "0000:05:00.0", "vendor_id": "10de", "device_id": "22a3"}]
MANAGER = {"installed": True, "version": "580.95.05", "enabled": True, "active": True}

FACTS = {
    "no-gpu-on-bus": [unloaded(host__gpus=[])],
    "vm-without-gpu": [unloaded(host__gpus=[], host__virtual="kvm")],
    "gpu-fell-off-bus": [
        changed(
            driver__devices=[],
            host__kernel_log=log(
                "NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=x, GPU has fallen off the bus."
            ),
        ),
        unloaded(host__gpus=[], host__kernel_log=log("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.")),
    ],
    "apt-signed-by-conflict": [
        changed(
            apt__errors=[
                "E: Conflicting values set for option Signed-By regarding source https://x/ /: a != b"
            ]
        ),
        changed(
            apt__sources=[
                {
                    "file": "a.list",
                    "enabled": True,
                    "uris": ["https://x/deb"],
                    "suites": ["/"],
                    "signed_by": "/k/a.gpg",
                },
                {
                    "file": "b.list",
                    "enabled": True,
                    "uris": ["https://x/deb/"],
                    "suites": ["/"],
                    "signed_by": None,
                },
            ]
        ),
    ],
    "apt-key-expired": [
        changed(
            apt__sources=[
                {
                    "file": "a.sources",
                    "enabled": True,
                    "uris": ["https://x/deb"],
                    "suites": ["/"],
                    "signed_by": "/k/a.gpg",
                    "keys": [{"fingerprint": "C95B", "expires": 1, "expired": True}],
                }
            ]
        )
    ],
    "dpkg-interrupted": [
        changed(apt__dpkg_interrupted=True),
        changed(apt__broken=[{"name": "nvidia-utils-580-server", "status": "half-configured"}]),
    ],
    "boot-partition-full": [changed(disk=[{"path": "/boot", "total_mib": 400, "free_mib": 3}])],
    "driver-from-runfile": [unloaded(driver__packages=[])],
    "nouveau-bound": [
        unloaded(host__gpus__0__driver_bound="nouveau", host__nouveau__loaded=True),
        unloaded(
            host__nouveau__loaded=True,
            driver__on_disk=None,
            driver__packages=[],
            driver__userspace=NO_LIBRARIES,
        ),
    ],
    "vfio-bound": [unloaded(host__gpus__0__driver_bound="vfio-pci")],
    "other-driver-bound": [unloaded(host__gpus__0__driver_bound="nvidiafb")],
    "secure-boot-rejects-module": [
        unloaded(host__secure_boot=True, driver__on_disk__signed=False),
        unloaded(
            host__secure_boot=True,
            host__mok={"key": "/var/lib/shim-signed/mok/MOK.der", "enrolled": False},
            driver__dkms=dkms("installed", KERNEL),
        ),
    ],
    "driver-not-installed": [
        unloaded(
            driver__on_disk=None,
            driver__packages=[],
            driver__userspace=NO_LIBRARIES,
            driver__nvml__error=None,
        )
    ],
    "module-not-loaded": [unloaded()],
    "module-for-another-kernel": [
        unloaded(driver__on_disk=None, host__kernel__running="5.15.0-160-generic"),
        unloaded(
            **NO_MODULE, driver__dkms=dkms("installed", "5.15.0-156-generic"), host__kernel__headers=[KERNEL]
        ),
    ],
    "kernel-headers-missing": [unloaded(**NO_MODULE, driver__dkms=dkms("added", None))],
    "dkms-build-failed": [
        unloaded(**NO_MODULE, driver__dkms=dkms("added", None), host__kernel__headers=[KERNEL])
    ],
    "module-built-not-installed": [
        unloaded(**NO_MODULE, driver__dkms=dkms("built", KERNEL), host__kernel__headers=[KERNEL])
    ],
    "driver-without-module": [unloaded(driver__on_disk=None, driver__packages=LIBRARIES_ONLY)],
    "open-modules-unsupported-gpu": [
        silent(host__gpus__0__device_id="1db4"),
        unloaded(host__gpus__0__device_id="1b80"),
    ],
    "proprietary-modules-unsupported-gpu": [
        silent(
            host__gpus__0__device_id="2b85",
            driver__loaded__flavour="proprietary",
            driver__on_disk__flavour="proprietary",
        )
    ],
    "gpu-dropped-by-branch": [
        silent(host__gpus__0__device_id="102d", driver__loaded__flavour="proprietary"),
        silent(
            host__gpus__0__device_id="1db4",
            driver__loaded__version="595.71.05",
            driver__on_disk__version="595.71.05",
            driver__userspace__version="595.71.05",
        ),
    ],
    "gpu-too-new-for-branch": [
        silent(
            host__gpus__0__device_id="2b85",
            driver__loaded__version="550.90.07",
            driver__on_disk__version="550.90.07",
            driver__userspace__version="550.90.07",
        )
    ],
    "driver-library-mismatch": [
        changed(
            driver__loaded__version="570.172.08",
            driver__devices=None,
            driver__nvml__error="Driver/library version mismatch",
        )
    ],
    "driver-files-mixed": [
        changed(
            driver__userspace__version="570.172.08",
            driver__devices=None,
            driver__nvml__error="Driver/library version mismatch",
        )
    ],
    "driver-libraries-missing": [
        changed(
            driver__userspace__libcuda=None,
            driver__userspace__libnvidia_ml=None,
            driver__devices=None,
            driver__nvml__error="NVML Shared Library Not Found",
        )
    ],
    "several-libcuda": [
        changed(driver__userspace__libcuda="/usr/lib/x86_64-linux-gnu/libcuda.so.535.104.05")
    ],
    "adapter-init-failed": [
        silent(host__kernel_log=log("NVRM: GPU 0000:3b:00.0: RmInitAdapter failed! (0x26:0x56:1463)"))
    ],
    "gsp-firmware-missing": [
        silent(
            host__kernel_log=log(
                "nvidia 0000:3b:00.0: Direct firmware load for nvidia/580.95.05/gsp_tu10x.bin failed "
                "with error -2",
                "NVRM: GPU 0000:3b:00.0: RmInitAdapter failed! (0x61:0x56:1697)",
            )
        )
    ],
    "gsp-timeout": [
        changed(
            host__kernel_log=log("NVRM: Xid (PCI:0000:3b:00): 119, pid=1, name=x, Timeout waiting for RPC")
        )
    ],
    "gpu-memory-errors": [
        changed(host__kernel_log=log("NVRM: Xid (PCI:0000:3b:00): 48, pid=1, name=x, DBE"))
    ],
    "gpu-lost": [changed(driver__devices=[], driver__nvml__error="GPU 0: GPU is lost")],
    "gpus-missing-from-driver": [
        changed(
            host__gpus=[GPU, {**GPU, "pci": "0000:3c:00.0"}],
            driver__device_nodes=["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"],
        )
    ],
    "nvml-error": [changed(driver__devices=None, driver__nvml__error="Unknown Error")],
    "mig-without-instances": [changed(driver__devices=[{**DEVICE, "mig_mode": True, "mig_instances": 0}])],
    "compute-mode-prohibited": [changed(driver__devices=[{**DEVICE, "compute_mode": "Prohibited"}])],
    "fabricmanager-missing": [
        changed(
            host__nvswitches=SWITCHES,
            driver__fabricmanager={**MANAGER, "installed": False, "version": None, "active": None},
        )
    ],
    "fabricmanager-version-mismatch": [
        changed(
            host__nvswitches=SWITCHES,
            driver__fabricmanager={**MANAGER, "version": "580.82.07", "active": False},
        )
    ],
    "fabricmanager-not-running": [
        changed(host__nvswitches=SWITCHES, driver__fabricmanager={**MANAGER, "active": False})
    ],
    "uvm-not-loaded": [
        changed(driver__loaded__modules=["nvidia"], driver__device_nodes=["/dev/nvidia0", "/dev/nvidiactl"]),
        changed(driver__device_nodes=["/dev/nvidia0", "/dev/nvidiactl"]),
    ],
    "device-nodes-missing": [changed(driver__device_nodes=["/dev/nvidia-uvm"])],
    "device-nodes-not-permitted": [
        changed(driver__device_access={"/dev/nvidia0": {"mode": "0660", "owner": "root:video"}})
    ],
}
CASES = [(cause, stack) for cause, stacks in FACTS.items() for stack in stacks]
NAMES = [f"{cause}-{number}" for number, (cause, _) in enumerate(CASES)]


def answer(stack: dict, **more) -> dict:
    return diagnose({"gpu_stack": stack, **more}, knowledge=KNOWLEDGE, catalog=CATALOG, host="node")


def roots(result: dict) -> list[str]:
    return [row["cause"] for row in result["causes"] if row["standing"] == "root"]


def sign(name: str, stack: dict) -> bool | None:
    return SIGNS[name].find(Facts({"gpu_stack": stack}, CATALOG)).state


@pytest.mark.parametrize(("cause", "stack"), CASES, ids=NAMES)
def test_the_facts_lead_to_the_cause(cause, stack):
    assert roots(answer(stack)) == [cause]


@pytest.mark.parametrize(("cause", "stack"), CASES, ids=NAMES)
def test_the_link_of_the_cause_is_broken(cause, stack):
    found = KNOWLEDGE.causes[cause]
    if found.when is None:
        pytest.skip("its messages establish it")
    if cause in ("boot-partition-full", "driver-from-runfile", "gpu-memory-errors", "gsp-timeout"):
        return
    chain = {row["link"]: row["state"] for row in answer(stack)["chain"]}
    assert chain[found.link] is False


# What the plan says of these very nodes, where it is not the cause's usual class.
ELSEWHERE = {
    "gpu-dropped-by-branch-28": "manual",  # a K80, whose branch this node's archive does not have
    "module-for-another-kernel-19": "reboot",  # the archive has no module of the running kernel
    "dpkg-interrupted-8": "manual",  # apt.broken names it, and dpkg_interrupted says no
}


@pytest.mark.parametrize(
    ("cause", "stack", "name"), [(*case, NAMES[n]) for n, case in enumerate(CASES)], ids=NAMES
)
def test_what_the_cause_says_of_its_repair_is_what_site_yml_plans(cause, stack, name):
    plan = planner.plan(stack, {"gpuready_workloads": []}, CATALOG, host="node", today="2026-11-23")
    found = KNOWLEDGE.causes[cause]
    planned = [row["id"] for row in plan["actions"] if row["id"] in found.actions]
    repair = "safe" if "host.reboot" not in planned else "reboot"
    if plan["conflicts"] or not planned:
        repair = "manual"
    assert repair == ELSEWHERE.get(name, found.repair)


def test_a_healthy_node_has_no_cause_and_no_broken_link():
    result = answer(healthy())
    assert result["causes"] == []
    assert {name: sign(f"link.{name}", healthy()) for name in HOST_LINKS} == dict.fromkeys(HOST_LINKS, True)


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.json")), ids=lambda path: path.stem)
def test_no_observed_node_confuses_the_signs(path):
    stack = json.loads(path.read_text(encoding="utf-8"))
    for name, definition in SIGNS.items():
        found = definition.find(Facts({"gpu_stack": stack}, CATALOG))
        assert found.state in (True, False, None), name
        assert all(isinstance(text, str) for text in found.evidence), name


@pytest.mark.parametrize("name", sorted(SIGNS))
def test_of_nothing_nothing_is_known(name):
    for facts in ({}, {"gpu_stack": {}}, {"gpu_stack": {"host": None, "driver": None, "apt": None}}):
        assert SIGNS[name].find(Facts(facts, CATALOG)).state is None or name == "facts.silent"


def test_a_stale_line_of_the_log_is_refuted_by_a_driver_that_works():
    for line in (
        "NVRM: API mismatch: the client has the version 550.54.14, but this kernel module has the "
        "version 545.23.08.",
        "NVRM: GPU 0000:3b:00.0: RmInitAdapter failed! (0x26:0x56:1463)",
        "NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=x, GPU has fallen off the bus.",
        "NVRM: The NVIDIA probe routine was not called for 1 device(s).",
    ):
        assert roots(answer(changed(host__kernel_log=log(line)))) == []


def test_what_a_text_leaves_out_is_unknown_and_what_it_denies_is_not():
    text = {"driver": {"loaded": False, "on_disk": False}}
    assert sign("module.loaded", text) is False
    assert sign("module.on_disk", text) is False
    assert sign("module.loaded", {"driver": {}}) is None
    part = {"driver": {"device_nodes": ["/dev/nvidia0"]}}
    assert sign("device_nodes.present", part) is None
    assert sign("device_nodes.uvm", part) is None
    whole = {"driver": {"device_nodes": ["/dev/nvidia0", "/dev/nvidiactl"]}}
    assert sign("device_nodes.uvm", whole) is False


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("NVIDIA GeForce RTX 5090", "blackwell"),
        ("Tesla V100-SXM2-16GB", "volta"),
        ("GeForce GTX 1080 Ti", "pascal"),
        ("NVIDIA Corporation GP107 [GeForce GTX 1050 Ti]", "pascal"),
        ("NVIDIA A100-SXM4-80GB", "ampere"),
        ("NVIDIA H100 80GB HBM3", "hopper"),
        ("NVIDIA GeForce RTX 4090", "ada"),
        ("Tesla K80", "kepler"),
    ],
)
def test_a_gpus_name_tells_its_architecture(name, arch):
    from gpuready.diagnosis.signs_host import gpus

    facts = Facts({"gpu_stack": {"host": {"gpus": [{"pci": "0000:01:00.0", "name": name}]}}}, CATALOG)
    assert gpus(facts)[0]["arch"] == arch


def test_a_gpu_that_is_only_spoken_of_is_on_no_bus():
    text = {"host": {"gpus": [{"name": "NVIDIA GeForce RTX 3090", "vendor_id": "10de"}]}}
    assert sign("bus.gpu", text) is None
    assert sign("bus.gpu", {"host": {"gpus": []}}) is False


def test_a_probe_that_failed_is_not_taken_for_an_absence():
    stack = unloaded(problems=[{"probe": "driver.loaded", "error": "permission denied"}])
    assert sign("module.loaded", stack) is None


def test_two_faults_are_both_named():
    stack = unloaded(
        apt__errors=["E: Conflicting values set for option Signed-By regarding source https://x/ /: a != b"]
    )
    assert roots(answer(stack)) == ["apt-signed-by-conflict", "module-not-loaded"]
