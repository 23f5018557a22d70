# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Runs the module of the same name, and tells the live board meanwhile how far Docker is."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action.normal import ActionModule as Normal
from ansible_collections.gpuready.node.plugins.module_utils.board_channel import Watch


class ActionModule(Normal):
    """As if there were no action plugin."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        with Watch(self._connection, (task_vars or {}).get("inventory_hostname", "")):
            result: dict[str, Any] = super().run(tmp, task_vars)
        return result
