"""The state of monitoring and continuous verification (role gpu_health)."""

from __future__ import annotations

from typing import Any, Dict, Optional

from .node import Node


def health(node: Node) -> Optional[Dict[str, Any]]:
    return None
