# Apache-2.0 (see LICENSE)
"""docs/matrix.md: which driver each GPU and workload lead to on each release, made from the catalog.

Controller only. The day that branches are judged by is the catalog's own (the newest `checked`), so that the
page changes only with the data.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from . import requirements, resolver, whatif
from .catalog import Catalog, Framework
from .versions import Version, compare
from .wishes import DEFAULT_WISHES

# The workloads of the table that opens the page.
OVERVIEW = (
    "tensorflow-2.9",
    "tensorflow-2.15",
    "tensorflow-2.21",
    "pytorch-1.13",
    "pytorch-2.5",
    "pytorch-2.8",
    "pytorch-2.13",
)
OVERVIEW_OS = ("ubuntu", "24.04")
NEVER = "\N{EM DASH}"
REASONS = {
    "cuda-minor": "CUDA's minor-version rule",
    "cuda-ga": "the driver CUDA came with",
    "ptx-jit": "the driver compiles the wheel's PTX",
    "gpu-first-branch": "the GPU's first branch",
    "gpu-product": "the product's first driver",
}
OS_NAMES = {"ubuntu": "Ubuntu", "debian": "Debian"}

Release = Tuple[str, str]


class Outcome(NamedTuple):
    """What a GPU and a workload lead to, but for the workload's name."""

    why_not: Optional[str]
    minimum: Optional[str]
    reason: str
    limit: Optional[str]
    drivers: Tuple[Tuple[Release, str], ...]


def page(catalog: Catalog) -> str:
    """The whole page."""
    today = catalog.checked + "-28"
    releases = [
        (row.os, release) for row in catalog.package_sources if row.name == row.os for release in row.releases
    ]
    lines = _head(catalog, today)
    outcomes: Dict[str, Dict[str, Outcome]] = {}
    for gpu, device in catalog.shown.items():
        asked = _Asked(catalog, device, today)
        outcomes[gpu] = {
            framework.name: asked.outcome(framework, releases) for framework in catalog.frameworks.values()
        }
    lines += _overview(catalog, outcomes)
    for gpu, device in catalog.shown.items():
        lines += _section(catalog, gpu, device, outcomes[gpu])
    return "\n".join(lines) + "\n"


INTRODUCTION = """\
# GPU and workload: which driver

<!-- Made by `gpuready matrix --write docs/matrix.md` from the data files: do not edit. -->

Which driver gpuready chooses, as of {month}, for a node with one kind of GPU and one workload, from the
distribution's own archive and before the node has package lists: what apt really offers decides in the end.
The wishes are the defaults, but without a minimum of the site's own. `gpuready resolve` answers the same for
any mixture of GPUs and workloads, for NVIDIA's repository, Secure Boot and NVSwitches, with the whole chain
of reasons and their sources.

- **Open** and **proprietary** are the kernel modules' flavours; from branch {open_only} on all are open.
- *At least*: the oldest driver that suffices, and why. Of the suitable branches the one is chosen that gets
  fixes for longest: long-term before production before new-feature.
- (`cuda_repo`: ...): what `nvidia_driver_source: cuda_repo` brings where the distribution itself has nothing.
- \N{DAGGER} the branch is past its end of life.
- \N{DOUBLE DAGGER} the GPU is listed, but not everything computes on it; below the table it says what.
"""


def _head(catalog: Catalog, today: str) -> List[str]:
    return [*INTRODUCTION.format(month=today[:7], open_only=catalog.open_only).splitlines(), ""]


