"""What gpuready brought it takes away again: the node is as it was, file for file and package for package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kit import ROOT
from kit.runs import player
from living import Living

sys.path.insert(0, str(ROOT / "molecule" / "shared"))

from small_image import MIRROR, publish


@pytest.mark.parametrize(
    ("gpus", "os", "wishes"),
    [
        pytest.param("a100", "ubuntu-22.04", {}, id="ubuntu"),
        pytest.param("t4", "ubuntu-24.04", {"nvidia_driver_source": "cuda_repo"}, id="cuda-repo"),
        pytest.param("a100", "debian-12", {}, id="debian"),
    ],
)
def test_driver_alone_is_removed_without_a_trace(
    new: Callable[..., Living], gpus: str, os: str, wishes: dict[str, str]
) -> None:
    living = new(gpus=gpus, os=os)
    before = living.node.fingerprint().lasting()
    living.converge(**wishes)
    assert living.packages()
    run = living.play(entry_point="remove")
    assert run.rc == 0, run.output
    assert before.differences(living.node.fingerprint().lasting()) == []
    again = living.play(entry_point="remove")
    assert again.rc == 0, again.output
    assert again.changed(living.name) == 0


def test_whole_node_is_given_back(new: Callable[..., Living], tmp_path: Path) -> None:
    """With a daemon.json and a blacklist that its owner had before, and which must survive."""
    publish()
    living = new()
    node = living.node
    node.write("/etc/docker/daemon.json", '{"log-opts": {"max-size": "9m"}}\n')
    node.write("/etc/modprobe.d/owner.conf", "options dummy numdummies=2\n")
    node.sh("update-initramfs -u")  # as its owner would
    before = node.fingerprint().lasting()
    wishes = {
        "framework_image_registry_mirror": MIRROR,
        "docker_engine_daemon_config": {"insecure-registries": [MIRROR.partition("/")[0]]},
    }
    play = player(tmp_path, [node], {node.name: wishes})
    provisioned = play("playbooks/provision.yml")
    assert provisioned.rc == 0, provisioned.output
    assert before.differences(node.fingerprint().lasting()) != []
    removed = play("playbooks/remove.yml", variables={"images": True})
    assert removed.rc == 0, removed.output
    assert before.differences(node.fingerprint().lasting()) == []
    again = play("playbooks/remove.yml", variables={"images": True})
    assert again.rc == 0, again.output
    assert again.changed(node.name) == 0
