# Apache-2.0 (see LICENSE)
"""The To-Be: the public role variables that the planner reads, with their defaults and their rules.

A policy test keeps the defaults equal to the roles' `defaults/main.yml`.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from . import health_wishes, recipes, venvs, workbenches
from .plain import plain_copy
from .wish_words import Problem, nearest, truth

__all__ = [
    "DEFAULT_WISHES",
    "ROLES",
    "Problem",
    "WishError",
    "check",
    "complete",
    "nearest",
    "role_of",
    "truth",
]

DOCKER_REPO = "https://download.docker.com/linux/ubuntu"
DOCKER_FINGERPRINT = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
TOOLKIT_REPO = "https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH)"
TOOLKIT_KEY = "https://nvidia.github.io/libnvidia-container/gpgkey"
TOOLKIT_FINGERPRINT = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"

DRIVER_REPO = "https://developer.download.nvidia.com/compute/cuda/repos/$(DISTRO)/$(ARCH)"
DRIVER_KEY = DRIVER_REPO + "/3bf863cc.pub"
DRIVER_FINGERPRINT = "EB693B3035CD5710E231E123A4B469963BF863CC"

DEFAULT_WISHES: Dict[str, Any] = {
    "gpuready_workloads": ["tensorflow-2.9"],
    "gpuready_simulated": False,
    "host_prepare_nouveau_disabled": True,
    "host_prepare_apt_lists_max_age_seconds": 604800,
    "host_reboot_allowed": True,
    "host_reboot_max": 1,
    "nvidia_driver_branch": "auto",
    "nvidia_driver_version": "",
    "nvidia_driver_flavour": "auto",
    "nvidia_driver_source": "auto",
    "nvidia_driver_repo_url": DRIVER_REPO,
    "nvidia_driver_repo_key_url": DRIVER_KEY,
    "nvidia_driver_repo_key_fingerprint": [DRIVER_FINGERPRINT],
    "nvidia_driver_reload_allowed": True,
    "nvidia_driver_rollback_enabled": True,
    "nvidia_driver_min_version": "460.27",
    "nvidia_driver_hold_enabled": True,
    "nvidia_driver_upgrade_guard_enabled": True,
    "nvidia_driver_persistenced_enabled": True,
    "docker_engine_source": "distro",
    "docker_engine_version": "",
    "docker_engine_daemon_config": {},
    "docker_engine_daemon_config_replace": [],
    "docker_engine_repo_url": DOCKER_REPO,
    "docker_engine_repo_key_fingerprint": [DOCKER_FINGERPRINT],
    "nvidia_container_toolkit_version": "",
    "nvidia_container_toolkit_repo_url": TOOLKIT_REPO,
    "nvidia_container_toolkit_repo_key_url": TOOLKIT_KEY,
    "nvidia_container_toolkit_repo_key_fingerprint": [TOOLKIT_FINGERPRINT],
    "nvidia_container_toolkit_default_runtime": False,
    "nvidia_container_toolkit_cdi": "auto",
    "framework_image_registry_mirror": "",
    "framework_image_archive": "",
    "framework_image_registry_check_enabled": True,
    "framework_image_recipes": [],
    "framework_image_build": "node",
    "framework_image_push_registry": "",
    "framework_image_build_pip_index_url": "",
    "framework_image_build_apt_sources": [],
    "framework_venv_environments": [],
    "framework_venv_directory": venvs.DIRECTORY,
    "framework_venv_index_url": "",
    "framework_venv_packages_index_url": "",
    "gpu_workbench_users": [],
    "gpu_workbench_recipe": "",
    "gpu_workbench_bind_address": "127.0.0.1",
    "gpu_workbench_auth": "token",
    "gpu_workbench_token_length": 32,
    "gpu_workbench_tls_certificate": "",
    "gpu_workbench_tls_key": "",
    "gpu_workbench_home_directory": "/srv/gpuready/home",
    "gpu_verify_level": "list",
    "gpu_verify_launch": "auto",
    "gpu_health_enabled": False,
    "gpu_health_exporter": "textfile",
    "gpu_health_textfile_directory": "/var/lib/prometheus/node-exporter",
    "gpu_health_node_exporter_install_allowed": True,
    "gpu_health_node_exporter_bind_address": "127.0.0.1",
    "gpu_health_metrics_interval_seconds": 15,
    "gpu_health_check_interval_seconds": 300,
    "gpu_health_verify_time": "",
    "gpu_health_verify_level": "list",
    "gpu_health_verify_timeout_seconds": 300,
    "gpu_health_verify_on_package_change_enabled": True,
    "gpu_health_verify_package_delay_seconds": 120,
}

CHOICES: Dict[str, Tuple[str, ...]] = {
    "nvidia_driver_flavour": ("auto", "open", "proprietary"),
    "nvidia_driver_source": ("auto", "ubuntu", "debian", "cuda_repo"),
    "docker_engine_source": ("distro", "docker_ce"),
    "nvidia_container_toolkit_cdi": ("auto", "enabled", "disabled"),
    "gpu_workbench_auth": ("token", "password"),
    "framework_image_build": ("node", "fleet"),
    "gpu_verify_level": ("list", "compute"),
    "gpu_verify_launch": ("auto", "gpus", "runtime", "cdi"),
    "gpu_health_exporter": ("textfile", "dcgm", "none"),
    "gpu_health_verify_level": ("list", "compute"),
}

# Which role and layer a variable belongs to, by its prefix.
ROLES: Dict[str, str] = {
    "gpuready": "host",
    "host_prepare": "host",
    "host_reboot": "host",
    "nvidia_driver": "host",
    "docker_engine": "container_runtime",
    "nvidia_container_toolkit": "container_runtime",
    "framework_image": "framework",
    "framework_venv": "framework",
    "gpu_verify": "framework",
    "gpu_workbench": "application",
    "gpu_health": "application",
}


class WishError(ValueError):
    """Wishes that cannot be understood; `problems` has one entry each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join("%s (%s)" % (p.what, ", ".join(p.options)) for p in self.problems))


