# Apache-2.0 (see LICENSE)
"""Which drivers can be had: what is installed, and what apt (or, before it has lists, the catalog) offers."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

from .catalog import Catalog, Family, PackageSource
from .requirements import (
    DKMS,
    ENROLLED,
    OPEN,
    PROPRIETARY,
    Memory,
    Requirement,
    RuleSet,
    dig,
)
from .versions import Version, at_least, driver_branch, driver_version, matches

# `5.15.0-157-generic` -> generic; `6.12.43+deb13-cloud-amd64` -> cloud-amd64
_KERNEL_FLAVOUR = re.compile(r"^\d[^-]*(?:-\d[^-]*)*-([a-z].*)$")
Packages = Tuple[Tuple[str, Optional[str]], ...]
# Lists of this age were fetched in this run or just before: what they do not show is not there.
FRESH_SECONDS = 600
_REMEMBERED = 8192


@dataclass(frozen=True)
class Option:
    """A driver that can be had: one branch, flavour and way of installing, with its packages."""

    branch: int
    family: Family = field(repr=False)
    flavour: str
    install: str
    version: Optional[str] = None
    package_version: Optional[str] = None
    packages: Packages = ()
    fabric: bool = True
    installed: bool = False
    notes: Tuple[str, ...] = ()
    source: Optional[PackageSource] = field(default=None, repr=False)
    origin: Optional[str] = None  # the Origin of the archive that the driver's packages come from
    kernel: Optional[str] = None  # the kernel that gets the module: the running one, else the next boot's
    reboot: bool = False  # the module is not for the running kernel: a reboot must follow
    without_next_boot: Optional[str] = None  # the next boot's kernel, if no module can be had for it
    exact: bool = False  # not apt's candidate: `packages` is the whole set, downgrades must be allowed

    def satisfies(self, requirement: Requirement) -> bool:
        kind, value = requirement.kind, requirement.value
        if kind == "floor":
            if self.version:
                return _reaches(self.version, value)
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
            return self.install != DKMS or value == ENROLLED
        if kind == "fabric":
            return self.fabric
        if kind == "source":
            return self.source is None or self.source.name == value
        if kind == "rejected":
            return self.version is None or self.version != value
        if kind == "hold":
            return self.installed or self._keeps(requirement)
        raise AssertionError(kind)

    def _keeps(self, requirement: Requirement) -> bool:
        """Does it leave these packages as they are?"""
        planned = dict(self.packages)
        if any(planned.get(name, version) != version for name, version in requirement.packages):
            return False
        if requirement.keeps is None:
            return True
        source = self.source.name if self.source else None
        *driver, flavour = requirement.keeps
        mine = [source, self.family.family, self.branch, self.version]
        return driver == mine and flavour in (None, self.flavour)

    def words(self) -> str:
        return "%s (%s, %s)" % (
            self.package_version or self.version or self.branch,
            self.flavour,
            self.install,
        )

    def name(self) -> str:
        """Short, as people say it: 580-server-open."""
        return "%d%s%s" % (self.branch, self.family.suffix, "-open" if self.flavour == OPEN else "")


@functools.lru_cache(maxsize=_REMEMBERED)
def _reaches(version: str, floor: str) -> bool:
    try:
        # Drivers' versions are numbers and dots, and quick to compare as such.
        return _numbers(version) >= _numbers(floor)
    except ValueError:
        return at_least(version, floor)


@functools.lru_cache(maxsize=_REMEMBERED)
def _numbers(version: str) -> Tuple[int, ...]:
    return tuple([int(part) for part in version.split(".")])


def _broken(option: Option, rules: RuleSet) -> Tuple[int, ...]:
    """The places of the rules that an option does not fulfil."""
    key = (
        option.branch,
        option.package_version or option.version,
        option.flavour,
        option.install == DKMS,
        option.fabric,
        option.source.name if option.source else None,
    )
    found = rules.broken.get(key)
    if found is None:
        found = tuple([i for i, rule in enumerate(rules.rules) if not option.satisfies(rule)])
        # What a hold says depends on the packages: it is asked for each option.
        if not any(rule.kind == "hold" for rule in rules.rules):
            rules.broken[key] = found
    return found


def broken_rules(option: Option, rules: RuleSet) -> List[Requirement]:
    return [rules.rules[place] for place in _broken(option, rules)]


def suitable(options: Iterable[Option], requirements: Union[RuleSet, Iterable[Requirement]]) -> List[Option]:
    """The options that fulfil every requirement."""
    rules = requirements if isinstance(requirements, RuleSet) else RuleSet(requirements)
    return [option for option in options if not _broken(option, rules)]


@dataclass
class Installed:
    """What the node has of a packaged driver."""

    packages: Dict[str, str] = field(default_factory=dict)
    held: Dict[str, bool] = field(default_factory=dict)
    branch: Optional[int] = None
    family: Optional[Family] = field(default=None, repr=False)
    flavour: Optional[str] = None
    version: Optional[str] = None
    package_version: Optional[str] = None
    option: Optional[Option] = None  # the whole set is there
    source: Optional[PackageSource] = field(default=None, repr=False)
    origin: Optional[str] = None


def names(
    patterns: Iterable[str],
    branch: int,
    family: Family,
    flavour: str = PROPRIETARY,
    kernel: str = "",
    kernel_flavour: str = "",
) -> List[str]:
    """Package names from a family's patterns."""
    words = {
        "branch": branch,
        "family": family.suffix,
        "open": "-open" if flavour == OPEN else "",
        "kernel": kernel,
        "kernel_flavour": kernel_flavour,
    }
    return [pattern.format_map(words) for pattern in patterns]


