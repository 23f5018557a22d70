#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
---
module: gpu_chain_probe
short_description: Look into a container, and ask the container toolkit, why no GPU is seen
version_added: "0.4.0"
description:
  - Active probes for a diagnosis, for where an observation (M(gpuready.node.gpu_stack_info)) does not decide.
  - Runs a short shell script in a container that is made of O(image), once with O(launch_arguments) and once
    without, and in the running container O(container). It says which of the driver's device files there are
    and whether they open, which C(libcuda) the loader takes, what C(nvidia-smi) and C(cuInit) answer, which
    environment variables matter, and which Python frameworks there are and for which CUDA they were built.
    The image needs nothing but C(sh).
  - Of O(container) it also says how it was made - C(--gpus), runtime, CDI devices, environment, limits - and
    those lines of its log that concern a GPU or an error.
  - Asks C(nvidia-container-cli info) and C(nvidia-ctk cdi list).
  - Nothing is pulled, no framework is imported, and no GPU memory is taken. What is started here has a time
    limit and is removed; also after a timeout, nothing stays behind.
options:
  container:
    description: Name or id of a container on the node, running or ended.
    type: str
  image:
    description: An image that is on the node.
    type: str
  launch_arguments:
    description: What gives a container its GPU, as arguments of C(docker run).
    type: list
    elements: str
    default: ["--gpus", "all"]
  timeout_seconds:
    description: How long each probe may take, in seconds. They run side by side.
    type: float
    default: 30
extends_documentation_fragment:
  - gpuready.node.attributes.read_only
author:
  - gpuready contributors (@gpuready)
attributes:
  platform:
    description: Where it works.
    support: full
    platforms: Linux with Docker 20.10 or newer
requirements:
  - Python 3.8 or newer on the node; Docker 20.10 or newer for O(image) and O(container)
notes:
  - C(nvidia-container-cli) is asked without C(-k), because that would load the driver's modules and hide what
    is looked for. Starting a container with its GPU may load C(nvidia_uvm), as every such start does.
  - Passwords, tokens and keys in a container's log are replaced by C(***), and of its environment only the
    names that concern GPUs, libraries and frameworks are returned.
seealso:
  - module: gpuready.node.gpu_diagnose
  - module: gpuready.node.gpu_stack_info
"""

EXAMPLES = r"""
- name: See what the TensorFlow image gets with and without its GPU
  gpuready.node.gpu_chain_probe:
    image: tensorflow/tensorflow:2.9.0-gpu
  become: true
  register: __site_chain

- name: Look into somebody's container
  gpuready.node.gpu_chain_probe:
    container: jupyter
    timeout_seconds: 10
  become: true
  register: __site_chain
"""

RETURN = r"""
probe:
  description:
    - What was found, as section 8 of C(docs/contracts.md) describes it. What was not asked for is null.
  returned: always
  type: dict
  contains:
    container:
      description:
        - O(container) - how it was made, what is in it, and in C(framework) the framework that runs or lies
          in it. Where there is no such container, C(missing) is V(true); C(unknown) tells whether docker
          said so, and C(names) lists those there are.
      type: dict
      sample:
        name: jupyter
        requests: {gpus: false, runtime: null, cdi_devices: [], devices: [], privileged: false, count: null,
          device_ids: null, shm_size_mib: 64}
        env: {CUDA_VISIBLE_DEVICES: "-1"}
        device_access: {/dev/nvidiactl: missing, /dev/nvidia-uvm: missing}
        libcuda: false
    with_gpu:
      description: O(image) with O(launch_arguments); C(ran) tells whether the script ran, C(error) why not.
      type: dict
      sample:
        ran: true
        exit_code: 0
        device_access: {/dev/nvidia0: ok, /dev/nvidiactl: ok, /dev/nvidia-uvm: ok}
    without_gpu:
      description: O(image) without them.
      type: dict
      sample: {ran: true, exit_code: 0, libcuda: {path: /usr/local/cuda/lib64/stubs/libcuda.so, version: null,
          kind: stub}}
    container_cli:
      description: C(nvidia-container-cli info) with its debug messages, the last 80 lines.
      type: dict
      sample: {ran: true, rc: 0, output: "NVRM version:   580.95.05"}
    cdi_list:
      description: The devices that C(nvidia-ctk cdi list) names.
      type: dict
      sample: {ran: true, rc: 0, devices: ["nvidia.com/gpu=0", "nvidia.com/gpu=all"], output: ""}
    problems:
      description: Probes that failed by themselves.
      type: list
      elements: dict
      sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import chain_probe


def main():
    module = AnsibleModule(
        argument_spec={
            "container": {"type": "str"},
            "image": {"type": "str"},
            "launch_arguments": {"type": "list", "elements": "str", "default": ["--gpus", "all"]},
            "timeout_seconds": {"type": "float", "default": 30.0},
        },
        supports_check_mode=True,
    )
    timeout = module.params["timeout_seconds"]
    if not 0 < timeout <= 600:
        module.fail_json(
            msg="timeout_seconds is {0:g}; give a number of seconds above 0 and up to 600".format(timeout)
        )
    tools = {name: module.get_bin_path(name) for name in ("nvidia-container-cli", "nvidia-ctk")}
    prober = chain_probe.Prober(module.get_bin_path("docker"), tools, timeout=timeout)
    found = chain_probe.probe(
        prober,
        container=module.params["container"] or None,
        image=module.params["image"] or None,
        launch=module.params["launch_arguments"],
    )
    module.exit_json(changed=False, probe=found)


if __name__ == "__main__":
    main()
