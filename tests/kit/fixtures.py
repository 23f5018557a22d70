"""Fixtures for suites that reach their nodes by testinfra; a conftest imports those it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .runs import Player


@pytest.fixture(scope="module")
def host(_testinfra_host: Any) -> Iterator[Any]:
    """The node, asked as root whoever the inventory logs in as."""
    if _testinfra_host.check_output("id -u") == "0":
        yield _testinfra_host
        return
    with _testinfra_host.sudo():
        yield _testinfra_host


@pytest.fixture(scope="session")
def inventory(request: pytest.FixtureRequest) -> str:
    """The inventory that the hosts come from."""
    return str(Path(request.config.option.ansible_inventory).resolve())


@pytest.fixture(scope="session")
def site(inventory: str, tmp_path_factory: pytest.TempPathFactory) -> Player:
    """Play a playbook on that inventory."""
    return Player(tmp_path_factory.mktemp("runs"), (inventory,))
