# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
# Documentation of the action plugin of the same name; there is no code for the node.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: gpu_diagnose
short_description: Say why a node, or a container on it, has no GPU
version_added: "0.4.0"
description:
  - Names what is wrong, in which of the four layers, by which evidence, what to do, and whether C(site.yml)
    will do it. Several independent faults are all named; what follows from another is named as that.
  - Facts come first. The node is observed and planned for (M(gpuready.node.gpu_plan)), unless this run has.
    Where that does not decide, the workloads whose images are on the node are run
    (M(gpuready.node.container_gpu_probe), level C(list)), and where one of them fails, its image is looked
    into (M(gpuready.node.gpu_chain_probe)).
  - With O(container) the question is about that container, and no workload is run.
  - Nothing is changed, in check mode or otherwise, nothing is pulled, and what is started is removed.
options:
  container:
    description: Name or id of a container on the node that is asked about, running or ended.
    type: str
  framework:
    description:
      - What is known of a program on the host that is asked about, as C(framework) in section 8 of
        C(docs/contracts.md) has it; M(gpuready.node.gpu_usage_info) returns it as C(subject.program).
      - No workload is run then. Excludes O(container).
    type: dict
  verifications:
    description:
      - Results of M(gpuready.node.container_gpu_probe) that are at hand (its C(verification)).
      - Without them, the workloads are run where the facts do not decide and O(verify) allows it.
    type: list
    elements: dict
  verify:
    description: Whether a workload may be run to see whether the GPU is listed in its container.
    type: bool
    default: true
  verify_timeout_seconds:
    description: How long a workload may take, in seconds.
    type: int
    default: 120
  probe_timeout_seconds:
    description: How long each probe may take, in seconds.
    type: float
    default: 30
  must_be_healthy:
    description:
      - Whether anything but health fails the task, with the diagnosis as its message.
      - If V(false), RV(diagnosis.status) tells.
    type: bool
    default: true
extends_documentation_fragment:
  - gpuready.node.attributes.read_only
  - gpuready.node.attributes.part_on_controller
  - gpuready.node.attributes.linux
author:
  - gpuready contributors (@gpuready)
seealso:
  - module: gpuready.node.gpu_plan
  - module: gpuready.node.gpu_chain_probe
  - module: gpuready.node.container_gpu_probe
"""

EXAMPLES = r"""
- name: Say what is wrong with the node
  gpuready.node.gpu_diagnose:

- name: Say why a container has no GPU
  gpuready.node.gpu_diagnose:
    container: jupyter

- name: Diagnose without starting any workload, and go on whatever it is
  gpuready.node.gpu_diagnose:
    verify: false
    must_be_healthy: false
  register: __site_diagnosis
"""

RETURN = r"""
diagnosis:
  description: The answer, as section 8 of C(docs/contracts.md) describes it.
  returned: success or failure
  type: dict
  contains:
    status:
      description:
        - V(healthy), V(cause_found), or V(unknown) where something does not work and no known cause explains
          it.
      type: str
      sample: cause_found
    first_broken:
      description: The first broken link of the chain from the PCI bus to the framework; null when none is.
      type: str
      sample: toolkit
    chain:
      description: Every link with C(link), C(layer), C(state) (true, false, null for unknown), C(evidence).
      type: list
      elements: dict
      sample: [{link: bus, layer: host, state: true, evidence: [1 GPU on the PCI bus]}]
    causes:
      description:
        - The causes, ranked, each with layer, link, title, confidence, evidence, fix, repair class, what of
          the plan repairs it (C(site)), and what follows from it (C(consequences)).
      type: list
      elements: dict
      sample:
        - cause: toolkit-unknown-to-dockerd
          layer: container_runtime
          title: dockerd was started before the toolkit was installed
          confidence: 0.99
          certain: true
          standing: root
          repair: safe
    unexplained:
      description: Lines that look like errors and that no cause explains.
      type: list
      elements: str
      sample: []
text:
  description: The diagnosis for people, one screen.
  returned: success or failure
  type: str
  sample: "gpulab-a100: nothing is wrong, as far as this tells"
facts:
  description:
    - What it rests on besides observation and plan - C(verification), C(container), C(framework), C(probes).
  returned: success or failure
  type: dict
  sample: {}
verifications:
  description: The verifications that were at hand or made.
  returned: success or failure
  type: list
  elements: dict
  sample: []
gpu_stack:
  description: The observation, when it was made by this task.
  returned: when this run had none
  type: dict
  sample: {}
plan:
  description: The plan, when it was made by this task.
  returned: when this run had none
  type: dict
  sample: {}
ansible_facts:
  description: C(gpu_diagnosis), and C(gpu_stack) and C(gpu_plan) when they were made by this task.
  returned: success or failure
  type: dict
  contains:
    gpu_diagnosis:
      description: Same as RV(diagnosis).
      type: dict
      returned: success or failure
      sample: {}
"""
