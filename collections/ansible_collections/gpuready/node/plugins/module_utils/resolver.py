# Apache-2.0 (see LICENSE)
"""The suitable driver: of all that can be had, the best that fulfils everything, and why.

Pure functions of the observation, the wishes and the catalog.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .catalog import Catalog, Framework, PackageSource
from .driver_options import Option, available, has_lists, read_installed, versions_of
from .requirements import (
    DKMS,
    OPEN,
    PRECOMPILED,
    PROPRIETARY,
    ROLE,
    Requirement,
    collect,
    conflict,
    dig,
)
from .versions import Version, compare, driver_branch, driver_version, matches
from .wishes import nearest

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
    """The best of the suitable options: supported long-term first, then newest; precompiled first."""

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


def _highest_floor(requirements: Sequence[Requirement]) -> Optional[Requirement]:
    best: Optional[Requirement] = None
    for rule in requirements:
        if rule.kind == "floor" and (best is None or compare(rule.value, best.value) > 0):
            best = rule
    return best


def _ways_out(
    rules: Sequence[Requirement], options: Sequence[Option], requirements: Sequence[Requirement]
) -> List[str]:
    """What could be changed so that the contradiction goes away; wishes first."""
    found = []
    for rule in rules:
        possible = _suitable(options, [other for other in requirements if other is not rule])
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
        secure_boot=dig(observed, "host", "secure_boot"),
        nvswitches=len(dig(observed, "host", "nvswitches") or []),
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
        result.conflicts.append(_not_installable(observed, options, requirements, source, catalog, wishes))
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
    return dig(observed, "driver", "on_disk", "signed") is not False or bool(
        dig(observed, "driver", "loaded")
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
        _ways_out(rules, theory, requirements),
    )


def _not_installable(
    observed: Mapping[str, Any],
    options: Sequence[Option],
    requirements: Sequence[Requirement],
    source: PackageSource,
    catalog: Catalog,
    wishes: Mapping[str, Any],
) -> Dict[str, Any]:
    """What is required could exist, but not from this node's archive."""
    listed = has_lists(observed)
    where = "apt" if listed else "Ubuntu %s by the catalog" % dig(observed, "host", "os", "version_id")
    kernel = dig(observed, "host", "kernel", "running")
    missing = _pin_missing(observed, requirements, source, catalog, where, wishes["nvidia_driver_version"])
    if missing:
        return missing
    if not options:
        return conflict(
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
    rules = _smallest_contradiction(options, requirements)
    kinds = {rule.rule for rule in rules}
    because = [rule.sentence() for rule in rules] + ["%s offers: %s" % (where, _offer_words(options))]
    ways = _ways_out(rules, options, requirements)
    wanted = ", ".join("%s (%s)" % (rule.requirement, rule.subject) for rule in rules)
    if not ways:
        # Nobody's wish alone stands in the way: what is left needs other packages.
        others = [rule.sentence() for rule in requirements if rule not in rules and rule.kind != "floor"]
        because += ["also required: %s" % sentence for sentence in others]
        ways = ["add an archive (a mirror of your own) that has what fulfils: %s" % wanted]
    if "secure-boot" in kinds:
        what = (
            "Secure Boot is on and no suitable driver has signed, precompiled modules for kernel %s" % kernel
        )
        return conflict("driver.secure_boot", "host", ROLE, what, because, ways)
    if kinds == {"user-branch"}:
        what = "nvidia_driver_branch is %r, which %s cannot install" % (wishes["nvidia_driver_branch"], where)
        return conflict("driver.branch_missing", "host", ROLE, what, because, ways)
    what = "nothing that %s can install fulfils: %s" % (where, wanted)
    return conflict("driver.not_installable", "host", ROLE, what, because, ways)


def _pin_missing(
    observed: Mapping[str, Any],
    requirements: Sequence[Requirement],
    source: PackageSource,
    catalog: Catalog,
    where: str,
    pin: str,
) -> Optional[Dict[str, Any]]:
    """The conflict of an exact version that apt does not have; None when there is no pin, or apt has it."""
    prefix = source.version_package.partition("{")[0]
    everything = {
        version
        for name in dig(observed, "apt", "candidates") or {}
        if re.match(re.escape(prefix) + r"\d", name)
        for version in versions_of(observed, name)
    }
    if not pin or any(matches(version, pin) for version in everything):
        return None
    others = [rule for rule in requirements if rule.rule != "user-version"]
    suitable = _suitable(available(observed, source, catalog), others)
    better = sorted(
        {option.version or "" for option in suitable if option.version}, key=Version, reverse=True
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
    """What decided: a pin, else a limit that ruled a better branch out, else the highest floor."""
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
            text = "apt has no precompiled module that fits this kernel: DKMS builds it on the node"
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
