# Apache-2.0 (see LICENSE)
"""What can be had: what apt offers, or, before it knows a source, what the catalog says that it has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from .catalog import Catalog, Family, PackageSource
from .driver_options import (
    FRESH_SECONDS,
    Names,
    Node,
    Option,
    Packages,
    branch_of,
    line_of_kernel,
    sortable,
    upstream_of,
)
from .requirements import DKMS, METAPACKAGE, OPEN, PRECOMPILED, PROPRIETARY, dig


class Cover(NamedTuple):
    """Which kernels have, or can have, a module."""

    kernel: Optional[str]
    packages: Packages
    reboot: bool
    without_next_boot: Optional[str]


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
            branch = branch_of(version)
            # A transitional package carries the name of one branch and the version of another.
            if branch is None or (anchor.branch is not None and anchor.branch != branch):
                continue
            if not anchor.family.names(branch):
                continue
            # Some are empty although their version does not show it: they install another branch, too.
            if not source.leads_elsewhere(node.release, anchor.family, branch, version):
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
    catalog = node.catalog
    if catalog.open_only is not None and branch >= catalog.open_only:
        return (OPEN,)
    return (OPEN, PROPRIETARY) if branch >= catalog.open_first else (PROPRIETARY,)


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
    # Precompiled modules are made for one driver: apt's candidate, else the archive's newest. Where that is a
    # transitional package, so are they, and older drivers of the branch can only be built.
    offered = node.offered(names_.version_package, origin)
    current = candidate if candidate in versions else max(offered, key=sortable)
    for install, userland in ((PRECOMPILED, names_.precompiled), (DKMS, names_.dkms)):
        if not userland:
            continue
        for version in versions:
            if install == PRECOMPILED and version != current:
                continue
            packages = _userland(node, origin, names_, userland, version)
            if packages is None:
                continue
            if install == PRECOMPILED:
                covers = _precompiled_ways(node, names_, origin, version)
            else:
                covers = _dkms_ways(node, names_, version)
            if not covers:
                continue
            fabric = True
            if node.nvswitches:
                manager = names_.nvswitch or ""
                same = node.of_driver(manager, origin, version)
                fabric = same is not None
                if same:
                    packages.append((manager, same))
            exact = any(chosen != node.first(name) for name, chosen in packages)
            for way, cover in covers:
                found.append(
                    Option(
                        branch,
                        family,
                        flavour,
                        way,
                        upstream_of(version),
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


def finished(node: Node, option: Option) -> Option:
    """An option with everything named that apt would not move by itself.

    apt moves dependencies to its candidates only, and never back. Where one package of the driver is not
    apt's candidate (Debian's firmware may be newer than the only open modules), all that the packages depend
    on at the driver's version is named, as far as apt has it.
    """
    if option.installed or option.source is None or option.package_version is None:
        return option
    names_ = node.names(option.family, option.branch, option.flavour)
    named = {name for name, _ in option.packages}
    wanted = [*names_.needs, *[name for name in names_.closure if name in node.have]]
    if option.install == DKMS and names_.dkms_module:
        wanted.append(names_.dkms_module)
    whole: List[Tuple[str, Optional[str]]] = []
    for name in dict.fromkeys(wanted):
        if name not in named:
            chosen = node.of_driver(name, option.source.origin, option.package_version)
            if chosen:
                whole.append((name, chosen))
    if not option.exact and all(chosen == node.first(name) for name, chosen in whole):
        return option
    return replace(option, packages=(*option.packages, *whole), exact=True)


def _precompiled_ways(node: Node, names_: Names, origin: str, version: str) -> List[Tuple[str, Cover]]:
    """Modules made for the kernels at hand, or those that come with a kernel of their own."""
    if not names_.module or not node.running:
        return []
    before, after = names_.module
    modules: Dict[str, Tuple[str, Optional[str]]] = {}
    same = upstream_of(node.have.get(names_.version_package)) == upstream_of(version)
    for kernel in (node.running, node.upcoming):
        if kernel:
            name = before + kernel + after
            # Of the very driver that is installed, a module stays as it is, even if the archive has lost it.
            found = (node.have.get(name) if same else None) or node.first(name, origin)
            if found:
                modules[kernel] = (name, found)
    ways = []
    if node.running in modules:
        lost = node.upcoming if node.upcoming and node.upcoming not in modules else None
        # The package that brings the modules of later kernels along. Where the next boot's kernel has none,
        # it brings a kernel of its own that has one, and that becomes the next boot's.
        meta = _kernel_metapackage(node, names_, origin)
        along: Packages = ((meta[0], meta[2]),) if meta and meta[1] in modules else ()
        if lost:
            later = later_module(node, names_, origin)
            lost, along = (None, later) if later else (lost, along)
        ways.append((PRECOMPILED, Cover(node.running, (*modules.values(), *along), False, lost)))
        return ways
    later = later_module(node, names_, origin)
    meta = _kernel_metapackage(node, names_, origin)
    if meta and later:
        ways.append((METAPACKAGE, Cover(meta[1], later, meta[1] != node.running, None)))
    if node.upcoming in modules and not (later and meta and meta[1] == node.upcoming):
        ways.append((PRECOMPILED, Cover(node.upcoming, (modules[node.upcoming],), True, None)))
    return ways


def later_module(node: Node, names_: Names, origin: str) -> Packages:
    """The metapackage, with its kernel's module, where that kernel is or becomes the next boot's; else ()."""
    meta = _kernel_metapackage(node, names_, origin)
    if meta is None or names_.module is None:
        return ()
    name, kernel, version = meta
    if not _is_later(kernel, node.upcoming or node.running):
        return ()
    if node.have.get(name) == version:
        return ()  # it is there already, and has not helped
    module = names_.module[0] + kernel + names_.module[1]
    chosen = node.first(module, origin)
    return (*(((module, chosen),) if chosen else ()), (name, version))


def _kernel_metapackage(node: Node, names_: Names, origin: str) -> Optional[Tuple[str, str, str]]:
    key = (names_.module_meta, origin)
    if key not in node.answers:
        node.answers[key] = _find_kernel_metapackage(node, names_, origin)
    return node.answers[key]


def _find_kernel_metapackage(node: Node, names_: Names, origin: str) -> Optional[Tuple[str, str, str]]:
    """(name, kernel, version) of the package that follows this node's line of kernels."""
    flavour = line_of_kernel(node.running)
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
    return kernel == than or sortable(kernel) > sortable(than or "0")


