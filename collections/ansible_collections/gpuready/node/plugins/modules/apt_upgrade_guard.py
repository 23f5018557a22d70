#!/usr/bin/python
# Copyright: gpuready developers
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_upgrade_guard
short_description: Keeps unattended upgrades away from NVIDIA's packages
version_added: "0.1.0"
description:
  - Writes (or removes) one file in C(/etc/apt/apt.conf.d) that puts NVIDIA's driver, its libraries and the
    container toolkit on unattended-upgrades' package blacklist. Nothing else is named; the rest of the system
    stays patched. Entries that others have made stay as well, since apt joins such lists.
  - The file is parsed by C(apt-config) before it goes live, because a broken file there stops apt altogether.
  - Its content has one definition, which M(gpuready.node.gpu_stack_info) compares with.
options:
  state:
    description: Whether the file is to be there.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows the file before and after.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
author:
  - gpuready developers
"""

EXAMPLES = r"""
- name: Keep unattended upgrades off NVIDIA's packages
  gpuready.node.apt_upgrade_guard:
  become: true

- name: Let unattended upgrades have them again
  gpuready.node.apt_upgrade_guard:
    state: absent
  become: true
"""

RETURN = r"""
file:
  description: The file's path.
  returned: always
  type: str
  sample: /etc/apt/apt.conf.d/52gpuready-nvidia
blacklist:
  description: The regular expressions that the file adds; none for O(state=absent).
  returned: always
  type: list
  elements: str
  sample: [libnvidia-, libcuda1$]
"""

import os
import tempfile
from typing import List, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import aptguard
from ansible_collections.gpuready.node.plugins.module_utils.aptfiles import Files
from ansible_collections.gpuready.node.plugins.module_utils.observe.apt import parse_config

BLACKLIST = "unattended-upgrade::package-blacklist"


def parsed(module: AnsibleModule, text: str) -> List[str]:
    """The blacklist as apt-config understands this file on its own."""
    descriptor, path = tempfile.mkstemp(prefix="gpuready-guard-", suffix=".conf")
    try:
        with os.fdopen(descriptor, "w") as handle:
            handle.write(text)
        # -c comes after apt.conf.d in apt's reading, so what counts is that our entries are the last.
        rc, out, err = module.run_command(
            ["apt-config", "-c", path, "dump"], environ_update={"LC_ALL": "C", "LANGUAGE": ""}
        )
    finally:
        os.unlink(path)
    if rc != 0:
        module.fail_json(
            msg="apt-config refuses the guard file, so nothing was changed: %s" % " ".join(err.split())
        )
    return [value for value in parse_config(out).get(BLACKLIST, []) if value]


def main() -> None:
    module = AnsibleModule(
        argument_spec={"state": {"type": "str", "choices": ["present", "absent"], "default": "present"}},
        supports_check_mode=True,
    )
    files = Files()
    wanted: Optional[str] = aptguard.content() if module.params["state"] == "present" else None
    try:
        data = files.read(aptguard.PATH)
    except OSError as error:
        module.fail_json(msg="cannot read %s: %s" % (aptguard.PATH, error))
    before = None if data is None else data.decode("utf-8", "replace")
    changed = before != wanted
    if changed and wanted is not None:
        missing = [pattern for pattern in aptguard.PATTERNS if pattern not in parsed(module, wanted)]
        if missing:
            module.fail_json(
                msg="apt-config does not read %s from the guard file, so nothing was changed"
                % ", ".join(missing)
            )
    if changed and not module.check_mode:
        try:
            files.put(aptguard.PATH, None if wanted is None else wanted.encode("utf-8"))
        except OSError as error:
            module.fail_json(msg="cannot write %s: %s" % (aptguard.PATH, error))
    result = {
        "changed": changed,
        "file": aptguard.PATH,
        "blacklist": aptguard.PATTERNS if wanted is not None else [],
    }
    if module._diff:
        result["diff"] = {
            "before_header": aptguard.PATH,
            "after_header": aptguard.PATH,
            "before": before or "",
            "after": wanted or "",
        }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
