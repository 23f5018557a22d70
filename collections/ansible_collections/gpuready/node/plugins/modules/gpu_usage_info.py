#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
---
module: gpu_usage_info
short_description: Look for a while at who uses a node's GPUs
version_added: "0.5.0"
description:
  - Looks at every GPU through NVML (utilisation, memory, temperature, power, clocks, throttling) and at the
    processes that have a context on it - their type (C computes, G draws), memory, share of the GPU, share
    of the CPU, user and container - again and again for O(window_seconds), and returns means and peaks.
  - With O(container) or O(pid) it also looks at that job - its processes, what they take of the CPU, which
    frameworks and whether the driver's library are loaded in them. That is what tells a job on the GPU from
    one that fell back to the CPU in silence.
  - Where the job is a Python on the host that has no GPU, its own interpreter says, as the process's owner,
    which framework it has and for which CUDA that was built; no framework is imported.
  - Command lines are not returned, for they may hold secrets. Of a job's environment only the names that
    concern GPUs, libraries and frameworks are.
options:
  window_seconds:
    description: For how long to look, in seconds. V(0) looks once.
    type: float
    default: 5
  interval_seconds:
    description: The time from one look to the next, in seconds.
    type: float
    default: 0.5
  container:
    description: Name or id of the container that is asked about, running or ended.
    type: str
  pid:
    description: The process that is asked about, with what it has started; by its number on the node.
    type: int
  simulated:
    description: The inventory's own word that the node's GPUs are simulated; it is carried into the answer.
    type: bool
    default: false
extends_documentation_fragment:
  - gpuready.node.attributes.read_only
author:
  - gpuready contributors (@gpuready)
attributes:
  platform:
    description: Where it works.
    support: full
    platforms: Linux
  action:
    description: An action plugin hands over NVML's bindings; everything else is done on the node.
    support: full
requirements:
  - nvidia-ml-py on the controller, or pynvml on the node
  - Python 3.8 or newer on the node; Docker for O(container) and for the names of containers
notes:
  - Only root sees everybody's processes.
seealso:
  - module: gpuready.node.gpu_usage
  - module: gpuready.node.gpu_diagnose
"""

EXAMPLES = r"""
- name: See who uses the GPUs now
  gpuready.node.gpu_usage_info:
    window_seconds: 0
  become: true
  register: __site_usage

- name: Look at a container for half a minute
  gpuready.node.gpu_usage_info:
    container: training
    window_seconds: 30
    interval_seconds: 1
  become: true
  register: __site_usage
"""

RETURN = r"""
usage:
  description: What was seen, as section 14 of C(docs/contracts.md) describes it.
  returned: success
  type: dict
  contains:
    simulated:
      description: O(simulated).
      type: bool
      sample: false
    seconds:
      description: For how long was looked.
      type: float
      sample: 5.02
    samples:
      description: How often.
      type: int
      sample: 11
    driver_version:
      description: The driver's version; null where NVML does not answer.
      type: str
      sample: 580.95.05
    gpus:
      description:
        - Every GPU as it was at last, with C(utilization) (mean and max in percent) over the whole time.
      type: list
      elements: dict
      sample:
        - index: 0
          uuid: GPU-6d3f...
          name: NVIDIA A100 80GB PCIe
          utilization_percent: 93
          utilization: {mean: 91.4, max: 97.0}
          memory_used_mib: 40312
          memory_total_mib: 81920
          temperature_c: 61
          power_watts: 241.3
    silent_gpus:
      description: The indexes of GPUs whose processes the driver does not tell.
      type: list
      elements: int
      sample: []
    processes:
      description:
        - Everybody with a context on a GPU, a row per process and GPU; C(sm_percent) and C(cpu_percent) are
          mean and max, the latter of one core.
      type: list
      elements: dict
      sample:
        - pid: 4711
          name: python3
          type: C
          gpu: 0
          memory_mib: 39800
          sm_percent: {mean: 91.4, max: 97.0}
          cpu_percent: {mean: 103.0, max: 110.2}
          container: {id: 6b1c..., name: training}
          user: root
    load:
      description: The node's load averages and its number of CPUs.
      type: dict
      sample: {one: 1.2, five: 0.9, fifteen: 0.5, cpus: 32}
    error:
      description: NVML's words where it does not answer; null otherwise.
      type: str
      sample: Driver/library version mismatch
    subject:
      description:
        - O(container) or O(pid) - whether it runs, its container, its processes with C(cpu_percent),
          C(gpus), C(libcuda), C(frameworks), and for a Python on the host without a GPU C(program), what it
          has of frameworks. Null where none was asked for.
      type: dict
      sample: {kind: container, asked: training, running: true, cpu_percent: 103.0}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import (
    nvml_bindings,
    usage_processes,
    usage_sample,
)
from ansible_collections.gpuready.node.plugins.module_utils.health import nvml_metrics


def _check(module):
    """The first thing that is wrong with the numbers, in one sentence."""
    window, interval = module.params["window_seconds"], module.params["interval_seconds"]
    if not 0 <= window <= 3600:
        return "window_seconds is {0:g}; give a number of seconds from 0 to 3600".format(window)
    if not 0.1 <= interval <= 60:
        return "interval_seconds is {0:g}; give a number of seconds from 0.1 to 60".format(interval)
    if module.params["pid"] is not None and module.params["pid"] < 1:
        return "pid is {0}; give the number of a process, as ps shows it".format(module.params["pid"])
    return None


def main():
    module = AnsibleModule(
        argument_spec={
            "window_seconds": {"type": "float", "default": 5.0},
            "interval_seconds": {"type": "float", "default": 0.5},
            "container": {"type": "str"},
            "pid": {"type": "int"},
            # From the action plugin. Not a secret; but sixty thousand letters belong into no log.
            "nvml_bindings": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    wrong = _check(module)
    if wrong:
        module.fail_json(msg=wrong)
    try:
        library = nvml_bindings.find(module.params["nvml_bindings"])
    except nvml_bindings.NoBindings as error:
        module.fail_json(msg=str(error))
    docker = module.get_bin_path("docker")
    processes = usage_processes.Processes()
    sampler = usage_sample.Sampler(
        lambda since_seconds: nvml_metrics.read(library, since_seconds=since_seconds),
        processes,
        lambda: usage_processes.container_names(docker),
    )
    subject = None
    try:
        if module.params["container"]:
            asked = module.params["container"]
            found = usage_sample.find_container(docker, asked)
            subject = usage_sample.Subject(processes, container=found, asked=asked)
        elif module.params["pid"] is not None:
            pid = module.params["pid"]
            subject = usage_sample.Subject(processes, pid=pid, asked=str(pid))
        usage = usage_sample.watch(
            sampler, subject, module.params["window_seconds"], module.params["interval_seconds"]
        )
    except usage_sample.UsageError as error:
        module.fail_json(msg=str(error))
    if subject is not None:
        usage_sample.add_program(usage, processes)
    module.exit_json(changed=False, usage=usage)


if __name__ == "__main__":
    main()
