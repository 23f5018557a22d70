# Apache-2.0 (see LICENSE)
"""The suitable driver: of all that can be had, the best that fulfils everything, and why.

Pure functions of the observation, the wishes and the catalog.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import total_ordering
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .catalog import Catalog, Framework, PackageSource
from .driver_conflicts import (
    Question,
    check_wishes,
    contradictions,
    downgrade,
    hold_rule,
    not_installable,
    unsupported,
)
from .driver_installed import installed_on
from .driver_offers import Offer, finished, offer_of
from .driver_options import Installed, Node, Option, broken_rules, suitable
from .requirements import (
    DKMS,
    METAPACKAGE,
    OPEN,
    PRECOMPILED,
    PROPRIETARY,
    Machine,
    Requirement,
    RuleSet,
    conflict,
    dig,
    rule_set,
)
from .versions import compare, matches

NO_LISTS = (
    "apt has no package lists on this node: the driver was chosen by the catalog "
    "and is confirmed when the lists are there"
)
NO_SOURCE = (
    "apt does not know the drivers of the source %s yet: the driver was chosen by the catalog "
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
    listed: bool = True  # by apt; False: by the catalog, because apt does not know the source yet
    rules: RuleSet = field(default_factory=lambda: RuleSet(()))

    @property
    def chain(self) -> str:
        """The reasons in one line, the one that decided marked."""
        return chain(self.option.name(), self.because) if self.option else ""


def chain(name: str, because: Sequence[Mapping[str, Any]]) -> str:
    """`580-server-open: A100 needs >=450; tensorflow-2.9 on ampere needs >=460.27.03 <- this bound`."""
    parts = []
    for row in because:
        if row["rule"] in ("preference", "install", "keep-installed"):
            continue
        cuda = re.search(r"CUDA ([\d.]+)'s PTX", row["text"])
        words = {**row, "cuda": " from CUDA " + cuda.group(1) if cuda else ""}
        said = {
            "user-version": "%(subject)s asks for %(requirement)s",
            "user-branch": "%(subject)s asks for %(requirement)s",
            "user-flavour": "%(subject)s asks for %(requirement)s",
            "user-source": "%(subject)s asks for %(requirement)s",
            "user-minimum": "%(subject)s asks for %(requirement)s",
            "rejected": "%(subject)s failed verification here",
            "ptx-jit": "%(subject)s needs %(requirement)s (PTX%(cuda)s)",
            "cuda-minor": "%(subject)s needs %(requirement)s (minor-version compatibility)",
        }.get(row["rule"], "%(subject)s needs %(requirement)s") % words
        parts.append(said + (" \u2190 this bound" if row["bound"] else ""))
    return "%s: %s" % (name, "; ".join(parts) or "nothing is demanded")


_KIND_RANKS = {"long_term": 0, "production": 1, "new_feature": 2, "developer": 3}
_NOT_KNOWN, _PAST = 4, 5


def _support_ranks(branch: int, catalog: Catalog, today: str) -> Tuple[int, int]:
    """(how well a branch is supported, its kind); the lower the better."""
    entry = catalog.branches.get(branch)
    if entry is None:
        return _PAST + 1, 0
    kind, supported = _KIND_RANKS[entry.kind], entry.supported_on(today)
    return (kind if supported else _NOT_KNOWN if supported is None else _PAST), min(kind, 2)


# The ladder of ways: the module of the running kernel, ready-made before built; then the next boot's kernel.
_LADDER = {
    (PRECOMPILED, False): 0,
    (METAPACKAGE, False): 1,
    (METAPACKAGE, True): 1,
    (DKMS, False): 2,
    (PRECOMPILED, True): 3,
    (DKMS, True): 4,
}


@total_ordering
class _Newest:
    """Versions in a sort key, the newest first."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Newest) and compare(self.text, other.text) == 0

    def __lt__(self, other: "_Newest") -> bool:
        return compare(self.text, other.text) > 0

    __hash__ = None  # type: ignore[assignment]


@dataclass
class Preference:
    """Which of several suitable drivers is the better one."""

    catalog: Catalog
    today: str
    flavour: Optional[str] = None  # the one to stay with
    version: Optional[str] = None  # the package version to stay with
    reboot_allowed: bool = True
    ranks: Dict[int, Tuple[int, int]] = field(default_factory=dict)

    def key(self, option: Option) -> Tuple[Any, ...]:
        branch = option.branch
        ranks = self.ranks.get(branch)
        if ranks is None:
            ranks = self.ranks[branch] = _support_ranks(branch, self.catalog, self.today)
        rank, kind = ranks
        wanted = self.flavour or (OPEN if branch >= self.catalog.open_default else PROPRIETARY)
        families = option.source.families if option.source else ()
        place = next((i for i, family in enumerate(families) if family is option.family), 0)
        # Past its end no branch is NVIDIA's any more: what the distribution itself prefers goes first.
        past = (place, kind) if rank == _PAST else ()
        return (
            rank,
            past,
            -branch,
            option.reboot and not self.reboot_allowed,
            # A driver that the next boot loses is the last choice within its branch.
            option.without_next_boot is not None,
            _LADDER[option.install, option.reboot],
            place,
            option.flavour != wanted,
            option.package_version != self.version if self.version else False,
            option.exact,
            _Newest(option.package_version or "0"),
            option.family.family,
            option.flavour,
        )

    def best(self, options: Sequence[Option]) -> Optional[Option]:
        if len(options) < 2:
            return options[0] if options else None
        return min(options, key=self.key)


