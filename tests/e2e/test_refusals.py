"""Bad input meets one clear error, and nothing on the node changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kit import LAB
from kit.nodes import Node
from kit.runs import inventory_file, play

MIRROR_KEY = "A" * 40


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        pytest.param({"gpuready_workloads": ["tensorflw-2.9"]}, "tensorflw-2.9", id="unknown-workload"),
        pytest.param({"nvidia_driver_branch": "123"}, "123", id="unknown-branch"),
        pytest.param(
            {"nvidia_driver_version": "580.11.22"}, "580.95.05", id="version-that-apt-does-not-have"
        ),
        pytest.param(
            {"nvidia_driver_version": "450.51.05"}, "460.27", id="version-below-the-workloads-floor"
        ),
        pytest.param(
            {"nvidia_driver_brnach": "580"}, "did you mean nvidia_driver_branch?", id="misspelt-variable"
        ),
        pytest.param({"nvidia_driver_flavour": "opne"}, "nvidia_driver_flavour", id="unknown-flavour"),
        pytest.param(
            {"framework_image_registry_mirror": "127.0.0.1:1"}, "127.0.0.1:1", id="unreachable-registry"
        ),
        pytest.param({"gpu_verify_launch": "cdi"}, "CDI", id="launch-that-this-docker-does-not-have"),
        pytest.param({"docker_engine_version": "1.2.3"}, "1.2.3", id="docker-version-that-apt-does-not-have"),
    ],
)
def test_wish_that_cannot_be_met_is_refused(refused, variables, says):
    refused(variables=variables, says=says)


def test_wrong_key_fingerprint_is_refused_before_the_source_is_there(refused, bare_node):
    run = refused(variables={"nvidia_container_toolkit_repo_key_fingerprint": [MIRROR_KEY]}, says=MIRROR_KEY)
    assert run.node(bare_node.name)["status"] == "failed"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param('{"runtimes": {', "daemon.json", id="not-json"),
        pytest.param('["a"]', "daemon.json", id="not-an-object"),
        pytest.param(
            json.dumps({"runtimes": {"nvidia": {"path": "/opt/other/runtime"}}}),
            "/opt/other/runtime",
            id="another-nvidia-runtime",
        ),
    ],
)
def test_daemon_json_that_is_not_ours_to_change_is_refused(refused, bare_node, text, says):
    bare_node.write("/etc/docker/daemon.json", text)
    try:
        refused(says=says)
    finally:
        bare_node.sh("rm -r /etc/docker")


def test_unsupported_release_is_refused(refused, bare_node):
    real = bare_node.sh("cat /etc/os-release")
    old = real.replace("22.04", "16.04").replace("=jammy", "=xenial")
    assert old != real
    bare_node.write("/etc/os-release", old)
    try:
        refused(says="16.04")
    finally:
        bare_node.write("/etc/os-release", real)


def test_node_without_gpu_is_refused(refused):
    node = Node.up("e2e-nogpu", gpus="")
    try:
        refused(node=node, says="GPU")
    finally:
        node.down()


def test_inventory_typo_is_an_error(bare_node, tmp_path: Path):
    run = play("site.yml", tmp_path, inventories=("labb",))
    assert run.rc != 0
    assert "labb" in run.output


def test_misspelt_variable_in_a_file_is_shown_where_it_stands(bare_node, tmp_path: Path):
    inventory = inventory_file(tmp_path / "one.json", [bare_node])
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / f"{bare_node.name}.yml").write_text("---\nnvidia_driver_versoin: '580'\n")
    run = play("site.yml", tmp_path, inventories=(LAB, inventory), limit=[bare_node.name])
    assert run.rc != 0
    assert "did you mean nvidia_driver_version?" in run.output
    assert f"host_vars/{bare_node.name}.yml:2" in run.output
