# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: upgrade_serial
short_description: The batches of a fleet's upgrade, as Ansible's serial takes them
version_added: "0.6.0"
description:
  - Reads C(upgrade_batches) of C(playbooks/upgrade.yml), checks it, and returns what the keyword C(serial)
    takes.
options:
  _input:
    description: Numbers of nodes and percentages of all nodes, as a list or as a text with commas.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Upgrade in batches
  hosts: gpu_nodes
  serial: "{{ upgrade_batches | gpuready.node.upgrade_serial }}"
"""

RETURN = r"""
_value:
  description: The sizes.
  type: list
  elements: raw
"""

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.gpuready.node.plugins.module_utils.upgrade import UpgradeError, batch_sizes


def upgrade_serial(value: Any) -> list[int | str]:
    """The sizes of the batches."""
    try:
        return batch_sizes(value)
    except UpgradeError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Any]:
        return {"upgrade_serial": upgrade_serial}
