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


CONFIG = "/etc/nvidia-container-runtime/config.toml"
# What of the toolkit's configuration decides whether a container gets a GPU: key in the file → our field.
_SETTINGS = {
    "accept-nvidia-visible-devices-envvar-when-unprivileged": "accept_envvar_unprivileged",
    "accept-nvidia-visible-devices-as-volume-mounts": "accept_as_volume_mounts",
    "disable-require": "disable_require",
    "supported-driver-capabilities": "supported_driver_capabilities",
    "swarm-resource": "swarm_resource",
    "nvidia-container-cli.root": "root",
    "nvidia-container-cli.path": "cli_path",
    "nvidia-container-cli.no-cgroups": "no_cgroups",
    "nvidia-container-cli.ldconfig": "ldconfig",
    "nvidia-container-cli.user": "user",
    "nvidia-container-cli.load-kmods": "load_kmods",
    "nvidia-container-runtime.mode": "mode",
    "nvidia-container-runtime.runtimes": "runtimes",
    "nvidia-container-runtime.modes.cdi.default-kind": "cdi_default_kind",
    "nvidia-container-runtime.modes.cdi.spec-dirs": "cdi_spec_dirs",
    "nvidia-container-runtime-hook.path": "hook_path",
    "nvidia-container-runtime-hook.skip-mode-detection": "skip_mode_detection",
}
_TABLE = re.compile(r"^\[\s*([\w.\"-]+)\s*\]$")
_PAIR = re.compile(r"^([\w\"-]+)\s*=\s*(.+)$")


def parse_toml(text: str) -> Dict[str, Any]:
    """`table.key` → value, of the TOML that the toolkit writes: texts, booleans, and lists of texts.

    Python reads TOML itself only from 3.11 on. What this does not understand is left out.
    """
    found: Dict[str, Any] = {}
    table = ""
    pending = ""
    for raw in text.splitlines():
        line = pending + raw.strip()
        pending = ""
        if not line or line.startswith("#"):
            continue
        header = _TABLE.match(line)
        if header:
            table = header.group(1).replace('"', "") + "."
            continue
        pair = _PAIR.match(line)
        if not pair:
            continue
        name, value = pair.group(1).strip('"'), pair.group(2)
        if value.startswith("[") and "]" not in value:
            pending = line + " "
            continue
        texts = re.findall(r'"((?:[^"\\]|\\.)*)"|\'([^\']*)\'', value)
        if value.startswith("["):
            found[table + name] = [one or other for one, other in texts]
        elif value[0] in "\"'" and texts:
            found[table + name] = texts[0][0] or texts[0][1]
        elif re.match(r"(?:true|false)\b", value):
            found[table + name] = value.startswith("true")
    return found


def config(node: Node) -> Optional[Dict[str, Any]]:
    """The toolkit's own configuration, as far as it decides something; null when there is no file."""
    text = node.text(CONFIG)
    if text is None:
        return None
    values = parse_toml(text)
    facts: Dict[str, Any] = {"path": CONFIG}
    facts.update({field: values.get(name) for name, field in _SETTINGS.items()})
    return facts


def ldconfig_exists(node: Node, settings: Optional[Dict[str, Any]]) -> Optional[bool]:
    """Is the ldconfig there that is to be run? Null where none is named, or one within the container."""
    path = (settings or {}).get("ldconfig")
    # "@" says that the path is the host's.
    return node.exists(path[1:]) if isinstance(path, str) and path.startswith("@/") else None


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
