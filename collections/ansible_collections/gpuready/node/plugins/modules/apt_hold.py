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
  - It is the mark that C(apt-mark hold) sets, but set in dpkg's own selections, with one call for all
    packages that differ, so that broken apt sources or a missing cache do not stand in the way.
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
  missing:
    description:
      - What to do about a package that is to be held but is not installed. V(ignore) suits a list that names
        a whole family, of which a node has only some.
    type: str
    choices: [fail, ignore]
    default: fail
  lock_timeout_seconds:
    description: How long to wait while another process works with dpkg, in seconds.
    type: int
    default: 120
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
import time
from typing import Dict, List, Optional, Tuple

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
ENVIRONMENT = {"LC_ALL": "C", "LANGUAGE": ""}
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


def exact(found: List[dpkg.Package], names: List[str]) -> List[str]:
    """name:architecture of every package that the names mean."""
    table = labels(found)
    chosen = [
        entry for name in names for entry in table[name] if entry.status in PRESENT or entry.want == "hold"
    ]
    return sorted({"%s:%s" % (entry.name, entry.arch) if entry.arch else entry.name for entry in chosen})


def select(module: AnsibleModule, selections: str, patience: int) -> Optional[str]:
    """dpkg's complaint, after waiting for whoever holds its lock; null when it is content."""
    end = time.monotonic() + patience
    while True:
        rc, out, err = module.run_command(
            ["dpkg", "--set-selections"], data=selections, binary_data=True, environ_update=ENVIRONMENT
        )
        complaint = " ".join(str(err or out).split())
        if rc == 0 and not complaint:
            return None
        if "lock" not in complaint or time.monotonic() > end:
            return complaint or "exit status %d" % rc
        time.sleep(1)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["held", "unheld"], "default": "held"},
            "missing": {"type": "str", "choices": ["fail", "ignore"], "default": "fail"},
            "lock_timeout_seconds": {"type": "int", "default": 120},
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

    def read() -> List[dpkg.Package]:
        rc, out, err = module.run_command(list(dpkg.COMMAND), environ_update=ENVIRONMENT)
        if rc != 0:
            module.fail_json(msg="dpkg-query cannot list this node's packages: %s" % err.strip())
        return dpkg.parse(out)

    found = read()
    change, unknown, absent = decide(found, names, state)
    missing = [*unknown, *absent] if module.params["missing"] == "fail" else []
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
        word = "hold" if state == "held" else "install"
        selections = "".join("%s %s\n" % (label, word) for label in exact(found, change))
        error = select(module, selections, module.params["lock_timeout_seconds"])
        if error:
            module.fail_json(msg="dpkg did not take the new marks for %s: %s" % (", ".join(change), error))
        # dpkg answers 0 even where it did nothing.
        found = read()
        left = decide(found, change, state)[0]
        if left:
            module.fail_json(msg="dpkg did not take the new marks for: %s" % ", ".join(left))
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
