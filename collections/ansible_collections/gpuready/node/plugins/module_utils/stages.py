# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Which stage of a node's way a task belongs to: for the timings of the report and for the live board."""

from __future__ import annotations

#: What stages are called where the name of the role does not say it well.
BY_ACTION = {
    "gpuready.node.gpu_plan": "observe",
    "gpuready.node.gpu_stack_info": "observe",
    "gpuready.node.container_gpu_probe": "verify",
    "gpuready.node.gpu_diagnose": "diagnose",
}
BY_ROLE = {"gpuready": "observe", "gpu_verify": "verify"}
#: Tasks of a playbook itself.
OTHER = "other"


def stage_of(role: str | None, action: str) -> str:
    """The stage of a task.

    :param role: name of the role that the task belongs to, or none.
    :param action: the task's action, by its full name.

    >>> stage_of("nvidia_driver", "gpuready.node.apt_transaction"), stage_of(None, "gpuready.node.gpu_plan")
    ('nvidia_driver', 'observe')
    """
    if action in BY_ACTION and role not in ("gpu_acceptance",):
        return BY_ACTION[action]
    return BY_ROLE.get(role or "", role or OTHER)
