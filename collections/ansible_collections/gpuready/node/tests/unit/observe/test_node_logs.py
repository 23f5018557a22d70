"""The logs that a support bundle takes from a node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from gpuready.node_logs import UNITS, read
from gpuready.observe.node import MissingTool, Node, ProbeError, Result


def runner(argv: Sequence[str]) -> Result:
    if argv[0] == "journalctl":
        unit = argv[argv.index("--unit") + 1]
        return Result(0, f"line of {unit}\n" if unit != "containerd" else "", "")
    if tuple(argv) == ("nvidia-smi",):
        return Result(9, "NVIDIA-SMI has failed\n", "")
    if argv[0] == "nvidia-smi":
        raise ProbeError("nvidia-smi -q did not answer in 20 s")
    if argv[0] == "dpkg":
        return Result(1, "ii  nvidia-utils-580 1\n", "dpkg-query: no packages found matching cuda-*\n")
    raise MissingTool(f"{argv[0]} is not installed")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "var/log/apt/history.log": "".join(f"line {number}\n" for number in range(1000)),
        "var/lib/dkms/nvidia/580.95.05/build/make.log": "make: *** [Makefile] Error 2\n",
        "var/log/own/app.log": "mine\n",
        "var/log/nvidia-installer.log": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_reads_the_ends_of_what_is_there_and_says_what_failed(root: Path) -> None:
    found, problems = read(Node(root=str(root), run=runner), lines=10, paths=["/var/log/own/*.log", "/none"])
    assert found["journal-docker"] == "line of docker"
    assert "journal-containerd" not in found
    assert found["apt-history.log"].split("\n")[0] == "line 990"
    assert "Error 2" in found["dkms-nvidia-580.95.05-build-make.log"]
    assert found["own-app.log"] == "mine"
    assert found["nvidia-smi"] == "NVIDIA-SMI has failed"
    assert "no packages found" in found["dpkg-list"]
    assert "lspci" not in found and "nvidia-installer.log" not in found
    assert problems == [
        {"log": "/none", "error": "no such file"},
        {"log": "nvidia-smi-query", "error": "nvidia-smi -q did not answer in 20 s"},
    ]


def test_a_node_without_a_journal_is_asked_once(root: Path) -> None:
    asked = []

    def without(argv: Sequence[str]) -> Result:
        asked.append(argv[0])
        raise MissingTool(f"{argv[0]} is not installed")

    read(Node(root=str(root), run=without), lines=10)
    assert asked.count("journalctl") == 1 < len(UNITS)
