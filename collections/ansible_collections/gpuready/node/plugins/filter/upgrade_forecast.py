# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: upgrade_forecast
short_description: What a fleet's upgrade will do to which node, in words
version_added: "0.6.0"
description:
  - Says for each batch and each node in it what its plan is, how it is taken out of service, who is in the
    way, and where the upgrade is bound to stop.
options:
  _input:
    description:
      - Node by node, in the order of the inventory, a mapping with C(plan), C(unverified) (what is on the
        node's record) and C(drain) (what the role C(node_drain) saw with C(look)). A node that was not
        reached has none.
    type: dict
    required: true
  batches:
    description: C(upgrade_batches) of C(playbooks/upgrade.yml).
    type: raw
    required: true
  max_fail_percentage:
    description: How much of a batch may fail.
    type: raw
    default: 0
"""

EXAMPLES = r"""
- name: Say what would happen
  ansible.builtin.debug:
    msg: "{{ __site_nodes | gpuready.node.upgrade_forecast(batches=[1, '100%']) }}"
"""

RETURN = r"""
_value:
  description: The forecast.
  type: str
"""

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.gpuready.node.plugins.module_utils import upgrade


def upgrade_forecast(nodes: Any, batches: Any, max_fail_percentage: Any = 0) -> str:
    """The forecast as one text."""
    if not isinstance(nodes, Mapping):
        raise AnsibleFilterError("upgrade_forecast: give a mapping of nodes to what is known of them")
    try:
        return upgrade.text(nodes, batches, max_fail_percentage)
    except upgrade.UpgradeError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Any]:
        return {"upgrade_forecast": upgrade_forecast}
