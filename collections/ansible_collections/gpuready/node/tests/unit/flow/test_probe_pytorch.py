"""The probe, with a PyTorch of paper, and what is made of its answers."""

from __future__ import annotations

import ast
import json
import runpy
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from gpuready import verification
from gpuready.catalog import load_catalog
from gpuready.diagnosis import assemble, engine
from gpuready.diagnosis.knowledge import load_knowledge

PROBE = Path(__file__).parents[3] / "data" / "probes" / "pytorch.py"
A100 = ("NVIDIA A100 80GB PCIe", 8, 0)
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"


def torch(
    *, version="2.5.1+cu124", cuda="12.4", gpus=(A100,), archs="sm_80 sm_90", error=None, nvml=1, cudnn=90100
):
    """A torch module with what the probe may ask."""

    def init():
        if cuda is None:
            raise AssertionError("Torch not compiled with CUDA enabled")
        if error:
            raise RuntimeError(error)

    def properties(index):
        if gpus[index] is None:
            raise RuntimeError("CUDA error: unknown error")
        name, major, minor = gpus[index]
        return types.SimpleNamespace(name=name, major=major, minor=minor, total_memory=80 << 30)

    works = cuda is not None and not error and bool(gpus)
    return types.SimpleNamespace(
        __version__=version,
        version=types.SimpleNamespace(cuda=cuda, hip=None),
        _C=types.SimpleNamespace(_cuda_getArchFlags=lambda: archs if cuda else None),
        backends=types.SimpleNamespace(cudnn=types.SimpleNamespace(version=lambda: cudnn)),
        cuda=types.SimpleNamespace(
            is_available=lambda: works,
            device_count=lambda: len(gpus) if works else 0,
            init=init,
            current_device=lambda: 0,
            get_arch_list=lambda: archs.split() if works else [],
            get_device_properties=properties,
            _device_count_nvml=lambda: nvml,
        ),
    )


@pytest.fixture
def ask(monkeypatch, capsys):
    def run(module: Any) -> Any:
        monkeypatch.setitem(sys.modules, "torch", module)
        monkeypatch.setattr(sys, "argv", ["-", "--level", "list"])
        capsys.readouterr()
        runpy.run_path(str(PROBE), run_name="__main__")
        told = capsys.readouterr()
        return {"stdout": told.out, "stderr": told.err, "exit_code": 0, "seconds": 1.0}

    return run


def judged(run: Any, expected: int = 1, **more: Any) -> Any:
    arguments = {
        "host": "n1",
        "simulated": False,
        "workload": "research",
        "image": None,
        "python": "/opt/gpuready/venvs/research/bin/python",
        "level": "list",
        "launch": verification.ON_HOST,
        "expect": {"framework_version": "2.5", "cuda": "12.4"},
        "gpus_expected": expected,
        "timeout": 300,
    }
    return verification.judge(run, **{**arguments, **more})


def diagnosed(found: Any, stack: Any = None) -> list[str]:
    catalog = load_catalog()
    facts = assemble.facts_of(stack, None, [found], catalog=catalog)
    answer = engine.diagnose(
        facts, knowledge=load_knowledge(skip_broken=True), catalog=catalog, host="n1", simulated=False
    )
    return [row["cause"] for row in assemble.findings(answer)]


def test_cuda_build_with_a_gpu_is_good(ask):
    found = judged(ask(torch()))
    assert found["ok"], found["findings"]
    assert (found["place"], found["image"], found["gpus_listed"]) == ("host", None, 1)
    assert found["framework"] == {
        "name": "pytorch",
        "version": "2.5.1+cu124",
        "cuda": "12.4",
        "cudnn": "9.1.0",
        "archs": ["sm_80", "sm_90"],
        "built_with_cuda": True,
        "rocm": False,
        "python": found["framework"]["python"],
        "available": True,
        "device_count": 1,
        "nvml_count": 1,
        "error": None,
    }
    assert found["devices"][1] == {
        "name": "cuda:0",
        "device_type": "GPU",
        "details": {"device_name": A100[0], "compute_capability": [8, 0], "memory_mib": 81920},
    }
    text = verification.verdict_text(found)
    assert (
        "research: pytorch 2.5.1+cu124 with CUDA 12.4 lists 1 GPU" in text and "code for sm_80 sm_90" in text
    )


def test_cpu_only_wheel_is_named(ask):
    found = judged(ask(torch(version="2.5.1+cpu", cuda=None, cudnn=None)))
    assert found["findings"][0]["finding"] == "the environment holds a CPU-only pytorch, which can use no GPU"
    assert not any("CUDA None" in row["finding"] for row in found["findings"])
    assert any("NVML counts 1" in line for row in found["findings"] for line in row["evidence"])
    assert diagnosed(found)[0] == "torch-cpu-build"
    text = verification.verdict_text(found)
    assert "on the host" in text and "is_available False, device_count 0" in text


def test_wheel_without_the_gpus_code_is_named_although_it_lists_it(ask):
    found = judged(ask(torch(gpus=(("Tesla V100-PCIE-16GB", 7, 0),))))
    (row,) = found["findings"]
    assert row["finding"] == "this pytorch has no code for Tesla V100-PCIE-16GB (compute capability 7.0)"
    assert row["evidence"] == ["it was built for sm_80, sm_90"]


def test_ptx_counts_as_code(ask):
    assert judged(ask(torch(gpus=(("NVIDIA B200", 10, 0),), archs="sm_80 sm_90 compute_90")))["ok"]
    assert not judged(ask(torch(gpus=(("NVIDIA B200", 10, 0),), archs="sm_80 sm_90a compute_120")))["ok"]


