# Apache-2.0 (see LICENSE)
"""The suitable driver: collect what everybody requires, ask what can be installed, choose, and say why.

Everything here is a pure function of the observation, the wishes and the catalog.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .catalog import Architecture, Catalog, Family, Framework, PackageSource, product_of
from .versions import Version, at_least, compare, driver_branch, driver_version, matches, newest
from .wishes import nearest

ROLE = "nvidia_driver"
OPEN, PROPRIETARY = "open", "proprietary"
PRECOMPILED, DKMS = "precompiled", "dkms"
NO_LISTS = (
    "apt has no package lists on this node: the driver was chosen by the catalog "
    "and is confirmed when the lists are there"
)
KIND_WORDS = {
    "long_term": "long-term",
    "production": "production",
    "new_feature": "new-feature",
    "developer": "developer",
}
# Requirements beyond this many are never contradictory all at once without a smaller set being so.
_SMALLEST_SET_LIMIT = 4


def conflict(
    identifier: str, layer: str, role: str, what: str, because: Sequence[str], options: Sequence[str]
) -> Dict[str, Any]:
    return {
        "id": identifier,
        "layer": layer,
        "role": role,
        "what": what,
        "because": list(because),
        "options": list(options),
    }


@dataclass(frozen=True)
class Requirement:
    """One thing that the driver must fulfil, and who says so."""

    rule: str
    kind: str  # floor | last_branch | branch | version | flavour | signed | fabric
    value: str
    requirement: str
    subject: str
    text: str
    source: str
    basis: str
    variable: Optional[str] = None

    def row(self, bound: bool) -> Dict[str, Any]:
        return {
            "requirement": self.requirement,
            "rule": self.rule,
            "subject": self.subject,
            "text": self.text,
            "source": self.source,
            "basis": self.basis,
            "bound": bound,
        }

    def sentence(self) -> str:
        return "%s: %s (%s)" % (self.subject, self.requirement, self.text)


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

    def satisfies(self, requirement: Requirement) -> bool:
        kind, value = requirement.kind, requirement.value
        if kind == "floor":
            if self.version:
                return at_least(self.version, value)
            # Before apt has lists only the branch is known; its current version is as new as the floor or newer.
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


@dataclass
class Resolution:
    """The answer: an option with its reasons, or conflicts."""

    option: Optional[Option]
    requirements: List[Requirement]
    because: List[Dict[str, Any]]
    min_required: Optional[str]
    conflicts: List[Dict[str, Any]]
    notes: List[str]
    keeps_installed: bool = False


def _get(data: Any, *path: str) -> Any:
    for name in path:
        if not isinstance(data, Mapping):
            return None
        data = data.get(name)
    return data


def _sm(name: str) -> Tuple[int, int]:
    digits = name.rpartition("_")[2]
    return int(digits[:-1]), int(digits[-1])


def capability(text: str) -> Tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def code_for(framework: Framework, compute_capability: str) -> Tuple[str, Optional[str]]:
    """How a framework's wheel runs on a GPU: (native | jit | none | unknown, the wheel's architecture used)."""
    if framework.archs is None:
        return "unknown", None
    gpu = capability(compute_capability)
    native = [a for a in framework.archs if a.startswith("sm_") and _sm(a)[0] == gpu[0] and _sm(a) <= gpu]
    if native:
        return "native", max(native, key=_sm)
    ptx = [a for a in framework.archs if a.startswith("compute_") and _sm(a) <= gpu]
    if ptx:
        return "jit", max(ptx, key=_sm)
    return "none", None


def _gpu_words(gpu: Mapping[str, Any]) -> str:
    return str(gpu.get("name") or gpu.get("device_id") or "a GPU")


def _distinct(gpus: Iterable[Mapping[str, Any]], key: str) -> List[Mapping[str, Any]]:
    seen: Dict[Any, Mapping[str, Any]] = {}
    for gpu in gpus:
        seen.setdefault(gpu.get(key), gpu)
    return list(seen.values())


def collect(
    gpus: Sequence[Mapping[str, Any]],
    workloads: Sequence[Framework],
    wishes: Mapping[str, Any],
    catalog: Catalog,
    *,
    secure_boot: Optional[bool] = None,
    nvswitches: int = 0,
) -> List[Requirement]:
    """Everything the driver must fulfil; pure facts, no choice yet."""
    found: List[Requirement] = []

    def add(
        rule: str,
        kind: str,
        value: str,
        requirement: str,
        subject: str,
        text: str,
        source: str,
        basis: str,
        variable: Optional[str] = None,
    ) -> None:
        row = Requirement(rule, kind, value, requirement, subject, text, source, basis, variable)
        if row not in found:
            found.append(row)

    def wish(rule: str, kind: str, variable: str, requirement: str, text: str) -> None:
        value = str(wishes[variable])
        add(rule, kind, value, requirement, variable, text, "the inventory's wishes", "read", variable)

    if wishes["nvidia_driver_version"]:
        wish(
            "user-version",
            "version",
            "nvidia_driver_version",
            "=" + wishes["nvidia_driver_version"],
            "exact version asked for",
        )
    if wishes["nvidia_driver_branch"] != "auto":
        wish(
            "user-branch",
            "branch",
            "nvidia_driver_branch",
            "branch " + wishes["nvidia_driver_branch"],
            "branch asked for",
        )
    if wishes["nvidia_driver_flavour"] != "auto":
        wish(
            "user-flavour",
            "flavour",
            "nvidia_driver_flavour",
            wishes["nvidia_driver_flavour"] + " modules",
            "flavour asked for",
        )

    for workload in workloads:
        own = catalog.toolkit_driver(workload.cuda)
        minor = catalog.minor_version_floor(workload.cuda)
        if minor:
            text = "CUDA %d.x runs on any driver from %s on (minor-version compatibility)" % (
                minor.family,
                minor.min,
            )
            if own:
                text += "; CUDA %s itself came with %s" % (workload.cuda, own.version)
            add(
                "cuda-minor",
                "floor",
                minor.min,
                ">=" + minor.min,
                workload.name,
                text,
                catalog.cite(minor.source),
                minor.basis,
            )
        elif own:
            add(
                "cuda-ga",
                "floor",
                own.version,
                ">=" + own.version,
                workload.name,
                "CUDA %s needs the driver it came with" % workload.cuda,
                catalog.cite(own.source),
                own.basis,
            )
        for gpu in _distinct(gpus, "compute_capability"):
            asked = gpu.get("compute_capability")
            if not asked or not own:
                continue
            how, arch = code_for(workload, asked)
            subject = "%s on %s" % (workload.name, gpu.get("arch") or _gpu_words(gpu))
            if how == "jit":
                add(
                    "ptx-jit",
                    "floor",
                    own.version,
                    ">=" + own.version,
                    subject,
                    "the wheel has no code for compute capability %s: the driver compiles its %s PTX, so it must know CUDA %s's PTX"
                    % (asked, arch, workload.cuda),
                    catalog.cite(workload.archs_source),
                    "inference",
                )
            elif how == "unknown":
                add(
                    "cuda-ga",
                    "floor",
                    own.version,
                    ">=" + own.version,
                    subject,
                    "the wheel's architectures are not known: CUDA %s's own driver can always compile its PTX"
                    % workload.cuda,
                    catalog.cite(own.source),
                    "inference",
                )

    for gpu in _distinct(gpus, "arch"):
        arch = catalog.architectures.get(str(gpu.get("arch")))
        if arch:
            _gpu_requirements(arch, gpu, catalog, add)
    for gpu in _distinct(gpus, "device_id"):
        product = product_of(gpu, catalog)
        if not product:
            continue
        cite = catalog.cite(product.source)
        if product.min_version:
            add(
                "gpu-product",
                "floor",
                product.min_version,
                ">=" + product.min_version,
                _gpu_words(gpu),
                "the first driver that supports this product",
                cite,
                product.basis,
            )
        if product.open_modules == "required":
            add(
                "open-required",
                "flavour",
                OPEN,
                "open modules",
                _gpu_words(gpu),
                "this product works with the open kernel modules only",
                cite,
                product.basis,
            )

    if wishes["nvidia_driver_min_version"]:
        wish(
            "user-minimum",
            "floor",
            "nvidia_driver_min_version",
            ">=" + wishes["nvidia_driver_min_version"],
            "the site's own minimum",
        )
    if secure_boot:
        add(
            "secure-boot",
            "signed",
            "",
            "signed modules",
            "Secure Boot",
            "the kernel refuses modules that no trusted key has signed; DKMS would build such ones",
            "observed: Secure Boot is on",
            "read",
        )
    if nvswitches:
        add(
            "nvswitch",
            "fabric",
            "",
            "a fabric manager",
            "%d NVSwitches" % nvswitches,
            "without nvidia-fabricmanager of the driver's own version CUDA does not start on these GPUs",
            "observed: NVSwitches on the PCI bus",
            "memory",
        )
    return found


def _gpu_requirements(arch: Architecture, gpu: Mapping[str, Any], catalog: Catalog, add: Any) -> None:
    subject, cite = "%s (%s)" % (_gpu_words(gpu), arch.arch), catalog.cite(arch.source)
    if arch.first_branch is not None:
        add(
            "gpu-first-branch",
            "floor",
            str(arch.first_branch),
            ">=%d" % arch.first_branch,
            subject,
            "the first branch that supports this GPU",
            cite,
            arch.basis,
        )
    if arch.last_branch is not None:
        add(
            "gpu-last-branch",
            "last_branch",
            str(arch.last_branch),
            "<=%d" % arch.last_branch,
            subject,
            "the last branch that supports this GPU",
            cite,
            arch.basis,
        )
    if arch.open_modules == "required":
        add(
            "open-required",
            "flavour",
            OPEN,
            "open modules",
            subject,
            "this GPU works with the open kernel modules only",
            cite,
            arch.basis,
        )
    elif arch.open_modules == "impossible":
        add(
            "open-impossible",
            "flavour",
            PROPRIETARY,
            "proprietary modules",
            subject,
            "the open kernel modules begin with Turing",
            cite,
            arch.basis,
        )


# What can be had ---------------------------------------------------------------------------------------------------


def names(
    patterns: Iterable[str], branch: int, family: Family, flavour: str = PROPRIETARY, kernel: str = ""
) -> List[str]:
    """Package names from a source's patterns."""
    suffix = "-open" if flavour == OPEN else ""
    return [p.format(branch=branch, family=family.suffix, open=suffix, kernel=kernel) for p in patterns]


