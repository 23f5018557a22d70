# Apache-2.0 (see LICENSE)
"""What gpuready knows of frameworks, drivers, GPUs and runtimes: the files in `data`, checked and immutable.

`python -m gpuready.catalog --check` checks the files, `--refresh-pci-ids FILE` makes data/pci.ids anew
from a full pci.ids (Debian's package of that name).
"""

from __future__ import annotations

import copy
import functools
import os
import re
import sys
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .versions import Version, at_least, driver_branch

BASES = ("read", "read-partial", "inference", "memory")
KINDS = ("long_term", "production", "new_feature", "developer")
OPEN_MODULES = ("required", "optional", "impossible")
FILES = ("frameworks.yml", "drivers.yml", "gpus.yml", "runtime.yml")
_REQUIRED = object()


class CatalogError(ValueError):
    """A data file that cannot be used; the message names the file, the row and the field."""


@dataclass(frozen=True)
class Fact:
    """One version that a source states."""

    version: str
    source: str
    basis: str
    # A CUDA release that is not out yet: known, but nothing is planned by it.
    preview: bool = False


@dataclass(frozen=True)
class GpuLimit:
    """GPUs, from one compute capability on, that a framework does not fully support."""

    since: str
    support: str
    text: str
    source: str
    basis: str


@dataclass(frozen=True)
class WheelIndex:
    """Where the wheels of a framework come from."""

    # The distribution that decides (torch).
    package: str
    # An index per CUDA variant; $(TAG) stands for the variant.
    url: str
    # What an environment takes on the disk; None = not known.
    size_mib: Optional[int]
    source: str
    basis: str


@dataclass(frozen=True)
class Framework:
    name: str
    framework: str
    version: str
    # None: it has no container image of its own, as a wheel.
    image: Optional[str]
    image_size_mib: Optional[int]
    probe: Optional[str]
    expect: Mapping[str, str]
    cuda: str
    cudnn: Optional[str]
    # The interpreter within the image; those that the wheel is made for.
    python: Optional[str]
    wheel_python: Optional[str]
    compiler: Optional[str]
    archs: Optional[Tuple[str, ...]]
    archs_source: Optional[str]
    archs_basis: Optional[str]
    gpu_limits: Tuple[GpuLimit, ...]
    source: str
    basis: str
    checked: str
    aliases: Tuple[str, ...] = ()
    # Of a wheel: the CUDA variant, as its index names it (cu124); whether a plain `pip install` brings it;
    # and where it comes from.
    variant: Optional[str] = None
    default_variant: bool = False
    wheel: Optional[WheelIndex] = None


@dataclass(frozen=True)
class Branch:
    branch: int
    kind: str
    end_of_life: Optional[str]
    max_cuda: str
    source: str
    basis: str

    def supported_on(self, today: str) -> Optional[bool]:
        """Does it still get fixes on this ISO date? None when nobody knows."""
        if self.end_of_life is None:
            return None
        return self.end_of_life != "past" and today[:7] <= self.end_of_life


@dataclass(frozen=True)
class MinorVersionRule:
    family: int
    since: str
    min: str
    source: str
    basis: str


@dataclass(frozen=True)
class Family:
    """One way of naming a driver's packages within a source.

    Placeholders of the patterns: {branch}; {family} = `suffix`; {open} = "-open" or nothing;
    {kernel} = uname -r; {kernel_flavour} = what names a kernel's metapackages (generic, aws).
    """

    family: str
    suffix: str
    # The branches that are named so; None = no end on that side.
    first_branch: Optional[int]
    last_branch: Optional[int]
    # False: the names carry no branch, the packages' version tells it.
    branched: bool
    # The package whose version is the driver's, and the one that holds libcuda.
    version_package: str
    library_package: str
    # None: the source has no precompiled modules.
    kernel_modules: Optional[str]
    kernel_metapackage: Optional[str]
    precompiled: Tuple[str, ...]
    kernel_headers: Tuple[str, ...]
    # () = this flavour is not there. Where names differ by {open} alone, both are the same patterns.
    dkms: Tuple[str, ...]
    dkms_open: Tuple[str, ...]
    dkms_module: Optional[str]
    dkms_module_open: Optional[str]
    metapackages: Tuple[str, ...]
    nvswitch: Optional[str]
    closure: Tuple[str, ...]
    # What an install demands at exactly its own version: named too where that is not apt's candidate.
    needs: Tuple[str, ...] = ()
    # Parts of a whole driver that have a version of their own.
    extras: Tuple[str, ...] = ()

    def names(self, branch: int) -> bool:
        """Are the packages of this branch named so?"""
        return (self.first_branch or branch) <= branch <= (self.last_branch or branch)

    def dkms_packages(self, is_open: bool) -> Tuple[str, ...]:
        return self.dkms_open if is_open else self.dkms

    def dkms_module_package(self, is_open: bool) -> Optional[str]:
        return self.dkms_module_open if is_open else self.dkms_module


@dataclass(frozen=True)
class Transitional:
    """From this version on a branch's packages are empty and lead to another branch."""

    release: str
    family: str
    branch: int
    since: str