class Names(NamedTuple):
    """The package names of one family, branch and flavour; those of a kernel still want its name."""

    version_package: str
    precompiled: Tuple[str, ...]
    dkms: Tuple[str, ...]
    dkms_module: Optional[str]
    metapackages: Tuple[str, ...]
    module: Optional[Tuple[str, str]]  # what stands before and after the kernel
    module_meta: Optional[Tuple[str, str]]
    headers: Tuple[Tuple[str, str], ...]
    headers_meta: Tuple[Tuple[str, str], ...]
    nvswitch: Optional[str]
    needs: Tuple[str, ...]
    closure: Tuple[str, ...]
    marks: Tuple[str, ...]  # names that only this flavour has


_CUT = "\0"


def _around(pattern: str) -> Tuple[str, str]:
    before, _, after = pattern.partition(_CUT)
    return before, after


def _names_of(family: Family, branch: int, flavour: str) -> Names:
    is_open = flavour == OPEN
    other = PROPRIETARY if is_open else OPEN

    def made(patterns: Iterable[str], of: str = flavour) -> Tuple[str, ...]:
        return tuple(names(patterns, branch, family, of, _CUT, _CUT))

    def all_of(of: str) -> Set[str]:
        opened = of == OPEN
        patterns = [*family.precompiled, *family.dkms_packages(opened), *family.metapackages]
        module = family.dkms_module_package(opened)
        return set(made([*patterns, module] if module else patterns, of))

    headers = [p for p in family.kernel_headers if "{kernel}" in p]
    headers_meta = [p for p in family.kernel_headers if "{kernel_flavour}" in p]
    module = family.dkms_module_package(is_open)
    return Names(
        version_package=made([family.version_package])[0],
        precompiled=made(family.precompiled),
        dkms=made(family.dkms_packages(is_open)),
        dkms_module=made([module])[0] if module else None,
        metapackages=made(family.metapackages),
        module=_around(made([family.kernel_modules])[0]) if family.kernel_modules else None,
        module_meta=_around(made([family.kernel_metapackage])[0]) if family.kernel_metapackage else None,
        headers=tuple(_around(name) for name in made(headers)),
        headers_meta=tuple(_around(name) for name in made(headers_meta)),
        nvswitch=made([family.nvswitch])[0] if family.nvswitch else None,
        needs=made(getattr(family, "needs", ())),
        closure=made(family.closure),
        marks=tuple(sorted(all_of(flavour) - all_of(other))),
    )


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
    candidates = dig(observed, "apt", "candidates") or {}
    asked = [(name, entry.get("installed")) for name, entry in candidates.items() if entry]
    found = {name: version for name, version in asked if version}
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


def kernel_flavour(kernel: Optional[str]) -> Optional[str]:
    """`5.15.0-157-generic` -> generic; None when the name does not look like a distribution's kernel."""
    match = _KERNEL_FLAVOUR.match(kernel or "")
    return match.group(1) if match else None


class Anchor(NamedTuple):
    """A package whose name tells a source's family, and the branch unless the version has to tell it."""

    name: str
    source: PackageSource
    family: Family
    branch: Optional[int]


def _anchors(catalog: Catalog, source: PackageSource) -> List[Anchor]:
    found = []
    for family in source.families:
        numbers: Iterable[Optional[int]] = [None]
        if family.branched:
            numbers = [number for number in catalog.branches if family.names(number)]
        for number in numbers:
            name = names([family.version_package], number or 0, family)[0]
            found.append(Anchor(name, source, family, number))
    return found


