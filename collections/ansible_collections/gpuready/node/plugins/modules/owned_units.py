#!/usr/bin/python
# Copyright: gpuready developers
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: owned_units
short_description: Puts gpuready's own files and systemd units in place, and takes them away
version_added: "0.3.0"
description:
  - Writes whole files, each replaced in one step, removes others, and brings systemd units into the state
    that belongs to them, all in one call.
  - C(systemctl daemon-reload) can take the GPU away from running containers, so that it is left out wherever
    systemd does not need it. New units are read without it, and enabling works with C(--no-reload).
  - Where a unit does not start, the task fails with what systemd and the unit said.
options:
  files:
    description: What is to be there.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where.
        type: path
        required: true
      content:
        description: The whole content.
        type: str
        required: true
      mode:
        description: The permissions, in octal digits.
        type: str
        default: "0644"
      owner:
        description: To whom it belongs; its group as well.
        type: str
        default: root
  absent:
    description: Files that are not to be there.
    type: list
    elements: path
    default: []
  units:
    description: Units that are to be enabled and active. A unit whose file changed is restarted.
    type: list
    elements: str
    default: []
  restarted:
    description: Those of O(units) that are restarted in any case, because what they run has changed.
    type: list
    elements: str
    default: []
  stopped:
    description:
      - Units that are stopped and disabled before files are removed. Those that do not exist are left out.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Says what would change.
    support: full
  diff_mode:
    description: Shows the files before and after.
    support: full
  idempotent:
    description: Nothing is done when everything is as asked for.
    support: full
  platform:
    description: Linux with systemd.
    support: full
    platforms: linux
author:
  - gpuready developers
"""

EXAMPLES = r"""
- name: Let a timer run
  gpuready.node.owned_units:
    files:
      - path: /etc/systemd/system/gpuready-health-check.timer
        content: |
          [Timer]
          OnUnitActiveSec=5min
          [Install]
          WantedBy=timers.target
    units: [gpuready-health-check.timer]

- name: Take it away
  gpuready.node.owned_units:
    stopped: [gpuready-health-check.timer]
    absent: [/etc/systemd/system/gpuready-health-check.timer]
"""

RETURN = r"""
written:
  description: Files that were written.
  returned: success
  type: list
  elements: str
  sample: [/etc/systemd/system/gpuready-health-check.timer]
removed:
  description: Files that were removed.
  returned: success
  type: list
  elements: str
  sample: []
started:
  description: Units that were enabled, started or restarted.
  returned: success
  type: list
  elements: str
  sample: [gpuready-health-check.timer]
stopped:
  description: Units that were stopped or disabled.
  returned: success
  type: list
  elements: str
  sample: []
reloaded:
  description: Whether systemd had to read its units again.
  returned: success
  type: bool
  sample: false
"""

import grp
import os
import pwd
import re
import stat
import tempfile
from typing import Any, Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule

UNITS = "/etc/systemd/system/"
PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload"
ENABLED = ("enabled", "enabled-runtime", "alias", "static")
ACTIVE = ("active", "activating", "reloading")


class Systemd:
    """systemd, asked and told by `systemctl`."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._environment = {"LC_ALL": "C", "SYSTEMD_COLORS": "0"}

    def show(self, names: List[str]) -> Dict[str, Dict[str, str]]:
        """Unit → its properties; one that does not exist has LoadState=not-found."""
        if not names:
            return {}
        _rc, out, _err = self._run(["systemctl", "show", "--no-pager", "--property=" + PROPERTIES, *names])
        found = {}
        for block in out.split("\n\n"):
            properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            if properties.get("Id"):
                found[properties["Id"]] = properties
        return found

    def do(self, verb: str, names: List[str], *options: str) -> None:
        rc, out, err = self._run(["systemctl", *options, verb, *names], check=False)
        if rc != 0:
            self._module.fail_json(
                msg="systemctl %s %s failed: %s%s"
                % (verb, " ".join(names), (err or out).strip(), self._said(names))
            )

    def _said(self, names: List[str]) -> str:
        """What the units themselves wrote last: systemctl only says where to look."""
        lines: List[str] = []
        for name in names:
            rc, out, _err = self._run(
                ["journalctl", "--unit=" + name, "--boot", "--lines=10", "--no-pager", "--output=cat"],
                check=False,
            )
            lines += out.strip().splitlines() if rc == 0 else []
        return "".join("\n  " + line for line in lines[-20:])

    def _run(self, command: List[str], check: bool = True) -> Any:
        return self._module.run_command(command, check_rc=check, environ_update=self._environment)


def read(path: str) -> Optional[str]:
    """The file's text, null where there is none; a link is none, for it is not ours."""
    if os.path.islink(path) or not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8", errors="replace") as handle:
        return handle.read()