@dataclass(frozen=True)
class PackageSource:
    """A supplier of driver packages for some releases of an operating system."""

    name: str
    os: str
    releases: Tuple[str, ...]
    architectures: Tuple[str, ...]
    # What the archive's Release file calls itself.
    origin: str
    # Per release, the archive's components that hold the driver; {} where there are none to enable.
    components: Mapping[str, Tuple[str, ...]]
    # The supplier's own names of the releases and architectures, for the repository's address.
    distro: Mapping[str, str]
    arch_names: Mapping[str, str]
    families: Tuple[Family, ...]
    # Per release and family, the branches to count on before a node has package lists.
    offers: Mapping[str, Mapping[str, Tuple[int, ...]]]
    transitional: Tuple[Transitional, ...] = ()

    def leads_elsewhere(
        self, release: Optional[str], family: Family, branch: int, package_version: str
    ) -> bool:
        """Is this version of a branch's packages an empty one that brings another branch?"""
        return any(
            (row.release, row.family, row.branch) == (release, family.family, branch)
            and at_least(package_version, row.since)
            for row in self.transitional
        )

    def covers(self, os_id: Optional[str], release: Optional[str]) -> bool:
        return os_id == self.os and release in self.releases

    def family_of(self, branch: int) -> Tuple[Family, ...]:
        """The families that name this branch, the preferred one first."""
        return tuple(family for family in self.families if family.names(branch))


@dataclass(frozen=True)
class Architecture:
    arch: str
    compute_capabilities: Tuple[str, ...]
    first_branch: Optional[int]
    last_branch: Optional[int]
    open_modules: str
    source: str
    basis: str


@dataclass(frozen=True)
class Chip:
    chip: str
    arch: str
    compute_capability: str


@dataclass(frozen=True)
class Product:
    match: str
    min_version: Optional[str]
    open_modules: Optional[str]
    source: str
    basis: str


@dataclass(frozen=True)
class DockerFacts:
    cdi_feature_since: str
    cdi_default_since: str
    gpus_uses_cdi_since: str
    distro_packages: Tuple[str, ...]
    docker_ce_packages: Tuple[str, ...]


@dataclass(frozen=True)
class ToolkitFacts:
    packages: Tuple[str, ...]
    legacy_packages: Tuple[str, ...]
    runtime: Mapping[str, Any]
    binaries: Tuple[str, ...]
    cdi_spec: str
    cdi_kind: str
    # The toolkit's own service that describes the GPUs: the first version with it, and what it writes.
    cdi_refresh_since: str
    cdi_refresh_spec: str


@dataclass(frozen=True)
class Catalog:
    frameworks: Mapping[str, Framework]
    branches: Mapping[int, Branch]
    minor_version: Tuple[MinorVersionRule, ...]
    cuda_toolkit: Mapping[str, Fact]
    open_first: int
    open_default: int
    # From this branch on there are no proprietary modules.
    open_only: Optional[int]
    open_source: str
    package_sources: Tuple[PackageSource, ...]
    architectures: Mapping[str, Architecture]
    chips: Tuple[Chip, ...]
    products: Tuple[Product, ...]
    docker: DockerFacts
    toolkit: ToolkitFacts
    pci_ids: Mapping[str, str]
    pci_ids_version: str
    sources: Mapping[str, str]
    # GPUs that the matrix shows: {name: PCI id}.
    shown: Mapping[str, str]
    # The newest month in which a row was compared with its source.
    checked: str

    def framework(self, name: str) -> Optional[Framework]:
        """The workload of this name or alias."""
        found = self.frameworks.get(name)
        if found is None:
            found = next((row for row in self.frameworks.values() if name in row.aliases), None)
        return found

    def workload_names(self) -> List[str]:
        """Every name that a workload may be asked for by, aliases included."""
        return [name for row in self.frameworks.values() for name in (row.name, *row.aliases)]

    def sources_for(self, os_id: Optional[str], release: Optional[str]) -> Tuple[PackageSource, ...]:
        """Who has drivers for this release, the distribution's own archive first."""
        found = [source for source in self.package_sources if source.covers(os_id, release)]
        return tuple(sorted(found, key=lambda source: source.name != os_id))

    def package_source(
        self, name: str, os_id: Optional[str], release: Optional[str]
    ) -> Optional[PackageSource]:
        """The source of this name for this release; `auto` is the distribution's own archive."""
        for source in self.sources_for(os_id, release):
            if name in ("auto", source.name):
                return source
        return None

    def sources_named(self, name: str) -> Tuple[PackageSource, ...]:
        """The rows of one source; of `auto`, every distribution's own archive."""
        return tuple(row for row in self.package_sources if row.name == (row.os if name == "auto" else name))

    def cite(self, source: Optional[str]) -> str:
        """The source behind a short name."""
        return self.sources.get(source or "", source or "")

    def toolkit_driver(self, cuda: str) -> Optional[Fact]:
        """The driver that the first release of a CUDA version came with (`11.2` -> that of 11.2.0)."""
        exact = self.cuda_toolkit.get(cuda)
        if exact and not exact.preview:
            return exact
        releases = [name for name in self.cuda_toolkit if name.startswith(cuda + ".")]
        return self.cuda_toolkit[min(releases, key=Version)] if releases else None

    def minor_version_floor(self, cuda: str) -> Optional[MinorVersionRule]:
        """The minor-version rule that covers a CUDA version, if one does."""
        for rule in self.minor_version:
            if cuda.split(".")[0] == str(rule.family) and Version(cuda) >= Version(rule.since):
                return rule
        return None

    def chip_of(self, device_name: str) -> Optional[Chip]:
        """The chip of a pci.ids name such as `GA100 [A100 PCIe 80GB]`; None when its prefix is in no row."""
        found = [chip for chip in self.chips if device_name.startswith(chip.chip)]
        return max(found, key=lambda chip: len(chip.chip)) if found else None

    def arch_of(self, compute_capability: str) -> Optional[str]:
        for arch in self.architectures.values():
            if compute_capability in arch.compute_capabilities:
                return arch.arch
        return None