class Node:
    """What of an observation the choice of a driver reads, looked up once."""

    def __init__(self, observed: Mapping[str, Any], catalog: Catalog) -> None:
        self.observed, self.catalog = observed, catalog
        self.memory = Memory.of(catalog)
        host = observed.get("host") or {}
        system = host.get("os") or {}
        self.os_id, self.release = system.get("id"), system.get("version_id")
        self.running, self.upcoming = kernels(observed)
        self.headers: Tuple[str, ...] = tuple((host.get("kernel") or {}).get("headers") or ())
        self.nvswitches: int = len(host.get("nvswitches") or ())
        apt = observed.get("apt") or {}
        self.candidates: Mapping[str, Any] = apt.get("candidates") or {}
        self.listed: bool = apt.get("candidates") is not None
        self.lists_age: Optional[float] = apt.get("lists_age_seconds")
        self.have = installed_packages(observed)
        self.sources: Tuple[PackageSource, ...] = self.memory.recall(
            "sources",
            (self.os_id, self.release),
            lambda: catalog.sources_for(self.os_id, self.release),
        )
        self.own_origin = self.sources[0].origin if self.sources else None
        driver = observed.get("driver") or {}
        # Kernels that have a module on the disk, and its version.
        self.built: Dict[Optional[str], Optional[str]] = {
            self.upcoming: (driver.get("on_disk_next_boot") or {}).get("version"),
            self.running: (driver.get("on_disk") or {}).get("version"),
        }
        self._offered: Dict[Tuple[str, str], Sequence[str]] = {}
        # What several drivers of one node ask alike.
        self.answers: Dict[Any, Any] = {}

    def names(self, family: Family, branch: int, flavour: str) -> Names:
        # A family's identity stands for it: it lives as long as its catalog, whose memory this is.
        key = (id(family), branch, flavour)
        return self.memory.recall("names", key, lambda: _names_of(family, branch, flavour))

    def anchors(self, source: PackageSource) -> List[Anchor]:
        return self.memory.recall("anchors", id(source), lambda: _anchors(self.catalog, source))

    def anchors_by_name(self) -> Dict[str, List[Anchor]]:
        def index() -> Dict[str, List[Anchor]]:
            found: Dict[str, List[Anchor]] = {}
            for source in self.sources:
                for anchor in self.anchors(source):
                    found.setdefault(anchor.name, []).append(anchor)
            return found

        return self.memory.recall("anchors by name", (self.os_id, self.release), index)

    def offered(self, package: str, origin: str) -> Sequence[str]:
        """The versions of a package that archives of this origin have, apt's candidate first."""
        key = (package, origin)
        found = self._offered.get(key)
        if found is None:
            entry = self.candidates.get(package)
            found = self._offered[key] = self._read_offer(entry, origin) if entry else ()
        return found

    def _read_offer(self, entry: Mapping[str, Any], origin: str) -> Sequence[str]:
        candidate = entry.get("candidate")
        found: List[str] = entry.get("versions") or ([candidate] if candidate else [])
        origins = entry.get("origins")
        if origins and len(found) == 1 and origin in origins.get(found[0], ()):
            return found  # the common case, and there are many of them
        if origins:
            # A version without an origin is only installed, or an observation that does not tell.
            other = entry.get("installed") if origin == self.own_origin else None
            found = [
                version
                for version in found
                if origin in origins.get(version, ())
                or (other != version and origin == self.own_origin and version not in origins)
            ]
        elif origin != self.own_origin:
            return ()  # where an observation does not tell, it can only be the distribution's own
        if len(found) > 1:
            found = sorted(found, key=sortable, reverse=True)
            if candidate in found:
                found.remove(candidate)
                found.insert(0, candidate)
        return found

    def first(self, package: str, origin: Optional[str] = None) -> Optional[str]:
        """The version that would be installed, of one origin or of whichever."""
        if origin is None:
            entry = self.candidates.get(package)
            return entry.get("candidate") if entry else None
        found = self.offered(package, origin)
        return found[0] if found else None

    def of_driver(self, package: str, origin: str, version: str) -> Optional[str]:
        """The version of a package that belongs to a driver: the very same one, else of the same driver."""
        found = self.offered(package, origin)
        if version in found:
            return version
        wanted = upstream_of(version)
        return next((other for other in found if upstream_of(other) == wanted), None)


upstream_of = functools.lru_cache(maxsize=_REMEMBERED)(driver_version)
branch_of = functools.lru_cache(maxsize=_REMEMBERED)(driver_branch)
sortable = functools.lru_cache(maxsize=_REMEMBERED)(Version)
line_of_kernel = functools.lru_cache(maxsize=256)(kernel_flavour)
