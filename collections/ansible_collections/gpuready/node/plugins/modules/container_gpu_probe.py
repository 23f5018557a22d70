#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
---
module: container_gpu_probe
short_description: Ask the framework in a container which GPUs it sees
version_added: "0.1.0"
description:
  - Runs C(docker run --rm -i) with an image, in the way a user would start it, feeds a small probe to the
    container's own C(python3), and reports what the framework says - its version, the CUDA it was built for,
    every device with its details, and on demand the result of a matrix product and of a convolution on the
    GPU.
  - The verdict rests on the container's answer alone. It is good when at least one GPU is listed, when as
    many are listed as O(gpus_expected) says, when the framework is what O(expect) promises and, with
    O(level=compute), when both results lie on the GPU and agree with the CPU's.
  - With O(python), the same probe is fed to the Python of an environment on the host, as its owner.
  - Nothing is pulled and nothing is left behind. The container is removed, also after a timeout, and has no
    network.
options:
  image:
    description: The image, as C(docker run) takes it. It must be on the node. Either this or O(python).
    type: str
  python:
    description: The Python of an environment on the host, by its full path.
    type: str
  probe:
    description: Name of a probe of this collection, a file in C(data/probes).
    type: str
    default: tensorflow
  workload:
    description: Name of the workload, for the report.
    type: str
    default: ""
  level:
    description:
      - V(list) lists devices and takes no GPU memory.
      - V(compute) also computes on C(/GPU:0), with GPU memory taken only as needed.
      - V(stress) keeps all GPUs busy at the same time for O(stress_seconds), and compares every result with
        the first one. Nobody else should be using them.
    type: str
    choices: [list, compute, stress]
    default: list
  every_gpu:
    description: With O(level=compute), whether to compute on every GPU rather than on the first one.
    type: bool
    default: false
  stress_seconds:
    description: With O(level=stress), for how long, in seconds; it comes on top of O(timeout_seconds).
    type: int
    default: 60
  stress_memory_mib:
    description:
      - With O(level=stress), what may be taken of each GPU's memory, in MiB; half of it holds results.
      - Without it, the memory of the smallest GPU of this host's observation, or 4096 where there is none.
    type: int
  launch:
    description:
      - How the container gets its GPUs. V(gpus) is C(--gpus all), V(runtime) is C(--runtime=nvidia) with
        C(NVIDIA_VISIBLE_DEVICES=all), V(cdi) is C(--device nvidia.com/gpu=all).
      - V(auto) takes the plan's choice if this host has a plan, and V(gpus) otherwise.
    type: str
    choices: [auto, gpus, runtime, cdi]
    default: auto
  gpus_expected:
    description:
      - How many GPUs must be listed.
      - Without it, the number is taken from this host's observation (C(ansible_facts.gpu_stack)) if there is
        one; else any number from 1 on is good.
    type: int
  expect:
    description: What the image promises.
    type: dict
    default: {}
    suboptions:
      framework_version:
        description: The framework's version to any depth, V(2.9) or V(2.9.0).
        type: str
      cuda:
        description: The CUDA version the framework was built for, to any depth.
        type: str
  simulated:
    description: The inventory's own word that the node's GPUs are simulated. It is carried into the result.
    type: bool
    default: false
  timeout_seconds:
    description: After so many seconds the container is ended and the verdict is bad. The unit is seconds.
    type: int
    default: 300
  must_pass:
    description:
      - Whether a bad verdict fails the task. If V(false), RV(verification.ok) tells.
    type: bool
    default: true
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
  - Docker 20.10 or newer on the node
"""

EXAMPLES = r"""
- name: See the GPUs of the TensorFlow 2.9 image
  gpuready.node.container_gpu_probe:
    image: tensorflow/tensorflow:2.9.0-gpu
    expect:
      framework_version: "2.9"

- name: Compute on the GPU that CDI hands in
  gpuready.node.container_gpu_probe:
    image: tensorflow/tensorflow:2.9.0-gpu
    level: compute
    launch: cdi
    gpus_expected: 1

- name: See the GPUs of an environment's PyTorch
  gpuready.node.container_gpu_probe:
    python: /opt/gpuready/venvs/research/bin/python
    probe: pytorch
    expect:
      framework_version: "2.5"
      cuda: "12.4"

- name: Look without failing
  gpuready.node.container_gpu_probe:
    image: tensorflow/tensorflow:2.9.0-gpu
    must_pass: false
  register: __site_probe
