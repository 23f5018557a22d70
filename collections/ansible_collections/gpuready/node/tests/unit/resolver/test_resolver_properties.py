"""What must hold of the resolver's answers on any catalog and any node."""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import dataclass, replace
from typing import Any

from gpuready.catalog import Branch, Catalog, PackageSource
from gpuready.driver_conflicts import smallest_contradiction, theory
from gpuready.driver_options import Option, names
from gpuready.requirements import Machine, Requirement, collect, runs_on
from gpuready.resolver import Resolution
from gpuready.versions import Version, compare, driver_branch, driver_version, matches
from gpuready.wishes import DEFAULT_WISHES
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from resolver_world import CATALOG, KERNELS, Node, Offer, ask, hold, install_option, node

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
# More of them on demand: GPUREADY_EXAMPLES=1000 finds what a short run may miss.
relaxed = settings(
    max_examples=int(os.environ.get("GPUREADY_EXAMPLES", "60")), deadline=None, suppress_health_check=SLOW
)

NEXT = {"ubuntu-22.04": "5.15.0-160-generic", "debian-12": "6.1.0-50-amd64"}
NEWER = {"ubuntu-22.04": "5.15.0-161-generic", "debian-12": "6.1.0-51-amd64"}
NUMBERS = [470, 535, 550, 570, 580, 590, 595, 610]
GPUS = ["T4", "V100", "A100", "H100", "GH200", "B200", "L4", "P100", "K80"]
PAIRS = [
    ["T4", "A100"],
    ["V100", "A100"],
    ["P100", "B200"],
    ["K80", "H100"],
    ["A100", "B200"],
    ["L4", "V100"],
]
WORKLOADS = [
    "tensorflow-2.9",
    "tensorflow-2.4",
    "tensorflow-2.18",
    "tensorflow-2.20",
    "pytorch-1.13-cu117",
    "pytorch-2.5-cu124",
    "pytorch-2.11-cu126",
    "pytorch-2.11-cu130",
]


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    """The real one with other facts: branches and their ends, what architectures and wheels need."""
    numbers = draw(st.lists(st.sampled_from(NUMBERS), min_size=4, unique=True))
    branches = {}
    for number in sorted(numbers):
        kind = draw(st.sampled_from(["long_term", "production", "new_feature", "developer"]))
        end = draw(st.sampled_from([None, "past", "2026-01", "2027-03", "2030-01"]))
        branches[number] = Branch(
            number, kind, end, "12.0", "x", "read", *(["2026-10"] * (len(Branch.__dataclass_fields__) - 6))
        )
    architectures = dict(CATALOG.architectures)
    for name in draw(st.lists(st.sampled_from(sorted(architectures)), max_size=3, unique=True)):
        row = architectures[name]
        architectures[name] = replace(
            row,
            first_branch=draw(st.sampled_from([None, 535, 570])),
            last_branch=draw(st.sampled_from([None, row.last_branch, 580])),
            open_modules=draw(st.sampled_from(["optional", "impossible", "required"])),
        )
    return replace(
        CATALOG,
        branches=branches,
        architectures=architectures,
        open_first=draw(st.sampled_from([515, 535, 570])),
        open_default=draw(st.sampled_from([535, 560, 590])),
    )


def _versions(draw: st.DrawFn, branch: int, suffix: str) -> list[str]:
    small = draw(
        st.lists(st.sampled_from(["95.05", "65.06", "133.20", "42.01"]), min_size=1, max_size=2, unique=True)
    )
    return [f"{branch}.{part}{suffix}" for part in small]


