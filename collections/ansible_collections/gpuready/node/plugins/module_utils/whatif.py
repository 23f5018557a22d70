# Apache-2.0 (see LICENSE)
"""Which driver would suit a node that nobody has: GPUs, a release and workloads, by the catalog alone.

Controller only: `gpuready resolve` and the matrix ask here.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from . import driver_offers, driver_options, requirements, resolver
from .catalog import Catalog, annotate, find_gpu
from .driver_options import Option
from .planner import plan as make_plan
from .resolver import NO_LISTS
from .wishes import nearest

# PCI ids of an NVSwitch and of the bus that imagined devices sit on.
_NVSWITCH = "22a3"
# What a node's plan says that a question about the driver did not ask for.
_OTHER_NOTES = ("the size of ", "not observed", "no room is known")
_RELATED = ("driver.", "framework.gpu_unsupported", "framework.workload_unknown", "host.")


class Unknown(ValueError):
    """A name in the question that means nothing here; one line with the nearest names that do."""


def covered(catalog: Catalog, source: str = "") -> List[str]:
    """The releases that drivers are known for, as they are written in a question: ubuntu-24.04."""
    rows = [row for row in catalog.package_sources if not source or row.name == source]
    found = ["%s-%s" % (row.os, release) for row in rows for release in row.releases]
    return list(dict.fromkeys(found))


def parse_os(text: str, catalog: Catalog, source: str = "auto") -> Tuple[str, str]:
    """`ubuntu-24.04` → (ubuntu, 24.04), of those that the source covers."""
    match = re.match(r"^([a-z]+)[-_: ]?v?([\d.]+)$", text.strip().lower())
    wanted = "%s-%s" % match.groups() if match else text.strip().lower()
    known = covered(catalog)
    if not match or wanted not in known:
        if match and any(name.startswith(match.group(1) + "-") for name in known):
            known = [name for name in known if name.startswith(match.group(1) + "-")]
        near = nearest(wanted, known, len(known))
        raise Unknown("--os %s: no release that gpuready knows (nearest: %s)" % (text, ", ".join(near)))
    os_id, release = match.group(1), match.group(2)
    names = sorted({row.name for row in catalog.package_sources})
    if source != "auto" and source not in names:
        near = nearest(source, names, 1)
        raise Unknown(
            "--source %s: no source of drivers (nearest: %s; there are %s, and auto)"
            % (source, near[0], ", ".join(names))
        )
    if catalog.package_source(source, os_id, release) is None:
        raise Unknown(
            "--source %s: has no drivers for %s (it covers %s)"
            % (source, wanted, ", ".join(covered(catalog, source)))
        )
    return os_id, release


def parse_gpus(texts: Sequence[str], catalog: Catalog) -> List[Dict[str, Any]]:
    """`["A100:2,T4"]` → GPUs as an observation has them, each with an address of its own."""
    found: List[Dict[str, Any]] = []
    for text in (part.strip() for item in texts for part in item.split(",")):
        if not text:
            continue
        name, colon, number = text.rpartition(":")
        if not colon:
            name, number = text, "1"
        if not number.isdigit() or not 1 <= int(number) <= 16:
            raise Unknown("--gpu %s: write it as NAME or NAME:COUNT, a count of 1 to 16" % text)
        fitting = find_gpu(name, catalog)
        if not fitting:
            near = ", ".join(nearest_gpus(name, catalog))
            raise Unknown(
                "--gpu %s: no GPU of that name in pci.ids (nearest: %s; a PCI id such as 20b5 will do)"
                % (name, near)
            )
        for _ in range(int(number)):
            found.append(dict(fitting[0], pci="0000:%02x:00.0" % (len(found) + 1)))
    if not found:
        raise Unknown("--gpu: names no GPU; write it as A100, or A100:2,T4")
    return found


def nearest_gpus(text: str, catalog: Catalog) -> List[str]:
    """The products of pci.ids whose names look most like this."""
    products: Set[str] = set()
    for name in catalog.pci_ids.values():
        if catalog.chip_of(name):
            for part in re.findall(r"\[(?:Tesla |GeForce |NVIDIA )?([^\]]+?)\]", name):
                products.update(word.strip() for word in part.split(" / "))
    by_look = {product.upper(): product for product in sorted(products, reverse=True)}
    return [by_look[name] for name in nearest(text.upper(), sorted(by_look, key=lambda n: (len(n), n)))]


def parse_workloads(texts: Sequence[str], catalog: Catalog) -> List[str]:
    """Names of workloads, each known; aliases become the workload's own name."""
    found: List[str] = []
    for name in (part.strip() for item in texts for part in item.split(",")):
        if not name:
            continue
        framework = catalog.framework(name)
        if framework is None:
            near = ", ".join(nearest(name, catalog.workload_names()))
            raise Unknown(
                "--workloads %s: not known (nearest: %s; all of them: gpuready catalog list)" % (name, near)
            )
        if framework.name not in found:
            found.append(framework.name)
    return found


