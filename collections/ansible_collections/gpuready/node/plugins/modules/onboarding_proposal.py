# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
# Documentation of the action plugin of the same name; there is no code for the node.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: onboarding_proposal
short_description: Propose a new node's groups and variables from what was observed of it
version_added: "0.6.0"
description:
  - The group is the one below C(gpu_nodes) that is named for the node's GPUs (C(a100), C(a100_80gb),
    C(rtx_4090), C(hopper)), unless groups were asked for; else C(gpu_nodes) itself.
  - Variables are only those that the node needs and its groups do not give - how it is reached, what the
    asset list says, and where a group demands what this node cannot have (a driver branch that its GPU is
    not in, say), the fewest demands that have to be given up, found by planning again.
  - Each group and each variable has its reason. Nothing is changed; M(gpuready.node.inventory_host) writes
    it.
options:
  name:
    description: The node's name; where it is left out, the host of the task.
    type: str
  gpu_stack:
    description:
      - The observation; where it is left out, the fact C(gpu_stack), as M(gpuready.node.gpu_plan) made
        it.
    type: dict
  groups:
    description: Groups that were asked for.
    type: list
    elements: str
    default: []
  variables:
    description: Host variables that were asked for.
    type: dict
    default: {}
  connection:
    description: How the node is reached, as C(ansible_…) variables.
    type: dict
    default: {}
  inventory_file:
    description:
      - The YAML inventory. Where it is left out or empty, the only one among the C(-i) sources of the run.
    type: path
extends_documentation_fragment:
  - gpuready.node.attributes.read_only
  - gpuready.node.attributes.on_controller
author:
  - gpuready contributors (@gpuready)
seealso:
  - module: gpuready.node.gpu_plan
  - module: gpuready.node.inventory_host
"""

EXAMPLES = r"""
- name: Observe and plan
  gpuready.node.gpu_plan:

- name: Propose the node's entry in the inventory
  gpuready.node.onboarding_proposal:
    connection:
      ansible_host: 10.0.0.17
      ansible_user: gpuready
  register: __site_proposal

- name: Write it down
  gpuready.node.inventory_host:
    name: "{{ inventory_hostname }}"
    groups: "{{ __site_proposal.group_names }}"
    variables: "{{ __site_proposal.variables_dict }}"
"""

RETURN = r"""
inventory_file:
  description: The YAML inventory.
  returned: success
  type: str
  sample: inventories/mysite/hosts.yml
groups:
  description: The groups, each with its reason; never empty.
  returned: success
  type: list
  elements: dict
  sample: [{name: a100, reason: "its GPUs are 8 x A100 SXM4 40GB, which that group is for"}]
group_names:
  description: Their names.
  returned: success
  type: list
  elements: str
  sample: [a100]
variables:
  description: The variables, each with its reason.
  returned: success
  type: list
  elements: dict
  sample: [{name: ansible_host, value: 10.0.0.17, reason: its name is not its address}]
variables_dict:
  description: The variables as a mapping.
  returned: success
  type: dict
  sample: {ansible_host: 10.0.0.17}
notes:
  description: What else is worth knowing before somebody approves.
  returned: success
  type: list
  elements: str
  sample: []
text:
  description: All of it for people.
  returned: success
  type: str
  sample: "gpu17 in the inventory:\n  group a100: its GPUs are 8 x A100 SXM4 40GB, which that group is for\n"
"""
