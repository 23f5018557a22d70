# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Put a host into a YAML inventory, move it or take it out. See modules/inventory_host.py."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils.hostnames import HostnameError, check_name
from ansible_collections.gpuready.node.plugins.module_utils.inventory_edit import (
    Edit,
    InventoryError,
    edit,
)
from ansible_collections.gpuready.node.plugins.module_utils.inventory_file import change_file, resolve
from ansible_collections.gpuready.node.plugins.module_utils.secrecy import is_secret_key, without_secrets

ARGUMENTS: dict[str, dict[str, Any]] = {
    "path": {"type": "path"},
    "name": {"type": "str"},
    "groups": {"type": "list", "elements": "str"},
    "variables": {"type": "dict"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


class ActionModule(ActionBase):
    """All of it happens here; the node is not asked."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        arguments = transform_to_native_types(arguments, redact=False)
        name = arguments["name"] or str(task_vars["inventory_hostname"])
        state = arguments["state"]
        variables = arguments["variables"] or {}
        try:
            if state == "present":
                check_name(name)
                self._refuse_secrets(name, variables)
            path = resolve(list(task_vars.get("ansible_inventory_sources") or []), arguments["path"])
            before, outcome = self._change(path, name, state, arguments["groups"], variables)
        except (InventoryError, HostnameError) as error:
            raise AnsibleActionFail(str(error)) from None
        result: dict[str, Any] = {
            "changed": outcome.changed,
            "inventory_file": str(path),
            "groups_before": outcome.groups_before,
            "groups": outcome.groups,
            "diff": {"prepared": _difference(path, before, outcome.text)},
        }
        left = [str(one) for one in _host_vars(path, name)] if state == "absent" else []
        if left:
            result["warnings"] = [
                f"{name} still has variables in {', '.join(left)}: the next host of that name gets them"
            ]
        return {**result, "host_vars": left}

    def _change(
        self, path: Path, name: str, state: str, groups: list[str] | None, variables: dict[str, Any]
    ) -> tuple[str, Edit]:
        if state == "absent" and not path.exists():
            raise InventoryError(f"{path}: there is no such file")
        return change_file(
            path,
            lambda text: edit(text, name=name, groups=groups, variables=variables, state=state),
            check_mode=self._task.check_mode,
        )

    @staticmethod
    def _refuse_secrets(name: str, variables: dict[str, Any]) -> None:
        for variable in variables:
            if not str(variable).isidentifier():
                raise InventoryError(f"variables: {variable!r} of {name} cannot be a variable's name")
            if is_secret_key(str(variable)):
                raise InventoryError(
                    f"variables: {variable} of {name} would be a secret in the inventory; keep it in a vault"
                )


def _difference(path: Path, before: str, after: str) -> str:
    """What changes, with a line around it; secrets that stand near stay out of the log."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"before: {path}", f"after: {path}", n=1, lineterm=""
    )
    return "".join(without_secrets(line) + "\n" for line in lines)


def _host_vars(path: Path, name: str) -> list[Path]:
    """Variables of the host that lie beside the inventory."""
    folder = path.parent / "host_vars"
    names = (name, f"{name}.yml", f"{name}.yaml", f"{name}.json")
    return [folder / one for one in names if (folder / one).exists()]
