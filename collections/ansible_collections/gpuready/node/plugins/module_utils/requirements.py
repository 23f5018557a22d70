# Apache-2.0 (see LICENSE)
"""What the driver must fulfil: the wishes, the workloads, the GPUs and the machine, each with its source."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Dict, Hashable, Iterable, List, Mapping, Optional, Sequence, Tuple

from . import catalog
from .catalog import Architecture, Catalog, Chip, Framework, GpuLimit, product_of
from .gpu_code import capability, how_it_runs
from .versions import compare

ROLE = "nvidia_driver"


OPEN, PROPRIETARY = "open", "proprietary"


PRECOMPILED, METAPACKAGE, DKMS = "precompiled", "metapackage", "dkms"

# The value of the requirement `signed` where the node's firmware trusts the key that DKMS signs with.
ENROLLED = "enrolled"

# More distinct questions than a fleet asks; beyond it the answers are worked out again.
_REMEMBERED = 4096


def dig(data: Any, *path: str) -> Any:
    """What lies under these keys; None where the way ends."""
    for name in path:
        if not isinstance(data, dict):
            return None
        data = data.get(name)
    return data


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
    kind: str  # floor | last_branch | branch | version | flavour | source | signed | fabric | rejected | hold
    value: str
    requirement: str
    subject: str
    text: str
    source: str
    basis: str
    variable: Optional[str] = None
    workload: Optional[str] = None
    # Which GPUs it comes from: (field of a GPU, value); none when it does not come from a GPU.
    gpu: Optional[Tuple[str, str]] = None
    # What a hold keeps: packages and their versions, "" for one that is not installed.
    packages: Tuple[Tuple[str, str], ...] = ()
    # The driver that held packages are of: (source, family, branch, version, flavour or None where they do
    # not tell); only that very driver leaves them alone.
    keeps: Optional[Tuple[Any, ...]] = None

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


class RuleSet:
    """Requirements that many nodes share, and what has been worked out about them."""

    def __init__(self, rules: Iterable[Requirement]) -> None:
        self.rules: Tuple[Requirement, ...] = tuple(rules)
        self.floor = highest_floor(self.rules)
        # What is worked out once: which rules a kind of driver breaks, whether any could fulfil all.
        self.broken: Dict[Hashable, Tuple[int, ...]] = {}
        self.facts: Dict[str, Any] = {}

    def __iter__(self) -> Any:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def without(self, *dropped: Requirement) -> "RuleSet":
        return RuleSet(rule for rule in self.rules if not any(rule is other for other in dropped))

    def having(self, kind: str) -> Optional[Requirement]:
        return next((rule for rule in self.rules if rule.kind == kind), None)


def highest_floor(rules: Iterable[Requirement]) -> Optional[Requirement]:
    best: Optional[Requirement] = None
    for rule in rules:
        if rule.kind == "floor" and (best is None or compare(rule.value, best.value) > 0):
            best = rule
    return best


class Memory:
    """What was worked out from one catalog; it goes when the catalog goes, and no other catalog sees it."""

    _all: ClassVar[Dict[int, Tuple[Any, "Memory"]]] = {}

    def __init__(self) -> None:
        self.tables: Dict[str, Dict[Hashable, Any]] = {}

    @classmethod
    def of(cls, catalog: Catalog) -> "Memory":
        key = id(catalog)
        found = cls._all.get(key)
        # Another catalog may have got a dead one's identity.
        if found is None or found[0]() is not catalog:
            found = (weakref.ref(catalog, lambda _: cls._all.pop(key, None)), cls())
            cls._all[key] = found
        return found[1]

    def recall(self, table: str, key: Hashable, work_out: Callable[[], Any]) -> Any:
        """The answer to a question, worked out at its first asking; it must depend on the key alone."""
        rows = self.tables.get(table)
        if rows is None:
            rows = self.tables[table] = {}
        try:
            return rows[key]
        except KeyError:
            pass
        if len(rows) >= _REMEMBERED:
            rows.clear()
        answer = rows[key] = work_out()
        return answer


def chips_named(known: Catalog, name: str) -> Tuple[Chip, ...]:
    """`catalog.chips_named`, remembered: a diagnosis asks for the same few names again and again."""
    return Memory.of(known).recall("chips named", name, lambda: tuple(catalog.chips_named(name, known)))


def code_for(framework: Framework, compute_capability: str) -> Tuple[str, Optional[str]]:
    """How a framework's wheel runs on a GPU: (native | jit | none | unknown, the architecture used)."""
    return how_it_runs(framework.archs, compute_capability)


def limits_of(framework: Framework, asked: str) -> List[GpuLimit]:
    """The limit that holds for a compute capability: the row with the highest start, or none."""
    holding = [limit for limit in framework.gpu_limits if capability(asked) >= capability(limit.since)]
    return [max(holding, key=lambda limit: capability(limit.since))] if holding else []


def runs_on(framework: Framework, asked: str) -> bool:
    """Does the framework run on a GPU of this compute capability, as far as anybody knows?"""
    none = any(limit.support == "none" for limit in limits_of(framework, asked))
    return not none and code_for(framework, asked)[0] != "none"


