#!/usr/bin/python
# Copyright: gpuready developers
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_transaction
short_description: Installs and removes driver packages in one apt transaction that is simulated first
version_added: "0.2.0"
description:
  - Everything that is asked for comes and goes in one run of C(apt-get), or nothing does.
  - The very same run is simulated before. It is refused, with nothing changed, when it would remove a package
    that is neither named in O(remove) nor part of NVIDIA's driver, when it would remove what O(install) asks
    for, and when it would change a package that somebody holds and that is not the driver's.
  - Driver packages that are held may change; those that are still there afterwards are held again, also when
    apt fails.
  - Packages that are installed at the wanted version are left out, so that they keep their mark as
    automatically installed. Those that apt had installed for others keep that mark with another version.
  - A dpkg that was interrupted is finished first, and packages that were only unpacked are configured. Where
    that fails, it does not matter for packages that are to be removed, or to get another version.
    C(needrestart) restarts nothing meanwhile.
options:
  install:
    description: Packages to install, as C(name) or C(name=version).
    type: list
    elements: str
    default: []
  remove:
    description: Packages to remove in the same run. Those that are not installed are left out.
    type: list
    elements: str
    default: []
  reinstall:
    description:
      - Installed packages whose files are to be put back, whether they are in O(install) or not.
    type: list
    elements: str
    default: []
  autoremove:
    description: Packages that go as well, when nobody needs them any more after the run. Others never do.
    type: list
    elements: str
    default: []
  automatic:
    description:
      - Packages of O(install) to be marked as automatically installed afterwards, as they were marked when
        they were there before.
    type: list
    elements: str
    default: []
  purge:
    description: Whether removed packages lose their configuration files as well.
    type: bool
    default: false
  allow_downgrade:
    description: Whether a package may get an older version.
    type: bool
    default: false
  lock_timeout_seconds:
    description: How long to wait while another process works with apt or dpkg, in seconds.
    type: int
    default: 600
attributes:
  check_mode:
    description: Simulates, refuses what it would refuse, and says what would change.
    support: full
  diff_mode:
    description: Shows the packages that change, with their versions, before and after.
    support: full
  idempotent:
    description: Nothing is run when everything is as asked for.
    support: full
  platform:
    description: Debian and what descends from it.
    support: full
    platforms: debian
author:
  - gpuready developers
"""

EXAMPLES = r"""
- name: Change the driver's branch
  gpuready.node.apt_transaction:
    install:
      - nvidia-utils-580-server=580.95.05-0ubuntu0.22.04.2
      - libnvidia-compute-580-server=580.95.05-0ubuntu0.22.04.2
    remove:
      - nvidia-utils-570-server
      - libnvidia-compute-570-server
  become: true
"""

RETURN = r"""
installed:
  description: Packages that were not there before.
  returned: success
  type: list
  elements: dict
  contains: &package
    name:
      description: The package.
      type: str
    before:
      description: Its version before; null when it was not there.
      type: str
    after:
      description: Its version afterwards; null when it is not there any more.
      type: str
  sample: [{name: nvidia-utils-580-server, before: null, after: 580.95.05-0ubuntu0.22.04.2}]
upgraded:
  description: Packages that got another version, newer or older.
  returned: success
  type: list
  elements: dict
  contains: *package
  sample: []
removed:
  description: Packages that are gone.
  returned: success
  type: list
  elements: dict
  contains: *package
  sample: [{name: nvidia-utils-570-server, before: 570.195.03-0ubuntu0.22.04.1, after: null}]
automatic:
  description: Packages that change or go and were marked as automatically installed before.
  returned: success
  type: list
  elements: str
  sample: [libnvidia-compute-570-server]
held:
  description: Packages whose hold was set again after the run.
  returned: success
  type: list
  elements: str
  sample: [nvidia-utils-580-server]
command:
  description: The command that was (in check mode, would be) run; empty when there is nothing to do.
  returned: always
  type: list
  elements: str
  sample: [apt-get, --yes, install, nvidia-utils-580-server]
reason:
  description:
    - Why it failed. V(removal) and V(held) are refusals; V(apt) is apt's own word, and V(dpkg) dpkg's.
    - C(changed) says whether the node is as it was.
  returned: failure
  type: str
  sample: removal
stdout:
  description: What apt printed.
  returned: always
  type: str
  sample: ""
stderr:
  description: What apt complained about.
  returned: always
  type: str
  sample: ""
