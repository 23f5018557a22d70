# Apache-2.0 (see LICENSE)
"""No driver suits: the smallest sets of requirements that contradict each other, and the ways out."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .catalog import Catalog, Framework, PackageSource
from .driver_offers import offer_of
from .driver_options import Installed, Node, Option, broken_rules, suitable
from .requirements import (
    DKMS,
    OPEN,
    PRECOMPILED,
    PROPRIETARY,
    ROLE,
    Machine,
    Memory,
    Requirement,
    RuleSet,
    code_for,
    conflict,
    dig,
    distinct,
    gpu_key,
    gpu_words,
    limits_of,
    rule_set,
    runs_on,
)
from .versions import Version, driver_branch, driver_version, matches
from .wishes import nearest

_WORKLOAD_RULES = ("cuda-minor", "cuda-ga", "ptx-jit")
_GPU_RULES = ("gpu-first-branch", "gpu-last-branch", "gpu-product", "open-required", "open-impossible")
# Packages that a driver may be made of; the container toolkit is none of them.
_OF_DRIVERS = re.compile(r"^(linux-modules-nvidia|firmware-nvidia|libcuda|(lib)?nvidia-(?!container))")
# How many workloads, versions or releases a way out names.
_NAMED = 3


@dataclass
class Question:
    """What was asked for one node."""

    node: Node
    source: PackageSource
    gpus: Sequence[Mapping[str, Any]]
    workloads: Sequence[Framework]
    wishes: Mapping[str, Any]
    rules: RuleSet
    today: str

    @property
    def catalog(self) -> Catalog:
        return self.node.catalog

    @property
    def pin(self) -> str:
        return str(self.wishes["nvidia_driver_version"])


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


# Contradictions --------------------------------------------------------------------------------------------


def smallest_contradiction(
    options: Sequence[Option], requirements: Iterable[Requirement]
) -> List[Requirement]:
    """The smallest set of requirements that no option fulfils together; [] when one fulfils all.

    Each requirement is the set of options that break it, and those sets must cover all options. Of
    requirements that break the same options one is enough, so few sets are left and all are tried.
    """
    everything = (1 << len(options)) - 1
    breaks: Dict[int, Requirement] = {}
    for rule in requirements:
        mask = 0
        for place, option in enumerate(options):
            if not option.satisfies(rule):
                mask |= 1 << place
        # A requirement that every option fulfils is part of no contradiction.
        if mask or not options:
            breaks.setdefault(mask, rule)
    # What breaks only options that another requirement breaks too may still be the one that is needed:
    # nothing but equal sets is left out, so that the first requirement of equals speaks.
    masks = list(breaks)
    for size in range(1, len(masks) + 1):
        for chosen in itertools.combinations(masks, size):
            together = 0
            for mask in chosen:
                together |= mask
            if together == everything:
                return [breaks[mask] for mask in chosen]
    return []


class Contradiction(NamedTuple):
    """Requirements that cannot hold together, none of which can be left out."""

    rules: List[Requirement]
    # Per rule, those that stand for it just as well (another GPU of the kind); itself first.
    alike: List[List[Requirement]]
    among: List[Requirement]  # what is left when the other contradictions are solved


def _is_one_of(rule: Requirement, rules: Iterable[Requirement]) -> bool:
    return any(rule is other for other in rules)


def _stand_ins(
    options: Sequence[Option], group: Sequence[Requirement], rule: Requirement, rules: Sequence[Requirement]
) -> List[Requirement]:
    """The requirements that contradict the rest of the group as this one does: GPUs for GPUs, and so on."""
    rest = [other for other in group if other is not rule]
    found = [rule]
    for other in rules:
        same_nature = (bool(other.gpu), other.workload) == (bool(rule.gpu), rule.workload) or (
            other.workload and rule.workload
        )
        if _is_one_of(other, group) or not same_nature or other.variable or rule.variable:
            continue
        if not (rule.gpu or rule.workload):
            continue
        if not any(all(option.satisfies(r) for r in (*rest, other)) for option in options):
            found.append(other)
    return found


def _all_contradictions(options: Sequence[Option], rules: RuleSet) -> List[Contradiction]:
    """All independent contradictions, the smallest first."""
    remaining = list(rules.rules)
    groups: List[Tuple[List[Requirement], List[List[Requirement]]]] = []
    while True:
        group = smallest_contradiction(options, remaining)
        if not group:
            break
        alike = [_stand_ins(options, group, rule, remaining) for rule in group]
        groups.append((group, alike))
        gone = [rule for rules_ in alike for rule in rules_]
        remaining = [rule for rule in remaining if not _is_one_of(rule, gone)]
    return [
        Contradiction(
            group,
            alike,
            [r for r in rules.rules if _is_one_of(r, remaining) or any(_is_one_of(r, a) for a in alike)],
        )
        for group, alike in groups
    ]


def _sentences(found: Contradiction) -> List[str]:
    lines = [rule.sentence() for rule in found.rules]
    for rules in found.alike:
        subjects = {rule.subject.partition(" (")[0] for rule in rules[:1]}
        for rule in rules[1:]:
            if rule.subject.partition(" (")[0] not in subjects:
                subjects.add(rule.subject.partition(" (")[0])
                lines.append("likewise %s" % rule.sentence())
    return lines


def theory(catalog: Catalog, pin: str) -> List[Option]:
    """Every driver there could be, whatever apt has: contradictions in here are the requirements' own."""
    family = catalog.package_sources[0].families[0]
    found = []
    numbers = set(catalog.branches)
    pinned = driver_branch(pin) if pin else None
    if pinned is not None:
        numbers.add(pinned)
    for branch in sorted(numbers, reverse=True):  # most often a new one suits
        for flavour in (OPEN, PROPRIETARY):
            if flavour == OPEN and branch < catalog.open_first:
                continue
            if flavour == PROPRIETARY and catalog.open_only is not None and branch >= catalog.open_only:
                continue
            for install in (PRECOMPILED, DKMS):
                version = driver_version(pin) if pinned == branch else None
                found.append(Option(branch, family, flavour, install, version, pin if version else None))
    return found


