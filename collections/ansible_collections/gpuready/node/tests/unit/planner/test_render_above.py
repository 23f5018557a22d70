"""The readable plan of what stands on a node's GPUs: images, environments, workbenches, monitoring."""

from __future__ import annotations

from typing import Any

import pytest
from gpuready.render import render

PLAN: dict[str, Any] = {
    "host": "n1",
    "status": "converged",
    "os": {},
    "gpus": [],
    "actions": [],
    "conflicts": [],
    "notes": [],
    "driver": None,
    "container_runtime": None,
}
RECIPE = {
    "name": "tf-notebook",
    "image": "gpuready/tf-notebook:0123456789ab",
    "base": {"workload": "tensorflow-2.9", "image": "tensorflow/tensorflow:2.9.0-gpu"},
    "workload": "tensorflow-2.9",
    "jupyter": True,
    "ssh": True,
    "push": None,
    "pull": None,
}
VENV = {
    "name": "research",
    "workload": "pytorch-2.5-cu124",
    "path": "/opt/gpuready/venvs/research",
    "python": "python3",
    "index_url": "https://download.pytorch.org/whl/cu124",
}
USER = {
    "name": "alice",
    "image": RECIPE["image"],
    "jupyter_port": 8888,
    "ssh_port": 2222,
    "gpus": "all",
}


def said(**parts: Any) -> str:
    """The whole text in one line."""
    return " ".join(render({**PLAN, **parts}).split())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "on tensorflow-2.9, with JupyterLab, with SSH"),
        ({"jupyter": False, "push": "registry:5000/tf"}, "with SSH, shared as registry:5000/tf"),
        ({"pull": "registry:5000/tf"}, "fetched as registry:5000/tf"),
        (
            {"base": {"workload": None, "image": "python:3"}, "workload": "pytorch-2.5-cu124"},
            "on python:3, with pytorch-2.5-cu124",
        ),
    ],
)
def test_recipe_says_what_it_stands_on_and_brings(changes: dict[str, Any], words: str) -> None:
    text = said(recipes=[{**RECIPE, **changes}])
    assert f"Images: tf-notebook = {RECIPE['image']}, " in text
    assert words in text


def test_environment_says_where_it_is_and_where_it_comes_from() -> None:
    assert (
        "Python: research = pytorch-2.5-cu124 in /opt/gpuready/venvs/research "
        "(python3, https://download.pytorch.org/whl/cu124)"
    ) in said(venvs=[VENV])


@pytest.mark.parametrize(
    ("changes", "address", "words"),
    [
        ({}, "127.0.0.1", "Jupyter at 127.0.0.1:8888, SSH at 127.0.0.1:2222, all GPUs"),
        ({"ssh_port": None, "gpus": [0, 1]}, "::", "Jupyter at [::]:8888, GPU 0, 1"),
        ({"jupyter_port": None, "gpus": []}, "0.0.0.0", "SSH at 0.0.0.0:2222, no GPU"),
    ],
)
def test_workbench_says_where_it_answers_and_which_gpus_it_has(
    changes: dict[str, Any], address: str, words: str
) -> None:
    text = said(workbench={"bind_address": address, "users": [{**USER, **changes}]})
    assert f"Benches: alice = {RECIPE['image']}, {words}" in text


def test_several_of_a_kind_stand_below_each_other() -> None:
    text = render({**PLAN, "workbench": {"users": [USER, {**USER, "name": "bob"}]}})
    assert "\nBenches:  alice = " in text
    assert "\n          bob = " in text
    assert max(map(len, text.splitlines())) <= 100


def test_monitoring_is_one_line_and_nothing_is_said_of_what_is_not_there() -> None:
    assert "Health: metrics every 15 s" in said(health={"summary": "metrics every 15 s"})
    bare = render({**PLAN, "recipes": [], "venvs": [], "workbench": None, "health": None})
    assert bare == render(PLAN)
