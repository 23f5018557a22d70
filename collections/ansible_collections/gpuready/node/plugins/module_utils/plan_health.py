# Apache-2.0 (see LICENSE)
"""Monitoring and continuous verification (role gpu_health): what to set up, and why."""

from __future__ import annotations

from .draft import Draft


def plan_health(work: Draft) -> None:
    return None
