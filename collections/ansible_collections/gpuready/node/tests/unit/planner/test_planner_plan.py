"""The plan of typical and awkward nodes: which actions, which conflicts, which driver and why."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import make_fixtures
import pytest
from applied import TODAY, converge
from gpuready.catalog import load_catalog
from gpuready.draft import ACTIONS
from gpuready.observe import schema
from gpuready.plan_framework import pull_reference
from gpuready.planner import plan
from gpuready.render import render
from make_fixtures import SCENARIOS
from observed_nodes import FIXTURES, KERNEL, bare, daemon_json, driver_packages, offer

GOLDEN = Path(__file__).parents[7] / "tests" / "fixtures" / "plans"
CATALOG = load_catalog()

RUNTIME = ["docker.install", "toolkit.install", "toolkit.hold", "docker.service", "toolkit.runtime"]
DRIVER = ["driver.upgrade_guard", "driver.install", "driver.hold", "driver.load", "driver.persistenced"]
BARE = ["apt.refresh_lists", "toolkit.source", "host.nouveau_off", *RUNTIME, "image.fetch", *DRIVER]
NO_DRIVER = ["apt.refresh_lists", "toolkit.source", *RUNTIME, "image.fetch"]


def planned(node: dict[str, Any], **wishes: Any) -> dict[str, Any]:
    return plan(node, wishes, CATALOG, host="node1", today=TODAY)


def load(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))


def ids(result: dict[str, Any]) -> list[str]:
    return [action["id"] for action in result["actions"]]


def conflicts(result: dict[str, Any]) -> list[str]:
    return [row["id"] for row in result["conflicts"]]


def bound(result: dict[str, Any]) -> list[str]:
    return [row["rule"] for row in result["driver"]["because"] if row["bound"]]


# name: (actions, conflicts, driver as branch flavour install, what bound)
TABLE: dict[str, tuple[list[str], list[str], str | None, str | None]] = {
    "a100-jammy-bare": (BARE, [], "580 open precompiled", "ptx-jit"),
    "a100-jammy-converged": ([], [], "580 open precompiled", "ptx-jit"),
    "a100-jammy-no-apt-lists": (BARE, [], "580 open precompiled", "ptx-jit"),
    "a100-jammy-old-apt-lists": (BARE, [], "580 open precompiled", "ptx-jit"),
    "a100-jammy-secure-boot": (BARE, [], "580 open precompiled", "ptx-jit"),
    "a100-jammy-secure-boot-dkms-only": (NO_DRIVER, ["driver.secure_boot"], None, None),
    "a100-jammy-dkms-only": (BARE, [], "580 open dkms", "ptx-jit"),
    "a100-jammy-broken-daemon-json": ([], ["docker.daemon_json_invalid"], "580 open precompiled", "ptx-jit"),
    "a100-jammy-foreign-runtime": ([], ["docker.setting_differs"], "580 open precompiled", "ptx-jit"),
    "a100-jammy-hook-newer-than-dockerd": (["docker.restart"], [], "580 open precompiled", "ptx-jit"),
    "a100-jammy-another-driver-loaded": (["driver.reload"], [], "580 open precompiled", "ptx-jit"),
    "a100-jammy-reboot-pending": (["host.reboot"], [], "580 open precompiled", "ptx-jit"),
    "a100-jammy-new-kernel": (
        ["driver.install", "driver.hold", "driver.load"],
        [],
        "580 open precompiled",
        "ptx-jit",
    ),
    "a100-jammy-535-kept": ([], [], "535 proprietary precompiled", "ptx-jit"),
    "a100-jammy-runfile-driver": (NO_DRIVER, ["driver.foreign"], None, None),
    "a100-jammy-snap-docker": (
        [
            "apt.refresh_lists",
            "toolkit.source",
            "host.nouveau_off",
            "toolkit.install",
            "toolkit.hold",
            "toolkit.runtime",
            "image.fetch",
            *DRIVER,
            "toolkit.cdi",
        ],
        ["docker.snap"],
        "580 open precompiled",
        "ptx-jit",
    ),
    "a100-jammy-user-settings": (["toolkit.runtime"], [], "580 open precompiled", "ptx-jit"),
    "a100-jammy-disk-full": (BARE, ["framework.disk_full"], "580 open precompiled", "ptx-jit"),
    "a100-jammy-registry-down": (BARE, ["framework.registry_unreachable"], "580 open precompiled", "ptx-jit"),
    "a100-jammy-passthrough": ([], ["host.gpu_passthrough"], None, None),
    "a100-nvswitch-jammy-bare": (
        [*BARE[:-1], "driver.fabricmanager", BARE[-1]],
        [],
        "580 open precompiled",
        "ptx-jit",
    ),
    "a100-jammy-next-kernel-without-module": (
        ["host.reboot"],
        ["driver.next_boot_without_module"],
        "580 open precompiled",
        "ptx-jit",
    ),
    "a100-bookworm-bare": (
        [*BARE[: BARE.index("driver.upgrade_guard")], "driver.source", *DRIVER],
        [],
        "535 proprietary dkms",
        "ptx-jit",
    ),
    "a100-fedora-bare": ([], ["host.os_unsupported"], None, None),
    "a100-arm64-bare": ([], ["host.arch_unsupported"], None, None),
    "t4-noble-bare": ([*BARE, "toolkit.cdi"], [], "580 open precompiled", "user-minimum"),
    "t4-noble-converged": ([], [], "580 open precompiled", "user-minimum"),
    "t4-jammy-nouveau-bound": (
        [i for i in BARE if i != "driver.load"] + ["host.reboot"],
        [],
        "580 open precompiled",
        "user-minimum",
    ),
    "k80-jammy-bare": (BARE, [], "470 proprietary precompiled", "gpu-last-branch"),
    "v100-a100-jammy-bare": (BARE, [], "535 proprietary precompiled", "gpu-last-branch"),
    "v100-rtx5090-jammy-bare": (
        NO_DRIVER,
        ["framework.gpu_unsupported", "driver.contradiction"],
        None,
        None,
    ),
    "v100-jammy-595-installed": ([], ["driver.downgrade"], None, None),
    "rubin-jammy-bare": (NO_DRIVER, ["driver.gpu_unknown"], None, None),
    "no-gpu-jammy-bare": ([], ["host.no_gpu"], None, None),
}


def test_table_covers_all_fixtures() -> None:
    assert set(TABLE) == set(SCENARIOS) == {path.stem for path in FIXTURES.glob("*.json")}


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_fixture_is_what_its_maker_says(name: str) -> None:
    written = (FIXTURES / f"{name}.json").read_text(encoding="utf-8")
    assert written == make_fixtures.text_of(name), "run make_fixtures.py beside this file with PYTHONPATH=.."


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_fixture_keeps_the_contract(name: str) -> None:
    assert schema.complaints(json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("name", sorted(TABLE))
def test_plan_of_fixture(name: str) -> None:
    actions, stands_against, driver, what_bound = TABLE[name]
    result = planned(load(name))
    assert ids(result) == actions
    assert conflicts(result) == stands_against
    assert result["status"] == ("conflict" if stands_against else "changes" if actions else "converged")
    if driver is None:
        assert result["driver"] is None
    else:
        chosen = result["driver"]
        assert f"{chosen['branch']} {chosen['flavour']} {chosen['install']}" == driver
        assert bound(result) == [what_bound]


RECORDED = [
    "a100-jammy-bare",
    "a100-jammy-converged",
    "t4-jammy-nouveau-bound",
    "k80-jammy-bare",
    "a100-jammy-broken-daemon-json",
    "a100-jammy-user-settings",
    "v100-jammy-595-installed",
    "a100-jammy-another-driver-loaded",
    "a100-jammy-next-kernel-without-module",
    "a100-bookworm-bare",
]


@pytest.mark.parametrize("name", RECORDED)
def test_readable_plan_is_as_recorded(name: str) -> None:
    """The text people read; this file, run as a program, records it anew."""
    text = render(plan(load(name), {"gpuready_simulated": True}, CATALOG, host=name, today=TODAY))
    assert text == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 100


# The driver ------------------------------------------------------------


def test_because_lists_every_requirement() -> None:
    because = planned(bare("20b5"))["driver"]["because"]
    assert {row["rule"]: row["requirement"] for row in because} == {
        "cuda-minor": ">=450.80.02",
        "ptx-jit": ">=460.27.03",
        "gpu-first-branch": ">=450",
        "user-minimum": ">=460.27",
        "preference": "branch 580",
        "install": "precompiled",
    }
    assert all(row["text"] and row["source"] and row["basis"] for row in because)


def test_min_required_is_the_highest_floor() -> None:
    assert planned(bare("20b5"))["driver"]["min_required"] == "460.27.03"
    assert planned(bare("1eb8"))["driver"]["min_required"] == "460.27"
    higher = planned(bare("20b5"), nvidia_driver_min_version="535.1")["driver"]
    assert higher["min_required"] == "535.1"
    node = bare("20b5")
    newer = planned(node, gpuready_workloads=["tensorflow-2.9", "tensorflow-2.18"])["driver"]
    assert newer["min_required"] == "555.42.02"


def test_packages_of_the_three_ways() -> None:
    packages = planned(bare("20b5"))["driver"]["packages"]
    version = "580.95.05-0ubuntu0.22.04.2"
    assert packages == [
        {"name": f"linux-modules-nvidia-580-server-open-{KERNEL}", "version": "5.15.0-157.167"},
        {"name": "nvidia-headless-no-dkms-580-server-open", "version": version},
        {"name": "nvidia-utils-580-server", "version": version},
    ]
    packages = planned(load("a100-jammy-dkms-only"))["driver"]["packages"]
    assert [row["name"] for row in packages] == [
        f"linux-headers-{KERNEL}",
        "nvidia-headless-580-server-open",
        "nvidia-utils-580-server",
    ]
    packages = planned(load("a100-jammy-no-apt-lists"))["driver"]["packages"]
    assert [row["version"] for row in packages] == [None, None, None]


def test_lists_that_are_fetched_first_leave_the_version_to_apt() -> None:
    driver = planned(load("a100-jammy-old-apt-lists"))["driver"]
    assert driver["version"] == "580.95.05"
    assert {row["version"] for row in driver["packages"]} == {None}


def test_holds_are_the_closure() -> None:
    held = planned(bare("20b5"))["driver"]["holds"]
    assert {
        "libnvidia-compute-580-server",
        "libnvidia-cfg1-580-server",
        "nvidia-kernel-common-580-server",
        "nvidia-compute-utils-580-server",
        "nvidia-utils-580-server",
        "nvidia-headless-no-dkms-580-server-open",
        f"linux-modules-nvidia-580-server-open-{KERNEL}",
    } <= set(held)
    assert not any("535" in name or name.startswith("linux-headers-") for name in held)
    assert planned(bare("20b5"), nvidia_driver_hold_enabled=False)["driver"]["holds"] == []


def test_nvswitches_need_the_fabric_manager_of_the_same_version() -> None:
    node = load("a100-nvswitch-jammy-bare")
    names = {row["name"]: row["version"] for row in planned(node)["driver"]["packages"]}
    assert names["nvidia-fabricmanager-580"] == "580.95.05-1"
    node["apt"]["candidates"]["nvidia-fabricmanager-580"] = offer("580.82.07-1")
    result = planned(node)
    assert result["driver"]["branch"] == "535" and bound(result) == ["nvswitch"]
    for branch in (535, 580):
        del node["apt"]["candidates"][f"nvidia-fabricmanager-{branch}"]
    result = planned(node)
    assert conflicts(result) == ["driver.not_installable"]
    assert "fabric manager" in result["conflicts"][0]["what"]


def test_transitional_packages_do_not_count() -> None:
    """nvidia-utils-460-server that installs 470 is no branch 460."""
    node = bare("1eb8", branches={470: "470.256.02-0ubuntu0.22.04.1"})
    candidates = driver_packages(460, "470.256.02-0ubuntu0.22.04.1", KERNEL)
    node["apt"]["candidates"].update(candidates)
    assert planned(node)["driver"]["branch"] == "470"
    assert conflicts(planned(node, nvidia_driver_branch="460")) == ["driver.branch_missing"]


def test_supported_long_term_before_newer_production() -> None:
    versions = {580: "580.95.05-0ubuntu1", 595: "595.71.05-0ubuntu1", 590: "590.48.01-0ubuntu1"}
    node = bare("20b5", branches=versions)
    assert planned(node)["driver"]["branch"] == "580"
    assert plan(node, {}, CATALOG, host="n", today="2030-01-01")["driver"]["branch"] == "580"
    del versions[580]
    assert planned(bare("20b5", branches=versions))["driver"]["branch"] == "595"


def test_secure_boot_that_decides_is_what_bound() -> None:
    node = bare("20b5")
    for flavour in ("-open", ""):
        del node["apt"]["candidates"][f"linux-modules-nvidia-580-server{flavour}-{KERNEL}"]
    assert planned(node)["driver"]["branch"] == "580"
    node["host"]["secure_boot"] = True
    result = planned(node)
    assert result["driver"]["branch"] == "535" and bound(result) == ["secure-boot"]


def test_old_branches_rank_by_kind() -> None:
    node = bare("20b5", branches={525: "525.147.05-0ubuntu1", 470: "470.256.02-0ubuntu1"})
    result = planned(node)
    assert result["driver"]["branch"] == "470"
    assert any("past its end of life" in note for note in result["notes"])


def test_end_of_life_ahead_is_a_note() -> None:
    node = bare("20b5", branches={595: "595.71.05-0ubuntu1"})
    assert any("nears its end of life (2027-03)" in note for note in planned(node)["notes"])


def test_installed_branch_stays_although_a_newer_one_is_there() -> None:
    node = load("a100-jammy-535-kept")
    node["apt"]["candidates"].update(driver_packages(580, "580.95.05-0ubuntu0.22.04.2", KERNEL))
    result = planned(node)
    assert result["status"] == "converged" and result["driver"]["keeps_installed"]
    assert "keep-installed" in [row["rule"] for row in result["driver"]["because"]]


def test_newer_candidate_of_the_same_branch_is_no_reason_to_upgrade() -> None:
    node = load("a100-jammy-converged")
    for name, entry in node["apt"]["candidates"].items():
        if "580" in name:
            entry.update(
                candidate="580.105.08-0ubuntu1", versions=["580.105.08-0ubuntu1", *entry["versions"]]
            )
    assert planned(node)["status"] == "converged"


def test_branch_that_no_longer_suits_is_replaced_upwards() -> None:
    node = load("a100-jammy-535-kept")
    node["apt"]["candidates"].update(driver_packages(580, "580.95.05-0ubuntu0.22.04.2", KERNEL))
    result = planned(node, nvidia_driver_min_version="570")
    assert ids(result) == ["driver.install", "driver.hold", "driver.reload"]
    install = result["actions"][0]
    assert "535.274.02" in install["reason"] and any(
        "nvidia_driver_min_version" in e for e in install["evidence"]
    )
    assert "nvidia-utils-535-server" in result["driver"]["replaces"]
    assert result["driver"]["change"] == "switch" and not result["reboot"]["needed"]
    previous = result["driver"]["previous"]
    assert (previous["version"], previous["branch"], previous["source"]) == ("535.274.02", "535", "ubuntu")
    assert {"name": "nvidia-utils-535-server", "version": "535.274.02-0ubuntu0.22.04.1"} in previous[
        "packages"
    ]
    node["driver"]["processes"] = None
    result = planned(node, nvidia_driver_min_version="570")
    assert ids(result) == ["driver.install", "driver.hold", "host.reboot"]
    assert result["reboot"]["key"] == "driver:535.274.02->580.95.05"


def test_step_back_needs_the_users_word() -> None:
    node = load("v100-jammy-595-installed")
    result = planned(node)
    assert result["conflicts"][0]["options"] == ['set nvidia_driver_branch: "580" to allow the step back']
    assert planned(node, nvidia_driver_branch="580")["driver"]["branch"] == "580"


def test_older_pin_of_the_same_branch_is_a_downgrade_by_the_users_word() -> None:
    node = load("a100-jammy-converged")
    for name, entry in node["apt"]["candidates"].items():
        if "580" in name and "linux" not in name:
            entry["versions"].append("580.82.07-0ubuntu0.22.04.1")
    result = planned(node, nvidia_driver_version="580.82.07")
    assert ids(result)[:2] == ["driver.install", "driver.hold"] and result["driver"]["change"] == "downgrade"
    assert "downgrade the driver to 580.82.07" in result["actions"][0]["summary"]
    assert any("580.95.05" in line for line in result["actions"][0]["evidence"])
    assert result["driver"]["previous"]["version"] == "580.95.05"


def test_pin_is_installed_by_its_full_version() -> None:
    node = bare("20b5")
    for wish in ("580.95.05", "580.95.05-0ubuntu0.22.04.2"):
        driver = planned(node, nvidia_driver_version=wish)["driver"]
        assert driver["package_version"] == "580.95.05-0ubuntu0.22.04.2"
        assert [r["rule"] for r in driver["because"] if r["bound"]] == ["user-version"]


def test_older_pin_is_built_because_precompiled_modules_follow_the_newest() -> None:
    node = bare("20b5")
    for name, entry in node["apt"]["candidates"].items():
        if "580" in name and "linux" not in name:
            entry["versions"].append("580.82.07-0ubuntu0.22.04.1")
    driver = planned(node, nvidia_driver_version="580.82.07")["driver"]
    assert (driver["install"], driver["package_version"]) == ("dkms", "580.82.07-0ubuntu0.22.04.1")


@pytest.mark.parametrize(
    ("wishes", "identifier", "says", "option"),
    [
        ({"nvidia_driver_branch": "58"}, "driver.branch_unknown", "nvidia_driver_branch is '58'", '"580"'),
        ({"nvidia_driver_branch": "581"}, "driver.branch_unknown", "'581'", '"580"'),
        ({"nvidia_driver_branch": "latest"}, "driver.branch_unknown", "'latest'", "auto"),
        ({"nvidia_driver_version": "580.1.1"}, "driver.version_missing", "'580.1.1'", '"580.95.05"'),
        ({"nvidia_driver_version": "5.1"}, "driver.version_unknown", "'5.1'", '""'),
        (
            {"nvidia_driver_version": "455.23"},
            "driver.version_below_floor",
            "455.23 is older than 460.27",
            '""',
        ),
        ({"nvidia_driver_branch": "450"}, "driver.branch_below_floor", "450 is older than 460.27", "auto"),
        ({"nvidia_driver_branch": "570"}, "driver.branch_missing", "'570', which apt cannot install", "auto"),
        (
            {"nvidia_driver_branch": "535", "nvidia_driver_version": "580.95.05"},
            "driver.contradiction",
            "branch 535",
            "nvidia_driver_branch",
        ),
        (
            {"nvidia_driver_min_version": "900"},
            "driver.contradiction",
            ">=900",
            "lower nvidia_driver_min_version",
        ),
        (
            {"nvidia_driver_min_version": "590"},
            "driver.not_installable",
            ">=590",
            "lower nvidia_driver_min_version to 580",
        ),
        (
            {"nvidia_driver_branch": "470", "nvidia_driver_flavour": "open"},
            "driver.contradiction",
            "open modules",
            "auto",
        ),
    ],
)
def test_bad_driver_wishes(wishes: dict[str, Any], identifier: str, says: str, option: str) -> None:
    result = planned(bare("1eb8"), **wishes)
    assert conflicts(result) == [identifier]
    row = result["conflicts"][0]
    assert says in row["what"] and row["because"] and row["role"] == "nvidia_driver"
    assert any(option in text for text in row["options"]), row["options"]
    assert result["driver"] is None and not any(i.startswith("driver.") for i in ids(result))


def test_missing_pin_lists_the_candidates() -> None:
    row = planned(bare("20b5"), nvidia_driver_version="580.1.1")["conflicts"][0]
    assert "580.95.05-0ubuntu0.22.04.2, 535.274.02-0ubuntu0.22.04.1" in row["because"][0]


def test_contradiction_is_the_smallest_set() -> None:
    result = planned(bare("1db4", "2b85"), gpuready_workloads=["tensorflow-2.20"])
    row = result["conflicts"][0]
    assert row["id"] == "driver.contradiction" and len(row["because"]) == 2
    assert "Tesla V100" in row["because"][0] and "RTX 5090" in row["because"][1]
    assert any("node of its own" in text for text in row["options"])


def test_no_driver_at_all_names_the_component() -> None:
    result = planned(bare("20b5", branches={}))
    assert conflicts(result) == ["driver.not_installable"]
    assert any("restricted" in text for text in result["conflicts"][0]["options"])


def test_no_headers_and_no_modules_is_said() -> None:
    node = load("a100-jammy-dkms-only")
    del node["apt"]["candidates"][f"linux-headers-{KERNEL}"]
    row = planned(node)["conflicts"][0]
    assert row["id"] == "driver.not_installable" and any(KERNEL in text for text in row["because"])
    node["host"]["kernel"]["headers"] = [KERNEL]
    names = [p["name"] for p in planned(node)["driver"]["packages"]]
    assert names == ["nvidia-headless-580-server-open", "nvidia-utils-580-server"]


def test_next_boots_kernel_gets_its_modules_too() -> None:
    node, later = bare("20b5"), "5.15.0-160-generic"
    node["host"]["kernel"].update(next_boot=later, installed=[KERNEL, later])
    result = planned(node)
    assert any(later in note and note.startswith("CAUTION") for note in result["notes"])
    node["apt"]["candidates"].update(
        {f"linux-modules-nvidia-580-server-open-{later}": offer("5.15.0-160.170")}
    )
    result = planned(node)
    names = [row["name"] for row in result["driver"]["packages"]]
    assert f"linux-modules-nvidia-580-server-open-{later}" in names
    assert not any("CAUTION" in note for note in result["notes"])


def test_unknown_gpu_with_branch_and_flavour_named_is_only_noted() -> None:
    result = planned(load("rubin-jammy-bare"), nvidia_driver_branch="580", nvidia_driver_flavour="open")
    assert result["conflicts"] == [] and any("GR100" in note for note in result["notes"])


def test_gpu_that_the_framework_only_lists_is_noted() -> None:
    result = planned(bare("2330"), gpu_verify_level="compute")
    assert result["status"] == "changes"
    assert any("H100" in note and "not verified" in note for note in result["notes"])
    assert any("gpu_verify_level is compute" in note for note in result["notes"])


def test_gh200_needs_open_modules_though_hopper_does_not() -> None:
    assert conflicts(planned(bare("2342"), nvidia_driver_flavour="proprietary")) == ["driver.contradiction"]
    assert planned(bare("2330"), nvidia_driver_flavour="proprietary")["driver"]["flavour"] == "proprietary"


def test_flavour_follows_the_branch_where_the_gpu_leaves_it_open() -> None:
    assert planned(bare("1eb8"))["driver"]["flavour"] == "open"
    assert planned(bare("1eb8"), nvidia_driver_branch="535")["driver"]["flavour"] == "proprietary"
    node = bare("1eb8")
    node["apt"]["candidates"].pop(f"linux-modules-nvidia-580-server-open-{KERNEL}")
    driver = planned(node)["driver"]
    assert (driver["flavour"], driver["install"]) == ("proprietary", "precompiled")


def test_other_flavour_is_installed_and_loaded_anew() -> None:
    node = load("a100-jammy-converged")
    result = planned(node, nvidia_driver_flavour="proprietary")
    assert ids(result) == ["driver.install", "driver.hold", "driver.reload"]
    assert "nvidia-headless-no-dkms-580-server-open" in result["driver"]["replaces"]


# Reboot ------------------------------------------------------------


def test_forbidden_reboot_is_no_action_but_said() -> None:
    result = planned(load("a100-jammy-reboot-pending"), host_reboot_allowed=False)
    assert ids(result) == [] and result["status"] == "changes"
    assert result["reboot"]["needed"] and result["reboot"]["allowed"] is False and result["reboot"]["reason"]
    assert any("reboot node1 yourself" in note for note in result["notes"])


def test_reboot_names_the_containers_it_stops() -> None:
    node = load("a100-jammy-reboot-pending")
    node["container_runtime"]["gpu_containers"] = [{"id": "1", "name": "train", "image": "mine:1"}]
    action = planned(node)["actions"][0]
    assert action["reboot"] and any("train (mine:1)" in line for line in action["evidence"])


def test_nouveau_blacklisted_but_still_loaded_needs_only_the_reboot() -> None:
    node = load("a100-jammy-converged")
    node["host"]["nouveau"].update(loaded=True)
    node["host"]["gpus"][0]["driver_bound"] = "nouveau"
    node["driver"].update(loaded=None, device_nodes=[])
    assert ids(planned(node)) == ["host.reboot"]


def test_nouveau_in_use_and_not_to_be_touched_is_a_conflict() -> None:
    result = planned(load("t4-jammy-nouveau-bound"), host_prepare_nouveau_disabled=False)
    assert conflicts(result) == ["host.nouveau_kept"]


# Bad input ------------------------------------------------------------


def test_unknown_workload_names_the_nearest() -> None:
    result = planned(bare("20b5"), gpuready_workloads=["tensorflow-2.9", "tensorflow-2.90"])
    assert conflicts(result) == ["framework.workload_unknown"]
    row = result["conflicts"][0]
    assert "gpuready_workloads" in row["what"] and "'tensorflow-2.90'" in row["what"]
    assert row["options"][0] == "set gpuready_workloads: [tensorflow-2.9]"
    assert result["driver"] is None


def test_workload_without_an_image_counts_for_the_driver_only() -> None:
    result = planned(bare("20b5"), gpuready_workloads=["tensorflow-2.9", "pytorch-2.11-cu130"])
    assert [row["name"] for row in result["workloads"]] == ["tensorflow-2.9"]
    assert result["driver_only"] == ["pytorch-2.11-cu130"]
    assert result["driver"]["min_required"] == "580.65.06"
    assert any("pytorch-2.11-cu130 has no image" in note for note in result["notes"])
    assert "pytorch-2.11-cu130 (no image: the driver only)" in render(result)
    alone = planned(load("a100-jammy-converged"), gpuready_workloads=["pytorch-2.5-cu124"])
    assert (alone["status"], alone["workloads"]) == ("converged", [])


def test_wish_of_a_wrong_type_is_a_conflict_of_its_role() -> None:
    result = planned(bare("20b5"), host_reboot_max="often")
    assert [(row["id"], row["role"]) for row in result["conflicts"]] == [("wishes.invalid", "host_reboot")]


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({"runtimes": {"nvidia": {"path": "/opt/other", "args": []}}}, "runtimes.nvidia"),
        ({"runtimes": []}, "runtimes"),
        ({"log-driver": "journald"}, "log-driver"),
    ],
)
def test_daemon_json_that_says_something_else(content: dict[str, Any], path: str) -> None:
    node = load("a100-jammy-converged")
    node["container_runtime"]["docker"]["daemon_json"] = daemon_json(content)
    result = planned(node, docker_engine_daemon_config={"log-driver": "json-file"})
    assert conflicts(result)[0] == "docker.setting_differs"
    assert f"sets {path} to " in result["conflicts"][0]["what"]


def test_daemon_json_that_means_the_same_is_left_alone() -> None:
    node = load("a100-jammy-converged")
    content = {"runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime", "runtimeArgs": []}}}
    node["container_runtime"]["docker"]["daemon_json"] = daemon_json(content)
    assert planned(node)["status"] == "converged"


def test_wished_daemon_config_that_cannot_be() -> None:
    result = planned(bare("20b5"), docker_engine_daemon_config={"debug": "yes"})
    assert conflicts(result) == ["docker.daemon_config_invalid"]
    result = planned(bare("20b5"), docker_engine_daemon_config={"runtimes": {"nvidia": {"path": "/x"}}})
    assert conflicts(result) == ["docker.daemon_config_contradiction"]


def test_registry_matters_only_while_the_image_is_missing() -> None:
    node = load("a100-jammy-converged")
    node["framework"]["endpoints"][0].update(reachable=False, error="refused")
    assert planned(node)["status"] == "converged"
    down = load("a100-jammy-registry-down")
    assert planned(down, framework_image_archive="/srv/tf.tar")["conflicts"] == []
    assert planned(down, framework_image_registry_check_enabled=False)["conflicts"] == []


def test_disk_is_that_of_dockers_own_folder() -> None:
    node = load("a100-jammy-disk-full")
    node["disk"].append({"path": "/data/docker", "total_mib": 90000, "free_mib": 80000})
    node["container_runtime"]["docker"]["daemon_json"] = daemon_json({"data-root": "/data/docker"})
    assert planned(node)["conflicts"] == []


def test_image_of_unknown_size_is_noted() -> None:
    result = planned(load("a100-jammy-disk-full"), gpuready_workloads=["tensorflow-2.8"])
    assert result["conflicts"] == [] and any("size of tensorflow" in note for note in result["notes"])


@pytest.mark.parametrize("version", ["99.9", "1.16.0"])
def test_toolkit_pin_that_apt_has_not(version: str) -> None:
    node = load("a100-jammy-converged")
    result = planned(node, nvidia_container_toolkit_version=version)
    assert conflicts(result) == ["toolkit.version_missing"]
    assert "1.17.8-1, 1.17.7-1" in result["conflicts"][0]["because"][0]
    assert planned(node, nvidia_container_toolkit_version="1.17.8")["status"] == "converged"


def test_docker_pin() -> None:
    node = bare("20b5")
    assert conflicts(planned(node, docker_engine_version="99")) == ["docker.version_missing"]
    result = planned(node, docker_engine_version="24.0.7")
    assert result["container_runtime"]["docker"]["packages"] == [
        {"name": "docker.io", "version": "24.0.7-0ubuntu4"}
    ]
    assert planned(load("a100-jammy-converged"), docker_engine_version="24.0.7")["status"] == "converged"


def test_fresh_lists_without_the_package_are_a_conflict_not_a_loop() -> None:
    node = bare("20b5")
    del node["apt"]["candidates"]["docker.io"]
    sourced = converge(bare("20b5"))["apt"]["sources"]
    node["apt"]["sources"] = sourced
    result = planned(node)
    assert conflicts(result) == ["toolkit.not_installable", "docker.not_installable"]
    node["apt"]["lists_age_seconds"] = 7200.0
    assert planned(node)["conflicts"] == [] and "apt.refresh_lists" in ids(planned(node))


def test_source_that_is_newer_than_the_lists_means_fetching_them() -> None:
    """A run was cut off between the source and its lists."""
    node = bare("20b5")
    node["apt"]["sources"] = converge(bare("20b5"))["apt"]["sources"]
    node["apt"]["lists_age_seconds"] = None
    result = planned(node)
    assert result["conflicts"] == []
    (refresh,) = [action for action in result["actions"] if action["id"] == "apt.refresh_lists"]
    assert refresh["evidence"] == ["a source of packages is newer than apt's lists"]


# The container runtime ------------------------------------------------------------


@pytest.mark.parametrize(
    ("docker", "enabled", "flag", "way"),
    [
        ("20.10.24+dfsg1-1", False, False, "gpus"),
        ("24.0.7-0ubuntu4", False, False, "gpus"),
        ("25.0.3-0ubuntu1", True, True, "gpus"),
        ("28.1.1-0ubuntu1", True, True, "gpus"),
        ("28.2.2-0ubuntu1", True, False, "gpus"),
        ("29.2.0-0ubuntu1", True, False, "gpus"),
    ],
)
def test_cdi_follows_dockers_version(docker: str, enabled: bool, flag: bool, way: str) -> None:
    node = bare("20b5", docker=docker)
    for observed in (node, converge(node)):
        runtime = planned(observed)["container_runtime"]
        assert (runtime["toolkit"]["cdi"]["enabled"], runtime["toolkit"]["cdi"]["feature_flag"]) == (
            enabled,
            flag,
        )
        assert runtime["launch"]["way"] == way and runtime["launch"]["reason"]
    assert bool(converge(node)["container_runtime"]["cdi"]["specs"]) is enabled


def test_cdi_wishes() -> None:
    old, new = bare("20b5"), bare("20b5", docker="28.2.2-0ubuntu1")
    assert conflicts(planned(old, nvidia_container_toolkit_cdi="enabled")) == ["toolkit.cdi_unsupported"]
    assert conflicts(planned(old, gpu_verify_launch="cdi")) == ["toolkit.launch_cdi"]
    assert not planned(new, nvidia_container_toolkit_cdi="disabled")["container_runtime"]["toolkit"]["cdi"][
        "enabled"
    ]
    assert planned(new, gpu_verify_launch="cdi")["container_runtime"]["launch"]["way"] == "cdi"
    off = {"features": {"cdi": False}}
    assert conflicts(
        planned(new, nvidia_container_toolkit_cdi="enabled", docker_engine_daemon_config=off)
    ) == ["toolkit.cdi_contradiction"]


def test_cdi_switched_off_on_the_node_is_respected_unless_asked_for_by_name() -> None:
    node = converge(bare("20b5", docker="28.2.2-0ubuntu1"))
    content = {**node["container_runtime"]["docker"]["daemon_json"]["content"], "features": {"cdi": False}}
    node["container_runtime"]["docker"]["daemon_json"] = daemon_json(content)
    node["container_runtime"]["docker"]["live"]["cdi_spec_dirs"] = None
    assert planned(node)["status"] == "converged"
    result = planned(node, nvidia_container_toolkit_cdi="enabled")
    assert result["conflicts"] == [] and ids(result) == ["toolkit.runtime"]
    assert result["container_runtime"]["toolkit"]["cdi"]["feature_flag"]


def test_hook_off_dockerds_path_launches_by_the_runtime() -> None:
    node = load("a100-jammy-converged")
    node["container_runtime"]["toolkit"]["hook_on_dockerd_path"] = False
    result = planned(node)
    assert result["status"] == "converged"
    assert result["container_runtime"]["launch"]["way"] == "runtime"


def test_docker_from_elsewhere_is_kept() -> None:
    node = load("a100-jammy-converged")
    node["container_runtime"]["docker"]["package"] = "docker-ce"
    result = planned(node)
    assert result["status"] == "converged" and any(
        "is installed and kept" in note for note in result["notes"]
    )
    distro = load("a100-jammy-converged")
    assert conflicts(planned(distro, docker_engine_source="docker_ce")) == ["docker.other_package"]


def test_docker_ce_brings_its_source() -> None:
    result = planned(bare("20b5"), docker_engine_source="docker_ce")
    assert "docker.source" in ids(result) and result["status"] == "changes"
    assert [p["name"] for p in result["container_runtime"]["docker"]["packages"]] == [
        "docker-ce",
        "docker-ce-cli",
        "containerd.io",
    ]


def test_reload_spares_the_containers_and_restart_names_them() -> None:
    node = load("a100-jammy-user-settings")
    action = planned(node)["actions"][0]
    assert action["restarts"] == [] and any("reload" in line for line in action["evidence"])
    action = planned(node, docker_engine_daemon_config={"features": {"buildkit": True}})["actions"][0]
    assert action["id"] == "docker.daemon_config" and action["restarts"] == ["docker"]
    assert any("train (mine:1)" in line for line in action["evidence"])
    node["container_runtime"]["docker"]["live"]["live_restore"] = True
    action = planned(node, docker_engine_daemon_config={"features": {"buildkit": True}})["actions"][0]
    assert any("live-restore" in line for line in action["evidence"])


def test_default_runtime_on_wish() -> None:
    node = load("a100-jammy-converged")
    result = planned(node, nvidia_container_toolkit_default_runtime=True)
    assert ids(result) == ["toolkit.runtime"]
    assert converge(node, nvidia_container_toolkit_default_runtime=True)


def test_user_config_survives_and_is_live() -> None:
    wished = {
        "insecure-registries": ["registry:5000"],
        "registry-mirrors": ["http://mirror:5000"],
        "mtu": 1400,
    }
    node = converge(bare("20b5"), docker_engine_daemon_config=wished)
    node["container_runtime"]["docker"]["live"]["insecure_registries"] = ["127.0.0.0/8"]
    result = planned(node, docker_engine_daemon_config=wished)
    assert ids(result) == ["docker.restart"]
    assert "insecure-registries: registry:5000" in result["actions"][0]["evidence"][0]


# Images ------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "mirror", "expected"),
    [
        ("tensorflow/tensorflow:2.9.0-gpu", "", "tensorflow/tensorflow:2.9.0-gpu"),
        ("tensorflow/tensorflow:2.9.0-gpu", "r:5000", "r:5000/tensorflow/tensorflow:2.9.0-gpu"),
        ("tensorflow/tensorflow:2.9.0-gpu", "https://r/hub/", "r/hub/tensorflow/tensorflow:2.9.0-gpu"),
        ("nvcr.io/nvidia/tensorflow:24.01", "r:5000", "r:5000/nvidia/tensorflow:24.01"),
        ("localhost:5000/x:1", "r:5000", "r:5000/x:1"),
    ],
)
def test_pull_reference(image: str, mirror: str, expected: str) -> None:
    assert pull_reference(image, mirror) == expected


def test_images_are_found_under_any_spelling() -> None:
    node = load("a100-jammy-converged")
    node["framework"]["images"][0]["ref"] = "docker.io/tensorflow/tensorflow:2.9.0-gpu"
    assert planned(node)["status"] == "converged"


def test_second_workload_fetches_only_its_image() -> None:
    node = load("a100-jammy-converged")
    result = planned(node, gpuready_workloads=["tensorflow-2.9", "tensorflow-2.14"])
    assert ids(result) == ["image.fetch"]
    assert [row["present"] for row in result["workloads"]] == [True, False]


# The plan as such ------------------------------------------------------------


def test_actions_have_their_place_and_role() -> None:
    for name in SCENARIOS:
        result = planned(load(name))
        order = list(ACTIONS)
        assert ids(result) == sorted(ids(result), key=order.index)
        for action in result["actions"]:
            assert (action["role"], action["layer"]) == ACTIONS[action["id"]]


def test_observation_and_wishes_are_left_as_they_were() -> None:
    node, wishes = bare("20b5"), {"docker_engine_daemon_config": {"mtu": 1400}}
    before = copy.deepcopy((node, wishes))
    result = plan(node, wishes, CATALOG, host="n", today=TODAY)
    result["container_runtime"]["docker"]["daemon_config"]["mtu"] = 1
    assert (node, wishes) == before


def test_plan_says_simulated() -> None:
    assert planned(bare("20b5"), gpuready_simulated=True)["simulated"] is True
    assert planned(bare("20b5"))["simulated"] is False


def test_unknown_facts_are_not_taken_for_absent() -> None:
    """A probe that failed leaves null; the plan does not repair what it cannot see."""
    node = load("a100-jammy-converged")
    node["driver"].update(on_disk=None, device_nodes=None)
    node["driver"]["persistenced"] = {"installed": None, "enabled": None, "active": None}
    node["container_runtime"]["docker"]["service"].update(active=None, enabled=None)
    node["problems"] = [{"probe": "driver.on_disk", "error": "modinfo is not installed"}]
    result = planned(node)
    assert result["status"] == "converged"
    assert any("modinfo" in note for note in result["notes"])


def test_empty_observation_is_a_conflict_and_no_crash() -> None:
    result = planned({})
    assert set(conflicts(result)) == {"host.os_unsupported", "host.arch_unsupported", "host.gpus_unknown"}


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for fixture in RECORDED:
        recorded = plan(load(fixture), {"gpuready_simulated": True}, CATALOG, host=fixture, today=TODAY)
        (GOLDEN / f"{fixture}.txt").write_text(render(recorded), encoding="utf-8")
