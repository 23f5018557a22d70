"""Environments on the host: what they need, and whether wheel, channel, Python, GPU and driver agree."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from applied import TODAY, apply, converge, venv_row
from gpuready import wheels
from gpuready.catalog import load_catalog
from gpuready.planner import plan
from gpuready.venvs import content_hash, environments_rule, is_requirement, plain_name
from gpuready.wishes import check
from observed_nodes import Node, bare

CATALOG = load_catalog()
RESEARCH = {"name": "research", "workload": "pytorch-2.5-cu124"}


def planned(node: Node, *environments: dict[str, Any], **wishes: Any) -> Node:
    wishes = {"gpuready_workloads": [], "framework_venv_environments": list(environments), **wishes}
    return plan(node, wishes, CATALOG, host="node", today=TODAY)


def conflict(result: Node, identifier: str) -> Node:
    found = [row for row in result["conflicts"] if row["id"] == identifier]
    assert len(found) == 1, result["conflicts"]
    return found[0]


# --- wheels, indexes and channels ---


@pytest.mark.parametrize(
    ("url", "tag"),
    [
        ("https://download.pytorch.org/whl/cu124", "cu124"),
        ("http://mirror:8080/pytorch/whl/cu113/", "cu113"),
        ("http://mirror/whl/cpu/", "cpu"),
        ("http://mirror/whl/rocm6.2/", "rocm6.2"),
        ("http://mirror/pypi/simple/", None),
        ("http://cu124.example/simple/", None),
    ],
)
def test_tag_of_an_index_is_in_its_path(url: str, tag: str | None) -> None:
    assert wheels.tag_of(url) == tag


def test_every_cuda_variant_of_the_catalog_has_its_own_official_index() -> None:
    rows = [row for row in CATALOG.frameworks.values() if row.wheel is not None]
    tags = {row.variant for row in rows}
    assert {"cu113", "cu116", "cu117", "cu118", "cu121", "cu124", "cu126", "cu128", "cu130", "cu132"} <= tags
    for row in rows:
        url = wheels.index_url("", row)
        assert url == f"https://download.pytorch.org/whl/{row.variant}"
        assert wheels.requirements(row, url) == [f"torch=={row.version}+{row.variant}"]
        assert wheels.disagreements(row, index_url=url, python=None, subject="x") == []


def test_index_without_a_tag_serves_the_default_variant_only() -> None:
    rows = CATALOG.frameworks
    plain = "http://mirror/simple/"
    default, other = rows["pytorch-2.5-cu124"], rows["pytorch-2.5-cu118"]
    assert wheels.requirements(default, plain) == ["torch==2.5.1"]
    assert wheels.disagreements(default, index_url=plain, python="3.11", subject="x") == []
    found = wheels.disagreements(
        other, index_url=plain, python="3.11", subject="x", alternatives=tuple(rows.values())
    )
    assert [row.id for row in found] == ["framework.channel_mismatch"]
    assert any("pytorch-2.5-cu124" in option for option in found[0].options)


# --- what an inventory may say ---


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("research", "must be a list"),
        ([["research"]], "item 1 is"),
        ([{"name": "research"}], "item 1 has no workload"),
        ([{"name": "Research", "workload": "x"}], "'Research' is no name"),
        ([{"name": "../etc", "workload": "x"}], "'../etc' is no name"),
        ([{**RESEARCH, "pakages": []}], "'pakages'"),
        ([{**RESEARCH, "python": 3.1}], "python is 3.1"),
        ([{**RESEARCH, "python": "python2"}], "python is 'python2'"),
        ([{**RESEARCH, "owner": "a b"}], "owner is 'a b'"),
        ([{**RESEARCH, "packages": ["--index-url=http://x"]}], "'--index-url=http://x'"),
        ([{**RESEARCH, "packages": ["x @ http://x/x.whl"]}], "'x @ http://x/x.whl'"),
        ([RESEARCH, RESEARCH], "'research' twice"),
    ],
)
def test_what_is_no_environment_is_refused_by_its_name(value: Any, says: str) -> None:
    wishes, problems = check({"framework_venv_environments": value})
    assert len(problems) == 1 and says in problems[0].what and problems[0].options
    assert problems[0].variable == "framework_venv_environments"
    assert wishes["framework_venv_environments"] == []


def test_environment_is_completed() -> None:
    normal, problem = environments_rule("x", [{**RESEARCH, "packages": "numpy<3"}])
    assert problem is None
    assert normal == [{**RESEARCH, "python": "python3", "packages": ["numpy<3"], "owner": "root"}]


@pytest.mark.parametrize("folder", ["venvs", "/", "/opt", "/opt/../etc", "/opt/a b", "/opt/" + "x" * 70])
def test_directory_that_cannot_be_one_is_refused(folder: str) -> None:
    assert check({"framework_venv_directory": folder})[1][0].variable == "framework_venv_directory"


@pytest.mark.parametrize("url", ["mirror/whl/$(TAG)", "ftp://mirror/whl", "http://a b/"])
def test_index_that_is_no_address_is_refused(url: str) -> None:
    assert check({"framework_venv_index_url": url})[1][0].variable == "framework_venv_index_url"


def test_requirements_are_names_with_versions() -> None:
    for good in (
        "numpy",
        "numpy<3,>=1.26",
        "torch==2.5.1+cu124",
        "a[b,c]~=1.0",
        "a ; python_version > '3.8'",
    ):
        assert is_requirement(good), good
    for bad in ("", "-r x", "--pre", "./x.whl", "git+https://x", "a b", "a @ file:///x", "a\n--pre"):
        assert not is_requirement(bad), bad
    assert plain_name("Nvidia_cuDNN.cu12==9") == "nvidia-cudnn-cu12"


def test_hash_follows_what_makes_an_environment_another_one() -> None:
    first = content_hash("a", "3.11", ["torch==2.5.1+cu124"], "root")
    assert first == content_hash("a", "3.11", ["torch==2.5.1+cu124"], "root")
    others = [("b", "3.11", "root"), ("a", "3.12", "root"), ("a", "3.11", "bob")]
    assert len({first, *(content_hash(n, v, ["torch==2.5.1+cu124"], o) for n, v, o in others)}) == 4


# --- the plan ---


def test_environment_is_planned_with_all_that_pip_needs() -> None:
    result = planned(bare("20b5"), {**RESEARCH, "packages": ["torchvision"]})
    assert result["conflicts"] == []
    row = result["venvs"][0]
    assert row["requirements"] == ["torch==2.5.1+cu124", "torchvision"]
    assert row["index_url"] == "https://download.pytorch.org/whl/cu124"
    assert (row["path"], row["python"], row["python_version"]) == (
        "/opt/gpuready/venvs/research",
        "/usr/bin/python3",
        "3.10",
    )
    assert row["build"] == f"{row['path']}@{row['hash'][:12]}"
    assert row["needs"] == ["python3.10-venv"]
    assert [a["id"] for a in result["actions"] if a["role"] == "framework_venv"] == [
        "venv.packages",
        "venv.install",
    ]
    assert result["workloads"][-1] == {
        "name": "research",
        "image": None,
        "pull": None,
        "probe": "pytorch",
        "image_size_mib": None,
        "present": False,
        "expect": {"framework_version": "2.5", "cuda": "12.4"},
        "venv": row["path"],
    }


def test_environments_wheel_counts_for_the_driver() -> None:
    """Three agree: CUDA 12.4 needs 525.60.13 whichever way it comes to the node."""
    because = planned(bare("20b5"), RESEARCH)["driver"]["because"]
    assert any(r["subject"] == "pytorch-2.5-cu124" and r["requirement"] == ">=525.60.13" for r in because)
    result = planned(bare("20b5"), RESEARCH, nvidia_driver_version="470.256.02")
    text = json.dumps(result["conflicts"])
    assert result["status"] == "conflict" and "pytorch-2.5-cu124" in text and "525.60.13" in text


def test_wheel_without_the_gpus_code_is_refused() -> None:
    """CUDA 13's wheels begin with Turing; a V100 is older."""
    result = planned(bare("1db4"), {"name": "new", "workload": "pytorch-2.13-cu130"})
    text = json.dumps(result["conflicts"])
    assert result["status"] == "conflict" and "pytorch-2.13-cu130" in text and "V100" in text


