# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
# Documentation of the action plugin of the same name; there is no code for the node.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: ssh_host_key
short_description: Know a node by its SSH host key before anything is told to it
version_added: "0.7.0"
description:
  - Asks the node for its host key with C(ssh) and the connection's own options (jump hosts, aliases,
    ports), in a login that tries
    no password and no key. A key that C(known_hosts) has already is trusted, and so is one whose
    fingerprint somebody vouches for;
    the latter is written to C(known_hosts). Everything else fails with the fingerprint and what to do. A
    key that has changed
    is never accepted without its fingerprint.
  - Runs on the controller alone.
options:
  host_key:
    description:
      - The fingerprint, C(SHA256:…) as C(ssh-keygen -lf) prints it; several with commas. An old key of the
        same host is replaced.
    type: str
    default: ""
  accepted:
    description: Whether a key that nobody vouches for and nobody knows is taken as it is. It does not help
      a changed one.
    type: bool
    default: false
  known_hosts_file:
    description:
      - The file that keys are written to; C(ssh) must look there for this host. By default the first of
        its C(UserKnownHostsFile).
    type: path
  state:
    description: V(absent) takes the host's keys out of the file, without asking the host.
    type: str
    choices: [present, absent]
    default: present
author:
  - gpuready contributors (@gpuready)
attributes:
  check_mode:
    description: Asks and judges; writes nothing.
    support: full
  diff_mode:
    description: Shows the lines that go and come.
    support: full
  action:
    description: It is an action plugin that runs on the controller alone.
    support: full
"""

EXAMPLES = r"""
- name: Know the node by the fingerprint in the data centre's papers
  gpuready.node.ssh_host_key:
    host_key: SHA256:mVPwvezndPv/ARoIadVY98vAC0g+P/5633yTC4d/wXE

- name: Forget a node that is gone
  gpuready.node.ssh_host_key:
    state: absent
"""

RETURN = r"""
trust:
  description:
    - V(pinned) (somebody vouched for it), V(known) (C(known_hosts) has it), V(accepted_unseen), or
      V(forgotten).
  returned: success
  type: str
  sample: pinned
fingerprints:
  description: Of the keys that this is about. Empty where an authority signed for the host, which C(ssh)
    checks itself.
  returned: success
  type: list
  elements: str
  sample: ["SHA256:mVPwvezndPv/ARoIadVY98vAC0g+P/5633yTC4d/wXE"]
known_hosts_file:
  description: The file that counts.
  returned: success
  type: str
  sample: /home/alice/.ssh/known_hosts
name:
  description: The host's name in it.
  returned: success
  type: str
  sample: "[10.0.0.17]:2222"
"""