def test_wheel_above_the_driver_is_named(ask):
    found = judged(ask(torch(error=TOO_OLD)))
    listed = next(row for row in found["findings"] if row["layer"] == "application")
    assert any("too old (found version 11040)" in line for line in listed["evidence"])
    stack = {"driver": {"loaded": {"version": "470.256.02"}, "nvml": {"driver_version": "470.256.02"}}}
    assert diagnosed(found, stack)[0] == "driver-below-floor"


def test_other_version_and_other_cuda_are_named(ask):
    found = judged(ask(torch(version="2.6.0+cu118", cuda="11.8")))
    said = [row["finding"] for row in found["findings"]]
    assert said == [
        "the environment holds pytorch 2.6.0+cu118, where research promises 2.5",
        "the environment holds CUDA 11.8, where research promises 12.4",
    ]


def test_in_a_container_the_words_are_the_containers(ask):
    found = judged(ask(torch(cuda=None, version="2.5.1")), image="x:1", python=None, launch={"way": "gpus"})
    assert found["place"] == "container"
    assert "the image holds a CPU-only pytorch" in found["findings"][0]["finding"]
    assert "in the container" in verification.verdict_text(found)


def test_device_that_cannot_be_described_is_listed_with_the_reason(ask):
    found = judged(ask(torch(gpus=(None, A100))), expected=2)
    assert found["ok"] and found["devices"][1]["details"] == {
        "error": "RuntimeError: CUDA error: unknown error"
    }


def test_missing_environment_and_silence_are_told(ask):
    run = {"missing": True, "error": "no such file"}
    assert "no Python environment" in judged(run)["findings"][0]["finding"]
    run = {"exit_code": 1, "stderr": "ModuleNotFoundError: No module named 'torch'", "stdout": ""}
    assert judged(run)["findings"][0]["finding"] == "the probe did not answer"
    assert "did not answer within 300 s" in judged({"timed_out": True})["findings"][0]["finding"]


@pytest.mark.parametrize(
    ("number", "version"),
    [(8302, "8.3.2"), (8500, "8.5.0"), (90100, "9.1.0"), (91002, "9.10.2"), (None, None)],
)
def test_cudnn_tells_its_version_as_a_number(ask, number, version):
    answer = verification.parse_answer(ask(torch(cudnn=number))["stdout"])
    assert answer is not None and answer["framework"]["cudnn"] == version


def test_probe_runs_on_old_pythons():
    ast.parse(PROBE.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_answer_is_one_line_of_json_behind_the_marker(ask):
    lines = [line for line in ask(torch())["stdout"].splitlines() if line.startswith(verification.MARKER)]
    assert len(lines) == 1 and json.loads(lines[0].partition(" ")[2])


class Number:
    """A tensor of paper: one number that stands for all of them."""

    def __init__(self, value=0.0):
        self.value = value

    def __mul__(self, factor):
        return Number(self.value * factor)

    def __sub__(self, other):
        return Number(self.value - (other.value if isinstance(other, Number) else other))

    def __le__(self, bound):
        return Number(self.value <= bound)

    def __invert__(self):
        return Number(not self.value)

    def __float__(self):
        return float(self.value)

    def __int__(self):
        return int(self.value)

    def to(self, device):
        moved = Number(self.value)
        moved.device = device
        return moved

    def abs(self):
        return Number(abs(self.value))

    def max(self):
        return self

    def sum(self):
        return self


def computing(products):
    """A torch with two GPUs that computes as told, by device and turn."""
    module = torch(gpus=(A100, A100))
    turns: dict[str, int] = {}

    def matmul(a, _b, out=None):
        turn = turns[a.device] = turns.get(a.device, -1) + 1
        value = products(a.device, turn)
        if isinstance(value, Exception):
            raise value
        time.sleep(0.001)
        result = Number() if out is None else out
        result.value = value
        return result

    module.matmul = matmul
    module.rand = lambda *_size, **_how: Number(1.0)
    module.empty_like = lambda _other: Number()
    module.Generator = lambda: types.SimpleNamespace(manual_seed=lambda _seed: None)
    return module


def loaded(monkeypatch, capsys, module):
    monkeypatch.setitem(sys.modules, "torch", module)
    words = ["--level", "stress", "--seconds", "0.1", "--memory-mib", "81920"]
    monkeypatch.setattr(sys, "argv", ["-", *words])
    runpy.run_path(str(PROBE), run_name="__main__")
    return json.loads(capsys.readouterr().out.splitlines()[-1].partition(" ")[2])["stress"]["gpus"]


def test_load_keeps_every_gpu_busy_and_compares(monkeypatch, capsys):
    first, second = loaded(monkeypatch, capsys, computing(lambda _device, _turn: 7.0))
    assert (first["device"], second["device"], first["name"]) == ("cuda:0", "cuda:1", A100[0])
    for row in (first, second):
        assert row["error"] is None and row["wrong"] == 0
        assert row["iterations"] >= 4 and row["tflops"] > 0


@pytest.mark.parametrize("wrong", [7.5, float("nan")])
def test_gpu_that_computes_another_result_is_found(monkeypatch, capsys, wrong):
    sick = computing(lambda device, turn: wrong if (device, turn) == ("cuda:1", 5) else 7.0)
    first, second = loaded(monkeypatch, capsys, sick)
    assert first["error"] is None and second["wrong"] == 1


def test_gpu_that_fails_under_load_says_why(monkeypatch, capsys):
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    broken = computing(lambda device, turn: error if (device, turn) == ("cuda:0", 3) else 7.0)
    first, second = loaded(monkeypatch, capsys, broken)
    assert first["error"] == f"RuntimeError: {error}" and second["error"] is None
