"""The probe, with a TensorFlow of paper: only what the probe may rely on exists."""

from __future__ import annotations

import ast
import json
import runpy
import sys
import types
from pathlib import Path

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
