# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: upgrade_mistakes
short_description: What is wrong with the settings of a fleet's upgrade
version_added: "0.6.0"
description:
  - Checks C(upgrade_batches) and C(upgrade_max_fail_percentage) of C(playbooks/upgrade.yml), and whether
    another variable looks like one of them, misspelt.
options:
  _input:
    description: C(upgrade_batches).
    type: raw
    required: true
  max_fail_percentage:
    description: C(upgrade_max_fail_percentage).
    type: raw
    default: 0
  variables:
    description: Names of the variables that are set.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Refuse settings that cannot be
  ansible.builtin.fail:
    msg: "{{ upgrade_batches | gpuready.node.upgrade_mistakes | join('; ') }}"
  when: upgrade_batches | gpuready.node.upgrade_mistakes | length > 0
"""

RETURN = r"""
_value:
  description: One sentence for each mistake.
  type: list
  elements: str
"""

from collections.abc import Iterable
from typing import Any

from ansible_collections.gpuready.node.plugins.module_utils.upgrade import mistakes


def upgrade_mistakes(value: Any, max_fail_percentage: Any = 0, variables: Iterable[str] = ()) -> list[str]:
    """All mistakes."""
    return mistakes(value, max_fail_percentage, variables)


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Any]:
        return {"upgrade_mistakes": upgrade_mistakes}
