"""What only a real NVIDIA GPU can prove: observation, catalog and plan agree with hardware and driver.

Run on a machine with a GPU: ``python -m pytest tests/hardware``. Elsewhere each test is skipped and says why.
It needs pytest and PyYAML; Ansible and NVIDIA's Python bindings are used where they are installed.
``python tests/hardware/look.py`` prints what the tests look at.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import look

ROOT = look.ROOT
pytestmark = pytest.mark.gpu

FIELDS = ("index", "uuid", "pci.bus_id", "name", "memory.total", "driver_version")
Device = dict[str, Any]


def normal(bus_id: str) -> str:
    """One spelling of a PCI address: NVML writes eight digits of domain, sysfs four.

    >>> normal("00000000:3B:00.0")
    '0000:3b:00.0'
    """
    domain, _, rest = bus_id.strip().lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def text(value: Any) -> str:
    """Older bindings return bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def from_bindings() -> list[Device] | str:
    """The GPUs by NVIDIA's own bindings, or why not."""
    try:
        import pynvml
    except ImportError as error:
        return str(error)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"NVML: {error}"
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [
            {
                "index": index,
                "uuid": text(pynvml.nvmlDeviceGetUUID(handle)),
                "pci": normal(text(pynvml.nvmlDeviceGetPciInfo(handle).busId)),
                "name": text(pynvml.nvmlDeviceGetName(handle)),
                "memory_total_mib": pynvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20,
                "driver_version": text(pynvml.nvmlSystemGetDriverVersion()),
            }
            for index, handle in enumerate(handles)
        ]
    finally:
        pynvml.nvmlShutdown()


def from_nvidia_smi() -> list[Device] | str:
    """The GPUs by nvidia-smi, asked anew and not through gpuready, or why not."""
    if shutil.which("nvidia-smi") is None:
        return "nvidia-smi is not installed"
    answer = subprocess.run(
        ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if answer.returncode != 0:
        return f"nvidia-smi: {answer.stdout.strip() or answer.stderr.strip()}"
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(answer.stdout)) if row]
    return [
        {
            "index": int(row[0]),
            "uuid": row[1],
            "pci": normal(row[2]),
            "name": row[3],
            "memory_total_mib": int(row[4]),
            "driver_version": row[5],
        }
        for row in rows
    ]


@pytest.fixture(scope="module")
def witness() -> list[Device]:
    """The GPUs by NVIDIA's word; the skip says what this machine lacks."""
    reasons = []
    for ask in (from_bindings, from_nvidia_smi):
        found = ask()
        if isinstance(found, list) and found:
            return found
        reasons.append(found if isinstance(found, str) else "it lists none")
    pytest.skip(f"no NVIDIA GPU with a loaded driver on this machine: {'; '.join(reasons)}")


@pytest.fixture(scope="module")
def gpu_stack(witness: list[Device]) -> dict[str, Any]:
    """This machine, observed."""
    return look.observe()


@pytest.fixture(scope="module")
def plan(gpu_stack: dict[str, Any]) -> dict[str, Any]:
    """What gpuready would do with this machine."""
    return look.plan(gpu_stack, {})


# The facts --------------------------------------------------------------------------------------------


def test_observation_keeps_the_contract(gpu_stack: dict[str, Any]) -> None:
    from gpuready.observe import schema

    assert schema.complaints(gpu_stack) == []
    assert json.loads(json.dumps(gpu_stack)) == gpu_stack


def test_versions_agree_from_the_kernel_to_the_libraries(
    gpu_stack: dict[str, Any], witness: list[Device]
) -> None:
    driver = gpu_stack["driver"]
    version = witness[0]["driver_version"]
    said = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    assert re.search(rf"\b{re.escape(version)}\b", said), said
    assert driver["loaded"]["version"] == version
    assert driver["loaded"]["flavour"] == ("open" if "Open Kernel Module" in said else "proprietary")
    assert driver["nvml"]["driver_version"] == version
    assert driver["nvml"]["error"] is None
    assert driver["userspace"]["version"] == version


def test_devices_are_what_nvml_lists(gpu_stack: dict[str, Any], witness: list[Device]) -> None:
    keys = ("index", "uuid", "pci", "name")
    seen = [{key: device[key] for key in keys} for device in gpu_stack["driver"]["devices"]]
    assert seen == [{key: device[key] for key in keys} for device in witness]
    for device, expected in zip(gpu_stack["driver"]["devices"], witness, strict=True):
        assert abs(device["memory_total_mib"] - expected["memory_total_mib"]) <= 1


def test_each_device_is_on_the_bus_and_bound(gpu_stack: dict[str, Any], witness: list[Device]) -> None:
    """A container sees the whole host's bus, but only its own devices."""
    bus = {gpu["pci"]: gpu for gpu in gpu_stack["host"]["gpus"]}
    for device in witness:
        assert device["pci"] in bus
        assert bus[device["pci"]]["driver_bound"] in ("nvidia", None)
    proc = Path("/proc/driver/nvidia/gpus")
    if proc.is_dir():
        assert {device["pci"] for device in witness} <= {normal(path.name) for path in proc.iterdir()}


