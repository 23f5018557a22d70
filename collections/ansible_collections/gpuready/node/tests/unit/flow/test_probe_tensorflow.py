"""The probe, with a TensorFlow of paper: only what the probe may rely on exists."""

from __future__ import annotations

import ast
import contextlib
import json
import runpy
import sys
import threading
import time
import types
from pathlib import Path

import pytest

PROBE = Path(__file__).parents[3] / "data" / "probes" / "tensorflow.py"


class Device:
    """A physical device."""

    def __init__(self, name, device_type):
        self.name, self.device_type = name, device_type


def tensorflow(*, details=True, modern=True, gpus=1):
    """A TensorFlow 2.x; not ``modern``: 2.0, with everything under ``experimental``."""
    devices = [Device("/physical_device:CPU:0", "CPU")]
    devices += [Device(f"/physical_device:GPU:{n}", "GPU") for n in range(gpus)]

    def listed(kind=None):
        return [device for device in devices if kind in (None, device.device_type)]

    def describe(device):
        if details is Exception:
            raise ValueError("no details of this one")
        return (
            {"compute_capability": (8, 0), "device_name": "NVIDIA A100"}
            if device.device_type == "GPU"
            else {}
        )

    experimental = types.SimpleNamespace(list_physical_devices=listed)
    if details:
        experimental.get_device_details = describe
    config = types.SimpleNamespace(experimental=experimental)
    sysconfig = types.SimpleNamespace()
    if modern:
        config.list_physical_devices = listed
        sysconfig.get_build_info = lambda: {
            "cuda_version": "11.2",
            "cudnn_version": "8",
            "cuda_compute_capabilities": ["sm_35", "compute_80"],
        }
    module = types.ModuleType("tensorflow")
    module.__version__ = "2.9.0" if modern else "2.0.4"
    module.config, module.sysconfig = config, sysconfig
    module.test = types.SimpleNamespace(is_built_with_cuda=lambda: True)
    return module


def run(monkeypatch, capsys, module, *arguments):
    monkeypatch.setitem(sys.modules, "tensorflow", module)
    monkeypatch.setattr(sys, "argv", ["-", *arguments])
    runpy.run_path(str(PROBE), run_name="__main__")
    marker, _space, answer = capsys.readouterr().out.splitlines()[-1].partition(" ")
    assert marker == "GPUREADY-PROBE"
    return json.loads(answer)


def test_answer_has_devices_details_and_build(monkeypatch, capsys):
    answer = run(monkeypatch, capsys, tensorflow(), "--level", "list")
    assert [device["name"] for device in answer["devices"]] == [
        "/physical_device:CPU:0",
        "/physical_device:GPU:0",
    ]
    assert answer["devices"][1]["details"] == {"compute_capability": [8, 0], "device_name": "NVIDIA A100"}
    assert answer["framework"]["version"] == "2.9.0"
    assert (answer["framework"]["cuda"], answer["framework"]["cudnn"]) == ("11.2", "8")
    assert answer["framework"]["archs"] == ["sm_35", "compute_80"]
    assert answer["compute"] is None


def test_early_2x_without_the_newer_functions_answers_too(monkeypatch, capsys):
    answer = run(monkeypatch, capsys, tensorflow(modern=False, details=False))
    assert answer["framework"]["version"] == "2.0.4"
    assert answer["framework"]["cuda"] is None
    assert len(answer["devices"]) == 2


def test_device_that_cannot_be_described_is_listed_all_the_same(monkeypatch, capsys):
    answer = run(monkeypatch, capsys, tensorflow(details=Exception))
    assert answer["devices"][1]["details"] == {"error": "ValueError: no details of this one"}


def test_compute_without_gpu_is_not_tried(monkeypatch, capsys):
    assert run(monkeypatch, capsys, tensorflow(gpus=0), "--level", "compute")["compute"] is None


def test_probe_is_python_3_6():
    ast.parse(PROBE.read_text(), feature_version=(3, 6))