@st.composite
def offers(draw: st.DrawFn, system: str, catalog: Catalog) -> list[Offer]:
    running = KERNELS[system]
    found = []
    os_id, _, release = system.partition("-")
    own, *others = catalog.sources_for(os_id, release)
    if draw(st.sampled_from([True, True, True, True, False])):
        # Most archives have something that fits.
        branch = draw(st.sampled_from([n for n in reversed(catalog.branches) if own.families[0].names(n)]))
        suffix = {"Ubuntu": "-0ubuntu0.22.04.1", "Debian": "-1~deb12u1"}[own.origin]
        modules = draw(st.sampled_from([[running], [running, NEXT[system]], [], [NEXT[system]]]))
        found.append(
            Offer(
                own.name,
                own.families[0].family,
                _versions(draw, branch, suffix),
                modules=modules,
                metapackage=draw(st.sampled_from([None, NEWER[system], NEXT[system]])),
                dkms=draw(st.booleans()),
            )
        )
    for _ in range(draw(st.sampled_from([0, 1, 2, 2, 3, 4]))):
        source = draw(st.sampled_from([own, own, *others]))
        family = draw(st.sampled_from([source.families[0], *source.families]))
        possible = [number for number in catalog.branches if family.names(number)]
        if not possible:
            continue
        suffix = {"Ubuntu": "-0ubuntu0.22.04.1", "Debian": "-1~deb12u1", "NVIDIA": "-1"}[source.origin]
        if family.branched:
            versions = _versions(draw, draw(st.sampled_from(possible)), suffix)
        else:
            some = draw(st.lists(st.sampled_from(possible), min_size=1, max_size=2, unique=True))
            versions = [version for branch in some for version in _versions(draw, branch, suffix)]
        modules = draw(st.sampled_from([[], [running], [running, NEXT[system]], [NEXT[system]]]))
        metapackage = draw(st.sampled_from([None, None, running, NEXT[system], NEWER[system]]))
        found.append(
            Offer(
                source.name,
                family.family,
                versions,
                modules=modules if family.kernel_modules else [],
                metapackage=metapackage,
                flavours=draw(st.sampled_from([("open", "proprietary")] * 3 + [("open",), ("proprietary",)])),
                dkms=draw(st.sampled_from([True, True, False])),
                fabric=draw(st.sampled_from([True, True, False])),
            )
        )
    return found


@dataclass(repr=False)
class Asked:
    """A node, the workloads and the wishes."""

    catalog: Catalog
    node: Node
    workloads: str
    wishes: dict[str, Any]

    def __repr__(self) -> str:
        host, apt = self.node["host"], self.node["apt"]
        offers = {name: entry["versions"] for name, entry in apt["candidates"].items()}
        facts = [gpu["device_id"] for gpu in host["gpus"]], host["kernel"], host["secure_boot"], host["mok"]
        return f"Asked({self.workloads!r}, {self.wishes}, {facts}, {list(self.catalog.branches)}, {offers})"

    def answer(self, **more: Any) -> Resolution:
        return ask(self.node, self.workloads, catalog=self.catalog, **{**self.wishes, **more})


@st.composite
def questions(draw: st.DrawFn, auto: bool = False, installed: bool = True) -> Asked:
    catalog = draw(catalogs())
    system = draw(st.sampled_from(["ubuntu-22.04", "ubuntu-22.04", "debian-12"]))
    kernels = [KERNELS[system], NEXT[system]]

    def seen() -> Node:
        return node(
            ",".join(draw(st.sampled_from([[gpu] for gpu in GPUS] * 2 + PAIRS))),
            system,
            draw(offers(system, catalog)),
            next_boot=draw(st.sampled_from(kernels)),
            headers=draw(st.sampled_from([kernels, kernels, kernels[:1], kernels[1:], []])),
            secure_boot=draw(st.sampled_from([False, False, False, None, True])),
            mok=draw(st.sampled_from([None, False, True])),
            nvswitches=draw(st.sampled_from([0, 0, 0, 2])),
            rejected=draw(st.sampled_from([None, None, ["580.95.05"], ["535.65.06"]])),
            catalog=catalog,
        )

    observed = seen()
    if installed and draw(st.booleans()):
        first = ask(observed, catalog=catalog, source=draw(st.sampled_from(["auto", "cuda_repo"])))
        if first.option and first.option.version:
            before = install_option(observed, first)
            observed = seen() if draw(st.booleans()) else observed
            if draw(st.booleans()):
                # Another day: the archive has moved on, the driver is still there.
                after = seen()
                for key in ("secure_boot", "mok"):
                    before["host"][key] = after["host"][key]
                old, new = before["apt"]["candidates"], after["apt"]["candidates"]
                for name, entry in old.items():
                    if entry["installed"]:
                        now = new.setdefault(
                            name, {**entry, "versions": [], "origins": {}, "candidate": None}
                        )
                        now["installed"] = entry["installed"]
                before["apt"]["candidates"] = new
            observed = before
            if draw(st.integers(0, 3)) == 0:
                observed = hold(observed, *draw(st.sampled_from([(), ("utils",), ("lib",)])))
    wishes: dict[str, Any] = {}
    if not auto:
        branch = st.sampled_from(["auto", "auto", *map(str, catalog.branches)])
        wishes = draw(
            st.just({})
            | st.fixed_dictionaries(
                {},
                optional={
                    "branch": branch,
                    "flavour": st.sampled_from(["auto", "open", "proprietary"]),
                    "source": st.sampled_from(["auto", "cuda_repo"]),
                    "version": st.sampled_from(["", "", "580.95.05", "535.65.06", "595.42.01-1"]),
                    "host_reboot_allowed": st.booleans(),
                },
            )
        )
    wishes["min_version"] = draw(st.sampled_from(["", "", "", "460.27", "570.26", "580.65.06"]))
    workloads = ",".join(
        draw(st.sampled_from([[], [], *[[name] for name in WORKLOADS], WORKLOADS[:1] + WORKLOADS[-1:]]))
    )
    return Asked(catalog, observed, workloads, wishes)


