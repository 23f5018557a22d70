# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
# Documentation of the action plugin of the same name; there is no code for the node.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: run_report
short_description: Make a run's page, JUnit and CSV anew, or one run of several
version_added: "0.6.0"
description:
  - The callback P(gpuready.node.report#callback) writes a folder per run. Out of the JSON documents in it,
    this makes C(report.html), C(junit.xml) and C(fleet.csv) anew, after an update of gpuready or where only
    the documents were kept.
  - With O(into), one run is made of several that each worked on a part of the nodes; of a node that is in
    several of them, the one that ended last counts.
  - Runs on the controller only. No node is asked and C(delegate_to) is not needed.
options:
  folders:
    description: The folders of the runs, as in C(artifacts/). More than one needs O(into).
    type: list
    elements: path
    required: true
  into:
    description: Folder of runs in which the one of several is made, and its C(latest) moved to it.
    type: path
  run:
    description: What the one run is called. By default as that of O(folders) which began first.
    type: str
extends_documentation_fragment:
  - gpuready.node.attributes.on_controller
author:
  - gpuready contributors (@gpuready)
attributes:
  check_mode:
    description: Reads and makes everything, and writes nothing.
    support: full
  diff_mode:
    description: What is written is made of other files as a whole; a difference would tell nobody anything.
    support: none
  idempotent:
    description: What is as it would be made is left alone. One run of several is a new one each time.
    support: partial
"""

EXAMPLES = r"""
- name: Make the last run's files anew
  gpuready.node.run_report:
    folders: [artifacts/latest]

- name: Make one run of the slices of a job
  gpuready.node.run_report:
    folders: [slice-1/latest, slice-2/latest]
    into: artifacts
  register: __site_run
"""

RETURN = r"""
folder:
  description: The run's folder; none in check mode where it would be made.
  returned: success
  type: str
  sample: artifacts/20261123T020000Z-site
page:
  description: The page in it.
  returned: success
  type: str
  sample: artifacts/20261123T020000Z-site/report.html
files:
  description: Names of the files that were written, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [report.html, junit.xml]
"""