def candidate_of(observed: Mapping[str, Any], package: str) -> Optional[str]:
    return _get(observed, "apt", "candidates", package, "candidate")


def versions_of(observed: Mapping[str, Any], package: str) -> List[str]:
    """All versions that apt can install, its candidate included."""
    entry = _get(observed, "apt", "candidates", package) or {}
    found = list(entry.get("versions") or [])
    if entry.get("candidate") and entry["candidate"] not in found:
        found.insert(0, entry["candidate"])
    return found


def has_lists(observed: Mapping[str, Any]) -> bool:
    return _get(observed, "apt", "candidates") is not None


def installed_packages(observed: Mapping[str, Any]) -> Dict[str, str]:
    """Installed packages of the driver, by what dpkg and apt say."""
    found = {}
    for name, entry in (_get(observed, "apt", "candidates") or {}).items():
        if entry and entry.get("installed"):
            found[name] = entry["installed"]
    for package in _get(observed, "driver", "packages") or []:
        if package.get("status", "installed") == "installed":
            found[package["name"]] = package["version"]
        else:
            found.pop(package["name"], None)
    return found


def _kernels(observed: Mapping[str, Any]) -> Tuple[Optional[str], Optional[str]]:
    """(running kernel, the other kernel of the next boot)."""
    running = _get(observed, "host", "kernel", "running")
    upcoming = _get(observed, "host", "kernel", "next_boot")
    return running, upcoming if upcoming and upcoming != running else None


