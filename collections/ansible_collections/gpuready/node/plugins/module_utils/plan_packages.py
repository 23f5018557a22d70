# Apache-2.0 (see LICENSE)
"""Which packages are whose: what makes up a driver, what of it is held, and what it takes the place of."""

from __future__ import annotations

import re
from typing import Dict, List, Mapping, Optional, Pattern, Sequence, Tuple

from . import requirements
from .catalog import Family
from .draft import Draft
from .driver_options import Installed, Option
from .versions import driver_version


def _alternatives(patterns: Sequence[str], placeholders: Mapping[str, str]) -> str:
    """A regular expression for any of these patterns of package names."""
    words = []
    for pattern in patterns:
        word = re.escape(pattern)
        for name, expression in placeholders.items():
            word = word.replace(re.escape("{%s}" % name), expression)
        words.append(word)
    return "(?:%s)$" % "|".join(words)


def _patterns(family: Family) -> Tuple[str, ...]:
    """Every pattern of a family's package names but the headers', which are the kernel's."""
    single = (
        family.version_package,
        family.library_package,
        family.kernel_modules,
        family.dkms_module,
        family.dkms_module_open,
        family.nvswitch,
    )
    groups = (family.precompiled, family.dkms, family.dkms_open, family.metapackages, family.closure)
    found = [pattern for pattern in single if pattern] + [p for group in groups for p in group]
    # Ubuntu's precompiled modules bring the signed objects in a package of their own.
    found += [_objects(pattern) for pattern in found if pattern.startswith("linux-modules-nvidia-")]
    return tuple(dict.fromkeys(pattern for pattern in found if pattern not in family.extras))


def _objects(name: str) -> str:
    return name.replace("linux-modules-", "linux-objects-", 1)


def _regular(
    patterns: Sequence[str], family: Family, branch: Optional[int], mark: str
) -> Optional[Pattern[str]]:
    """The names of a branch (or of any) and a flavour ("-open" or nothing); None of no patterns."""
    values = {
        "branch": str(branch) if branch else r"\d{3,4}",
        "family": re.escape(family.suffix),
        "open": mark,
        "kernel": r"\d.*",
        "kernel_flavour": r"(?!open-)[a-z].*",
    }
    return re.compile(_alternatives(patterns, values)) if patterns else None


class Membership:
    """Which packages make up one branch, family and flavour.

    The metapackage of a kernel's flavour is none of them: held, it would keep a new kernel from bringing its
    module. It cannot move the driver: it depends on the driver's own version, which is held.
    """

    def __init__(self, family: Family, branch: int, flavour: str, longer: Sequence[str]) -> None:
        self.family = family
        is_open = flavour == requirements.OPEN
        mark, other = ("-open", "") if is_open else ("", "-open")
        patterns = _patterns(family)
        # Where the flavours' names differ altogether (Debian), only the other flavour has these.
        mine = {*family.dkms_packages(is_open), family.dkms_module_package(is_open)}
        others = (*family.dkms_packages(not is_open), family.dkms_module_package(not is_open))
        foreign = [pattern for pattern in others if pattern and pattern not in mine]
        marked = [pattern for pattern in patterns if "{open}" in pattern]
        metapackages = [family.kernel_metapackage] if family.kernel_metapackage else []
        never = (
            _regular(metapackages, family, branch, mark),
            _regular(metapackages, family, branch, other),
            _regular(marked, family, branch, other),
            _regular(foreign, family, branch, mark),
        )
        self.metapackage = never[0]
        words = [found.pattern for found in never if found]
        self.never = re.compile("|".join(words)) if words else None
        headers = [*family.kernel_headers]
        self.headers = _regular(headers, family, branch, mark)
        self.named = _regular(patterns, family, branch, mark)
        # Whatever carries the branch and the family, as nvidia-firmware-580-server-580.95.05 does, but not
        # the name of a family that begins like this one's.
        unlike = "(?!%s)" % "|".join(map(re.escape, longer)) if longer else ""
        self.token = "-%d%s" % (branch, family.suffix) if family.branched else ""
        self.numbered = re.compile("-%d%s%s(-|$)" % (branch, re.escape(family.suffix), unlike))

    def holds(self, name: str) -> bool:
        """By the name alone."""
        if self.never and self.never.match(name):
            return False
        if self.named and self.named.match(name):
            return True
        return bool(self.token and self.token in name and self.numbered.search(name))

    def belongs(self, name: str, version: Optional[str], package_version: Optional[str]) -> bool:
        if self.holds(name):
            return True
        # Names without a branch: all that is built together carries one version.
        if self.family.branched or not version or version != package_version:
            return False
        return not (self.never and self.never.match(name))

    def is_metapackage(self, name: str) -> bool:
        """Of this very branch, family and flavour, for whichever flavour of kernel."""
        return bool(self.metapackage and self.metapackage.match(name))

    def is_headers(self, name: str) -> bool:
        return bool(self.headers and self.headers.match(name))