def test_device_files_are_found(gpu_stack: dict[str, Any], witness: list[Device]) -> None:
    nodes = gpu_stack["driver"]["device_nodes"]
    assert "/dev/nvidiactl" in nodes
    numbered = [name for name in nodes if re.match(r"^/dev/nvidia\d+$", name)]
    assert len(numbered) >= len(witness)


def test_a_process_that_opens_the_device_is_seen(gpu_stack: dict[str, Any]) -> None:
    """This one: it holds the control device open and is no service."""
    import os

    from gpuready.observe import driver, processes
    from gpuready.observe.node import Node

    before = driver.users(Node())
    with open("/dev/nvidiactl", "rb", buffering=0):
        node = Node()
        found = processes.processes(node)
        if before is not None:
            assert driver.users(node) >= before + 1
    if found is None:
        pytest.skip(f"this user may not look: {node.problems}")
    own = [row for row in found if row["pid"] == os.getpid()]
    assert len(own) == 1 and "/dev/nvidiactl" in own[0]["files"] and own[0]["service"] is None


def test_catalog_knows_each_gpu_and_its_compute_capability(gpu_stack: dict[str, Any]) -> None:
    from gpuready.catalog import annotate, load_catalog

    capabilities = {normal(gpu["pci"]): gpu["compute_capability"] for gpu in gpu_stack["driver"]["devices"]}
    for gpu in annotate(gpu_stack, load_catalog())["host"]["gpus"]:
        if gpu["pci"] in capabilities:
            assert gpu["arch"], f"{gpu['device_id']} is not in the catalog"
            if capabilities[gpu["pci"]] is not None:  # nvidia-smi before 510 does not tell
                assert gpu["compute_capability"] == capabilities[gpu["pci"]]


def test_module_answers_the_same_when_ansible_runs_it(
    gpu_stack: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ansible = Path(sys.executable).parent / "ansible"
    if not ansible.exists():
        pytest.skip("Ansible is not installed beside this Python")
    tree = tmp_path_factory.mktemp("observed")
    subprocess.run(
        [
            str(ansible),
            "localhost",
            "--connection=local",
            "--module-name=gpuready.node.gpu_stack_info",
            f"--tree={tree}",
            f"--extra-vars=ansible_python_interpreter={sys.executable}",
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        timeout=120,
        check=True,
    )
    said = json.loads((tree / "localhost").read_text(encoding="utf-8"))["gpu_stack"]
    for key in ("gpus", "nvswitches", "kernel", "os"):
        assert said["host"][key] == gpu_stack["host"][key]
    assert said["driver"]["loaded"]["version"] == gpu_stack["driver"]["loaded"]["version"]
    assert [row["uuid"] for row in said["driver"]["devices"]] == [
        row["uuid"] for row in gpu_stack["driver"]["devices"]
    ]


# The decision -----------------------------------------------------------------------------------------


def test_plan_keeps_the_driver_or_gives_its_reasons(plan: dict[str, Any], gpu_stack: dict[str, Any]) -> None:
    assert json.loads(json.dumps(plan)) == plan
    for conflict in plan["conflicts"]:
        assert conflict["what"] and conflict["options"], conflict
    for action in plan["actions"]:
        assert action["reason"] and action["evidence"], action
    driver = plan["driver"]
    if driver is None:
        assert plan["conflicts"], "no driver and no conflict: nothing is said about it"
        return
    assert sum(1 for row in driver["because"] if row["bound"]) == 1
    changes = [action for action in plan["actions"] if action["id"] == "driver.install"]
    if driver["keeps_installed"]:
        assert driver["version"] == gpu_stack["driver"]["loaded"]["version"]
        assert driver["flavour"] == gpu_stack["driver"]["loaded"]["flavour"]
    else:
        assert changes or driver["version"] is None


def test_loaded_driver_is_one_that_the_resolver_allows(gpu_stack: dict[str, Any]) -> None:
    """It works, so that no rule of the GPUs may forbid it: branch and flavour."""
    from gpuready.catalog import annotate, load_catalog
    from gpuready.versions import at_least, driver_branch

    catalog = load_catalog()
    loaded = gpu_stack["driver"]["loaded"]
    branch = driver_branch(loaded["version"])
    for gpu in annotate(gpu_stack, catalog)["host"]["gpus"]:
        architecture = catalog.architectures.get(gpu["arch"])
        assert architecture is not None, gpu
        assert branch >= int(architecture.first_branch)
        assert architecture.last_branch is None or branch <= int(architecture.last_branch)
        if loaded["flavour"] == "proprietary":
            assert architecture.open_modules != "required"
        elif loaded["flavour"] == "open":
            assert architecture.open_modules != "impossible"
    answer = look.driver_that_suits(gpu_stack, None, ["tensorflow-2.9"])
    if answer.get("driver"):
        assert at_least(answer["driver"]["branch"] + ".999", answer["driver"]["min_required"])
    else:
        assert answer.get("conflicts") or answer.get("said")
