#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
---
module: node_access
short_description: The automation user of a node - its keys, its sudo, and the end of password logins
version_added: "0.7.0"
description:
  - V(granted) makes the user, gives it the keys and lets it become root without a password. V(locked)
    switches the SSH
    server's password logins off and locks the password of O(bootstrap_user); do that only after somebody has
    logged in with the key. V(absent) takes all of it back, as C(/var/lib/gpuready/node_access.json)
    remembers it.
  - The sudo rule is checked by C(visudo) and the SSH server's settings by C(sshd -t) and C(sshd -T) before
    they count; what
    they refuse is put back.
  - Keys may be files of the controller, which the action plugin reads.
options:
  user:
    description: The automation user. Where it exists, its other keys and its home stay.
    type: str
    default: gpuready
  authorized_keys:
    description:
      - Its public keys, as lines or as absolute paths of files on the controller; whatever gpuready wrote
        before is
        replaced.
    type: list
    elements: str
    default: []
  sources:
    description: Addresses, networks or patterns that logins with these keys may come from; empty for
      anywhere.
    type: list
    elements: str
    default: []
  private_key_file:
    description:
      - The private key on the controller whose public half counts where O(authorized_keys) is empty.
    type: path
  former_lines:
    description: RV(keys_before) of an earlier task, put back as they are instead of O(authorized_keys).
    type: list
    elements: str
    default: []
  bootstrap_user:
    description: The user of the first login, whose password V(locked) locks.
    type: str
  state:
    description: How far access is to go.
    type: str
    choices: [granted, locked, absent]
    default: granted
author:
  - gpuready contributors (@gpuready)
attributes:
  check_mode:
    description: Says what would be done.
    support: full
  diff_mode:
    description: Shows user, keys, sudo rule and SSH settings before and after.
    support: full
  idempotent:
    description: What is there already is left alone.
    support: full
extends_documentation_fragment:
  - gpuready.node.attributes.part_on_controller
  - gpuready.node.attributes.linux
"""

EXAMPLES = r"""
- name: Let the automation user in
  gpuready.node.node_access:
    user: gpuready
    authorized_keys:
      - /home/alice/.ssh/gpu_nodes.pub
    sources: [10.0.0.5]
    state: granted

- name: Let no password in any more
  gpuready.node.node_access:
    user: gpuready
    bootstrap_user: ubuntu
    state: locked

- name: Take it all back
  gpuready.node.node_access:
    user: gpuready
    state: absent
"""

RETURN = r"""
steps:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [make the user gpuready, write its 1 key(s), let it become root without a password]
created:
  description: Whether this task made the user.
  returned: success
  type: bool
  sample: true
keys_before:
  description: The lines of gpuready's keys as they were before.
  returned: success
  type: list
  elements: str
  sample: []
managed_before:
  description: Whether gpuready had set access up before this task.
  returned: success
  type: bool
  sample: false
record:
  description: What gpuready remembers on the node of what it did.
  returned: success
  type: dict
  sample: {schema: 1, user: gpuready, user_created: true, locked: [ubuntu]}
"""

import json
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import node_access


def shown(state: Dict[str, Any]) -> str:
    return json.dumps(state, indent=2, sort_keys=True) + "\n"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "default": "gpuready"},
            # Lines as they are written, with their options: the action plugin has read and checked the keys.
            "lines": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "bootstrap_user": {"type": "str"},
            "state": {"type": "str", "choices": ["granted", "locked", "absent"], "default": "granted"},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    problem = node_access.user_problem(wanted["user"])
    if problem:
        module.fail_json(msg="user: %s" % problem)
    access = node_access.Access(node_access.Node(), wanted["user"], check_mode=module.check_mode)
    before = access.state()
    created = before["user"] is None and wanted["state"] == "granted"
    told = {"created": created, "keys_before": before["keys"], "managed_before": bool(access.record)}
    try:
        if wanted["state"] == "absent":
            access.revoke()
        elif wanted["state"] == "locked":
            access.lock(wanted["bootstrap_user"])
        else:
            access.grant(wanted["lines"])
    except node_access.AccessError as error:
        module.fail_json(msg=str(error), steps=access.done, **told)
    except OSError as error:
        module.fail_json(
            msg="%s: %s" % (error.filename or "the node", error.strerror or error),
            steps=access.done,
            **told,
        )
    module.exit_json(
        changed=bool(access.done),
        steps=access.done,
        **told,
        record={} if wanted["state"] == "absent" else access.record,
        diff={
            "before_header": "access of %s" % wanted["user"],
            "after_header": "access of %s" % wanted["user"],
            "before": shown(before),
            "after": shown({"steps": access.done}) if module.check_mode else shown(access.state()),
        },
    )


if __name__ == "__main__":
    main()
