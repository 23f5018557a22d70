# Apache-2.0 (see LICENSE)
"""NVML's Python bindings (nvidia-ml-py): those of a node, else the controller's, handed over as text.

Runs on nodes (Python 3.8); `pack` runs on the controller.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import os
import sys
import types
import zlib
from typing import Any, Optional

#: Where gpuready's own monitoring keeps them on a node.
FOLDER = "/usr/local/lib/gpuready"
#: What has to be there; very old bindings have not.
_NEEDED = ("nvmlInit", "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetProcessUtilization", "NVMLError")


class NoBindings(Exception):
    """Nobody has them, in one sentence."""


def pack() -> str:
    """The controller's bindings as text that fits into a module's arguments."""
    found = importlib.util.find_spec("pynvml")
    if found is None or not found.origin or not found.origin.endswith(".py"):
        raise NoBindings(
            "NVML's Python bindings are not installed beside Ansible: install nvidia-ml-py (make env does it)"
        )
    with open(found.origin, "rb") as handle:
        return base64.b64encode(zlib.compress(handle.read(), 9)).decode("ascii")


def _usable(module: Any) -> bool:
    return all(hasattr(module, name) for name in _NEEDED)


def _imported(folder: Optional[str] = None) -> Any:
    """pynvml off Python's path, or out of a folder; None where it is missing or broken."""
    if folder is not None and not os.path.isfile(os.path.join(folder, "pynvml.py")):
        return None
    try:
        if folder is not None:
            sys.path.insert(0, folder)
        try:
            module = importlib.import_module("pynvml")
        finally:
            if folder is not None:
                sys.path.remove(folder)
    except Exception:  # not only ImportError: a broken pynvml is as good as none
        sys.modules.pop("pynvml", None)
        return None
    return module if _usable(module) else None


def find(handed: Optional[str] = None, folder: str = FOLDER) -> Any:
    """The bindings as a module: gpuready's own on the node, the node's, or those that were handed over."""
    found = _imported(folder) or _imported()
    if found is None and handed:
        text = zlib.decompress(base64.b64decode(handed))
        found = types.ModuleType("pynvml")
        # Their own code looks itself up by this name.
        sys.modules["pynvml"] = found
        exec(compile(text, "pynvml.py", "exec"), found.__dict__)
    if found is None:
        raise NoBindings(
            "this node has no NVML bindings for Python (nvidia-ml-py), and none were handed over"
        )
    return found
