# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
# Documentation of the action plugin of the same name; there is no code for the node.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: gpu_usage
short_description: Say whether a running job really computes on the GPU, and if not, why
version_added: "0.5.0"
description:
  - Looks at a container, or at a process with what it has started, for O(window_seconds)
    (M(gpuready.node.gpu_usage_info)), and says whether it computes on a GPU, holds one without computing,
    computes on the CPU in silence, does nothing, or does not run.
  - Where the job has no GPU, the diagnosis (M(gpuready.node.gpu_diagnose)) says why - a container that was
    started without a GPU, C(CUDA_VISIBLE_DEVICES), a wheel that was built for the CPU, a driver that is too
    old, and whatever else it knows.
  - Nothing is changed and nothing is started in the job.
options:
  container:
    description: Name or id of the container. Either this or O(pid) is required.
    type: str
  pid:
    description: The process, by its number on the node; one in a container is asked about alone.
    type: int
  window_seconds:
    description: For how long to look, in seconds.
    type: float
    default: 5
  interval_seconds:
    description: The time from one look to the next, in seconds.
    type: float
    default: 0.5
  diagnose:
    description: Whether to ask why, where the job has no GPU.
    type: bool
    default: true
  simulated:
    description: The inventory's own word that the node's GPUs are simulated; it is carried into the answer.
    type: bool
    default: false
  must_use_gpu:
    description:
      - Whether anything but C(on_gpu) and C(idle_on_gpu) fails the task, with the verdict as its message.
      - If V(false), RV(usage.verdict) tells.
    type: bool
    default: true
author:
  - gpuready contributors (@gpuready)
attributes:
  check_mode:
    description: Can run in check mode and return what it would return otherwise.
    support: full
  diff_mode:
    description: Returns what would change.
    support: none
    details: Nothing is ever changed.
  action:
    description: It is an action plugin; part of it runs on the controller.
    support: full
requirements:
  - Python 3.8 or newer on the node; Docker for O(container)
seealso:
  - module: gpuready.node.gpu_usage_info
  - module: gpuready.node.gpu_diagnose
"""

EXAMPLES = r"""
- name: Fail unless the training really runs on the GPU
  gpuready.node.gpu_usage:
    container: training
    window_seconds: 20
  become: true

- name: Ask about a process, and go on whatever it is
  gpuready.node.gpu_usage:
    pid: 4711
    must_use_gpu: false
  become: true
  register: __site_usage
"""

RETURN = r"""
usage:
  description: The verdict, as section 14 of C(docs/contracts.md) describes it.
  returned: success or failure
  type: dict
  contains:
    verdict:
      description:
        - V(on_gpu), V(idle_on_gpu) (it has a context and memory, and does not compute), V(on_cpu), V(idle)
          (it has no GPU and does nothing), V(not_running), V(unknown).
      type: str
      sample: on_cpu
    because:
      description: What that rests on, and why it is so.
      type: list
      elements: str
      sample: [its process has no context on any of the 1 GPU, it uses 99.8 % of a CPU core,
        "why: the container was started without a GPU"]
    subject:
      description: The job.
      type: dict
      sample: {kind: container, asked: training}
    gpus:
      description: The GPUs that it has a context on.
      type: list
      elements: dict
      sample: []
    memory_mib:
      description: What it holds of their memory, in MiB; null where that is unknown.
      type: int
      sample: 0
    utilization_percent:
      description: Mean and peak of its most used GPU; null where that is unknown or it has none.
      type: dict
      sample: {mean: 91.4, max: 97.0}
    cpu_percent:
      description: What it takes of the CPU, in percent of one core.
      type: float
      sample: 99.8
    diagnosis:
      description: Why it has no GPU, as section 8 has it; null where that was not asked.
      type: dict
      sample: {}
observed:
  description: What was seen, as M(gpuready.node.gpu_usage_info) returns it.
  returned: success or failure
  type: dict
  sample: {}
text:
  description: The verdict for people.
  returned: success or failure
  type: str
  sample: "gpu01: container training computes on the GPU"
gpu_stack:
  description: The observation, when the diagnosis made one.
  returned: when this run had none
  type: dict
  sample: {}
plan:
  description: The plan, when the diagnosis made one.
  returned: when this run had none
  type: dict
  sample: {}
"""
