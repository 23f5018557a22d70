# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Hand NVML's bindings over to a node that may have none. See modules/gpu_usage_info.py."""

from __future__ import annotations

from functools import cache
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.gpuready.node.plugins.module_utils import nvml_bindings


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
        if "nvml_bindings" in self._task.args:
            raise AnsibleActionFail("nvml_bindings is handed over by itself; leave it out")
        result = self._execute_module(
            module_name="gpuready.node.gpu_usage_info",
            module_args={**self._task.args, "nvml_bindings": bindings()},
            task_vars=task_vars or {},
        )
        # 60 kB that nobody asked for.
        (result.get("invocation") or {}).get("module_args", {}).pop("nvml_bindings", None)
        return dict(result)
