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
    METAPACKAGE,
    OPEN,
    PRECOMPILED,
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
            return self.install != DKMS or value == ENROLLED
        if kind == "fabric":
            return self.fabric
        if kind == "source":
            return self.source is None or self.source.name == value
        if kind == "rejected":
            return self.version is None or self.version != value
        if kind == "hold":
            return self.installed or self._keeps(requirement.packages)
        raise AssertionError(kind)

    def _keeps(self, held: Sequence[Tuple[str, str]]) -> bool:
        """Does it leave these packages at these versions?"""
        planned = dict(self.packages)
        for name, version in held:
            if name in planned:
                if planned[name] != version:
                    return False
            elif driver_version(version) != self.version or not _of_branch(name, self):
                return False
        return True

    def words(self) -> str:
        return "%s (%s, %s)" % (
            self.package_version or self.version or self.branch,
            self.flavour,
            self.install,
        )

    def name(self) -> str:
        """Short, as people say it: 580-server-open."""
        return "%d%s%s" % (self.branch, self.family.suffix, "-open" if self.flavour == OPEN else "")


def _of_branch(name: str, option: Option) -> bool:
    """Is this package, by its name, of the option's branch and flavour? Names without a branch are."""
    numbers = re.findall(r"-(\d{3,4})(?=-|$)", name)
    if numbers and str(option.branch) not in numbers:
        return False
    patterns = [p for p in (*option.family.closure, *option.family.metapackages) if "{open}" in p]
    other = PROPRIETARY if option.flavour == OPEN else OPEN
    return name not in names(patterns, option.branch, option.family, other)


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


def kernel_flavour(kernel: Optional[str]) -> Optional[str]:
    """`5.15.0-157-generic` -> generic; None when the name does not look like a distribution's kernel."""
    match = _KERNEL_FLAVOUR.match(kernel or "")
    return match.group(1) if match else None


def is_kernel_metapackage(name: str, option: Option) -> bool:
    """Does this package follow the kernel (its newest module or headers) and not the driver?

    Such a package must not be held: it would keep the module of a new kernel away. It names the driver's
    version itself, so apt leaves it alone where it does not fit the driver that is held.
    """
    if not (option.family.kernel_metapackage or option.family.kernel_headers):
        return False
    patterns = [p for p in (option.family.kernel_metapackage, *option.family.kernel_headers) if p]
    for pattern in names(
        [p for p in patterns if "{kernel_flavour}" in p],
        option.branch,
        option.family,
        option.flavour,
        _CUT,
        _CUT,
    ):
        before, after = _around(pattern)
        if name.startswith(before) and name.endswith(after):
            middle = name[len(before) : len(name) - len(after) if after else None]
            if middle and not middle[0].isdigit():
                return True
    return False


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
        entry = self.candidates.get(package)
        if not entry:
            return ()
        candidate = entry.get("candidate")
        found = entry.get("versions") or ([candidate] if candidate else ())
        origins = entry.get("origins")
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
            found = sorted(found, key=_sortable, reverse=True)
            if candidate in found:
                found.remove(candidate)
                found.insert(0, candidate)
        return found

    def newest(self, package: str, origin: str) -> Optional[str]:
        found = self.offered(package, origin)
        return max(found, key=_sortable) if len(found) > 1 else found[0] if found else None

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
        wanted = _driver(version)
        return next((other for other in found if _driver(other) == wanted), None)


_driver = functools.lru_cache(maxsize=_REMEMBERED)(driver_version)
_branch = functools.lru_cache(maxsize=_REMEMBERED)(driver_branch)
_sortable = functools.lru_cache(maxsize=_REMEMBERED)(Version)
_at_least = functools.lru_cache(maxsize=_REMEMBERED)(at_least)
_flavour_of_kernel = functools.lru_cache(maxsize=256)(kernel_flavour)


# What is installed -----------------------------------------------------------------------------------------


def read_installed(
    observed: Mapping[str, Any], source: Optional[PackageSource], catalog: Catalog
) -> Installed:
    """Which packaged driver the node has, of whichever source, and whether the set is whole.

    Where a name is used by several sources and nothing else tells them apart, it is taken for `source`'s.
    """
    return installed_on(Node(observed, catalog), source)


