"""Is nouveau loaded, and does modprobe's configuration keep it away?"""

from __future__ import annotations

import re
from typing import Any, Dict

from . import modprobe
from .node import Node

_BLOCKING = re.compile(
    r"^(blacklist\s+nouveau|install\s+nouveau\s+\S*/?(false|true)\b.*|options\s+nouveau\s+(.*\s)?modeset=0\b.*)$"
)
_CMDLINE = re.compile(
    r"(?:^|\s)(?:nouveau\.modeset=0|(?:modprobe\.blacklist|module_blacklist)=(?:\S*,)?nouveau(?:,\S*)?)(?=\s|$)"
)


def blocks_nouveau(text: str) -> bool:
    """One configuration file: comments and continued lines as modprobe reads them."""
    return any(_BLOCKING.match(line) for line in modprobe.lines(text))


def nouveau(node: Node) -> Dict[str, Any]:
    files = []
    seen = set()
    for path in modprobe.config_files(node):
        real = node.real(path)  # /lib and /usr/lib are often one
        if real in seen:
            continue
        seen.add(real)
        if blocks_nouveau(node.text(path) or ""):
            files.append(path)
    if _CMDLINE.search(node.text("/proc/cmdline") or ""):
        files.append("/proc/cmdline")
    return {"loaded": node.exists("/sys/module/nouveau"), "blacklisted": bool(files), "files": files}
