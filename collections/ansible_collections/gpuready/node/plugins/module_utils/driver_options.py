# Apache-2.0 (see LICENSE)
"""Which drivers can be had: what is installed, and what apt (or, before it has lists, the catalog) offers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .catalog import Catalog, Family, PackageSource
from .requirements import DKMS, OPEN, PRECOMPILED, PROPRIETARY, Requirement, dig
from .versions import Version, at_least, driver_branch, driver_version, matches, newest


@dataclass(frozen=True)
class Option:
    """A driver that can be had: one branch, flavour and way of installing, with its packages."""

    branch: int
    family: Family
    flavour: str
    install: str
    version: Optional[str] = None
    package_version: Optional[str] = None
    packages: Tuple[Tuple[str, Optional[str]], ...] = ()
    fabric: bool = True
    installed: bool = False
    notes: Tuple[str, ...] = ()
    source: Optional[PackageSource] = None
    origin: Optional[str] = None  # the Origin of the archive that all the packages come from
    kernel: Optional[str] = None  # the kernel that gets the module: the running one, else the next boot's
    reboot: bool = False  # the module is not for the running kernel: a reboot must follow
    without_next_boot: Optional[str] = None  # the next boot's kernel, if no module can be had for it
    exact: bool = False  # not apt's candidate: `packages` is the whole set, downgrades must be allowed

    def satisfies(self, requirement: Requirement) -> bool:
        kind, value = requirement.kind, requirement.value
        if kind == "floor":
            if self.version:
                return at_least(self.version, value)
            # Before apt has lists only the branch is known; its newest version is taken to be new enough.
            return self.branch >= int(value.split(".")[0])
        if kind == "last_branch":
            return self.branch <= int(value)
        if kind == "branch":
            return self.branch == int(value)
        if kind == "version":
            if self.package_version:
                return matches(self.package_version, value)
            return self.version == value if self.version else self.branch == driver_branch(value)
        if kind == "flavour":
            return self.flavour == value
        if kind == "signed":
            return self.install == PRECOMPILED
        if kind == "fabric":
            return self.fabric
        raise AssertionError(kind)

    def words(self) -> str:
        return "%s (%s, %s)" % (
            self.package_version or self.version or self.branch,
            self.flavour,
            self.install,
        )


def suitable(options: Iterable[Option], requirements: Iterable[Requirement]) -> List[Option]:
    """The options that fulfil every requirement."""
    rules = list(requirements)
    return [option for option in options if all(option.satisfies(rule) for rule in rules)]


@dataclass
class Installed:
    """What the node has of a packaged driver."""

    packages: Dict[str, str] = field(default_factory=dict)
    held: Dict[str, bool] = field(default_factory=dict)
    branch: Optional[int] = None
    family: Optional[Family] = None
    flavour: Optional[str] = None
    version: Optional[str] = None
    package_version: Optional[str] = None
    option: Optional[Option] = None  # the whole set is there
    source: Optional[PackageSource] = None
    origin: Optional[str] = None


def names(
    patterns: Iterable[str], branch: int, family: Family, flavour: str = PROPRIETARY, kernel: str = ""
) -> List[str]:
    """Package names from a source's patterns."""
    suffix = "-open" if flavour == OPEN else ""
    return [p.format(branch=branch, family=family.suffix, open=suffix, kernel=kernel) for p in patterns]


def _fabric_manager(branch: int, family: Family) -> List[str]:
    return names([family.nvswitch], branch, family) if family.nvswitch else []


def source_of(
    observed: Mapping[str, Any], wishes: Mapping[str, Any], catalog: Catalog
) -> Optional[PackageSource]:
    """Where this node's driver is to come from; None when that source does not cover its release."""
    os_id, release = (dig(observed, "host", "os", key) for key in ("id", "version_id"))
    return catalog.package_source(wishes["nvidia_driver_source"], os_id, release)


def candidate_of(observed: Mapping[str, Any], package: str) -> Optional[str]:
    return dig(observed, "apt", "candidates", package, "candidate")


def versions_of(observed: Mapping[str, Any], package: str) -> List[str]:
    """All versions that apt can install, its candidate included."""
    entry = dig(observed, "apt", "candidates", package) or {}
    found = list(entry.get("versions") or [])
    if entry.get("candidate") and entry["candidate"] not in found:
        found.insert(0, entry["candidate"])
    return found


def has_lists(observed: Mapping[str, Any]) -> bool:
    return dig(observed, "apt", "candidates") is not None