class _Row:
    """One mapping of a data file; every complaint says which file, row and field."""

    def __init__(self, file: str, where: str, data: Any) -> None:
        self.file, self.where = file, where
        if not isinstance(data, dict):
            raise CatalogError("%s: %s: must be a mapping, not %r" % (file, where, data))
        self.data = data
        self.seen: set = set()

    def fail(self, field: str, text: str) -> CatalogError:
        return CatalogError("%s: %s: field %s: %s" % (self.file, self.where, field, text))

    def get(self, field: str, kind: Any, default: Any = _REQUIRED, choices: Sequence[Any] = ()) -> Any:
        self.seen.add(field)
        if field not in self.data:
            if default is _REQUIRED:
                raise self.fail(field, "is missing")
            return default
        value = self.data[field]
        if value is None and default is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fail(field, "must be %s, not %r" % (kind.__name__, value))
        if choices and value not in choices:
            raise self.fail(field, "%r is none of %s" % (value, ", ".join(map(str, choices))))
        return value

    def text(self, field: str, default: Any = _REQUIRED, choices: Sequence[str] = ()) -> Any:
        return self.get(field, str, default, choices)

    def nullable(self, field: str) -> Any:
        """A text that may be null, but not forgotten."""
        return self.text(field, None if field in self.data else _REQUIRED)

    def version(self, field: str, default: Any = _REQUIRED) -> Any:
        value = self.text(field, default)
        if value is not None and not re.match(r"^\d+(\.\d+)*$", value):
            raise self.fail(field, "%r is not a version such as 460.27.03" % value)
        return value

    def texts(self, field: str) -> Tuple[str, ...]:
        values = self.get(field, list)
        for value in values:
            if not isinstance(value, str):
                raise self.fail(field, "must be a list of strings; %r is none" % (value,))
        return tuple(values)

    def basis(self, field: str = "basis") -> str:
        return self.text(field, choices=BASES)

    def checked(self) -> str:
        """The month in which somebody last compared the row with its source."""
        value = self.text("checked")
        if not re.match(r"^20\d\d-(0[1-9]|1[0-2])$", value):
            raise self.fail("checked", "%r is no month such as 2026-10" % value)
        return str(value)

    def provenance(self) -> None:
        """Who says so, how sure that is and how fresh: demanded of every row, even where nothing reads it."""
        self.text("source")
        self.basis()
        self.checked()

    def sub(self, field: str) -> "_Row":
        return _Row(self.file, "%s: %s" % (self.where, field), self.get(field, dict))

    def rows(self, field: str, key: str) -> List["_Row"]:
        found = []
        for number, item in enumerate(self.get(field, list), start=1):
            name = item.get(key) if isinstance(item, dict) else None
            found.append(
                _Row(self.file, "%s row %d%s" % (field, number, " (%s)" % name if name else ""), item)
            )
        return found

    def done(self) -> None:
        unknown = sorted(set(self.data) - self.seen)
        if unknown:
            raise self.fail(unknown[0], "is not known here; known: %s" % ", ".join(sorted(self.seen)))


def _unique(rows: Dict[Any, Any], key: Any, value: Any, row: _Row, field: str) -> None:
    if key in rows:
        raise row.fail(field, "%s is there twice" % key)
    rows[key] = value


def _framework(row: _Row) -> Framework:
    limits = []
    for limit in row.rows("gpu_limits", "from"):
        limits.append(
            GpuLimit(
                limit.version("from"),
                limit.text("support", choices=("list", "none")),
                limit.text("text"),
                limit.text("source"),
                limit.basis(),
            )
        )
        limit.checked()
        limit.done()
    expect = row.sub("expect")
    archs = None if row.get("archs", list, None) is None else _archs(row)
    row.text("image_size_source", None)
    row.text("image_size_basis", None, choices=BASES)
    found = Framework(
        name=row.text("name"),
        framework=row.text("framework"),
        version=row.text("version"),
        image=row.nullable("image"),
        image_size_mib=row.get("image_size_mib", int, None),
        probe=row.nullable("probe"),
        expect=MappingProxyType(
            {"framework_version": expect.text("framework_version"), "cuda": expect.text("cuda")}
        ),
        cuda=row.version("cuda"),
        cudnn=row.text("cudnn", None),
        python=row.text("python", None),
        wheel_python=row.text("wheel_python", None),
        compiler=row.text("compiler", None),
        archs=archs,
        archs_source=row.text("archs_source", None),
        archs_basis=row.text("archs_basis", None, choices=BASES),
        gpu_limits=tuple(limits),
        source=row.text("source"),
        basis=row.basis(),
        checked=row.checked(),
        aliases=row.texts("aliases") if "aliases" in row.data else (),
    )
    if archs is not None and not (found.archs_source and found.archs_basis):
        raise row.fail("archs", "archs_source and archs_basis must say where they come from")
    if found.image is not None and ":" not in found.image:
        raise row.fail("image", "%r names no tag" % found.image)
    expect.done()
    row.done()
    return found


def _archs(row: _Row) -> Tuple[str, ...]:
    archs = row.texts("archs")
    for arch in archs:
        if not re.match(r"^(sm|compute)_\d{2,3}$", arch):
            raise row.fail("archs", "%r is neither sm_XY nor compute_XY" % arch)
    return archs