# A second opinion, slow and simple -------------------------------------------------------------------------


def rules_of(asked: Asked) -> list[Requirement]:
    wishes = {**DEFAULT_WISHES, "nvidia_driver_min_version": ""}
    for name, value in asked.wishes.items():
        wishes[name if name in DEFAULT_WISHES else f"nvidia_driver_{name}"] = value
    host = asked.node["host"]
    record = asked.node["driver"]["record"] or {}
    pin = wishes["nvidia_driver_version"]
    return collect(
        host["gpus"],
        [asked.catalog.frameworks[name] for name in asked.workloads.split(",") if name],
        wishes,
        asked.catalog,
        Machine(
            host["secure_boot"],
            host["mok"]["enrolled"],
            len(host["nvswitches"]),
            tuple(row["version"] for row in record.get("rejected", []) if row["version"] != pin),
        ),
    )


@dataclass
class Driver:
    """One driver that could be installed, found without the resolver's help."""

    source: PackageSource
    branch: int
    package_version: str
    flavour: str
    signed: bool
    fabric: bool

    @property
    def version(self) -> str:
        return driver_version(self.package_version) or ""

    def holds(self, rule: Requirement) -> bool:
        return {
            "floor": lambda: compare(self.version, rule.value) >= 0,
            "last_branch": lambda: self.branch <= int(rule.value),
            "branch": lambda: str(self.branch) == rule.value,
            "version": lambda: matches(self.package_version, rule.value),
            "flavour": lambda: self.flavour == rule.value,
            "source": lambda: self.source.name == rule.value,
            "signed": lambda: self.signed or rule.value == "enrolled",
            "fabric": lambda: self.fabric,
            "rejected": lambda: self.version != rule.value,
        }[rule.kind]()


def every_driver(asked: Asked, source: PackageSource) -> list[Driver]:
    """All that this source's archives have for the running or the next boot's kernel."""
    observed, found = asked.node, []
    candidates = observed["apt"]["candidates"]
    running, following = (observed["host"]["kernel"][key] for key in ("running", "next_boot"))

    def has(name: str, upstream: str) -> bool:
        entry = candidates.get(name, {"versions": [], "origins": {}})
        return any(
            driver_version(v) == upstream and source.origin in entry["origins"].get(v, [])
            for v in entry["versions"]
        )

    def known(name: str) -> bool:
        entry = candidates.get(name, {"origins": {}})
        return any(source.origin in origins for origins in entry["origins"].values())

    for family in source.families:
        for branch, flavour in itertools.product(asked.catalog.branches, ["open", "proprietary"]):
            if not family.names(branch) or (flavour == "open" and branch < asked.catalog.open_first):
                continue

            def called(patterns: Any, **more: str) -> list[str]:
                return names(patterns, branch, family, flavour, **more)  # noqa: B023

            entry = candidates.get(called([family.version_package])[0])
            if not entry:
                continue
            ours = [v for v in entry["versions"] if source.origin in entry["origins"].get(v, [])]
            release = observed["host"]["os"]["version_id"]
            mine = [
                v
                for v in ours
                if driver_branch(v) == branch and not source.leads_elsewhere(release, family, branch, v)
            ]
            newest = max(ours, key=Version, default=None)
            current = entry["candidate"] if entry["candidate"] in mine else newest
            for version in mine:
                upstream = driver_version(version) or ""
                fabric = bool(family.nvswitch) and has(called([family.nvswitch])[0], upstream)
                if (
                    family.kernel_modules
                    and version == current
                    and all(has(name, upstream) for name in called(family.precompiled))
                ):
                    exact = any(
                        known(called([family.kernel_modules], kernel=kernel)[0])
                        for kernel in (running, following)
                    )
                    name = called([family.kernel_metapackage], kernel_flavour=running.rpartition("-")[2])[0]
                    kernel = candidates.get(name, {}).get("kernel")
                    later = (
                        known(name)
                        and kernel
                        and (kernel == running or Version(kernel) >= Version(following))
                    )
                    if exact or later:
                        found.append(Driver(source, branch, version, flavour, True, fabric))
                packages = called(family.dkms_packages(flavour == "open"))
                headers = any(
                    f"linux-headers-{kernel}" in candidates or kernel in observed["host"]["kernel"]["headers"]
                    for kernel in (running, following)
                )
                if packages and headers and all(has(name, upstream) for name in packages):
                    found.append(Driver(source, branch, version, flavour, False, fabric))
    return found


