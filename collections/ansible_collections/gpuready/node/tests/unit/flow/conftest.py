"""What the flow's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes import FAKE_DOCKER


@pytest.fixture
def fake_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder with a fake docker first in PATH; returns its state folder."""
    state = tmp_path / "docker"
    binaries = tmp_path / "bin"
    state.mkdir()
    binaries.mkdir()
    command = binaries / "docker"
    command.write_text(FAKE_DOCKER)
    command.chmod(0o755)
    monkeypatch.setenv("FAKE_DOCKER", str(state))
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    return state
