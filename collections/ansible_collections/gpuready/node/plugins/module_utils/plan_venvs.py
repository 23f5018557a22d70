# Apache-2.0 (see LICENSE)
"""Python environments on the host (role framework_venv): what to install, and why."""

from __future__ import annotations

from .draft import Draft


def plan_venvs(work: Draft) -> None:
    return None