def prefer(
    options: Sequence[Option],
    source: Optional[PackageSource],
    catalog: Catalog,
    today: str,
    flavour: Optional[str] = None,
) -> Optional[Option]:
    """The best of the suitable options: supported long-term first, then newest; precompiled first."""
    return Preference(catalog, today, flavour).best(options)


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
    node = Node(observed, catalog)
    pin = wishes["nvidia_driver_version"]
    rules = rule_set(
        gpus,
        workloads,
        wishes,
        catalog,
        Machine(
            dig(observed, "host", "secure_boot"),
            dig(observed, "host", "mok", "enrolled"),
            node.nvswitches,
            _rejected(observed, pin),
        ),
    )
    floor = rules.floor
    result = Resolution(None, list(rules.rules), [], floor.value if floor else None, [], [], rules=rules)
    result.explicit = bool(pin) or any(
        wishes["nvidia_driver_" + name] != "auto" for name in ("branch", "flavour", "source")
    )
    result.conflicts += check_wishes(wishes, catalog)
    if result.conflicts:
        return result
    source = next((s for s in node.sources if wishes["nvidia_driver_source"] in ("auto", s.name)), None)
    if source is None:
        result.conflicts.append(_no_source(node, wishes))
        return result
    installed = result.installed = installed_on(node, source)
    question = Question(node, source, gpus, workloads, wishes, rules, today)
    refusals, refused = unsupported(question)
    result.conflicts += refusals
    result.conflicts += contradictions(question, refused)
    if result.conflicts:
        return result

    kept = installed.option
    if kept and _is_fine(kept, observed, rules):
        result.option, result.keeps_installed = kept, True
        _explain(result, [kept], [kept], catalog, today, node.listed)
        return result

    offer = offer_of(node, source)
    return _choose(result, question, offer, installed)


def _rejected(observed: Mapping[str, Any], pin: str) -> Tuple[str, ...]:
    """Versions that failed verification on this node; one that is asked for by name gets another chance."""
    rows = dig(observed, "driver", "record", "rejected")
    if not rows:
        return ()
    found = []
    for row in rows:
        version, package = row.get("version"), row.get("package_version")
        if pin and (pin == version or (package and matches(package, pin))):
            continue
        if version and version not in found:
            found.append(version)
    return tuple(found)


def _no_source(node: Node, wishes: Mapping[str, Any]) -> Dict[str, Any]:
    name = wishes["nvidia_driver_source"]
    system = dig(node.observed, "host", "os", "pretty_name") or "%s %s" % (node.os_id, node.release)
    others = [source.name for source in node.sources]
    return conflict(
        "driver.source_unsupported",
        "host",
        "nvidia_driver",
        "nvidia_driver_source is %r, which has no drivers for %s" % (name, system),
        ["sources for %s: %s" % (system, ", ".join(others) or "none")],
        ["set nvidia_driver_source: %s" % other for other in ("auto", *others)]
        if others
        else ["install a release that gpuready has a driver source for"],
    )


def _is_fine(kept: Option, observed: Mapping[str, Any], rules: RuleSet) -> bool:
    """Does the installed driver fulfil everything?"""
    broken = broken_rules(kept, rules)
    signed = rules.having("signed")
    if signed is None:
        return not broken
    if any(rule is not signed for rule in broken):
        return False
    # Under Secure Boot a module that is loaded has proved that its key is trusted.
    if kept.version and dig(observed, "driver", "loaded", "version") == kept.version:
        return True
    return not broken and dig(observed, "driver", "on_disk", "signed") is not False


