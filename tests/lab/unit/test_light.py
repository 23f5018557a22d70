"""Light nodes: what stands in for their engine, and what the machine gets back."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpulab import cli, engine, light, nodes, settings
from gpulab.errors import LabError
from gpulab.nodes import Node
from gpuready.observe import docker
from gpuready.observe.node import DockerError
from gpuready.observe.node import Node as Observed

STANDIN = settings.SOURCE / "files" / "light" / "usr" / "local" / "lib" / "gpulab" / "engine-standin"
ANSWERS = {
    "/info": {"ServerVersion": "20.10.24", "Runtimes": {"nvidia": {}, "runc": {}}, "DefaultRuntime": "runc"},
    "/images/json": [{"Id": "sha256:1", "RepoTags": ["tensorflow/tensorflow:2.9.0-gpu"], "Size": 4 << 20}],
    "/images/sha256%3A1/json": {"Config": {"Env": ["CUDA_VERSION=11.2.2"]}, "Architecture": "amd64"},
    "/containers/json?all=1": [],
    "/containers/json": [],
}


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The stand-in, with the socket that systemd would hand to it."""
    answers = tmp_path / "engine.json"
    answers.write_text(json.dumps(ANSWERS))
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.bind(str(tmp_path / "docker.sock"))
        waiting.listen()
        words = [STANDIN.name, str(answers)]
        handed = f"import os; os.dup2({waiting.fileno()}, 3); os.execv({str(STANDIN)!r}, {words})"
        running = subprocess.Popen(
            [sys.executable, "-c", handed],
            env={**os.environ, "LISTEN_FDS": "1"},
            pass_fds=(waiting.fileno(),),
        )
    try:
        yield str(tmp_path / "docker.sock"), running.pid
    finally:
        running.kill()
        running.wait()


def test_standin_answers_an_observation_as_the_engine_did(standin: tuple[str, int]) -> None:
    sock, pid = standin
    node = Observed()
    live, _ = docker.ask(node, sock)
    assert (live["reachable"], live["server_version"], live["runtimes"]) == (
        True,
        "20.10.24",
        ["nvidia", "runc"],
    )
    (image,) = docker.images(node, sock)
    assert (image["ref"], image["env"]) == ("tensorflow/tensorflow:2.9.0-gpu", {"CUDA_VERSION": "11.2.2"})
    assert docker.gpu_containers(node, sock) == []
    assert not node.problems
    with pytest.raises(DockerError, match="SIMULATED"):
        node.docker(sock, "/images/other/json")
    # A dockerd is known by its name.
    assert Path(f"/proc/{pid}/comm").read_text() == "dockerd\n"


def test_standin_survives_who_asks_and_goes(standin: tuple[str, int]) -> None:
    sock, _ = standin
    for text in (b"", b"GET /info", b"nonsense\r\n\r\n"):
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(sock)
            asking.sendall(text)
            time.sleep(0.05)
    assert docker.ask(Observed(), sock)[0]["reachable"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--light"], "--like"),
        (["--light", "--like", "a100", "--gpus", "t4"], "as its model"),
        (["--light", "--like", "a100", "--count", "0"], "--count is 0"),
        (["--like", "a100"], "for light nodes"),
    ],
)
def test_wrong_question_is_one_error(words: list[str], said: str) -> None:
    arguments = cli.parser().parse_args(["node-up", "many", *words])
    with pytest.raises(LabError, match=said):
        cli.verb_node_up(arguments)


def test_copy_keeps_its_models_configuration() -> None:
    assert light.own("etc/machine-id") and light.own("etc/ssh/ssh_host_ed25519_key")
    assert not light.own("etc/apt/sources.list.d/ubuntu.sources")


def test_machine_gets_its_limit_back_with_the_last_light_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "max_user_instances"
    limit.write_text("128\n")
    monkeypatch.setattr(light, "INOTIFY_LIMIT", limit)
    monkeypatch.setattr(settings, "run_dir", lambda: tmp_path)
    left = [Node("gpulab-many-1", "ubuntu-22.04", 22200, True, "light:gpulab-model")]
    monkeypatch.setattr(nodes, "all_nodes", lambda _: left)
    docker_ = engine.Docker("unix:///nowhere", True)
    light.raise_inotify_limit(64)
    assert int(limit.read_text()) == 128 + 64 * light.INOTIFY_EACH
    light.raise_inotify_limit(80)
    light.restore_inotify_limit(docker_)
    assert int(limit.read_text()) > 128
    left.clear()
    light.restore_inotify_limit(docker_)
    assert int(limit.read_text()) == 128
    light.restore_inotify_limit(docker_)
