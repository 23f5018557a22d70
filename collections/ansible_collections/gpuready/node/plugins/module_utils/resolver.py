# Apache-2.0 (see LICENSE)
"""The suitable driver: of all that can be had, the best that fulfils everything, and why.

Pure functions of the observation, the wishes and the catalog.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .catalog import Catalog, Framework, PackageSource
from .driver_conflicts import check_wishes, contradictions, not_installable
from .driver_options import Installed, Option, available, has_lists, read_installed, source_of, suitable
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
from .versions import compare

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
    installed: Optional[Installed] = None
    explicit: bool = False  # a branch, version, flavour or source was asked for: that is consent to a change


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


def _highest_floor(requirements: Sequence[Requirement]) -> Optional[Requirement]:
    best: Optional[Requirement] = None
    for rule in requirements:
        if rule.kind == "floor" and (best is None or compare(rule.value, best.value) > 0):
            best = rule
    return best


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
    source = source_of(observed, wishes, catalog)
    assert source is not None, "the planner has refused what no source covers"
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
    result.conflicts += contradictions(requirements, source, catalog, pin)
    if result.conflicts:
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
    fitting = suitable(options, requirements)
    if not fitting:
        result.conflicts += not_installable(observed, options, requirements, source, catalog, pin)
        return result
    # A driver that is half there (a new kernel, a lost package) is completed, not replaced.
    same = [o for o in fitting if o.branch == installed.branch and o.family == installed.family]
    chosen = prefer(same or fitting, source, catalog, today, installed.flavour if same else None)
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
    _explain(result, fitting, source, catalog, today, has_lists(observed), floor, options)
    return result


def _signature_fits(observed: Mapping[str, Any], requirements: Sequence[Requirement]) -> bool:
    """Under Secure Boot an installed module must be signed (or loaded already, which proves it)."""
    if not any(rule.kind == "signed" for rule in requirements):
        return True
    return dig(observed, "driver", "on_disk", "signed") is not False or bool(
        dig(observed, "driver", "loaded")
    )


def _bound(
    requirements: Sequence[Requirement],
    everything: Sequence[Option],
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
            if rule.kind in ("last_branch", "flavour", "signed", "fabric"):
                # Several GPUs may set the same limit: it is gone only when all of them are.
                without = [o for o in requirements if (o.kind, o.value) != (rule.kind, rule.value)]
                best = prefer(suitable(everything, without), source, catalog, today)
                if best and best.branch != chosen.branch:
                    return rule
    return floor or next(iter(requirements), None)


def _explain(
    result: Resolution,
    fitting: Sequence[Option],
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
        everything or fitting,
        chosen,
        source,
        catalog,
        today,
        floor,
        result.keeps_installed,
    )
    result.because = [rule.row(rule is bound) for rule in result.requirements]

    def add(rule: str, requirement: str, subject: str, text: str, cite: str, basis: str = "read") -> None:
        result.because.append(
            {
                "requirement": requirement,
                "rule": rule,
                "subject": subject,
                "text": text,
                "source": cite,
                "basis": basis,
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
        others = sorted({option.branch for option in fitting} - {chosen.branch}, reverse=True)
        text = "%s branch, %s" % (KIND_WORDS[entry.kind], support)
        text += (
            "; also possible: %s" % ", ".join(map(str, others))
            if others
            else "; no other branch fulfils everything"
        )
        add(
            "preference", "branch %d" % chosen.branch, "choice", text, catalog.cite(entry.source), entry.basis
        )
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
