# Apache-2.0 (see LICENSE)
"""apt's sources in the plan: is a repository there as it should be, and where the driver comes from."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from . import aptpins, aptsources
from .catalog import PackageSource
from .draft import Draft, listing
from .driver_options import Option

# The source that gpuready writes for the driver: /etc/apt/sources.list.d/<name>.sources.
DRIVER_SOURCE = "nvidia-driver"
CUDA_ORIGIN = "NVIDIA"
# What a Debian archive may be called by instead of the release's codename.
_ALIASES = ("stable", "oldstable", "oldoldstable", "testing")


def source_faults(work: Draft, url: str, suite: Optional[str], pinned: Sequence[str]) -> List[str]:
    """What is wrong with the apt source of a repository; empty when it is as gpuready writes it."""
    arch = work.see("host", "os", "arch") or ""
    exact = url.replace("$(ARCH)", arch).rstrip("/")
    wanted = aptsources.normalise_uri(url, arch)
    found, right = [], False
    for source in work.see("apt", "sources") or []:
        uris = source.get("uris") or []
        if "deb" not in (source.get("types") or ["deb"]) or not source.get("enabled"):
            continue
        if wanted not in [aptsources.normalise_uri(uri, arch) for uri in uris]:
            continue
        if suite and suite not in (source.get("suites") or [suite]):
            continue  # another suite of the same archive is another repository to apt, and to apt_source
        found.append(source)
        right = right or exact in [uri.replace("$(ARCH)", arch).rstrip("/") for uri in uris]
    if not right:
        return ["no enabled apt source of %s" % url] + ["%s has another address" % s["file"] for s in found]
    keyrings = {str(source.get("signed_by") or "no key of its own") for source in found}
    if len(keyrings) > 1:
        return ["%s: signed by %s" % (s["file"], s.get("signed_by") or "no key of its own") for s in found]
    faults = []
    for source in found:
        keys = source.get("fingerprints")
        if not source.get("signed_by"):
            faults.append("%s names no key of its own (Signed-By)" % source["file"])
        elif pinned and not keys:
            faults.append("%s: the key in %s cannot be read" % (source["file"], source["signed_by"]))
        elif pinned:
            foreign = [key for key in keys or [] if key not in pinned]
            faults += ["%s trusts a key that is not pinned: %s" % (source["file"], key) for key in foreign]
    return faults


class Repository(NamedTuple):
    """The apt source that a driver's source needs."""

    repo: Optional[Dict[str, Any]]  # as in the plan
    faults: List[str]  # empty: the node has it
    summary: str


def repository(work: Draft, source: PackageSource) -> Repository:
    """The apt source of a driver's package source, and what of it the node lacks."""
    if source.distro:
        return _own_repository(work, source)
    if source.os == "debian":
        return _components(work, source)
    # Ubuntu's components are enabled on every server image; where they are not, that was somebody's decision.
    return Repository(None, [], "")


def _own_repository(work: Draft, source: PackageSource) -> Repository:
    """NVIDIA's CUDA repository, or the mirror that stands for it."""
    wishes = work.wishes
    release, arch = str(work.see("host", "os", "version_id")), str(work.see("host", "os", "arch"))

    def address(text: str) -> str:
        text = text.replace("$(DISTRO)", source.distro.get(release, release))
        return text.replace("$(ARCH)", source.arch_names.get(arch, arch))

    url = address(wishes["nvidia_driver_repo_url"])
    pinned = wishes["nvidia_driver_repo_key_fingerprint"]
    if not url:
        return Repository(None, [], "")  # whoever empties it cares for the source himself
    repo = {
        "name": DRIVER_SOURCE,
        "uris": [url],
        "suites": ["/"],
        "components": [],
        "key_url": address(wishes["nvidia_driver_repo_key_url"]),
        "key_fingerprint": list(pinned),
        "signed_by": None,
    }
    return Repository(
        repo,
        source_faults(work, url, "/", pinned),
        "add NVIDIA's apt source %s, with its key pinned" % url,
    )


def _components(work: Draft, source: PackageSource) -> Repository:
    """Debian's contrib and non-free, out of the very archive that the node uses already."""
    release, codename = str(work.see("host", "os", "version_id")), work.see("host", "os", "codename")
    wanted = source.components.get(release, ())
    rows = [
        row
        for row in work.see("apt", "sources") or []
        if row.get("enabled") and "deb" in (row.get("types") or ["deb"]) and "main" in row["components"]
    ]
    base = next((row for name in (codename, *_ALIASES) for row in rows if name in row["suites"]), None)
    if base is None or not wanted:
        return Repository(None, [], "")
    same = [
        row
        for row in work.see("apt", "sources") or []
        if row.get("enabled")
        and "deb" in (row.get("types") or ["deb"])
        and _address(work, row) == _address(work, base)
    ]
    suites = [name for row in same if "main" in row["components"] for name in row["suites"]]
    main = next(name for name in (codename, *_ALIASES) if name in base["suites"])
    enabled = {component for row in same if main in row["suites"] for component in row["components"]}
    missing = [component for component in wanted if component not in enabled]
    if not missing:
        return Repository(None, [], "")
    repo = {
        "name": DRIVER_SOURCE,
        "uris": list(base["uris"]),
        "suites": list(dict.fromkeys(suites)),
        "components": missing,
        "key_url": None,
        "key_fingerprint": [],
        "signed_by": base.get("signed_by"),
    }
    words = listing(missing)
    return Repository(
        repo,
        ["%s has %s, but not %s" % (base["file"], listing(sorted(enabled)), words)],
        "enable Debian's %s of %s" % (words, base["uris"][0]),
    )


def _address(work: Draft, row: Mapping[str, Any]) -> List[str]:
    arch = work.see("host", "os", "arch") or ""
    return sorted(aptsources.normalise_uri(uri, arch) for uri in row["uris"])


def plan_pin(work: Draft, option: Option, source: PackageSource) -> Optional[str]:
    """The preferences file that keeps other origins' driver packages out; None when none is needed.

    Once it is there it stays: an origin that it keeps out may not show in apt's candidates any more.
    """
    origin = option.origin or source.origin
    have = work.see("apt", "driver_pin")
    offering = _offering(work)
    known = {row.origin for row in work.sources}
    others = {
        name
        for name in (*offering, *aptpins.blocked(have), *known)
        if not aptpins.same_supplier(origin, name) and aptpins.nameable(name)
    }
    if have is None and not source.distro and not any(name in others for name in offering):
        return None
    involved = CUDA_ORIGIN in (origin, *others)
    toolkit: Sequence[str] = work.catalog.toolkit.packages
    if not involved or not work.wishes["nvidia_container_toolkit_repo_url"]:
        toolkit = ()
    return aptpins.content(origin, others, toolkit)


def _offering(work: Draft) -> List[str]:
    """The origins that offer driver packages, by what apt knows."""
    anchors = work.memory.recall("driver anchors", work.system, lambda: _anchors(work))
    candidates = work.see("apt", "candidates") or {}
    found = set()
    for name in anchors:
        entry = candidates.get(name)
        if entry:
            for origins in (entry.get("origins") or {}).values():
                found.update(origins)
    return sorted(found)


def _anchors(work: Draft) -> List[str]:
    """The packages that carry a driver's version and its libcuda, of every source and branch."""
    found: Dict[str, None] = {}
    for source in work.sources:
        for family in source.families:
            branches = [branch for branch in work.catalog.branches if family.names(branch)]
            for branch in branches if family.branched else [0]:
                for pattern in (family.version_package, family.library_package):
                    found[pattern.format(branch=branch, family=family.suffix, open="")] = None
    return list(found)
