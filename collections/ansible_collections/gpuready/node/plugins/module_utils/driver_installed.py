# Apache-2.0 (see LICENSE)
"""What the node has of a packaged driver: of whichever source, and whether it is whole."""

from __future__ import annotations

import re
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from .catalog import Catalog, PackageSource
from .driver_offers import Cover, later_module
from .driver_options import Anchor, Installed, Names, Node, Option, branch_of, sortable, upstream_of
from .requirements import DKMS, OPEN, PRECOMPILED, PROPRIETARY, dig


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
    state.version = upstream_of(state.package_version)
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
        branch = branch_of(version)
        # A transitional package carries the name of one branch and the version of another.
        if branch is None or (anchor.branch is not None and anchor.branch != branch):
            return
        if not anchor.family.names(branch):
            return
        if anchor.source.leads_elsewhere(node.release, anchor.family, branch, version):
            return
        origins = _origins_of(node, name, version)
        if origins:
            likely = 2 if anchor.source.origin in origins else 0
        else:
            likely = 1 if anchor.source is (hint or node.sources[0]) else 0
        found.append(((sortable(version), likely, -node.sources.index(anchor.source)), anchor, branch))

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


def _whole(node: Node, state: Installed) -> Optional[Option]:
    """The installed driver as an option, if its packages are a whole driver for the kernels at hand."""
    assert state.branch is not None and state.family is not None and state.flavour is not None
    assert state.source is not None and state.package_version is not None
    names_ = node.names(state.family, state.branch, state.flavour)
    have = node.have

    def there(packages: Sequence[str]) -> bool:
        return bool(packages) and all(
            name in have and (name not in names_.closure or upstream_of(have[name]) == state.version)
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
        fabric=manager is not None and upstream_of(manager) == state.version,
        installed=True,
        source=state.source,
        origin=state.source.origin,
        kernel=cover.kernel,
        reboot=cover.reboot,
        without_next_boot=cover.without_next_boot,
    )


def _modules_there(node: Node, names_: Names, origin: str) -> Optional[Cover]:
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
    if lost and later_module(node, names_, origin):
        return None
    return Cover(covered[0], tuple(found), covered[0] != node.running, lost)


def _dkms_there(node: Node, names_: Names, state: Installed) -> Optional[Cover]:
    """The kernels that DKMS has or can build a module for; None when headers are missing that apt has."""
    covered = []
    for kernel in (node.running, node.upcoming):
        if not kernel:
            continue
        wanted = [before + kernel + after for before, after in names_.headers]
        if (
            kernel in node.headers
            or node.built.get(kernel) == state.version
            or all(name in node.have for name in wanted)
        ):
            covered.append(kernel)
        elif wanted and all(node.first(name) for name in wanted):
            return None
    if not covered and node.running:
        return None
    lost = node.upcoming if node.upcoming and node.upcoming not in covered else None
    kernel = covered[0] if covered else None
    return Cover(kernel, (), kernel != node.running, lost)
