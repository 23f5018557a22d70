"""What holds for every node and every wish."""

from __future__ import annotations

import copy
import json
from typing import Any

from applied import TODAY, apply
from gpuready.catalog import load_catalog
from gpuready.draft import ACTIONS
from gpuready.driver_options import Option
from gpuready.planner import plan
from gpuready.requirements import Machine, code_for, collect, limits_of
from gpuready.resolver import prefer
from gpuready.versions import Version, at_least
from gpuready.wishes import DEFAULT_WISHES, check
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from make_fixtures import SCENARIOS
from observed_nodes import KERNEL, Node, bare, daemon_json, driver_packages

CATALOG = load_catalog()
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

GPUS = ["102d", "15f7", "1db4", "1eb8", "20b5", "2236", "26b5", "2330", "2342", "2901", "2b85", "ffff"]
VERSIONS = {
    450: ["450.248.02"],
    470: ["470.256.02", "470.223.02"],
    525: ["525.147.05"],
    535: ["535.274.02"],
    550: ["550.163.01"],
    570: ["570.195.03", "570.86.15"],
    580: ["580.95.05", "580.65.06"],
    590: ["590.48.01"],
    595: ["595.71.05"],
}


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    gpus = draw(st.lists(st.sampled_from(GPUS), min_size=1, max_size=3))
    branches = draw(st.lists(st.sampled_from(sorted(VERSIONS)), unique=True, max_size=5))
    node = bare(
        *gpus,
        branches={},
        docker=draw(st.sampled_from(["20.10.24+dfsg1-1", "25.0.3-1", "28.2.2-1", "29.3.0-1"])),
    )
    for branch in branches:
        version = draw(st.sampled_from(VERSIONS[branch])) + "-0ubuntu0.22.04.1"
        flavours = draw(st.sampled_from([("open", "proprietary"), ("proprietary",), ("open",)]))
        node["apt"]["candidates"].update(
            driver_packages(
                branch,
                version,
                KERNEL,
                flavours=flavours,
                precompiled=draw(st.booleans()),
                dkms=draw(st.booleans()),
            )
        )
    node["host"]["secure_boot"] = draw(st.sampled_from([False, True, None]))
    if draw(st.booleans()):
        node["host"]["nouveau"]["loaded"] = True
        node["host"]["gpus"][0]["driver_bound"] = "nouveau"
    if draw(st.integers(0, 4)) == 0:
        node["apt"].update(lists_age_seconds=None, candidates=None)
    if draw(st.booleans()):
        node["container_runtime"]["docker"]["daemon_json"] = daemon_json({"log-driver": "journald"})
    return node


@st.composite
def wishes(draw: st.DrawFn) -> dict[str, Any]:
    pool: dict[str, st.SearchStrategy[Any]] = {
        "gpuready_workloads": st.lists(st.sampled_from(sorted(CATALOG.frameworks)), max_size=2),
        "nvidia_driver_branch": st.sampled_from(["auto", "auto", "470", "535", "580", "595", "999"]),
        "nvidia_driver_version": st.sampled_from(["", "", "", "580.95.05", "470.1"]),
        "nvidia_driver_flavour": st.sampled_from(["auto", "open", "proprietary"]),
        "nvidia_driver_min_version": st.sampled_from(["", "460.27", "535", "580.95.05", "700"]),
        "nvidia_driver_hold_enabled": st.booleans(),
        "nvidia_container_toolkit_cdi": st.sampled_from(["auto", "enabled", "disabled"]),
        "nvidia_container_toolkit_default_runtime": st.booleans(),
        "docker_engine_daemon_config": st.sampled_from([{}, {"insecure-registries": ["r:5000"]}]),
        "host_reboot_allowed": st.booleans(),
        "gpu_verify_launch": st.sampled_from(["auto", "gpus", "runtime", "cdi"]),
    }
    names = draw(st.lists(st.sampled_from(sorted(pool)), unique=True, max_size=4))
    return {name: draw(pool[name]) for name in names}


def planned(node: Node, given_wishes: dict[str, Any]) -> dict[str, Any]:
    return plan(node, given_wishes, CATALOG, host="node1", today=TODAY)


@relaxed
@given(nodes(), wishes())
def test_plan_is_deterministic_pure_and_json(node: Node, wished: dict[str, Any]) -> None:
    before = copy.deepcopy((node, wished))
    result = planned(node, wished)
    assert result == planned(copy.deepcopy(node), copy.deepcopy(wished))
    assert (node, wished) == before
    assert json.loads(json.dumps(result)) == result


