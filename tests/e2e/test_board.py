"""The live board while a real node is provisioned: packages, what fails at once, the bytes of a real pull."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import BIN, ROOT
from kit.nodes import Node
from kit.runs import environment, inventory_file
from kit.terminal import watch

sys.path.insert(0, str(ROOT / "molecule" / "shared"))

import small_image

#: Nobody answers there.
GONE = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_user": "nobody"}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A bare node."""
    made = Node.up("e2e-board")
    yield made
    made.down()


def test_board_shows_a_provisioning_with_packages_and_failures(node: Node, tmp_path: Path) -> None:
    small_image.publish()
    inventory = inventory_file(tmp_path / "nodes.json", [node], {"gpu-gone": GONE})
    wanted = {
        **environment(tmp_path / "report"),
        "TERM": "xterm-256color",
        "GPUREADY_BOARD": "auto",
    }
    for name in ("CI", "ANSIBLE_NOCOLOR"):
        wanted.pop(name, None)
    seen = watch(
        [
            f"{BIN}/ansible-playbook",
            "playbooks/provision.yml",
            *("-i", "inventories/lab", "-i", str(inventory)),
            *("--limit", f"{node.name},gpu-gone"),
            *("-e", f"framework_image_registry_mirror={small_image.MIRROR}"),
        ],
        cwd=ROOT,
        environ=wanted,
        columns=150,
        rows=40,
        timeout=900,
    )
    pictures = Path(os.environ.get("GPUREADY_PICTURES", ROOT / "artifacts" / "pictures"))
    pictures.mkdir(parents=True, exist_ok=True)
    (pictures / "board.txt").write_text(seen.text, encoding="utf-8")
    row = rf"^{node.name} "
    # Unreachable, and said at once: the other node had not got further than its first stage.
    failing = next(
        screen
        for screen in seen.screens
        if any(line.startswith("gpu-gone") and "✘" in line for line in screen)
    )
    assert any("unreachable" in line for line in failing)
    assert not any("Install" in line for line in failing)
    assert "UNREACHABLE!" in seen.text
    # What the plan has ahead, and then what is done, stage by stage.
    assert seen.ever(row + r".*✔.*·.*·"), seen.text
    assert seen.ever(row + r".*Install the driver's packages · [\d.]+ of \d+ packages · \d+ %"), seen.text
    assert seen.ever(
        r"^provision\.yml · Provision · .*simulated GPUs · \d+:\d\d · 2 nodes: 1 failed, 1 running"
    )
    # The report follows the board, which stays as it was at last.
    text = seen.text
    assert text.index("provision.yml · Provision ·") < text.index("PLAY RECAP") < text.rindex("GPUREADY")
    assert text.count("provision.yml · Provision ·") == 1
    assert seen.screen.cursor.hidden is False
    assert seen.status == 4


PULL = """
import json, os, sys
sys.path.insert(0, "/root/told")
from gpuready_progress import docker_progress, progress
step = progress.Step("image_fetch", "bytes")
seen = []
told = docker_progress.Told(step, "image")
def tell(pull):
    told(pull)
    seen.append([pull.fetched, pull.size, pull.unpacked, pull.complete])
code, out, err = docker_progress.pull(["docker", "pull", sys.argv[1]], dict(os.environ), tell)
print(json.dumps({"code": code, "out": out, "err": err, "seen": seen}))
"""


def test_real_docker_says_the_bytes_of_a_pull(node: Node) -> None:
    """With the node's own Python, its Docker and its registry, after the playbook above."""
    image = small_image.publish()
    utils = ROOT / "collections/ansible_collections/gpuready/node/plugins/module_utils"
    for name in ("progress", "docker_progress"):
        node.write(f"/root/told/gpuready_progress/{name}.py", (utils / f"{name}.py").read_text())
    node.write("/root/told/gpuready_progress/__init__.py", "")
    node.write("/root/told/pull.py", PULL)
    node.sh("docker image prune --all --force")
    told = json.loads(node.sh(f"python3 /root/told/pull.py {image}"))
    assert told["code"] == 0, told
    fetched, size, unpacked, complete = told["seen"][-1]
    # 176 MiB, uncompressed in the lab's registry.
    assert complete and fetched == size == unpacked > 150e6
    # It only grows, and nothing is left behind.
    assert told["seen"] == sorted(told["seen"], key=lambda one: one[0])
    assert "Downloaded newer image" in told["out"] and not told["err"]
    refused = json.loads(node.sh(f"python3 /root/told/pull.py {image}-none"))
    assert refused["code"] != 0 and "not found" in refused["err"] and refused["seen"][-1][1] is None
