"""Nodes of the lab as execution nodes: what they get, and how others are reached from them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .nodes import Node, engine_environment

#: pip of the package python3-venv, without the time that a new environment takes to install its own.
INSTALL = """
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -qy install --no-install-recommends python3-venv openssh-client
python3 -m venv --without-pip /opt/runner
pip=$(ls /usr/share/python-wheels/pip-*.whl)
python3 "$pip/pip" --python /opt/runner/bin/python install --no-compile --quiet \
    --index-url http://gpulab-mirror/pypi/simple/ --trusted-host gpulab-mirror \
    'ansible-core>=2.19,<2.20' 'ansible-runner>=2.4,<3' 'nvidia-ml-py>=12.560'
"""


def address(node: Node) -> str:
    """A node's address in the lab's network."""
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return subprocess.run(
        ["docker", "inspect", "-f", form, node.name],
        env=engine_environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def pinned(nodes: list[Node]) -> str:
    """The nodes' host keys, which the lab knows by their ports, by their addresses."""
    keys = dict(
        line.split(" ", 1)
        for line in Path(nodes[0].connection["known_hosts"]).read_text(encoding="utf-8").splitlines()
    )
    lines = []
    for node in nodes:
        place = f"[{node.connection['host']}]:{node.connection['port']}"
        lines.append(f"{address(node)} {keys[place]}\n")
    return "".join(lines)
