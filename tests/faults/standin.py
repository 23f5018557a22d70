"""The image that most of the fault lab's nodes run: the lab's small one with a stand-in for TensorFlow.

It says that it is simulated, answers verification's probe as TensorFlow 2.9.0 would, and is 45 times smaller
than the real image; nodes get it as `tensorflow/tensorflow:2.9.0-gpu` by their mirror option.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kit import ROOT

sys.path.insert(0, str(ROOT / "tests" / "lab"))

from gpulab import engine, registry, services, settings

MIRROR = f"{settings.REGISTRY}:5000/standin"
SOURCE = Path(__file__).resolve().parent / "image"
#: Every Debian and Ubuntu has it on Python's path.
PACKAGES = "usr/lib/python3/dist-packages"


#: What TensorFlow 2.9 opens by name.
LIBRARIES = (
    "libcudart.so.11.0",
    "libcublas.so.11",
    "libcublasLt.so.11",
    "libcufft.so.10",
    "libcurand.so.10",
    "libcusolver.so.11",
    "libcusparse.so.11",
    "libcudnn.so.8",
)


def make_libraries(folder: Path) -> None:
    """Libraries of the right names, with nothing in them."""
    folder.mkdir(parents=True)
    for name in LIBRARIES:
        command = ["gcc", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", "-o", folder / name]
        subprocess.run([*command, f"-Wl,-soname,{name}"], input="int simulated;\n", text=True, check=True)


def publish() -> str:
    """Put the image into the lab's registry: the small image's layers are mounted, and one is added."""
    client = registry.Registry(services.registry_url(engine.require()))
    source, tag = registry.split_reference(settings.SLIM_IMAGE)
    target, target_tag = registry.split_reference(f"standin/{settings.TF_IMAGE}")
    kind = {"Accept": registry.MANIFEST}
    status, _, text = client.call("GET", f"/v2/{source}/manifests/{tag}", headers=kind)
    if status != 200:
        sys.exit(f"the lab's registry has no {settings.SLIM_IMAGE} (it answers {status}): run labctl up")
    manifest = json.loads(text)
    status, _, text = client.call("GET", f"/v2/{source}/blobs/{manifest['config']['digest']}")
    config = json.loads(text)
    for blob in manifest["layers"]:
        mount = f"/v2/{target}/blobs/uploads/?mount={blob['digest']}&from={source}"
        client.expect(201, "POST", mount, headers={"Content-Length": "0"})
    with tempfile.TemporaryDirectory() as folder:
        packages = Path(folder) / PACKAGES
        shutil.copytree(SOURCE, packages, ignore=shutil.ignore_patterns("__pycache__"))
        make_libraries(Path(folder) / "usr" / "local" / "cuda" / "lib64")
        (layer,) = registry.tree_layers(Path(folder), "a stand-in for TensorFlow (SIMULATED)")
        client.upload_stream(target, layer)
    config["rootfs"]["diff_ids"].append(layer.digest)
    config["config"]["Env"].append(
        "LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64:/usr/local/cuda/lib64"
    )
    config.setdefault("history", []).append({"created_by": f"gpulab: {layer.comment}"})
    data = json.dumps(config).encode()
    digest = client.upload(target, data)
    manifest["config"] = {"mediaType": registry.CONFIG, "digest": digest, "size": len(data)}
    manifest["layers"].append({"mediaType": registry.LAYER, "digest": layer.digest, "size": layer.size})
    client.expect(
        201,
        "PUT",
        f"/v2/{target}/manifests/{target_tag}",
        json.dumps(manifest).encode(),
        {"Content-Type": registry.MANIFEST},
    )
    return f"{MIRROR}/{settings.TF_IMAGE}"