def read_installed(observed: Mapping[str, Any], source: PackageSource, catalog: Catalog) -> Installed:
    """Which packaged driver the node has, and whether the set is whole."""
    have = installed_packages(observed)
    state = Installed()
    for package in _get(observed, "driver", "packages") or []:
        if package.get("status", "installed") == "installed":
            state.packages[package["name"]] = package["version"]
            state.held[package["name"]] = bool(package.get("held"))
    anchors = []
    for family in source.families:
        expression = re.escape(source.version_package).replace(r"\{branch\}", r"(\d{3,4})")
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
    running, upcoming = _kernels(observed)
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
            fabric=names([source.nvswitch], state.branch, state.family)[0] in have,
            installed=True,
        )
    return state


def _installed_flavour(observed: Mapping[str, Any], source: PackageSource, state: Installed) -> Optional[str]:
    assert state.branch is not None and state.family is not None
    on_disk = _get(observed, "driver", "on_disk", "flavour")
    if on_disk in (OPEN, PROPRIETARY):
        return str(on_disk)
    for flavour in (OPEN, PROPRIETARY):
        patterns = [*source.precompiled, *source.dkms, *source.metapackages]
        marked = [p for p in patterns if "{open}" in p]
        if any(name in state.packages for name in names(marked, state.branch, state.family, flavour)):
            return flavour
    return None


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
    if running:
        wanted = names([source.kernel_modules], branch, family, flavour, running)
        wanted += names(source.precompiled, branch, family, flavour)
        if upcoming:
            later = names([source.kernel_modules], branch, family, flavour, upcoming)[0]
            if later in have or candidate_of(observed, later):
                wanted.append(later)
        if all(name in have for name in wanted):
            return PRECOMPILED, wanted
    for patterns in (source.dkms, source.metapackages):
        wanted = names(patterns, branch, family, flavour)
        if all(name in have for name in wanted):
            return DKMS, wanted
    return None