def differs(want: Dict[str, Any]) -> bool:
    if read(want["path"]) != want["content"]:
        return True
    seen = os.lstat(want["path"])
    return stat.S_IMODE(seen.st_mode) != int(want["mode"], 8) or seen.st_uid != uid_of(want["owner"])


def uid_of(owner: str) -> int:
    return pwd.getpwnam(owner).pw_uid


def gid_of(owner: str) -> int:
    return grp.getgrgid(pwd.getpwnam(owner).pw_gid).gr_gid


def write(want: Dict[str, Any]) -> None:
    folder = os.path.dirname(want["path"])
    os.makedirs(folder, mode=0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".gpuready-", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(want["content"])
            out.flush()
            os.fsync(out.fileno())
        os.chown(temporary, uid_of(want["owner"]), gid_of(want["owner"]))
        os.chmod(temporary, int(want["mode"], 8))
        os.replace(temporary, want["path"])
    except BaseException:
        os.unlink(temporary)
        raise


def check_arguments(module: Any) -> None:
    for want in module.params["files"]:
        if not re.match(r"^0?[0-7]{3}$", want["mode"]):
            module.fail_json(
                msg="files: the mode of %s is %r; write octal digits, such as 0644"
                % (want["path"], want["mode"])
            )
        try:
            pwd.getpwnam(want["owner"])
        except KeyError:
            module.fail_json(
                msg="files: %s is to belong to %r, but there is no such account"
                % (want["path"], want["owner"])
            )
    strangers = sorted(set(module.params["restarted"]) - set(module.params["units"]))
    if strangers:
        module.fail_json(msg="restarted: %s is not in units" % ", ".join(strangers))


def unit_of(path: str) -> Optional[str]:
    """The unit that a file is of: its own, or as a drop-in (name.service.d/x.conf) a part of it."""
    folder, name = os.path.split(path)
    if folder + "/" == UNITS:
        return name
    if os.path.dirname(folder) + "/" == UNITS and folder.endswith(".d"):
        return os.path.basename(folder)[: -len(".d")]
    return None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0644"},
                    "owner": {"type": "str", "default": "root"},
                },
            },
            "absent": {"type": "list", "elements": "path", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
            "restarted": {"type": "list", "elements": "str", "default": []},
            "stopped": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    check_arguments(module)
    wanted, dry = module.params, module.check_mode
    systemd = Systemd(module)
    before = systemd.show([*wanted["units"], *wanted["stopped"]])

    stopping = [
        name
        for name in wanted["stopped"]
        if before[name]["ActiveState"] in ACTIVE or before[name]["UnitFileState"] in ENABLED[:3]
    ]
    written = [want for want in wanted["files"] if differs(want)]
    removed = [path for path in wanted["absent"] if os.path.lexists(path)]
    diff = [
        {
            "before_header": path,
            "after_header": path,
            "before": read(path) or "",
            "after": next((want["content"] for want in written if want["path"] == path), ""),
        }
        for path in [*(want["path"] for want in written), *removed]
    ]
    reloaded = False
    if not dry:
        if stopping:
            disabling = [name for name in stopping if before[name]["UnitFileState"] in ENABLED[:3]]
            if disabling:
                systemd.do("disable", disabling, "--no-reload")
            systemd.do("stop", stopping)
        for want in written:
            write(want)
        for path in removed:
            os.unlink(path)
        reloaded = reload_where_needed(systemd, wanted, written, removed)

    changed_units = {unit_of(want["path"]) for want in written}
    enabling = [name for name in wanted["units"] if before[name]["UnitFileState"] not in ENABLED]
    starting = [name for name in wanted["units"] if before[name]["ActiveState"] not in ACTIVE]
    restarting = [
        name
        for name in wanted["units"]
        if name not in starting and (name in changed_units or name in wanted["restarted"])
    ]
    if not dry:
        if enabling:
            systemd.do("enable", enabling, "--no-reload")
        for verb, names in (("start", starting), ("restart", restarting)):
            if names:
                systemd.do(verb, names)
    started = sorted({*enabling, *starting, *restarting})
    module.exit_json(
        changed=bool(stopping or written or removed or started),
        diff=diff,
        written=[want["path"] for want in written],
        removed=removed,
        started=started,
        stopped=stopping,
        reloaded=reloaded,
    )


def reload_where_needed(
    systemd: Systemd, wanted: Dict[str, Any], written: List[Dict[str, Any]], removed: List[str]
) -> bool:
    """systemd itself knows whether what it has in memory is another than what is on disk."""
    touched = [*(unit_of(want["path"]) for want in written), *(unit_of(path) for path in removed)]
    names = sorted({*(name for name in touched if name), *wanted["units"]})
    if not any(unit["NeedDaemonReload"] == "yes" for unit in systemd.show(names).values()):
        return False
    systemd.do("daemon-reload", [])
    return True


if __name__ == "__main__":
    main()
