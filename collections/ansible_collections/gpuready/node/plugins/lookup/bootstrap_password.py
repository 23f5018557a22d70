# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: bootstrap_password
short_description: The password with which the data centre hands a node over
version_added: "0.6.0"
description:
  - Reads a node's C(bootstrap_password) out of the data centre's CSV, when it is needed and nowhere else, so
    that no result, fact or log ever holds it.
  - Use it in the variables of a play, as the value of C(ansible_password).
options:
  _terms:
    description: The node's name, as the CSV has it.
    type: list
    elements: str
    required: true
  csv:
    description: The CSV. Without one there is no password.
    type: str
    default: ""
notes:
  - The answer is empty where the CSV has no password for the node.
seealso:
  - module: gpuready.node.onboarding_candidates
"""

EXAMPLES = r"""
- name: Reach a node for the first time
  hosts: site_new_nodes
  gather_facts: false
  vars:
    ansible_password: "{{ lookup('gpuready.node.bootstrap_password', inventory_hostname, csv='assets.csv') }}"
  tasks:
    - name: See whether it answers
      ansible.builtin.ping:
"""

RETURN = r"""
_raw:
  description: The passwords, in the order of the names.
  type: list
  elements: str
"""

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.gpuready.node.plugins.module_utils.inputs import Trouble, read_text
from ansible_collections.gpuready.node.plugins.module_utils.onboarding import RequestError, bootstrap_password


class LookupModule(LookupBase):
    """The one way by which a password comes out of the CSV."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        path = str(self.get_option("csv") or "")
        if not path:
            return ["" for _term in terms]
        try:
            text = read_text(path)
            return [bootstrap_password(text, str(term)) for term in terms]
        except (Trouble, RequestError) as error:
            raise AnsibleError(f"csv: {path}: {error}") from None
