"""Nodes and archives for the resolver's tests.

An archive is made from the catalog's own patterns, so that a test says what there is (branches, versions,
kernels) and not how packages are called.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from gpuready.catalog import Catalog, Family, PackageSource, annotate, load_catalog
from gpuready.driver_options import names
from gpuready.resolver import Resolution, resolve
from gpuready.versions import Version, driver_branch, driver_version
from gpuready.wishes import DEFAULT_WISHES

TODAY = "2026-11-23"
CATALOG = load_catalog()

# One PCI id per product that the golden cases name.
GPUS = {
    "T4": "1eb8",
    "V100": "1db1",
    "A100": "20b0",
    "H100": "2330",
    "GH200": "2342",
    "B200": "2901",
    "B300": "3182",
    "L4": "27b8",
    "A10": "2236",
    "P100": "15f8",
    "K80": "102d",
    "M60": "13f2",
    "RTX PRO 6000": "2bb1",
}
# The kernel that a fresh node of a release runs.
KERNELS = {
    "ubuntu-18.04": "4.15.0-213-generic",
    "ubuntu-20.04": "5.4.0-216-generic",
    "ubuntu-22.04": "5.15.0-157-generic",
    "ubuntu-24.04": "6.8.0-85-generic",
    "ubuntu-26.04": "7.0.0-14-generic",
    "debian-11": "5.10.0-36-amd64",
    "debian-12": "6.1.0-49-amd64",
    "debian-13": "6.12.48+deb13-amd64",
}
Node = dict[str, Any]


@dataclass
class Offer:
    """A driver that an archive has: versions of one branch, and which kernels have modules for it."""

    source: str  # name of the package source
    family: str
    versions: list[str]
    modules: list[str] = field(default_factory=list)  # kernels with a precompiled module
    metapackage: str | None = None  # the kernel that the modules' metapackage is for
    line: str = "generic"
    flavours: tuple[str, ...] = ("open", "proprietary")
    dkms: bool = True
    fabric: bool = True
    # Another version than the driver's, where the open modules lag behind (Debian 12).
    open_versions: list[str] | None = None
    named: int | None = None  # the branch in the names, where it is not the versions' (transitional)

    @property
    def branch(self) -> int:
        return self.named or driver_branch(self.versions[0]) or 0


def source_named(name: str, system: str, catalog: Catalog = CATALOG) -> PackageSource:
    os_id, _, release = system.partition("-")
    found = catalog.package_source(name, os_id, release)
    assert found is not None, (name, system)
    return found


def family_named(source: PackageSource, name: str) -> Family:
    return next(family for family in source.families if family.family == name)


def add(candidates: Node, name: str, versions: list[str], origin: str, kernel: str | None = None) -> None:
    """One more archive offers a package; apt's candidate is the newest version, wherever it is from."""
    entry = candidates.setdefault(
        name, {"candidate": None, "installed": None, "versions": [], "origins": {}, "kernel": None}
    )
    for version in versions:
        if version not in entry["versions"]:
            entry["versions"].append(version)
        origins = entry["origins"].setdefault(version, [])
        if origin not in origins:
            origins.append(origin)
    entry["versions"].sort(key=Version, reverse=True)
    entry["candidate"] = entry["versions"][0]
    entry["kernel"] = kernel or entry["kernel"]


def publish(candidates: Node, offer: Offer, system: str, catalog: Catalog = CATALOG) -> None:
    source = source_named(offer.source, system, catalog)
    family = family_named(source, offer.family)
    for flavour in offer.flavours:
        is_open = flavour == "open"
        if is_open and (offer.branch < catalog.open_first or not (family.dkms_open or family.precompiled)):
            continue
        modules = offer.open_versions if is_open and offer.open_versions else offer.versions

        def called(patterns: Any, flavour: str = flavour, **more: str) -> list[str]:
            return names(patterns, offer.branch, family, flavour, **more)

        ours = set(called([p for p in (family.dkms_module, family.dkms_module_open) if p]))
        own_name = family.dkms_module_package(is_open)
        theirs = ours - set(called([own_name] if own_name else []))
        dkms = set(called(family.dkms_packages(is_open))) | set(called([own_name] if own_name else []))
        for name in called([*family.precompiled, *family.needs, *family.closure, family.version_package]):
            if name in theirs or "fabricmanager" in name or name in called(family.metapackages):
                continue
            if name in dkms and not offer.dkms and name not in called(family.precompiled):
                continue
            add(
                candidates,
                name,
                modules if "kernel" in name or "dkms" in name else offer.versions,
                source.origin,
            )
        for name in called(family.dkms_packages(is_open)) if offer.dkms else []:
            add(candidates, name, modules if "dkms" in name else offer.versions, source.origin)
        for kernel in offer.modules if family.kernel_modules else []:
            for name in called([family.kernel_modules], kernel=kernel):
                add(candidates, name, [kernel.rpartition("-")[0] + ".1"], source.origin)
        if offer.metapackage and family.kernel_metapackage:
            for name in called([family.kernel_metapackage], kernel_flavour=offer.line):
                version = offer.metapackage.rpartition("-")[0] + ".1"
                add(candidates, name, [version], source.origin, offer.metapackage)
                for module in called([family.kernel_modules], kernel=offer.metapackage):
                    add(candidates, module, [version], source.origin)
    if offer.fabric and family.nvswitch:
        manager = names([family.nvswitch], offer.branch, family)[0]
        # Its revision is its own, even where it comes from the same archive.
        add(candidates, manager, [f"{driver_version(v)}-1" for v in offer.versions], source.origin)


