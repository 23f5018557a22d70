"""Which variables exist, and which are slips."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpuready import variables

ROLES = Path(__file__).parents[7] / "roles"
SPECS = {
    "gpuready": {"gpuready_workloads": {}},
    "nvidia_driver": {"nvidia_driver_branch": {}, "nvidia_driver_version": {}},
    "gpu_verify": {"gpu_verify_level": {}},
}


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("nvidia_driver_brnach", "did you mean nvidia_driver_branch?"),
        ("nvidia_driver_versoin", "did you mean nvidia_driver_version?"),
        ("gpuready_workload", "did you mean gpuready_workloads?"),
        ("gpu_verify_qqqqqqqqqqqqqqqqqqqqqq", "role gpu_verify has gpu_verify_level"),
    ],
)
def test_misspelt_variable_names_the_nearest(name, advice):
    found = variables.misspelt([name, "nvidia_driver_branch"], SPECS)
    assert found == [(name, f"unknown variable {name}: {advice}")]


def test_other_variables_are_nobodys_business():
    names = ["ntp_servers", "ansible_host", "__nvidia_driver_record", "nvidia_driver_branch", "nvidia_driver"]
    assert variables.misspelt(names, SPECS) == []
    assert variables.lookalikes(names, SPECS) == []


def test_slip_in_the_prefix_is_noticed():
    assert variables.lookalikes(["nvidia_drivers_branch"], SPECS) == [
        "the variable nvidia_drivers_branch is not read by anything here; did you mean nvidia_driver_branch?"
    ]


def test_specs_of_the_repository_hold_every_role():
    specs = variables.load_specs(ROLES)
    assert "gpuready_workloads" in specs["gpuready"]
    assert "gpu_verify_level" in specs["gpu_verify"]


@pytest.mark.parametrize(
    ("mirror", "address"),
    [
        ("gpulab-registry:5000", "gpulab-registry:5000"),
        ("mirror.example", "mirror.example:443"),
        ("mirror.example/docker/hub", "mirror.example:443"),
        ("http://mirror.example", "mirror.example:80"),
        ("https://mirror.example:8443/x", "mirror.example:8443"),
        ("[fd00::1]:5000", "[fd00::1]:5000"),
        ("[fd00::1]", "[fd00::1]:443"),
        ("http://me:pw@mirror.example:81/x", "mirror.example:81"),
    ],
)
def test_mirror_address_has_host_and_port(mirror, address):
    assert variables.registry_address(mirror) == address


def test_endpoints_follow_the_wishes():
    wishes = {"framework_image_registry_check_enabled": True, "framework_image_registry_mirror": "m:5000"}
    assert variables.endpoints(wishes) == [{"name": "registry", "address": "m:5000"}]
    assert (
        variables.endpoints({**wishes, "framework_image_registry_mirror": ""})[0]["address"]
        == variables.DOCKER_HUB
    )
    assert variables.endpoints({**wishes, "framework_image_archive": "/x.tar"}) == []
    assert variables.endpoints({**wishes, "framework_image_registry_check_enabled": False}) == []