def sources(asked: Asked) -> list[PackageSource]:
    system = asked.node["host"]["os"]
    return list(asked.catalog.sources_for(system["id"], system["version_id"]))


# The properties --------------------------------------------------------------------------------------------


@relaxed
@given(questions())
def test_an_answer_fulfils_every_requirement_and_can_be_installed(asked: Asked) -> None:
    result = asked.answer()
    option = result.option
    assert (option is None) == bool(result.conflicts)
    if option is None:
        return
    assert [rule.sentence() for rule in rules_of(asked) if not option.satisfies(rule)] == [] or (
        result.keeps_installed
    )
    assert sum(row["bound"] for row in result.because) == bool(result.requirements)
    candidates = asked.node["apt"]["candidates"]
    for name, version in option.packages:
        if version is None:
            assert not result.listed  # by the catalog: apt has not been asked yet
            continue
        entry = candidates.get(name, {"versions": [], "origins": {}, "installed": None})
        if entry["installed"] == version:
            continue
        assert version in entry["versions"], name
        if not name.startswith("linux-headers-"):
            # The headers are the kernel's, wherever that is from; the driver never mixes origins.
            assert option.origin in entry["origins"][version], name
    if option.version:
        moving = names(option.family.closure, option.branch, option.family, option.flavour)
        assert {driver_version(v) for n, v in option.packages if n in moving} <= {option.version}
        assert driver_branch(option.version) == option.branch


@relaxed
@given(questions(installed=False))
def test_no_answer_means_that_there_is_none(asked: Asked) -> None:
    result = asked.answer()
    own = [s for s in sources(asked) if asked.wishes.get("source", "auto") in ("auto", s.name)]
    assume(own and (result.listed or result.option is None))
    gpus = asked.node["host"]["gpus"]
    runs = all(
        runs_on(asked.catalog.frameworks[name], gpu["compute_capability"])
        for name in asked.workloads.split(",")
        if name
        for gpu in gpus
    )
    rules = rules_of(asked)
    possible = [d for d in every_driver(asked, own[0]) if all(d.holds(rule) for rule in rules)]
    if result.option is None:
        assert not (possible and runs), (possible[0], result.conflicts)
    elif result.option.version:
        same = [
            d
            for d in possible
            if (d.package_version, d.flavour) == (result.option.package_version, result.option.flavour)
        ]
        assert same and runs


@relaxed
@given(questions(), st.randoms(use_true_random=False))
def test_the_answer_depends_on_nothing_but_the_facts(asked: Asked, shuffle: random.Random) -> None:
    first = asked.answer()
    rows = list(asked.node["apt"]["candidates"].items())
    shuffle.shuffle(rows)
    other = replace(asked, node={**asked.node, "apt": {**asked.node["apt"], "candidates": dict(rows)}})
    # Another catalog in between leaves nothing behind.
    ask(asked.node, asked.workloads)
    again = other.answer()
    assert (first.option, first.because, first.conflicts, first.notes) == (
        again.option,
        again.because,
        again.conflicts,
        again.notes,
    )


