#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
# What is here is documentation: the action plugin of this name does the work, on the controller.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: gpu_health_program
short_description: Puts the program on a node with which it watches its GPUs
version_added: "0.3.0"
description:
  - Makes one zip application out of this collection's own code, the same bytes each time, and copies it with
    NVML's Python bindings to C(/usr/local/lib/gpuready).
  - The bindings are the controller's (C(nvidia-ml-py)); the node needs no Python library of its own.
options: {}
author:
  - gpuready contributors (@gpuready)
attributes:
  check_mode:
    description: Says whether the files would change.
    support: full
  diff_mode:
    description: Shows which files would change; their content is a program's and is not shown.
    support: partial
    details: What M(ansible.builtin.copy) shows of them.
  idempotent:
    description: Files that are there already are left alone.
    support: full
  platform:
    description: Linux.
    support: full
    platforms: linux
requirements:
  - nvidia-ml-py on the controller
  - Python 3.8 or newer as C(/usr/bin/python3) on the node
"""

EXAMPLES = r"""
- name: Put the health program on the node
  gpuready.node.gpu_health_program:
  become: true
"""

RETURN = r"""
files:
  description: The files with their SHA-256.
  returned: success
  type: dict
  sample: {/usr/local/lib/gpuready/gpuready-health.pyz: 22e8794d71a9}
"""