def _wheels(top: _Row) -> List[Tuple[Framework, _Row]]:
    """The rows of wheel releases, expanded to one workload per CUDA variant."""
    sets: Dict[str, Tuple[Tuple[str, ...], str, str]] = {}
    for row in top.rows("wheel_archs", "name"):
        _unique(sets, row.text("name"), (_archs(row), row.text("source"), row.basis()), row, "name")
        row.checked()
        row.done()
    indexes: Dict[str, Tuple[WheelIndex, str]] = {}
    for row in top.rows("wheel_indexes", "framework"):
        index = WheelIndex(
            row.text("package"),
            row.text("url"),
            row.get("size_mib", int, None),
            row.text("source"),
            row.basis(),
        )
        row.text("size_source", None)
        row.text("size_basis", None, choices=BASES)
        _unique(indexes, row.text("framework"), (index, row.text("probe")), row, "framework")
        row.checked()
        row.done()
    found = []
    for row in top.rows("wheels", "release"):
        framework, release = row.text("framework", choices=sorted(indexes)), row.text("release")
        default = row.text("default")
        for field in ("default", "python"):
            row.text("%s_source" % field)
            row.basis("%s_basis" % field)
        name = "%s-%s" % (framework, release)
        variants = row.get("variants", dict)
        if default not in variants:
            raise row.fail("default", "%s is none of its variants %s" % (default, ", ".join(variants)))
        for variant in variants:
            numbers = re.match(r"^cu(\d+)(\d)$", variant)
            if not numbers:
                raise row.fail("variants", "%r is no CUDA variant such as cu124" % variant)
            part = row.sub("variants")
            part.where += " %s" % variant
            part.data = variants[variant] if isinstance(variants[variant], dict) else {}
            archs, archs_source, archs_basis = sets[part.text("archs", choices=sorted(sets))]
            cuda = "%s.%s" % numbers.groups()
            workload = Framework(
                name="%s-%s" % (name, variant),
                framework=framework,
                version=row.text("version"),
                image=None,
                image_size_mib=None,
                probe=indexes[framework][1],
                expect=MappingProxyType({"framework_version": release, "cuda": cuda}),
                cuda=cuda,
                cudnn=part.nullable("cudnn"),
                python=None,
                wheel_python=row.text("python"),
                compiler=None,
                archs=archs,
                archs_source=archs_source,
                archs_basis=archs_basis,
                gpu_limits=(),
                source=row.text("source"),
                basis=row.basis(),
                checked=row.checked(),
                aliases=(name,) if variant == default else (),
                variant=variant,
                default_variant=variant == default,
                wheel=indexes[framework][0],
            )
            part.done()
            found.append((workload, row))
        row.done()
    return found


_PLACEHOLDERS = {"branch", "family", "open", "kernel", "kernel_flavour"}


def _family(row: _Row) -> Family:
    branched = row.get("branched", bool)
    dkms = row.texts("dkms")
    dkms_module = row.text("dkms_module", None)
    by_flavour = any("{open}" in pattern for pattern in dkms)
    found = Family(
        family=row.text("family"),
        suffix=row.text("suffix"),
        first_branch=row.get("first_branch", int, None),
        last_branch=row.get("last_branch", int, None),
        branched=branched,
        version_package=row.text("version_package"),
        library_package=row.text("library_package"),
        kernel_modules=row.text("kernel_modules", None),
        kernel_metapackage=row.text("kernel_metapackage", None),
        precompiled=row.texts("precompiled"),
        kernel_headers=row.texts("kernel_headers"),
        dkms=dkms,
        dkms_open=dkms if by_flavour else row.texts("dkms_open"),
        dkms_module=dkms_module,
        dkms_module_open=dkms_module if by_flavour else row.text("dkms_module_open", None),
        metapackages=row.texts("metapackages"),
        nvswitch=row.text("nvswitch", None),
        closure=row.texts("closure"),
        needs=row.texts("needs"),
        extras=row.texts("extras"),
    )
    for field, value in vars(found).items():
        for pattern in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
            strange = set(re.findall(r"{(.*?)}", pattern)) - _PLACEHOLDERS
            if strange:
                raise row.fail(field, "%r holds the unknown placeholder {%s}" % (pattern, sorted(strange)[0]))
    if branched != ("{branch}" in found.version_package):
        raise row.fail("branched", "does not agree with version_package %r" % found.version_package)
    if bool(found.kernel_modules) != bool(found.precompiled):
        raise row.fail("precompiled", "must be there exactly when kernel_modules is")
    for packages, module, field in (
        (found.dkms, found.dkms_module, "dkms_module"),
        (found.dkms_open, found.dkms_module_open, "dkms_module_open"),
    ):
        if bool(packages) != bool(module):
            raise row.fail(field, "must be there exactly when its packages are")
    if not found.precompiled and not found.dkms and not found.dkms_open:
        raise row.fail("dkms", "neither precompiled nor DKMS packages: nothing could be installed")
    row.provenance()
    row.done()
    return found


def _overlap(left: Family, right: Family) -> bool:
    """Do two families give the same name to a branch that both name?"""
    if left.version_package.replace("{family}", left.suffix) != right.version_package.replace(
        "{family}", right.suffix
    ):
        return False
    low = max(left.first_branch or 0, right.first_branch or 0)
    return low <= min(left.last_branch or 9999, right.last_branch or 9999)


def _texts_by_name(row: _Row, field: str, known: Sequence[str], what: str) -> Dict[str, Any]:
    """A mapping of releases (or architectures) that are known to the source."""
    values = row.get(field, dict)
    for name in values:
        if name not in known:
            raise row.fail(field, "%r is no %s of this source" % (name, what))
    return dict(values)