def available(
    observed: Mapping[str, Any], source: PackageSource, catalog: Catalog, pin: str = ""
) -> List[Option]:
    """Every driver that apt could install now; from the catalog's list of the release while apt has no lists."""
    if not has_lists(observed):
        return _available_by_catalog(observed, source, catalog)
    found: List[Option] = []
    for branch in catalog.branches:
        for family in source.families:
            if not candidate_of(observed, names([source.version_package], branch, family)[0]):
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
    running, upcoming = _kernels(observed)
    release = _get(observed, "host", "os", "version_id")
    nvswitches = _get(observed, "host", "nvswitches") or []
    found = []
    for family in source.families:
        for branch in source.offers.get(str(release), {}).get(family.family, ()):
            for flavour in (OPEN, PROPRIETARY):
                if flavour == OPEN and branch < catalog.open_first:
                    continue
                kernels = [kernel for kernel in (running, upcoming) if kernel]
                wanted = [names([source.kernel_modules], branch, family, flavour, k)[0] for k in kernels]
                wanted += names(source.precompiled, branch, family, flavour)
                if nvswitches:
                    wanted += names([source.nvswitch], branch, family)
                found.append(
                    Option(branch, family, flavour, PRECOMPILED, packages=tuple((n, None) for n in wanted))
                )
    return found


def _common_version(
    observed: Mapping[str, Any], packages: Sequence[str], branch: int, pin: str
) -> Optional[str]:
    """The version that all the packages can be installed at: apt's candidate, or the one that was asked for."""
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
    running, upcoming = _kernels(observed)
    patterns = source.precompiled if install == PRECOMPILED else source.dkms
    userland = names(patterns, branch, family, flavour)
    version = _common_version(observed, userland, branch, pin)
    if not version or not running:
        return None
    modules: List[Tuple[str, Optional[str]]] = []
    notes: List[str] = []
    if install == PRECOMPILED:
        here = names([source.kernel_modules], branch, family, flavour, running)[0]
        if not candidate_of(observed, here):
            return None
        # Precompiled modules follow the archive's newest driver: an older pin cannot be had with them.
        if version != candidate_of(observed, userland[-1]):
            return None
        modules.append((here, candidate_of(observed, here)))
        if upcoming:
            later = names([source.kernel_modules], branch, family, flavour, upcoming)[0]
            if candidate_of(observed, later):
                modules.append((later, candidate_of(observed, later)))
            else:
                notes.append(
                    "the next boot's kernel %s has no precompiled module of branch %d in apt: after a boot into it the node is without a driver"
                    % (upcoming, branch)
                )
    else:
        usable = _get(observed, "host", "kernel", "headers") or []
        for kernel in [kernel for kernel in (running, upcoming) if kernel]:
            headers = source.kernel_headers.format(kernel=kernel)
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
    if _get(observed, "host", "nvswitches"):
        manager = names([source.nvswitch], branch, family)[0]
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


# The choice --------------------------------------------------------------------------------------------------------


def _support_rank(branch: int, catalog: Catalog, today: str) -> int:
    entry = catalog.branches.get(branch)
    if entry is None:
        return 7
    supported = entry.supported_on(today)
    if supported:
        return {"long_term": 0, "production": 1, "new_feature": 2, "developer": 3}[entry.kind]
    if supported is None:
        return 4
    return {"long_term": 5, "production": 6}.get(entry.kind, 7)


