"""The image that most of the fault lab's nodes run: the lab's small one with a stand-in for TensorFlow.

It says that it is simulated, answers verification's probe as TensorFlow 2.9.0 would, and is 45 times smaller
than the real image; nodes get it as `tensorflow/tensorflow:2.9.0-gpu` by their mirror option.
"""

from __future__ import annotations

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
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        shutil.copytree(SOURCE, tree / PACKAGES, ignore=shutil.ignore_patterns("__pycache__"))
        make_libraries(tree / "usr" / "local" / "cuda" / "lib64")
        client.copy(
            settings.SLIM_IMAGE,
            f"standin/{settings.TF_IMAGE}",
            tree=tree,
            comment="a stand-in for TensorFlow (SIMULATED)",
            env=["LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64:/usr/local/cuda/lib64"],
        )
    return f"{MIRROR}/{settings.TF_IMAGE}"
