"""Each bad input of the project's contract is refused: one clear error, and the node stays as it was.

The error must name the value, the place (variable or file) and a way out. The node is bare, so that anything
that the run did in spite of the refusal would show in its fingerprint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kit import fingerprint
from kit.nodes import labctl
from kit.runs import Player, play


@dataclass(frozen=True)
class Refusal:
    """One bad input: how it comes about, and what the error must say."""

    name: str
    says: tuple[str, ...]
    variables: dict[str, Any] = field(default_factory=dict)
    damage: str = ""
    undo: str = ""
    fault: str = ""  # of the lab's hardware


def daemon_json(text: str) -> dict[str, str]:
    """Put a daemon.json on the bare node, and take it away again."""
    return {
        "damage": f"mkdir -p /etc/docker && printf '%s' '{text}' > /etc/docker/daemon.json",
        "undo": "rm -rf /etc/docker",
    }


REFUSALS = (
    Refusal(
        "unknown_workload",
        (r"tensorflw-2\.9", "gpuready_workloads", r"tensorflow-2\.9"),
        {"gpuready_workloads": ["tensorflw-2.9"]},
    ),
    Refusal(
        "unknown_branch", (r"\b999\b", "nvidia_driver_branch", r"\b580\b"), {"nvidia_driver_branch": "999"}
    ),
    Refusal(
        "version_that_apt_cannot_install",
        (r"580\.1\.1", "nvidia_driver_version", r"580\.\d{2,}\.\d+"),
        {"nvidia_driver_version": "580.1.1"},
    ),
    Refusal(
        "driver_below_the_workloads_floor",
        (r"450\.51\.06", "nvidia_driver_version", r"460\.27"),
        {"nvidia_driver_version": "450.51.06"},
    ),
    Refusal(
        "misspelt_variable", ("nvidia_driver_brnch", "nvidia_driver_branch"), {"nvidia_driver_brnch": "580"}
    ),
    Refusal("unknown_flavour", ("opne", "nvidia_driver_flavour", "open"), {"nvidia_driver_flavour": "opne"}),
    Refusal(
        "wrong_key_fingerprint",
        ("0{40}", "nvidia_container_toolkit_repo_key_fingerprint"),
        {"nvidia_container_toolkit_repo_key_fingerprint": ["0" * 40]},
    ),
    Refusal(
        "unreachable_registry",
        (r"gpulab-registry:1\b", "framework_image_registry_mirror"),
        {"framework_image_registry_mirror": "gpulab-registry:1"},
    ),
    Refusal(
        "daemon_json_that_is_not_json",
        ("/etc/docker/daemon.json", r"line \d+"),
        **daemon_json('{"log-driver": "json-file",\n}'),
    ),
    Refusal(
        "daemon_json_that_is_not_an_object", ("/etc/docker/daemon.json", "object"), **daemon_json("[1, 2]")
    ),
    Refusal(
        "daemon_json_with_another_nvidia_runtime",
        ("/etc/docker/daemon.json", r"runtimes\.nvidia", "/opt/mine/nvidia-container-runtime"),
        **daemon_json('{"runtimes": {"nvidia": {"path": "/opt/mine/nvidia-container-runtime"}}}'),
    ),
    Refusal(
        "unsupported_os_release",
        (r"16\.04", r"22\.04"),
        damage="cp -a --remove-destination $(readlink -f /etc/os-release) /root/os-release.kept && "
        "sed -i 's/22\\.04/16.04/; s/jammy/xenial/' $(readlink -f /etc/os-release)",
        undo="cat /root/os-release.kept > $(readlink -f /etc/os-release)",
    ),
    Refusal("no_nvidia_gpu", ("NVIDIA GPU", "PCI"), fault="gpu_off_bus"),
    Refusal(
        "too_little_disk",
        (r"\d+ MiB are free at /var/lib/docker", r"\d+ MiB are needed", "data-root"),
        damage="mount -t tmpfs -o size=200m tmpfs /var/lib/docker",
        undo="umount /var/lib/docker",
    ),
)


@contextmanager
def bad_input(host: Any, case: Refusal, node: str) -> Iterator[None]:
    """Bring the node into the case's state, and back."""
    if case.damage:
        host.check_output(case.damage)
    if case.fault:
        labctl("fault", node, f"{case.fault}=true")
    try:
        yield
    finally:
        if case.undo:
            host.check_output(case.undo)
        if case.fault:
            labctl("fault", node, f"{case.fault}=false")


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.name)
def test_bad_input_is_refused_and_nothing_changed(host: Any, site: Player, case: Refusal) -> None:
    node = host.backend.host
    with bad_input(host, case, node):
        before = fingerprint.take(host.check_output)
        run = site("playbooks/provision.yml", limit=[node], variables=case.variables)
        after = fingerprint.take(host.check_output)
    assert run.rc != 0, run.output
    assert before.differences(after) == [], run.output
    assert run.changed(node) == 0, run.output
    missing = [pattern for pattern in case.says if not re.search(pattern, run.said)]
    assert missing == [], run.output
    assert "Traceback" not in run.output
    # One error, not a cascade of them.
    assert run.output.count("[ERROR]: Task failed") <= 1, run.output


def test_mistyped_inventory_is_an_error_and_no_empty_run(tmp_path: Path) -> None:
    run = play("site.yml", tmp_path, inventories=["labb"])
    assert run.rc != 0
    assert "labb" in run.output
    assert "PLAY RECAP" not in run.output or "ok=" not in run.output


def test_unreachable_host_does_not_stop_the_others(host: Any, site: Player, tmp_path: Path) -> None:
    down = tmp_path / "down.yml"
    down.write_text(
        "gpu_nodes:\n"
        "  hosts:\n"
        "    down:\n"
        "      ansible_host: 127.0.0.1\n"
        "      ansible_port: 9\n"
        "      ansible_connection: ssh\n",
        encoding="utf-8",
    )
    node = host.backend.host
    before = fingerprint.take(host.check_output)
    run = site("playbooks/plan.yml", inventories=[*site.inventories, down])
    assert run.rc != 0, "a fleet with a host that is down is not a success"
    assert run.count("dark", "down") == 1, run.output
    assert not run.failed(node), run.output
    assert "driver.install" in run.output, "the node that is up must still be planned"
    assert before.differences(fingerprint.take(host.check_output)) == []