def parts(data: Any) -> set[int]:
    """The identities of all that could be changed in place."""
    if not isinstance(data, (dict, list)):
        return set()
    inner = data.values() if isinstance(data, dict) else data
    return {id(data)}.union(*[parts(item) for item in inner])


@relaxed
@given(nodes(), wishes())
def test_plan_shares_nothing_with_anything(node: Node, wished: dict[str, Any]) -> None:
    first, second = planned(node, wished), planned(node, wished)
    assert not parts(first) & parts([node, wished]) and not parts(first) & parts(second)
    assert not parts(first) & parts(DEFAULT_WISHES)


@relaxed
@given(nodes(), wishes())
def test_order_of_facts_does_not_matter(node: Node, wished: dict[str, Any]) -> None:
    """Candidates come in apt's order, which means nothing."""
    assume(node["apt"]["candidates"])
    shuffled = copy.deepcopy(node)
    shuffled["apt"]["candidates"] = dict(sorted(node["apt"]["candidates"].items(), reverse=True))
    assert planned(node, wished) == planned(shuffled, wished)


@relaxed
@given(nodes(), wishes())
def test_every_action_and_conflict_explains_itself(node: Node, wished: dict[str, Any]) -> None:
    result = planned(node, wished)
    for action in result["actions"]:
        assert action["id"] in ACTIONS and action["summary"] and action["reason"]
        assert action["evidence"] and all(action["evidence"])
    for row in result["conflicts"]:
        assert row["what"] and row["options"] and row["layer"] and row["role"], row
    words = {
        "converged": not result["actions"] and not result["reboot"]["needed"],
        "conflict": bool(result["conflicts"]),
    }
    assert words.get(result["status"], result["status"] == "changes")


@relaxed
@given(nodes(), wishes())
def test_chosen_driver_satisfies_every_requirement(node: Node, wished: dict[str, Any]) -> None:
    result = planned(node, wished)
    assume(result["driver"])
    driver, complete = result["driver"], check(wished)[0]
    rules = collect(
        result["gpus"],
        [CATALOG.frameworks[name] for name in complete["gpuready_workloads"]],
        complete,
        CATALOG,
        Machine(secure_boot=node["host"]["secure_boot"]),
    )
    option = Option(
        int(driver["branch"]),
        CATALOG.sources_named("ubuntu")[0].families[0],
        driver["flavour"],
        driver["install"],
        driver["version"],
        driver["package_version"],
    )
    assert [rule.sentence() for rule in rules if not option.satisfies(rule)] == []
    assert sum(row["bound"] for row in driver["because"]) == bool(rules)
    if driver["version"] and driver["min_required"]:
        assert at_least(driver["version"], driver["min_required"])
    for gpu in result["gpus"]:
        arch = CATALOG.architectures.get(gpu["arch"])
        if arch and arch.last_branch:
            assert int(driver["branch"]) <= arch.last_branch
        if arch and arch.open_modules != "optional":
            assert driver["flavour"] == ("open" if arch.open_modules == "required" else "proprietary")


@st.composite
def possible(draw: st.DrawFn) -> tuple[Node, dict[str, Any]]:
    """A node and wishes that go together."""
    node = bare(
        *draw(st.lists(st.sampled_from(["1eb8", "20b5", "2236", "26b5", "2330"]), min_size=1, max_size=3)),
        branches={},
        docker=draw(st.sampled_from(["20.10.24+dfsg1-1", "25.0.3-1", "28.2.2-1", "29.3.0-1"])),
    )
    for branch in {580, *draw(st.lists(st.sampled_from(sorted(VERSIONS)), max_size=4))}:
        precompiled = draw(st.booleans())
        version = draw(st.sampled_from(VERSIONS[branch])) + "-0ubuntu0.22.04.1"
        node["apt"]["candidates"].update(driver_packages(branch, version, KERNEL, precompiled=precompiled))
    if draw(st.booleans()):
        node["host"]["nouveau"]["loaded"] = True
        node["host"]["gpus"][0]["driver_bound"] = "nouveau"
    if draw(st.booleans()):
        node["container_runtime"]["docker"]["daemon_json"] = daemon_json({"log-driver": "journald"})
    wished = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "gpuready_workloads": st.lists(
                    st.sampled_from(["tensorflow-2.9", "tensorflow-2.14", "tensorflow-2.18"]), max_size=2
                ),
                "nvidia_driver_branch": st.sampled_from(["auto", "580"]),
                "nvidia_driver_flavour": st.sampled_from(["auto", "open", "proprietary"]),
                "nvidia_driver_min_version": st.sampled_from(["", "535", "580"]),
                "nvidia_driver_hold_enabled": st.booleans(),
                "nvidia_driver_persistenced_enabled": st.booleans(),
                "nvidia_container_toolkit_cdi": st.sampled_from(["auto", "disabled"]),
                "nvidia_container_toolkit_version": st.sampled_from(["", "1.17.7", "1.17.8-1"]),
                "nvidia_container_toolkit_default_runtime": st.booleans(),
                "docker_engine_daemon_config": st.sampled_from([{}, {"insecure-registries": ["r:5000"]}]),
                "docker_engine_source": st.sampled_from(["distro", "docker_ce"]),
                "gpu_verify_launch": st.sampled_from(["auto", "gpus", "runtime"]),
            },
        )
    )
    return node, wished


