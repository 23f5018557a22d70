# Apache-2.0 (see LICENSE)
"""No driver suits: the smallest sets of requirements that contradict each other, and the ways out."""

from __future__ import annotations

import itertools
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .catalog import Catalog, PackageSource
from .driver_options import Option, available, has_lists, suitable, versions_of
from .requirements import DKMS, OPEN, PRECOMPILED, PROPRIETARY, ROLE, Requirement, conflict, dig
from .versions import Version, driver_branch, driver_version, matches
from .wishes import nearest

# Requirements beyond this many are never contradictory all at once without a smaller set being so.
_SMALLEST_SET_LIMIT = 4


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


def known_branches(wish: str, catalog: Catalog) -> List[str]:
    """The known branches nearest to a wish, by its looks or by its number."""
    known = [str(number) for number in catalog.branches]
    if wish.isdigit() and len(wish) >= 3:
        by_distance = sorted(known, key=lambda number: abs(int(number) - int(wish)))
        return by_distance[:3]
    return nearest(wish, list(reversed(known)))


def _smallest_contradiction(
    options: Sequence[Option], requirements: Sequence[Requirement]
) -> List[Requirement]:
    """The smallest set of requirements that no option fulfils together."""
    # A requirement that every option fulfils is part of no contradiction.
    relevant = [rule for rule in requirements if not all(option.satisfies(rule) for option in options)]
    for size in range(1, min(len(relevant), _SMALLEST_SET_LIMIT) + 1):
        for chosen in itertools.combinations(relevant, size):
            if not suitable(options, chosen):
                return list(chosen)
    return relevant


def _contradictions(
    options: Sequence[Option], requirements: Sequence[Requirement]
) -> List[Tuple[List[Requirement], List[Requirement]]]:
    """All independent contradictions, the smallest first, each with the requirements it stands among."""
    remaining = list(requirements)
    groups = []
    while not suitable(options, remaining):
        group = _smallest_contradiction(options, remaining)
        groups.append(group)
        remaining = [rule for rule in remaining if rule not in group]
    return [
        (group, [rule for rule in requirements if rule in group or rule in remaining]) for group in groups
    ]


def _theory(catalog: Catalog, source: PackageSource, pin: str) -> List[Option]:
    """Every driver there could be, whatever apt has: contradictions in here are the requirements' own."""
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


def _ways_out(
    rules: Sequence[Requirement], options: Sequence[Option], requirements: Sequence[Requirement]
) -> List[str]:
    """What could be changed so that the contradiction goes away; wishes first."""
    found = []
    for rule in rules:
        possible = suitable(options, [other for other in requirements if other is not rule])
        examples = sorted({o.version or str(o.branch) for o in possible}, key=Version, reverse=True)[:4]
        if rule.rule == "user-minimum":
            if examples:
                found.append("lower %s to %s or less" % (rule.variable, examples[0]))
        elif rule.variable:
            neutral = '""' if rule.rule == "user-version" else "auto"
            if examples:
                found.append("leave %s at %s (%s would do)" % (rule.variable, neutral, ", ".join(examples)))
        elif rule.rule in ("cuda-minor", "cuda-ga", "ptx-jit"):
            found.append("take %s out of gpuready_workloads of this node" % rule.subject.split(" on ")[0])
        elif rule.rule == "secure-boot":
            found.append("boot a kernel that has precompiled modules in apt")
            if examples:
                found.append("switch Secure Boot off in the firmware")
        elif rule.rule == "nvswitch":
            found.append("use an archive that has nvidia-fabricmanager at the driver's own version")
        else:
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


def _contradiction(
    theory: Sequence[Option], rules: Sequence[Requirement], among: Sequence[Requirement]
) -> Dict[str, Any]:
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
        _ways_out(rules, theory, among),
    )


def not_installable(
    observed: Mapping[str, Any],
    options: Sequence[Option],
    requirements: Sequence[Requirement],
    source: PackageSource,
    catalog: Catalog,
    pin: str,
) -> List[Dict[str, Any]]:
    """What is required could exist, but not from this node's archive."""
    listed = has_lists(observed)
    where = "apt" if listed else "Ubuntu %s by the catalog" % dig(observed, "host", "os", "version_id")
    kernel = dig(observed, "host", "kernel", "running")
    missing = _pin_missing(observed, requirements, source, catalog, where, pin)
    if missing:
        return [missing]
    if not options:
        row = conflict(
            "driver.not_installable",
            "host",
            ROLE,
            "%s has no NVIDIA driver that fits this node's kernel" % where,
            ["no known branch has a precompiled module, or packages and headers, for kernel %s" % kernel],
            [
                "enable Ubuntu's component restricted in the apt sources, or use a mirror that has it",
                "boot a kernel that apt has modules or headers for",
            ],
        )
        return [row]
    found = []
    for rules, among in _contradictions(options, requirements):
        kinds = {rule.rule for rule in rules}
        wanted = ", ".join("%s (%s)" % (rule.requirement, rule.subject) for rule in rules)
        identifier, what = (
            "driver.not_installable",
            "nothing that %s can install fulfils: %s" % (where, wanted),
        )
        if "secure-boot" in kinds:
            identifier = "driver.secure_boot"
            what = (
                "Secure Boot is on and no suitable driver has precompiled, signed modules for kernel %s"
                % kernel
            )
        elif kinds == {"user-branch"}:
            identifier = "driver.branch_missing"
            what = "nvidia_driver_branch is %r, which %s cannot install" % (rules[0].value, where)
        because = [rule.sentence() for rule in rules] + ["%s offers: %s" % (where, _offer_words(options))]
        ways = _ways_out(rules, options, among)
        ways.append("add an archive (a mirror of your own) that has what fulfils: %s" % wanted)
        found.append(conflict(identifier, "host", ROLE, what, because, ways))
    return found


def contradictions(
    requirements: Sequence[Requirement], source: PackageSource, catalog: Catalog, pin: str
) -> List[Dict[str, Any]]:
    """Requirements that no driver could ever fulfil together, whatever apt has; empty when one could."""
    theory = _theory(catalog, source, pin)
    return [_contradiction(theory, rules, among) for rules, among in _contradictions(theory, requirements)]


def _pin_missing(
    observed: Mapping[str, Any],
    requirements: Sequence[Requirement],
    source: PackageSource,
    catalog: Catalog,
    where: str,
    pin: str,
) -> Optional[Dict[str, Any]]:
    """The conflict of an exact version that apt does not have; None when there is no pin, or apt has it."""
    prefix = source.families[0].version_package.partition("{")[0]
    everything = {
        version
        for name in dig(observed, "apt", "candidates") or {}
        if re.match(re.escape(prefix) + r"\d", name)
        for version in versions_of(observed, name)
    }
    if not pin or any(matches(version, pin) for version in everything):
        return None
    others = [rule for rule in requirements if rule.rule != "user-version"]
    possible = suitable(available(observed, source, catalog), others)
    better = sorted(
        {option.version or "" for option in possible if option.version}, key=Version, reverse=True
    )
    offered = sorted(everything, key=Version, reverse=True)
    return conflict(
        "driver.version_missing",
        "host",
        ROLE,
        "nvidia_driver_version is %r, which %s cannot install" % (pin, where),
        ["%s offers: %s" % (where, ", ".join(offered[:12]) or "no driver at all")],
        ['set nvidia_driver_version: "%s"' % version for version in better[:3]]
        + ["add the archive that still has it (a snapshot, a mirror of your own)"],
    )
