# Apache-2.0 (see LICENSE)
"""The derived images (role framework_image, `framework_image_recipes`): what to build, and why."""

from __future__ import annotations

from .draft import Draft


def plan_recipes(work: Draft) -> None:
    return None
