# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""The public variables: which exist, which of the given ones are misspelt. Controller only.

Ansible takes any variable and never complains about one that nobody reads; a misspelt limit would
silently not apply. The roles' argument specs are the one list of what exists.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

#: libyaml's, where PyYAML has it: ten times as fast.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: Where Docker pulls from when no mirror is set.
DOCKER_HUB = "registry-1.docker.io:443"
#: From this likeness on, a name outside the roles' prefixes is taken for a slip: worth a warning.
LOOKS_LIKE = 0.92


def load_specs(roles_directory: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """``{role: {variable: its specification}}`` of every role in the folder that has an argument spec.

    Read once per process and state of the files; not to be changed by who gets it.
    """
    paths = sorted(roles_directory.glob("*/meta/argument_specs.yml"))
    return _load_specs(tuple((path, path.stat().st_mtime_ns) for path in paths))


@functools.lru_cache(maxsize=4)
def _load_specs(files: tuple[tuple[Path, int], ...]) -> dict[str, dict[str, dict[str, Any]]]:
    specs: dict[str, dict[str, dict[str, Any]]] = {}
    for path, _changed in files:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader) or {}
        options: dict[str, dict[str, Any]] = {}
        for entry_point in (document.get("argument_specs") or {}).values():
            for name, specification in ((entry_point or {}).get("options") or {}).items():
                options.setdefault(name, specification or {})
        specs[path.parent.parent.name] = options
    return specs


def misspelt(names: Iterable[str], specs: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """``[(variable, message)]`` for names that start like a role's variables but are none.

    >>> misspelt(["nvidia_driver_brnach", "ntp_server"], {"nvidia_driver": {"nvidia_driver_branch": {}}})
    [('nvidia_driver_brnach', 'unknown variable nvidia_driver_brnach: did you mean nvidia_driver_branch?')]
    """
    public = {name for options in specs.values() for name in options}
    found = []
    for name in sorted(set(names) - public):
        # The longest fitting role: gpu_verify_x is gpu_verify's, should there be a role gpu one day.
        role = max((role for role in specs if name.startswith(f"{role}_")), key=len, default=None)
        if role is None:
            continue
        nearest = difflib.get_close_matches(name, sorted(specs[role]), n=1, cutoff=0.6)
        nearest = nearest or difflib.get_close_matches(name, sorted(public), n=1, cutoff=0.6)
        if nearest:
            advice = f"did you mean {nearest[0]}?"
        else:
            advice = f"role {role} has {', '.join(sorted(specs[role])) or 'no variables'}"
        found.append((name, f"unknown variable {name}: {advice}"))
    return found


def lookalikes(names: Iterable[str], specs: dict[str, dict[str, Any]]) -> list[str]:
    """Messages for names outside every role's prefix that nearly are public ones (nvidia_drivers_branch)."""
    public = sorted({name for options in specs.values() for name in options})
    messages = []
    for name in sorted(set(names) - set(public)):
        if name.startswith(("_", "ansible_")) or any(name.startswith(f"{role}_") for role in specs):
            continue
        nearest = difflib.get_close_matches(name, public, n=1, cutoff=LOOKS_LIKE)
        if nearest:
            messages.append(f"the variable {name} is not read by anything here; did you mean {nearest[0]}?")
    return messages


def registry_address(mirror: str) -> str:
    """``host:port`` of a registry mirror, whichever way it is written.

    >>> registry_address("gpulab-registry:5000"), registry_address("https://mirror.example/docker/hub")
    ('gpulab-registry:5000', 'mirror.example:443')
    """
    scheme, separator, rest = mirror.partition("://")
    host = (rest if separator else mirror).partition("/")[0].rpartition("@")[2]
    if host.endswith("]") or ":" not in host:
        host += ":80" if separator and scheme == "http" else ":443"
    return host


def endpoints(wishes: dict[str, Any]) -> list[dict[str, str]]:
    """Which addresses the node should be able to reach, for ``gpu_stack_info``'s ``endpoints``."""
    if not wishes.get("framework_image_registry_check_enabled") or wishes.get("framework_image_archive"):
        return []
    mirror = str(wishes.get("framework_image_registry_mirror") or "")
    return [{"name": "registry", "address": registry_address(mirror) if mirror else DOCKER_HUB}]
