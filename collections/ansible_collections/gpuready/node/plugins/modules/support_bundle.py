#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
# Documentation of the action plugin of the same name; there is no code for the node.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: support_bundle
short_description: Write one archive with all that is known of a node, without secrets and names
version_added: "0.4.0"
description:
  - Reads the node's logs (M(gpuready.node.gpu_logs_info)) and writes them to an archive on the controller,
    together with the observation, the plan, the diagnosis and the verifications of this run.
  - Passwords, tokens and keys become C(***); users, e-mail, IP and MAC addresses and names of machines become
    pseudonyms, the same throughout a bundle; serials and UUIDs become digests, the same in every bundle.
  - Every run writes a new archive, which only its owner can read.
options:
  dest:
    description: Folder on the controller. It is made where it is not there.
    type: path
    required: true
  diagnosis:
    description:
      - Result of M(gpuready.node.gpu_diagnose), with its C(diagnosis), C(facts) and C(verifications).
      - What this run knows of observation and plan is taken from the facts that those modules set.
    type: dict
    default: {}
  error:
    description: What kept this run from looking at the node, if anything did. It is put into the bundle.
    type: str
  keep_hostnames:
    description: Whether names of machines stay.
    type: bool
    default: false
  lines:
    description: How many lines of each log are taken, from its end.
    type: int
    default: 400
  paths:
    description: Other files on the node to put in.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - gpuready.node.attributes.part_on_controller
  - gpuready.node.attributes.linux
author:
  - gpuready contributors (@gpuready)
attributes:
  check_mode:
    description: Nothing is written in check mode.
    support: full
  diff_mode:
    description: Returns what would change.
    support: none
    details: An archive has no readable difference; O(ignore:dest) and the list of files are returned.
notes:
  - No redaction knows everything. Look through a bundle before it is handed on.
seealso:
  - module: gpuready.node.gpu_diagnose
  - module: gpuready.node.gpu_logs_info
"""

EXAMPLES = r"""
- name: Say what is wrong, and go on whatever it is
  gpuready.node.gpu_diagnose:
    must_be_healthy: false
  register: __site_diagnosis

- name: Write the support bundle
  gpuready.node.support_bundle:
    dest: "{{ playbook_dir }}/bundles"
    diagnosis: "{{ __site_diagnosis }}"
  become: true
"""

RETURN = r"""
path:
  description: The archive on the controller. Its name carries the node's name in the bundle.
  returned: success
  type: str
  sample: /srv/gpu/artifacts/bundles/gpuready-bundle-host-1-20261123T100000Z.tar.gz
files:
  description: What is in it.
  returned: success
  type: list
  elements: str
  sample: [README.txt, manifest.json, diagnosis.txt, facts.json, logs/kernel.log]
taken_out:
  description: How often what was taken out.
  returned: success
  type: dict
  sample: {host: 31, ip: 4, secret: 2, serial: 5, user: 7}
"""
