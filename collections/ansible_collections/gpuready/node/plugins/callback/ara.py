# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
---
name: ara
type: notification
short_description: Record runs with ARA, by one variable
version_added: "0.1.0"
description:
  - Hands everything that happens to ARA's own callback, so that runs are kept with all their tasks and
    results and can be looked at later (C(ara-manage runserver), C(ara playbook list)).
  - ARA reads its own settings (E(ARA_API_CLIENT), E(ARA_API_SERVER), E(ARA_BASE_DIR), …); without any, it
    writes to a database in the user's home.
  - Does nothing unless O(enabled), nor where ARA's callback is loaded already. Where ARA is not installed, it
    says so and the run goes on. Results of tasks with C(no_log) are not recorded.
options:
  enabled:
    description: Whether runs are recorded.
    type: bool
    default: false
    env:
      - name: GPUREADY_ARA
    ini:
      - section: gpuready
        key: ara
author:
  - gpuready contributors (@gpuready)
requirements:
  - ara beside the Ansible that runs (C(ara[server]) where there is no ARA server)
  - enabled by C(callbacks_enabled) in C(ansible.cfg)
"""

from collections.abc import Callable
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import callback_loader

#: ARA's name for its own callback.
ARA = "ara_default"


class CallbackModule(CallbackBase):
    """A stand-in for ARA's callback, which is there only when it is wanted."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "gpuready.node.ara"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recorder: Any = None

    def set_options(self, task_keys: Any = None, var_options: Any = None, direct: Any = None) -> None:
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        self.disabled = True
        # Whoever has set ARA up by its own documentation records every run once already.
        if not self.get_option("enabled") or callback_loader.has_plugin(ARA):
            return
        try:
            from ara.plugins import callback
        except ImportError as error:
            self._display.warning(
                f"GPUREADY_ARA is set, and this run is not recorded: ARA cannot be loaded ({error}); "
                "install ara[server] (or ara, for a server elsewhere) beside Ansible"
            )
            return
        # By Ansible's own loader, which reads the options that ARA documents.
        callback_loader.add_directory(next(iter(callback.__path__)))
        self.recorder = callback_loader.get(ARA)
        self.recorder.set_options()
        self.disabled = False


def _handed_on(name: str) -> Callable[..., Any]:
    def method(self: CallbackModule, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.recorder, name)(*args, **kwargs)

    method.__name__ = name
    return method


for _event in dir(CallbackBase):
    # v2_on_any is deprecated, and its being there would be noticed.
    if _event.startswith("v2_") and _event != "v2_on_any":
        setattr(CallbackModule, _event, _handed_on(_event))
