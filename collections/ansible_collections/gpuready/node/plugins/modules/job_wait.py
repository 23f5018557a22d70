# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
# Documentation of the action plugin of the same name; there is no code for the node.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: job_wait
short_description: Waits for a job that was begun with async
version_added: "0.6.0"
description:
  - Looks at the job every so often, as M(ansible.builtin.async_status) does, until it has ended, and returns
    what it returned. A job that failed is a failure here.
  - While P(gpuready.node.board#callback) is live, it shows how far the job is, where the job tells.
  - The job's file stays; M(ansible.builtin.async_status) removes it.
options:
  jid:
    description: The job, as C(ansible_job_id) of the task that began it.
    type: str
    required: true
  timeout_seconds:
    description: How long to wait, in seconds.
    type: float
    required: true
  poll_seconds:
    description: How long to wait between two looks, in seconds.
    type: float
    default: 3.0
attributes:
  check_mode:
    description: Waiting changes nothing.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: N/A
  platform:
    description: Linux.
    support: full
    platforms: linux
author:
  - gpuready contributors (@gpuready)
seealso:
  - module: ansible.builtin.async_status
"""

EXAMPLES = r"""
- name: Begin to fetch the images
  gpuready.node.docker_images:
    images:
      - name: tensorflow/tensorflow:2.9.0-gpu
  async: 3600
  poll: 0
  register: __site_job

- name: Wait until the images are there
  gpuready.node.job_wait:
    jid: "{{ __site_job.ansible_job_id }}"
    timeout_seconds: 3600
"""

RETURN = r"""
ansible_job_id:
  description: The job.
  returned: always
  type: str
  sample: j982835967352.29608
finished:
  description: Whether the job has ended. Everything else that the job returned is there as well then.
  returned: always
  type: bool
  sample: true
timed_out:
  description: Whether the time was over before the job was.
  returned: always
  type: bool
  sample: false
waited_seconds:
  description: How long this task waited, in seconds.
  returned: always
  type: float
  sample: 41.3
"""
