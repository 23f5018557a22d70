"""CDI specifications: what they offer, and whether they still fit the driver."""

from __future__ import annotations

import json
import os
import re
import stat
from typing import Any, Dict, List, Optional, Tuple

from . import miniyaml
from .node import Node, ProbeError, error_text

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


def device_nodes(content: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The device files that a specification gives to containers."""
    return [device for edit in _edits(content) for device in _list(edit.get("deviceNodes"))]


def wrong_devices(node: Node, devices: List[Dict[str, Any]]) -> List[Dict[str, str]]:
    """Device files that a container would get under other numbers than the node's own.

    nvidia-uvm's major number is the kernel's choice and changes from boot to boot; a specification that names
    the old one makes a file that opens nothing.
    """
    wrong = {}
    for device in devices:
        path = device.get("hostPath") or device.get("path")
        major, minor = device.get("major"), device.get("minor")
        if not isinstance(path, str) or not isinstance(major, int) or not major:
            continue  # without numbers, the runtime takes the node's
        found = node.stat(path)
        if found is None or not stat.S_ISCHR(found.st_mode):
            continue
        real = (os.major(found.st_rdev), os.minor(found.st_rdev))
        said = (major, minor if isinstance(minor, int) else 0)
        if real != said:
            wrong[path] = {"path": path, "spec": "%d:%d" % said, "host": "%d:%d" % real}
    return [wrong[path] for path in sorted(wrong)]


def spec_facts(node: Node, path: str, userspace_version: Optional[str]) -> Dict[str, Any]:
    content = load(path, node.text(path) or "")
    if not isinstance(content, dict):
        raise ProbeError("%s: not a CDI specification" % path)
    needed, mounted = host_paths(content)
    missing = [name for name in needed if not node.exists(name)]
    versions = [match.group(1) for match in map(_DRIVER_LIBRARY.search, mounted) if match]
    driver_version = versions[0] if versions else None
    outdated = bool(driver_version and userspace_version and driver_version != userspace_version)
    nodes = device_nodes(content)
    wrong = wrong_devices(node, nodes)
    return {
        "path": path,
        "error": None,
        "cdi_version": content.get("cdiVersion"),
        "kind": content.get("kind"),
        "devices": [str(device.get("name")) for device in _list(content.get("devices"))],
        "driver_version": driver_version,
        "stale": bool(missing or wrong) or outdated,
        "missing_paths": missing,
        "device_nodes": sorted({str(device["path"]) for device in nodes if device.get("path")}),
        "wrong_devices": wrong,
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
            try:
                found.append(spec_facts(node, path, userspace_version))
                continue
            except (ProbeError, OSError, ValueError, TypeError, AttributeError) as failure:
                node.problem("container_runtime.cdi", failure)
                error = error_text(failure)
            # A spec that cannot be read is there all the same.
            found.append(
                {
                    "path": path,
                    "error": error,
                    "cdi_version": None,
                    "kind": None,
                    "devices": None,
                    "driver_version": None,
                    "stale": None,
                    "missing_paths": None,
                    "device_nodes": None,
                    "wrong_devices": None,
                }
            )
    return found