@relaxed
@given(possible())
def test_applied_plan_leaves_nothing_to_do(chosen: tuple[Node, dict[str, Any]]) -> None:
    """What provision.yml does: apply and look again, until nothing is left."""
    node, wished = chosen
    result = planned(node, wished)
    assert result["status"] == "changes", result["conflicts"]
    for _ in range(3):
        node = apply(node, result)
        result = planned(node, wished)
        assert result["status"] != "conflict", result["conflicts"]
        if result["status"] == "converged":
            break
    assert result["status"] == "converged", [a["id"] for a in result["actions"]]
    assert result["actions"] == [] and result["driver"]["keeps_installed"]


@relaxed
@given(
    st.lists(st.sampled_from(GPUS[:-1]), min_size=1, max_size=3),
    st.lists(st.sampled_from(sorted(CATALOG.frameworks)), max_size=3),
    st.sampled_from(sorted(CATALOG.frameworks)),
    st.sampled_from(GPUS[:-1]),
)
def test_adding_a_requirement_never_lowers_the_floor(
    gpus: list[str], workloads: list[str], more: str, another: str
) -> None:
    def floor(devices: list[str], names: list[str], minimum: str) -> Version:
        annotated = planned(bare(*devices), {})["gpus"]
        rules = collect(
            annotated,
            [CATALOG.frameworks[name] for name in dict.fromkeys(names)],
            {**DEFAULT_WISHES, "nvidia_driver_min_version": minimum},
            CATALOG,
        )
        return max((Version(rule.value) for rule in rules if rule.kind == "floor"), default=Version("0"))

    base = floor(gpus, workloads, "")
    assert floor(gpus, [*workloads, more], "") >= base
    assert floor([*gpus, another], workloads, "") >= base
    assert floor(gpus, workloads, "535") >= base


@relaxed
@given(nodes(), wishes(), st.sampled_from(["535", "570.26", "580.95.05"]))
def test_min_required_grows_with_the_users_minimum(node: Node, wished: dict[str, Any], minimum: str) -> None:
    lower = planned(node, {**wished, "nvidia_driver_min_version": ""})
    higher = planned(node, {**wished, "nvidia_driver_min_version": minimum})
    assume(lower["driver"] and higher["driver"] and lower["driver"]["min_required"])
    assert at_least(higher["driver"]["min_required"], lower["driver"]["min_required"])
    assert at_least(higher["driver"]["min_required"], minimum)


@relaxed
@given(st.lists(st.sampled_from(sorted(VERSIONS)), min_size=1, unique=True), st.randoms())
def test_preference_does_not_depend_on_order(branches: list[int], random: Any) -> None:
    source = CATALOG.sources_named("ubuntu")[0]
    options = [
        Option(branch, family, flavour, install)
        for branch in branches
        for family in source.families
        for flavour in ("open", "proprietary")
        for install in ("precompiled", "dkms")
    ]
    first = prefer(options, source, CATALOG, TODAY)
    random.shuffle(options)
    assert prefer(options, source, CATALOG, TODAY) == first


@given(
    st.sampled_from(sorted(CATALOG.frameworks)),
    st.sampled_from(sorted({c.compute_capability for c in CATALOG.chips})),
)
def test_code_for_tells_native_from_jit(name: str, asked: str) -> None:
    framework = CATALOG.frameworks[name]
    how, arch = code_for(framework, asked)
    major = asked.split(".")[0]
    if how == "native":
        assert arch is not None and arch.startswith(f"sm_{major}")
    if how == "unknown":
        assert framework.archs is None
    assert len(limits_of(framework, asked)) <= 1


def test_converged_fixtures_have_an_empty_plan() -> None:
    for name in SCENARIOS:
        if name.endswith(("-converged", "-kept")):
            result = planned(SCENARIOS[name](), {})
            assert (result["status"], result["actions"], result["conflicts"]) == ("converged", [], [])
