#!/usr/bin/env python3
"""Offer the lab's small Python image under the framework image's name, at `gpulab-registry:5000/small`.

For tests in which an image only has to be fetched, removed and fetched again: with
`framework_image_registry_mirror: gpulab-registry:5000/small` a node pulls a few MB instead of 4 GB. Nothing
is verified with it, and it never appears where the real image is looked for.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "lab"))

from gpulab import engine, errors, registry, services, settings

MIRROR = f"{settings.REGISTRY}:5000/small"


def publish() -> str:
    """Copy the small image inside the registry: its blobs are mounted, only a manifest is written."""
    client = registry.Registry(services.registry_url(engine.require()))
    client.copy(settings.SLIM_IMAGE, f"small/{settings.TF_IMAGE}")
    return f"{MIRROR}/{settings.TF_IMAGE}"


if __name__ == "__main__":
    try:
        print(publish())
    except errors.LabError as error:
        sys.exit(f"small_image: {error}")
