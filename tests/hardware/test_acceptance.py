"""What only a real GPU can prove of an acceptance: hardware facts, the watch under load, and the load itself.

Run on a machine with a GPU: ``python -m pytest tests/hardware``. Elsewhere each test is skipped and says why.
The load is the probes' own, by the PyTorch or TensorFlow that this Python has.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import look

look.find_gpuready()
PROBES = look.ROOT / "collections/ansible_collections/gpuready/node/data/probes"
pytestmark = pytest.mark.gpu
LOAD_SECONDS = 15


@pytest.fixture(scope="module")
def library() -> Any:
    """NVML's bindings, on a machine whose driver answers."""
    pynvml = pytest.importorskip("pynvml", reason="NVML's Python bindings (nvidia-ml-py) are not installed")
    try:
        pynvml.nvmlInit()
        number = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        pytest.skip(f"no NVIDIA GPU with a loaded driver on this machine: {error}")
    if not number:
        pytest.skip("the driver lists no GPU")
    return pynvml


@pytest.fixture(scope="module")
def hardware(library: Any) -> dict[str, Any]:
    """What this machine is made of."""
    from gpuready.observe.hardware import hardware
    from gpuready.observe.node import Node

    return hardware(Node(), library)


def smi(*fields: str) -> list[list[str | None]]:
    """nvidia-smi's own answer; None for what it calls not available."""
    if shutil.which("nvidia-smi") is None:
        pytest.skip("nvidia-smi is not installed")
    said = subprocess.run(
        ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
    return [[None if cell.startswith("[") else cell for cell in row] for row in rows]


def test_numbers_of_the_boards_are_nvidia_smis(hardware: dict[str, Any]) -> None:
    theirs = smi("uuid", "vbios_version", "serial")
    ours = [
        [gpu["uuid"], gpu["vbios"], gpu["serial"]] for gpu in hardware["gpus"] if gpu["index"] is not None
    ]
    # A zero is no serial number; ours leaves it out.
    assert ours == [[*row[:2], row[2] if (row[2] or "").strip("0") else None] for row in theirs]


def test_links_are_nvidia_smis(hardware: dict[str, Any]) -> None:
    theirs = smi("pcie.link.width.max", "pcie.link.width.current")
    for gpu, (most, now) in zip(hardware["gpus"], theirs, strict=False):
        if gpu["pcie"] and most and now:
            assert (gpu["pcie"]["max_width"], gpu["pcie"]["width"]) == (int(most), int(now))


def load(seconds: float) -> dict[str, Any]:
    """The answer of a probe at level stress, by a framework of this machine that has the GPU."""
    reasons = []
    for name, module in (("pytorch", "torch"), ("tensorflow", "tensorflow")):
        found = subprocess.run(
            [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False
        )
        if found.returncode:
            reasons.append(f"no {module}")
            continue
        words = ["--level", "stress", "--seconds", str(seconds), "--memory-mib", "16384"]
        done = subprocess.run(
            [sys.executable, str(PROBES / f"{name}.py"), *words],
            capture_output=True,
            text=True,
            timeout=seconds + 300,
            check=True,
        )
        answer = json.loads(re.findall(r"^GPUREADY-PROBE (.*)$", done.stdout, re.M)[-1])
        if answer.get("stress"):
            return dict(answer)
        reasons.append(f"{module} has no GPU here")
    pytest.skip(f"no framework that could put load on the GPU: {', '.join(reasons)}")


def test_node_is_watched_under_load_and_accepted(
    library: Any, hardware: dict[str, Any], tmp_path: Path
) -> None:
    from gpuready import acceptance, gpu_watch, verification
    from gpuready.health import nvml_metrics, sources

    place = gpu_watch.Place("hardware", str(tmp_path))
    place.take()

    def work() -> None:
        seen = gpu_watch.watch(
            lambda: nvml_metrics.read(library),
            sources.kernel_log,
            lambda: place.told,
            place.note,
            interval=1.0,
            limit=600.0,
        )
        place.note(seen)
        place.leave()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        answer = load(LOAD_SECONDS)
    finally:
        watched, problem = gpu_watch.Place("hardware", str(tmp_path)).finish()
        thread.join(30)
    assert problem is None and watched is not None
    number = len(watched["gpus"])
    assert max(gpu["utilization_percent"]["max"] for gpu in watched["gpus"]) > 80
    assert all(20 < gpu["temperature_c"]["max"] < 100 for gpu in watched["gpus"])
    for row in answer["stress"]["gpus"]:
        assert row["error"] is None and row["wrong"] == 0
        assert row["iterations_per_second"] > 0 and row["tflops"] > 0.5

    said = f"GPUREADY-PROBE {json.dumps(answer)}\n"
    run = {"stdout": said, "stderr": "", "exit_code": 0, "seconds": LOAD_SECONDS}
    stressed = verification.judge(
        run,
        host="here",
        simulated=False,
        workload="load",
        image="none",
        level="stress",
        launch=verification.ON_HOST,
        expect={},
        gpus_expected=number,
        timeout=300,
    )
    assert stressed["ok"], stressed["findings"]
    record = acceptance.judge(
        host="here",
        address=None,
        simulated=False,
        limits={"rounds": 1, "stress_minutes": LOAD_SECONDS / 60, "max_temperature_celsius": 95},
        hardware=hardware,
        host_key=None,
        gpu_stack=None,
        verifications=[{**stressed, "level": "compute", "seconds": 0}],
        stress=stressed,
        watch=watched,
        watch_problem=None,
        failure=None,
        diagnosis=None,
        started="2026-11-23T00:00:00+00:00",
        finished="2026-11-23T00:01:00+00:00",
        seconds=60.0,
        signed_by="tests/hardware",
    )
    # A container may not read the kernel's log; anything else must be well.
    bad = [check for check in record["checks"] if check["ok"] is False and check["check"] != "xid"]
    assert bad == []
