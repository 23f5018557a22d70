"""Kills ansible-playbook between two tasks, as a closed laptop or an out-of-memory killer would.

Between, not within: what a task has begun it has finished. A node's state changes in tasks that change
something, so the cut after the n-th of those stands for every cut until the next one.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: cut_off
type: aggregate
short_description: Kills the run after so many tasks that changed something
description: For tests only.
options:
  changes:
    description: After how many changed tasks the run is killed, at the beginning of the next task.
    type: int
    required: true
    env:
      - name: KIT_CUT_OFF_AFTER
"""


class CallbackModule(CallbackBase):
    """Counts, and then ends it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "cut_off"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._changed = 0

    def v2_runner_on_ok(self, result: Any) -> None:
        self._changed += bool(result.is_changed())

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        if self._changed >= self.get_option("changes"):
            self._display.display("CUT OFF")
            os.kill(os.getpid(), signal.SIGKILL)
