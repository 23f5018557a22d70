"""NVIDIA_REQUIRE_*: the grammar is libnvidia-container's, the answers are three-valued."""

from __future__ import annotations

import itertools

import pytest
from gpuready.catalog import load_catalog
from gpuready.diagnosis import require
from gpuready.diagnosis.require import Machine
from hypothesis import given
from hypothesis import strategies as st

CATALOG = load_catalog()
# As the images of CUDA 11.2 and 12.4 carry it (the second one in part).
CUDA_11_2 = (
    "cuda>=11.2 brand=tesla,driver>=418,driver<419 brand=tesla,driver>=440,driver<441 driver>=450,driver<451"
)
CUDA_12_4 = (
    "cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=unknown,driver>=470,driver<471 "
    "brand=nvidia,driver>=470,driver<471 brand=geforcertx,driver>=470,driver<471 "
    "brand=tesla,driver>=535,driver<536 brand=nvidia,driver>=535,driver<536 "
    "brand=geforcertx,driver>=535,driver<536"
)


def machine(driver: str | None, name: str | None = None, arch: str | None = None) -> Machine:
    return Machine(driver, require.cuda_of(driver, CATALOG), require.brands_of(name), arch)


@pytest.mark.parametrize(
    ("text", "driver", "gpu", "holds"),
    [
        (CUDA_11_2, "580.95.05", "Tesla T4", True),
        (CUDA_11_2, "460.32.03", "Tesla T4", True),
        (CUDA_11_2, "450.80.02", "NVIDIA GeForce GTX 1080", True),  # the last alternative names no brand
        (CUDA_11_2, "418.226.00", "Tesla T4", True),
        (CUDA_11_2, "418.226.00", "GeForce GTX 1080", False),
        (CUDA_11_2, "390.157", "Tesla T4", False),
        (CUDA_11_2, "430.64", "Tesla T4", None),  # a branch that the catalog does not know
        (CUDA_11_2, None, "Tesla T4", None),
        (CUDA_12_4, "550.54.15", "NVIDIA GeForce RTX 4090", True),
        (CUDA_12_4, "535.261.03", "NVIDIA GeForce GTX 1080", False),
        (CUDA_12_4, "535.261.03", "Tesla T4", True),
        # NVML calls it NVIDIA or Tesla, and both have this alternative, but each alone is not certain.
        (CUDA_12_4, "535.261.03", "NVIDIA A100 80GB PCIe", None),
        (CUDA_12_4, "525.147.05", "NVIDIA A100 80GB PCIe", False),
        ("cuda>=8.0", "390.157", None, True),
        ("arch>=8.0", "580.95.05", None, None),
        ("", "580.95.05", None, True),
        ("nonsense", "580.95.05", None, None),
        ("l4t>=32", "580.95.05", None, None),
        ("cuda>=99 l4t>=32", "580.95.05", None, None),
        ("l4t>=32,cuda>=99", "580.95.05", None, False),
    ],
)
def test_expression(text, driver, gpu, holds):
    assert require.expression(text, machine(driver, gpu)).holds is holds


def test_what_decides_is_named():
    found = require.expression("cuda>=12.4", machine("535.261.03"))
    assert found.why == "cuda 12.2 < 12.4"
    found = require.expression("cuda>=12.4 cuda>=99", machine("535.261.03"))
    assert found.why == "cuda 12.2 < 12.4, and no other of 1 alternative holds"


def test_driver_that_the_catalog_does_not_know_leaves_cuda_unknown():
    assert require.cuda_of("999.10", CATALOG) is None
    assert require.expression("cuda>=11.2", machine("999.10")).holds is None
    assert require.expression("driver>=450", machine("999.10")).holds is True


@pytest.mark.parametrize("comparison", [">=", "<=", "=", "!=", ">", "<"])
@pytest.mark.parametrize(("left", "right"), list(itertools.product(("11.2", "11.10", "11"), repeat=2)))
def test_versions_are_compared_by_numbers(left, right, comparison):
    order = (require.numbers(left) > require.numbers(right)) - (
        require.numbers(left) < require.numbers(right)
    )
    wanted = {
        ">=": order >= 0,
        "<=": order <= 0,
        "=": order == 0,
        "!=": order != 0,
        ">": order > 0,
        "<": order < 0,
    }
    found = require.condition(f"cuda{comparison}{right}", Machine(None, left, None, None))
    assert found.holds is wanted[comparison]


@pytest.mark.parametrize(
    ("name", "brands"),
    [
        ("NVIDIA GeForce RTX 3090", ("geforcertx", "geforce")),
        ("GeForce GTX 1080 Ti", ("geforce",)),
        ("Quadro RTX 6000", ("quadrortx", "quadro")),
        ("NVIDIA RTX A6000", ("nvidiartx", "quadrortx", "quadro")),
        ("NVIDIA TITAN RTX", ("titanrtx", "titan")),
        ("Tesla V100-SXM2-16GB", ("tesla",)),
        ("NVIDIA A100 80GB PCIe", ("nvidia", "tesla")),
        ("NVIDIA H100 PCIe", ("nvidia", "tesla")),
        ("NVIDIA L4", ("nvidia", "tesla")),
        ("NVIDIA GB200", ("nvidia", "tesla")),
        ("Something else", None),
        (None, None),
    ],
)
def test_brand_is_told_by_the_name(name, brands):
    assert require.brands_of(name) == brands


def test_brand_s_case_does_not_matter():
    assert require.condition("brand=Tesla", machine(None, "Tesla T4")).holds is True
    assert require.condition("brand!=tesla", machine(None, "Tesla T4")).holds is False
    assert require.condition("brand>=tesla", machine(None, "Tesla T4")).holds is None


