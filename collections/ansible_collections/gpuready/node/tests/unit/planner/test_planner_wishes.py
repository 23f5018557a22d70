"""Wishes: what is accepted, and what each mistake says."""

from __future__ import annotations

from typing import Any

import pytest
from gpuready.wishes import CHOICES, DEFAULT_WISHES, ROLES, WishError, check, complete, nearest, role_of


def test_defaults_are_sound() -> None:
    wishes, problems = check({})
    assert problems == [] and wishes == DEFAULT_WISHES


def test_defaults_are_not_shared() -> None:
    wishes, _ = check({})
    wishes["gpuready_workloads"].append("x")
    assert check({})[0]["gpuready_workloads"] == ["tensorflow-2.9"]


def test_every_variable_belongs_to_a_role() -> None:
    for name in DEFAULT_WISHES:
        assert name.startswith(role_of(name) + "_") and role_of(name) in ROLES
    assert set(CHOICES) <= set(DEFAULT_WISHES)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("nvidia_driver_branch", 580, "580"),
        ("nvidia_driver_min_version", 460.27, "460.27"),
        ("nvidia_driver_min_version", "", ""),
        ("nvidia_driver_version", None, ""),
        ("nvidia_driver_version", "580.95.05-0ubuntu0.22.04.2", "580.95.05-0ubuntu0.22.04.2"),
        ("docker_engine_version", "5:28.5.1-1~ubuntu.22.04~jammy", "5:28.5.1-1~ubuntu.22.04~jammy"),
        ("host_reboot_allowed", "no", False),
        ("gpuready_simulated", "true", True),
        ("host_reboot_max", "2", 2),
        ("gpuready_workloads", "tensorflow-2.9", ["tensorflow-2.9"]),
        ("gpuready_workloads", [], []),
        ("docker_engine_daemon_config", None, {}),
        (
            "nvidia_container_toolkit_repo_key_fingerprint",
            "C95B 321B 61E8 8C18 09C4  F759 DDCA E044 F796 ECB0",
            ["C95B321B61E88C1809C4F759DDCAE044F796ECB0"],
        ),
    ],
)
def test_accepted(name: str, value: Any, expected: Any) -> None:
    wishes, problems = check({name: value})
    assert problems == [] and wishes[name] == expected


@pytest.mark.parametrize(
    ("name", "value", "says", "option"),
    [
        (
            "nvidia_driver_flavour",
            "opne",
            "must be one of auto, open, proprietary",
            "set nvidia_driver_flavour: open",
        ),
        (
            "nvidia_driver_source",
            "cuda",
            "must be one of auto, ubuntu",
            "set nvidia_driver_source: cuda_repo",
        ),
        ("gpu_verify_launch", "gpu", "must be one of auto, gpus", "set gpu_verify_launch: gpus"),
        ("host_reboot_allowed", "perhaps", "must be true or false", "set host_reboot_allowed: true"),
        ("host_reboot_max", -1, "must be a whole number", "set host_reboot_max: 1"),
        ("host_reboot_max", True, "must be a whole number", "set host_reboot_max: 1"),
        (
            "nvidia_driver_version",
            580.95,
            "YAML may have dropped a digit",
            'quote it: nvidia_driver_version: "580.95"',
        ),
        ("nvidia_driver_version", "new one", "no version", "write it as apt does"),
        (
            "nvidia_driver_min_version",
            "460-27",
            "no driver version",
            'set nvidia_driver_min_version: "460.27"',
        ),
        ("docker_engine_daemon_config", [1], "must be a mapping", "set docker_engine_daemon_config: {}"),
        (
            "gpuready_workloads",
            [1],
            "must be a list of strings",
            "set gpuready_workloads: ['tensorflow-2.9']",
        ),
        ("gpuready_workloads", {"a": 1}, "must be a list of strings", "set gpuready_workloads"),
        ("framework_image_archive", ["x"], "must be a string", "set framework_image_archive: ''"),
        (
            "nvidia_container_toolkit_repo_key_fingerprint",
            "F796ECB0",
            "no full key fingerprint",
            "print it with: gpg",
        ),
    ],
)
def test_mistakes_name_variable_value_and_fix(name: str, value: Any, says: str, option: str) -> None:
    wishes, problems = check({name: value})
    assert len(problems) == 1
    problem = problems[0]
    shown = value if not isinstance(value, list) else value[0]
    assert problem.variable == name and name in problem.what and str(shown) in problem.what
    assert says in problem.what
    assert problem.options[0].startswith(option)
    assert wishes[name] == DEFAULT_WISHES[name]


def test_other_variables_are_left_out_unless_strict() -> None:
    assert check({"docker_engine_apt_lock_timeout_seconds": 3}) == (DEFAULT_WISHES, [])
    _, problems = check({"nvidia_driver_brnach": "580"}, strict=True)
    assert problems[0].options == ["did you mean nvidia_driver_branch?"]


def test_complete_names_all_mistakes_at_once() -> None:
    with pytest.raises(WishError) as caught:
        complete({"host_reboot_max": "x", "nvidia_driver_flavour": "y"})
    assert [problem.variable for problem in caught.value.problems] == [
        "host_reboot_max",
        "nvidia_driver_flavour",
    ]
    assert "host_reboot_max" in str(caught.value) and "nvidia_driver_flavour" in str(caught.value)


def test_nearest_never_gives_nothing() -> None:
    assert nearest("tensorflow-2.8x", ["tensorflow-2.8", "tensorflow-2.9", "torch"])[0] == "tensorflow-2.8"
    assert nearest("zzz", ["a", "b", "c", "d"]) == ["a", "b", "c"]