def prefer(
    options: Sequence[Option],
    source: PackageSource,
    catalog: Catalog,
    today: str,
    flavour: Optional[str] = None,
) -> Optional[Option]:
    """The best of the suitable options: supported long-term first, then newest; precompiled first; then flavour."""

    def key(option: Option) -> Tuple[Any, ...]:
        wanted = flavour or (OPEN if option.branch >= catalog.open_default else PROPRIETARY)
        return (
            _support_rank(option.branch, catalog, today),
            -option.branch,
            option.install != PRECOMPILED,
            source.families.index(option.family),
            option.flavour != wanted,
        )

    return min(options, key=key) if options else None


def _suitable(options: Iterable[Option], requirements: Iterable[Requirement]) -> List[Option]:
    rules = list(requirements)
    return [option for option in options if all(option.satisfies(rule) for rule in rules)]


def _smallest_contradiction(
    options: Sequence[Option], requirements: Sequence[Requirement]
) -> List[Requirement]:
    """The smallest set of requirements that no option fulfils together."""
    # A requirement that every option fulfils is part of no contradiction.
    relevant = [rule for rule in requirements if not all(option.satisfies(rule) for option in options)]
    for size in range(1, min(len(relevant), _SMALLEST_SET_LIMIT) + 1):
        for chosen in itertools.combinations(relevant, size):
            if not _suitable(options, chosen):
                return list(chosen)
    return relevant


def _theory(catalog: Catalog, source: PackageSource, pin: str) -> List[Option]:
    """Every driver there could be, whatever apt has: contradictions in here are between the requirements themselves."""
    found = []
    numbers = set(catalog.branches)
    pinned = driver_branch(pin) if pin else None
    if pinned is not None:
        numbers.add(pinned)
    for branch in sorted(numbers):
        for flavour in (OPEN, PROPRIETARY):
            if flavour == OPEN and branch < catalog.open_first:
                continue
            for install in (PRECOMPILED, DKMS):
                version = driver_version(pin) if pinned == branch else None
                found.append(
                    Option(branch, source.families[0], flavour, install, version, pin if version else None)
                )
    return found


def _highest_floor(requirements: Sequence[Requirement]) -> Optional[Requirement]:
    best: Optional[Requirement] = None
    for rule in requirements:
        if rule.kind == "floor" and (best is None or compare(rule.value, best.value) > 0):
            best = rule
    return best


def _ways_out(
    rules: Sequence[Requirement],
    options: Sequence[Option],
    requirements: Sequence[Requirement],
    theory: Sequence[Option],
) -> List[str]:
    """What the user could change so that the contradiction goes away; wishes first."""
    found = []
    for rule in rules:
        others = [other for other in requirements if other is not rule]
        possible = _suitable(options, others)
        if rule.variable:
            if rule.rule == "user-minimum":
                if possible:
                    best = max((o.version or str(o.branch) for o in possible), key=Version)
                    found.append("lower %s to %s or less" % (rule.variable, best))
                continue
            neutral = '""' if rule.rule == "user-version" else "auto"
            if possible:
                examples = sorted({o.version or str(o.branch) for o in possible}, key=Version, reverse=True)[
                    :4
                ]
                found.append("leave %s at %s (%s would do)" % (rule.variable, neutral, ", ".join(examples)))
        elif "-" in rule.subject and rule.rule in ("cuda-minor", "cuda-ga", "ptx-jit"):
            found.append("take %s out of gpuready_workloads of this node" % rule.subject.split(" on ")[0])
        elif rule.rule == "secure-boot" and possible:
            found.append(
                "switch Secure Boot off in the firmware, or boot a kernel that has precompiled modules in apt"
            )
        elif rule.rule in ("gpu-last-branch", "gpu-first-branch", "open-required", "open-impossible"):
            found.append("keep %s in a node of its own, without what contradicts it" % rule.subject)
    return list(dict.fromkeys(found))


def _offer_words(options: Sequence[Option]) -> str:
    if not options:
        return "nothing"
    by_version: Dict[str, List[str]] = {}
    for option in sorted(options, key=lambda o: (-o.branch, o.install != PRECOMPILED, o.flavour)):
        by_version.setdefault(option.package_version or str(option.branch), []).append(
            "%s %s" % (option.flavour, option.install)
        )
    return "; ".join(
        "%s (%s)" % (version, ", ".join(dict.fromkeys(kinds))) for version, kinds in by_version.items()
    )