def _package_source(row: _Row) -> PackageSource:
    releases, architectures = row.texts("releases"), row.texts("architectures")
    families: List[Family] = []
    whole: Dict[str, Any] = {}
    for family_row in row.rows("families", "family"):
        like = family_row.text("like", None)
        if like is not None:
            if like not in whole:
                raise family_row.fail("like", "%r is no family above this one" % like)
            family_row.data = {**whole[like], **family_row.data}
            del family_row.data["like"]
        whole[family_row.text("family")] = family_row.data
        family = _family(family_row)
        for other in families:
            if other.family == family.family:
                raise family_row.fail("family", "%s is there twice" % family.family)
            if _overlap(family, other):
                raise family_row.fail("first_branch", "overlaps with the family %s" % other.family)
        families.append(family)
    by_name = {family.family: family for family in families}
    offers: Dict[str, Dict[str, Tuple[int, ...]]] = {}
    for offer in row.rows("offers", "release"):
        of_release = offers.setdefault(offer.text("release", choices=releases), {})
        for family_name, numbers in offer.get("families", dict).items():
            if family_name not in by_name:
                raise offer.fail("families", "%r is no family of this source" % family_name)
            if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
                raise offer.fail("families", "%s must be a list of branch numbers" % family_name)
            for number in numbers:
                if not by_name[family_name].names(number):
                    raise offer.fail("families", "%s does not name branch %d" % (family_name, number))
            of_release[family_name] = tuple(sorted({*of_release.get(family_name, ()), *numbers}))
        offer.provenance()
        offer.done()
    transitional = []
    for part in row.rows("transitional", "release") if "transitional" in row.data else ():
        transitional.append(
            Transitional(
                part.text("release", choices=releases),
                part.text("family", choices=sorted(by_name)),
                part.get("branch", int),
                part.text("since"),
            )
        )
        if part.data["branch"] in offers.get(part.data["release"], {}).get(part.data["family"], ()):
            raise part.fail("branch", "%d stands among the offers, too" % part.data["branch"])
        part.provenance()
        part.done()
    row.seen.add("transitional")
    components = _texts_by_name(row, "components", releases, "release")
    for release, values in components.items():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise row.fail("components", "%s must be a list of strings" % release)
    found = PackageSource(
        name=row.text("name"),
        os=row.text("os"),
        releases=releases,
        architectures=architectures,
        origin=row.text("origin"),
        components=MappingProxyType({release: tuple(values) for release, values in components.items()}),
        distro=MappingProxyType(_texts_by_name(row, "distro", releases, "release")),
        arch_names=MappingProxyType(_texts_by_name(row, "arch_names", architectures, "architecture")),
        families=tuple(families),
        offers=MappingProxyType({k: MappingProxyType(v) for k, v in offers.items()}),
        transitional=tuple(transitional),
    )
    row.provenance()
    row.done()
    return found


def _check_citations(file: str, where: str, value: Any, sources: Mapping[str, str]) -> None:
    """Every source that a row names must be listed; the rows' own readers have checked the rest."""
    if isinstance(value, dict):
        for key, item in value.items():
            cites = key == "source" or str(key).endswith("_source")
            if cites and isinstance(item, str) and item not in sources:
                raise CatalogError("%s: %s: field %s: %r is none of sources" % (file, where, key, item))
            _check_citations(file, "%s %s" % (where, key) if where else str(key), item, sources)
    elif isinstance(value, list):
        for number, item in enumerate(value, start=1):
            _check_citations(file, "%s row %d" % (where, number), item, sources)


def _months_checked(value: Any) -> List[str]:
    """Every month of comparison in a data file."""
    if isinstance(value, dict):
        own = [value["checked"]] if isinstance(value.get("checked"), str) else []
        return own + [month for item in value.values() for month in _months_checked(item)]
    if isinstance(value, list):
        return [month for item in value for month in _months_checked(item)]
    return []


