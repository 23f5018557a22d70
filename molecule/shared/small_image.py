#!/usr/bin/env python3
"""Offer the lab's small Python image under the framework image's name, at `gpulab-registry:5000/small`.

For tests in which an image only has to be fetched, removed and fetched again: with
`framework_image_registry_mirror: gpulab-registry:5000/small` a node pulls a few MB instead of 4 GB. Nothing
is verified with it, and it never appears where the real image is looked for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "lab"))

from gpulab import engine, registry, services, settings

MIRROR = f"{settings.REGISTRY}:5000/small"


def publish() -> str:
    """Copy the small image inside the registry: its blobs are mounted, only a manifest is written."""
    client = registry.Registry(services.registry_url(engine.require()))
    source, tag = registry.split_reference(settings.SLIM_IMAGE)
    target, target_tag = registry.split_reference(f"small/{settings.TF_IMAGE}")
    kind = {"Accept": registry.MANIFEST}
    status, _, manifest = client.call("GET", f"/v2/{source}/manifests/{tag}", headers=kind)
    if status != 200:
        sys.exit(
            f"the lab's registry has no {settings.SLIM_IMAGE} (it answers {status}): run `make lab` first"
        )
    content = json.loads(manifest)
    for blob in [content["config"], *content["layers"]]:
        mount = f"/v2/{target}/blobs/uploads/?mount={blob['digest']}&from={source}"
        client.expect(201, "POST", mount, headers={"Content-Length": "0"})
    client.expect(
        201, "PUT", f"/v2/{target}/manifests/{target_tag}", manifest, {"Content-Type": registry.MANIFEST}
    )
    return f"{MIRROR}/{settings.TF_IMAGE}"


if __name__ == "__main__":
    print(publish())
