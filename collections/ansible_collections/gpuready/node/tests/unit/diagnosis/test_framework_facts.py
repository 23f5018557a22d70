"""Causes of the framework from facts, as an observation, a plan and the probes give them; and their signs."""

from __future__ import annotations

from typing import Any

import pytest
from gpuready.diagnosis.facts import Facts
from gpuready.diagnosis.signs import load_signs
from told import CATALOG, of_facts, roots, short

SIGNS = load_signs()
GPU = {
    "A100": ("NVIDIA A100-PCIE-40GB", "8.0"),
    "B200": ("NVIDIA B200", "10.0"),
    "V100": ("Tesla V100-PCIE-16GB", "7.0"),
}


def node(driver: str = "580.95.05", gpu: str = "A100", **more: Any) -> dict[str, Any]:
    """A node as observed, with what the diagnosis of a framework reads of it."""
    name, capability = GPU[gpu]
    stack = {
        "schema": 1,
        "host": {"gpus": [{"pci": "0000:3b:00.0", "name": name, "compute_capability": capability, "driver_bound": "nvidia"}]},
        "driver": {
            "loaded": {"version": driver, "modules": ["nvidia", "nvidia_uvm"]},
            "devices": [
                {"index": 0, "uuid": "GPU-aaaa", "name": name, "compute_capability": capability,
                 "memory_total_mib": 40000, "memory_used_mib": 10}
            ],
        },
    }  # fmt: skip
    return {"gpu_stack": stack, **more}


def sign(name: str, facts: dict[str, Any]):
    return SIGNS[name].find(Facts(facts, CATALOG))


def build(**fields: Any) -> dict[str, Any]:
    return {"framework": {"place": "container", **fields}}


TF29 = {"name": "tensorflow", "version": "2.9.0", "cuda": "11.2", "cudnn": "8.1"}
TORCH = {"name": "pytorch", "version": "2.7.1", "cuda": "12.6"}

