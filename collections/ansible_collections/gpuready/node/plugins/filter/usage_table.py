# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: usage_table
short_description: One table of many nodes' GPUs and who computes on them
version_added: "0.5.0"
description:
  - Draws what M(gpuready.node.gpu_usage_info) returned for each node as one table, like C(nvidia-smi) for
    all of them at once.
options:
  _input:
    description:
      - Node by node, C(usage) of M(gpuready.node.gpu_usage_info). For a node that was not reached, a mapping
        with the one key C(unreachable), which says why.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show who uses the GPUs
  ansible.builtin.debug:
    msg: "{{ {inventory_hostname: __site_usage.usage} | gpuready.node.usage_table }}"
"""

RETURN = r"""
_value:
  description: The table.
  type: str
"""

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.gpuready.node.plugins.module_utils.usage_table import table


def usage_table(nodes: Any) -> str:
    """The table as one text."""
    if not isinstance(nodes, Mapping) or not all(isinstance(look, Mapping) for look in nodes.values()):
        raise AnsibleFilterError("usage_table: give a mapping of nodes to what gpu_usage_info returned")
    return "\n".join(table(nodes))


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Any]:
        return {"usage_table": usage_table}
