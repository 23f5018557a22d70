# Apache-2.0 (see LICENSE)
"""The workbenches (role gpu_workbench): what to configure, start and remove, and why."""

from __future__ import annotations

from .draft import Draft


def plan_workbench(work: Draft) -> None:
    return None
