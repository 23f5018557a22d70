"""Python environments that gpuready made on the node (role framework_venv)."""

from __future__ import annotations

from typing import Any, Dict, List

from .node import Node


def venvs(node: Node) -> List[Dict[str, Any]]:
    return []
