#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
---
module: workbench
short_description: Users' workbenches, JupyterLab and SSH in a container with GPUs
version_added: "0.2.0"
description:
  - Writes what a plan says of the workbenches (C(plan.workbench) of M(gpuready.node.gpu_plan)), makes on the
    node what only the node knows (Jupyter's tokens or passwords, the SSH servers' host keys, homes), and
    starts what does not run with it, each under a systemd unit of its own.
  - A workbench is started anew only when its configuration, its image or its token is another one. A change
    of the authorized keys ends nobody's work.
  - It has started when Jupyter and the SSH server answer. One that does not is put back as it was before, and
    the former one runs again.
  - No secret is returned, logged or passed in a command line.
options:
  users:
    description:
      - With O(state=present), the rows of C(plan.workbench.users).
    type: list
    elements: dict
    default: []
  names:
    description: With O(state=absent), whose workbenches to take away.
    type: list
    elements: str
    default: []
  all:
    description: With O(state=absent), take away every workbench of the node.
    type: bool
    default: false
  state:
    description:
      - V(present) writes and starts them.
      - V(absent) takes the containers, units, networks, files and secrets away. Homes stay.
    type: str
    choices: [present, absent]
    default: present
  renew_secrets:
    description: Whether to make new tokens and passwords, which ends the workbenches' running kernels.
    type: bool
    default: false
  remove_homes:
    description: With O(state=absent), homes to remove with all that is in them.
    type: list
    elements: path
    default: []
  remove_folders:
    description: With O(state=absent), folders to remove where nothing is left in them.
    type: list
    elements: path
    default: []
  start_timeout_seconds:
    description: How long a workbench may take until it answers, in seconds.
    type: int
    default: 60
attributes:
  check_mode:
    description: Says what would be done, and does nothing.
    support: full
  diff_mode:
    description: Shows the files that are written, but those that hold a secret.
    support: full
  idempotent:
    description: What is so already is left alone, and keeps running.
    support: full
  platform:
    description: Linux with systemd and Docker.
    support: full
    platforms: linux
author:
  - gpuready contributors (@gpuready)
"""

EXAMPLES = r"""
- name: Make the workbenches as the plan says
  gpuready.node.workbench:
    users: "{{ ansible_facts['gpu_plan'].workbench.users }}"

- name: Take away the workbench of one who has left; the home stays
  gpuready.node.workbench:
    names: [alice]
    state: absent

- name: Give everybody a new token
  gpuready.node.workbench:
    users: "{{ ansible_facts['gpu_plan'].workbench.users }}"
    renew_secrets: true
"""

RETURN = r"""
done:
  description: What was done, or would be, in order.
  returned: always
  type: list
  elements: str
  sample: ["wrote /etc/gpuready/workbench/alice/sshd_config", "gpuready-workbench-alice.service: started"]
homes_made:
  description: Homes that were not there before, or would be made.
  returned: always
  type: list
  elements: str
  sample: [/srv/gpuready/home/alice]
folders_made:
  description: Folders that were not there before, or would be made, outer ones first.
  returned: always
  type: list
  elements: str
  sample: [/srv/gpuready, /srv/gpuready/home]
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import workbench_node


def diff_of(rows):
    """The files as they are and as they would be; no secret is among the plan's files."""
    before, after = [], []
    for row in rows:
        for file in row.get("files") or []:
            present = workbench_node.read_text(file["path"])
            if present != file["content"]:
                before.append("# {0}\n{1}".format(file["path"], present or ""))
                after.append("# {0}\n{1}".format(file["path"], file["content"]))
    return {"before": "\n".join(before), "after": "\n".join(after)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "users": {"type": "list", "elements": "dict", "default": []},
            "names": {"type": "list", "elements": "str", "default": []},
            "all": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            # Whether, and not which: Ansible takes the name for a secret.
            "renew_secrets": {"type": "bool", "default": False, "no_log": False},
            "remove_homes": {"type": "list", "elements": "path", "default": []},
            "remove_folders": {"type": "list", "elements": "path", "default": []},
            "start_timeout_seconds": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    # The node's own Docker, whatever root's shell points at.
    for name in [name for name in os.environ if name.startswith("DOCKER_")]:
        del os.environ[name]
    rows = module.params["users"]
    benches = workbench_node.Workbenches(
        check=module.check_mode,
        renew=module.params["renew_secrets"],
        start_timeout=module.params["start_timeout_seconds"],
    )
    diff = {"before": "", "after": ""}
    problem = None
    try:
        if module.params["state"] == "present":
            diff = diff_of(rows)
            benches.present(rows)
        else:
            benches.absent(benches.names() if module.params["all"] else module.params["names"])
            benches.remove_homes(module.params["remove_homes"])
            benches.remove_folders(module.params["remove_folders"])
    except (OSError, workbench_node.WorkbenchError) as error:
        problem = str(error)
    result = {
        "changed": bool(benches.changed),
        "done": benches.changed,
        "homes_made": benches.homes_made,
        # Those of the users go with their workbenches.
        "folders_made": [
            path
            for path in benches.folders_made
            if not any((path + "/").startswith(row["folder"] + "/") for row in rows)
        ],
        "diff": diff,
    }
    if problem is not None:
        module.fail_json(msg=problem, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
