# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Hand NVML's bindings over to a node that may have none. See modules/gpu_usage_info.py."""

from __future__ import annotations

from functools import cache
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuready.node.plugins.module_utils import nvml_bindings

ARGUMENTS: dict[str, dict[str, Any]] = {
    "window_seconds": {"type": "float", "default": 5.0},
    "interval_seconds": {"type": "float", "default": 0.5},
    "container": {"type": "str"},
    "pid": {"type": "int"},
    "simulated": {"type": "bool", "default": False},
}


@cache
def bindings() -> str | None:
    """The controller's; the node may have its own where the controller has none."""
    try:
        return nvml_bindings.pack()
    except nvml_bindings.NoBindings:
        return None


class ActionModule(ActionBase):
    """The module's own arguments, and the bindings."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(
            argument_spec=ARGUMENTS, mutually_exclusive=[("container", "pid")]
        )
        simulated = bool(arguments.pop("simulated"))
        asked = {key: value for key, value in arguments.items() if value is not None}
        result = self._execute_module(
            module_name="gpuready.node.gpu_usage_info",
            module_args={**asked, "nvml_bindings": bindings()},
            task_vars=task_vars or {},
        )
        if "usage" in result:
            result["usage"]["simulated"] = simulated
        # 60 kB that nobody asked for.
        (result.get("invocation") or {}).get("module_args", {}).pop("nvml_bindings", None)
        return dict(result)
