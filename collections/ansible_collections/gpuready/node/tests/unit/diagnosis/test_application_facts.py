"""Causes of the application from facts: what the container's or program's environment says, memory, sharing."""

from __future__ import annotations

import pytest
from test_framework_facts import build, node, sign
from told import of_facts, of_text, roots, short


def env(**variables: str):
    return node(container={"name": "a", "env": variables})


CASES = {
    "cuda-visible-devices-hides: empty": env(CUDA_VISIBLE_DEVICES=""),
    "cuda-visible-devices-hides: -1": env(CUDA_VISIBLE_DEVICES="-1"),
    "cuda-visible-devices-hides: all": env(CUDA_VISIBLE_DEVICES="all"),
    "cuda-visible-devices-out-of-range": env(CUDA_VISIBLE_DEVICES="1"),
    "cuda-visible-devices-unknown-uuid": env(CUDA_VISIBLE_DEVICES="GPU-bbbb"),
    "framework-told-not-to-use-gpu": env(JAX_PLATFORMS="cpu"),
    "container-memory-exhausted": node(container={"oom_killed": True, "exit_code": 137, "memory_limit_mib": 48}),
    "other-environment": node(
        framework={
            "pythons": [
                {"name": "pytorch", "version": "2.4.1+cu121", "executable": "/opt/envs/gpu/bin/python", "available": True},
                {"name": "pytorch", "version": "2.3.0+cpu", "executable": "/opt/bin/python", "available": False, "cuda": False},
            ]
        }
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_facts_establish_the_cause(case):
    answer = of_facts(CASES[case])
    wanted = case.partition(":")[0]
    found = [row for row in answer["causes"] if row["cause"] == wanted and row["standing"] == "root"]
    assert found and found[0]["certain"], short(answer)
    assert found[0]["evidence"]


@pytest.mark.parametrize(
    ("value", "hidden"),
    [
        *[(value, True) for value in ("", "-1", "NoDevFiles", "all", "none", "-1,0")],
        *[(value, False) for value in ("0", "0,-1", " 7, 8", "GPU-aaaa", "MIG-1")],
        ("$GPUS", None),
    ],
)
def test_what_hides_every_gpu(value, hidden):
    assert sign("env.gpus_hidden", env(CUDA_VISIBLE_DEVICES=value)).state is hidden


def test_the_number_counts_within_what_the_container_was_given():
    facts = env(CUDA_VISIBLE_DEVICES="2")
    facts["gpu_stack"]["driver"]["devices"] *= 4
    assert sign("env.index_out_of_range", facts).state is False
    facts["container"]["requests"] = {"device_ids": ["2"]}
    assert sign("env.index_out_of_range", facts).state is True


def test_a_short_uuid_is_enough():
    assert sign("env.uuid_unknown", env(CUDA_VISIBLE_DEVICES="GPU-aa")).state is False


@pytest.mark.parametrize("value", [None, "0", "GPU-aaaa"])
def test_what_fits_is_no_cause(value):
    facts = env(**({"CUDA_VISIBLE_DEVICES": value} if value else {}), PATH="/bin")
    assert [row for row in roots(of_facts(facts)) if row.startswith("cuda-visible")] == []


def test_memory_that_is_full_is_no_cause_while_the_workload_runs():
    facts = node(
        verification={"ok": True, "workload": "tensorflow-2.9", "gpus_listed": 1, "gpus_expected": 1}
    )
    facts["gpu_stack"]["driver"]["devices"][0]["memory_used_mib"] = 39900
    facts["gpu_stack"]["driver"]["processes"] = [{"pid": 5, "name": "python3", "service": None}]
    assert [row for row in roots(of_facts(facts)) if "memory" in row] == []


def test_what_a_log_tells_of_somebody_else_is_no_cause_while_the_workload_runs():
    facts = node(
        verification={"ok": True, "workload": "tensorflow-2.9", "gpus_listed": 1, "gpus_expected": 1}
    )
    line = "[ 9123.456789] Memory cgroup out of memory: Killed process 999 (java) total-vm:9000000kB"
    facts["gpu_stack"]["host"]["kernel_log"] = {"source": "dmesg", "lines": [line]}
    assert roots(of_facts(facts)) == []
    facts["container"] = {"name": "mine", "oom_killed": True, "exit_code": 137}
    assert "container-memory-exhausted" in roots(of_facts(facts))


def test_an_out_of_memory_beside_another_process_names_that_process():
    facts = node()
    facts["gpu_stack"]["driver"]["devices"][0]["memory_used_mib"] = 39900
    facts["gpu_stack"]["driver"]["processes"] = [{"pid": 5, "name": "python3", "service": None}]
    facts["verification"] = {"ok": False, "gpus_listed": 1, "gpus_expected": 1, "log": "failed to allocate 300.00M from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory\n"}  # fmt: skip
    answer = of_facts(facts)
    assert roots(answer)[:1] == ["gpu-memory-held-by-another"], short(answer)


def test_two_environments_that_both_work_are_no_cause():
    rows = [
        {"name": "pytorch", "version": "2.4.1+cu121", "executable": "/a/python", "available": True},
        {"name": "pytorch", "version": "2.5.1+cu124", "executable": "/b/python", "available": True},
    ]
    assert "other-environment" not in roots(of_facts(node(framework={"pythons": rows})))


def test_an_exclusive_gpu_in_use():
    facts = node(**build(available=False))
    facts["gpu_stack"]["driver"]["devices"][0]["compute_mode"] = "Exclusive_Process"
    facts["gpu_stack"]["driver"]["processes"] = [{"pid": 5, "name": "python3", "service": None}]
    assert "compute-mode-exclusive" in roots(of_facts(facts))


def test_a_program_bug_does_not_blame_the_gpu():
    answer = of_text("RuntimeError: Expected all tensors to be on the same device, cuda:0 and cpu!\n")
    assert [row["layer"] for row in answer["causes"] if row["standing"] == "root"] == ["application"]
