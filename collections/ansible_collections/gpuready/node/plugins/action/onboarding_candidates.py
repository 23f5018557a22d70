# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Say which nodes a request means. See modules/onboarding_candidates.py."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils import onboarding, variables
from ansible_collections.gpuready.node.plugins.module_utils.inputs import Trouble, read_text
from ansible_collections.gpuready.node.plugins.module_utils.inventory_edit import (
    QUARANTINE,
    SERVICE,
    InventoryError,
    read,
)
from ansible_collections.gpuready.node.plugins.module_utils.inventory_file import read_file, resolve

display = Display()

ARGUMENTS: dict[str, dict[str, Any]] = {
    "node": {"type": "raw"},
    "csv": {"type": "path"},
    "inventory_file": {"type": "path"},
    "existing": {"type": "bool", "default": False},
    "skip_bad_rows": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    """Reads the request, the CSV and the inventory; no node is asked."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        arguments = transform_to_native_types(arguments, redact=False)
        try:
            asked = onboarding.words(arguments["node"])
            if bool(asked) == bool(arguments["csv"]):
                raise AnsibleActionFail(
                    "say which nodes are meant: -e node=ADDRESS (or NAME=ADDRESS, a list, a range such as "
                    "10.0.0.[17:24]) or -e csv=FILE; " + ("not both" if asked else "neither was given")
                )
            path = resolve(
                list(task_vars.get("ansible_inventory_sources") or []), arguments["inventory_file"]
            )
            site = replace(self._site(path, task_vars), existing_only=arguments["existing"])
            if asked:
                source = "node"
                good, bad = onboarding.requested(asked, site)
            else:
                source = str(arguments["csv"])
                good, bad = self._listed(source, site)
        except (onboarding.RequestError, InventoryError) as error:
            raise AnsibleActionFail(str(error)) from None
        result = {
            "changed": False,
            "inventory_file": str(path),
            "candidates": [candidate.document() for candidate in good],
            "rejected": [vars(rejected) for rejected in bad],
        }
        if bad and not (arguments["skip_bad_rows"] and good):
            result.update(failed=True, msg=onboarding.complaint(good, bad, source))
        elif bad:
            display.warning(
                f"{source}: left out: " + "; ".join(map(str, bad)),
            )
        return result

    @staticmethod
    def _listed(
        path: str, site: onboarding.Site
    ) -> tuple[list[onboarding.Candidate], list[onboarding.Rejected]]:
        try:
            text = read_text(path)
            good, bad = onboarding.listed(text, site)
            if not good and not bad:
                raise onboarding.RequestError("it has no row below its header")
        except Trouble as error:
            raise onboarding.RequestError(f"csv: {error}") from None
        except onboarding.RequestError as error:
            raise onboarding.RequestError(f"csv: {path}: {error}") from None
        secret = any(candidate.bootstrap_password_given for candidate in good)
        if secret and path != "-" and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
            display.warning(f"{path} holds passwords and others can read it: chmod 600 {path}")
        return good, bad

    def _site(self, path: Path, task_vars: dict[str, Any]) -> onboarding.Site:
        """What the request is held against."""
        groups = task_vars.get("groups") or {}
        service, quarantine = set(groups.get(SERVICE) or ()), set(groups.get(QUARANTINE) or ())
        file = read(read_file(path))
        hosts = {}
        hostvars = task_vars.get("hostvars") or {}
        written = file.hosts()
        for name in groups.get("all") or ():
            own = self._connection_of(str(name), hostvars)
            state = "member" if name in service else "quarantine" if name in quarantine else "new"
            hosts[str(name)] = onboarding.Known(str(name), own[0], own[1], state)
        for name, own_variables in written.items():
            # A node that came into the file since the run began.
            hosts.setdefault(
                name,
                onboarding.Known(
                    name,
                    str(own_variables.get("ansible_host") or name),
                    _port(own_variables.get("ansible_port")),
                    self._state(file.groups_of(name), file),
                ),
            )
        return onboarding.Site(hosts, file.groups, self._specs(task_vars))

    @staticmethod
    def _state(groups: list[str], file: Any) -> str:
        if set(groups) & file.descendants(SERVICE):
            return "member"
        return "quarantine" if set(groups) & file.descendants(QUARANTINE) else "new"

    def _connection_of(self, name: str, hostvars: Any) -> tuple[str, int | None]:
        """Where a host of the inventory is reached; templates are resolved only where there are some."""
        own = hostvars.raw_get(name) if hasattr(hostvars, "raw_get") else dict(hostvars[name])
        values = []
        for variable in ("ansible_host", "ansible_port"):
            value = own.get(variable)
            if isinstance(value, str) and onboarding.TEMPLATE.search(value):
                try:
                    value = hostvars[name][variable]
                except Exception as error:
                    display.vv(f"onboarding_candidates: {variable} of {name} is not known: {error}")
                    value = None
            values.append(value)
        return str(values[0] or name), _port(values[1])

    def _specs(self, task_vars: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
        """The roles' argument specs, by which a CSV's columns are checked."""
        from ansible import constants as C

        for folder in map(Path, C.DEFAULT_ROLES_PATH or []):
            if (folder / "gpuready" / "meta" / "argument_specs.yml").is_file():
                return variables.load_specs(folder)
        return {}


def _port(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
