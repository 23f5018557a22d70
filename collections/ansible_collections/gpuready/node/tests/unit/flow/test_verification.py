"""The verdict on what a container answered."""

from __future__ import annotations

import json

import pytest
from gpuready import verification as judging

GPU = {
    "name": "/physical_device:GPU:0",
    "device_type": "GPU",
    "details": {"device_name": "NVIDIA A100 80GB PCIe", "compute_capability": [8, 0]},
}
CPU = {"name": "/physical_device:CPU:0", "device_type": "CPU", "details": {}}
FRAMEWORK = {"name": "tensorflow", "version": "2.9.0", "cuda": "11.2", "cudnn": "8", "archs": ["sm_35"]}


def answer(**changes):
    return {"framework": FRAMEWORK, "devices": [CPU, GPU], "compute": None, **changes}


def ran(says=None, **changes):
    stdout = "" if says is None else f"a banner\n{judging.MARKER} {json.dumps(says)}\n"
    return {
        "stdout": stdout,
        "stderr": "",
        "exit_code": 0,
        "seconds": 3.4,
        "image_id": "sha256:1",
        "digests": ["r/t@sha256:2"],
        **changes,
    }


def judge(run, **changes):
    arguments = {
        "host": "n1",
        "simulated": False,
        "workload": "tensorflow-2.9",
        "image": "t:1",
        "level": "list",
        "launch": {"way": "gpus", "arguments": ["--gpus", "all"], "reason": "asked for"},
        "expect": {"framework_version": "2.9", "cuda": "11.2"},
        "gpus_expected": 1,
        "timeout": 300,
    }
    return judging.judge(run, **{**arguments, **changes})


def test_answer_with_the_expected_gpu_is_good():
    result = judge(ran(answer()))
    assert result["ok"] is True
    assert (result["gpus_listed"], result["gpus_expected"]) == (1, 1)
    assert result["digest"] == "r/t@sha256:2"
    assert "lists 1 GPU (NVIDIA A100 80GB PCIe); list, gpus, 3.4 s" in judging.verdict_text(result)


GOOD = {"ok": True, "device": "GPU:0", "seconds": 0.1, "error": None}


@pytest.mark.parametrize(
    ("run", "changes", "layer", "says"),
    [
        (ran(answer(devices=[CPU])), {}, "application", "lists no GPU"),
        (ran(answer()), {"gpus_expected": 2}, "application", "lists 1 of 2 GPUs"),
        (ran(answer()), {"gpus_expected": 0}, "application", "lists 1 of 0 GPUs"),
        (ran(answer(devices=[CPU])), {"gpus_expected": None}, "application", "lists no GPU"),
        (ran(answer(devices=[CPU])), {"gpus_expected": 0}, "application", "lists no GPU"),
        (ran(answer()), {"expect": {"framework_version": "2.1"}}, "framework", "promises 2.1"),
        (ran(answer()), {"expect": {"cuda": "12.2"}}, "framework", "holds CUDA 11.2"),
        (ran(answer(), exit_code=139), {}, "framework", "exit code 139 after its answer"),
        (ran(exit_code=1, stderr="ImportError: libcuda"), {}, "framework", "did not answer"),
        (ran(exit_code=125, stderr="docker: no driver"), {}, "container_runtime", "could not run"),
        (
            ran(exit_code=127, stderr='docker: Error response from daemon: exec: "x": not found in $PATH.'),
            {},
            "container_runtime",
            "could not run",
        ),
        (ran(exit_code=127, stderr="env: python3: not found"), {}, "framework", "did not answer"),
        (ran(exit_code=None, timed_out=True), {}, "application", "did not answer within 300 s"),
        ({"error": "No such image: t:1", "missing": True}, {}, "framework", "t:1 is not on the node"),
        ({"error": "Cannot connect to the Docker daemon"}, {}, "container_runtime", "not be started"),
        (ran(answer()), {"level": "compute"}, "framework", "did not compute"),
        (
            ran(answer(compute={"matmul": GOOD, "conv": {**GOOD, "ok": False, "error": "lies on CPU:0"}})),
            {"level": "compute"},
            "application",
            "conv on the GPU failed",
        ),
    ],
)
def test_anything_else_is_bad_and_says_why(run, changes, layer, says):
    result = judge(run, **changes)
    assert result["ok"] is False
    assert result["findings"][0]["layer"] == layer
    assert says in result["findings"][0]["finding"]
    assert result["findings"][0]["finding"] in judging.verdict_text(result)


