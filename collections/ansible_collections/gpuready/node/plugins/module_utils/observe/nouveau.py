"""Is nouveau loaded, and does modprobe's configuration keep it away?"""

from __future__ import annotations

import re
from typing import Any, Dict, List

from .node import Node

# The first directory that has a file of some name masks the others (modprobe.d(5)).
DIRECTORIES = (
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
)
_BLOCKING = re.compile(
    r"^(blacklist\s+nouveau|install\s+nouveau\s+\S*/?(false|true)\b.*|options\s+nouveau\s+(.*\s)?modeset=0\b.*)$"
)
_CMDLINE = re.compile(
    r"(?:^|\s)(?:nouveau\.modeset=0|(?:modprobe\.blacklist|module_blacklist)=(?:\S*,)?nouveau(?:,\S*)?)(?=\s|$)"
)


def config_files(node: Node) -> List[str]:
    chosen: Dict[str, str] = {}
    for directory in DIRECTORIES:
        for name in node.listdir(directory):
            if name.endswith(".conf"):
                chosen.setdefault(name, "%s/%s" % (directory, name))
    return [chosen[name] for name in sorted(chosen)]


def blocks_nouveau(text: str) -> bool:
    """One configuration file: comments and continued lines as modprobe reads them."""
    joined = re.sub(r"\\\n", " ", text)
    return any(_BLOCKING.match(" ".join(line.split())) for line in joined.splitlines())


def nouveau(node: Node) -> Dict[str, Any]:
    files = []
    seen = set()
    for path in config_files(node):
        real = node.real(path)  # /lib and /usr/lib are often one
        if real in seen:
            continue
        seen.add(real)
        if blocks_nouveau(node.text(path) or ""):
            files.append(path)
    if _CMDLINE.search(node.text("/proc/cmdline") or ""):
        files.append("/proc/cmdline")
    return {"loaded": node.exists("/sys/module/nouveau"), "blacklisted": bool(files), "files": files}
