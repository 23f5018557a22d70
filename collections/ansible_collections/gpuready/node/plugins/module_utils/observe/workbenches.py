"""The workbenches on the node (role gpu_workbench)."""

from __future__ import annotations

import hashlib
import json
import stat
from typing import Any, Dict, List, Optional
from urllib.parse import quote

from ..workbench_names import (
    FOLDER,
    HOST_KEYS,
    LABEL_CONFIG,
    LABEL_USER,
    PASSWORDS,
    PREFIX,
    SUFFIX,
    UNITS,
    unit_name,
)
from . import docker, systemd
from .node import DockerError, Node


def workbenches(node: Node, sock: Optional[str]) -> List[Dict[str, Any]]:
    """One row per user who has a folder, a unit or a container. `sock`: dockerd's, where it answers."""
    names = set(node.listdir(FOLDER)) | set(_unit_names(node))
    if not names and not _maybe_containers(node):
        return []
    containers = {} if sock is None else _containers(node, sock)
    names |= set(containers)
    units = _units(node, sorted(names))
    return [_row(node, name, units.get(unit_name(name), {}), containers.get(name)) for name in sorted(names)]


def _maybe_containers(node: Node) -> bool:
    """Where gpuready never made a workbench, dockerd is not asked for any."""
    return node.exists("/var/lib/gpuready/gpu_workbench.json")


def _unit_names(node: Node) -> List[str]:
    return [
        name[len(PREFIX) : -len(SUFFIX)]
        for name in node.listdir(UNITS)
        if name.startswith(PREFIX) and name.endswith(SUFFIX)
    ]


def _units(node: Node, names: List[str]) -> Dict[str, Dict[str, str]]:
    if not names:
        return {}
    properties = ",".join((*systemd.PROPERTIES, "NRestarts"))
    return systemd.parse(
        node.output(
            [
                "systemctl",
                "show",
                "--no-pager",
                "--property=" + properties,
                *[unit_name(name) for name in names],
            ]
        )
    )


def _containers(node: Node, sock: str) -> Dict[str, Dict[str, Any]]:
    query = quote(json.dumps({"label": [LABEL_USER]}))
    found = {}
    for summary in node.docker(sock, "/containers/json?all=1&filters=" + query):
        try:
            details = node.docker(sock, "/containers/%s/json" % quote(summary["Id"]))
        except DockerError as error:  # it may have ended meanwhile
            if "timed out" in str(error):
                raise
            continue
        found[str((summary.get("Labels") or {}).get(LABEL_USER))] = details
    return found


def _row(node: Node, name: str, unit: Dict[str, str], container: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    access = _access(node, name)
    return {
        "name": name,
        "unit": {
            "active": unit.get("ActiveState") in ("active", "reloading", "activating"),
            "enabled": unit.get("UnitFileState") in ("enabled", "enabled-runtime"),
            "result": unit.get("Result") or None,
        },
        "container": None if container is None else _container(container, unit),
        "token": _secret(node, name, access.get("auth")),
        "host_keys": _host_keys(node, name),
        "certificate_current": _certificate_current(node, name, access.get("tls")),
        "home": _home(node, access.get("home")),
    }


def _access(node: Node, name: str) -> Dict[str, Any]:
    """workbench.json; nothing where it is missing or no JSON: it is written anew then."""
    try:
        data = json.loads(node.text("%s/%s/workbench.json" % (FOLDER, name)) or "{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _container(details: Dict[str, Any], unit: Dict[str, str]) -> Dict[str, Any]:
    state = details.get("State") or {}
    config = details.get("Config") or {}
    bindings = (details.get("HostConfig") or {}).get("PortBindings") or {}
    restarts = unit.get("NRestarts", "")
    return {
        "id": str(details.get("Id")),
        "running": bool(state.get("Running")),
        "image": config.get("Image"),
        "image_id": details.get("Image"),
        "config": docker.own_labels(details).get(LABEL_CONFIG),
        "ports": sorted(
            int(binding["HostPort"])
            for rows in bindings.values()
            for binding in rows or []
            if str(binding.get("HostPort", "")).isdigit()
        ),
        "restarts": int(restarts) if restarts.isdigit() else None,
        "started_at": state.get("StartedAt"),
    }


def _secret(node: Node, name: str, auth: Any) -> Optional[Dict[str, Any]]:
    """What protects Jupyter, never the secret itself."""
    if auth not in ("token", "password"):
        return None
    # Jupyter gets the password's digest; the password itself lies where no container looks.
    path = "%s/%s/token" % (FOLDER, name) if auth == "token" else "%s/%s" % (PASSWORDS, name)
    seen = node.lstat(path)
    if seen is None or not stat.S_ISREG(seen.st_mode):
        return {"auth": auth, "exists": False, "mode": None, "uid": None, "length": None}
    return {
        "auth": auth,
        "exists": True,
        "mode": "%04o" % stat.S_IMODE(seen.st_mode),
        "uid": seen.st_uid,
        "length": len((node.text(path) or "").strip()),
    }


def _home(node: Node, path: Any) -> Dict[str, Any]:
    """The home keeps the workbench's id: its owner's."""
    seen = node.stat(path) if isinstance(path, str) else None
    there = seen is not None and stat.S_ISDIR(seen.st_mode)
    return {
        "exists": there,
        "path": path if isinstance(path, str) else None,
        "uid": seen.st_uid if seen is not None and there else None,
    }


def _host_keys(node: Node, name: str) -> bool:
    """Are all of the SSH server's keys there, and only root may read the private ones?"""
    for kind in HOST_KEYS:
        path = "%s/%s/ssh_host_keys/ssh_host_%s_key" % (FOLDER, name, kind)
        private, public = node.lstat(path), node.lstat(path + ".pub")
        if private is None or public is None or not private.st_size or not public.st_size:
            return False
        if stat.S_IMODE(private.st_mode) != 0o600 or private.st_uid != 0:
            return False
    return True


def _certificate_current(node: Node, name: str, tls: Any) -> Optional[bool]:
    """Is the workbench's copy of the certificate the node's own? Null where it has none."""
    if not isinstance(tls, dict):
        return None
    original = node.data(str(tls.get("certificate")))
    copy = node.data("%s/%s/tls.crt" % (FOLDER, name))
    if original is None or copy is None:
        return False
    return hashlib.sha256(original).digest() == hashlib.sha256(copy).digest()