def contradictions(question: Question, refused: Sequence[str] = ()) -> List[Dict[str, Any]]:
    """Requirements that no driver could ever fulfil together, whatever apt has; empty when one could.

    `refused` workloads do not run here with any driver: what they need of one is beside the point.
    """
    catalog, rules = question.catalog, question.rules
    if refused:
        rules = RuleSet(rule for rule in rules.rules if rule.workload not in refused)
    options: List[Option] = Memory.of(catalog).recall(
        "theory", question.pin, lambda: theory(catalog, question.pin)
    )
    possible = rules.facts.get("possible")
    if possible is None:
        possible = rules.facts["possible"] = any(not broken_rules(option, rules) for option in options)
    if possible:
        return []
    return [_contradiction(question, options, found) for found in _all_contradictions(options, rules)]


def _contradiction(
    question: Question,
    options: Sequence[Option],
    found: Contradiction,
) -> Dict[str, Any]:
    rules = found.rules
    kinds = {rule.rule for rule in rules}
    identifier = "driver.contradiction"
    what = "no driver can fulfil these requirements together: %s" % _listed(rules)
    for wish, name in (("user-version", "version"), ("user-branch", "branch")):
        if wish in kinds and any(rule.kind == "floor" for rule in rules):
            identifier = "driver.%s_below_floor" % name
            pin = next(rule for rule in rules if rule.rule == wish)
            floor = next(rule for rule in rules if rule.kind == "floor")
            what = "%s %s is older than %s, which %s needs" % (
                pin.variable,
                pin.value,
                floor.value,
                floor.subject,
            )
            break
    return conflict(
        identifier,
        "host",
        ROLE,
        what,
        _sentences(found),
        _ways_out(question, found, options),
    )


def _listed(rules: Sequence[Requirement]) -> str:
    return ", ".join("%s (%s)" % (rule.requirement, rule.subject) for rule in rules)


# Ways out --------------------------------------------------------------------------------------------------