def gpu_words(gpu: Mapping[str, Any]) -> str:
    return str(gpu.get("name") or gpu.get("device_id") or "a GPU")


def distinct(gpus: Iterable[Mapping[str, Any]], key: str) -> List[Mapping[str, Any]]:
    seen: Dict[Any, Mapping[str, Any]] = {}
    for gpu in gpus:
        seen.setdefault(gpu.get(key), gpu)
    return list(seen.values())


def gpu_key(gpus: Iterable[Mapping[str, Any]]) -> Tuple[Any, ...]:
    """What the requirements read of GPUs; where they sit does not matter."""
    # In the order of the bus: the first GPU of a kind lends its name to the words.
    rows = [(g.get("device_id"), g.get("name"), g.get("arch"), g.get("compute_capability")) for g in gpus]
    return tuple(dict.fromkeys(rows))


_WISHES = (
    "nvidia_driver_version",
    "nvidia_driver_branch",
    "nvidia_driver_flavour",
    "nvidia_driver_source",
    "nvidia_driver_min_version",
)


@dataclass(frozen=True)
class Machine:
    """What a driver must reckon with besides GPUs, workloads and wishes."""

    secure_boot: Optional[bool] = None
    mok_enrolled: Optional[bool] = None
    nvswitches: int = 0
    #: Versions that failed verification on this node.
    rejected: Tuple[str, ...] = ()


def rule_set(
    gpus: Sequence[Mapping[str, Any]],
    workloads: Sequence[Framework],
    wishes: Mapping[str, Any],
    catalog: Catalog,
    machine: Machine = Machine(),
) -> RuleSet:
    """`collect`, remembered: most nodes of a fleet ask the same."""

    def made() -> RuleSet:
        return RuleSet(collect(gpus, workloads, wishes, catalog, machine))

    if any(catalog.frameworks.get(workload.name) is not workload for workload in workloads):
        return made()  # a name stands for the catalog's workload only
    key = (
        gpu_key(gpus),
        tuple([workload.name for workload in workloads]),
        tuple([str(wishes[name]) for name in _WISHES]),
        machine,
    )
    return Memory.of(catalog).recall("rules", key, made)


class _Collector:
    def __init__(self, catalog: Catalog, wishes: Mapping[str, Any]) -> None:
        self.catalog, self.wishes = catalog, wishes
        self.found: List[Requirement] = []

    def add(
        self,
        rule: str,
        kind: str,
        value: str,
        requirement: str,
        subject: str,
        text: str,
        source: str,
        basis: str,
        **more: Any,
    ) -> None:
        row = Requirement(rule, kind, value, requirement, subject, text, source, basis, **more)
        if row not in self.found:
            self.found.append(row)

    def wish(self, rule: str, kind: str, variable: str, requirement: str, text: str) -> None:
        value = str(self.wishes[variable])
        source = "the inventory's wishes"
        self.add(rule, kind, value, requirement, variable, text, source, "read", variable=variable)


def collect(
    gpus: Sequence[Mapping[str, Any]],
    workloads: Sequence[Framework],
    wishes: Mapping[str, Any],
    catalog: Catalog,
    machine: Machine = Machine(),
) -> List[Requirement]:
    """Everything the driver must fulfil; pure facts, no choice yet."""
    made = _Collector(catalog, wishes)
    _user_requirements(made)
    for workload in workloads:
        _workload_requirements(made, workload, gpus)
    for gpu in distinct(gpus, "arch"):
        architecture = catalog.architectures.get(str(gpu.get("arch")))
        if architecture:
            _gpu_requirements(made, architecture, gpu)
    for gpu in distinct(gpus, "device_id"):
        _product_requirements(made, gpu)
    if wishes["nvidia_driver_min_version"]:
        made.wish(
            "user-minimum",
            "floor",
            "nvidia_driver_min_version",
            ">=" + wishes["nvidia_driver_min_version"],
            "the site's own minimum",
        )
    if machine.secure_boot:
        text = "the kernel refuses modules that no trusted key has signed"
        if machine.mok_enrolled:
            text += "; the key that DKMS signs with is enrolled"
        else:
            text += "; DKMS would build such ones"
        made.add(
            "secure-boot",
            "signed",
            ENROLLED if machine.mok_enrolled else "",
            "signed modules",
            "Secure Boot",
            text,
            "observed: Secure Boot is on",
            "read",
        )
    if machine.nvswitches:
        made.add(
            "nvswitch",
            "fabric",
            "",
            "a fabric manager",
            "%d NVSwitch%s" % (machine.nvswitches, "es" if machine.nvswitches > 1 else ""),
            "without nvidia-fabricmanager of the driver's own version CUDA does not start on these GPUs",
            "observed: NVSwitches on the PCI bus",
            "memory",
        )
    for version in machine.rejected:
        made.add(
            "rejected",
            "rejected",
            version,
            "not " + version,
            "driver %s" % version,
            "it failed verification on this node and was rolled back",
            "observed: gpuready's record on the node",
            "read",
        )
    return made.found