"""

import os
import re
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional, Set, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import apt_progress
from ansible_collections.gpuready.node.plugins.module_utils.observe import packages as dpkg

ENVIRONMENT = {
    "LC_ALL": "C",
    "LANGUAGE": "",
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBIAN_PRIORITY": "critical",
    "APT_LISTCHANGES_FRONTEND": "none",
    # Ubuntu's needrestart would restart services of its choice in the middle of the run.
    "NEEDRESTART_SUSPEND": "1",
}
# Configuration files that the user edited stay as they are.
DPKG_OPTIONS = ("--force-confdef", "--force-confold")
SPEC = re.compile(r"^[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9][A-Za-z0-9.+~:-]*)?$")
# Inst name [old] (new origin [arch]) []; the architecture is part of the name where it is a foreign one.
LINE = re.compile(
    r"^(?P<word>Inst|Remv|Purg) (?P<name>[^\s:]+)(?::\S+)?(?: \[(?P<old>[^\]]+)\])?(?: \((?P<new>\S+))?", re.M
)
# States in which something of a package is on the node that apt counts as there.
UNFINISHED = ("unpacked", "half-configured", "triggers-awaited", "triggers-pending")
PRESENT = ("installed", *UNFINISHED)


class Refusal(Exception):
    """Nothing was changed; the text says why."""

    changed = False

    def __init__(self, reason: str, text: str, out: str = "", err: str = "") -> None:
        super().__init__(text)
        self.reason, self.out, self.err = reason, out, err


class Breakdown(Refusal):
    """apt stopped in the middle."""

    def __init__(self, changed: bool, text: str, out: str, err: str) -> None:
        super().__init__("apt", text, out, err)
        self.changed = changed


class Step(NamedTuple):
    """One package of a transaction."""

    name: str
    before: Optional[str]
    after: Optional[str]


def steps(simulation: str) -> List[Step]:
    """What apt says that it would do."""
    found: Dict[str, Step] = {}
    for match in LINE.finditer(simulation):
        name, old, new = match.group("name", "old", "new")
        if match.group("word") == "Inst":
            found[name] = Step(name, old, new)
        else:
            found[name] = Step(name, old, None)
    return list(found.values())


def installed(found: List[dpkg.Package]) -> Dict[str, str]:
    """Versions of what is there, without foreign architectures' twins."""
    return {package.name: package.version for package in found if package.status in PRESENT}


def split(spec: str) -> Tuple[str, str]:
    name, _, version = spec.partition("=")
    return name, version


def lacking(install: List[str], reinstall: List[str], have: Dict[str, str]) -> List[str]:
    """The specs that are not fulfilled."""
    wanted = []
    for spec in install:
        name, version = split(spec)
        if name in reinstall or name not in have or (version and have[name] != version):
            wanted.append(spec)
    # What others brought along is reinstalled at the version that it has.
    named = {split(spec)[0] for spec in install}
    return wanted + ["%s=%s" % (name, have[name]) for name in reinstall if name in have and name not in named]


def refuse(plan: List[Step], params: Dict[str, Any], held: Set[str]) -> None:
    """Raise for what nobody asked for."""
    named = {split(spec)[0] for spec in params["install"]}
    going = [step.name for step in plan if step.after is None]
    torn = sorted(set(going) & named)
    if torn:
        raise Refusal("removal", "apt would remove what is to be installed: %s" % ", ".join(torn))
    welcome = {*params["remove"], *params["autoremove"]}
    foreign = sorted(name for name in going if name not in welcome and not dpkg.is_driver(name))
    if foreign:
        raise Refusal(
            "removal",
            "apt would remove packages that are not the driver's: %s" % ", ".join(foreign),
        )
    stuck = sorted(
        step.name
        for step in plan
        if step.name in held and step.name not in named | welcome and not dpkg.is_driver(step.name)
    )
    if stuck:
        raise Refusal(
            "held", "apt would change packages that somebody holds (apt-mark hold): %s" % ", ".join(stuck)
        )