def known_branches(wish: str, catalog: Catalog) -> List[str]:
    """The known branches nearest to a wish, by its looks or by its number."""
    known = [str(number) for number in catalog.branches]
    if wish.isdigit() and len(wish) >= 3:
        by_distance = sorted(known, key=lambda number: abs(int(number) - int(wish)))
        return by_distance[:3]
    return nearest(wish, list(reversed(known)))


def check_wishes(wishes: Mapping[str, Any], catalog: Catalog) -> List[Dict[str, Any]]:
    """Conflicts that need no node: unknown branch, unknown branch of a pin."""
    found = []
    wish = wishes["nvidia_driver_branch"]
    if wish != "auto" and not (wish.isdigit() and int(wish) in catalog.branches):
        near = known_branches(wish, catalog)
        found.append(
            conflict(
                "driver.branch_unknown",
                "host",
                ROLE,
                "nvidia_driver_branch is %r, which is no driver branch that gpuready knows" % wish,
                ["known branches: %s" % ", ".join(map(str, catalog.branches))],
                ['set nvidia_driver_branch: "%s"' % name for name in near]
                + ["set nvidia_driver_branch: auto"],
            )
        )
    pin = wishes["nvidia_driver_version"]
    if pin and driver_branch(pin) is None:
        found.append(
            conflict(
                "driver.version_unknown",
                "host",
                ROLE,
                "nvidia_driver_version is %r, which is no driver version" % pin,
                ["a driver version looks like 580.95.05, a package version like 580.95.05-0ubuntu0.22.04.2"],
                ['set nvidia_driver_version: ""'],
            )
        )
    return found


def resolve(
    observed: Mapping[str, Any],
    workloads: Sequence[Framework],
    wishes: Mapping[str, Any],
    catalog: Catalog,
    *,
    today: str,
    gpus: Sequence[Mapping[str, Any]],
) -> Resolution:
    """Choose the driver for one node."""
    source = catalog.package_sources[wishes["nvidia_driver_source"]]
    requirements = collect(
        gpus,
        workloads,
        wishes,
        catalog,
        secure_boot=_get(observed, "host", "secure_boot"),
        nvswitches=len(_get(observed, "host", "nvswitches") or []),
    )
    floor = _highest_floor(requirements)
    result = Resolution(None, requirements, [], floor.value if floor else None, [], [])
    result.conflicts += check_wishes(wishes, catalog)
    if result.conflicts:
        return result
    pin = wishes["nvidia_driver_version"]
    theory = _theory(catalog, source, pin)
    if not _suitable(theory, requirements):
        result.conflicts.append(_contradiction(theory, requirements))
        return result

    installed = read_installed(observed, source, catalog)
    kept = installed.option
    if (
        kept
        and all(kept.satisfies(rule) for rule in requirements)
        and _signature_fits(observed, requirements)
    ):
        result.option, result.keeps_installed = kept, True
        _explain(result, [kept], source, catalog, today, has_lists(observed), floor)
        return result

    options = available(observed, source, catalog, pin)
    suitable = _suitable(options, requirements)
    if not suitable:
        result.conflicts.append(_not_installable(observed, options, requirements, source, wishes, pin))
        return result
    # A driver that is half there (a new kernel, a lost package) is completed, not replaced.
    same = [o for o in suitable if o.branch == installed.branch and o.family == installed.family]
    chosen = prefer(same or suitable, source, catalog, today, installed.flavour if same else None)
    assert chosen is not None
    explicit = wishes["nvidia_driver_branch"] != "auto" or bool(pin)
    if installed.branch is not None and chosen.branch < installed.branch and not explicit:
        broken = [rule.sentence() for rule in requirements if kept and not kept.satisfies(rule)]
        result.conflicts.append(
            conflict(
                "driver.downgrade",
                "host",
                ROLE,
                "the installed driver %s does not suit, and the only suitable one is older: %s"
                % (installed.version, chosen.words()),
                broken or ["branch %d cannot be completed from apt" % installed.branch],
                ['set nvidia_driver_branch: "%d" to allow the step back' % chosen.branch],
            )
        )
        return result
    result.option = chosen
    result.notes += list(chosen.notes)
    _explain(result, suitable, source, catalog, today, has_lists(observed), floor, options)
    return result


