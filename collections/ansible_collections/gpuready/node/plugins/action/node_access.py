# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Read and check the keys here, then let the node do the rest. See modules/node_access.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils import node_access, workbenches
from ansible_collections.gpuready.node.plugins.module_utils.answers import failure

ARGUMENTS: dict[str, dict[str, Any]] = {
    "user": {"type": "str", "default": "gpuready"},
    "authorized_keys": {"type": "list", "elements": "str", "default": []},
    "sources": {"type": "list", "elements": "str", "default": []},
    "former_lines": {"type": "list", "elements": "str", "default": []},
    "bootstrap_user": {"type": "str"},
    "state": {"type": "str", "choices": ["granted", "locked", "absent"], "default": "granted"},
}


def _read_here(path: str) -> str:
    """A file of the controller."""
    return Path(path).expanduser().read_text(encoding="utf-8")


class ActionModule(ActionBase):
    """Keys from the controller, everything else on the node."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        wanted = transform_to_native_types(arguments, redact=False)
        problem = node_access.user_problem(wanted["user"])
        if problem:
            raise AnsibleActionFail(f"node_access_user: {problem}")
        lines: list[str] = []
        if wanted["state"] == "granted":
            lines = wanted["former_lines"] or self._lines(wanted["authorized_keys"], wanted["sources"])
        result = self._execute_module(
            module_name="gpuready.node.node_access",
            module_args={
                "user": wanted["user"],
                "lines": lines,
                "bootstrap_user": wanted["bootstrap_user"],
                "state": wanted["state"],
            },
            task_vars=task_vars,
        )
        if result.get("failed") and "steps" not in result:
            result["msg"] = failure("the automation user could not be set up", result)
        return result

    @staticmethod
    def _lines(keys: list[str], sources: list[str]) -> list[str]:
        problems = [problem for source in sources if (problem := node_access.source_problem(source))]
        if problems:
            raise AnsibleActionFail(f"node_access_sources: {'; '.join(problems)}")
        try:
            found = node_access.read_keys(keys, _read_here)
        except workbenches.KeyFileError as error:
            raise AnsibleActionFail(str(error)) from None
        return node_access.key_lines(found, sources)
