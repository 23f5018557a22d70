#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_users
short_description: Tells who works on a node's GPUs, and waits until nobody does
version_added: "0.6.0"
description:
  - Names the running Docker containers that have a GPU and the processes that hold one of the driver's device
    files open, but for the driver's own services and gpuready's own.
  - A workbench is nobody's work as long as no process in it holds a GPU.
  - On request it waits until they are gone, and stops the containers first. It ends no process.
  - gpuready's own verifications last seconds; they are waited for in any case.
options:
  wait_seconds:
    description: How long to wait for them to end, in seconds. With V(0) it only looks.
    type: int
    default: 0
  interval_seconds:
    description: The time between two looks, in seconds, 0.2 to 600.
    type: float
    default: 5.0
  stop_containers:
    description: Whether the containers are stopped, as C(docker stop) does, before the waiting begins.
    type: bool
    default: false
  stop_grace_seconds:
    description: How long a container may take to end by itself before it is killed, in seconds.
    type: int
    default: 60
  ignored:
    description:
      - Names of what is nobody's work and comes back by itself, such as the Kubernetes device plugin. A
        container is ignored when its name contains one of them, a process when it has that name.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Looks once. Neither waits nor stops anything, and tells which containers it would stop.
    support: full
  diff_mode:
    description: Shows the users of the GPUs before and after, where a container is stopped.
    support: full
  platform:
    description: Linux.
    support: full
    platforms: linux
author:
  - gpuready contributors (@gpuready)
seealso:
  - module: gpuready.node.gpu_stack_info
"""

EXAMPLES = r"""
- name: Look who works on the GPUs
  gpuready.node.gpu_users:
  register: __site_users

- name: Wait up to an hour for them
  gpuready.node.gpu_users:
    wait_seconds: 3600
    interval_seconds: 10
  register: __site_users
  failed_when: __site_users.users | length > 0
"""

RETURN = r"""
users:
  description:
    - Who works on the GPUs in the end; C(kind) is V(container) or V(process), C(id) that of the container,
      C(user) the process' owner, C(workbench) whose workbench it runs in, C(text) all in a few words.
  returned: success
  type: list
  elements: dict
  sample:
    - kind: container
      name: training
      id: 6c8f
      image: "tensorflow/tensorflow:2.9.0-gpu"
      pid: null
      user: null
      workbench: null
      text: "container training (tensorflow/tensorflow:2.9.0-gpu)"
stopped:
  description: The containers that were stopped (in check mode, that would be), each with C(id) and C(name).
  returned: success
  type: list
  elements: dict
  sample: [{id: 6c8f, name: training}]
waited_seconds:
  description: How long it waited, in seconds.
  returned: success
  type: float
  sample: 12.5
"""

import time
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import gpu_users
from ansible_collections.gpuready.node.plugins.module_utils.observe.node import (
    DockerError,
    Node,
    ProbeError,
    error_text,
)

#: gpuready's own verifications are over by then.
PASSING_SECONDS = 60.0


def _look(module: AnsibleModule) -> Any:
    try:
        return gpu_users.users(*gpu_users.look(Node()), ignored=module.params["ignored"])
    except (gpu_users.UsersError, DockerError, ProbeError, OSError) as error:
        module.fail_json(msg="Who uses the GPUs cannot be told: %s." % error_text(error).rstrip("."))


def _lines(users: List[Dict[str, Any]]) -> str:
    return "".join("%s\n" % gpu_users.describe(user) for user in users)


def _stop(module: AnsibleModule, containers: List[Dict[str, Any]]) -> None:
    grace = module.params["stop_grace_seconds"]
    argv = ["docker", "stop", "--time", str(grace), *[row["id"] for row in containers]]
    rc, out, err = module.run_command(argv)
    if rc != 0 and "No such container" not in err:
        names = ", ".join(row["name"] for row in containers)
        module.fail_json(msg="The containers %s could not be stopped: %s" % (names, (err or out).strip()))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "wait_seconds": {"type": "int", "default": 0},
            "interval_seconds": {"type": "float", "default": 5.0},
            "stop_containers": {"type": "bool", "default": False},
            "stop_grace_seconds": {"type": "int", "default": 60},
            "ignored": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    asked = module.params
    for name in ("wait_seconds", "stop_grace_seconds"):
        if asked[name] < 0:
            module.fail_json(
                msg="%s is %d; give a number of seconds that is not below 0." % (name, asked[name])
            )
    if not 0.2 <= asked["interval_seconds"] <= 600:
        module.fail_json(msg="interval_seconds is %g; give 0.2 to 600 seconds." % asked["interval_seconds"])
    started = time.monotonic()
    users, passing = _look(module)
    before = _lines(users)
    stopped: List[Dict[str, Any]] = []
    if asked["stop_containers"]:
        stopped = [{"id": row["id"], "name": row["name"]} for row in users if row["kind"] == "container"]
        if stopped and not module.check_mode:
            _stop(module, stopped)
            users, passing = _look(module)
    while not module.check_mode:
        passed = time.monotonic() - started
        limit = max(float(asked["wait_seconds"]) if users else 0.0, PASSING_SECONDS if passing else 0.0)
        if passed >= limit:
            break
        time.sleep(min(asked["interval_seconds"], limit - passed))
        users, passing = _look(module)
    users = users + passing
    module.exit_json(
        changed=bool(stopped),
        users=[dict(user, text=gpu_users.describe(user)) for user in users],
        stopped=stopped,
        waited_seconds=round(time.monotonic() - started, 1),
        diff={"before": before, "after": _lines(users)} if stopped and not module.check_mode else {},
    )


if __name__ == "__main__":
    main()
