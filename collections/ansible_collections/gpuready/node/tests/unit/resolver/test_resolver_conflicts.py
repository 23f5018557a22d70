"""No driver suits: what stands against it, the fewest requirements that do, and the ways out."""

from __future__ import annotations

from typing import Any

import pytest
from resolver_world import (
    KERNELS,
    Node,
    ask,
    bound,
    cuda_repo,
    debian,
    hold,
    install_option,
    node,
    ubuntu,
)

K22, K24 = KERNELS["ubuntu-22.04"], KERNELS["ubuntu-24.04"]
U580 = ubuntu("580.95.05-0ubuntu0.22.04.1", K22)
U535 = ubuntu("535.274.02-0ubuntu0.22.04.1", K22)
U595 = ubuntu("595.71.05-0ubuntu0.22.04.1", K22)


def refusal(observed: Node, workloads: str = "", **wishes: Any) -> dict[str, Any]:
    """The only conflict."""
    result = ask(observed, workloads, **wishes)
    assert result.option is None and len(result.conflicts) == 1, (result.option, result.conflicts)
    row = result.conflicts[0]
    assert set(row) == {"id", "layer", "role", "what", "because", "options"}
    assert row["because"] and row["options"] and len(set(row["options"])) == len(row["options"])
    return row


def says(
    row: dict[str, Any], identifier: str, what: list[str], because: list[str], options: list[str]
) -> None:
    assert row["id"] == identifier
    for text in what:
        assert text in row["what"], row["what"]
    assert [any(text in line for line in row["because"]) for text in because] == [True] * len(because), row
    assert [any(text in line for line in row["options"]) for text in options] == [True] * len(options), row


def test_v100_and_a_cu130_wheel() -> None:
    row = refusal(node("V100", "ubuntu-22.04", [U580]), "pytorch-2.11-cu130")
    says(
        row,
        "framework.gpu_unsupported",
        ["pytorch-2.11-cu130", "Tesla V100", "compute capability 7.0"],
        ["its wheel carries sm_75", "PTX (compute_120) is for newer GPUs only"],
        ["replace pytorch-2.11-cu130 by pytorch-2.11-cu126 or", "take pytorch-2.11-cu130 out"],
    )
    assert not any("drain" in way for way in row["options"])


def test_v100_beside_others_may_be_drained_for_a_wheel() -> None:
    row = refusal(node("A100,V100", "ubuntu-22.04", [U580]), "pytorch-2.11-cu130")
    assert any("(0000:3c:00.0)" in way and "vfio-pci" in way for way in row["options"])


def test_other_workloads_that_are_named_do_fit() -> None:
    observed = node("V100,A100", "ubuntu-22.04", [U580])
    row = refusal(observed, "pytorch-2.11-cu130,tensorflow-2.9")
    way = next(way for way in row["options"] if way.startswith("replace "))
    named = way.split(" by ")[1].split(" in ")[0].split(" or ")
    assert named[0].startswith("pytorch-2.11")
    for name in named:
        assert ask(observed, f"{name},tensorflow-2.9").option is not None


def test_pascal_beside_blackwell() -> None:
    row = refusal(node("P100,B200", "ubuntu-24.04", []))
    says(
        row,
        "driver.contradiction",
        ["proprietary modules (Tesla P100", "open modules (B200"],
        ["the open kernel modules begin with Turing", "works with the open kernel modules only"],
        ["move Tesla P100 PCIe 16GB (0000:3b:00.0)", "move B200 (0000:3c:00.0)"],
    )
    assert len(row["because"]) == 2


def test_kepler_on_24_04() -> None:
    row = refusal(node("K80", "ubuntu-24.04", [ubuntu("580.95.05-0ubuntu0.24.04.1", K24)]), "tensorflow-2.9")
    says(
        row,
        "driver.not_installable",
        ["<=470 (Tesla K80 (kepler))"],
        ["the last branch that supports this GPU", "apt offers: 580.95.05"],
        ["install Ubuntu 22.04, whose archive has branch 470", "this one's only GPUs are Tesla K80"],
    )


def test_kepler_and_a_wheel_that_wants_535() -> None:
    row = refusal(node("K80", "ubuntu-22.04", []), "pytorch-2.4-cu121")
    assert row["id"] == "framework.gpu_unsupported"
    # Its code is there (sm_37), but CUDA 11.8's PTX is not asked for: the driver's floor and ceiling fit.
    assert ask(
        node("K80", "ubuntu-22.04", [ubuntu("470.256.02-0ubuntu0.22.04.1", K22)]), "pytorch-2.4-cu118"
    ).option


