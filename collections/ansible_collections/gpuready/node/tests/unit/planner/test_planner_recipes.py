"""Derived images in the plan: what is built, why, what goes, and which recipes are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from applied import TODAY, apply, converge
from gpuready import recipes
from gpuready.catalog import load_catalog
from gpuready.planner import plan
from gpuready.wishes import check
from observed_nodes import Node, bare

CATALOG = load_catalog()
RECIPE = {
    "name": "tf-notebook",
    "base": "tensorflow-2.9",
    "jupyter": True,
    "ssh": True,
    "apt": ["git"],
    "pip": ["pandas<3"],
    "env": {"OMP_NUM_THREADS": 4},
    "commands": ["echo done > /etc/motd"],
}
TF = "tensorflow/tensorflow:2.9.0-gpu"


def planned(node: Node, *rows: dict[str, Any], **wishes: Any) -> dict[str, Any]:
    return plan(node, {"framework_image_recipes": list(rows), **wishes}, CATALOG, host="node", today=TODAY)


@pytest.fixture(scope="module")
def whole() -> Node:
    return converge(bare("20b5"), framework_image_recipes=[RECIPE])


def ids(answer: dict[str, Any], what: str = "actions") -> list[str]:
    return [row["id"] for row in answer[what]]


def images(node: Node) -> list[Node]:
    return node["framework"]["images"]


def derived(node: Node) -> Node:
    return next(image for image in images(node) if image["ref"].startswith("gpuready/"))


def test_bare_node_gets_the_base_and_then_what_derives_from_it():
    answer = planned(bare("20b5"), RECIPE)
    actions = ids(answer)
    assert actions.index("image.fetch") < actions.index("driver.install") < actions.index("image.build")
    (row,) = answer["recipes"]
    assert row["base"] == {"workload": "tensorflow-2.9", "image": TF, "pull": None}
    assert row["image"] == f"gpuready/tf-notebook:{row['hash'][:12]}" and not row["present"]
    assert row["workload"] == "tensorflow-2.9" and row["wheel"] == [] and row["push"] is row["pull"] is None
    base, own = answer["workloads"]
    assert base["name"] == "tensorflow-2.9" and base["pull"]
    assert own["name"] == own["recipe"] == "tf-notebook" and own["image"] == row["image"]
    assert own["pull"] is None and own["probe"] == base["probe"] and own["expect"] == base["expect"]


def test_base_that_nobody_asked_for_is_fetched_and_counts_for_the_driver():
    row = dict(RECIPE, base="tensorflow-2.20")
    answer = planned(bare("20b5"), row, gpuready_workloads=["tensorflow-2.9"])
    assert [item["name"] for item in answer["workloads"]] == [
        "tensorflow-2.9",
        "tensorflow-2.20",
        "tf-notebook",
    ]
    assert any("tensorflow-2.20" in item["subject"] for item in answer["driver"]["because"])


def test_converged_node_has_nothing_to_do(whole: Node):
    answer = planned(whole, RECIPE)
    assert answer["status"] == "converged"
    assert [row["present"] for row in answer["recipes"] + answer["workloads"]] == [True] * 3


@pytest.mark.parametrize(
    "change",
    [
        {"pip": ["pandas<2"]},
        {"apt": []},
        {"env": {"OMP_NUM_THREADS": 8}},
        {"commands": []},
        {"ssh": False},
        {"jupyter": False},
    ],
    ids=str,
)
def test_changed_recipe_is_another_image_and_the_former_one_goes(whole: Node, change: dict[str, Any]):
    answer = planned(whole, {**RECIPE, **change})
    assert ids(answer) == ["image.build", "image.prune"]
    assert answer["recipes"][0]["image"] != derived(whole)["ref"]
    assert answer["surplus_images"] == [derived(whole)["ref"]]
    assert planned(apply(whole, answer), {**RECIPE, **change})["status"] == "converged"


def test_where_packages_come_from_makes_no_other_image(whole: Node):
    elsewhere = {
        "framework_image_build_pip_index_url": "https://mirror.example/simple",
        "framework_image_build_apt_sources": ["deb http://mirror.example/ubuntu focal main"],
    }
    assert planned(whole, RECIPE, **elsewhere)["status"] == "converged"


def test_new_base_asks_for_a_new_build(whole: Node):
    node = copy.deepcopy(whole)
    base = next(image for image in images(node) if image["ref"] == TF)
    base["id"] = "sha256:newer"
    answer = planned(node, RECIPE)
    assert ids(answer) == ["image.build"] and answer["recipes"][0]["base_changed"]
    assert "and tensorflow/tensorflow:2.9.0-gpu is now newer" in answer["actions"][0]["evidence"][0]
    derived(node)["containers"] = ["gpuready-workbench-alice"]
    assert ids(planned(node, RECIPE)) == ["image.build", "image.prune"]


def test_base_that_is_gone_is_no_other_base(whole: Node):
    node = copy.deepcopy(whole)
    node["framework"]["images"] = [derived(node)]
    assert ids(planned(node, RECIPE)) == ["image.fetch"]


def test_labels_that_cannot_be_read_are_no_reason_to_build(whole: Node):
    node = copy.deepcopy(whole)
    derived(node)["labels"] = None
    assert planned(node, RECIPE)["status"] == "converged"


def test_image_without_a_recipe_goes_once_nobody_but_a_workbench_uses_it(whole: Node):
    node = copy.deepcopy(whole)
    assert ids(planned(node)) == ["image.prune"]
    derived(node)["containers"] = ["gpuready-workbench-alice"]
    assert ids(planned(node)) == ["image.prune"]
    derived(node)["containers"] = ["experiment", "gpuready-workbench-alice"]
    answer = planned(node)
    assert answer["status"] == "converged" and any("used by experiment" in note for note in answer["notes"])
    derived(node)["containers"] = None
    assert planned(node)["status"] == "converged"


def test_images_of_others_are_never_surplus(whole: Node):
    node = copy.deepcopy(whole)
    images(node).append({**derived(node), "ref": "gpuready/mine:1", "labels": {}})
    assert planned(node, RECIPE)["status"] == "converged"


def test_fleet_builds_once_and_keeps_the_registrys_name(whole: Node):
    fleet = {"framework_image_build": "fleet", "framework_image_push_registry": "http://registry:5000/site/"}
    answer = planned(bare("20b5"), RECIPE, **fleet)
    (row,) = answer["recipes"]
    assert row["push"] == row["pull"] == f"registry:5000/site/{row['image']}"
    node = copy.deepcopy(whole)
    images(node).append({**derived(node), "ref": row["pull"]})
    assert planned(node, RECIPE, **fleet)["status"] == "converged"
    assert planned(node, RECIPE)["surplus_images"] == [row["pull"]]


def test_fleet_without_a_registry_is_a_conflict():
    answer = planned(bare("20b5"), RECIPE, framework_image_build="fleet")
    assert ids(answer, "conflicts") == ["framework.push_registry_missing"]


def test_image_as_base_says_what_is_in_it():
    row = {"name": "own", "base": "registry.example:5000/tf:2.9", "workload": "tensorflow-2.9"}
    answer = planned(bare("20b5"), row, framework_image_registry_mirror="mirror:5000")
    (recipe,) = answer["recipes"]
    # A base that names its registry comes from there; another one through the mirror.
    assert recipe["base"]["pull"] == recipe["base"]["image"] == "registry.example:5000/tf:2.9"
    row["base"] = "site/tf:2.9"
    (recipe,) = planned(bare("20b5"), row, framework_image_registry_mirror="mirror:5000")["recipes"]
    assert recipe["base"]["pull"] == "mirror:5000/site/tf:2.9"


def test_wheel_comes_in_from_the_index_of_its_cuda():
    row = {"name": "torch", "base": "site/python:3.11", "workload": "pytorch-2.5-cu124"}
    answer = planned(bare("20b5"), row, framework_venv_index_url="http://mirror/whl/$(TAG)/")
    (recipe,) = answer["recipes"]
    assert recipe["wheel"] == ["torch==2.5.1+cu124"]
    assert recipe["wheel_index_url"] == "http://mirror/whl/cu124/"
    assert "pip-install --wheel torch==2.5.1+cu124" in recipe["dockerfile"]
    assert answer["driver_only"] == [] and answer["workloads"][-1]["expect"]["cuda"] == "12.4"
    assert not answer["conflicts"]


@pytest.mark.parametrize(
    ("row", "wishes", "conflict", "said"),
    [
        ({"name": "x", "base": "tensorflow-2.99"}, {}, "framework.workload_unknown", "'tensorflow-2.99'"),
        (
            {"name": "x", "base": "tensorflow-2.9", "workload": "pytorch-9"},
            {},
            "framework.workload_unknown",
            "'pytorch-9'",
        ),
        (
            {"name": "x", "base": "pytorch-2.5-cu124"},
            {},
            "framework.recipe_base_without_image",
            "a wheel and no image",
        ),
        ({"name": "x", "base": "site/tf:1"}, {}, "framework.recipe_without_workload", "what is in it"),
        (
            {"name": "x", "base": "tensorflow-2.9", "workload": "tensorflow-2.20"},
            {},
            "framework.no_wheel",
            "not as a wheel",
        ),
        (
            {"name": "x", "base": "site/py:1", "workload": "pytorch-2.5-cu124"},
            {"framework_venv_index_url": "http://mirror/whl/cu118/"},
            "framework.channel_mismatch",
            "cu118",
        ),
        (
            {"name": "x", "base": "site/py:1", "workload": "pytorch-2.5-cu124"},
            {"framework_venv_index_url": "http://bob:pw@mirror/whl/$(TAG)/"},
            "framework.index_login",
            "with a login",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("framework.") else "",
)
def test_recipe_that_cannot_be_is_one_conflict(row, wishes, conflict, said):
    answer = planned(bare("20b5"), row, **wishes)
    assert answer["status"] == "conflict" and ids(answer, "conflicts") == [conflict]
    (found,) = answer["conflicts"]
    assert said in found["what"] and found["options"] and "pw" not in str(answer)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("tf", "must be a list of mappings"),
        (["tf"], "item 1 is 'tf', but must be a mapping"),
        ([{"base": "tensorflow-2.9"}], "item 1 has no name"),
        ([{"name": "TF", "base": "tensorflow-2.9"}], "'TF' is no name for a recipe"),
        ([{"name": "x" * 42, "base": "tensorflow-2.9"}], "is no name for a recipe"),
        ([{"name": "x"}], "x has no base"),
        ([{"name": "x", "base": "a b"}], "neither a workload nor an image"),
        ([{"name": "x", "base": "site/tf"}], "names no version"),
        ([{"name": "x", "base": "site/tf:latest"}], "names no version"),
        ([{"name": "x", "base": "t", "jupyter": "maybe"}], "jupyter is 'maybe'"),
        ([{"name": "x", "base": "t", "jupiter": True}], "has the key 'jupiter'"),
        ([{"name": "x", "base": "t", "apt": ["git; rm -rf /"]}], "which is no package"),
        ([{"name": "x", "base": "t", "apt": ["--yes"]}], "which is no package"),
        ([{"name": "x", "base": "t", "apt": {"git": 1}}], "apt is {'git': 1}"),
        ([{"name": "x", "base": "t", "pip": ["--index-url http://x"]}], "which is no requirement"),
        ([{"name": "x", "base": "t", "pip": ["-r /etc/passwd"]}], "which is no requirement"),
        ([{"name": "x", "base": "t", "env": ["A=1"]}], "env is ['A=1']"),
        ([{"name": "x", "base": "t", "env": {"A B": "1"}}], "no name of a variable"),
        ([{"name": "x", "base": "t", "env": {"A": "1\n2"}}], "must be one line of text"),
        ([{"name": "x", "base": "t", "env": {"HF_TOKEN": "hf_x"}}], "is a secret"),
        ([{"name": "x", "base": "t", "commands": [""]}], "commands is ['']"),
        ([{"name": "x", "base": "t"}, {"name": "x", "base": "t"}], "the recipe 'x' twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_recipe_that_cannot_be_read_is_one_problem(value, said):
    wishes, problems = check({"framework_image_recipes": value})
    (problem,) = problems
    assert said in problem.what and problem.options and wishes["framework_image_recipes"] == []
    assert problem.variable == "framework_image_recipes"
    assert "hf_x" not in problem.what


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("framework_image_build", "once", "must be one of node, fleet"),
        ("framework_image_build_pip_index_url", "mirror/simple", "no http(s) address"),
        ("framework_image_build_pip_index_url", "https://bob:pw@mirror/simple", "holds a login"),
        ("framework_image_build_apt_sources", ["mirror focal main"], "no line of a sources.list"),
        ("framework_image_build_apt_sources", ["deb http://bob:pw@mirror focal main"], "holds a login"),
        ("framework_image_build_apt_sources", {"a": 1}, "must be a list of lines"),
    ],
)
def test_where_packages_come_from_is_checked(name, value, said):
    (problem,) = check({name: value})[1]
    assert said in problem.what and "pw" not in problem.what + str(problem.options)


def test_wishes_of_recipes_are_normal_whatever_the_form():
    rows, problem = recipes.rule(
        "v", [{"name": "x", "base": "t", "jupyter": "yes", "apt": "git", "env": {"A": 1}}]
    )
    assert problem is None
    assert rows == [
        {
            "name": "x",
            "base": "t",
            "workload": None,
            "jupyter": True,
            "ssh": False,
            "apt": ["git"],
            "pip": [],
            "env": {"A": "1"},
            "commands": [],
        }
    ]
    assert recipes.rule("v", None) == ([], None)
