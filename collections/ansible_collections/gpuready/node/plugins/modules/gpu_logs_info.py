#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
---
module: gpu_logs_info
short_description: Read the ends of the logs that tell about a node's GPU
version_added: "0.4.0"
description:
  - Reads the ends of the journals of Docker, containerd and NVIDIA's services, of apt's, DKMS' and NVIDIA's
    log files, and what C(nvidia-smi), C(lspci), C(lsmod), C(dkms status) and C(dpkg -l) say.
  - What is not on the node is left out. It is meant for M(gpuready.node.support_bundle), which takes secrets
    and names out of it; what this module returns is as it stands in the logs.
options:
  lines:
    description: How many lines of each log are read, from its end.
    type: int
    default: 400
  paths:
    description: Other files on the node to read. A star stands for one name within a folder.
    type: list
    elements: str
    default: []
  timeout_seconds:
    description: How long each program may take, in seconds.
    type: float
    default: 20
extends_documentation_fragment:
  - gpuready.node.attributes.read_only
  - gpuready.node.attributes.linux
author:
  - gpuready contributors (@gpuready)
requirements:
  - Python 3.8 or newer on the node
notes:
  - Reading most of these logs needs C(become).
seealso:
  - module: gpuready.node.support_bundle
  - module: gpuready.node.gpu_stack_info
"""

EXAMPLES = r"""
- name: Read the logs
  gpuready.node.gpu_logs_info:
    lines: 200
    paths: [/var/log/slurm/slurmd.log]
  become: true
  register: __site_logs
  no_log: true
"""

RETURN = r"""
logs:
  description: The end of each log, by name.
  returned: success
  type: dict
  sample: {journal-docker: "2026-11-23T10:00:00+0000 node dockerd[411]: API listen on /run/docker.sock"}
problems:
  description: What could not be read, with C(log) and C(error).
  returned: success
  type: list
  elements: dict
  sample: [{log: nvidia-smi, error: nvidia-smi did not answer in 20 s}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import node_logs
from ansible_collections.gpuready.node.plugins.module_utils.observe.node import Node


def main():
    module = AnsibleModule(
        argument_spec={
            "lines": {"type": "int", "default": 400},
            "paths": {"type": "list", "elements": "str", "default": []},
            "timeout_seconds": {"type": "float", "default": 20.0},
        },
        supports_check_mode=True,
    )
    lines, timeout = module.params["lines"], module.params["timeout_seconds"]
    if not 0 < lines <= 100000:
        module.fail_json(msg="lines is {0}; give a number from 1 to 100000".format(lines))
    if not 0 < timeout <= 600:
        module.fail_json(
            msg="timeout_seconds is {0:g}; give a number of seconds above 0 and up to 600".format(timeout)
        )
    for path in module.params["paths"]:
        if not path.startswith("/"):
            module.fail_json(msg="paths: {0} is not absolute; begin it with a slash".format(path))
    logs, problems = node_logs.read(Node(timeout=timeout), lines=lines, paths=module.params["paths"])
    module.exit_json(changed=False, logs=logs, problems=problems)


if __name__ == "__main__":
    main()
