#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

# Everything is done on the controller, by action/gpu_acceptance.py; the judgement itself is acceptance.py in
# module_utils.

DOCUMENTATION = r"""
---
module: gpu_acceptance
short_description: Judge whether a new node is good enough for service, and write its acceptance record
version_added: "0.6.0"
description:
  - Takes what was verified, watched and read of a node, holds it against limits, and makes the record that
    section 16 of C(docs/contracts.md) describes - the verdict with its reasons, the hardware with its serial
    numbers, driver, toolkit and image digests, every verification, what the GPUs did meanwhile, and a digest.
  - A node is accepted when nothing speaks against it. What nobody could see is told and never called good.
  - A rejected node's record has a diagnosis, from this run's observation (C(ansible_facts.gpu_stack)) and the
    first failed verification.
  - It asks the node nothing. The role C(gpu_acceptance) does what comes before.
options:
  verifications:
    description: The verifications in their order, as M(gpuready.node.container_gpu_probe) returned them.
    type: list
    elements: dict
    default: []
  stress:
    description: The verification at level C(stress), if there was one.
    type: dict
  watch:
    description: What M(gpuready.node.gpu_watch) saw.
    type: dict
  watch_problem:
    description: What it said to be wrong with the watch.
    type: str
  hardware:
    description: What M(gpuready.node.node_hardware_info) read.
    type: dict
  limits:
    description:
      - What is asked of the node - C(rounds), C(level), C(stress_minutes), C(max_temperature_celsius),
        C(refused_throttle_reasons), C(min_pcie_width), C(min_relative_speed_percent), C(expect). What is left
        out is as the role's defaults.
    type: dict
    default: {}
  failure:
    description: What ended it before - C(stage) and C(message). Such a node is rejected.
    type: dict
  diagnosis:
    description: The diagnosis of what went wrong; without it, one is made when the node is rejected.
    type: dict
  host_key:
    description: How the node's SSH host key came to be trusted - C(fingerprints) and C(trust).
    type: dict
  address:
    description: Where the node was reached.
    type: str
  simulated:
    description: The inventory's own word that the GPUs are simulated, where the node has no plan yet.
    type: bool
    default: false
  started:
    description: When it began, in ISO 8601; in UTC where it names no zone.
    type: str
  signed_by:
    description: Who signs the record; by default who runs Ansible, and where.
    type: str
  timings:
    description: How long each stage took - C(stage) and C(seconds).
    type: list
    elements: dict
    default: []
  folder:
    description:
      - The controller's folder that keeps each node's last record, as JSON and as text. Without it, nothing
        is written.
    type: path
  must_pass:
    description: Whether a rejected node fails the task, after its record was written.
    type: bool
    default: true
extends_documentation_fragment:
  - gpuready.node.attributes.part_on_controller
author:
  - gpuready contributors (@gpuready)
attributes:
  check_mode:
    description: Judges, and writes no record.
    support: full
  diff_mode:
    description: Changes nothing on the node, so that there is no difference to show.
    support: none
  platform:
    description: Where it works.
    support: full
    platforms: any
notes:
  - A record is a report, as those in C(artifacts); writing one is not counted as a change of the node.
seealso:
  - module: gpuready.node.gpu_watch
  - module: gpuready.node.node_hardware_info
  - module: gpuready.node.container_gpu_probe
"""

EXAMPLES = r"""
- name: Judge the node
  gpuready.node.gpu_acceptance:
    verifications: "{{ __site_probes.results | map(attribute='verification') | list }}"
    watch: "{{ __site_watch.watch }}"
    hardware: "{{ __site_hardware.hardware }}"
    limits:
      rounds: 3
      max_temperature_celsius: 80
      expect:
        gpus: 8
        gpu_model: NVIDIA H100 80GB HBM3
    folder: "{{ inventory_dir }}/acceptance"

- name: Write down that a node did not come as far
  gpuready.node.gpu_acceptance:
    failure:
      stage: provision
      message: the driver could not be installed
    folder: "{{ inventory_dir }}/acceptance"
    must_pass: false
"""

RETURN = r"""
acceptance:
  description: The record.
  returned: success or failure
  type: dict
  contains:
    schema:
      description: Version of this structure.
      type: int
      sample: 1
    host:
      description: Inventory name of the node.
      type: str
      sample: gpu17
    address:
      description: O(address).
      type: str
      sample: 10.0.0.17
    simulated:
      description: Whether the inventory calls this node simulated.
      type: bool
      sample: false
    verdict:
      description: V(accepted) or V(rejected).
      type: str
      sample: accepted
    because:
      description: Why it is rejected; of an accepted one, everything that was looked at.
      type: list
      elements: str
      sample: [3 of 3 verifications of tensorflow-2.9 listed and computed on 8 of 8 GPUs]
    started:
      description: When it began.
      type: str
      sample: "2026-11-23T16:40:00+00:00"
    finished:
      description: When it was judged.
      type: str
      sample: "2026-11-23T16:52:00+00:00"
    seconds:
      description: How long it took.
      type: float
      sample: 720.0
    signed_by:
      description: Who ran it.
      type: str
      sample: alice@controller
    host_key:
      description: O(host_key).
      type: dict
      sample: {fingerprints: ["SHA256:..."], trust: pinned}
    hardware:
      description: O(hardware).
      type: dict
      sample: {vendor: Supermicro, serial: S412345X3C11111}
    software:
      description: The system, kernel, driver, Docker, toolkit, images with their digests, and environments.
      type: dict
      sample: {os: Ubuntu 22.04.5 LTS, driver: {version: 580.95.05, flavour: open}}
    limits:
      description: What was asked of the node.
      type: dict
      sample: {rounds: 3, level: compute}
    checks:
      description:
        - Everything that was looked at - C(check), C(ok) (null where it could not be told, or does not
          decide) and C(text).
      type: list
      elements: dict
      sample: [{check: xid, ok: true, text: no Xid error came up}]
    rounds:
      description: The verifications, in short.
      type: list
      elements: dict
      sample: [{workload: tensorflow-2.9, round: 1, ok: true, gpus_listed: 8, gpus_expected: 8}]
    stress:
      description: The load on all GPUs; null when none was asked for.
      type: dict
      sample: {minutes: 10, ok: true, workload: tensorflow-2.9, iterations_per_second: 812.4, error: null}
    watch:
      description: O(watch).
      type: dict
      sample: {seconds: 640.2, samples: 641, xids: []}
    timings:
      description: O(timings).
      type: list
      elements: dict
      sample: [{stage: burn_in, seconds: 27.9}]
    diagnosis:
      description: Of a rejected node, what is wrong with it; null where no cause is known.
      type: dict
      sample: null
    digest:
      description: SHA-256 of the canonical JSON of everything above.
      type: str
      sample: "sha256:9f2c..."
text:
  description: The record as people read it.
  returned: success or failure
  type: str
  sample: "ACCEPTANCE RECORD  gpu17 (10.0.0.17)"
refusal:
  description: Why it is rejected, in words; null when it is accepted.
  returned: success or failure
  type: str
  sample: null
file:
  description: Where the record was written; null where it was not.
  returned: success or failure
  type: str
  sample: /srv/site/inventories/berlin/acceptance/gpu17.json
ansible_facts:
  description: C(gpu_acceptance), the record.
  returned: success or failure
  type: dict
  contains:
    gpu_acceptance:
      description: Same as RV(acceptance).
      type: dict
      returned: success or failure
      sample: {}
"""