def build(data: Mapping[str, Any], pci_ids_text: str) -> Catalog:
    """The catalog from the parsed files (`{file name: content}`) and the text of pci.ids."""
    sources: Dict[str, str] = {}
    tops: Dict[str, _Row] = {}
    for file in FILES:
        top = tops[file] = _Row(file, "top level", data.get(file))
        schema = top.get("schema", int)
        if schema != 1:
            raise top.fail("schema", "is %s; this gpuready reads 1" % schema)
        for short, long in top.get("sources", dict).items():
            if sources.get(short, long) != long:
                raise top.fail("sources", "%s means something else in another file" % short)
            sources[short] = long

    for file, top in tops.items():
        _check_citations(file, "", {k: v for k, v in top.data.items() if k != "sources"}, sources)

    frameworks: Dict[str, Framework] = {}
    for row in tops["frameworks.yml"].rows("frameworks", "name"):
        framework = _framework(row)
        _unique(frameworks, framework.name, framework, row, "name")
    for framework, row in _wheels(tops["frameworks.yml"]):
        _unique(frameworks, framework.name, framework, row, "variants")
    names: Dict[str, str] = {}
    for framework in frameworks.values():
        for name in (framework.name, *framework.aliases):
            if name in names:
                raise CatalogError(
                    "frameworks.yml: %s names both %s and %s" % (name, names[name], framework.name)
                )
            names[name] = framework.name

    drivers = tops["drivers.yml"]
    branches: Dict[int, Branch] = {}
    for row in drivers.rows("branches", "branch"):
        end = row.text("end_of_life", None)
        if end not in (None, "past") and not re.match(r"^\d{4}-\d{2}$", end):
            raise row.fail("end_of_life", "%r is neither YYYY-MM nor past" % end)
        number = row.get("branch", int)
        branch = Branch(
            number,
            row.text("kind", choices=KINDS),
            end,
            row.version("max_cuda"),
            row.text("source"),
            row.basis(),
        )
        _unique(branches, number, branch, row, "branch")
        row.checked()
        row.done()
    rules = []
    for row in drivers.rows("cuda_minor_version", "family"):
        rules.append(
            MinorVersionRule(
                row.get("family", int),
                row.version("since"),
                row.version("min"),
                row.text("source"),
                row.basis(),
            )
        )
        row.checked()
        row.done()
    toolkit_rows: Dict[str, Fact] = {}
    for row in drivers.rows("cuda_toolkit", "cuda"):
        _unique(
            toolkit_rows,
            row.version("cuda"),
            Fact(row.version("min"), row.text("source"), row.basis(), row.get("preview", bool, False)),
            row,
            "cuda",
        )
        row.checked()
        row.done()
    open_row = drivers.sub("open_modules")
    open_first, open_default = open_row.sub("first_branch"), open_row.sub("default_from")
    open_only = open_row.sub("only_from")
    for part in (open_first, open_default, open_only):
        if part.get("branch", int) not in branches:
            raise part.fail("branch", "%s has no row in branches" % part.data["branch"])
        part.provenance()
        part.done()
    suppliers: List[PackageSource] = []
    for row in drivers.rows("package_sources", "name"):
        supplier = _package_source(row)
        for other in suppliers:
            both = sorted(set(supplier.releases) & set(other.releases))
            if (supplier.name, supplier.os) == (other.name, other.os) and both:
                raise row.fail("releases", "%s %s has two sources named %s" % (other.os, both[0], other.name))
        for release, of_release in supplier.offers.items():
            unknown = sorted({n for numbers in of_release.values() for n in numbers} - set(branches))
            if unknown:
                raise row.fail("offers", "%s: branch %d has no row in branches" % (release, unknown[0]))
        suppliers.append(supplier)
    for framework in frameworks.values():
        if not any(name == framework.cuda or name.startswith(framework.cuda + ".") for name in toolkit_rows):
            raise CatalogError(
                "frameworks.yml: frameworks row (%s): field cuda: drivers.yml has no cuda_toolkit row for %s"
                % (framework.name, framework.cuda)
            )

    gpus = tops["gpus.yml"]
    architectures: Dict[str, Architecture] = {}
    for row in gpus.rows("architectures", "arch"):
        arch = Architecture(
            row.text("arch"),
            row.texts("compute_capabilities"),
            row.get("first_branch", int, None),
            row.get("last_branch", int, None),
            row.text("open_modules", choices=OPEN_MODULES),
            row.text("source"),
            row.basis(),
        )
        _unique(architectures, arch.arch, arch, row, "arch")
        for field in ("first_branch", "last_branch"):
            if row.data.get(field) is not None and row.data[field] not in branches:
                raise row.fail(field, "%s has no row in drivers.yml's branches" % row.data[field])
        row.checked()
        row.done()
    chips: Dict[str, Chip] = {}
    for row in gpus.rows("chips", "chip"):
        chip = Chip(
            row.text("chip"),
            row.text("arch", choices=sorted(architectures)),
            row.version("compute_capability"),
        )
        if chip.compute_capability not in architectures[chip.arch].compute_capabilities:
            raise row.fail(
                "compute_capability", "%s is not one of %s's" % (chip.compute_capability, chip.arch)
            )
        row.provenance()
        row.done()
        _unique(chips, chip.chip, chip, row, "chip")
    products = []
    for row in gpus.rows("products", "match"):
        products.append(
            Product(
                row.text("match"),
                row.version("min_version", None),
                row.text("open_modules", None, choices=OPEN_MODULES),
                row.text("source"),
                row.basis(),
            )
        )
        row.checked()
        row.done()

    ids, ids_version = parse_pci_ids(pci_ids_text)
    shown: Dict[str, str] = {}
    for row in gpus.rows("shown", "gpu"):
        if row.text("device_id") not in ids:
            raise row.fail("device_id", "%s is not in pci.ids" % row.data["device_id"])
        _unique(shown, row.text("gpu"), row.data["device_id"], row, "gpu")
        row.done()

    runtime = tops["runtime.yml"]
    docker, toolkit = runtime.sub("docker"), runtime.sub("toolkit")
    since = {}
    for field in ("cdi_feature_since", "cdi_default_since", "gpus_uses_cdi_since"):
        row = docker.sub(field)
        since[field] = row.version("version")
        row.provenance()
        row.done()
    docker_facts = DockerFacts(
        distro_packages=docker.texts("distro_packages"),
        docker_ce_packages=docker.texts("docker_ce_packages"),
        **since,
    )
    runtime_row = toolkit.sub("runtime")
    refresh_row = toolkit.sub("cdi_refresh")
    toolkit_facts = ToolkitFacts(
        packages=toolkit.texts("packages"),
        legacy_packages=toolkit.texts("legacy_packages"),
        runtime=MappingProxyType(
            {
                "name": runtime_row.text("name"),
                "path": runtime_row.text("path"),
                "args": runtime_row.texts("args"),
            }
        ),
        binaries=toolkit.texts("binaries"),
        cdi_spec=toolkit.text("cdi_spec"),
        cdi_kind=toolkit.text("cdi_kind"),
        cdi_refresh_since=refresh_row.version("version"),
        cdi_refresh_spec=refresh_row.text("spec"),
    )
    refresh_row.provenance()
    refresh_row.done()
    toolkit.text("packages_source")
    toolkit.basis("packages_basis")
    toolkit.text("packages_checked")
    for part in (runtime_row, docker, toolkit, *tops.values()):
        part.done()

    return Catalog(
        frameworks=MappingProxyType(frameworks),
        branches=MappingProxyType(branches),
        minor_version=tuple(rules),
        cuda_toolkit=MappingProxyType(toolkit_rows),
        open_first=open_first.data["branch"],
        open_default=open_default.data["branch"],
        open_only=open_only.data["branch"],
        open_source=open_default.data["source"],
        package_sources=tuple(suppliers),
        architectures=MappingProxyType(architectures),
        chips=tuple(chips.values()),
        products=tuple(products),
        docker=docker_facts,
        toolkit=toolkit_facts,
        pci_ids=MappingProxyType(ids),
        pci_ids_version=ids_version,
        sources=MappingProxyType(sources),
        shown=MappingProxyType(shown),
        checked=max(_months_checked(data)),
    )


