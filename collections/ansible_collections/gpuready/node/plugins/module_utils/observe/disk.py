"""Free space where GPU stacks run out of it."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Dict, List, Optional

from .node import Node

MIB = 1024 * 1024


def space(node: Node, path: str) -> Dict[str, Any]:
    """The file system that holds the path, or that would if it existed."""
    existing = path
    while not node.exists(existing) and existing != "/":
        existing = os.path.dirname(existing)
    found = node.statvfs(existing)
    return {
        "path": path,
        "total_mib": found.f_blocks * found.f_frsize // MIB,
        "free_mib": found.f_bavail * found.f_frsize // MIB,
    }


def disk(node: Node, docker_root: Optional[str]) -> List[Dict[str, Any]]:
    paths = ["/", docker_root or "/var/lib/docker", "/var"]
    paths += [path for path in ("/boot", "/var/lib/containerd") if node.is_dir(path)]
    found = []
    for path in paths:
        facts = node.attempt("disk", partial(space, node, path))
        if facts is not None:
            found.append(facts)
    return found