def imagine(
    gpus: Sequence[Mapping[str, Any]],
    system: Tuple[str, str],
    catalog: Catalog,
    *,
    secure_boot: Optional[bool] = False,
    nvswitches: int = 0,
    kernel: Optional[str] = None,
) -> Dict[str, Any]:
    """An observation of a node that does not exist: no word from apt, nothing installed."""
    switch = {"vendor_id": "10de", "device_id": _NVSWITCH}
    stack: Dict[str, Any] = {
        "schema": 1,
        "host": {
            "os": {"id": system[0], "version_id": system[1], "pretty_name": None, "arch": "amd64"},
            "kernel": {"running": kernel, "next_boot": kernel, "headers": []},
            "secure_boot": secure_boot,
            "gpus": [dict(gpu) for gpu in gpus],
            "nvswitches": [dict(switch, pci="0000:%02x:00.0" % (0x80 + n)) for n in range(nvswitches)],
        },
        "apt": {"candidates": None},
    }
    return annotate(stack, catalog)


def answer(
    stack: Mapping[str, Any], names: Sequence[str], wishes: Mapping[str, Any], catalog: Catalog, today: str
) -> Dict[str, Any]:
    """The driver for an imagined node, why, what else was looked at, and what stands against it."""
    wished = dict(wishes, gpuready_workloads=list(names))
    plan = make_plan(stack, wished, catalog, host="what-if", today=today)
    conflicts = [row for row in plan["conflicts"] if row["id"].startswith(_RELATED)]
    system = stack["host"]["os"]
    result: Dict[str, Any] = {
        "gpus": plan["gpus"],
        "os_name": "%s-%s" % (system["id"], system["version_id"]),
        "secure_boot": stack["host"]["secure_boot"],
        "nvswitches": len(stack["host"]["nvswitches"]),
        "kernel": stack["host"]["kernel"]["running"],
        "workloads": list(names),
        "driver": plan["driver"],
        "chain": _chain(stack, wished, catalog, today) if plan["driver"] else None,
        "rejected": rejected(stack, wished, plan["driver"], catalog, today),
        "conflicts": conflicts,
        "notes": [note for note in plan["notes"] if note != NO_LISTS and not _elsewhere(note)],
    }
    return result


def _chain(
    stack: Mapping[str, Any], wishes: Mapping[str, Any], catalog: Catalog, today: str
) -> Optional[str]:
    """The reasons in one line."""
    workloads = [framework for name in wishes["gpuready_workloads"] if (framework := catalog.framework(name))]
    gpus = stack["host"]["gpus"]
    return resolver.resolve(stack, workloads, wishes, catalog, today=today, gpus=gpus).chain


def _elsewhere(note: str) -> bool:
    return note.startswith(_OTHER_NOTES) or "has no image of its own" in note


def rejected(
    stack: Mapping[str, Any],
    wishes: Mapping[str, Any],
    driver: Optional[Mapping[str, Any]],
    catalog: Catalog,
    today: str,
) -> List[Dict[str, Any]]:
    """What would be preferred to the chosen driver (without one: all there is), and what it fails at."""
    source = driver_options.source_of(stack, wishes, catalog)
    if source is None:
        return []
    gpus = stack["host"]["gpus"]
    workloads = [framework for name in wishes["gpuready_workloads"] if (framework := catalog.framework(name))]
    rules = requirements.collect(
        gpus,
        workloads,
        wishes,
        catalog,
        requirements.Machine(
            secure_boot=stack["host"]["secure_boot"], nvswitches=len(stack["host"]["nvswitches"])
        ),
    )
    options = list(driver_offers.available(stack, source, catalog, wishes["nvidia_driver_version"]))
    if driver is None and any(all(option.satisfies(rule) for rule in rules) for option in options):
        return []  # what stands against it is no matter of the driver
    rows: Dict[int, Dict[str, Any]] = {}
    while options:
        best = resolver.prefer(options, source, catalog, today)
        if best is None or (driver and _is(best, driver)):
            break
        failed: Dict[Tuple[str, str], requirements.Requirement] = {}
        for rule in rules:
            if not best.satisfies(rule):
                failed.setdefault((rule.kind, rule.value), rule)
        # Of a branch that one is shown that comes nearest.
        if failed and (best.branch not in rows or len(failed) < len(rows[best.branch]["fails"])):
            rows[best.branch] = {
                "branch": str(best.branch),
                "flavour": best.flavour,
                "install": best.install,
                "source": source.name,
                "fails": [rule.row(False) for rule in failed.values()],
            }
        options = [option for option in options if _key(option) != _key(best)]
    return list(rows.values())


def _key(option: Option) -> Tuple[Any, ...]:
    return option.branch, option.family.family, option.flavour, option.install


def _is(option: Option, driver: Mapping[str, Any]) -> bool:
    return (str(option.branch), option.flavour, option.install) == (
        driver["branch"],
        driver["flavour"],
        driver["install"],
    )