def _ways_out(question: Question, contradiction: Contradiction, options: Sequence[Option]) -> List[str]:
    """What could be changed so that the contradiction goes away; wishes first."""
    found: List[str] = []
    for alike in contradiction.alike:
        rule = alike[0]
        rest = [other for other in contradiction.among if not _is_one_of(other, alike)]
        possible = suitable(options, RuleSet(rest))
        examples = sorted({o.version or str(o.branch) for o in possible}, key=Version, reverse=True)[:4]
        if rule.rule == "user-minimum":
            if examples:
                found.append("lower %s to %s or less" % (rule.variable, examples[0]))
            elif len(contradiction.rules) > 1:
                found.append("lower %s" % rule.variable)
        elif rule.variable:
            neutral = '""' if rule.rule == "user-version" else "auto"
            way = "leave %s at %s" % (rule.variable, neutral)
            if examples:
                found.append("%s (%s would do)" % (way, ", ".join(examples)))
            elif len(contradiction.rules) > 1 or rule.rule == "user-source":
                found.append(way)
        elif rule.workload:
            found += _other_workloads(question, [str(other.workload) for other in alike], options)
        elif rule.rule == "secure-boot":
            found += _secure_boot_ways(question, bool(possible), options)
        elif rule.rule == "nvswitch":
            found.append("use an archive that has nvidia-fabricmanager at the driver's own version")
        elif rule.kind == "hold":
            found.append(_unhold(rule))
        elif rule.rule == "rejected":
            found.append('set nvidia_driver_version: "%s" to try it once more in spite of that' % rule.value)
        elif rule.gpu:
            found += _without_gpu(question, alike)
    return list(dict.fromkeys(found))


def _unhold(rule: Requirement) -> str:
    return "release the hold: apt-mark unhold %s" % " ".join(name for name, _ in rule.packages)


def _gpus_of(question: Question, rules: Iterable[Requirement]) -> List[Mapping[str, Any]]:
    wanted = [rule.gpu for rule in rules if rule.gpu]
    return [gpu for gpu in question.gpus if any(str(gpu.get(field)) == value for field, value in wanted)]


def _without_gpu(question: Question, rules: Sequence[Requirement]) -> List[str]:
    """Drain or move the GPUs; where no other is left, the rest must change."""
    gpus = _gpus_of(question, rules)
    if not gpus:
        return []
    words = [
        "%s (%s)" % (gpu_words(kind), ", ".join(str(g.get("pci")) for g in gpus if _same(g, kind)))
        for kind in distinct(gpus, "device_id")
    ]
    if len(gpus) == len(question.gpus):
        return ["use another node: this one's only GPUs are %s" % " and ".join(words)]
    return [
        "move %s to a node of its own, or drain it here: bind it to vfio-pci, "
        "and gpuready leaves it alone" % " and ".join(words)
    ]


