#!/usr/bin/python
# Copyright: gpuready developers
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_stack_info
short_description: Observes a node's whole GPU stack
version_added: "0.1.0"
description:
  - Reads everything that decides whether a container on this node can use an NVIDIA GPU, in one call and
    without changing anything, from the PCI bus to the images that Docker holds.
  - Needs no driver, no C(lspci), no C(docker) client and no Python library on the node. NVML is asked through
    C(pynvml) where it can be imported, otherwise through C(nvidia-smi).
  - A probe that fails leaves an entry in RV(gpu_stack.problems) and C(null) in its fields; the rest is still
    reported. What is unknown is C(null), never a guess.
options:
  endpoints:
    description:
      - Places that this node will have to reach, tried with one TCP connect each, side by side.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What the place is called in the report.
        type: str
        required: true
      address:
        description: Where it is, as C(host:port) or C([IPv6]:port).
        type: str
        required: true
  interpreters:
    description:
      - Python interpreters to look at besides those that a name means, by their full paths.
    type: list
    elements: path
    default: []
  textfile_directory:
    description:
      - The directory that node_exporter's textfile collector reads, or is to read. Whether it is there is
        reported.
    type: path
  timeout_seconds:
    description:
      - How long one external command, or one answer of the Docker Engine, may take, in seconds. A TCP connect
        to an endpoint gets at most three of them.
    type: float
    default: 10
attributes:
  facts:
    description: Returns its observation as a value, not as a fact; the action plugin gpu_plan makes it one.
    support: none
requirements:
  - Python 3.8 or newer on the node, and C(dpkg) and C(apt).
notes:
  - Run it as root (C(become)); otherwise Docker, Secure Boot, dockerd's environment or who uses the GPU may
    stay unknown.
extends_documentation_fragment:
  - gpuready.node.attributes.read_only
author:
  - gpuready developers
"""

EXAMPLES = r"""
- name: Observe the node
  gpuready.node.gpu_stack_info:
  become: true
  register: __site_observed

- name: Observe the node, and whether it reaches the registry
  gpuready.node.gpu_stack_info:
    endpoints:
      - name: registry
        address: registry.example.com:5000
    timeout_seconds: 5
  become: true
  register: __site_observed

- name: Show the driver in the kernel
  ansible.builtin.debug:
    var: __site_observed.gpu_stack.driver.loaded
"""

RETURN = r"""
gpu_stack:
  description:
    - The observation, as contract 1 of C(docs/contracts.md) describes it field by field. Sizes are MiB, times
      are seconds, versions are strings.
  returned: always
  type: dict
  contains:
    schema:
      description: Version of this structure.
      type: int
      sample: 1
    seconds:
      description: How long the observation took, in seconds.
      type: float
      sample: 0.31
    problems:
      description: Probes that could not see everything, each with the error's own words.
      type: list
      elements: dict
      sample: [{probe: driver.on_disk, error: modinfo is not installed (package kmod)}]
    host:
      description:
        - System, kernels (running, of the next boot, with headers), NVIDIA hardware on the PCI bus, nouveau.
        - Secure Boot, and DKMS's signing key in C(mok) with whether the firmware trusts it. That is not asked
          where Secure Boot is off.
        - In C(initramfs), whether it is older than what blacklists nouveau.
        - In C(kernel_log), what the kernel said in this boot about NVIDIA, nouveau, refused modules, memory,
          and the GPUs by their addresses. Each distinct line is kept where it came first and last, 200 lines
          at most.
        - Memory, and in C(virtual) the kind of machine by systemd-detect-virt's names.
      type: dict
      sample:
        secure_boot: false
        mok: {key: /var/lib/shim-signed/mok/MOK.der, enrolled: null}
        initramfs: {present: true, tool: /usr/sbin/update-initramfs, stale: false}
        memory: {total_mib: 64000, available_mib: 60000}
        virtual: kvm
        kernel_log:
          source: dmesg
          lines: ["[    4.2] NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05"]
    driver:
      description:
        - Packages in Ubuntu's, Debian's and NVIDIA's names, libraries, NVML's devices, DKMS, persistenced and
          fabric manager, and gpuready's own record.
        - The module in the kernel and how often it is in use beyond what the driver's modules hold of each
          other (C(users)); the modules on disk for the running kernel and for the next boot's, by the name
          that modprobe would load (Debian's C(nvidia-current)).
        - In C(processes), who holds a device file open, with the container and with the driver's own service
          that it belongs to.
        - Who may open the device files (C(device_access)), the numbers that the kernel gave to them
          (C(majors)), and how many MIG instances a GPU is cut into.
      type: dict
      sample:
        loaded: {version: 580.95.05, flavour: open, modules: [nvidia, nvidia_uvm], users: 1}
        processes:
          - {pid: 811, name: python3, files: [/dev/nvidia0], service: null, container: null}
    container_runtime:
      description:
        - Docker (package, service, daemon.json, what runs), toolkit, its configuration and its own CDI
          service, CDI specifications, containers with a GPU.
        - Where dockerd does not answer, the end of its log.
      type: dict
    framework:
      description:
        - Images with their digests and architectures, and the endpoints asked for.
        - Python environments that gpuready made, with what is in them and who runs out of them, and the
          interpreters there are.
      type: dict
    apt:
      description:
        - Sources with their keys and when those expire, holds, unattended upgrades, locks, and the file that
          pins the driver's origin.
        - What apt cannot read of its sources (C(errors)), and packages that dpkg has half (C(broken)).
        - The candidates of the chain with the origins of each version and, for a kernel metapackage, the
          kernel that its candidate is for.
      type: dict
      sample:
        candidates:
          linux-headers-generic:
            candidate: 5.15.0.160.160
            installed: 5.15.0.157.157
            versions: [5.15.0.160.160, 5.15.0.157.157]
            origins: {5.15.0.160.160: [Ubuntu], 5.15.0.157.157: []}
            kernel: 5.15.0-160-generic
        driver_pin: null
    disk:
      description: Total and free space in MiB where GPU stacks need it.
      type: list
      elements: dict
      sample: [{path: /, total_mib: 20000, free_mib: 15000}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils.observe import observe
from ansible_collections.gpuready.node.plugins.module_utils.observe.endpoints import split_address
from ansible_collections.gpuready.node.plugins.module_utils.observe.node import Node


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "endpoints": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                },
            },
            "interpreters": {"type": "list", "elements": "path", "default": []},
            "textfile_directory": {"type": "path"},
            "timeout_seconds": {"type": "float", "default": 10.0},
        },
        supports_check_mode=True,
    )
    timeout = module.params["timeout_seconds"]
    if not 0 < timeout <= 600:
        module.fail_json(
            msg="timeout_seconds is %g; give a number of seconds above 0 and up to 600" % timeout
        )
    for endpoint in module.params["endpoints"]:
        try:
            split_address(endpoint["address"])
        except ValueError as error:
            module.fail_json(msg="endpoints: the address of '%s': %s" % (endpoint["name"], error))
    asked = module.params
    observed = observe(
        Node(timeout=timeout), asked["endpoints"], asked["interpreters"], asked["textfile_directory"]
    )
    module.exit_json(changed=False, gpu_stack=observed)


if __name__ == "__main__":
    main()
