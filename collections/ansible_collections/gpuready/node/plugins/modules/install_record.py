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
  - The record of the role C(nvidia_driver) has a schema of its own (section 7 of C(docs/contracts.md)); what
    does not keep to it is refused, and keys that an older record lacks are returned empty.
  - The file is replaced in one step, so that an interruption leaves the old record or the new one.
options:
  name:
    description: Whose record, a role's name.
    type: str
    required: true
  add:
    description:
      - What to remember in addition. Nothing, to read the record.
      - Mappings are merged key by key, lists become the union, and anything else that is written there
        already stays, V(null) included.
    type: dict
    default: {}
  set:
    description: Keys to write as they are given, whatever was there before.
    type: dict
    default: {}
  take_out:
    description: Items to forget, as lists by key. It happens before O(add) and O(set).
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

- name: Remember the driver that was there before the change, which is not verified yet
  gpuready.node.install_record:
    name: nvidia_driver
    add:
      original: "{{ __nvidia_driver_before }}"
    set:
      previous: "{{ __nvidia_driver_before }}"
      unverified:
        version: 580.95.05
        package_version: 580.95.05-0ubuntu0.22.04.2
        at: "2026-11-23T05:34:00Z"

- name: Forget the holds that were lifted
  gpuready.node.install_record:
    name: nvidia_driver
    take_out:
      held: [nvidia-utils-535-server]
"""

RETURN = r"""
record:
  description:
    - The whole record as it is now; empty when there is none. That of C(nvidia_driver) has always every key
      of its schema.
  returned: success
  type: dict
  sample: {"packages": ["docker.io", "containerd", "runc"]}
exists:
  description: Whether the file is there after the task.
  returned: success
  type: bool
  sample: true
"""

import copy
import json
import os
import re
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import driver_record


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


def read(path: str) -> tuple[dict[str, Any] | None, str | None]:
    """The record, null when there is none; one that somebody edited beyond recognition is worth nothing."""
    try:
        with open(path, encoding="utf-8") as handle:
            record = json.load(handle)
    except FileNotFoundError:
        return None, None
    except ValueError as error:
        return {}, f"it is not valid JSON: {error}"
    if not isinstance(record, dict):
        return {}, "it is not a JSON object"
    return record, None


def text_of(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write(module: AnsibleModule, path: str, record: dict[str, Any]) -> None:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix="." + os.path.basename(path) + ".", dir=os.path.dirname(path))
    module.add_cleanup_file(temporary)
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(text_of(record))
        out.flush()
        # A rollback after a power cycle depends on it.
        os.fsync(out.fileno())
    os.chmod(temporary, 0o644)
    module.atomic_move(temporary, path)


def changed_record(module: AnsibleModule, before: dict[str, Any]) -> dict[str, Any]:
    """The record with what the task says; fails where that is no record."""
    after = copy.deepcopy(before)
    for key, items in module.params["take_out"].items():
        if not isinstance(items, list):
            module.fail_json(msg=f"take_out.{key} is {items!r}; give a list of what to forget.")
        if not isinstance(after.get(key, []), list):
            module.fail_json(
                msg=f"take_out.{key}: the record has no list of that name. Use set to change it."
            )
        if key in after:
            after[key] = [item for item in after[key] if item not in items]
    after = merge(after, module.params["add"])
    after.update(copy.deepcopy(module.params["set"]))
    return after


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "add": {"type": "dict", "default": {}},
            "set": {"type": "dict", "default": {}},
            "take_out": {"type": "dict", "default": {}},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "folder": {"type": "path", "default": "/var/lib/gpuready"},
        },
        supports_check_mode=True,
    )
    name, folder = module.params["name"], module.params["folder"]
    if not re.match(r"^[a-z][a-z0-9_]*$", name):
        module.fail_json(msg=f"name is {name!r}, but must be a role's name (small letters, digits and _).")
    present = module.params["state"] == "present"
    path = os.path.join(folder, name + ".json")
    try:
        found, problem = read(path)
    except OSError as error:
        module.fail_json(msg=f"Cannot keep gpuready's record {path}: {error.strerror}.")
    if problem:
        module.warn(f"gpuready's record {path} is started anew, since {problem}.")
    before = found or {}
    ours = name == driver_record.ROLE
    if ours:
        before, spoilt = driver_record.repaired(before)
        if spoilt:
            module.warn(f"gpuready's record {path} is not as it should be; left out: {'; '.join(spoilt)}.")
    after = changed_record(module, before) if present else {}
    wrong = driver_record.complaints(after) if ours else []
    if wrong:
        module.fail_json(
            msg=f"This is no record of {name}: {'; '.join(wrong)}. Nothing was written; section 7 of "
            "docs/contracts.md says what one looks like."
        )
    exists = found is not None
    changed = after != before if present else exists
    if changed and not module.check_mode:
        try:
            if present:
                write(module, path, after)
            else:
                os.unlink(path)
                if not os.listdir(folder):
                    os.rmdir(folder)
        except OSError as error:
            module.fail_json(msg=f"Cannot keep gpuready's record {path}: {error.strerror}.")
    module.exit_json(
        changed=changed,
        # Only what was said is written: `original` stays open until somebody says it, be it null.
        record=driver_record.normalised(after) if ours else after,
        exists=present and (exists or changed),
        diff={
            "before_header": path,
            "after_header": path,
            "before": text_of(before) if exists else "",
            "after": text_of(after) if present and (exists or changed) else "",
        },
    )


if __name__ == "__main__":
    main()