def ubuntu(version: str, *kernels: str, family: str = "server", **more: Any) -> Offer:
    """Ubuntu's packages of one version, with precompiled modules for some kernels."""
    return Offer("ubuntu", family, version.split(), modules=list(kernels), **more)


def debian(versions: str, family: str = "current", **more: Any) -> Offer:
    return Offer("debian", family, versions.split(), **more)


def cuda_repo(versions: str, family: str = "plain", **more: Any) -> Offer:
    return Offer("cuda_repo", family, versions.split(), **more)


def node(
    gpus: str,
    system: str,
    offers: list[Offer],
    *,
    running: str | None = None,
    next_boot: str | None = None,
    headers: list[str] | None = None,
    usable_headers: list[str] | None = None,
    secure_boot: bool | None = False,
    mok: bool | None = None,
    nvswitches: int = 0,
    lists: bool = True,
    age: float = 60.0,
    components: list[str] | None = None,
    rejected: list[str] | None = None,
    catalog: Catalog = CATALOG,
) -> Node:
    """A bare node; `gpus` are names of `GPUS` with commas, `headers` the kernels that apt has headers of."""
    os_id, _, release = system.partition("-")
    kernel = running or KERNELS[system]
    candidates: Node = {}
    own = source_named("auto", system, catalog)
    for name in [kernel] if headers is None else headers:
        add(candidates, f"linux-headers-{name}", ["1.0"], own.origin)
    for offer in offers:
        publish(candidates, offer, system, catalog)
    if components is None:
        components = ["main", *own.components.get(release, ())]
    found: Node = {
        "schema": 1,
        "host": {
            "os": {
                "id": os_id,
                "version_id": release,
                "codename": "x",
                "pretty_name": f"{os_id.capitalize()} {release}",
                "arch": "amd64",
            },
            "kernel": {
                "running": kernel,
                "next_boot": next_boot or kernel,
                "installed": [kernel],
                "headers": usable_headers or [],
            },
            "secure_boot": secure_boot,
            "mok": {"key": None, "enrolled": mok},
            "gpus": [
                {"pci": f"0000:{0x3B + n:02x}:00.0", "vendor_id": "10de", "device_id": GPUS[name.strip()]}
                for n, name in enumerate(gpus.split(","))
                if name.strip()
            ],
            "nvswitches": [{"pci": f"0000:{0x80 + n:02x}:00.0"} for n in range(nvswitches)],
        },
        "driver": {
            "packages": [],
            "loaded": None,
            "on_disk": None,
            "on_disk_next_boot": None,
            "record": {"held": [], "rejected": [{"version": v} for v in rejected]} if rejected else None,
        },
        "apt": {
            "lists_age_seconds": age if lists else None,
            "candidates": candidates if lists else None,
            "sources": [
                {
                    "file": "/etc/apt/sources.list",
                    "enabled": True,
                    "types": ["deb"],
                    "uris": ["http://archive.example/"],
                    "suites": ["x"],
                    "components": components,
                }
            ],
            "holds": [],
        },
    }
    return annotate(found, catalog)


def install(
    observed: Node, packages: dict[str, str], *, flavour: str, version: str, dkms: bool = False
) -> Node:
    """The node after packages were installed, their module built or unpacked for the running kernel."""
    observed = copy.deepcopy(observed)
    kernel = observed["host"]["kernel"]["running"]
    signed = not dkms or bool(observed["host"]["mok"]["enrolled"])
    observed["driver"]["packages"] = [
        {"name": name, "version": text, "held": False, "status": "installed"}
        for name, text in packages.items()
    ]
    for name, text in packages.items():
        entry = (observed["apt"]["candidates"] or {}).get(name)
        if entry is not None:
            entry["installed"] = text
    observed["driver"]["on_disk"] = {
        "version": version,
        "flavour": flavour,
        "kernel": kernel,
        "signed": signed,
    }
    if dkms:
        observed["host"]["kernel"]["headers"] = [kernel]
    return observed


def install_option(observed: Node, result: Resolution, **more: Any) -> Node:
    """The node after the resolver's own choice was installed."""
    option = result.option
    assert option is not None and option.version is not None
    after = install(
        observed,
        {name: str(version) for name, version in option.packages if not name.startswith("linux-headers-")},
        flavour=option.flavour,
        version=option.version,
        dkms=option.install == "dkms",
    )
    for name, _ in option.packages:
        if name.startswith("linux-headers-"):
            after["host"]["kernel"]["headers"].append(name[len("linux-headers-") :])
    return after


def hold(observed: Node, *hints: str) -> Node:
    """apt-mark hold of the installed packages whose names hold one of these texts; of all without a hint."""
    observed = copy.deepcopy(observed)
    for package in observed["driver"]["packages"]:
        if not hints or any(hint in package["name"] for hint in hints):
            package["held"] = True
            observed["apt"]["holds"].append(package["name"])
    return observed


def ask(
    observed: Node, workloads: str = "", *, catalog: Catalog = CATALOG, today: str = TODAY, **wishes: Any
) -> Resolution:
    """The resolver's answer; `workloads` with commas, wishes without their prefix (`branch="580"`)."""
    asked = {**DEFAULT_WISHES, "nvidia_driver_min_version": ""}
    for name, value in wishes.items():
        asked[name if name in DEFAULT_WISHES else f"nvidia_driver_{name}"] = value
    chosen = [catalog.framework(name.strip()) for name in workloads.split(",") if name.strip()]
    assert all(chosen), workloads
    return resolve(
        observed, [w for w in chosen if w], asked, catalog, today=today, gpus=observed["host"]["gpus"]
    )


def bound(result: Resolution) -> str | None:
    """The rule that decided."""
    return next((row["rule"] for row in result.because if row["bound"]), None)