def installed_packages(observed: Mapping[str, Any]) -> Dict[str, str]:
    """Installed packages of the driver, by what dpkg and apt say."""
    found = {}
    for name, entry in (dig(observed, "apt", "candidates") or {}).items():
        if entry and entry.get("installed"):
            found[name] = entry["installed"]
    for package in dig(observed, "driver", "packages") or []:
        if package.get("status", "installed") == "installed":
            found[package["name"]] = package["version"]
        else:
            found.pop(package["name"], None)
    return found


def kernels(observed: Mapping[str, Any]) -> Tuple[Optional[str], Optional[str]]:
    """(running kernel, the other kernel of the next boot)."""
    running = dig(observed, "host", "kernel", "running")
    upcoming = dig(observed, "host", "kernel", "next_boot")
    return running, upcoming if upcoming and upcoming != running else None


def read_installed(observed: Mapping[str, Any], source: PackageSource, catalog: Catalog) -> Installed:
    """Which packaged driver the node has, and whether the set is whole."""
    have = installed_packages(observed)
    state = Installed()
    for package in dig(observed, "driver", "packages") or []:
        if package.get("status", "installed") == "installed":
            state.packages[package["name"]] = package["version"]
            state.held[package["name"]] = bool(package.get("held"))
    anchors = []
    for family in source.families:
        if not family.branched:
            continue
        expression = re.escape(family.version_package).replace(r"\{branch\}", r"(\d{3,4})")
        expression = "^" + expression.replace(r"\{family\}", re.escape(family.suffix)) + "$"
        for name, version in have.items():
            match = re.match(expression, name)
            # A transitional package carries the name of one branch and the version of another.
            if match and driver_branch(version) == int(match.group(1)):
                anchors.append((Version(version), int(match.group(1)), family, version))
    if not anchors:
        return state
    _, state.branch, state.family, state.package_version = max(anchors, key=lambda anchor: anchor[:2])
    state.version = driver_version(state.package_version)
    state.flavour = _installed_flavour(observed, source, state)
    if not state.flavour:
        return state
    on_disk = dig(observed, "driver", "on_disk", "version")
    if on_disk and on_disk != state.version:
        return state  # module and libraries do not belong together: that is no whole driver
    running, upcoming = kernels(observed)
    listed = _complete_set(observed, source, state, have, running, upcoming)
    if listed:
        install, packages = listed
        state.option = Option(
            state.branch,
            state.family,
            state.flavour,
            install,
            state.version,
            state.package_version,
            tuple((name, have[name]) for name in packages),
            fabric=any(name in have for name in _fabric_manager(state.branch, state.family)),
            installed=True,
        )
    return state


def _installed_flavour(observed: Mapping[str, Any], source: PackageSource, state: Installed) -> Optional[str]:
    assert state.branch is not None and state.family is not None
    family = state.family
    for flavour in (OPEN, PROPRIETARY):
        patterns = (*family.precompiled, *family.dkms_packages(flavour == OPEN), *family.metapackages)
        marked = [p for p in patterns if "{open}" in p]
        if any(name in state.packages for name in names(marked, state.branch, state.family, flavour)):
            return flavour
    on_disk = dig(observed, "driver", "on_disk", "flavour")
    return str(on_disk) if on_disk in (OPEN, PROPRIETARY) else None


def _complete_set(
    observed: Mapping[str, Any],
    source: PackageSource,
    state: Installed,
    have: Mapping[str, str],
    running: Optional[str],
    upcoming: Optional[str],
) -> Optional[Tuple[str, List[str]]]:
    """(way, packages) if the installed packages are a whole driver for the kernels at hand."""
    assert state.branch is not None and state.family is not None and state.flavour is not None
    branch, family, flavour = state.branch, state.family, state.flavour
    if running and family.kernel_modules:
        wanted = names([family.kernel_modules], branch, family, flavour, running)
        wanted += names(family.precompiled, branch, family, flavour)
        if upcoming:
            later = names([family.kernel_modules], branch, family, flavour, upcoming)[0]
            if later in have or candidate_of(observed, later):
                wanted.append(later)
        if all(name in have for name in wanted):
            return PRECOMPILED, wanted
    for patterns in (family.dkms_packages(flavour == OPEN), family.metapackages):
        wanted = names(patterns, branch, family, flavour)
        if wanted and all(name in have for name in wanted):
            return DKMS, wanted
    return None


