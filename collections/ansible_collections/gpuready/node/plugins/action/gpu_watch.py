# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Hand NVML's bindings over to a node that may have none. See modules/gpu_watch.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuready.node.plugins.action.gpu_usage_info import bindings

ARGUMENTS: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["watching", "ended"], "required": True},
    "name": {"type": "str", "default": "gpus"},
    "interval_seconds": {"type": "float", "default": 1.0},
    "limit_seconds": {"type": "float", "default": 3600.0},
}


class ActionModule(ActionBase):
    """The module's own arguments, and the bindings."""

    TRANSFERS_FILES = False
    _supports_check_mode = False
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        handed = {"nvml_bindings": bindings()} if arguments["state"] == "watching" else {}
        result = self._execute_module(
            module_name="gpuready.node.gpu_watch",
            module_args={**arguments, **handed},
            task_vars=task_vars or {},
            wrap_async=self._task.async_val,
        )
        # Of an asynchronous task, Ansible itself says that it changes something.
        result["changed"] = False
        # 60 kB that nobody asked for.
        (result.get("invocation") or {}).get("module_args", {}).pop("nvml_bindings", None)
        return dict(result)