def membership(work: Draft, option: Option) -> Membership:
    """Of an option; worked out once for all nodes of a catalog."""
    own = option.family.suffix
    longer = work.memory.recall("longer suffixes", (work.system, own), lambda: _longer(work, own))
    return work.memory.recall(
        "membership",
        (id(option.family), option.branch, option.flavour, longer),
        lambda: Membership(option.family, option.branch, option.flavour, longer),
    )


def _longer(work: Draft, own: str) -> Tuple[str, ...]:
    """What follows the branch in the names of families that begin like this one's, from whichever source."""
    suffixes = {family.suffix for source in work.sources for family in source.families}
    return tuple(sorted(text[len(own) :] for text in suffixes if text != own and text.startswith(own)))


def part_of(installed: Installed, kept: Option) -> Dict[str, Optional[str]]:
    """The installed packages that make up the installed driver, with their versions."""
    found: Dict[str, Optional[str]] = dict(kept.packages)
    found.update(
        (name, version)
        for name, version in installed.packages.items()
        if driver_version(version) == kept.version
    )
    return found


def holds(work: Draft, option: Option, installed: Installed) -> List[str]:
    """What makes up the driver's version, as far as it is there or will be: installed, or known to apt."""
    member = membership(work, option)
    wanted = option.package_version
    known: Dict[str, Optional[str]] = dict(option.packages)
    known.update(installed.packages)
    found = {name for name, version in known.items() if member.belongs(name, version, wanted)}
    if "driver.install" in work.actions:
        for name, entry in (work.see("apt", "candidates") or {}).items():
            if member.token:
                if member.token in name and member.holds(name):
                    found.add(name)
            elif wanted in ((entry or {}).get("versions") or ()):
                if member.belongs(name, wanted, wanted):
                    found.add(name)
            elif member.holds(name):
                found.add(name)
        # Of NVSwitches the branch alone is in the name.
        found |= {name for name in _closure(work, option) if name in (work.see("apt", "candidates") or {})}
        found |= {_objects(name) for name in found if name.startswith("linux-modules-nvidia-")}
    return sorted(name for name in found if not member.is_headers(name))


def _closure(work: Draft, option: Option) -> Tuple[str, ...]:
    """The names of the closure; none of the other flavour's."""

    def made() -> Tuple[str, ...]:
        mark = "-open" if option.flavour == requirements.OPEN else ""
        member = membership(work, option)
        plain = [p for p in option.family.closure if "{kernel" not in p]
        found = [p.format(branch=option.branch, family=option.family.suffix, open=mark) for p in plain]
        return tuple(name for name in found if member.holds(name))

    return work.memory.recall("closure", (id(option.family), option.branch, option.flavour), made)


def loose(work: Draft, option: Option, installed: Installed) -> List[str]:
    """Installed packages of the driver that are not held."""
    member = membership(work, option)
    return [
        name
        for name, held in installed.held.items()
        if not held and member.belongs(name, installed.packages.get(name), option.package_version)
    ]


def replaced(work: Draft, option: Option, installed: Installed) -> List[str]:
    """Installed packages of another driver, which apt removes in the same step."""
    if not installed.packages:
        return []
    member = membership(work, option)
    candidates = work.see("apt", "candidates") or {}
    branched = work.memory.recall("branched", work.system, lambda: _branched(work))
    # Of a driver that is not whole, too, the version tells what came with it.
    planned, current, found = dict(option.packages), installed.version, []
    for name, version in installed.packages.items():
        if name in planned or member.belongs(name, version, option.package_version):
            continue
        if option.installed and member.is_metapackage(name):
            continue  # it brings the module of a kernel to come, and the driver stays the same
        if not option.family.branched:
            offered = (candidates.get(name) or {}).get("versions") or ()
            if option.package_version in offered:
                continue  # the same package, in the other version
        known = any(pattern.match(name) for pattern in branched)
        if known or (current and driver_version(version) == current):
            found.append(name)
    return sorted(found)


def _branched(work: Draft) -> List[Pattern[str]]:
    """The names that tell a driver's branch, of every source for this system."""
    # The branch comes after words: a kernel's number (linux-signatures-nvidia-5.15.0-157-generic) is none.
    numbers = "|".join(str(branch) for branch in work.catalog.branches)
    found = [re.compile(r"(?:[a-z0-9]+-)*(?:lib)?nvidia-(?:[a-z][a-z0-9]*-)*(?:%s)(?:-|$)" % numbers)]
    for source in work.sources:
        for family in source.families:
            for mark in ("-open", ""):
                regular = _regular(_patterns(family), family, None, mark) if family.branched else None
                if regular:
                    found.append(regular)
    return found