"""

RETURN = r"""
verification:
  description: The verdict and everything it rests on.
  returned: always
  type: dict
  contains:
    schema:
      description: Version of this structure.
      type: int
      sample: 1
    host:
      description: Inventory name of the node.
      type: str
      sample: gpulab-a100
    simulated:
      description: Whether the inventory calls this node simulated.
      type: bool
      sample: false
    workload:
      description: Name of the workload.
      type: str
      sample: tensorflow-2.9
    place:
      description: Where it ran, V(container) or V(host).
      type: str
      sample: container
    python:
      description: The environment's Python; null in a container.
      type: str
      sample: null
    image:
      description: The image that was run; null on the host.
      type: str
      sample: tensorflow/tensorflow:2.9.0-gpu
    image_id:
      description: Its id; null when it is not on the node.
      type: str
      sample: sha256:8b2a3fd2f4a4
    digest:
      description: Where it was pulled from, with its digest; null when it was loaded from an archive.
      type: str
      sample: tensorflow/tensorflow@sha256:5a3b
    level:
      description: What was asked.
      type: str
      sample: list
    launch:
      description: How the container got its GPUs - C(way), C(arguments), C(reason).
      type: dict
      sample: {way: gpus, arguments: ["--gpus", "all"], reason: asked for}
    ok:
      description: The verdict.
      type: bool
      sample: true
    gpus_expected:
      description: How many GPUs there should be; null when unknown.
      type: int
      sample: 1
    gpus_listed:
      description: How many GPUs the framework listed.
      type: int
      sample: 1
    devices:
      description: All devices that the framework listed, with their details.
      type: list
      elements: dict
      sample:
        - name: /physical_device:GPU:0
          device_type: GPU
          details: {device_name: NVIDIA A100 80GB PCIe, compute_capability: [8, 0]}
    framework:
      description: Name, version, CUDA, cuDNN, GPU architectures, Python. Null when the probe did not answer.
      type: dict
      sample: {name: tensorflow, version: 2.9.0, cuda: "11.2", cudnn: "8", archs: [sm_35, compute_80],
        python: 3.8.10}
    compute:
      description: With O(level=compute), per operation whether it was right, where its result lies, and
        seconds.
      type: dict
      sample: {matmul: {ok: true, device: "/job:localhost/replica:0/task:0/device:GPU:0", seconds: 0.0004}}
    stress:
      description:
        - With O(level=stress), the seconds and per GPU C(iterations), C(iterations_per_second), C(tflops),
          C(wrong) (numbers that differed), C(error). Null otherwise.
      type: dict
      sample: null
    seconds:
      description: How long the container ran, in seconds.
      type: float
      sample: 3.4
    exit_code:
      description: The container's exit code; null when it did not start or was ended.
      type: int
      sample: 0
    timed_out:
      description: Whether it was ended after O(timeout_seconds).
      type: bool
      sample: false
    command:
      description: The command that was run on the node.
      type: list
      elements: str
      sample: [docker, run, --rm, -i, --gpus, all, "tensorflow/tensorflow:2.9.0-gpu", python3, "-"]
    log:
      description: The last 200 lines of the container's standard error, with Docker's own words.
      type: str
      sample: ""
    findings:
      description: When not good, what broke - C(layer), C(finding), C(evidence), C(fix), and C(cause) where a
        diagnosis names it - the first broken link first.
      type: list
      elements: dict
      sample: []
diagnosis:
  description: When not good, the diagnosis that the first findings come from (M(gpuready.node.gpu_diagnose)).
  returned: always
  type: dict
  sample: {status: cause_found, first_broken: toolkit}
text:
  description: The verdict in words.
  returned: always
  type: str
  sample: "tensorflow-2.9: tensorflow 2.9.0 with CUDA 11.2 lists 1 GPU (NVIDIA A100 80GB PCIe); list, gpus,
    3.4 s"
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils.probe_run import probe_image, run_python


def main():
    # What people write is validated by the action plugin of this name; these are its words to the node.
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str"},
            "python": {"type": "str"},
            "probe_text": {"type": "str", "required": True},
            "level": {"type": "str", "required": True},
            "launch_arguments": {"type": "list", "elements": "str", "required": True},
            "timeout_seconds": {"type": "int", "required": True},
            "probe_arguments": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    how = (wanted["probe_text"], wanted["level"])
    if wanted["python"]:
        run = run_python(wanted["python"], *how, wanted["timeout_seconds"], wanted["probe_arguments"])
    else:
        docker = module.get_bin_path("docker")
        run = probe_image(
            docker,
            wanted["image"],
            *how,
            wanted["launch_arguments"],
            wanted["timeout_seconds"],
            wanted["probe_arguments"],
        )
    module.exit_json(changed=False, run=run)


if __name__ == "__main__":
    main()
