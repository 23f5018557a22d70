#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
---
module: gpu_watch
short_description: Watch a node's GPUs while others work on them
version_added: "0.6.0"
description:
  - With O(state=watching), looks at every GPU through NVML again and again (temperature, power, utilisation,
    memory errors, remapped rows, reasons for lowered clocks) and into the kernel's log for the driver's Xid
    errors, until a task with O(state=ended) tells it to end. Run it with C(async) and C(poll=0).
  - With O(state=ended), tells it to end, and returns what it saw. Nothing is left on the node.
  - A watch that nobody ends, because the controller is gone, ends by itself after O(limit_seconds); the next
    one of its name ends it, too.
options:
  state:
    description: Whether to watch, or to end the watch of that name.
    type: str
    choices: [watching, ended]
    required: true
  name:
    description: What the watch is called; letters, digits, V(.), V(_) and V(-).
    type: str
    default: gpus
  interval_seconds:
    description: The time from one look to the next, in seconds.
    type: float
    default: 1
  limit_seconds:
    description: After so many seconds the watch ends by itself.
    type: float
    default: 3600
author:
  - gpuready contributors (@gpuready)
attributes:
  check_mode:
    description: In check mode nothing works on the GPUs, so that there is nothing to watch; it is skipped.
    support: none
  diff_mode:
    description: Changes nothing, so that there is no difference to show.
    support: none
  async:
    description: Made for it.
    support: full
  platform:
    description: Where it works.
    support: full
    platforms: Linux
  action:
    description: An action plugin hands over NVML's bindings; everything else is done on the node.
    support: full
requirements:
  - nvidia-ml-py on the controller, or pynvml on the node
  - Python 3.8 or newer on the node
notes:
  - Only root can read the kernel's log everywhere.
seealso:
  - module: gpuready.node.gpu_usage_info
  - module: gpuready.node.gpu_acceptance
"""

EXAMPLES = r"""
- name: Begin to watch the GPUs
  gpuready.node.gpu_watch:
    state: watching
    limit_seconds: 900
  become: true
  async: 960
  poll: 0

- name: Let them work
  gpuready.node.container_gpu_probe:
    image: tensorflow/tensorflow:2.9.0-gpu
    level: compute

- name: See what they did
  gpuready.node.gpu_watch:
    state: ended
  become: true
  register: __site_watch
"""

RETURN = r"""
watch:
  description: What was seen; null when nothing was.
  returned: with O(state=ended)
  type: dict
  contains:
    seconds:
      description: For how long was watched.
      type: float
      sample: 61.2
    interval_seconds:
      description: O(interval_seconds).
      type: float
      sample: 1.0
    longest_gap_seconds:
      description: The longest time between two looks.
      type: float
      sample: 1.1
    samples:
      description: How often NVML answered.
      type: int
      sample: 62
    failures:
      description: How often it did not; the last time with C(error).
      type: int
      sample: 0
    error:
      description: NVML's words when it did not answer; null otherwise.
      type: str
      sample: Driver/library version mismatch
    ended:
      description:
        - How the watch ended. V(told) is as it should; V(limit) is by O(limit_seconds), V(died) by somebody
          else.
      type: str
      sample: told
    gpus:
      description:
        - Every GPU with C(max) and C(mean) of its temperature, power, utilisation, memory and clock, its
          memory errors since the driver was loaded (C(ecc_new) came up during the watch), its remapped rows,
          the seconds that its clocks were lowered for each reason, and in C(lost) the driver's words if it
          does not answer any more. Null is what the GPU does not tell.
      type: list
      elements: dict
      sample:
        - index: 0
          name: NVIDIA A100 80GB PCIe
          temperature_c: {max: 71.0, mean: 64.3}
          power_watts: {max: 291.2, mean: 270.4}
          utilization_percent: {max: 100.0, mean: 97.1}
          ecc_uncorrected: 0
          ecc_corrected: 0
          ecc_new: {uncorrected: 0, corrected: 0}
          throttled: {sw_power_cap: 12.0}
          remapped_rows: {corrected: 0, uncorrected: 0, pending: false, failed: false, new: 0}
          lost: null
    xids:
      description:
        - The Xid errors that the driver wrote into the kernel's log meanwhile, the first 50 of them; null
          when the log cannot be read.
      type: list
      elements: dict
      sample:
        - xid: 79
          pci: "0000:3b:00.0"
          line: "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."
    xid_count:
      description: How many there were.
      type: int
      sample: 0
problem:
  description: What is wrong with the watch itself; null when nothing is.
  returned: with O(state=ended)
  type: str
  sample: the watch died after 12 s
"""

import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import gpu_watch, nvml_bindings
from ansible_collections.gpuready.node.plugins.module_utils.health import nvml_metrics, sources


def _check(module):
    """The first thing that is wrong with what was asked for, in one sentence."""
    asked = module.params
    if not re.match(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", asked["name"]):
        return "name is {0!r}; give up to 64 letters, digits, dots, _ and -".format(asked["name"])
    if not 0.1 <= asked["interval_seconds"] <= 60:
        return "interval_seconds is {0:g}; give a number of seconds from 0.1 to 60".format(
            asked["interval_seconds"]
        )
    if not 0 < asked["limit_seconds"] <= 604800:
        return "limit_seconds is {0:g}; give a number of seconds above 0 and up to 604800".format(
            asked["limit_seconds"]
        )
    return None


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["watching", "ended"], "required": True},
            "name": {"type": "str", "default": "gpus"},
            "interval_seconds": {"type": "float", "default": 1.0},
            "limit_seconds": {"type": "float", "default": 3600.0},
            # From the action plugin. Not a secret; but sixty thousand letters belong into no log.
            "nvml_bindings": {"type": "str", "no_log": True},
        },
    )
    wrong = _check(module)
    if wrong:
        module.fail_json(msg=wrong)
    place = gpu_watch.Place(module.params["name"])
    if module.params["state"] == "ended":
        watch, problem = place.finish()
        module.exit_json(changed=False, watch=watch, problem=problem)
    try:
        library = nvml_bindings.find(module.params["nvml_bindings"])
        place.take()
    except (nvml_bindings.NoBindings, gpu_watch.Busy) as error:
        module.fail_json(msg=str(error))
    watch = gpu_watch.watch(
        lambda: nvml_metrics.read(library),
        sources.kernel_log,
        lambda: place.told,
        place.note,
        interval=module.params["interval_seconds"],
        limit=module.params["limit_seconds"],
    )
    place.note(watch)
    place.leave()
    module.exit_json(changed=False, watch=watch)


if __name__ == "__main__":
    main()
