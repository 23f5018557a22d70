# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: upgrade_turn
short_description: A node's turn in a fleet's upgrade
version_added: "0.6.0"
description:
  - Says in which batch a node is, who comes after it, and whether too many of the batches before it have
    failed for its turn to come.
options:
  _input:
    description: The node.
    type: str
    required: true
  hosts:
    description: All nodes of the upgrade, in their order.
    type: list
    elements: str
    required: true
  batches:
    description: C(upgrade_batches) of C(playbooks/upgrade.yml).
    type: raw
    required: true
  max_fail_percentage:
    description: How much of a batch may fail.
    type: raw
    default: 0
  done:
    description: The nodes that have come through so far.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Leave the node alone when too many have failed before it
  ansible.builtin.meta: end_host
  when: >-
    (inventory_hostname | gpuready.node.upgrade_turn(hosts=ansible_play_hosts_all, batches='1,100%',
                                                     done=groups['done'] | default([]))).stopped is not none
"""

RETURN = r"""
_value:
  description:
    - C(number) of its batch and C(of) how many, C(batch) with the nodes in it, C(after) with the nodes of the
      batches behind it, C(last), whether those are not begun when this node fails, and C(stopped), which is
      null or the batch of which too many failed.
  type: dict
"""

from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.gpuready.node.plugins.module_utils.upgrade import UpgradeError, turn


def upgrade_turn(
    host: str, hosts: Iterable[str], batches: Any, max_fail_percentage: Any = 0, done: Iterable[str] = ()
) -> dict[str, Any]:
    """The node's turn."""
    try:
        return turn(host, list(hosts), batches, max_fail_percentage, done)
    except UpgradeError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Any]:
        return {"upgrade_turn": upgrade_turn}