def installed_on(node: Node, hint: Optional[PackageSource] = None) -> Installed:
    state = Installed()
    for package in dig(node.observed, "driver", "packages") or []:
        if package.get("status", "installed") == "installed":
            state.packages[package["name"]] = package["version"]
            state.held[package["name"]] = bool(package.get("held"))
    found = _installed_anchor(node, hint)
    if found is None:
        return state
    anchor, branch = found
    state.branch, state.family, state.source = branch, anchor.family, anchor.source
    state.origin = anchor.source.origin
    state.package_version = node.have[anchor.name]
    state.version = _driver(state.package_version)
    state.flavour = _installed_flavour(node, state)
    if state.flavour:
        on_disk = dig(node.observed, "driver", "on_disk", "version")
        # Module and libraries that do not belong together are no whole driver.
        if not on_disk or on_disk == state.version:
            state.option = _whole(node, state)
    return state


def _installed_anchor(node: Node, hint: Optional[PackageSource]) -> Optional[Tuple[Anchor, int]]:
    """The package that tells the installed driver: the newest one, of the origin that it came from."""
    by_name = node.anchors_by_name()
    found: List[Tuple[Any, Anchor, int]] = []

    def look(name: str, version: str, anchor: Anchor) -> None:
        branch = _branch(version)
        # A transitional package carries the name of one branch and the version of another.
        if branch is None or (anchor.branch is not None and anchor.branch != branch):
            return
        if not anchor.family.names(branch):
            return
        origins = _origins_of(node, name, version)
        if origins:
            likely = 2 if anchor.source.origin in origins else 0
        else:
            likely = 1 if anchor.source is (hint or node.sources[0]) else 0
        found.append(((_sortable(version), likely, -node.sources.index(anchor.source)), anchor, branch))

    for name, version in node.have.items():
        for anchor in by_name.get(name, ()):
            look(name, version, anchor)
    if not found:  # a branch that the catalog does not know
        for source in node.sources:
            for family in source.families:
                if not family.branched:
                    continue
                pattern = re.escape(family.version_package).replace(r"\{branch\}", r"(\d{3,4})")
                pattern = "^" + pattern.replace(r"\{family\}", re.escape(family.suffix)) + "$"
                for name, version in node.have.items():
                    match = re.match(pattern, name)
                    if match:
                        look(name, version, Anchor(name, source, family, int(match.group(1))))
    if not found:
        return None
    _, anchor, branch = max(found, key=lambda row: row[0])
    return anchor, branch


def _origins_of(node: Node, name: str, version: str) -> Tuple[str, ...]:
    """Where an installed package came from: by the archives that have its version, else by how that looks."""
    entry = node.candidates.get(name) or {}
    origins = entry.get("origins") or {}
    if origins.get(version):
        return tuple(origins[version])
    # Ubuntu marks its updates -0ubuntu0.22.04.1, NVIDIA its builds for Ubuntu -1ubuntu1.
    if re.search(r"-\d+ubuntu0\.\d", version):
        return ("Ubuntu",)
    if re.search(r"-1ubuntu\d+$", version):
        return ("NVIDIA",)
    return ()


def _installed_flavour(node: Node, state: Installed) -> Optional[str]:
    assert state.branch is not None and state.family is not None
    for flavour in (OPEN, PROPRIETARY):
        marks = node.names(state.family, state.branch, flavour).marks
        if any(name in node.have for name in marks):
            return flavour
    on_disk = dig(node.observed, "driver", "on_disk", "flavour")
    return str(on_disk) if on_disk in (OPEN, PROPRIETARY) else None


class _Cover(NamedTuple):
    """Which kernels have, or can have, a module."""

    kernel: Optional[str]
    packages: Packages
    reboot: bool
    without_next_boot: Optional[str]


