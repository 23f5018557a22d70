# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
# Documentation of the action plugin of the same name; there is no code for the node.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: gpu_plan
short_description: Observe a node and plan what makes it a working GPU node
version_added: "0.1.0"
description:
  - Runs M(gpuready.node.gpu_stack_info) on the node, once and read-only, and plans on the controller - which
    driver, which container runtime and which images fit this node's GPUs, its kernel, its package sources
    and the workloads that the inventory asks for - and what must be done to get there.
  - What is asked for is read from the public variables of the gpuready roles (C(gpuready_workloads),
    C(nvidia_driver_branch), ...). A variable that starts like a role's variables but is none, or a value of
    the wrong type, is an error that names it, and nothing is run on the node.
  - The plan also says what an install is to the driver that is there (upgrade, downgrade, switch, ...), where
    a rollback would go back to, whether the modules can be loaded anew or only a reboot helps, and which
    kernel gets the module.
  - A reload of the modules that the role C(nvidia_driver) has tried in vain in this boot is taken into
    account (the next plan asks for the reboot); the observation then carries C(driver.reload_failed).
  - Nothing is changed, in check mode or otherwise. A conflict (no GPU, no driver that fits, ...) is a result
    and not a failure; RV(plan.status) says so.
options:
  observed:
    description:
      - Plan from this observation, as M(gpuready.node.gpu_stack_info) made it, and do not ask the node.
    type: dict
extends_documentation_fragment:
  - gpuready.node.attributes.read_only
  - gpuready.node.attributes.part_on_controller
  - gpuready.node.attributes.linux
author:
  - gpuready contributors (@gpuready)
seealso:
  - module: gpuready.node.gpu_stack_info
  - module: gpuready.node.container_gpu_probe
"""

EXAMPLES = r"""
- name: Observe and plan
  gpuready.node.gpu_plan:

- name: Refuse what cannot work
  ansible.builtin.assert:
    that: ansible_facts['gpu_plan'].status != 'conflict'

- name: Plan from what was recorded on another day
  gpuready.node.gpu_plan:
    observed: "{{ (lookup('ansible.builtin.file', 'gpu07.json') | from_json).gpu_stack }}"
  register: __site_plan
"""

RETURN = r"""
gpu_stack:
  description: The observation, with the GPUs' names filled in from the catalog.
  returned: success
  type: dict
  sample: {schema: 1, host: {hostname: gpulab-a100}}
plan:
  description:
    - C(status) is V(converged), V(changes) or V(conflict); C(actions) are in the order of application, each
      with layer, role, summary, reason and evidence; C(conflicts) say what contradicts what and the ways out.
  returned: success
  type: dict
  sample: {schema: 1, host: gpulab-a100, status: converged, actions: [], conflicts: []}
text:
  description: The plan for people.
  returned: success
  type: str
  sample: "gpulab-a100: nothing to do"
ansible_facts:
  description: C(gpu_stack) and C(gpu_plan), for the roles.
  returned: success
  type: dict
  contains:
    gpu_stack:
      description: Same as RV(gpu_stack).
      type: dict
      returned: success
      sample: {}
    gpu_plan:
      description: Same as RV(plan).
      type: dict
      returned: success
      sample: {}
"""