def test_index_of_another_channel_is_refused_before_anything_is_changed() -> None:
    for tag in ("cpu", "cu118", "rocm6.2"):
        result = planned(bare("20b5"), RESEARCH, framework_venv_index_url=f"http://mirror/whl/{tag}/")
        found = conflict(result, "framework.channel_mismatch")
        assert found["role"] == "framework_venv" and "research" in found["what"] and tag in found["what"]
        assert any("$(TAG)" in option for option in found["options"])


def test_python_without_such_a_wheel_is_refused_with_one_that_has() -> None:
    node = bare("20b5", version_id="24.04")
    node["framework"]["pythons"].append({"path": "/usr/bin/python3.10", "version": "3.10", "venv": True})
    found = conflict(
        planned(node, {"name": "old", "workload": "pytorch-1.13-cu117"}), "framework.python_mismatch"
    )
    assert "3.12" in found["what"] and "3.7 to 3.10" in found["what"]
    assert found["options"][0] == "set its python to /usr/bin/python3.10 (Python 3.10)"


def test_interpreter_that_is_not_there_is_named() -> None:
    found = conflict(planned(bare("20b5"), {**RESEARCH, "python": "python3.13"}), "framework.python_missing")
    assert "python3.13" in found["what"] and "/usr/bin/python3 (3.10)" in found["because"][0]


def test_unknown_interpreters_are_no_conflict() -> None:
    node = bare("20b5")
    node["framework"]["pythons"] = None
    result = planned(node, RESEARCH)
    assert result["conflicts"] == [] and any("not known" in note for note in result["notes"])


def test_what_is_no_wheel_is_refused() -> None:
    result = planned(bare("20b5"), {"name": "x", "workload": "tensorflow-2.9"})
    assert "image" in conflict(result, "framework.no_wheel")["what"]
    found = conflict(
        planned(bare("20b5"), {"name": "x", "workload": "pytorch-2.5-cu999"}), "framework.workload_unknown"
    )
    assert "framework_venv_environments" in found["what"] and "workload: pytorch-2" in found["options"][0]