def _whole(node: Node, state: Installed) -> Optional[Option]:
    """The installed driver as an option, if its packages are a whole driver for the kernels at hand."""
    assert state.branch is not None and state.family is not None and state.flavour is not None
    assert state.source is not None and state.package_version is not None
    names_ = node.names(state.family, state.branch, state.flavour)
    have = node.have

    def there(packages: Sequence[str]) -> bool:
        return bool(packages) and all(
            name in have and (name not in names_.closure or _driver(have[name]) == state.version)
            for name in packages
        )

    install, userland, cover = "", names_.precompiled, None
    if there(names_.precompiled) and names_.module:
        install, cover = PRECOMPILED, _modules_there(node, names_, state.source.origin)
    if cover is None and there(names_.dkms):
        install, userland, cover = DKMS, names_.dkms, _dkms_there(node, names_, state)
    if cover is None and there(names_.metapackages):
        # Somebody's nvidia-driver-580: its module is a precompiled one or DKMS's.
        userland = names_.metapackages
        if names_.dkms_module in have:
            install, cover = DKMS, _dkms_there(node, names_, state)
        elif names_.module:
            install, cover = PRECOMPILED, _modules_there(node, names_, state.source.origin)
    if cover is None:
        return None
    manager = have.get(names_.nvswitch or "")
    packages = [*cover.packages, *[(name, have[name]) for name in userland]]
    if manager and node.nvswitches:
        packages.append((names_.nvswitch or "", manager))
    return Option(
        state.branch,
        state.family,
        state.flavour,
        install,
        state.version,
        state.package_version,
        tuple(packages),
        fabric=manager is not None and _driver(manager) == state.version,
        installed=True,
        source=state.source,
        origin=state.source.origin,
        kernel=cover.kernel,
        reboot=cover.reboot,
        without_next_boot=cover.without_next_boot,
    )


def _modules_there(node: Node, names_: Names, origin: str) -> Optional[_Cover]:
    """The kernels that have their precompiled module installed; None when one is missing that apt has."""
    assert names_.module is not None
    before, after = names_.module
    found: List[Tuple[str, Optional[str]]] = []
    covered = []
    for kernel in (node.running, node.upcoming):
        if not kernel:
            continue
        name = before + kernel + after
        if name in node.have:
            found.append((name, node.have[name]))
            covered.append(kernel)
        elif node.offered(name, origin):
            return None
    if not covered:
        return None
    lost = node.upcoming if node.upcoming and node.upcoming not in covered else None
    if lost and _later_module(node, names_, origin):
        return None
    return _Cover(covered[0], tuple(found), covered[0] != node.running, lost)


def _dkms_there(node: Node, names_: Names, state: Installed) -> Optional[_Cover]:
    """The kernels that DKMS has or can build a module for; None when headers are missing that apt has."""
    built = {
        kernel
        for kernel, key in ((node.running, "on_disk"), (node.upcoming, "on_disk_next_boot"))
        if kernel and dig(node.observed, "driver", key, "version") == state.version
    }
    covered = []
    for kernel in (node.running, node.upcoming):
        if not kernel:
            continue
        wanted = [before + kernel + after for before, after in names_.headers]
        if kernel in node.headers or kernel in built or all(name in node.have for name in wanted):
            covered.append(kernel)
        elif wanted and all(node.first(name) for name in wanted):
            return None
    if not covered and node.running:
        return None
    lost = node.upcoming if node.upcoming and node.upcoming not in covered else None
    kernel = covered[0] if covered else None
    return _Cover(kernel, (), kernel != node.running, lost)


# What can be had -------------------------------------------------------------------------------------------


class Offer(NamedTuple):
    """What one source has for a node."""

    options: List[Option]
    listed: bool  # by apt; False: by the catalog, as apt does not know this source yet


def available(
    observed: Mapping[str, Any], source: PackageSource, catalog: Catalog, pin: str = ""
) -> List[Option]:
    """Every driver of a source that apt could install now; by the catalog's list while apt has no lists."""
    return offer_of(Node(observed, catalog), source).options


