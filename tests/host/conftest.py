"""Fixtures for the host suite: what the inventory wishes for, without knowing which inventory it is.

Run it against any converged inventory, the lab's or a production one::

    pytest tests/host --hosts=ansible://gpu_nodes --ansible-inventory=lab

The suite only reads, but for one short container per workload. It needs root on the nodes, by login or sudo.
``-m nvidia_driver`` picks the tests of one role.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from kit.fixtures import host

__all__ = ["host"]

ROLES = {
    "node_access": "who gets into an onboarded node, and by what",
    "host_prepare": "what the role host_prepare leaves on a node",
    "nvidia_driver": "what the role nvidia_driver leaves on a node",
    "docker_engine": "what the role docker_engine leaves on a node",
    "nvidia_container_toolkit": "what the role nvidia_container_toolkit leaves on a node",
    "framework_image": "what the role framework_image leaves on a node",
    "framework_venv": "what the role framework_venv leaves on a node",
    "gpu_workbench": "what the users of workbenches meet",
    "gpu_verify": "what a user of the finished node sees",
    "gpu_acceptance": "what an accepted node's record says, and what it left on the node",
    "gpu_health": "what the role gpu_health leaves on a node, and what it sees",
}


def pytest_configure(config: pytest.Config) -> None:
    """Register one marker per role; the markers are the suite's own."""
    for name, text in ROLES.items():
        config.addinivalue_line("markers", f"{name}: {text}")


@pytest.fixture(scope="module")
def wished(host: Any) -> Callable[[str, Any], Any]:
    """Return a reader of inventory variables: ``wished("nvidia_driver_hold_enabled", True)``.

    The second argument is what counts where the inventory is silent, which is the role's default.
    A value that is a template is rendered by Ansible itself.
    """
    variables: dict[str, Any] = {}
    if host.backend.get_connection_type() == "ansible":
        variables = host.ansible.get_variables()

    def read(name: str, default: Any) -> Any:
        value = variables.get(name, default)
        if "{{" in json.dumps(value):
            value = host.ansible("ansible.builtin.debug", f"var={name}", check=False)[name]
        return value

    return read
