#!/usr/bin/python
# Copyright: gpuready developers
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_hold
short_description: Holds packages at their version, or releases them
version_added: "0.1.0"
description:
  - Marks packages as held, so that neither C(apt upgrade) nor unattended upgrades touch them, or releases
    them.
  - dpkg's selections are read once, and all packages that differ are changed in one C(apt-mark) call.
options:
  names:
    description: The packages, as C(name) or C(name:architecture). A hold covers a package that is installed.
    type: list
    elements: str
    required: true
  state:
    description: Whether the packages are to be held.
    type: str
    choices: [held, unheld]
    default: held
attributes:
  check_mode:
    description:
      - Says what would change, and changes nothing. A package that is not installed is a warning there and no
        error, because an earlier task may have only announced it.
    support: full
  diff_mode:
    description: Shows the packages that are held before and after.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
author:
  - gpuready developers
"""

EXAMPLES = r"""
- name: Hold the driver's packages
  gpuready.node.apt_hold:
    names:
      - nvidia-utils-580-server
      - libnvidia-compute-580-server
  become: true

- name: Release them before an upgrade
  gpuready.node.apt_hold:
    names:
      - nvidia-utils-580-server
      - libnvidia-compute-580-server
    state: unheld
  become: true
"""

RETURN = r"""
packages:
  description: The packages whose mark was (in check mode, would be) changed.
  returned: always
  type: list
  elements: str
  sample: [nvidia-utils-580-server]
held:
  description: All packages on the node that are held afterwards, of these names or others.
  returned: always
  type: list
  elements: str
  sample: [libnvidia-compute-580-server, nvidia-utils-580-server]
"""

import re
from typing import Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils.observe import packages as dpkg

# Of these states something is on the node that could be upgraded.
PRESENT = (
    "installed",
    "unpacked",
    "half-configured",
    "half-installed",
    "triggers-awaited",
    "triggers-pending",
)
_NAME = re.compile(r"^[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?$")


def labels(found: List[dpkg.Package]) -> Dict[str, List[dpkg.Package]]:
    """Packages by name, and by name:architecture."""
    table: Dict[str, List[dpkg.Package]] = {}
    for package in found:
        for label in {package.name, "%s:%s" % (package.name, package.arch)}:
            table.setdefault(label, []).append(package)
    return table


def decide(found: List[dpkg.Package], names: List[str], state: str) -> Tuple[List[str], List[str], List[str]]:
    """(names to change, names unknown to dpkg, names that are known but not installed)."""
    table = labels(found)
    change, unknown, absent = [], [], []
    for name in dict.fromkeys(names):
        entries = table.get(name, [])
        present = [entry for entry in entries if entry.status in PRESENT]
        if state == "held":
            if not entries:
                unknown.append(name)
            elif not present:
                absent.append(name)
            elif any(entry.want != "hold" for entry in present):
                change.append(name)
        elif any(entry.want == "hold" for entry in entries):
            change.append(name)
    return change, unknown, absent


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["held", "unheld"], "default": "held"},
        },
        supports_check_mode=True,
    )
    names: List[str] = module.params["names"]
    state: str = module.params["state"]
    wrong = [name for name in names if not _NAME.match(name)]
    if wrong:
        module.fail_json(
            msg="names holds '%s', which is no package name (a version or a pattern cannot be held)"
            % wrong[0]
        )
    environment = {"LC_ALL": "C", "LANGUAGE": ""}

    def read() -> List[dpkg.Package]:
        rc, out, err = module.run_command(list(dpkg.COMMAND), environ_update=environment)
        if rc != 0:
            module.fail_json(msg="dpkg-query cannot list this node's packages: %s" % err.strip())
        return dpkg.parse(out)

    found = read()
    change, unknown, absent = decide(found, names, state)
    missing = [*unknown, *absent]
    if missing and not module.check_mode:
        module.fail_json(
            msg="apt_hold cannot hold what is not installed: %s. Install it first, or take it out of names;"
            " nothing was changed" % ", ".join(missing)
        )
    if missing:
        # In check mode an earlier task may only have said that it would install them.
        module.warn("not installed yet, and so not to be held now: %s" % ", ".join(missing))
        change += missing
    before = dpkg.holds(found)
    plain = {name.split(":")[0] for name in change}
    after = sorted(set(before) | plain) if state == "held" else sorted(set(before) - plain)
    if change and not module.check_mode:
        verb = "hold" if state == "held" else "unhold"
        rc, out, err = module.run_command(["apt-mark", verb, *change], environ_update=environment)
        if rc != 0:
            module.fail_json(
                msg="apt-mark %s %s failed: %s" % (verb, " ".join(change), " ".join((err or out).split())),
                rc=rc,
            )
        # apt-mark answers 0 even where it did nothing.
        found = read()
        left = decide(found, change, state)[0]
        if left:
            module.fail_json(msg="apt-mark %s did not take for: %s" % (verb, ", ".join(left)))
        after = dpkg.holds(found)
    result = {"changed": bool(change), "packages": change, "held": after}
    if module._diff:
        result["diff"] = {
            "before_header": "held packages",
            "after_header": "held packages",
            "before": "".join(name + "\n" for name in before),
            "after": "".join(name + "\n" for name in after),
        }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