def available(
    observed: Mapping[str, Any], source: PackageSource, catalog: Catalog, pin: str = ""
) -> List[Option]:
    """Every driver that apt could install now; by the catalog's list while apt has no lists."""
    if not has_lists(observed):
        return _available_by_catalog(observed, source, catalog)
    found: List[Option] = []
    for branch in catalog.branches:
        for family in source.families:
            if not family.names(branch) or not family.branched:
                continue
            if not candidate_of(observed, names([family.version_package], branch, family)[0]):
                continue
            for flavour in (OPEN, PROPRIETARY):
                for install in (PRECOMPILED, DKMS):
                    option = _installable(observed, source, branch, family, flavour, install, pin)
                    if option:
                        found.append(option)
    return found


def _available_by_catalog(
    observed: Mapping[str, Any], source: PackageSource, catalog: Catalog
) -> List[Option]:
    running, upcoming = kernels(observed)
    release = dig(observed, "host", "os", "version_id")
    nvswitches = dig(observed, "host", "nvswitches") or []
    found = []
    for family in source.families:
        for branch in source.offers.get(str(release), {}).get(family.family, ()):
            for flavour in (OPEN, PROPRIETARY):
                if flavour == OPEN and branch < catalog.open_first:
                    continue
                if not family.kernel_modules:
                    continue
                wanted = [
                    names([family.kernel_modules], branch, family, flavour, kernel)[0]
                    for kernel in (running, upcoming)
                    if kernel
                ]
                wanted += names(family.precompiled, branch, family, flavour)
                if nvswitches:
                    wanted += _fabric_manager(branch, family)
                found.append(
                    Option(branch, family, flavour, PRECOMPILED, packages=tuple((n, None) for n in wanted))
                )
    return found


def _common_version(
    observed: Mapping[str, Any], packages: Sequence[str], branch: int, pin: str
) -> Optional[str]:
    """The version that all the packages can be had at: apt's candidate, or the one that was asked for."""
    shared = [v for v in versions_of(observed, packages[-1]) if driver_branch(v) == branch]
    for package in packages[:-1]:
        offered = versions_of(observed, package)
        shared = [version for version in shared if version in offered]
    if pin:
        return newest([version for version in shared if matches(version, pin)])
    preferred = candidate_of(observed, packages[-1])
    return preferred if preferred in shared else newest(shared)


def _installable(
    observed: Mapping[str, Any],
    source: PackageSource,
    branch: int,
    family: Family,
    flavour: str,
    install: str,
    pin: str,
) -> Optional[Option]:
    running, upcoming = kernels(observed)
    patterns = family.precompiled if install == PRECOMPILED else family.dkms_packages(flavour == OPEN)
    if not patterns:
        return None
    userland = names(patterns, branch, family, flavour)
    version = _common_version(observed, userland, branch, pin)
    if not version or not running:
        return None
    modules: List[Tuple[str, Optional[str]]] = []
    notes: List[str] = []
    if install == PRECOMPILED:
        assert family.kernel_modules is not None
        here = names([family.kernel_modules], branch, family, flavour, running)[0]
        if not candidate_of(observed, here):
            return None
        # Precompiled modules follow the archive's newest driver: an older pin cannot be had with them.
        if version != candidate_of(observed, userland[-1]):
            return None
        modules.append((here, candidate_of(observed, here)))
        if upcoming:
            later = names([family.kernel_modules], branch, family, flavour, upcoming)[0]
            if candidate_of(observed, later):
                modules.append((later, candidate_of(observed, later)))
            else:
                notes.append(
                    "the next boot's kernel %s has no precompiled module of branch %d in apt: "
                    "after a boot into it the node is without a driver" % (upcoming, branch)
                )
    else:
        usable = dig(observed, "host", "kernel", "headers") or []
        for kernel in [kernel for kernel in (running, upcoming) if kernel]:
            headers = family.kernel_headers[0].format(kernel=kernel)
            offered = candidate_of(observed, headers)
            if offered:
                modules.append((headers, offered))
            elif kernel not in usable:
                if kernel == running:
                    return None
                notes.append(
                    "apt has no headers of the next boot's kernel %s: DKMS cannot build the module for it"
                    % kernel
                )
    fabric = True
    extra: List[Tuple[str, Optional[str]]] = []
    if dig(observed, "host", "nvswitches"):
        manager = next(iter(_fabric_manager(branch, family)), "")
        same = [v for v in versions_of(observed, manager) if driver_version(v) == driver_version(version)]
        fabric = bool(same)
        if same:
            extra.append((manager, newest(same)))
    packages = [*modules, *[(name, version) for name in userland], *extra]
    return Option(
        branch,
        family,
        flavour,
        install,
        driver_version(version),
        version,
        tuple(packages),
        fabric,
        notes=tuple(notes),
    )