def role_of(variable: str) -> str:
    """The role that a variable belongs to."""
    matching = [role for role in ROLES if variable.startswith(role + "_")]
    return max(matching, key=len) if matching else "gpuready"


def _boolean(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    known = truth(value)
    if known is None:
        return value, Problem(
            name,
            "%s is %r, but must be true or false" % (name, value),
            ["set %s: true" % name, "set %s: false" % name],
        )
    return known, None


def _whole_number(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    text = str(value).strip()
    if isinstance(value, bool) or not re.match(r"^\d+$", text):
        return value, Problem(
            name,
            "%s is %r, but must be a whole number, 0 or more" % (name, value),
            ["set %s: %s" % (name, DEFAULT_WISHES[name])],
        )
    return int(text), None


def _text(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    # YAML reads an unquoted 580 as a number and 580.95 as a float; both mean what they say.
    if value is None:
        return "", None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return value, Problem(
            name,
            "%s is %r, but must be a string" % (name, value),
            ["set %s: %r" % (name, DEFAULT_WISHES[name])],
        )
    text = str(value).strip()
    choices = CHOICES.get(name)
    if choices and text not in choices:
        best = nearest(text, choices, 1)[0]
        return value, Problem(
            name,
            "%s is %r, but must be one of %s" % (name, text, ", ".join(choices)),
            ["set %s: %s" % (name, best)],
        )
    return text, None


def _version(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    if isinstance(value, float):
        return value, Problem(
            name,
            "%s is the number %r; YAML may have dropped a digit of it" % (name, value),
            ['quote it: %s: "%s"' % (name, value)],
        )
    text, problem = _text(name, value)
    if problem is None and text and not re.match(r"^(\d+:)?[0-9][A-Za-z0-9.+~:-]*$", text):
        problem = Problem(
            name, "%s is %r, which is no version" % (name, text), ["write it as apt does, such as 580.95.05"]
        )
    return text, problem


def _min_version(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    # 460.27 unquoted is a float and still the right version.
    text, problem = _text(name, value)
    if problem is None and text and not re.match(r"^\d+(\.\d+)*$", text):
        problem = Problem(
            name, "%s is %r, which is no driver version" % (name, text), ['set %s: "460.27"' % name]
        )
    return text, problem


def _texts(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not all(isinstance(item, str) and item for item in values):
        return value, Problem(
            name,
            "%s is %r, but must be a list of strings" % (name, value),
            ["set %s: %s" % (name, DEFAULT_WISHES[name])],
        )
    return list(values), None


def _fingerprints(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    values, problem = _texts(name, [] if value == "" else value)
    if problem:
        return values, problem
    result = []
    for item in values:
        plain = item.replace(" ", "").replace(":", "").upper()
        if not re.match(r"^([0-9A-F]{40}|[0-9A-F]{64})$", plain):
            return value, Problem(
                name,
                "%s holds %r, which is no full key fingerprint (40 or 64 hexadecimal digits)" % (name, item),
                ["print it with: gpg --show-keys --with-fingerprint KEYFILE"],
            )
        result.append(plain)
    return result, None


def _mapping(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    if value is None:
        return {}, None
    if not isinstance(value, dict):
        return value, Problem(
            name,
            "%s is %r, but must be a mapping (it is merged into daemon.json)" % (name, value),
            ["set %s: {}" % name],
        )
    return plain_copy(value), None


_SPECIAL: Dict[str, Callable[[str, Any], Tuple[Any, Optional[Problem]]]] = {
    "framework_image_recipes": recipes.rule,
    "framework_image_build_pip_index_url": recipes.index_rule,
    "framework_image_build_apt_sources": recipes.sources_rule,
    "framework_venv_environments": venvs.environments_rule,
    "framework_venv_directory": venvs.directory_rule,
    "framework_venv_index_url": venvs.index_rule,
    "framework_venv_packages_index_url": venvs.index_rule,
    "gpu_workbench_users": workbenches.users,
    "gpu_workbench_bind_address": workbenches.bind_address,
    "gpu_health_node_exporter_bind_address": workbenches.bind_address,
    "gpu_workbench_token_length": workbenches.token_length,
    "gpu_workbench_tls_certificate": workbenches.absolute_path,
    "gpu_workbench_tls_key": workbenches.absolute_path,
    "gpu_workbench_home_directory": workbenches.absolute_path,
    "nvidia_driver_version": _version,
    "nvidia_driver_min_version": _min_version,
    "docker_engine_version": _version,
    "nvidia_container_toolkit_version": _version,
    "docker_engine_repo_key_fingerprint": _fingerprints,
    "nvidia_driver_repo_key_fingerprint": _fingerprints,
    "nvidia_container_toolkit_repo_key_fingerprint": _fingerprints,
    **health_wishes.RULES,
}


def _rule(name: str) -> Callable[[str, Any], Tuple[Any, Optional[Problem]]]:
    if name in _SPECIAL:
        return _SPECIAL[name]
    default = DEFAULT_WISHES[name]
    if isinstance(default, bool):
        return _boolean
    if isinstance(default, int):
        return _whole_number
    if isinstance(default, list):
        return _texts
    if isinstance(default, dict):
        return _mapping
    return _text


def check(given: Mapping[str, Any], *, strict: bool = False) -> Tuple[Dict[str, Any], List[Problem]]:
    """All wishes (the given ones over the defaults), normalised, and what is wrong with them.

    A wish that is wrong keeps its default in the result. Variables that the planner does not read are left
    out; with `strict` they are problems, for callers that have no argument specs to check against.
    """
    wishes = {
        name: value.copy() if isinstance(value, (dict, list)) else value
        for name, value in DEFAULT_WISHES.items()
    }
    problems: List[Problem] = []
    for name, value in given.items():
        if name not in DEFAULT_WISHES:
            if strict:
                best = nearest(name, sorted(DEFAULT_WISHES), 1)[0]
                problems.append(
                    Problem(name, "%s is no variable of gpuready" % name, ["did you mean %s?" % best])
                )
            continue
        normal, problem = _rule(name)(name, value)
        if problem:
            problems.append(problem)
        else:
            wishes[name] = normal
    return wishes, problems


def complete(given: Mapping[str, Any]) -> Dict[str, Any]:
    """All wishes, normalised; WishError when one cannot be understood or is unknown."""
    wishes, problems = check(given, strict=True)
    if problems:
        raise WishError(problems)
    return wishes