def offer_of(node: Node, source: PackageSource) -> Offer:
    found: List[Option] = []
    seen = False
    for anchor in node.anchors(source):
        if anchor.name not in node.candidates:
            continue
        by_branch: Dict[int, List[str]] = {}
        for version in node.offered(anchor.name, source.origin):
            branch = _branch(version)
            # A transitional package carries the name of one branch and the version of another.
            if branch is None or (anchor.branch is not None and anchor.branch != branch):
                continue
            if anchor.family.names(branch):
                by_branch.setdefault(branch, []).append(version)
        for branch, versions in by_branch.items():
            seen = True
            for flavour in _flavours(node, anchor.family, branch):
                names_ = node.names(anchor.family, branch, flavour)
                found += _installable(node, source, anchor.family, branch, flavour, names_, versions)
    if not seen and not _answered(node, source):
        return Offer(_by_catalog(node, source), False)
    return Offer(found, True)


def _flavours(node: Node, family: Family, branch: int) -> Tuple[str, ...]:
    return (OPEN, PROPRIETARY) if branch >= node.catalog.open_first else (PROPRIETARY,)


def _answered(node: Node, source: PackageSource) -> bool:
    """apt shows no driver of this source: is that its last word?

    It is not while the source (or a component of it) is not among apt's, or may have come after the lists.
    """
    if not node.listed:
        return False
    if not source.distro and source.os != "debian":
        return True
    return node.lists_age is not None and node.lists_age < FRESH_SECONDS and _is_enabled(node, source)


def _is_enabled(node: Node, source: PackageSource) -> bool:
    """Has apt this source among its sources, with the components that hold the driver?"""
    enabled: Set[str] = set()
    for row in dig(node.observed, "apt", "sources") or []:
        if not row.get("enabled") or "deb" not in (row.get("types") or ["deb"]):
            continue
        if source.distro:
            wanted = "/%s/" % source.distro.get(str(node.release), node.release)
            if any(wanted in uri.rstrip("/") + "/" for uri in row.get("uris") or []):
                return True
        else:
            enabled.update(row.get("components") or [])
    return not source.distro and enabled.issuperset(source.components.get(str(node.release), ()))


def _installable(
    node: Node,
    source: PackageSource,
    family: Family,
    branch: int,
    flavour: str,
    names_: Names,
    versions: Sequence[str],
) -> List[Option]:
    """The ways of installing one branch and flavour, at every version that apt has."""
    found: List[Option] = []
    origin = source.origin
    candidate = node.first(names_.version_package)
    # Precompiled modules are made for one driver: apt's candidate, else the archive's newest.
    current = candidate if candidate in versions else max(versions, key=_sortable)
    for install, userland in ((PRECOMPILED, names_.precompiled), (DKMS, names_.dkms)):
        if not userland:
            continue
        covers: Optional[List[Tuple[str, _Cover]]] = None
        for version in versions:
            if install == PRECOMPILED and version != current:
                continue
            packages = _userland(node, origin, names_, userland, version)
            if packages is None:
                continue
            if covers is None:
                covers = (
                    _precompiled_ways(node, names_, origin)
                    if install == PRECOMPILED
                    else _dkms_ways(node, names_)
                )
            if not covers:
                break
            fabric = True
            if node.nvswitches:
                manager = names_.nvswitch or ""
                same = node.of_driver(manager, origin, version)
                fabric = same is not None
                if same:
                    packages.append((manager, same))
            whole = _whole_set(node, origin, names_, install, version, packages)
            # A dependency can be newer than the driver: Debian's firmware, when its security archive has one.
            exact = any(chosen != node.first(name) for name, chosen in (*packages, *whole))
            if exact:
                packages += whole
            for way, cover in covers:
                found.append(
                    Option(
                        branch,
                        family,
                        flavour,
                        way,
                        _driver(version),
                        version,
                        (*cover.packages, *packages),
                        fabric,
                        notes=_cover_notes(way, cover, branch),
                        source=source,
                        origin=origin,
                        kernel=cover.kernel,
                        reboot=cover.reboot,
                        without_next_boot=cover.without_next_boot,
                        exact=exact,
                    )
                )
    return found


def _userland(
    node: Node, origin: str, names_: Names, userland: Sequence[str], version: str
) -> Optional[List[Tuple[str, Optional[str]]]]:
    """The packages at the driver's version; None when one cannot be had.

    What is not in the closure (Debian's nvidia-persistenced) has versions of its own.
    """
    found: List[Tuple[str, Optional[str]]] = []
    for name in userland:
        if name in names_.closure:
            chosen = node.of_driver(name, origin, version)
        else:
            chosen = node.first(name, origin) or node.first(name)
        if not chosen:
            return None
        found.append((name, chosen))
    return found


