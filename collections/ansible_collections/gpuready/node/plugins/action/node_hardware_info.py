# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Hand NVML's bindings over to a node that may have none. See modules/node_hardware_info.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuready.node.plugins.action.gpu_usage_info import bindings

ARGUMENTS: dict[str, dict[str, Any]] = {}


class ActionModule(ActionBase):
    """The module, and the bindings."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self.validate_argument_spec(argument_spec=ARGUMENTS)
        result = self._execute_module(
            module_name="gpuready.node.node_hardware_info",
            module_args={"nvml_bindings": bindings()},
            task_vars=task_vars or {},
        )
        # 60 kB that nobody asked for.
        (result.get("invocation") or {}).get("module_args", {}).pop("nvml_bindings", None)
        return dict(result)
