#!/usr/bin/python
# Copyright: gpuready developers
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: install_record
short_description: Remembers on the node what gpuready itself brought there
version_added: "0.1.0"
description:
  - Keeps one small JSON file per role under C(/var/lib/gpuready). Removing a role takes away what is
    written there and no more, so that a Docker Engine that was on the node before gpuready stays.
  - What is added is merged in. Mappings are merged key by key, lists become the union, and anything else
    that is written there already stays.
options:
  name:
    description: Whose record, a role's name.
    type: str
    required: true
  add:
    description: What to remember in addition. Nothing, to read the record.
    type: dict
    default: {}
  state:
    description: V(absent) forgets everything.
    type: str
    choices: [present, absent]
    default: present
  folder:
    description: Where the records are.
    type: path
    default: /var/lib/gpuready
attributes:
  check_mode:
    description: Says what would change; writes nothing.
    support: full
  diff_mode:
    description: Shows the record before and after.
    support: full
  idempotent:
    description: What is written there already changes nothing.
    support: full
  platform:
    description: Linux.
    support: full
    platforms: linux
author: gpuready developers
"""

EXAMPLES = r"""
- name: Remember the packages that were not there before
  gpuready.node.install_record:
    name: docker_engine
    add:
      packages: [docker.io, containerd, runc]

- name: Read what gpuready brought
  gpuready.node.install_record:
    name: docker_engine
  register: __docker_engine_record
"""

RETURN = r"""
record:
  description: The whole record as it is now; empty when there is none.
  returned: success
  type: dict
  sample: {"packages": ["docker.io", "containerd", "runc"]}
"""

import copy
import json
import os
import re
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule


def merge(old: Any, new: Any) -> Any:
    """`old` with `new` in it; what is remembered already wins over what is said later."""
    if isinstance(old, dict) and isinstance(new, dict):
        merged = dict(old)
        for key, value in new.items():
            merged[key] = merge(old[key], value) if key in old else copy.deepcopy(value)
        return merged
    if isinstance(old, list) and isinstance(new, list):
        return old + [item for item in new if item not in old]
    return old


def read(path: str) -> dict[str, Any]:
    """The record; one that somebody edited beyond recognition is worth nothing."""
    try:
        with open(path, encoding="utf-8") as handle:
            record = json.load(handle)
    except FileNotFoundError:
        return {}
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def text_of(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write(module: AnsibleModule, path: str, record: dict[str, Any]) -> None:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(text_of(record))
    os.chmod(temporary, 0o644)
    module.atomic_move(temporary, path)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "add": {"type": "dict", "default": {}},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "folder": {"type": "path", "default": "/var/lib/gpuready"},
        },
        supports_check_mode=True,
    )
    name, folder = module.params["name"], module.params["folder"]
    if not re.match(r"^[a-z][a-z0-9_]*$", name):
        module.fail_json(msg=f"name is {name!r}, but must be a role's name (small letters, digits and _).")
    path = os.path.join(folder, name + ".json")
    try:
        before = read(path)
        exists = os.path.lexists(path)
        after = merge(before, module.params["add"]) if module.params["state"] == "present" else {}
        changed = exists if module.params["state"] == "absent" else after != before
        if changed and not module.check_mode:
            if module.params["state"] == "absent":
                os.unlink(path)
                if not os.listdir(folder):
                    os.rmdir(folder)
            else:
                write(module, path, after)
    except OSError as error:
        module.fail_json(msg=f"Cannot keep gpuready's record {path}: {error.strerror}.")
    module.exit_json(
        changed=changed,
        record=after,
        diff={
            "before_header": path,
            "after_header": path,
            "before": text_of(before) if exists else "",
            "after": text_of(after) if module.params["state"] == "present" and (after or exists) else "",
        },
    )


if __name__ == "__main__":
    main()
