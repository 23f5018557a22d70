# Apache-2.0 (see LICENSE)
"""What the driver must fulfil: the wishes, the workloads, the GPUs and the machine, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .catalog import Architecture, Catalog, Framework, product_of

ROLE = "nvidia_driver"


OPEN, PROPRIETARY = "open", "proprietary"


PRECOMPILED, DKMS = "precompiled", "dkms"


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


def _sm(name: str) -> Tuple[int, int]:
    digits = name.rpartition("_")[2]
    return int(digits[:-1]), int(digits[-1])


def capability(text: str) -> Tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def code_for(framework: Framework, compute_capability: str) -> Tuple[str, Optional[str]]:
    """How a framework's wheel runs on a GPU: (native | jit | none | unknown, the architecture used)."""
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


def gpu_words(gpu: Mapping[str, Any]) -> str:
    return str(gpu.get("name") or gpu.get("device_id") or "a GPU")


def distinct(gpus: Iterable[Mapping[str, Any]], key: str) -> List[Mapping[str, Any]]:
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
        for gpu in distinct(gpus, "compute_capability"):
            asked = gpu.get("compute_capability")
            if not asked or not own:
                continue
            how, arch = code_for(workload, asked)
            subject = "%s on %s" % (workload.name, gpu.get("arch") or gpu_words(gpu))
            if how == "jit":
                add(
                    "ptx-jit",
                    "floor",
                    own.version,
                    ">=" + own.version,
                    subject,
                    "the wheel has no code for compute capability %s: the driver compiles its %s PTX, "
                    "so it must know CUDA %s's PTX" % (asked, arch, workload.cuda),
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

    for gpu in distinct(gpus, "arch"):
        architecture = catalog.architectures.get(str(gpu.get("arch")))
        if architecture:
            _gpu_requirements(architecture, gpu, catalog, add)
    for gpu in distinct(gpus, "device_id"):
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
                gpu_words(gpu),
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
                gpu_words(gpu),
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
    subject, cite = "%s (%s)" % (gpu_words(gpu), arch.arch), catalog.cite(arch.source)
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
