"""modprobe's configuration: what it blocks, and which module it loads under a name."""

from __future__ import annotations

import re
from typing import Dict, List, Optional

from .node import Node

# The first directory that has a file of some name masks the others (modprobe.d(5)).
DIRECTORIES = (
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
)
# Debian: "install nvidia modprobe -i nvidia-current $CMDLINE_OPTS"
_INSTALL = re.compile(
    r"^install\s+(?P<name>\S+)\s+(?:\S*/)?modprobe\s+(?:-\S+\s+)*(?P<module>[A-Za-z0-9][\w-]*)(?:\s+\$CMDLINE_OPTS)?$"
)


def config_files(node: Node) -> List[str]:
    chosen: Dict[str, str] = {}
    for directory in DIRECTORIES:
        for name in node.listdir(directory):
            if name.endswith(".conf"):
                chosen.setdefault(name, "%s/%s" % (directory, name))
    return [chosen[name] for name in sorted(chosen)]


def lines(text: str) -> List[str]:
    """One configuration file, with continued lines and blanks as modprobe reads them."""
    return [" ".join(line.split()) for line in re.sub(r"\\\n", " ", text).splitlines()]


def module_behind(node: Node, name: str) -> Optional[str]:
    """The module that `modprobe name` loads by an install line; null when there is none of that kind."""
    for path in config_files(node):
        for line in lines(node.text(path) or ""):
            match = _INSTALL.match(line)
            if match and match.group("name") == name:
                return match.group("module")
    return None
