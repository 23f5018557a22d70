"""NVIDIA's container toolkit, and whether the running dockerd knows it."""

from __future__ import annotations

import re
import time
from typing import Any, Dict, Optional

from .docker import Process
from .node import Node, ProbeError

BINARIES = (
    "nvidia-ctk",
    "nvidia-container-runtime",
    "nvidia-container-runtime-hook",
    "nvidia-cdi-hook",
    "nvidia-container-cli",
)
HOOK = "nvidia-container-runtime-hook"
_DPKG_LOG = re.compile(
    r"^(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?P<action>install|upgrade|remove|purge)"
    r" nvidia-container-toolkit:\S+ "
)
_VERSION = re.compile(r"version\s+v?(\d+(?:\.\d+)+\S*)")


def binaries(node: Node) -> Dict[str, Optional[str]]:
    return {name: node.which(name) for name in BINARIES}


def parse_version(text: str) -> Optional[str]:
    match = _VERSION.search(text)
    return match.group(1) if match else None


def version(node: Node) -> Optional[str]:
    """nvidia-ctk's own word; null when it is not there."""
    if node.which("nvidia-ctk") is None:
        return None
    result = node.run(["nvidia-ctk", "--version"])
    found = parse_version(result.out)
    if result.rc != 0 or found is None:
        raise ProbeError("nvidia-ctk --version: %s" % result.message)
    return found


def cdi_refresh(unit: Optional[Dict[str, str]]) -> Dict[str, Optional[bool]]:
    """The toolkit's own service for the CDI specification. `unit`: systemd's word, null when it is mute."""
    if unit is None:
        return {"installed": None, "failed": None}
    installed = unit.get("LoadState") == "loaded"
    return {"installed": installed, "failed": unit.get("ActiveState") == "failed" if installed else None}


def hook(node: Node, process: Optional[Process]) -> Dict[str, Any]:
    """dockerd looks for the hook once, when it starts, on its own PATH."""
    facts: Dict[str, Any] = {"hook_on_dockerd_path": None, "hook_newer_than_dockerd": None}
    if process is None or process.path is None:
        return facts
    path = node.which(HOOK, [part for part in process.path.split(":") if part])
    facts["hook_on_dockerd_path"] = path is not None
    if path is None:
        facts["hook_newer_than_dockerd"] = False
        return facts
    found = node.stat(path)
    if found is None or process.started_at is None:
        return facts
    # A packaged file's mtime is its build's; its ctime is when it came to this node.
    newer = found.st_ctime > process.started_at
    facts["hook_newer_than_dockerd"] = newer and not only_upgraded(node, process.started_at)
    return facts


def only_upgraded(node: Node, since: float) -> bool:
    """Did dpkg replace a hook that dockerd had found already?

    An upgrade writes the hook anew; that is no reason to restart dockerd, and everything in it.
    """
    upgraded = False
    for name in ("/var/log/dpkg.log.1", "/var/log/dpkg.log"):
        try:
            text = node.text(name) or ""
        except OSError:
            return False
        for line in text.splitlines():
            match = _DPKG_LOG.match(line)
            # The log has whole seconds, in the node's own time.
            if match and time.mktime(time.strptime(match.group("time"), "%Y-%m-%d %H:%M:%S")) + 1 >= since:
                if match.group("action") != "upgrade":
                    return False
                upgraded = True
    return upgraded