@relaxed
@given(
    questions(),
    st.sampled_from(WORKLOADS),
    st.sampled_from(GPUS),
    st.sampled_from(["workload", "gpu", "floor"]),
)
def test_one_more_requirement_makes_no_conflict_an_answer(
    asked: Asked, workload: str, gpu: str, what: str
) -> None:
    assume(asked.answer().option is None)
    wishes = dict(asked.wishes)
    workloads = asked.workloads
    observed = asked.node
    if what == "workload":
        workloads = ",".join(dict.fromkeys([*filter(None, workloads.split(",")), workload]))
    elif what == "gpu":
        more = node(gpu, "ubuntu-22.04", [], catalog=asked.catalog)["host"]["gpus"][0]
        host = {**observed["host"], "gpus": [*observed["host"]["gpus"], more]}
        observed = {**observed, "host": host}
    else:
        wishes["min_version"] = "595.10"
        assume(compare(asked.wishes["min_version"] or "0", "595.10") <= 0)
    assert ask(observed, workloads, catalog=asked.catalog, **wishes).option is None


@relaxed
@given(questions(installed=False))
def test_what_was_installed_stays(asked: Asked) -> None:
    result = asked.answer()
    assume(result.option is not None and result.option.version and not result.option.reboot)
    # DKMS signs with the key that is enrolled; nothing else may come in between.
    after = replace(asked, node=install_option(asked.node, result))
    again = after.answer()
    assert again.keeps_installed, (result.option, again.installed, again.conflicts)
    assert again.option is not None and again.option.package_version == result.option.package_version  # type: ignore[union-attr]


@relaxed
@given(questions(auto=True))
def test_nobody_is_sent_back_without_a_word(asked: Asked) -> None:
    result = asked.answer()
    installed = result.installed
    assume(result.option and installed and installed.version)
    assert result.option is not None and installed is not None
    if result.option.version:
        assert compare(result.option.version, str(installed.version)) >= 0
    else:
        assert result.option.branch >= (installed.branch or 0)


@relaxed
@given(questions())
def test_what_somebody_holds_is_not_moved(asked: Asked) -> None:
    observed = hold(asked.node, "nvidia")
    held = {row["name"]: row["version"] for row in observed["driver"]["packages"] if row["held"]}
    assume(held)
    result = replace(asked, node=observed).answer()
    if result.option is None or result.keeps_installed:
        return
    installed = result.installed
    assert installed is not None and installed.branch is not None
    planned = dict(result.option.packages)
    assert {name: planned.get(name, version) for name, version in held.items()} == held
    assert result.option.branch == installed.branch and result.option.version == installed.version


@relaxed
@given(questions())
def test_a_next_boot_without_a_module_is_told(asked: Asked) -> None:
    result = asked.answer()
    assume(result.option is not None and result.option.version)
    option, kernel = result.option, asked.node["host"]["kernel"]
    assert option is not None
    planned = dict(option.packages)
    assert len(planned) == len(option.packages)
    following = kernel["next_boot"]
    assert (option.kernel != kernel["running"]) == option.reboot
    if following == kernel["running"]:
        assert option.without_next_boot is None
        return
    there = {*planned, *(row["name"] for row in asked.node["driver"]["packages"])}
    newer = [
        name for name in there if name.startswith("linux-modules-nvidia-") and NEWER["ubuntu-22.04"] in name
    ]
    on_disk = (asked.node["driver"]["on_disk_next_boot"] or {}).get("version") == option.version
    covered = (
        any(name.startswith("linux-modules-nvidia-") and name.endswith(following) for name in there)
        or newer
        or (option.install == "dkms" and f"linux-headers-{following}" in there)
        or following in kernel["headers"]
        or on_disk
    )
    assert bool(covered) or option.without_next_boot == following


@relaxed
@given(questions(), st.data())
def test_a_contradiction_is_the_smallest(asked: Asked, data: st.DataObject) -> None:
    rules = rules_of(asked)
    pool = theory(asked.catalog, "")
    options = data.draw(st.lists(st.sampled_from(pool), max_size=8))
    group = smallest_contradiction(options, rules)

    def together(some: Any) -> list[Option]:
        return [option for option in options if all(option.satisfies(rule) for rule in some)]

    if not group:
        assert together(rules) or not rules
        return
    assert not together(group)
    for fewer in itertools.combinations(rules, len(group) - 1):
        assert together(fewer) or not options


@relaxed
@given(questions())
def test_conflicts_name_what_cannot_hold_together_and_a_way_out(asked: Asked) -> None:
    for row in asked.answer().conflicts:
        assert row["what"] and row["because"] and row["options"] and row["layer"] and row["role"], row
        assert len(set(row["options"])) == len(row["options"])
        assert all("None" not in text for text in [row["what"], *row["because"], *row["options"]]), row
