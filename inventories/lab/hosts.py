#!/usr/bin/env python3
"""The lab's two nodes, as the running lab says they are reached (tests/lab/README.md).

The key, the pinned host keys and the ports are made when the lab starts, so they are read from .lab/ of
this checkout. While the lab is down the nodes are still listed (a playbook's syntax can be checked), and
whoever wants to connect is told what to do.
"""

import json
import sys
from pathlib import Path

NODES = ("gpulab-a100", "gpulab-t4")
DOT_LAB = Path(__file__).resolve().parents[2] / ".lab"


def reached(node):
    """Variables that lead to a running node."""
    # The lab makes the nodes' host keys, so they are known before the first connection.
    options = {
        "UserKnownHostsFile": node["known_hosts"],
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
    }
    return {
        "ansible_host": node["host"],
        "ansible_port": node["port"],
        "ansible_user": node["user"],
        "ansible_ssh_private_key_file": node["identity_file"],
        "ansible_ssh_common_args": " ".join(f"-o {name}={value}" for name, value in options.items()),
    }


def main():
    """Print the inventory as Ansible's script plugin reads it."""
    path = DOT_LAB / "lab.json"
    running = {node["name"]: node for node in json.loads(path.read_text())["nodes"]} if path.exists() else {}
    hint = "The lab is not up: run `make lab-up` first (there is no {} in {})."
    hostvars = {
        name: reached(running[name])
        if name in running
        else {"ansible_host": "{{ undef(hint='" + hint.format(name, path) + "') }}"}
        for name in NODES
    }
    json.dump({"gpu_nodes": {"hosts": list(NODES)}, "_meta": {"hostvars": hostvars}}, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