def parse_pci_ids(text: str) -> Tuple[Dict[str, str], str]:
    """NVIDIA's devices of a pci.ids text ({device id: name}) and the list's version."""
    ids: Dict[str, str] = {}
    version, inside = "", False
    for line in text.splitlines():
        if line.startswith("#"):
            found = re.match(r"^#\s+Version:\s*(\S+)", line)
            version = found.group(1) if found else version
        elif re.match(r"^[0-9a-fA-F]{4}\s", line):
            inside = line.lower().startswith("10de")
        elif inside and re.match(r"^\t[0-9a-fA-F]{4}\s", line):
            device, name = line.strip().split(None, 1)
            # The list itself has names such as `GH100[H100 ...]`.
            ids[device.lower()] = re.sub(r"^(\w+)\[", r"\1 [", name)
    if not ids:
        raise CatalogError("pci.ids: no device of vendor 10de in it")
    return ids, version


def data_directory() -> str:
    """Where the data files lie: beside the installed package, or in the collection."""
    here = os.path.dirname(os.path.abspath(__file__))
    for place in (os.path.join(here, "data"), os.path.join(here, os.pardir, os.pardir, "data")):
        if os.path.isfile(os.path.join(place, FILES[0])):
            return os.path.normpath(place)
    try:
        import gpuready.data  # type: ignore[import-untyped,unused-ignore]

        return os.path.dirname(os.path.abspath(gpuready.data.__file__ or ""))
    except ImportError:
        raise CatalogError(
            "gpuready's data files are neither in %s/data nor in the collection" % here
        ) from None


def load_catalog(directory: Optional[str] = None) -> Catalog:
    """The catalog from a directory of data files; the shipped ones by default."""
    place = directory or data_directory()
    try:
        return _load(
            place, tuple(os.stat(os.path.join(place, name)).st_mtime_ns for name in (*FILES, "pci.ids"))
        )
    except OSError as error:
        raise CatalogError("%s: cannot be read (%s)" % (error.filename, error.strerror)) from error


@functools.lru_cache(maxsize=4)
def _load(place: str, _times: Tuple[int, ...]) -> Catalog:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    data = {}
    for file in FILES:
        with open(os.path.join(place, file), encoding="utf-8") as handle:
            try:
                data[file] = yaml.load(handle, Loader=loader)
            except yaml.YAMLError as error:
                raise CatalogError("%s: is not YAML: %s" % (file, " ".join(str(error).split()))) from error
    with open(os.path.join(place, "pci.ids"), encoding="utf-8") as handle:
        return build(data, handle.read())


def annotate(observed: Mapping[str, Any], catalog: Catalog) -> Dict[str, Any]:
    """A copy of an observation whose GPUs carry name, chip, arch and compute_capability; unknown stays None.

    The name comes from pci.ids, chip and architecture from the chip's row, and where a driver answers,
    NVML's compute capability decides.
    """
    result = dict(observed)
    host = dict(result.get("host") or {})
    driver = result.get("driver") or {}
    devices = {str(device.get("pci", "")).lower()[-12:]: device for device in driver.get("devices") or []}
    gpus = []
    for gpu in host.get("gpus") or []:
        gpu = copy.copy(gpu)
        full_name = catalog.pci_ids.get(str(gpu.get("device_id") or "").lower())
        product = None
        if full_name:
            bracket = re.search(r"\[(.+)\]", full_name)
            product = bracket.group(1) if bracket else full_name
        chip = catalog.chip_of(full_name or "")
        gpu["name"] = gpu.get("name") or product
        # GA102GL and GA102M are boards with a GA102.
        gpu["chip"] = gpu.get("chip") or (full_name[:5] if full_name and chip else None)
        asked = (devices.get(str(gpu.get("pci") or "").lower()[-12:]) or {}).get("compute_capability")
        capability = asked or gpu.get("compute_capability") or (chip.compute_capability if chip else None)
        gpu["compute_capability"] = capability
        gpu["arch"] = (catalog.arch_of(capability) if capability else None) or gpu.get("arch")
        gpus.append(gpu)
    if "gpus" in host:
        host["gpus"] = gpus
        result["host"] = host
    return result


def product_of(gpu: Mapping[str, Any], catalog: Catalog) -> Optional[Product]:
    """The row of gpus.yml for this very product, if it has one."""
    full_name = catalog.pci_ids.get(str(gpu.get("device_id") or "").lower()) or str(gpu.get("name") or "")
    for product in catalog.products:
        if product.match in full_name:
            return product
    return None


