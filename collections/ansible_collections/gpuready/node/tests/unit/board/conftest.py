"""A project folder of its own for each test, to be played on a terminal or without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from terminals import Terminal


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)