class _Asked:
    """Questions about one GPU; those that come to the same requirements are answered once."""

    def __init__(self, catalog: Catalog, device: str, today: str) -> None:
        self.catalog, self.today = catalog, today
        self.wishes = dict(DEFAULT_WISHES, nvidia_driver_min_version="", nvidia_driver_source="auto")
        self.gpus = whatif.parse_gpus([device], catalog)
        self.answers: Dict[Any, str] = {}
        self.stacks: Dict[Release, Dict[str, Any]] = {}
        self.annotated = self.stack(OVERVIEW_OS)["host"]["gpus"]

    def stack(self, system: Release) -> Dict[str, Any]:
        if system not in self.stacks:
            self.stacks[system] = whatif.imagine(self.gpus, system, self.catalog)
        return self.stacks[system]

    def outcome(self, framework: Framework, releases: Sequence[Release]) -> Outcome:
        gpu = self.annotated[0]
        how, _ = requirements.code_for(framework, gpu["compute_capability"])
        limits = requirements.limits_of(framework, gpu["compute_capability"])
        limit = limits[0] if limits else None
        if limit and limit.support == "none":
            return Outcome(limit.text, None, "", None, ())
        if how == "none":
            return Outcome("the wheel has no code for this GPU", None, "", None, ())
        rules = requirements.collect(self.annotated, [framework], self.wishes, self.catalog)
        floors = [rule for rule in rules if rule.kind == "floor"]
        highest: Optional[requirements.Requirement] = None
        for rule in floors:
            if highest is None or compare(rule.value, highest.value) > 0:
                highest = rule
        last = self.catalog.architectures[gpu["arch"]].last_branch
        if highest and last and int(highest.value.split(".")[0]) > last:
            words = "needs a driver from %s on (%s), and %d is the last branch for this GPU"
            reason = REASONS.get(highest.rule, highest.rule)
            return Outcome(words % (highest.value, reason, last), None, "", None, ())
        same = tuple(sorted({(rule.kind, rule.value) for rule in rules}))
        drivers = tuple((release, self.driver(framework, same, release)) for release in releases)
        return Outcome(
            None,
            highest.value if highest else None,
            REASONS.get(highest.rule, highest.rule) if highest else "",
            limit.text if limit else None,
            drivers,
        )

    def driver(self, framework: Framework, same: Any, release: Release) -> str:
        """`580 open`, or what stands in for it."""
        key = (same, release)
        if key not in self.answers:
            text = self.choose(framework, release, "auto")
            if text is None:
                other = self.choose(framework, release, "cuda_repo")
                text = "none (`cuda_repo`: %s)" % other if other else "none"
            self.answers[key] = text
        return self.answers[key]

    def choose(self, framework: Framework, release: Release, source: str) -> Optional[str]:
        if self.catalog.package_source(source, *release) is None:
            return None
        wishes = dict(self.wishes, nvidia_driver_source=source)
        found = resolver.resolve(
            self.stack(release), [framework], wishes, self.catalog, today=self.today, gpus=self.annotated
        ).option
        if found is None:
            return None
        branch = self.catalog.branches.get(found.branch)
        past = branch is not None and branch.supported_on(self.today) is False
        return "%d %s%s" % (found.branch, found.flavour, "\N{DAGGER}" if past else "")


def _overview(catalog: Catalog, outcomes: Mapping[str, Mapping[str, Outcome]]) -> List[str]:
    columns = [framework for name in OVERVIEW if (framework := catalog.framework(name))]
    lines = [
        "## At a glance: %s" % _release_words([OVERVIEW_OS]),
        "",
        "| GPU | %s |" % " | ".join(_short(framework) for framework in columns),
        "|---|%s" % ("---|" * len(columns)),
    ]
    for gpu, found in outcomes.items():
        cells = []
        for framework in columns:
            outcome = found[framework.name]
            cell = NEVER if outcome.why_not else dict(outcome.drivers)[OVERVIEW_OS]
            cells.append(cell + ("\N{DOUBLE DAGGER}" if outcome.limit else ""))
        lines.append("| [%s](#%s) | %s |" % (gpu, _anchor(gpu), " | ".join(cells)))
    return [
        *lines,
        "",
        NEVER
        + ": the workload does not run on this GPU, whatever the driver; none: no driver in this release.",
        "",
    ]


def _short(framework: Framework) -> str:
    return "%s %s%s" % (
        framework.framework,
        framework.expect["framework_version"],
        " " + framework.variant if framework.variant else "",
    )