def _signature_fits(observed: Mapping[str, Any], requirements: Sequence[Requirement]) -> bool:
    """Under Secure Boot an installed module must be signed (or loaded already, which proves it)."""
    if not any(rule.kind == "signed" for rule in requirements):
        return True
    return _get(observed, "driver", "on_disk", "signed") is not False or bool(
        _get(observed, "driver", "loaded")
    )


def _contradiction(theory: Sequence[Option], requirements: Sequence[Requirement]) -> Dict[str, Any]:
    rules = _smallest_contradiction(theory, requirements)
    kinds = {rule.rule for rule in rules}
    identifier = "driver.contradiction"
    what = "no driver can fulfil these requirements together: %s" % ", ".join(
        "%s (%s)" % (rule.requirement, rule.subject) for rule in rules
    )
    if "user-version" in kinds and any(rule.kind == "floor" for rule in rules):
        identifier = "driver.version_below_floor"
        pin = next(rule for rule in rules if rule.rule == "user-version")
        floor = next(rule for rule in rules if rule.kind == "floor")
        what = "nvidia_driver_version %s is older than %s, which %s needs" % (
            pin.value,
            floor.value,
            floor.subject,
        )
    elif "user-branch" in kinds and any(rule.kind == "floor" for rule in rules):
        identifier = "driver.branch_below_floor"
        pin = next(rule for rule in rules if rule.rule == "user-branch")
        floor = next(rule for rule in rules if rule.kind == "floor")
        what = "nvidia_driver_branch %s is older than %s, which %s needs" % (
            pin.value,
            floor.value,
            floor.subject,
        )
    return conflict(
        identifier,
        "host",
        ROLE,
        what,
        [rule.sentence() for rule in rules],
        _ways_out(rules, theory, requirements, theory),
    )


def _not_installable(
    observed: Mapping[str, Any],
    options: Sequence[Option],
    requirements: Sequence[Requirement],
    source: PackageSource,
    wishes: Mapping[str, Any],
    pin: str,
) -> Dict[str, Any]:
    listed = has_lists(observed)
    where = "apt" if listed else "Ubuntu %s by the catalog" % _get(observed, "host", "os", "version_id")
    running = _get(observed, "host", "kernel", "running")
    if pin:
        branch = driver_branch(pin)
        offered = [
            version
            for family in source.families
            for version in versions_of(observed, names([source.version_package], branch or 0, family)[0])
        ]
        everything = sorted(
            {
                version
                for name, entry in (_get(observed, "apt", "candidates") or {}).items()
                if re.match(re.escape(source.version_package.split("{")[0]) + r"\d", name) and entry
                for version in versions_of(observed, name)
            },
            key=Version,
            reverse=True,
        )
        if not any(matches(version, pin) for version in offered):
            return conflict(
                "driver.version_missing",
                "host",
                ROLE,
                "nvidia_driver_version is %r, which %s cannot install" % (pin, where),
                ["%s offers: %s" % (where, ", ".join(everything[:12]) or "no driver at all")],
                ['set nvidia_driver_version: "%s"' % driver_version(version) for version in everything[:3]]
                + ["or add the archive that still has it (a snapshot, a mirror of your own)"],
            )
    rules = _smallest_contradiction(options, requirements) if options else []
    because = [rule.sentence() for rule in rules] + ["%s offers: %s" % (where, _offer_words(options))]
    ways = _ways_out(rules, options, requirements, options)
    if not options:
        because.append("no driver of a known branch has packages for kernel %s" % running)
        ways = [
            "enable Ubuntu's component `restricted` (and `multiverse`) in the apt sources, or point them at a mirror that has it",
            "boot a kernel that apt has modules or headers for",
        ]
        return conflict(
            "driver.not_installable",
            "host",
            ROLE,
            "apt has no NVIDIA driver that fits this kernel",
            because,
            ways,
        )
    kinds = {rule.rule for rule in rules}
    if "secure-boot" in kinds:
        return conflict(
            "driver.secure_boot",
            "host",
            ROLE,
            "Secure Boot is on and no suitable driver has signed, precompiled modules for kernel %s"
            % running,
            because,
            ways,
        )
    if kinds == {"user-branch"}:
        return conflict(
            "driver.branch_missing",
            "host",
            ROLE,
            "nvidia_driver_branch is %r, which %s cannot install" % (wishes["nvidia_driver_branch"], where),
            because,
            ways,
        )
    return conflict(
        "driver.not_installable",
        "host",
        ROLE,
        "nothing that %s can install fulfils: %s"
        % (where, ", ".join("%s (%s)" % (r.requirement, r.subject) for r in rules)),
        because,
        ways,
    )


