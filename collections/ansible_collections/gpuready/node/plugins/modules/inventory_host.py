# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
# Documentation of the action plugin of the same name; there is no code for the node.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: inventory_host
short_description: Put a host into a YAML inventory, move it between groups, or take it out
version_added: "0.6.0"
description:
  - Edits the inventory file as a careful person would. What is not meant stays byte for byte, with
    comments, order, quoting, indentation and line ends; a host that moves takes its own lines and comments
    along.
  - The file is locked while it is edited, so that many nodes may come at once, and replaced in one step, so
    that whoever is interrupted leaves the old file or the new one. Its mode, owner and access lists stay.
  - The result is read again before it counts, and must be exactly what was meant. A file that cannot be
    parsed, or that is written so unusually that an edit would not be safe (anchors, aliases, a range of
    hosts), is refused with the reason and not touched.
  - Runs on the controller only. No connection is made and C(delegate_to) is not needed.
options:
  path:
    description:
      - The YAML file. A folder means the only YAML inventory in it (C(hosts.yml) where there is one).
      - Where it is left out or empty, the only YAML file among the C(-i) sources of the run.
    type: path
  name:
    description: The host's name in the inventory; where it is left out, the host of the task.
    type: str
  groups:
    description:
      - The groups that the host is directly in afterwards, of C(gpu_nodes), C(gpu_quarantine) and the
        groups below them. Membership elsewhere stays; a group elsewhere that is named is added.
      - They have to exist. Only C(gpu_nodes) and C(gpu_quarantine) are made where they are missing, beside
        each other.
      - Where it is left out, the host stays where it is.
    type: list
    elements: str
  variables:
    description:
      - Host variables to be set; other ones that the host has stay as they are.
      - A variable that is named like a secret is refused.
    type: dict
  state:
    description: V(absent) takes the host and its variables out of all groups of the file.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - gpuready.node.attributes.on_controller
author:
  - gpuready contributors (@gpuready)
attributes:
  check_mode:
    description: Says what would change, and leaves the file alone.
    support: full
  diff_mode:
    description: Shows the lines that change.
    support: full
  idempotent:
    description: A host that is as it should be is not changed.
    support: full
seealso:
  - module: gpuready.node.onboarding_candidates
  - module: gpuready.node.onboarding_proposal
"""

EXAMPLES = r"""
- name: Write a new node into quarantine
  gpuready.node.inventory_host:
    path: inventories/mysite/hosts.yml
    name: gpu17
    groups: [gpu_quarantine]
    variables:
      ansible_host: 10.0.0.17
      ansible_user: gpuready

- name: Take an accepted node into service
  gpuready.node.inventory_host:
    name: "{{ inventory_hostname }}"
    groups: [a100]

- name: Take a node out for good
  gpuready.node.inventory_host:
    name: gpu17
    state: absent
"""

RETURN = r"""
inventory_file:
  description: The file.
  returned: success
  type: str
  sample: inventories/mysite/hosts.yml
groups_before:
  description: The groups of the file that the host was directly in.
  returned: success
  type: list
  elements: str
  sample: [gpu_quarantine]
groups:
  description: The groups of the file that it is directly in now.
  returned: success
  type: list
  elements: str
  sample: [a100]
host_vars:
  description: Files of variables of a host that was taken out, which are still there.
  returned: success
  type: list
  elements: str
  sample: []
diff:
  description: The lines that change, with one line around them and without secrets.
  returned: success
  type: dict
  contains:
    prepared:
      description: The difference as a text.
      type: str
      sample: "+        gpu17:\n"
"""
