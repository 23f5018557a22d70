"""The workbenches on the node (role gpu_workbench)."""

from __future__ import annotations

from typing import Any, Dict, List

from .node import Node


def workbenches(node: Node) -> List[Dict[str, Any]]:
    return []