def _section(catalog: Catalog, gpu: str, device: str, found: Mapping[str, Outcome]) -> List[str]:
    row = whatif.imagine(whatif.parse_gpus([device], catalog), OVERVIEW_OS, catalog)["host"]["gpus"][0]
    arch = catalog.architectures[row["arch"]]
    facts = ["%s, compute capability %s" % (arch.arch.capitalize(), row["compute_capability"])]
    if arch.first_branch:
        facts.append("driver branch %d or newer" % arch.first_branch)
    if arch.last_branch:
        facts.append("%d is the last branch" % arch.last_branch)
    facts.append(
        {
            "required": "open modules only",
            "optional": "open or proprietary modules",
            "impossible": "proprietary modules only",
        }[arch.open_modules]
    )
    lines = ["## %s" % gpu, "", "%s (PCI id 10de:%s)." % ("; ".join(facts), device), ""]
    groups: Dict[Outcome, List[Framework]] = {}
    for framework in catalog.frameworks.values():
        groups.setdefault(found[framework.name], []).append(framework)
    table, never, limited = [], [], []
    for outcome, frameworks in sorted(groups.items(), key=lambda item: Version(item[0].minimum or "0")):
        names = workload_words(frameworks, catalog)
        if outcome.why_not:
            never.append("- %s: %s." % (names, outcome.why_not))
            continue
        minimum = "%s (%s)" % (outcome.minimum, outcome.reason) if outcome.minimum else "any"
        table.append(
            "| %s%s | %s | %s |"
            % (names, "\N{DOUBLE DAGGER}" if outcome.limit else "", minimum, _drivers(outcome.drivers))
        )
        if outcome.limit:
            limited.append("- %s: %s." % (names, outcome.limit))
    if table:
        lines += ["| workload | at least | driver |", "|---|---|---|", *table, ""]
    if limited:
        lines += ["\N{DOUBLE DAGGER} Listed, but not everything computes:", "", *dict.fromkeys(limited), ""]
    if never:
        lines += ["Do not run on it:", "", *never, ""]
    return lines


def _drivers(drivers: Iterable[Tuple[Release, str]]) -> str:
    """The releases by what they lead to, the commonest first."""
    groups: Dict[str, List[Release]] = {}
    for release, text in drivers:
        groups.setdefault(text, []).append(release)
    ordered = sorted(groups.items(), key=lambda item: (item[0].startswith("none"), -len(item[1])))
    return "<br>".join(
        "%s: %s" % (text if text.startswith("none") else "**%s**" % text, _release_words(releases))
        for text, releases in ordered
    )


def _release_words(releases: Sequence[Release]) -> str:
    by_os: Dict[str, List[str]] = {}
    for os_id, release in releases:
        by_os.setdefault(os_id, []).append(release)
    return "; ".join("%s %s" % (OS_NAMES.get(name, name), ", ".join(found)) for name, found in by_os.items())


def workload_words(frameworks: Sequence[Framework], catalog: Catalog) -> str:
    """Many workloads in few words: ranges of releases that follow each other, with their variants."""
    everything: Dict[str, List[str]] = {}
    for framework in catalog.frameworks.values():
        known = everything.setdefault(framework.framework, [])
        if framework.expect["framework_version"] not in known:
            known.append(framework.expect["framework_version"])
    chosen: Dict[str, Dict[str, List[str]]] = {}
    for framework in frameworks:
        of_framework = chosen.setdefault(framework.framework, {})
        of_framework.setdefault(framework.expect["framework_version"], []).append(framework.variant or "")
    parts = []
    for name, found in chosen.items():
        runs: List[Tuple[List[str], str]] = []
        order = sorted(everything[name], key=Version)
        for release in sorted(found, key=Version):
            variants = ", ".join(sorted(found[release]))
            if runs and runs[-1][1] == variants and order.index(release) == order.index(runs[-1][0][-1]) + 1:
                runs[-1][0].append(release)
            else:
                runs.append(([release], variants))
        words = []
        for run, variants in runs:
            span = run[0] if len(run) == 1 else "%s\N{EN DASH}%s" % (run[0], run[-1])
            words.append("%s (%s)" % (span, variants) if variants else span)
        parts.append("%s %s" % (name, ", ".join(words)))
    return "; ".join(parts)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-").replace("/", "")