def _bound(
    requirements: Sequence[Requirement],
    suitable_source: Sequence[Option],
    chosen: Option,
    source: PackageSource,
    catalog: Catalog,
    today: str,
    floor: Optional[Requirement],
    kept: bool,
) -> Optional[Requirement]:
    """The requirement that decided: a pin; else a limit without which another branch were better; else the highest floor."""
    for rule in requirements:
        if rule.rule in ("user-version", "user-branch"):
            return rule
    if not kept:
        for rule in requirements:
            if rule.kind == "last_branch":
                without = [other for other in requirements if other.kind != "last_branch"]
                best = prefer(_suitable(suitable_source, without), source, catalog, today)
                if best and best.branch != chosen.branch:
                    return rule
    return floor


def _explain(
    result: Resolution,
    suitable: Sequence[Option],
    source: PackageSource,
    catalog: Catalog,
    today: str,
    listed: bool,
    floor: Optional[Requirement],
    everything: Sequence[Option] = (),
) -> None:
    """Fill in why this option was chosen."""
    chosen = result.option
    assert chosen is not None
    bound = _bound(
        result.requirements,
        everything or suitable,
        chosen,
        source,
        catalog,
        today,
        floor,
        result.keeps_installed,
    )
    result.because = [rule.row(rule is bound) for rule in result.requirements]

    def add(rule: str, requirement: str, subject: str, text: str, cite: str) -> None:
        result.because.append(
            {
                "requirement": requirement,
                "rule": rule,
                "subject": subject,
                "text": text,
                "source": cite,
                "basis": "read",
                "bound": False,
            }
        )

    entry = catalog.branches.get(chosen.branch)
    if result.keeps_installed:
        add(
            "keep-installed",
            "branch %d" % chosen.branch,
            "installed driver",
            "%s is installed and fulfils everything: no needless change" % chosen.version,
            "observed: installed packages",
        )
    elif entry:
        ends = entry.end_of_life
        support = (
            "supported until %s" % ends
            if entry.supported_on(today)
            else "past its end of life"
            if ends
            else "support not known"
        )
        others = sorted({option.branch for option in suitable} - {chosen.branch}, reverse=True)
        text = "%s branch, %s" % (KIND_WORDS[entry.kind], support)
        text += (
            "; also possible: %s" % ", ".join(map(str, others))
            if others
            else "; no other branch fulfils everything"
        )
        add("preference", "branch %d" % chosen.branch, "choice", text, catalog.cite(entry.source))
    if not result.keeps_installed:
        if chosen.install == DKMS:
            text = "no precompiled module for this kernel that fits: built on the node by DKMS, with the kernel's headers"
        elif listed:
            text = "signed by the distribution and made for this very kernel: nothing is compiled on the node"
        else:
            text = "assumed: apt has no lists yet to ask"
        add(
            "install",
            chosen.install,
            "kernel module",
            text,
            "observed: apt's candidates" if listed else "catalog",
        )
    if entry is None:
        result.notes.append(
            "driver branch %d is not in the catalog: its end of life and limits are unknown" % chosen.branch
        )
    elif entry.supported_on(today) is False:
        result.notes.append(
            "driver branch %d is past its end of life%s: it gets no security fixes"
            % (chosen.branch, "" if entry.end_of_life == "past" else " (%s)" % entry.end_of_life)
        )
    elif entry.end_of_life and _months(today, entry.end_of_life) <= 6:
        result.notes.append(
            "driver branch %d nears its end of life (%s)" % (chosen.branch, entry.end_of_life)
        )
    if not listed and not result.keeps_installed:
        result.notes.append(NO_LISTS)


def _months(today: str, end: str) -> int:
    return (int(end[:4]) - int(today[:4])) * 12 + int(end[5:7]) - int(today[5:7])
