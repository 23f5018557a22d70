# Apache-2.0 (see LICENSE)
"""Is the node still what was planned? Expectations against an observation. Pure; for nodes: Python 3.8."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

from ..passthrough import PASSTHROUGH

HOST = "host"
RUNTIME = "container_runtime"
FRAMEWORK = "framework"
APPLICATION = "application"
UNKNOWN = object()


def see(observed: Any, *path: str) -> Any:
    for name in path:
        observed = observed.get(name) if isinstance(observed, Mapping) else None
    return observed


class Rows:
    """What was compared: `{layer, what, drifted, expected, found}`. What is not known is in no row."""

    def __init__(self) -> None:
        self.rows: List[Dict[str, Any]] = []

    def compare(self, layer: str, what: str, expected: Any, found: Any) -> None:
        if found is UNKNOWN:
            return
        self.rows.append(
            {
                "layer": layer,
                "what": what,
                "drifted": found != expected,
                "expected": expected,
                "found": found,
            }
        )


def drift(
    expected: Mapping[str, Any],
    observed: Mapping[str, Any],
    verified: Optional[Mapping[str, Optional[str]]] = None,
) -> List[Dict[str, Any]]:
    """A row per expectation that can be answered. `verified`: image → its id when it was last verified."""
    out = Rows()
    if expected.get("gpus") is not None:
        gpus = see(observed, "host", "gpus")
        found = (
            UNKNOWN if gpus is None else sum(1 for gpu in gpus if gpu.get("driver_bound") not in PASSTHROUGH)
        )
        out.compare(HOST, "gpus", expected["gpus"], found)
    if expected.get("driver"):
        _driver(out, expected["driver"], observed)
    if expected.get("docker"):
        _docker(out, expected["docker"], observed)
    if expected.get("toolkit"):
        _toolkit(out, expected["toolkit"], observed)
    _images(out, expected.get("images") or [], verified or {}, observed)
    _venvs(out, expected.get("venvs") or [], observed)
    units = see(observed, "application", "units")
    for name in expected.get("units") or []:
        found = UNKNOWN if units is None else bool((units.get(name) or {}).get("active"))
        out.compare(APPLICATION, "unit:" + name, True, found)
    return out.rows


def _failed(observed: Mapping[str, Any], *probes: str) -> bool:
    """Did one of these probes fail? Then null is not known, and not none."""
    return any(
        str(problem.get("probe") or "") == probe or str(problem.get("probe") or "").startswith(probe + ".")
        for problem in observed.get("problems") or []
        for probe in probes
    )


def _part(observed: Mapping[str, Any], probe: str, *path: str) -> Any:
    found = see(observed, *path)
    return UNKNOWN if found is None and _failed(observed, probe) else found


def _driver(out: Rows, expected: Mapping[str, Any], observed: Mapping[str, Any]) -> None:
    version = expected.get("version")
    if version:
        loaded = _part(observed, "driver.loaded", "driver", "loaded")
        out.compare(HOST, "driver_loaded", version, loaded if loaded is UNKNOWN else see(loaded, "version"))
        if expected.get("flavour") and loaded is not UNKNOWN and loaded is not None:
            out.compare(HOST, "driver_flavour", expected["flavour"], loaded.get("flavour") or UNKNOWN)
        on_disk = _part(observed, "driver.on_disk", "driver", "on_disk")
        out.compare(
            HOST, "driver_on_disk", version, on_disk if on_disk is UNKNOWN else see(on_disk, "version")
        )
        out.compare(
            HOST,
            "driver_userspace",
            version,
            _part(observed, "driver.userspace", "driver", "userspace", "version"),
        )
    _packages(out, HOST, "driver", expected, see(observed, "driver", "packages"))
    running, following = (see(observed, "host", "kernel", key) for key in ("running", "next_boot"))
    if running and following and running != following:
        module = _part(observed, "driver.on_disk_next_boot", "driver", "on_disk_next_boot")
        found = module if module is UNKNOWN else see(module, "version")
        out.compare(HOST, "driver_next_boot", version, found)
    fabric = see(observed, "driver", "fabricmanager") or {}
    if fabric.get("installed"):
        found = "%s, %s" % (fabric.get("version"), "active" if fabric.get("active") else "not active")
        out.compare(HOST, "fabricmanager", "%s, active" % version, found)
    if expected.get("persistenced"):
        found = see(observed, "driver", "persistenced", "active")
        out.compare(HOST, "persistenced", True, UNKNOWN if found is None else found)


def _packages(
    out: Rows,
    layer: str,
    prefix: str,
    expected: Mapping[str, Any],
    packages: Optional[List[Mapping[str, Any]]],
) -> None:
    if packages is None:
        return
    have = {row["name"]: row for row in packages if row.get("status") == "installed"}
    wanted = expected.get("packages") or {}
    if wanted:
        found = {name: (have.get(name) or {}).get("version") for name in wanted}
        # Where the plan knew no version, any will do; but it has to be there.
        shown = dict(wanted)
        for name, version in wanted.items():
            if version is None and found[name] is not None:
                shown[name] = found[name]
        out.compare(layer, prefix + "_packages", shown, found)
    held = [name for name in expected.get("holds") or [] if name in have]
    if held:
        out.compare(layer, prefix + "_holds", held, [name for name in held if have[name].get("held")])


def _docker(out: Rows, expected: Mapping[str, Any], observed: Mapping[str, Any]) -> None:
    docker = see(observed, "container_runtime", "docker") or {}
    live = docker.get("live")
    reachable = bool(see(live, "reachable"))
    out.compare(RUNTIME, "docker", True, reachable)
    if expected.get("version"):
        out.compare(RUNTIME, "docker_version", expected["version"], docker.get("version"))
    if expected.get("runtime") and reachable:
        name = expected["runtime"]
        known = see(live, "runtimes") or []
        out.compare(RUNTIME, "docker_runtime", name, name if name in known else None)


def _toolkit(out: Rows, expected: Mapping[str, Any], observed: Mapping[str, Any]) -> None:
    toolkit = see(observed, "container_runtime", "toolkit") or {}
    _packages(out, RUNTIME, "toolkit", expected, toolkit.get("packages"))
    hook = toolkit.get("hook_on_dockerd_path")
    if hook is not None:
        out.compare(RUNTIME, "toolkit_hook", True, hook)
    if expected.get("cdi"):
        specs = see(observed, "container_runtime", "cdi", "specs")
        found: Any = UNKNOWN
        if specs is not None:
            states = [bool(row.get("stale")) for row in specs if row.get("kind") == "nvidia.com/gpu"]
            found = "missing" if not states else "stale" if all(states) else "current"
        out.compare(RUNTIME, "cdi", "current", found)


def _images(
    out: Rows, expected: List[str], verified: Mapping[str, Optional[str]], observed: Mapping[str, Any]
) -> None:
    """An image is to be there, and to be the one whose framework saw its GPUs the last time."""
    images = see(observed, "framework", "images")
    if images is None:
        return
    have = {row["ref"]: row.get("id") for row in images}
    for ref in expected:
        found = have.get(ref)
        out.compare(FRAMEWORK, "image:" + ref, verified.get(ref) or found or "any", found)


def _venvs(out: Rows, expected: List[Mapping[str, Any]], observed: Mapping[str, Any]) -> None:
    venvs = see(observed, "framework", "venvs")
    if venvs is None:
        return
    have = {row["path"]: row for row in venvs}
    for row in expected:
        found = have.get(row["path"])
        state = "missing" if found is None else "complete" if found.get("complete") else "incomplete"
        if state == "complete" and row.get("hash") and see(found, "stamp", "hash") not in (None, row["hash"]):
            state = "another"
        out.compare(FRAMEWORK, "venv:" + row["name"], "complete", state)