def test_name_of_a_workload_is_taken() -> None:
    result = planned(bare("20b5"), {"name": "tensorflow-2-9", "workload": "pytorch-2.5"})
    assert result["conflicts"] == []
    recipe = {"name": "research", "base": "tensorflow-2.9"}
    result = planned(bare("20b5"), RESEARCH, framework_image_recipes=[recipe])
    assert "research" in conflict(result, "framework.name_taken")["what"]


def test_full_disk_and_foreign_folder_are_refused() -> None:
    node = bare("20b5")
    node["disk"] = [{"path": "/", "total_mib": 20000, "free_mib": 3000}]
    assert "3000 MiB are free" in conflict(planned(node, RESEARCH), "framework.disk_full")["what"]
    node = converge(bare("20b5"), gpuready_workloads=[], framework_venv_environments=[RESEARCH])
    node["framework"]["venvs"][0].update(foreign=True, target=None, complete=False, stamp=None)
    assert "gpuready did not make it" in conflict(planned(node, RESEARCH), "framework.venv_foreign")["what"]


def test_login_of_an_index_is_in_no_plan() -> None:
    result = planned(
        bare("20b5"),
        {**RESEARCH, "packages": ["numpy"]},
        framework_venv_index_url="https://bob:s3cret@mirror.example/whl/$(TAG)",
        framework_venv_packages_index_url="https://bob:s3cret@mirror.example/simple",
    )
    assert result["venvs"][0]["index_url"] == "https://mirror.example/whl/cu124"
    assert result["venvs"][0]["extra_index_url"] == "https://mirror.example/simple"
    assert "s3cret" not in json.dumps(result)


def test_change_of_an_environment_is_told_by_what_changed() -> None:
    node = converge(bare("20b5"), gpuready_workloads=[], framework_venv_environments=[RESEARCH])
    result = planned(node, {"name": "research", "workload": "pytorch-2.6-cu124"})
    action = next(a for a in result["actions"] if a["id"] == "venv.install")
    assert action["evidence"] == [
        "/opt/gpuready/venvs/research was made for pytorch-2.5-cu124, not for pytorch-2.6-cu124"
    ]
    result = planned(node, {**RESEARCH, "packages": ["numpy"]})
    action = next(a for a in result["actions"] if a["id"] == "venv.install")
    assert action["evidence"] == ["/opt/gpuready/venvs/research was made for less, not for numpy"]


def test_packages_that_a_user_added_are_no_damage() -> None:
    node = converge(bare("20b5"), gpuready_workloads=[], framework_venv_environments=[RESEARCH])
    node["framework"]["venvs"][0]["packages"].update(pandas="2.2.3")
    assert planned(node, RESEARCH)["status"] == "converged"


def test_environment_in_use_stays_until_it_is_not() -> None:
    node = converge(
        bare("20b5"), gpuready_workloads=["tensorflow-2.9"], framework_venv_environments=[RESEARCH]
    )
    row = node["framework"]["venvs"][0]
    row["used_by"] = [{"pid": 812, "name": "python3"}]
    row["former"] = [{"path": row["path"] + "@0123456789ab", "used_by": []}]
    result = plan(node, {"gpuready_workloads": ["tensorflow-2.9"]}, CATALOG, host="node", today=TODAY)
    assert [a["id"] for a in result["actions"]] == ["venv.remove"]
    assert result["venvs_absent"] == [
        {"name": "research", "path": None, "builds": [row["path"] + "@0123456789ab"]}
    ]
    assert any("812" in note for note in result["notes"])
    node = apply(node, result)
    result = plan(node, {"gpuready_workloads": ["tensorflow-2.9"]}, CATALOG, host="node", today=TODAY)
    assert result["status"] == "converged"


def test_surplus_environments_go_and_wanted_ones_stay() -> None:
    wishes = {"gpuready_workloads": [], "framework_venv_environments": [RESEARCH]}
    node = converge(bare("20b5"), **wishes)
    other = copy.deepcopy(planned(node, RESEARCH)["venvs"][0])
    other.update(name="old", path="/data/venvs/old", build="/data/venvs/old@0123456789ab")
    node["framework"]["venvs"].append(venv_row(other))
    result = planned(node, RESEARCH)
    assert result["venvs_absent"] == [
        {"name": "old", "path": "/data/venvs/old", "builds": ["/data/venvs/old@0123456789ab"]}
    ]
    assert planned(apply(node, result), RESEARCH)["status"] == "converged"


def test_wheel_that_nothing_holds_counts_for_the_driver_only() -> None:
    result = plan(bare("20b5"), {"gpuready_workloads": ["pytorch-2.5"]}, CATALOG, host="node", today=TODAY)
    assert result["driver_only"] == ["pytorch-2.5-cu124"] and result["workloads"] == []
    result = planned(bare("20b5"), RESEARCH, gpuready_workloads=["pytorch-2.5"])
    assert result["driver_only"] == []
