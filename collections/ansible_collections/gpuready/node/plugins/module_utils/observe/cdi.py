"""CDI specifications: what they offer, and whether they still fit the driver."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

from . import miniyaml
from .node import Node, ProbeError

DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
_DRIVER_LIBRARY = re.compile(r"/lib(?:cuda|nvidia-ml)\.so\.(\d+\.\d+(?:\.\d+)*)$")


def load(path: str, text: str) -> Any:
    if path.endswith(".json"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ProbeError("%s: not JSON: %s" % (path, error)) from None
    try:
        import yaml
    except ImportError:  # PyYAML is no part of a minimal node
        try:
            return miniyaml.parse(text)
        except miniyaml.YamlError as error:
            raise ProbeError("%s: PyYAML is not installed and %s" % (path, error)) from None
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ProbeError("%s: not YAML: %s" % (path, " ".join(str(error).split()))) from None


def _edits(content: Dict[str, Any]) -> List[Dict[str, Any]]:
    edits = [content.get("containerEdits")]
    edits += [device.get("containerEdits") for device in _list(content.get("devices"))]
    return [edit for edit in edits if isinstance(edit, dict)]


def _list(value: Any) -> List[Dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def host_paths(content: Dict[str, Any]) -> Tuple[List[str], List[str]]:
    """(paths that have to exist on the node, all mounted files)."""
    needed, mounted = [], []
    for edit in _edits(content):
        for device in _list(edit.get("deviceNodes")):
            needed.append(device.get("hostPath") or device.get("path"))
        for mount in _list(edit.get("mounts")):
            needed.append(mount.get("hostPath"))
            mounted += [mount.get("hostPath"), mount.get("containerPath")]
        for hook in _list(edit.get("hooks")):
            needed.append(hook.get("path"))
    unique = sorted({path for path in needed if isinstance(path, str) and path.startswith("/")})
    return unique, [path for path in mounted if isinstance(path, str)]


def spec_facts(node: Node, path: str, userspace_version: Optional[str]) -> Dict[str, Any]:
    content = load(path, node.text(path) or "")
    if not isinstance(content, dict):
        raise ProbeError("%s: not a CDI specification" % path)
    needed, mounted = host_paths(content)
    missing = [name for name in needed if not node.exists(name)]
    versions = [match.group(1) for match in map(_DRIVER_LIBRARY.search, mounted) if match]
    driver_version = versions[0] if versions else None
    outdated = bool(driver_version and userspace_version and driver_version != userspace_version)
    return {
        "path": path,
        "kind": content.get("kind"),
        "devices": [str(device.get("name")) for device in _list(content.get("devices"))],
        "driver_version": driver_version,
        "stale": bool(missing) or outdated,
        "missing_paths": missing,
    }


def specs(node: Node, userspace_version: Optional[str], directories: List[str]) -> List[Dict[str, Any]]:
    found = []
    seen = set()
    for directory in directories:
        for name in node.listdir(directory):
            path = "%s/%s" % (directory.rstrip("/"), name)
            real = node.real(path)
            if not name.endswith((".yaml", ".yml", ".json")) or real in seen:
                continue
            seen.add(real)
            facts = node.attempt("container_runtime.cdi", partial(spec_facts, node, path, userspace_version))
            # A spec that cannot be read is there all the same.
            found.append(
                facts
                or {
                    "path": path,
                    "kind": None,
                    "devices": None,
                    "driver_version": None,
                    "stale": None,
                    "missing_paths": None,
                }
            )
    return found