def _whole_set(
    node: Node,
    origin: str,
    names_: Names,
    install: str,
    version: str,
    packages: Sequence[Tuple[str, Optional[str]]],
) -> List[Tuple[str, Optional[str]]]:
    """What else has to be named: apt moves dependencies to its candidates only, and never back by itself.

    Named is what the packages depend on at the driver's version, as far as apt has it.
    """
    named = {name for name, _ in packages}
    wanted = [*names_.needs, *[name for name in names_.closure if name in node.have]]
    if install == DKMS and names_.dkms_module:
        wanted.append(names_.dkms_module)
    found: List[Tuple[str, Optional[str]]] = []
    for name in dict.fromkeys(wanted):
        chosen = None if name in named else node.of_driver(name, origin, version)
        if chosen:
            found.append((name, chosen))
    return found


def _precompiled_ways(node: Node, names_: Names, origin: str) -> List[Tuple[str, _Cover]]:
    """Modules made for the kernels at hand, or those that come with a kernel of their own."""
    if not names_.module or not node.running:
        return []
    before, after = names_.module
    modules: Dict[str, Tuple[str, Optional[str]]] = {}
    for kernel in (node.running, node.upcoming):
        if kernel:
            name = before + kernel + after
            version = node.first(name, origin)
            if version:
                modules[kernel] = (name, version)
    ways = []
    if node.running in modules:
        lost = node.upcoming if node.upcoming and node.upcoming not in modules else None
        # The package that brings the modules of later kernels along. Where the next boot's kernel has none,
        # it brings a kernel of its own that has one, and that becomes the next boot's.
        meta = _kernel_metapackage(node, names_, origin)
        along: Packages = ((meta[0], meta[2]),) if meta and meta[1] in modules else ()
        if lost:
            later = _later_module(node, names_, origin)
            lost, along = (None, later) if later else (lost, along)
        ways.append((PRECOMPILED, _Cover(node.running, (*modules.values(), *along), False, lost)))
        return ways
    later = _later_module(node, names_, origin)
    meta = _kernel_metapackage(node, names_, origin)
    if meta and later:
        ways.append((METAPACKAGE, _Cover(meta[1], later, meta[1] != node.running, None)))
    if node.upcoming in modules and not (later and meta and meta[1] == node.upcoming):
        ways.append((PRECOMPILED, _Cover(node.upcoming, (modules[node.upcoming],), True, None)))
    return ways


def _later_module(node: Node, names_: Names, origin: str) -> Packages:
    """The metapackage, with its kernel's module, where that kernel is or becomes the next boot's; else ()."""
    meta = _kernel_metapackage(node, names_, origin)
    if meta is None or names_.module is None:
        return ()
    name, kernel, version = meta
    if kernel != node.running and not _is_later(kernel, node.upcoming or node.running):
        return ()
    if node.have.get(name) == version:
        return ()  # it is there already, and has not helped
    module = names_.module[0] + kernel + names_.module[1]
    chosen = node.first(module, origin)
    return (*(((module, chosen),) if chosen else ()), (name, version))


def _kernel_metapackage(node: Node, names_: Names, origin: str) -> Optional[Tuple[str, str, str]]:
    """(name, kernel, version) of the package that follows this node's line of kernels."""
    flavour = _flavour_of_kernel(node.running)
    if not names_.module_meta or not flavour:
        return None
    before, after = names_.module_meta
    found = []
    for number, line in enumerate((flavour, "%s-hwe-%s" % (flavour, node.release))):
        name = before + line + after
        kernel = (node.candidates.get(name) or {}).get("kernel")
        version = node.first(name, origin)
        # A metapackage's kernel is its candidate's: another origin's version of it says nothing.
        if kernel and version and version == node.first(name):
            near = kernel in (node.running, node.upcoming), _series(kernel) == _series(node.running)
            found.append((near, -number, (name, kernel, version)))
    return max(found)[2] if found else None


def _series(kernel: Optional[str]) -> str:
    """`5.15.0-157-generic` -> 5.15.0: what a release's first kernel and its newer ones differ in."""
    return (kernel or "").partition("-")[0]