def test_floor_against_the_last_branch() -> None:
    row = refusal(node("V100", "ubuntu-22.04", [U595]), "", min_version="590")
    says(
        row,
        "driver.contradiction",
        ["<=580 (Tesla V100", ">=590 (nvidia_driver_min_version)"],
        ["the site's own minimum"],
        ["lower nvidia_driver_min_version to 580 or less"],
    )


def test_secure_boot_with_only_dkms() -> None:
    row = refusal(node("A100", "ubuntu-22.04", [ubuntu("580.95.05-0ubuntu0.22.04.1")], secure_boot=True))
    says(
        row,
        "driver.secure_boot",
        ["Secure Boot is on", K22],
        ["no trusted key has signed", "dkms"],
        [
            "update-secureboot-policy --new-key && mokutil --import /var/lib/shim-signed/mok/MOK.der",
            "precompiled modules",
            "switch Secure Boot off",
        ],
    )
    known = node("A100", "ubuntu-22.04", [ubuntu("580.95.05-0ubuntu0.22.04.1")], secure_boot=True)
    known["host"]["mok"]["key"] = "/var/lib/shim-signed/mok/MOK.der"
    assert "--new-key" not in refusal(known)["options"][0]


def test_secure_boot_on_debian_names_dkms_own_key() -> None:
    row = refusal(node("A100", "debian-13", [debian("550.163.01-2")], secure_boot=True))
    assert "dkms generate_mok && mokutil --import /var/lib/dkms/mok.pub" in row["options"][0]


def test_secure_boot_unknown_prefers_what_is_signed_and_notes_what_is_not() -> None:
    both = ask(node("A100", "ubuntu-22.04", [U580], secure_boot=None))
    assert both.option and both.option.install == "precompiled" and not both.notes
    built = ask(node("A100", "ubuntu-22.04", [ubuntu("580.95.05-0ubuntu0.22.04.1")], secure_boot=None))
    assert built.option and built.option.install == "dkms"
    assert any("Secure Boot" in note for note in built.notes)


def _installed(*offers: Any, later: tuple[Any, ...] = (), workloads: str = "", **wishes: Any) -> Node:
    """A node on which the first answer was installed, and the archive that it sees afterwards."""
    first = node("A100", "ubuntu-22.04", list(offers))
    after = install_option(first, ask(first, workloads, **wishes))
    seen = node("A100", "ubuntu-22.04", [*offers, *later])["apt"]["candidates"]
    for name, entry in after["apt"]["candidates"].items():
        seen.setdefault(name, entry)["installed"] = entry["installed"]
    after["apt"]["candidates"] = seen
    return after


def test_hold_that_blocks() -> None:
    held = hold(_installed(U535, later=(U580,)), "nvidia-utils")
    row = refusal(held, "pytorch-2.11-cu130")
    says(
        row,
        "driver.held",
        ["on hold", ">=580.65.06 (pytorch-2.11-cu130)"],
        ["somebody put nvidia-utils-535-server on hold"],
        ["apt-mark unhold nvidia-utils-535-server", "replace pytorch-2.11-cu130 by pytorch-2.11-cu129"],
    )
    # A wish does not go before a hold either: both are somebody's word.
    assert refusal(held, branch="580")["id"] == "driver.held"
    # Without a need to change there is nothing to say.
    assert ask(held, "tensorflow-2.9").keeps_installed


def test_own_holds_do_not_block() -> None:
    held = hold(_installed(U535, later=(U580,)))
    held["driver"]["record"] = {"held": [package["name"] for package in held["driver"]["packages"]]}
    option = ask(held, "pytorch-2.11-cu130").option
    assert option is not None and option.branch == 580
    # So were those of before there were records.
    held["driver"]["record"] = None
    assert refusal(held, "pytorch-2.11-cu130")["id"] == "driver.held"
    held["apt"]["unattended_upgrades"] = {"guard_file": True}
    assert ask(held, "pytorch-2.11-cu130").option == option


def test_hold_keeps_the_family_and_the_origin_too() -> None:
    """The same branch of another source, not yet known to apt, is another driver."""
    held = hold(_installed(U580), "nvidia-utils")
    row = refusal(held, source="cuda_repo", branch="580")
    assert row["id"] == "driver.held" and any("apt-mark unhold" in way for way in row["options"])
    # A flavour is held by what names it alone.
    assert ask(held, flavour="proprietary").option is not None
    assert refusal(hold(_installed(U580), "headless"), flavour="proprietary")["id"] == "driver.held"