class Number:
    """A result of paper: one number that stands for a matrix."""

    def __init__(self, value):
        self.value = value

    def __sub__(self, other):
        return Number(self.value - other.value)

    def __le__(self, bound):
        return Number(self.value <= bound)

    def numpy(self):
        return self.value


def computing(products, gpus=2):
    """A TensorFlow that computes as told: ``products`` gives each product, by device and turn."""
    module = tensorflow(gpus=gpus)
    turns, here = {}, threading.local()

    @contextlib.contextmanager
    def device(name):
        here.name = name
        yield

    def matmul(_a, _b):
        turn = turns[here.name] = turns.get(here.name, -1) + 1
        value = products(here.name, turn)
        if isinstance(value, Exception):
            raise value
        time.sleep(0.001)
        return Number(value)

    module.device = device
    module.linalg = types.SimpleNamespace(matmul=matmul)
    module.random = types.SimpleNamespace(stateless_uniform=lambda *_size, **_how: Number(1.0))
    module.abs = lambda number: Number(abs(number.value))
    module.reduce_max = lambda number: number
    module.logical_not = lambda number: Number(not number.value)
    module.math = types.SimpleNamespace(count_nonzero=lambda number: Number(int(number.value)))
    module.config.experimental.set_memory_growth = lambda _device, _on: None
    module.config.set_soft_device_placement = lambda _on: None
    return module


LOAD = ("--level", "stress", "--seconds", "0.1", "--memory-mib", "16384")


def test_load_keeps_every_gpu_busy_and_compares(monkeypatch, capsys):
    answer = run(monkeypatch, capsys, computing(lambda _device, _turn: 7.0), *LOAD)
    assert answer["compute"] is None
    first, second = answer["stress"]["gpus"]
    assert (first["device"], second["device"]) == ("/GPU:0", "/GPU:1")
    assert first["name"] == "NVIDIA A100"
    for row in (first, second):
        assert row["error"] is None and row["wrong"] == 0
        assert row["iterations"] >= 4 and row["iterations_per_second"] > 0 and row["tflops"] > 0
        assert (row["size"], row["results_kept"]) == (8192, 26), "half of the memory holds results"
        assert row["seconds"] >= 0.1


@pytest.mark.parametrize("wrong", [7.5, float("nan")])
def test_gpu_that_computes_another_result_is_found(monkeypatch, capsys, wrong):
    """The fifth product of one GPU differs."""
    sick = computing(lambda device, turn: wrong if (device, turn) == ("/GPU:1", 5) else 7.0)
    first, second = run(monkeypatch, capsys, sick, *LOAD)["stress"]["gpus"]
    assert first["error"] is None
    assert (second["wrong"], second["error"]) == (1, "1 numbers differ from what it computed at first")


def test_gpu_that_fails_under_load_says_why_and_the_others_go_on(monkeypatch, capsys):
    broken = computing(
        lambda device, turn: (
            RuntimeError("CUDNN_STATUS_INTERNAL_ERROR") if (device, turn) == ("/GPU:0", 3) else 7.0
        )
    )
    first, second = run(monkeypatch, capsys, broken, *LOAD)["stress"]["gpus"]
    assert first["error"] == "RuntimeError: CUDNN_STATUS_INTERNAL_ERROR"
    assert second["error"] is None and second["iterations"] >= 4


def test_small_memory_gets_small_matrices():
    sized = runpy.run_path(str(PROBE))["stress_size"]
    assert sized(81920)[0] == 8192
    for memory in (1024, 2048, 4096, 8192, 11441, 16384, 81920, 183359):
        size, kept = sized(memory)
        matrices = 5 + kept
        assert matrices * size * size * 4 / 2**20 <= memory, "it has to fit"


def test_without_gpu_there_is_no_load(monkeypatch, capsys):
    assert "stress" not in run(monkeypatch, capsys, computing(lambda _device, _turn: 7.0, gpus=0), *LOAD)
