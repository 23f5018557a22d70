# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Waits for a job that was begun with ``async``, and tells the live board meanwhile how far it is."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action.async_status import ActionModule as AsyncStatus
from ansible_collections.gpuready.node.plugins.module_utils.board_channel import Watch

ARGUMENTS: dict[str, Any] = {
    "jid": {"type": "str", "required": True},
    "timeout_seconds": {"type": "float", "required": True},
    "poll_seconds": {"type": "float", "default": 3.0},
}


class ActionModule(AsyncStatus):
    """Ansible's own look at a job, again and again within one task."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        _said, arguments = self.validate_argument_spec(ARGUMENTS)
        host = (task_vars or {}).get("inventory_hostname", "")
        # What Ansible's plugin takes.
        self._task.args = {"jid": arguments["jid"]}
        begun = time.monotonic()
        with Watch(self._connection, host):
            while True:
                result: dict[str, Any] = super().run(tmp, task_vars)
                waited = time.monotonic() - begun
                # A job that is not known, or that failed, has ended as well.
                if result.get("finished") or result.get("failed"):
                    return {**result, "timed_out": False, "waited_seconds": round(waited, 1)}
                if waited + arguments["poll_seconds"] > arguments["timeout_seconds"]:
                    break
                time.sleep(arguments["poll_seconds"])
        return {
            **result,
            "failed": True,
            "timed_out": True,
            "waited_seconds": round(waited, 1),
            "msg": f"the job {arguments['jid']} has not ended after {waited:.0f} s "
            f"(timeout_seconds: {arguments['timeout_seconds']:g}); it may still go on",
        }