def _user_requirements(made: _Collector) -> None:
    wishes = made.wishes
    if wishes["nvidia_driver_version"]:
        exact = "=" + wishes["nvidia_driver_version"]
        made.wish("user-version", "version", "nvidia_driver_version", exact, "exact version asked for")
    if wishes["nvidia_driver_branch"] != "auto":
        branch = "branch " + wishes["nvidia_driver_branch"]
        made.wish("user-branch", "branch", "nvidia_driver_branch", branch, "branch asked for")
    if wishes["nvidia_driver_flavour"] != "auto":
        flavour = wishes["nvidia_driver_flavour"] + " modules"
        made.wish("user-flavour", "flavour", "nvidia_driver_flavour", flavour, "flavour asked for")
    if wishes["nvidia_driver_source"] != "auto":
        source = "packages of " + wishes["nvidia_driver_source"]
        made.wish("user-source", "source", "nvidia_driver_source", source, "package source asked for")


def _workload_requirements(made: _Collector, workload: Framework, gpus: Sequence[Mapping[str, Any]]) -> None:
    catalog = made.catalog
    own = catalog.toolkit_driver(workload.cuda)
    minor = catalog.minor_version_floor(workload.cuda)
    if minor:
        text = "CUDA %d.x runs on any driver from %s on (minor-version compatibility)" % (
            minor.family,
            minor.min,
        )
        if own:
            text += "; CUDA %s itself came with %s" % (workload.cuda, own.version)
        made.add(
            "cuda-minor",
            "floor",
            minor.min,
            ">=" + minor.min,
            workload.name,
            text,
            catalog.cite(minor.source),
            minor.basis,
            workload=workload.name,
        )
    elif own:
        made.add(
            "cuda-ga",
            "floor",
            own.version,
            ">=" + own.version,
            workload.name,
            "CUDA %s needs the driver it came with" % workload.cuda,
            catalog.cite(own.source),
            own.basis,
            workload=workload.name,
        )
    for gpu in distinct(gpus, "compute_capability"):
        asked = gpu.get("compute_capability")
        if not asked or not own:
            continue
        how, arch = code_for(workload, asked)
        subject = "%s on %s" % (workload.name, gpu.get("arch") or gpu_words(gpu))
        if how == "jit":
            made.add(
                "ptx-jit",
                "floor",
                own.version,
                ">=" + own.version,
                subject,
                "the wheel has no code for compute capability %s: the driver compiles its %s PTX, "
                "so it must know CUDA %s's PTX" % (asked, arch, workload.cuda),
                catalog.cite(workload.archs_source),
                "inference",
                workload=workload.name,
                gpu=("compute_capability", asked),
            )
        elif how == "unknown":
            made.add(
                "cuda-ga",
                "floor",
                own.version,
                ">=" + own.version,
                subject,
                "the wheel's architectures are not known: CUDA %s's own driver can always compile its PTX"
                % workload.cuda,
                catalog.cite(own.source),
                "inference",
                workload=workload.name,
                gpu=("compute_capability", asked),
            )


def _product_requirements(made: _Collector, gpu: Mapping[str, Any]) -> None:
    product = product_of(gpu, made.catalog)
    if not product:
        return
    cite, device = made.catalog.cite(product.source), ("device_id", str(gpu.get("device_id")))
    if product.min_version:
        made.add(
            "gpu-product",
            "floor",
            product.min_version,
            ">=" + product.min_version,
            gpu_words(gpu),
            "the first driver that supports this product",
            cite,
            product.basis,
            gpu=device,
        )
    if product.open_modules == "required":
        made.add(
            "open-required",
            "flavour",
            OPEN,
            "open modules",
            gpu_words(gpu),
            "this product works with the open kernel modules only",
            cite,
            product.basis,
            gpu=device,
        )


def _gpu_requirements(made: _Collector, arch: Architecture, gpu: Mapping[str, Any]) -> None:
    subject, cite = "%s (%s)" % (gpu_words(gpu), arch.arch), made.catalog.cite(arch.source)
    which = ("arch", arch.arch)
    if arch.first_branch is not None:
        made.add(
            "gpu-first-branch",
            "floor",
            str(arch.first_branch),
            ">=%d" % arch.first_branch,
            subject,
            "the first branch that supports this GPU",
            cite,
            arch.basis,
            gpu=which,
        )
    if arch.last_branch is not None:
        made.add(
            "gpu-last-branch",
            "last_branch",
            str(arch.last_branch),
            "<=%d" % arch.last_branch,
            subject,
            "the last branch that supports this GPU",
            cite,
            arch.basis,
            gpu=which,
        )
    if arch.open_modules == "required":
        made.add(
            "open-required",
            "flavour",
            OPEN,
            "open modules",
            subject,
            "this GPU works with the open kernel modules only",
            cite,
            arch.basis,
            gpu=which,
        )
    elif arch.open_modules == "impossible":
        made.add(
            "open-impossible",
            "flavour",
            PROPRIETARY,
            "proprietary modules",
            subject,
            "the open kernel modules begin with Turing",
            cite,
            arch.basis,
            gpu=which,
        )