def _same(gpu: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return gpu.get("device_id") == other.get("device_id")


def _other_workloads(question: Question, names: Sequence[str], options: Sequence[Option]) -> List[str]:
    """Workloads of the same framework that would do instead, and taking these out."""
    names = list(dict.fromkeys(names))
    ways = []
    if len(names) == 1:
        found = fitting_workloads(question, names[0], options)
        if found:
            ways.append("replace %s by %s in gpuready_workloads" % (names[0], " or ".join(found)))
    return [*ways, "take %s out of gpuready_workloads of this node" % " and ".join(names)]


def fitting_workloads(question: Question, name: str, options: Sequence[Option]) -> List[str]:
    """The workloads nearest to one that would run on this node's GPUs with one of these drivers."""
    catalog = question.catalog
    wrong = catalog.framework(name)
    if wrong is None:
        return []
    others = [workload for workload in question.workloads if workload.name != name]
    capabilities = [g["compute_capability"] for g in question.gpus if g.get("compute_capability")]
    extra = [rule for rule in question.rules.rules if rule.kind == "hold"]

    def fits(other: Framework) -> bool:
        if not all(runs_on(other, asked) and not limits_of(other, asked) for asked in capabilities):
            return False
        rules = rule_set(
            question.gpus,
            [*others, other],
            question.wishes,
            catalog,
            _machine(question),
        )
        return bool(suitable(options, RuleSet([*rules, *extra]) if extra else rules))

    near = sorted(
        (row for row in catalog.frameworks.values() if row.framework == wrong.framework and row.name != name),
        key=lambda row: _distance(wrong, row),
    )
    found: List[str] = []
    for other in near:
        if fits(other):
            found.append(other.name)
            if len(found) == _NAMED:
                break
    return found


def _machine(question: Question) -> Machine:
    signed = question.rules.having("signed")
    return Machine(
        secure_boot=signed is not None,
        mok_enrolled=bool(signed and signed.value),
        nvswitches=question.node.nvswitches,
        rejected=tuple([rule.value for rule in question.rules.rules if rule.kind == "rejected"]),
    )


def _numbers(version: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _distance(wrong: Framework, other: Framework) -> Tuple[Any, ...]:
    """How far another workload is from the one that does not fit: the same version first, then near ones."""
    mine, theirs = _numbers(wrong.version), _numbers(other.version)
    apart = [abs(a - b) for a, b in itertools.zip_longest(mine, theirs, fillvalue=0)]
    return (apart, theirs < mine, [-n for n in _numbers(other.cuda)], other.name)


def _secure_boot_ways(question: Question, possible: bool, options: Sequence[Option]) -> List[str]:
    """Sign, boot another kernel, or switch it off."""
    ways = ["boot a kernel that has precompiled modules in apt"]
    built = any(option.install == DKMS for option in options)
    if built:
        host = dig(question.node.observed, "host", "mok") or {}
        debian = question.node.os_id == "debian"
        key = host.get("key")
        make = ""
        if not key:
            key = "/var/lib/dkms/mok.pub" if debian else "/var/lib/shim-signed/mok/MOK.der"
            make = "dkms generate_mok && " if debian else "update-secureboot-policy --new-key && "
        ways.insert(
            0,
            "enrol the key that DKMS signs with: %smokutil --import %s, reboot, "
            "choose Enroll MOK on the console, then run again" % (make, key),
        )
    if possible:
        ways.append("switch Secure Boot off in the firmware")
    return ways


# No code for a GPU -----------------------------------------------------------------------------------------


def unsupported(question: Question) -> Tuple[List[Dict[str, Any]], List[str]]:
    """(conflicts, workloads) of those that do not run on one of the GPUs, whatever the driver."""
    found, names = [], []
    for workload in question.workloads:
        for gpu in distinct(question.gpus, "compute_capability"):
            asked = gpu.get("compute_capability")
            if asked and not _runs_on(question.catalog, workload, asked):
                found.append(_unsupported(question, workload, gpu))
                names.append(workload.name)
    return found, names


def _runs_on(catalog: Catalog, workload: Framework, asked: str) -> bool:
    if catalog.frameworks.get(workload.name) is not workload:
        return runs_on(workload, asked)
    return bool(
        Memory.of(catalog).recall("runs on", (workload.name, asked), lambda: runs_on(workload, asked))
    )


def _unsupported(question: Question, workload: Framework, gpu: Mapping[str, Any]) -> Dict[str, Any]:
    asked = str(gpu["compute_capability"])
    label = "%s (compute capability %s)" % (gpu_words(gpu), asked)
    text = [limit.text for limit in limits_of(workload, asked) if limit.support == "none"]
    if code_for(workload, asked)[0] == "none":
        text.append("its wheel carries %s" % ", ".join(workload.archs or ()))
        ptx = [a for a in workload.archs or () if a.startswith("compute_")]
        if ptx:
            text.append("its PTX (%s) is for newer GPUs only" % ", ".join(ptx))
    key = (
        workload.name,
        gpu_key(question.gpus),
        tuple(w.name for w in question.workloads),
        tuple(rule.value for rule in question.rules.rules),
    )
    options = theory(question.catalog, question.pin)
    ways = Memory.of(question.catalog).recall(
        "other workloads", key, lambda: _other_workloads(question, [workload.name], options)
    )
    rule = Requirement("", "", "", "", "", "", "", "", gpu=("compute_capability", asked))
    drain = _without_gpu(question, [rule]) if len(_gpus_of(question, [rule])) < len(question.gpus) else []
    return conflict(
        "framework.gpu_unsupported",
        "framework",
        ROLE,
        "%s does not run on %s" % (workload.name, label),
        text,
        [*ways, *drain],
    )


# Holds and steps back --------------------------------------------------------------------------------------


def hold_rule(node: Node, installed: Installed) -> Optional[Requirement]:
    """What somebody else than gpuready has put on hold must stay as it is, or stay away."""
    holds = dig(node.observed, "apt", "holds") or ()
    if not holds and not any(installed.held.values()):
        return None
    record = dig(node.observed, "driver", "record")
    if record is None and dig(node.observed, "apt", "unattended_upgrades", "guard_file"):
        return None  # gpuready was here before it kept records: the holds are its own
    own = set((record or {}).get("held") or ())
    held = sorted(name for name, on in installed.held.items() if on and name not in own)
    absent = sorted(n for n in holds if n not in node.have and n not in own and _OF_DRIVERS.match(n))
    if not held and not absent:
        return None
    named = [*held, *absent]
    shown = ", ".join(named[:_NAMED])
    shown += ", and %d more" % (len(named) - _NAMED) if len(named) > _NAMED else ""
    return Requirement(
        "hold",
        "hold",
        ",".join(named),
        "%s as installed" % installed.package_version if held else "not installed",
        "held packages",
        "somebody put %s on hold, and gpuready's own record does not name them" % shown,
        "observed: apt-mark showhold",
        "read",
        packages=tuple([(name, installed.packages[name]) for name in held] + [(name, "") for name in absent]),
        keeps=_held_driver(node, installed, held),
    )


def _held_driver(node: Node, installed: Installed, held: Sequence[str]) -> Optional[Tuple[Any, ...]]:
    """The driver that must stay because packages of it are held; None when they are of no driver."""
    family, branch = installed.family, installed.branch
    if family is None or branch is None or installed.source is None:
        return None
    numbered = [name for name in held if re.search(r"-\d{3,4}(-|$)", name)]
    flavours = [node.names(family, branch, flavour) for flavour in (OPEN, PROPRIETARY)]
    moving = {name for names in flavours for name in (*names.closure, *names.precompiled, *names.dkms)}
    if not numbered and not moving.intersection(held):
        return None  # nvidia-settings and the like go with any driver
    marks = {name for names in flavours for name in names.marks}
    modules = tuple(names.module[0] for names in flavours if names.module)
    tells = any(name in marks or name.startswith(modules) for name in held)
    flavour = installed.flavour if tells else None
    return installed.source.name, family.family, branch, installed.version, flavour


def downgrade(question: Question, installed: Installed, best: Optional[Option]) -> Dict[str, Any]:
    """Only an older driver suits, and nobody has asked for one."""
    assert best is not None
    kept = installed.option
    broken = [rule.sentence() for rule in broken_rules(kept, question.rules)] if kept else []
    where = "branch %d cannot be completed from apt" % (installed.branch or 0)
    if best.branch == installed.branch:
        wish = 'set nvidia_driver_version: "%s" to allow the step back' % (best.version or best.branch)
    else:
        wish = 'set nvidia_driver_branch: "%d" to allow the step back' % best.branch
    return conflict(
        "driver.downgrade",
        "host",
        ROLE,
        "the installed driver %s does not suit, and the only suitable one is older: %s"
        % (installed.version, best.words()),
        broken or [where],
        [wish],
    )


# Not to be had ---------------------------------------------------------------------------------------------


def not_installable(question: Question, options: Sequence[Option], listed: bool) -> List[Dict[str, Any]]:
    """What is required could exist, but not from this node's archive."""
    node, source, rules = question.node, question.source, question.rules
    where = "apt" if listed else "%s %s by the catalog" % (source.os.capitalize(), node.release)
    if listed and source.distro:
        where = "apt's source %s" % source.name
    if question.pin and not any(
        option.satisfies(rule) for rule in rules.rules if rule.kind == "version" for option in options
    ):
        return [_pin_missing(question, options, where)]
    if not options:
        return [_nothing_at_all(question, where)]
    return [_lacking(question, options, found, where) for found in _all_contradictions(options, rules)]


def _lacking(
    question: Question,
    options: Sequence[Option],
    found: Contradiction,
    where: str,
) -> Dict[str, Any]:
    node, rules = question.node, found.rules
    kinds = {rule.rule for rule in rules}
    wanted = _listed(rules)
    identifier = "driver.not_installable"
    what = "nothing that %s can install fulfils: %s" % (where, wanted)
    if "hold" in kinds:
        identifier = "driver.held"
        what = "a driver package is on hold, which stands against: %s" % _listed(
            [rule for rule in rules if rule.rule != "hold"]
        )
        if kinds == {"hold"}:
            what = "a driver package is on hold, and apt cannot complete this very driver"
    elif "secure-boot" in kinds:
        identifier = "driver.secure_boot"
        what = "Secure Boot is on and no suitable driver has precompiled, signed modules for %s" % _kernel(
            node
        )
    elif kinds == {"user-branch"}:
        identifier = "driver.branch_missing"
        what = "nvidia_driver_branch is %r, which %s cannot install" % (rules[0].value, where)
    because = _sentences(found)
    because += _transitional(question, rules)
    because.append("%s offers: %s" % (where, _offer_words(options)))
    ways = _ways_out(question, found, options)
    if not kinds & {"hold"}:
        ways += _elsewhere(question, rules, found.among)
        ways.append("add an archive (a mirror of your own) that has what fulfils: %s" % wanted)
    return conflict(identifier, "host", ROLE, what, because, list(dict.fromkeys(ways)))


def _kernel(node: Node) -> str:
    return "kernel %s" % node.running if node.running else "this node's kernel"


def _transitional(question: Question, rules: Sequence[Requirement]) -> List[str]:
    """Package names that look like the branch that was asked for, but install another."""
    wanted = next((rule.value for rule in rules if rule.rule == "user-branch"), None)
    found = []
    for anchor in question.node.anchors(question.source):
        if str(anchor.branch) != wanted:
            continue
        version = question.node.first(anchor.name)
        branch = driver_branch(version)
        if branch is None or version is None or anchor.branch is None:
            continue
        release = question.node.release
        if branch != anchor.branch:
            found.append("%s is a transitional package: it installs %s" % (anchor.name, version))
        elif question.source.leads_elsewhere(release, anchor.family, branch, version):
            found.append(
                "%s %s is an empty transitional package: it installs another branch" % (anchor.name, version)
            )
    return found


def _elsewhere(question: Question, broken: Sequence[Requirement], rules: Sequence[Requirement]) -> List[str]:
    """Other sources of this release, and other releases, that have what is required."""
    node, found = question.node, []
    wanted = RuleSet(rule for rule in rules if rule.kind not in ("source", "hold"))
    for source in node.sources:
        if source is question.source:
            continue
        offer = offer_of(node, source)
        fitting = suitable(offer.options, wanted)
        if fitting:
            versions = sorted(
                {option.version or str(option.branch) for option in fitting}, key=Version, reverse=True
            )
            by = "" if offer.listed else " by the catalog"
            found.append(
                "set nvidia_driver_source: %s (it has %s%s)" % (source.name, ", ".join(versions[:_NAMED]), by)
            )
    if not any(rule.kind == "signed" for rule in broken):
        found += _other_releases(question, wanted)
    return found


def _other_releases(question: Question, wanted: RuleSet) -> List[str]:
    """Releases of the same system whose archive has, by the catalog, a branch that fits."""
    node, catalog = question.node, question.catalog
    fitting = {
        option.branch
        for option in suitable(
            theory(catalog, ""), RuleSet(rule for rule in wanted if rule.kind not in ("version", "signed"))
        )
    }
    found = []
    for source in catalog.package_sources:
        if source.os != node.os_id or source.distro:
            continue
        for release in source.releases:
            if release == node.release:
                continue
            offered = {branch for numbers in source.offers.get(release, {}).values() for branch in numbers}
            if offered & fitting:
                newer = Version(release) > Version(str(node.release))
                found.append((not newer, release, max(offered & fitting)))
    named = [
        "install %s %s, whose archive has branch %d by the catalog"
        % (str(node.os_id).capitalize(), release, branch)
        for _, release, branch in sorted(
            found, key=lambda row: (row[0], Version(row[1]) if not row[0] else _Reversed(row[1]))
        )
    ]
    return named[:2]


class _Reversed(Version):
    """The newest first."""

    def __lt__(self, other: Version) -> bool:
        return Version(other.text) < Version(self.text)


def _offer_words(options: Sequence[Option]) -> str:
    if not options:
        return "nothing"
    by_version: Dict[str, List[str]] = {}
    for option in sorted(options, key=lambda o: (-o.branch, o.install == DKMS, o.flavour)):
        kind = "%s %s" % (option.flavour, option.install)
        by_version.setdefault(option.package_version or str(option.branch), []).append(kind)
    return "; ".join(
        "%s (%s)" % (version, ", ".join(dict.fromkeys(kinds))) for version, kinds in by_version.items()
    )


def _nothing_at_all(question: Question, where: str) -> Dict[str, Any]:
    node, source = question.node, question.source
    name = "%s's" % source.os.capitalize()
    needed = source.components.get(str(node.release), ())
    ways = []
    if needed:
        words = "component%s %s" % ("s" if len(needed) > 1 else "", ", ".join(needed))
        ways.append("enable %s %s in the apt sources, or use a mirror that has it" % (name, words))
    elif source.distro:
        ways.append(
            "check nvidia_driver_repo_url (%s): the repository is there, but has no driver for this release"
            % question.wishes.get("nvidia_driver_repo_url")
        )
    else:
        ways.append("use a mirror that has the driver's packages")
    ways.append("boot a kernel that apt has modules or headers for")
    ways += _elsewhere(question, (), question.rules.rules)
    return conflict(
        "driver.not_installable",
        "host",
        ROLE,
        "%s has no NVIDIA driver that fits this node's kernel" % where,
        ["no known branch has a precompiled module, or packages and headers, for %s" % _kernel(node)],
        ways,
    )


def _pin_missing(question: Question, options: Sequence[Option], where: str) -> Dict[str, Any]:
    """An exact version that apt does not have (any more)."""
    node, source, pin = question.node, question.source, question.pin
    offered = sorted(
        {
            version
            for anchor in node.anchors(source)
            if anchor.name in node.candidates
            for version in node.offered(anchor.name, source.origin)
        },
        key=Version,
        reverse=True,
    )
    there = [version for version in offered if matches(version, pin)]
    others = question.rules.without(*[rule for rule in question.rules.rules if rule.kind == "version"])
    better = sorted(
        {option.version for option in suitable(options, others) if option.version}, key=Version, reverse=True
    )
    what = "nvidia_driver_version is %r, which %s cannot install" % (pin, where)
    because = ["%s offers: %s" % (where, ", ".join(offered[:12]) or "no driver at all")]
    if there:
        because.insert(0, "apt has %s, but no module for kernel %s goes with it" % (there[0], node.running))
    ways = ['set nvidia_driver_version: "%s"' % version for version in better[:_NAMED]]
    for other in node.sources:
        if other is not source:
            same = [
                o for o in offer_of(node, other).options if o.version and matches(str(o.package_version), pin)
            ]
            if same:
                ways.append("set nvidia_driver_source: %s, which has it" % other.name)
    if there:
        ways.append(
            "install the kernel's headers (linux-headers-%s): DKMS can build that version" % node.running
        )
    else:
        ways.append("add an archive that still has it: a snapshot of that day, or a mirror of your own")
    return conflict("driver.version_missing", "host", ROLE, what, because, ways)