def test_hold_of_what_goes_with_any_driver_blocks_nothing() -> None:
    observed = _installed(U535, later=(U580,))
    observed["driver"]["packages"].append(
        {"name": "nvidia-settings", "version": "510.47.03-0ubuntu1", "held": True, "status": "installed"}
    )
    option = ask(observed, "pytorch-2.11-cu130").option
    assert option is not None and option.branch == 580


def test_hold_of_a_package_that_is_not_there_blocks_its_install() -> None:
    observed = node("A100", "ubuntu-22.04", [U580, U535])
    observed["apt"]["holds"] = ["nvidia-utils-580-server", "some-other-package"]
    option = ask(observed, "tensorflow-2.9").option
    assert option is not None and option.branch == 535
    row = refusal(observed, "pytorch-2.11-cu130")
    says(
        row,
        "driver.held",
        ["on hold"],
        ["nvidia-utils-580-server"],
        ["apt-mark unhold nvidia-utils-580-server"],
    )
    observed["apt"]["holds"] = ["some-other-package"]
    answer = ask(observed, "tensorflow-2.9")
    assert bound(answer) == "ptx-jit" and answer.rules.having("hold") is None


def test_hold_leaves_completing_alone() -> None:
    """A module for the next kernel is added to a driver that is held."""
    observed = hold(_installed(U535))
    new = "5.15.0-160-generic"
    observed["host"]["kernel"]["next_boot"] = new
    more = node("A100", "ubuntu-22.04", [ubuntu("535.274.02-0ubuntu0.22.04.1", K22, new)])
    observed["apt"]["candidates"] = more["apt"]["candidates"]
    option = ask(observed).option
    assert option is not None and option.version == "535.274.02"
    assert f"linux-modules-nvidia-535-server-{new}" in dict(option.packages)


def test_pin_that_vanished() -> None:
    row = refusal(node("A100", "ubuntu-22.04", [U580, U535]), "pytorch-2.11-cu130", version="580.65.06")
    says(
        row,
        "driver.version_missing",
        ["'580.65.06'"],
        ["580.95.05-0ubuntu0.22.04.1, 535.274.02"],
        ['set nvidia_driver_version: "580.95.05"', "snapshot"],
    )
    assert not any("535" in way for way in row["options"])


def test_pin_that_another_source_has() -> None:
    row = refusal(
        node("A100", "ubuntu-22.04", [U580, cuda_repo("580.65.06-0ubuntu1", "branch-580")]),
        version="580.65.06",
    )
    assert "set nvidia_driver_source: cuda_repo, which has it" in row["options"]


def test_pin_that_vanished_but_is_installed_stays() -> None:
    observed = _installed(ubuntu("580.65.06-0ubuntu0.22.04.1", K22), later=(U580,))
    for entry in observed["apt"]["candidates"].values():
        entry["origins"].pop("580.65.06-0ubuntu0.22.04.1", None)
    assert ask(observed, version="580.65.06").keeps_installed


def test_pin_without_a_module() -> None:
    older = ubuntu("580.95.05-0ubuntu0.22.04.1 580.65.06-0ubuntu0.22.04.1", K22)
    row = refusal(node("A100", "ubuntu-22.04", [older], headers=[]), version="580.65.06")
    says(row, "driver.version_missing", ["580.65.06"], ["no module for kernel"], [f"linux-headers-{K22}"])


@pytest.mark.parametrize(
    ("workloads", "wishes", "identifier", "way"),
    [
        (
            "pytorch-2.11-cu130",
            {"branch": "535"},
            "driver.branch_below_floor",
            "leave nvidia_driver_branch at auto",
        ),
        (
            "pytorch-2.11-cu130",
            {"version": "535.274.02"},
            "driver.version_below_floor",
            "nvidia_driver_version",
        ),
        ("", {"branch": "570"}, "driver.branch_missing", "leave nvidia_driver_branch at auto"),
        ("", {"branch": "999"}, "driver.branch_unknown", 'set nvidia_driver_branch: "'),
        ("", {"version": "newest"}, "driver.version_unknown", 'set nvidia_driver_version: ""'),
        (
            "",
            {"branch": "470", "flavour": "open"},
            "driver.contradiction",
            "leave nvidia_driver_flavour at auto",
        ),
        ("", {"source": "debian"}, "driver.source_unsupported", "set nvidia_driver_source: auto"),
    ],
)
def test_wishes_that_cannot_be(workloads: str, wishes: dict[str, Any], identifier: str, way: str) -> None:
    row = refusal(node("A100", "ubuntu-22.04", [U580, U535]), workloads, **wishes)
    assert row["id"] == identifier
    assert any(way in option for option in row["options"]), row["options"]


