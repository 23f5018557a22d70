# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
# Documentation of the action plugin of the same name; there is no code for the node.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: onboarding_candidates
short_description: Say which nodes a request for onboarding means
version_added: "0.6.0"
description:
  - Reads names, addresses, lists and ranges, or the CSV of the data centre's asset system, and holds them
    against the inventory. Every node has a name, an address and a state afterwards.
  - All that is wrong is told at once, by line and column, before anything is changed anywhere - an address
    that is none, a name or address that is taken or there twice, an unknown column or group, a misspelt
    variable of a role.
  - A node that the inventory has already is found again, by its name or address, so that an interrupted
    onboarding goes on where it stopped.
  - Passwords of the CSV are never in the result; P(gpuready.node.bootstrap_password#lookup) reads one when
    it is needed.
  - Runs on the controller only. No node is asked and C(delegate_to) is not needed.
options:
  node:
    description:
      - C(10.0.0.17), C(10.0.0.17:2222), C(gpu17=10.0.0.17), a host name, a range C(10.0.0.[17:24]), two
        ranges of the same length C(gpu[17:24]=10.0.0.[17:24]), the name of a host of the inventory, or
        several of these as a list or with commas between them.
      - Either this or O(csv) is required.
    type: raw
  csv:
    description:
      - A CSV with commas, semicolons or tabs. Its first line names the columns - C(name) and C(address),
        which every row needs, C(port), C(groups), C(host_key) (a SHA256 fingerprint or the public key),
        C(bootstrap_user), C(bootstrap_password), and C(var:NAME) for a host variable.
    type: path
  inventory_file:
    description:
      - The YAML inventory that the nodes will be written into. Where it is left out or empty, the only one
        among the C(-i) sources of the run.
    type: path
  existing:
    description: Whether only nodes that the inventory has already are meant, and anything else is wrong.
    type: bool
    default: false
  skip_bad_rows:
    description: Whether to go on with the good ones where others are bad; these are told as a warning.
    type: bool
    default: false
extends_documentation_fragment:
  - gpuready.node.attributes.read_only
  - gpuready.node.attributes.on_controller
author:
  - gpuready contributors (@gpuready)
seealso:
  - module: gpuready.node.onboarding_proposal
  - module: gpuready.node.inventory_host
"""

EXAMPLES = r"""
- name: Read the request
  gpuready.node.onboarding_candidates:
    node: gpu[17:24]=10.0.0.[17:24]
  register: __site_candidates

- name: Read the data centre's list, and take what is right in it
  gpuready.node.onboarding_candidates:
    csv: assets.csv
    inventory_file: inventories/mysite/hosts.yml
    skip_bad_rows: true
  register: __site_candidates
"""

RETURN = r"""
inventory_file:
  description: The YAML inventory that the nodes will be written into.
  returned: success or failure
  type: str
  sample: inventories/mysite/hosts.yml
candidates:
  description: The nodes.
  returned: success or failure
  type: list
  elements: dict
  contains:
    name:
      description: Its name in the inventory; an address is its own name where none was given.
      type: str
      sample: gpu17
    address:
      description: Where it is reached.
      type: str
      sample: 10.0.0.17
    port:
      description: SSH's port; null where nobody named one.
      type: int
      sample: 22
    groups:
      description: The groups that were asked for.
      type: list
      elements: str
      sample: [a100]
    variables:
      description: Host variables of the CSV, of the types that their roles want.
      type: dict
      sample: {host_reboot_allowed: false}
    host_key:
      description: The SHA256 fingerprint of its host key; null where nobody gave one.
      type: str
      sample: SHA256:cJ6AyITYOB6iOVrYqDCkR+QbVLSVRaaZnx5jzbjq+GQ
    bootstrap_user:
      description: Who may log in at first; null where nobody said so.
      type: str
      sample: ubuntu
    bootstrap_password_given:
      description: Whether the CSV has a password for it.
      type: bool
      sample: true
    row:
      description: Its line in the CSV; null without one.
      type: int
      sample: 2
    state:
      description: V(new), V(quarantine) or V(member) (in C(gpu_nodes) already).
      type: str
      sample: new
rejected:
  description: What cannot be taken.
  returned: success or failure
  type: list
  elements: dict
  contains:
    row:
      description: The line of the CSV; null without one.
      type: int
      sample: 4
    value:
      description: What was asked for.
      type: str
      sample: gpu04, 10.0.0.300
    problem:
      description: What is wrong with it.
      type: str
      sample: "address: '10.0.0.300' is no IP address"
"""