class Transaction:
    """One run of apt-get, and everything around it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.out = self.err = ""
        self.command: List[str] = []
        self.auto: List[str] = []
        self.finished = False

    def run(self, command: List[str], fds: Optional[List[int]] = None) -> Tuple[int, str, str]:
        rc, out, err = self.module.run_command(command, environ_update=ENVIRONMENT, pass_fds=fds)
        return int(rc), str(out), str(err)

    def packages(self) -> List[dpkg.Package]:
        rc, out, err = self.run(list(dpkg.COMMAND))
        if rc != 0:
            raise Refusal("dpkg", "dpkg-query cannot list this node's packages: %s" % err.strip())
        return dpkg.parse(out)

    def apt_get(self, specs: List[str], remove: List[str]) -> List[str]:
        params = self.params
        command = ["apt-get", "--yes", "--no-install-recommends", "--allow-change-held-packages"]
        command += ["--option=APT::Ignore-Hold=true"]
        command += ["--option=DPkg::Lock::Timeout=%d" % params["lock_timeout_seconds"]]
        command += ["--option=Dpkg::Use-Pty=0"]
        options = [*DPKG_OPTIONS, *(["--force-confmiss"] if params["reinstall"] else [])]
        command += ["--option=Dpkg::Options::=%s" % option for option in options]
        if params["allow_downgrade"]:
            command.append("--allow-downgrades")
        if params["purge"]:
            command.append("--purge")
        if params["reinstall"]:
            command.append("--reinstall")
        # A minus behind a name removes it in the same run.
        return [*command, "install", *specs, *(name + "-" for name in remove)]

    def simulate(self, command: List[str]) -> List[Step]:
        simulated = [command[0], "--simulate", *command[1:]]
        rc, out, err = self.run(simulated)
        self.out, self.err = out, err
        if rc != 0:
            raise Refusal("apt", "apt cannot do it: %s" % complaint(out, err), out, err)
        return steps(out)

    def superfluous(self, command: List[str], plan: List[Step], have: Dict[str, str]) -> List[str]:
        """Those of `autoremove` that nobody needs after the run."""
        among = {name for name in self.params["autoremove"] if name in have}
        among -= {step.name for step in plan}
        if not among:
            return []
        # What somebody merely suggests is not needed: apt suggests dpkg-dev, and a whole compiler would stay.
        more = self.simulate(
            [command[0], "--auto-remove", "--option=APT::AutoRemove::SuggestsImportant=false", *command[1:]]
        )
        return sorted(step.name for step in more if step.after is None and step.name in among)

    def plan(self, found: List[dpkg.Package]) -> Tuple[List[str], List[Step]]:
        """The command and what it would do; an empty command when there is nothing to do."""
        params = self.params
        have = installed(found)
        specs = lacking(params["install"], params["reinstall"], have)
        known = {package.name for package in found if package.status != "not-installed"}
        remove = [
            name for name in dict.fromkeys(params["remove"]) if name in (known if params["purge"] else have)
        ]
        held = {package.name for package in found if package.want == "hold"}
        if not specs and not remove:
            command = self.apt_get([], [])
            remove = self.superfluous(command, [], have) if params["autoremove"] else []
            if not remove:
                return [], []
        command = self.apt_get(specs, remove)
        plan = self.simulate(command)
        settled = {split(spec)[0] for spec in params["install"]} - {split(spec)[0] for spec in specs}
        if settled & {step.name for step in plan}:
            # apt would touch what is already as wanted: say so to it, by name and version.
            specs = list(params["install"])
            command = self.apt_get(specs, remove)
            plan = self.simulate(command)
        more = self.superfluous(command, plan, have)
        if more:
            remove += more
            command = self.apt_get(specs, remove)
            plan = self.simulate(command)
        refuse(plan, params, held)
        return command, plan

    # --- around the run -----------------------------------------------------------------------------------

    def finish_dpkg(self, found: List[dpkg.Package]) -> List[dpkg.Package]:
        """apt refuses to work while dpkg is interrupted, and calls what is only unpacked installed."""
        updates = "/var/lib/dpkg/updates"
        journal = [name for name in os.listdir(updates) if name.isdigit()] if os.path.isdir(updates) else []
        unfinished = {package.name: package.version for package in found if package.status in UNFINISHED}
        if not journal and not unfinished:
            return found
        command = ["dpkg", *DPKG_OPTIONS, "--configure", "--pending"]
        rc, out, err = self.run(command)
        self.finished = rc == 0
        changing = {
            name
            for name, version in map(split, self.params["install"])
            if name in unfinished and version not in ("", unfinished[name])
        }
        if rc != 0 and (journal or set(unfinished) - changing - set(self.params["remove"])):
            raise Refusal(
                "dpkg", "dpkg was interrupted and cannot be finished: %s" % complaint(out, err), out, err
            )
        return self.packages()

    def automatic(self, names: List[str]) -> List[str]:
        """Those that apt installed only for others."""
        if not names:
            return []
        _rc, out, _err = self.run(["apt-mark", "showauto", *names])
        return [line.split(":")[0] for line in out.split()]

    def hold_again(self, before: List[dpkg.Package]) -> List[str]:
        """Installing over a hold takes it away. Return what was held again."""
        held = {(package.name, package.arch) for package in before if package.want == "hold"}
        lost = [
            package
            for package in self.packages()
            if (package.name, package.arch) in held
            and package.want != "hold"
            and package.status in (*PRESENT, "half-installed")
        ]
        if lost:
            lines = "".join("%s:%s hold\n" % (package.name, package.arch) for package in lost)
            self.module.run_command(
                ["dpkg", "--set-selections"], data=lines, binary_data=True, environ_update=ENVIRONMENT
            )
        return sorted(package.name for package in lost)

    def act(
        self, command: List[str], before: List[dpkg.Package], names: List[str]
    ) -> Tuple[List[Step], List[str]]:
        have = installed(before)
        try:
            with apt_progress.Apt(names) as told:
                rc, out, err = self.run([command[0], *told.options, *command[1:]], [told.fd])
            self.out, self.err = out, err
        finally:
            held = self.hold_again(before)
        after = self.packages()
        now = installed(after)
        auto = [name for name in (*self.auto, *self.params["automatic"]) if name in now]
        if auto:
            self.run(["apt-mark", "auto", *dict.fromkeys(auto)])
        if rc != 0:
            changed = {entry[:3] + entry[4:] for entry in before} != {
                entry[:3] + entry[4:] for entry in after
            }
            raise Breakdown(changed, "apt failed: %s" % complaint(out, err), out, err)
        names = sorted({*have, *now})
        return [
            Step(name, have.get(name), now.get(name)) for name in names if have.get(name) != now.get(name)
        ], held


def complaint(out: str, err: str) -> str:
    """The lines in which apt and dpkg say what is wrong."""
    lines = [line.strip() for line in err.splitlines() if re.match(r"\s*(E:|dpkg: error)", line)]
    unmet = re.search(r"The following packages have unmet dependencies:\n(?:(?: .*|\S+ : .*)\n)+", out)
    words = [*([" ".join(unmet.group(0).split())] if unmet else []), *lines]
    return " ".join(words) or " ".join(err.split())[-500:] or "it did not say why"


def text_of(plan: List[Step], key: str) -> str:
    pairs = sorted((step.name, getattr(step, key)) for step in plan)
    return "".join("%s %s\n" % (name, version) for name, version in pairs if version)


def result_of(plan: List[Step], held: List[str], transaction: Transaction) -> Dict[str, Any]:
    def some(before: bool, after: bool) -> List[Dict[str, Any]]:
        return [
            dict(step._asdict())
            for step in plan
            if (step.before is not None) == before and (step.after is not None) == after
        ]

    return {
        "changed": bool(transaction.command) or transaction.finished,
        "installed": some(False, True),
        "upgraded": some(True, True),
        "removed": some(True, False),
        "automatic": transaction.auto,
        "held": held,
        "command": transaction.command,
        "stdout": transaction.out if transaction.command else "",
        "stderr": transaction.err if transaction.command else "",
        "diff": {
            "before_header": "packages",
            "after_header": "packages",
            "before": text_of(plan, "before"),
            "after": text_of(plan, "after"),
        },
    }


def give_up(module: AnsibleModule, refusal: Refusal, command: List[str]) -> NoReturn:
    module.fail_json(
        msg=str(refusal),
        reason=refusal.reason,
        changed=refusal.changed,
        command=command,
        stdout=refusal.out,
        stderr=refusal.err,
    )
    raise AssertionError("fail_json returns nothing")


def main() -> None:
    lists = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "install": dict(lists),
            "remove": dict(lists),
            "reinstall": dict(lists),
            "autoremove": dict(lists),
            "automatic": dict(lists),
            "purge": {"type": "bool", "default": False},
            "allow_downgrade": {"type": "bool", "default": False},
            "lock_timeout_seconds": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    for parameter in ("install", "remove", "reinstall", "autoremove", "automatic"):
        for spec in module.params[parameter]:
            if not SPEC.match(spec) or (parameter != "install" and "=" in spec):
                module.fail_json(
                    msg="%s holds '%s', which is no package that apt could mean" % (parameter, spec)
                )
    transaction = Transaction(module)
    try:
        before = transaction.packages()
        if not module.check_mode:
            before = transaction.finish_dpkg(before)
        transaction.command, plan = transaction.plan(before)
        transaction.auto = transaction.automatic([step.name for step in plan if step.before])
        held: List[str] = []
        if transaction.command and not module.check_mode:
            plan, held = transaction.act(transaction.command, before, [step.name for step in plan])
        module.exit_json(**result_of(plan, held, transaction))
    except Refusal as refusal:
        give_up(module, refusal, transaction.command)


if __name__ == "__main__":
    main()