def _dkms_ways(node: Node, names_: Names, version: Optional[str]) -> List[Tuple[str, Cover]]:
    """The kernels whose headers are there or can be had; from whichever archive the kernel is."""
    there = names_.dkms_module in node.have
    key = (names_.headers, names_.headers_meta, upstream_of(version) if there else None)
    if key not in node.answers:
        node.answers[key] = _headers_ways(node, names_, key[2])
    return node.answers[key]


def _headers_ways(node: Node, names_: Names, there: Optional[str]) -> List[Tuple[str, Cover]]:
    """`there`: the version that DKMS has in its hands already, if this is that driver."""
    if not node.running:
        return []
    headers: Dict[str, Packages] = {}
    for kernel in (node.running, node.upcoming):
        if not kernel:
            continue
        wanted = [(before + kernel + after) for before, after in names_.headers]
        offered = tuple([(name, node.first(name)) for name in wanted if node.first(name)])
        built = there is not None and node.built.get(kernel) == there
        if built or kernel in node.headers or (wanted and len(offered) == len(wanted)):
            headers[kernel] = offered
    if not headers:
        return []
    kernel = node.running if node.running in headers else str(node.upcoming)
    lost = node.upcoming if node.upcoming and node.upcoming not in headers else None
    packages = tuple(row for rows in headers.values() for row in rows)
    return [
        (
            DKMS,
            Cover(
                kernel,
                (*packages, *_headers_metapackage(node, names_, headers)),
                kernel != node.running,
                lost,
            ),
        )
    ]


def _headers_metapackage(node: Node, names_: Names, headers: Mapping[str, Packages]) -> Packages:
    """The package that brings the headers of later kernels, if it follows a kernel at hand."""
    flavour = line_of_kernel(node.running)
    if not flavour:
        return ()
    for line in (flavour, "%s-hwe-%s" % (flavour, node.release)):
        for before, after in names_.headers_meta:
            name = before + line + after
            if (node.candidates.get(name) or {}).get("kernel") in headers and node.first(name):
                return ((name, node.first(name)),)
    return ()


def _cover_notes(install: str, cover: Cover, branch: int) -> Tuple[str, ...]:
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
                covers: List[Tuple[str, Cover]] = []
                if names_.module and names_.precompiled:
                    covers = [(PRECOMPILED, _assumed(node, (names_.module,)))]
                    userland = names_.precompiled
                elif names_.dkms:
                    userland = names_.dkms
                    covers = (
                        _dkms_ways(node, names_, None)
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


def _assumed(node: Node, patterns: Sequence[Tuple[str, str]]) -> Cover:
    """Before apt can be asked, the kernels at hand are taken to have what they need."""
    packages = [
        (before + kernel + after, None)
        for kernel in (node.running, node.upcoming)
        if kernel
        for before, after in patterns
    ]
    return Cover(node.running, tuple(packages), False, None)
