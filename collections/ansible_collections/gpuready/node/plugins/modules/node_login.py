# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
# Documentation of the action plugin of the same name; there is no code for the node.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: node_login
short_description: Find out who can log in to a node, by what, and whether they become root
version_added: "0.7.0"
description:
  - Logs in anew, never over a connection that is open already - first as O(automation_user) with the key,
    then as the task's
    variables say (C(ansible_user), C(ansible_password), C(ansible_ssh_private_key_file),
    C(ansible_become_password)). The first way
    that leads to root is returned.
  - A way that fails says why in one sentence - not reached, wrong password, a server that takes none, an
    expired one, no sudo, a system
    that is neither Ubuntu nor Debian, no Python.
  - A command that only reads runs on the node, by C(sh), since nobody knows yet whether there is a Python.
  - Secrets come from the task's variables and not from its arguments. They go to C(ssh) by C(SSH_ASKPASS)
    and to C(sudo) by standard
    input, so that they are in no process's arguments.
options:
  automation_user:
    description: The user that is tried first, with the connection's key and without any password.
    type: str
  bootstrap:
    description: Whether the task's own variables are tried then. Without it, this proves the automation
      user's login and nothing else.
    type: bool
    default: true
  private_key_file:
    description: The automation user's private key; by default the connection's.
    type: path
author:
  - gpuready contributors (@gpuready)
extends_documentation_fragment:
  - gpuready.node.attributes.read_only
  - gpuready.node.attributes.part_on_controller
"""

EXAMPLES = r"""
- name: Find the way in
  gpuready.node.node_login:
    automation_user: gpuready
  vars:
    ansible_user: root
    ansible_password: "{{ lookup('gpuready.node.bootstrap_password', inventory_hostname, csv='assets.csv') }}"
  register: __node_access_way

- name: Prove that the new login works before the old one goes
  gpuready.node.node_login:
    automation_user: gpuready
    bootstrap: false
"""

RETURN = r"""
user:
  description: Who gets in.
  returned: success
  type: str
  sample: root
by:
  description: V(key) or V(password).
  returned: success
  type: str
  sample: password
automation:
  description: Whether it is the automation user's own way, so that access is set up already.
  returned: success
  type: bool
  sample: false
root:
  description: How the user is root - V(login) (it is), V(sudo), or V(sudo_password).
  returned: success
  type: str
  sample: login
os:
  description: The system's own name.
  returned: success
  type: str
  sample: Ubuntu 22.04.5 LTS
"""