def test_every_variable_has_to_hold_and_jetson_s_is_not_asked():
    env = {
        "NVIDIA_REQUIRE_CUDA": "cuda>=11.2",
        "NVIDIA_REQUIRE_DRIVER": "driver>=550",
        "NVIDIA_REQUIRE_JETPACK": "csv-mounts=all",
        "NVIDIA_REQUIRE_EMPTY": "",
        "PATH": "/bin",
    }
    rows = require.evaluate(env, [machine("535.261.03")])
    assert {row["variable"]: row["holds"] for row in rows} == {
        "NVIDIA_REQUIRE_CUDA": True,
        "NVIDIA_REQUIRE_DRIVER": False,
    }


def test_every_gpu_has_to_satisfy_it():
    t4, gtx = machine("418.226.00", "Tesla T4"), machine("418.226.00", "GeForce GTX 1080")
    env = {"NVIDIA_REQUIRE_CUDA": CUDA_11_2}
    assert require.evaluate(env, [t4])[0]["holds"] is True
    assert require.evaluate(env, [t4, gtx])[0]["holds"] is False


@pytest.mark.parametrize("word", ["1", "true", "True", "t"])
def test_switched_off_requirement_says_so(word):
    env = {"NVIDIA_REQUIRE_CUDA": "cuda>=99", "NVIDIA_DISABLE_REQUIRE": word}
    row = require.evaluate(env, [machine("580.95.05")])[0]
    assert row["holds"] is False and row["disabled"] is True


def test_old_image_requires_its_cuda_version():
    row = require.evaluate({"CUDA_VERSION": "9.0.176"}, [machine("580.95.05")])[0]
    assert (row["variable"], row["expression"], row["holds"]) == ("CUDA_VERSION", "cuda>=9.0", True)
    assert (
        require.evaluate({"CUDA_VERSION": "11.2.2", "NVIDIA_REQUIRE_CUDA": ""}, [machine("580.95.05")]) == []
    )


@pytest.mark.parametrize(
    ("stack", "holds"),
    [
        ({"driver": {"loaded": {"version": "470.256.02"}}}, False),
        ({"driver": {"loaded": None, "on_disk": {"version": "580.95.05"}}}, True),
        ({"driver": {"nvml": {"driver_version": "580.95.05", "cuda_version": "13.0"}}}, True),
        ({"driver": {"loaded": {"version": "470.256.02"}, "nvml": {"cuda_version": "12.2"}}}, True),
        ({"driver": {}}, None),
        ({}, None),
    ],
)
def test_requirements_of_an_observed_node(stack, holds):
    rows = require.requirements(stack, {"NVIDIA_REQUIRE_CUDA": "cuda>=12.0"}, CATALOG)
    assert rows[0]["holds"] is holds


def test_brand_that_the_toolkit_names_beats_the_name():
    """NVML calls an A100 NVIDIA or Tesla, depending on the driver; nvidia-container-cli has asked it."""
    stack = {
        "driver": {"loaded": {"version": "535.261.03"}, "devices": [{"name": "NVIDIA A100 80GB PCIe"}]},
    }
    env = {"NVIDIA_REQUIRE_CUDA": "cuda>=99 brand=tesla,driver>=535"}
    assert require.requirements(stack, env, CATALOG)[0]["holds"] is None
    info = "Model:          NVIDIA A100 80GB PCIe\nBrand:          {}\nArchitecture:   8.0\n"
    assert require.requirements(stack, env, CATALOG, info.format("Tesla"))[0]["holds"] is True
    assert require.requirements(stack, env, CATALOG, info.format("Nvidia"))[0]["holds"] is False
    # Another number of GPUs than the node has: nobody knows which is whose.
    assert require.requirements(stack, env, CATALOG, info.format("Tesla") * 2)[0]["holds"] is None


CONDITIONS = st.builds(
    lambda subject, comparison, value: f"{subject}{comparison}{value}",
    st.sampled_from(["cuda", "driver", "arch", "brand", "l4t"]),
    st.sampled_from([">=", "<=", "=", "!=", "<", ">"]),
    st.sampled_from(["11.2", "450", "580.95.05", "8.0", "tesla", "geforce"]),
)
ALTERNATIVES = st.lists(st.lists(CONDITIONS, min_size=1, max_size=3).map(",".join), min_size=1, max_size=4)
MACHINES = st.builds(
    Machine,
    st.sampled_from([None, "418.226.00", "580.95.05"]),
    st.sampled_from([None, "10.1", "13.0"]),
    st.sampled_from([None, ("tesla",), ("nvidia", "tesla")]),
    st.sampled_from([None, "7.5", "9.0"]),
)


@given(ALTERNATIVES, MACHINES)
def test_order_of_alternatives_does_not_matter(alternatives, held_against):
    forward = require.expression(" ".join(alternatives), held_against).holds
    assert require.expression("  ".join(reversed(alternatives)), held_against).holds is forward


@given(ALTERNATIVES, MACHINES, MACHINES)
def test_knowing_more_never_turns_an_answer_round(alternatives, known, more):
    """An unknown may become true or false; what was true or false stays."""
    text = " ".join(alternatives)
    first = require.expression(text, known).holds
    joined = Machine(*(one if one is not None else other for one, other in zip(known, more, strict=True)))
    if first is not None:
        assert require.expression(text, joined).holds is first


@given(st.text(max_size=60))
def test_rubbish_is_no_crash(text):
    require.evaluate({"NVIDIA_REQUIRE_X": text, "CUDA_VERSION": text}, [machine("580.95.05", text)])