# What a program or a person adds to a product's name, and what names the board or its memory.
_NO_NAME = re.compile(
    r"\b(?:nvidia|corporation|graphics|device|laptop gpu|gpu)\b|\(rev \w+\)|[^a-z0-9]+", re.IGNORECASE
)
_FAMILIES = frozenset({"geforce", "tesla", "quadro"})
_BOARDS = frozenset({"pcie", "sxm", "sxm2", "sxm3", "sxm4", "sxm5", "hbm2", "hbm2e", "hbm3", "hbm3e"})


def _name_words(name: str) -> List[str]:
    return _NO_NAME.sub(" ", name.lower()).split()


def chips_named(name: str, catalog: Catalog) -> List[Chip]:
    """The chips that a GPU may have of which only the name is known, as a program or a person gives it.

    pci.ids knows "A100 PCIe 80GB", nvidia-smi says "NVIDIA A100 80GB PCIe" and people "A100": a product has
    the name when it has its words. Words that no product has (the memory's kind, a board's form) are left
    out, the last ones first.
    """
    words = _name_words(name)
    # lspci names the chip: "GA100 [A100 PCIe 80GB]".
    chip = catalog.chip_of(words[0].upper()) if words else None
    if chip:
        return [chip]
    products = [
        (frozenset(_name_words(full.partition("[")[2])), full)
        for full in catalog.pci_ids.values()
        if "[" in full
    ]

    def having(wanted: frozenset) -> List[Chip]:
        found = [catalog.chip_of(full) for known, full in products if wanted <= known]
        return list(dict.fromkeys(chip for chip in found if chip))

    while any(any(char.isdigit() for char in word) for word in words):
        for drop in (frozenset(), _FAMILIES, _FAMILIES | _BOARDS):
            found = having(frozenset(words) - drop)
            if found:
                return found
        words.pop()
    return []


def find_gpu(text: str, catalog: Catalog) -> List[Dict[str, Any]]:
    """GPUs whose name in pci.ids has all words of `text` (`A100`, `tesla t4`), the best match first."""
    words = [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]
    found = []
    for device, name in catalog.pci_ids.items():
        parts = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
        # A chip's sound, USB and switch functions carry its name too.
        other = re.search(r"NVSwitch|Audio|Controller|SMBus|Bridge", name)
        if words and all(word in parts for word in words) and catalog.chip_of(name) and not other:
            found.append((len(parts), device))
    if not found and re.match(r"^[0-9a-f]{4}$", text.lower()):
        found = [(0, text.lower())]
    gpus = []
    for _, device in sorted(found):
        gpus.append(
            {
                "pci": "0000:01:00.0",
                "vendor_id": "10de",
                "device_id": device,
                "class": "030200",
                "driver_bound": None,
                "name": None,
                "chip": None,
                "arch": None,
            }
        )
    return gpus


def extract_pci_ids(text: str) -> str:
    """NVIDIA's part of a full pci.ids: its header and licence, and the devices without board names."""
    header: List[str] = []
    body: List[str] = []
    inside = False
    for line in text.splitlines():
        if not body and not inside and line.startswith("#") and not line.startswith("# Vendors"):
            header.append(line)
        elif re.match(r"^[0-9a-fA-F]{4}\s", line):
            inside = line.lower().startswith("10de")
            if inside:
                body.append(line)
        elif line.startswith("# Vendors"):
            inside = False
        elif inside and re.match(r"^\t[0-9a-fA-F]", line):
            body.append(line)
    while header and header[-1].strip("# \t") == "":
        header.pop()
    note = [
        "#",
        "#\tThis is an extract made by `python -m gpuready.catalog --refresh-pci-ids`:",
        "#\tvendor 10de only, without subsystems. Changes belong upstream, not here.",
        "#",
    ]
    parse_pci_ids("\n".join(body))
    end = next((i for i, line in enumerate(header) if "Syntax:" in line), len(header))
    return "\n".join([*header[:end], *note, *body]) + "\n"


def driver_line(version: str, catalog: Catalog) -> Optional[Branch]:
    """The branch that a driver version belongs to, if the catalog knows it."""
    number = driver_branch(version)
    return catalog.branches.get(number) if number is not None else None


def main(arguments: Optional[Sequence[str]] = None) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m gpuready.catalog", description="gpuready's data files")
    parser.add_argument("--check", action="store_true", help="read and check the data files")
    parser.add_argument(
        "--refresh-pci-ids",
        metavar="FILE",
        nargs="?",
        const="/usr/share/misc/pci.ids",
        help="make data/pci.ids anew from a full pci.ids (default: the one of the Debian package pci.ids)",
    )
    options = parser.parse_args(arguments)
    try:
        if options.refresh_pci_ids:
            with open(options.refresh_pci_ids, encoding="utf-8") as handle:
                text = extract_pci_ids(handle.read())
            target = os.path.join(data_directory(), "pci.ids")
            with open(target, "w", encoding="utf-8") as handle:
                handle.write(text)
            devices, version = parse_pci_ids(text)
            print("%s: list of %s, %d devices" % (target, version, len(devices)))
        catalog = load_catalog()
    except (CatalogError, OSError) as error:
        print("gpuready: %s" % error, file=sys.stderr)
        return 2
    print(
        "%d frameworks, %d driver branches, %d architectures, %d PCI ids (%s): all rows are sound"
        % (
            len(catalog.frameworks),
            len(catalog.branches),
            len(catalog.architectures),
            len(catalog.pci_ids),
            catalog.pci_ids_version,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