def test_transitional_name_of_a_wished_branch_is_named() -> None:
    offers = [
        ubuntu("470.256.02-0ubuntu0.22.04.1", K22),
        ubuntu("470.256.02-0ubuntu0.22.04.1", K22, named=460),
    ]
    row = refusal(node("A100", "ubuntu-22.04", offers), branch="460")
    says(
        row,
        "driver.branch_missing",
        ["'460'"],
        ["nvidia-utils-460-server is a transitional package: it installs 470.256.02"],
        ["470.256.02 would do"],
    )


def test_empty_transitional_version_is_no_driver() -> None:
    """Ubuntu's last 535 for 24.04 says 535, but only brings the branch that follows."""
    last = ubuntu("535.309.01-0ubuntu0.24.04.2", K24)
    row = refusal(
        node("A100", "ubuntu-24.04", [last, ubuntu("580.95.05-0ubuntu0.24.04.1", K24)]), branch="535"
    )
    says(
        row,
        "driver.branch_missing",
        ["'535'"],
        ["535.309.01-0ubuntu0.24.04.2 is an empty transitional"],
        ["580"],
    )
    # The release's own 535 is still there, but the archive's modules are no longer made for it.
    both = ubuntu("535.309.01-0ubuntu0.24.04.2 535.161.08-0ubuntu2.24.04.1", K24)
    option = ask(node("A100", "ubuntu-24.04", [both]), branch="535").option
    assert option is not None and (option.version, option.install, option.exact) == (
        "535.161.08",
        "dkms",
        True,
    )


def test_no_fabric_manager() -> None:
    row = refusal(node("H100", "debian-13", [debian("550.163.01-2")], nvswitches=4))
    says(
        row,
        "driver.not_installable",
        ["a fabric manager (4 NVSwitches)"],
        ["CUDA does not start"],
        ["nvidia-fabricmanager", "set nvidia_driver_source: cuda_repo"],
    )


def test_nothing_for_this_kernel() -> None:
    row = refusal(node("T4", "ubuntu-22.04", [ubuntu("580.95.05-0ubuntu0.22.04.1")], headers=[]))
    says(
        row,
        "driver.not_installable",
        ["fits this node's kernel"],
        [K22],
        ["restricted, multiverse", "boot a kernel"],
    )


def test_rejected_version_only() -> None:
    row = refusal(node("A100", "ubuntu-22.04", [U580], rejected=["580.95.05"]))
    says(
        row,
        "driver.not_installable",
        ["not 580.95.05"],
        ["failed verification on this node"],
        ['set nvidia_driver_version: "580.95.05" to try it once more'],
    )


def test_downgrade_needs_a_word() -> None:
    """V100 on 595, which has dropped it: the only way is back."""
    observed = _installed(U595, later=(U580,))
    observed["host"]["gpus"] = node("V100", "ubuntu-22.04", [])["host"]["gpus"]
    row = refusal(observed)
    says(row, "driver.downgrade", ["595.71.05", "580.95.05"], ["<=580"], ['set nvidia_driver_branch: "580"'])
    option = ask(observed, branch="580").option
    assert option is not None and option.name() == "580-server"


def test_downgrade_within_a_branch_needs_a_word() -> None:
    older = ubuntu("580.95.05-0ubuntu0.22.04.1 580.65.06-0ubuntu0.22.04.1", K22)
    observed = _installed(older)
    observed["driver"]["record"] = {"held": [], "rejected": [{"version": "580.95.05"}]}
    row = refusal(observed)
    says(
        row,
        "driver.downgrade",
        ["580.95.05"],
        ["failed verification"],
        ['nvidia_driver_version: "580.65.06"'],
    )
    option = ask(observed, version="580.65.06").option
    assert option is not None and option.exact and option.install == "dkms"


def test_wishes_that_contradict_each_other_and_more() -> None:
    result = ask(node("K80", "ubuntu-22.04", []), branch="470", version="535.274.02")
    assert all(row["options"] for row in result.conflicts)
    ways = [way for row in result.conflicts for way in row["options"]]
    assert any(way.startswith('leave nvidia_driver_version at ""') for way in ways)


def test_every_independent_contradiction_is_named() -> None:
    result = ask(node("P100,B200,K80", "ubuntu-22.04", []), "", min_version="700")
    sets = [row["what"] for row in result.conflicts]
    assert len(sets) == 2 and any(">=700" in text for text in sets)
    assert any("proprietary modules" in text or "<=470" in text for text in sets)
