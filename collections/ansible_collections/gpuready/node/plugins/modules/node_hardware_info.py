#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
---
module: node_hardware_info
short_description: Read what a node is made of, with the numbers that its makers printed on the parts
version_added: "0.6.0"
description:
  - Reads the machine's maker, model, serial number, firmware and memory modules out of its SMBIOS tables
    (or, without them, what the kernel keeps of them), its processors, network cards, InfiniBand ports and
    disks out of sysfs, and of its GPUs what NVML tells - serial number, part number, VBIOS, PCI Express link.
  - GPUs that are on the bus and that NVML does not list are there as well, with what the bus tells.
  - What the machine does not tell is null; what makers leave in fields that they did not fill in is not taken
    for an answer (C(To be filled by O.E.M.)).
  - No tool has to be installed on the node, neither dmidecode nor lspci.
options: {}
extends_documentation_fragment:
  - gpuready.node.attributes.read_only
  - gpuready.node.attributes.linux
author:
  - gpuready contributors (@gpuready)
attributes:
  action:
    description: An action plugin hands over NVML's bindings; everything else is done on the node.
    support: full
requirements:
  - nvidia-ml-py on the controller, or pynvml on the node, for what only NVML knows
  - Python 3.8 or newer on the node
notes:
  - Only root can read serial numbers.
seealso:
  - module: gpuready.node.gpu_stack_info
  - module: gpuready.node.gpu_acceptance
"""

EXAMPLES = r"""
- name: Read what the node is made of
  gpuready.node.node_hardware_info:
  become: true
  register: __site_hardware
"""

RETURN = r"""
hardware:
  description: What was found.
  returned: success
  type: dict
  contains:
    vendor:
      description: The machine's maker.
      type: str
      sample: Supermicro
    product:
      description: Its model.
      type: str
      sample: SYS-420GP-TNR
    serial:
      description: Its serial number.
      type: str
      sample: S412345X3C11111
    uuid:
      description: Its id.
      type: str
      sample: 00000000-0000-0000-0000-3cecef000000
    asset_tag:
      description: The number that its owner gave it.
      type: str
      sample: null
    board:
      description: The mainboard's C(vendor), C(product), C(serial).
      type: dict
      sample: {vendor: Supermicro, product: X12DPG-OA6, serial: OM221S000000}
    bios:
      description: The firmware's C(vendor), C(version), C(date).
      type: dict
      sample: {vendor: "American Megatrends International, LLC.", version: "1.4a", date: 11/14/2025}
    memory_modules:
      description: The memory modules that are plugged in.
      type: list
      elements: dict
      sample:
        - slot: P1-DIMMA1
          size_mib: 32768
          speed_mts: 3200
          vendor: Samsung
          part_number: M393A4K40EB3-CWE
          serial: "0361B8E2"
    cpu:
      description: The processors' C(model), C(sockets), C(cores), C(threads).
      type: dict
      sample: {model: Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz, sockets: 2, cores: 64, threads: 128}
    memory_mib:
      description: The memory that the kernel has, in MiB.
      type: int
      sample: 515600
    gpus:
      description: The GPUs, in NVML's order.
      type: list
      elements: dict
      sample:
        - index: 0
          pci: "0000:3b:00.0"
          name: NVIDIA A100 80GB PCIe
          uuid: GPU-6d3f...
          serial: "1322621149674"
          part_number: 900-21001-0120-130
          vbios: 92.00.A0.00.05
          memory_total_mib: 81920
          pcie: {generation: 4, width: 16, max_generation: 4, max_width: 16}
          error: null
    nics:
      description: The network cards. A link that is down has no speed.
      type: list
      elements: dict
      sample: [{name: ens1f0, mac: "3c:ec:ef:00:00:00", speed_mbps: 25000, driver: mlx5_core}]
    infiniband:
      description: InfiniBand and RoCE ports.
      type: list
      elements: dict
      sample: []
    disks:
      description: The disks.
      type: list
      elements: dict
      sample: [{name: nvme0n1, model: SAMSUNG MZQL23T8HCLS-00A07, serial: S64HNE0R000000, size_mib: 3662830}]
host_keys:
  description: The fingerprints of the SSH server's keys.
  returned: success
  type: list
  elements: str
  sample: ["SHA256:uNiVztksCsDhcc0u9e8BrqaO1qHBqZg8bX2R0b0Uq4s"]
problems:
  description: What could not be read, and why - C(probe), C(error).
  returned: success
  type: list
  elements: dict
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import nvml_bindings
from ansible_collections.gpuready.node.plugins.module_utils.observe.hardware import hardware, host_keys
from ansible_collections.gpuready.node.plugins.module_utils.observe.node import Node


def main():
    module = AnsibleModule(
        # From the action plugin. Not a secret; but sixty thousand letters belong into no log.
        argument_spec={"nvml_bindings": {"type": "str", "no_log": True}},
        supports_check_mode=True,
    )
    node = Node()
    try:
        library = nvml_bindings.find(module.params["nvml_bindings"])
    except nvml_bindings.NoBindings as error:
        library = None
        node.problem("hardware.nvml", str(error))
    found = hardware(node, library)
    keys = node.attempt("hardware.host_keys", lambda: host_keys(node), default=[])
    module.exit_json(changed=False, hardware=found, host_keys=keys, problems=node.problems)


if __name__ == "__main__":
    main()