def test_compute_is_good_when_both_operations_are():
    assert judge(ran(answer(compute={"matmul": GOOD, "conv": GOOD})), level="compute")["ok"] is True


def test_broken_marker_line_is_no_answer():
    assert judging.parse_answer(f"{judging.MARKER} {{not json") is None
    assert judging.parse_answer(f"{judging.MARKER} [1]") is None
    assert judging.parse_answer("said GPUREADY-PROBE {} within a line") is None


def test_verdict_ends_with_the_tail_of_the_log():
    log = "\n".join(f"line {n}" for n in range(300))
    result = judge(ran(exit_code=1, stderr=log))
    assert result["log"].splitlines()[0] == "line 100"
    text = judging.verdict_text(result)
    assert text.splitlines()[-1].strip() == "line 299"
    assert "line 284" not in text


def test_log_that_the_findings_have_quoted_is_not_repeated():
    text = judging.verdict_text(judge(ran(exit_code=125, stderr="docker: no driver\n")))
    assert text.count("docker: no driver") == 1
    assert "The container's log" not in text


@pytest.mark.parametrize(
    ("actual", "wanted", "same"),
    [
        ("2.9.0", "2.9", True),
        ("2.9.0", "2.9.0", True),
        ("2.90.0", "2.9", False),
        (None, "2.9", False),
        ("2", "2.9", False),
    ],
)
def test_versions_match_by_whole_parts(actual, wanted, same):
    assert judging.matches(actual, wanted) is same


@pytest.mark.parametrize(
    ("stack", "number"),
    [
        (None, None),
        ({"host": {"gpus": None}}, None),
        ({"host": {"gpus": []}}, 0),
        ({"host": {"gpus": [{"driver_bound": "nvidia"}, {"driver_bound": "vfio-pci"}]}}, 1),
        # The driver has lost one: it is expected all the same.
        (
            {
                "host": {"gpus": [{"driver_bound": "nvidia"}] * 2},
                "driver": {"devices": [{"mig_mode": False}]},
            },
            2,
        ),
        ({"host": {"gpus": [{"driver_bound": "nvidia"}]}, "driver": {"devices": [{"mig_mode": True}]}}, None),
        ({"host": {"gpus": [{"driver_bound": None}]}, "driver": {"devices": None}}, 1),
    ],
)
def test_expected_gpus_are_those_on_the_bus(stack, number):
    assert judging.expected_gpus(stack) == number


LOAD = {"index": 0, "iterations": 400, "iterations_per_second": 40.0, "wrong": 0, "error": None}


@pytest.mark.parametrize(
    ("stress", "says"),
    [
        (None, "the probe put no load on the GPUs"),
        ({"gpus": []}, "the probe put no load on the GPUs"),
        ({"gpus": [{**LOAD, "error": "CUDA_ERROR_ILLEGAL_ADDRESS"}]}, "GPU 0 failed under load"),
        ({"gpus": [{**LOAD, "iterations": 0}]}, "GPU 0 failed under load"),
    ],
)
def test_load_that_failed_is_a_finding(stress, says):
    result = judge(ran(answer(stress=stress)), level="stress")
    assert [finding["finding"] for finding in result["findings"]] == [says]


def test_load_on_fewer_gpus_than_listed_is_a_finding():
    two = answer(devices=[CPU, GPU, GPU], stress={"gpus": [LOAD]})
    result = judge(ran(two), level="stress", gpus_expected=2)
    assert [finding["finding"] for finding in result["findings"]] == [
        "1 of the 2 GPUs that are listed got any load"
    ]


def test_good_load_is_good_and_carried():
    result = judge(ran(answer(stress={"seconds": 10.0, "gpus": [LOAD]})), level="stress")
    assert result["ok"] and result["stress"]["gpus"] == [LOAD]


def test_gpu_that_does_not_compute_is_named():
    bad = {"ok": False, "error": "the result differs from the CPU's by 0.3"}
    result = judge(ran(answer(compute={"matmul": GOOD, "matmul on GPU 1": bad})), level="compute")
    assert [finding["finding"] for finding in result["findings"]] == ["matmul on GPU 1 failed"]