def _choose(result: Resolution, question: Question, offer: Offer, installed: Installed) -> Resolution:
    """The best of what can be had, after what the installed driver and its holds allow."""
    node, catalog, today, wishes = question.node, question.node.catalog, question.today, question.wishes
    rules, pin = result.rules, wishes["nvidia_driver_version"]
    hold = hold_rule(node, installed)
    if hold:
        # Holds are this node's own: the rules that others share stay as they are.
        rules = result.rules = question.rules = RuleSet((*rules.rules, hold))
        result.requirements.append(hold)
    options, listed = offer
    everything = list(options)
    elsewhere = installed.source is not None and installed.source is not question.source
    if elsewhere and installed.source and wishes["nvidia_driver_source"] == "auto":
        # What came from elsewhere is completed from there.
        mine = offer_of(node, installed.source)
        everything += mine.options if mine.listed else []
    fitting = suitable(everything, rules)
    same = [
        option
        for option in fitting
        if option.branch == installed.branch
        and option.family is installed.family
        and option.source is installed.source
        and (pin or not _is_older(option, installed))
    ]
    preference = Preference(catalog, today, reboot_allowed=bool(wishes.get("host_reboot_allowed", True)))
    if same:
        # A driver that is half there (a new kernel, a lost package) is completed, not replaced.
        preference.flavour, preference.version = installed.flavour, installed.package_version
        chosen = preference.best(same)
    else:
        forward = [o for o in fitting if result.explicit or not _is_older(o, installed)]
        own = [option for option in forward if option.source is question.source]
        chosen = preference.best(own or forward)
    if chosen is None:
        if fitting:
            result.conflicts.append(downgrade(question, installed, preference.best(fitting)))
        else:
            result.conflicts += not_installable(question, everything, listed)
        return result
    chosen = finished(node, chosen)
    result.option, result.listed = chosen, chosen.version is not None or listed
    result.notes += list(chosen.notes)
    pool = [option for option in everything if option.source is chosen.source]
    _explain(
        result,
        [o for o in fitting if o.source is chosen.source],
        pool,
        catalog,
        today,
        node.listed,
        preference,
    )
    if chosen.install == DKMS and dig(node.observed, "host", "secure_boot") is None:
        result.notes.append(
            "whether Secure Boot is on could not be read: if it is, the kernel refuses the module "
            "that DKMS builds until its key is enrolled"
        )
    return result


def _is_older(option: Option, installed: Installed) -> bool:
    """Would it be a step back?"""
    if installed.branch is None or installed.version is None:
        return False
    if option.version is None:
        return option.branch < installed.branch
    if option.branch != installed.branch:
        return option.branch < installed.branch
    if option.source is installed.source and option.package_version and installed.package_version:
        return compare(option.package_version, installed.package_version) < 0
    return compare(option.version, installed.version) < 0


def _bound(
    rules: RuleSet,
    everything: Sequence[Option],
    chosen: Option,
    preference: Preference,
    kept: bool,
) -> Optional[Requirement]:
    """What decided: a pin, else a limit that ruled a better driver out, else the highest floor."""
    for rule in rules.rules:
        if rule.rule in ("user-version", "user-branch"):
            return rule
    within: List[Requirement] = []  # what ruled out a better way of having the same branch
    if not kept and len(everything) > 1:
        mine = preference.key(chosen)
        ruled_out: List[Requirement] = []
        for option in everything:
            broken = broken_rules(option, rules)
            # Several GPUs may set the same limit: it is gone only when all of them are.
            if not broken or broken[0].kind not in _LIMITS:
                continue
            if any((rule.kind, rule.value) != (broken[0].kind, broken[0].value) for rule in broken):
                continue
            if broken[0] in ruled_out or preference.key(option) >= mine:
                continue
            other = option.branch != chosen.branch or broken[0].kind in _VERSION_LIMITS
            (ruled_out if other else within).append(broken[0])
        if ruled_out:
            return next(rule for rule in rules.rules if rule in ruled_out)
    return rules.floor or next(iter([*within, *rules.rules]), None)


_LIMITS = ("last_branch", "flavour", "signed", "fabric", "rejected", "hold")
# Limits that may also decide between versions of one branch.
_VERSION_LIMITS = ("rejected", "hold", "fabric")


def _explain(
    result: Resolution,
    fitting: Sequence[Option],
    everything: Sequence[Option],
    catalog: Catalog,
    today: str,
    has_lists: bool,
    preference: Optional[Preference] = None,
) -> None:
    """Fill in why this option was chosen."""
    chosen = result.option
    assert chosen is not None
    bound = _bound(
        result.rules,
        everything,
        chosen,
        preference or Preference(catalog, today),
        result.keeps_installed,
    )
    result.because = [rule.row(rule is bound) for rule in result.rules.rules]

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
        text, cite = _install_words(chosen, result.listed)
        add("install", chosen.install, "kernel module", text, cite)
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
    if not result.listed and not result.keeps_installed:
        name = chosen.source.name if chosen.source else ""
        result.notes.append(NO_SOURCE % name if has_lists else NO_LISTS)


def _install_words(chosen: Option, listed: bool) -> Tuple[str, str]:
    """(text, source) of the way in which the module comes."""
    after = " (after a reboot into kernel %s)" % chosen.kernel if chosen.reboot else ""
    if chosen.install == DKMS:
        text = "apt has no precompiled module that fits this kernel: DKMS builds it on the node"
        if not chosen.family.kernel_modules:
            text = "this source has no precompiled modules: DKMS builds it on the node"
        return text + after, "observed: apt's candidates" if listed else "catalog"
    if not listed:
        return "assumed: apt has no lists yet to ask", "catalog"
    if chosen.install == METAPACKAGE:
        text = "apt has no module for the running kernel: the metapackage brings kernel %s and its module"
        return text % chosen.kernel + after, "observed: apt's candidates"
    text = "signed by the distribution and made for this very kernel: nothing is compiled on the node"
    if chosen.reboot:
        text = "signed by the distribution and made for the next boot's kernel"
    return text + after, "observed: apt's candidates"


def _months(today: str, end: str) -> int:
    return (int(end[:4]) - int(today[:4])) * 12 + int(end[5:7]) - int(today[5:7])
