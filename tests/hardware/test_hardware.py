"""What only a real NVIDIA GPU can prove: observation and catalog agree with the hardware and its driver.

Run on a machine with a GPU: ``pytest tests/hardware -m gpu``. Elsewhere each test is skipped and says why.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def nvml() -> Iterator[Any]:
    """NVIDIA's own bindings, initialised; the skip says what this machine lacks."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        pytest.skip(f"no NVIDIA GPU with a loaded driver on this machine: {error}")
    yield pynvml
    pynvml.nvmlShutdown()


@pytest.fixture(scope="module")
def gpu_stack(nvml: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """This machine, observed by the module as Ansible runs it."""
    tree = tmp_path_factory.mktemp("observed")
    subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible"),
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
    return json.loads((tree / "localhost").read_text(encoding="utf-8"))["gpu_stack"]


def normal(bus_id: str) -> str:
    """One spelling of a PCI address: NVML writes eight digits of domain, sysfs four.

    >>> normal("00000000:3B:00.0")
    '0000:3b:00.0'
    """
    domain, _, rest = bus_id.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def text(value: Any) -> str:
    """Older bindings return bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def test_loaded_driver_is_what_nvml_says(gpu_stack: dict[str, Any], nvml: Any) -> None:
    version = text(nvml.nvmlSystemGetDriverVersion())
    assert gpu_stack["driver"]["loaded"]["version"] == version
    assert gpu_stack["driver"]["nvml"]["driver_version"] == version
    assert gpu_stack["driver"]["nvml"]["error"] is None


def test_devices_are_what_nvml_lists(gpu_stack: dict[str, Any], nvml: Any) -> None:
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    expected = [
        (text(nvml.nvmlDeviceGetUUID(handle)), normal(text(nvml.nvmlDeviceGetPciInfo(handle).busId)))
        for handle in handles
    ]
    assert [(gpu["uuid"], normal(gpu["pci"])) for gpu in gpu_stack["driver"]["devices"]] == expected
    assert {pci for _uuid, pci in expected} <= {gpu["pci"] for gpu in gpu_stack["host"]["gpus"]}


def test_catalog_knows_each_gpus_compute_capability(gpu_stack: dict[str, Any]) -> None:
    from gpuready.catalog import annotate, load_catalog

    capabilities = {normal(gpu["pci"]): gpu["compute_capability"] for gpu in gpu_stack["driver"]["devices"]}
    for gpu in annotate(gpu_stack, load_catalog())["host"]["gpus"]:
        if gpu["pci"] in capabilities:
            assert gpu["arch"], f"{gpu['device_id']} is not in the catalog"
            assert gpu["compute_capability"] == capabilities[gpu["pci"]]