CASES = {
    "driver-below-floor: its CUDA's": node("418.226.00", **build(**TF29)),
    "driver-below-floor: the plan's": node(
        "450.80.02",
        plan={"driver": {"because": [{"requirement": ">=460.27", "rule": "user-minimum", "subject": "nvidia_driver_min_version"}]}},
    ),
    "driver-below-floor: NVIDIA_REQUIRE_CUDA": node(
        probes={"requirements": [{"variable": "NVIDIA_REQUIRE_CUDA", "expression": "cuda>=13.2", "holds": False, "why": "cuda 13.0 < 13.2"}]},
    ),
    "torch-cpu-build": node(**build(name="pytorch", version="2.0.1+cpu", cuda=False, available=False)),
    "torch-cpu-build: by its package": node(**build(name="pytorch", packages={"torch": "2.0.1+cpu"})),
    "tensorflow-cpu-build": node(**build(name="tensorflow", version="2.9.0", cuda=False)),
    "tensorflow-cpu-build: by its package": node(**build(name="tensorflow", packages={"tensorflow-cpu": "2.9.0"})),
    "image-without-cuda": node(container={"name": "a", "image": "tensorflow/tensorflow:2.9.0"}),
    "ld-library-path-overridden": node(
        container={"name": "a", "image": "tensorflow/tensorflow:2.9.0-gpu", "env": {"LD_LIBRARY_PATH": "/opt/mine"}}
    ),
    "cudnn-missing": node(**build(**TF29, libraries_missing=["libcudnn.so.8"])),
    "cudnn-older-than-build": node(**build(**TF29, cudnn_loaded="8.0.5")),
    "tensorflow-cuda-libraries-missing": node(**build(**TF29, libraries_missing=["libcudart.so.11.0", "libcudnn.so.8"])),
    "cuda-library-missing": node(**build(**TORCH, libraries_missing=["libcublas.so.12"])),
    "onnxruntime-without-cuda": node(**build(name="onnxruntime", packages={"onnxruntime": "1.17.1", "numpy": "1.26"})),
    "onnxruntime-twice": node(**build(available=False, packages={"onnxruntime": "1.17.1", "onnxruntime-gpu": "1.17.1"})),
    "jax-without-cuda": node(**build(name="jax", packages={"jax": "0.4.30", "jaxlib": "0.4.30", "numpy": "1.26"})),
    "jax-versions-disagree": node(**build(name="jax", packages={"jaxlib": "0.4.34", "jax-cuda12-plugin": "0.4.30"})),
    "nvidia-wheels-disagree": node(
        **build(available=False, packages={"nvidia-cudnn-cu11": "8.9.6.50", "nvidia-cudnn-cu12": "9.1.0.70", "torch": "2.4.1"})
    ),
    "rocm-build": node(**build(name="pytorch", rocm=True)),
    "gpu-newer-than-build": node(gpu="B200", **build(**TORCH)),
    "gpu-newer-than-build: the build says so": node(gpu="B200", **build(name="pytorch", archs=["sm_50", "sm_90"])),
    "gpu-newer-than-build: the plan's workload": node(gpu="B200", plan={"workloads": [{"name": "tensorflow-2.9"}]}),
    "gpu-older-than-build": node(gpu="V100", **build(name="pytorch", version="2.11.0", cuda="13.0")),
    "compat-library-unsupported": {
        "gpu_stack": {"schema": 1, "driver": {"devices": [{"name": "NVIDIA GeForce RTX 3090", "compute_capability": "8.6"}]}},
        "container": {"libcuda": {"path": "/usr/local/cuda/compat/libcuda.so.1", "version": "590.48.01", "kind": "compat"}},
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_facts_establish_the_cause(case):
    answer = of_facts(CASES[case])
    wanted = case.partition(":")[0]
    found = [row for row in answer["causes"] if row["cause"] == wanted and row["standing"] == "root"]
    assert found and found[0]["certain"], short(answer)
    assert found[0]["evidence"]


def test_what_fits_is_no_cause():
    for facts in (
        node(**build(**TF29, archs=["sm_35", "compute_80"], available=True, gpus_listed=1)),
        node(**build(**TORCH, available=True, cudnn="9.5.1", cudnn_loaded="9.5.1")),
        node(
            plan={
                "workloads": [{"name": "tensorflow-2.9"}],
                "driver": {"because": [{"requirement": ">=460.27.03"}]},
            }
        ),
    ):
        mine = [row for row in roots(of_facts(facts)) if row in {name.partition(":")[0] for name in CASES}]
        assert mine == []


def test_what_lies_beside_the_framework_is_no_cause():
    """A CPU-only package that nobody uses, a path that leads nowhere, a GPU for one process that works."""
    beside = {
        "onnxruntime": "1.17.1",
        "jaxlib": "0.4.30",
        "jax": "0.4.30",
        "numpy": "1.26",
        "tensorflow": "2.9.0",
    }
    container = {"name": "a", "image": "tensorflow/tensorflow:2.9.0-gpu"}
    container["env"] = {"LD_LIBRARY_PATH": "/opt/mine", "JAX_PLATFORMS": "cpu"}
    facts = node(container=container, **build(**TF29, packages=beside, libraries_missing=[]))
    facts["gpu_stack"]["driver"]["devices"][0]["compute_mode"] = "Exclusive_Process"
    facts["gpu_stack"]["driver"]["processes"] = [{"pid": 5, "name": "python3", "service": None}]
    facts["verification"] = {"ok": True, "workload": "tensorflow-2.9", "gpus_listed": 1, "gpus_expected": 1}
    answer = of_facts(facts)
    assert [row["cause"] for row in answer["causes"] if row["layer"] in ("framework", "application")] == [], (
        short(answer)
    )


def test_one_frameworks_build_is_not_the_others():
    beside_torch = node(
        **build(name="pytorch", version="2.7.1", packages={"tensorflow-cpu": "2.9.0", "torch": "2.7.1"})
    )
    beside_tensorflow = node(**build(name="tensorflow", version="2.9.0", packages={"torch": "2.7.1+cpu"}))
    for facts in (beside_torch, beside_tensorflow):
        assert [row for row in roots(of_facts(facts)) if row.endswith("cpu-build")] == []


def test_facts_beat_a_stale_line():
    said = "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).\n"
    answer = of_facts(node("580.95.05", **build(**TORCH)), said)
    assert "driver-below-floor" not in [row["cause"] for row in answer["causes"]], short(answer)


@pytest.mark.parametrize(
    ("driver", "cuda", "state"),
    [
        ("450.80.02", "11.2", True),
        ("450.51.05", "11.2", False),
        ("450.51.05", "11.0", True),
        ("525.60.13", "12.8", True),
        ("470.256.02", "12.1", False),
        ("580.95.05", "13.0", True),
        ("570.26", "13.0", False),
        ("580.95.05", None, None),
    ],
)
def test_the_floor_is_the_catalogs(driver, cuda, state):
    fields = {"name": "x", "cuda": cuda} if cuda else {}
    assert sign("link.floor", node(driver, **build(**fields))).state is state


def test_a_major_version_of_cuda_is_enough_where_no_driver_is_named():
    facts = {"gpu_stack": {"driver": {"nvml": {"cuda_version": "11.4"}}}, "framework": {"cuda": "12.1"}}
    assert sign("link.floor", facts).state is False
    facts["framework"]["cuda"] = "11.8"
    assert sign("link.floor", facts).state is None


@pytest.mark.parametrize(
    ("gpu", "capability"),
    [
        ("NVIDIA GeForce RTX 5090", "12.0"),
        ("Tesla V100-SXM2-16GB", "7.0"),
        ("NVIDIA A100-SXM4-80GB", "8.0"),
        ("GeForce GTX 1080 Ti", "6.1"),
        ("NVIDIA H100 80GB HBM3", "9.0"),
        ("Some Future Accelerator", None),
        ("NVIDIA", None),
    ],
)
def test_the_compute_capability_of_a_name_comes_from_the_catalog(gpu, capability):
    facts = {
        "gpu_stack": {"driver": {"devices": [{"name": gpu}]}},
        "framework": {"archs": ["sm_50", "sm_90"]},
    }
    evidence = " ".join(sign("link.architectures", facts).evidence)
    assert (capability in evidence) if capability else sign("link.architectures", facts).state is None


def test_ptx_is_code_too():
    facts = node(gpu="A100", **build(name="x", archs=["sm_70", "compute_70"]))
    assert sign("link.architectures", facts).state is True
    assert sign("architectures.compiled_by_driver", facts).state is True
    assert (
        sign("link.architectures", node(gpu="V100", **build(name="x", archs=["sm_75", "compute_80"]))).state
        is False
    )


def test_a_gpu_that_is_listed_and_not_served_is_not_called_well():
    facts = node(gpu="B200", **build(name="tensorflow", version="2.20.0", cuda="12.5"))
    assert sign("architectures.listed_only", facts).state is True
    assert sign("architectures.gpu_too_new", facts).state is None


def test_what_a_text_does_not_name_may_be_there():
    text = {"framework": {"name": "tensorflow", "libraries_missing": ["libcudnn.so.8"]}}
    assert sign("framework.is_torch", text).state is None
    assert sign("libraries.toolkit_missing", text).state is None
    assert sign("framework.is_torch", {"gpu_stack": {"schema": 1}, **text}).state is False


def test_no_sign_breaks_on_nothing_or_on_nonsense():
    nonsense = {
        "gpu_stack": {"driver": {"devices": "x", "loaded": [], "nvml": 3}, "host": {"gpus": [1, None]}},
        "framework": {"version": 2.9, "cuda": True, "archs": "sm_80", "packages": [], "env": 1, "pythons": 4},
        "container": {"image": 7, "env": [], "requests": "all", "libcuda": "x"},
        "verification": {"devices": [{"details": 3}], "compute": "no", "gpus_expected": "2"},
        "plan": {"driver": None, "workloads": [3]},
        "probes": {"requirements": {}},
    }
    mine = [name for name, row in SIGNS.items() if row.find.__module__.endswith("signs_framework")]
    assert len(mine) > 40
    for name in mine:
        assert sign(name, {}).state is None or name in ("env.platform_forbids",), name
        sign(name, nonsense)