def _is_later(kernel: str, than: Optional[str]) -> bool:
    """Would the boot loader prefer this kernel, or is it the same?"""
    return kernel == than or _sortable(kernel) > _sortable(than or "0")


def _dkms_ways(node: Node, names_: Names) -> List[Tuple[str, _Cover]]:
    """The kernels whose headers are there or can be had; from whichever archive the kernel is."""
    if not node.running:
        return []
    headers: Dict[str, Packages] = {}
    for kernel in (node.running, node.upcoming):
        if not kernel:
            continue
        wanted = [(before + kernel + after) for before, after in names_.headers]
        offered = tuple([(name, node.first(name)) for name in wanted if node.first(name)])
        if kernel in node.headers or (wanted and len(offered) == len(wanted)):
            headers[kernel] = offered
    if not headers:
        return []
    kernel = node.running if node.running in headers else str(node.upcoming)
    lost = node.upcoming if node.upcoming and node.upcoming not in headers else None
    packages = tuple(row for rows in headers.values() for row in rows)
    return [
        (
            DKMS,
            _Cover(
                kernel,
                (*packages, *_headers_metapackage(node, names_, headers)),
                kernel != node.running,
                lost,
            ),
        )
    ]


def _headers_metapackage(node: Node, names_: Names, headers: Mapping[str, Packages]) -> Packages:
    """The package that brings the headers of later kernels, if it follows a kernel at hand."""
    flavour = _flavour_of_kernel(node.running)
    if not flavour:
        return ()
    for line in (flavour, "%s-hwe-%s" % (flavour, node.release)):
        for before, after in names_.headers_meta:
            name = before + line + after
            if (node.candidates.get(name) or {}).get("kernel") in headers and node.first(name):
                return ((name, node.first(name)),)
    return ()


def _cover_notes(install: str, cover: _Cover, branch: int) -> Tuple[str, ...]:
    if not cover.without_next_boot:
        return ()
    if install == DKMS:
        text = "apt has no headers of the next boot's kernel %s: DKMS cannot build the module for it"
        return (text % cover.without_next_boot,)
    text = (
        "the next boot's kernel %s has no precompiled module of branch %d in apt: "
        "after a boot into it the node is without a driver"
    )
    return (text % (cover.without_next_boot, branch),)


def _by_catalog(node: Node, source: PackageSource) -> List[Option]:
    """What the catalog says that a source has; apt is asked about the kernel's headers if it has lists."""
    found = []
    offers = source.offers.get(str(node.release), {})
    for family in source.families:
        for branch in offers.get(family.family, ()):
            for flavour in _flavours(node, family, branch):
                names_ = node.names(family, branch, flavour)
                covers: List[Tuple[str, _Cover]] = []
                if names_.module and names_.precompiled:
                    covers = [(PRECOMPILED, _assumed(node, (names_.module,)))]
                    userland = names_.precompiled
                elif names_.dkms:
                    userland = names_.dkms
                    covers = (
                        _dkms_ways(node, names_)
                        if node.listed and node.running
                        else [(DKMS, _assumed(node, names_.headers))]
                    )
                for way, cover in covers:
                    packages: Packages = (*cover.packages, *[(name, None) for name in userland])
                    if node.nvswitches and names_.nvswitch:
                        packages = (*packages, (names_.nvswitch, None))
                    found.append(
                        Option(
                            branch,
                            family,
                            flavour,
                            way,
                            packages=packages,
                            fabric=names_.nvswitch is not None,
                            notes=_cover_notes(way, cover, branch),
                            source=source,
                            origin=source.origin,
                            kernel=cover.kernel,
                            reboot=cover.reboot,
                            without_next_boot=cover.without_next_boot,
                        )
                    )
    return found


def _assumed(node: Node, patterns: Sequence[Tuple[str, str]]) -> _Cover:
    """Before apt can be asked, the kernels at hand are taken to have what they need."""
    packages = [
        (before + kernel + after, None)
        for kernel in (node.running, node.upcoming)
        if kernel
        for before, after in patterns
    ]
    return _Cover(node.running, tuple(packages), False, None)
