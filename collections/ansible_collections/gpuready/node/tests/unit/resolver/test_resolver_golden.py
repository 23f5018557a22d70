"""Golden cases: which driver suits, how it comes, and which rule decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from resolver_world import (
    CATALOG,
    KERNELS,
    Offer,
    ask,
    bound,
    cuda_repo,
    debian,
    install_option,
    node,
    ubuntu,
)

K22, K24 = KERNELS["ubuntu-22.04"], KERNELS["ubuntu-24.04"]


def _ubuntu(system: str, *versions: str) -> list[Offer]:
    """An archive whose branches all have precompiled modules for the kernel that a fresh node runs."""
    release = system.partition("-")[2]
    return [ubuntu(f"{version}-0ubuntu0.{release}.1", KERNELS[system]) for version in versions]


# What the archives had in November 2026, one version per branch.
ARCHIVES = {
    "ubuntu-18.04": _ubuntu("ubuntu-18.04", "450.248.02", "470.256.02"),
    "ubuntu-20.04": _ubuntu("ubuntu-20.04", "450.248.02", "470.256.02", "535.274.02"),
    "ubuntu-22.04": _ubuntu("ubuntu-22.04", "470.256.02", "535.274.02", "580.95.05", "595.71.05"),
    "ubuntu-24.04": _ubuntu(
        "ubuntu-24.04", "535.274.02", "570.195.03", "580.95.05", "590.48.01", "595.71.05"
    ),
    "ubuntu-26.04": _ubuntu("ubuntu-26.04", "580.126.09", "595.71.05"),
    "debian-11": [
        debian("535.309.01-0+deb11u1 470.256.02-2", flavours=("proprietary",)),
        debian("470.256.02-1~deb11u1", "tesla", flavours=("proprietary",)),
    ],
    "debian-12": [
        debian("535.309.01-0+deb12u1 535.261.03-1", open_versions=["535.261.03-1"]),
        debian("470.256.02-1~deb12u1", "tesla"),
        debian("535.216.03-3~deb12u1", "tesla"),
    ],
    "debian-13": [debian("550.163.01-2"), debian("535.274.02-1~deb13u1", "tesla")],
}
CUDA_22 = [
    cuda_repo("550.163.01-0ubuntu1", "branch"),
    cuda_repo("580.95.05-0ubuntu1 580.65.06-0ubuntu1", "branch-580"),
    cuda_repo("610.43.02-1ubuntu1 595.71.05-1ubuntu1 595.58.03-1ubuntu1 590.48.01-1ubuntu1"),
]
CUDA_D12 = [cuda_repo("595.45.04-1 590.48.01-1 580.95.05-1")]


@dataclass
class Case:
    name: str
    gpus: str
    system: str
    driver: str  # as Option.name() says it, with the upstream version: "580-server-open 580.95.05"
    binds: str  # the rule that decided
    workloads: str = ""
    wishes: dict[str, Any] = field(default_factory=dict)
    install: str = "precompiled"
    more: list[Offer] = field(default_factory=list)
    archive: list[Offer] | None = None
    node: dict[str, Any] = field(default_factory=dict)
    exact: bool = False
    reboot: bool = False
    kernel: str | None = None
    lost: str | None = None
    source: str | None = None


NEXT22 = "5.15.0-160-generic"
OLD22 = "5.15.0-100-generic"
SB = {"secure_boot": True}
MOK = {"secure_boot": True, "mok": True}

CASES = [
    # The GPU alone decides: the preferred branch is the supported long-term one.
    Case("t4", "T4", "ubuntu-22.04", "580-server-open 580.95.05", "gpu-first-branch"),
    Case("a100", "A100", "ubuntu-22.04", "580-server-open 580.95.05", "gpu-first-branch"),
    Case("a10", "A10", "ubuntu-24.04", "580-server-open 580.95.05", "gpu-first-branch"),
    Case("l4", "L4", "ubuntu-24.04", "580-server-open 580.95.05", "gpu-first-branch"),
    Case("h100", "H100", "ubuntu-22.04", "580-server-open 580.95.05", "gpu-first-branch"),
    Case("h100-26.04", "H100", "ubuntu-26.04", "580-server-open 580.126.09", "gpu-first-branch"),
    Case("gh200-needs-open", "GH200", "ubuntu-24.04", "580-server-open 580.95.05", "gpu-first-branch"),
    Case("b200-needs-its-first-driver", "B200", "ubuntu-24.04", "580-server-open 580.95.05", "gpu-product"),
    Case("b300", "B300", "ubuntu-24.04", "580-server-open 580.95.05", "gpu-product"),
    Case("rtx-pro-6000", "RTX PRO 6000", "ubuntu-24.04", "580-server-open 580.95.05", "gpu-product"),
    Case("v100-takes-proprietary", "V100", "ubuntu-22.04", "580-server 580.95.05", "open-impossible"),
    Case("p100", "P100", "ubuntu-24.04", "580-server 580.95.05", "open-impossible"),
    Case("m60", "M60", "ubuntu-22.04", "580-server 580.95.05", "open-impossible"),
    Case("k80-last-branch-is-470", "K80", "ubuntu-22.04", "470-server 470.256.02", "gpu-last-branch"),
    Case("k80-20.04", "K80", "ubuntu-20.04", "470-server 470.256.02", "gpu-last-branch"),
    Case("t4-18.04-only-old-branches", "T4", "ubuntu-18.04", "470-server 470.256.02", "gpu-first-branch"),
    # The last branch that a GPU has keeps the newest away where the long-term one is missing.
    Case(
        "v100-without-580-takes-535",
        "V100",
        "ubuntu-22.04",
        "535-server 535.274.02",
        "gpu-last-branch",
        archive=_ubuntu("ubuntu-22.04", "535.274.02", "595.71.05"),
    ),
    # Mixed GPUs: all limits together.
    Case("v100-beside-a100", "V100,A100", "ubuntu-22.04", "580-server 580.95.05", "gpu-first-branch"),
    Case("t4-beside-b200", "T4,B200", "ubuntu-24.04", "580-server-open 580.95.05", "gpu-product"),
    Case("k80-beside-a100", "K80,A100", "ubuntu-22.04", "470-server 470.256.02", "gpu-last-branch"),
    Case("l4-beside-h100", "L4,H100", "ubuntu-22.04", "580-server-open 580.95.05", "gpu-first-branch"),
    # TensorFlow.
    Case(
        "tf29-t4-native-code",
        "T4",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "cuda-minor",
        "tensorflow-2.9",
    ),
    Case("tf29-a100-ptx", "A100", "ubuntu-22.04", "580-server-open 580.95.05", "ptx-jit", "tensorflow-2.9"),
    Case(
        "tf29-h100-gpu-needs-more",
        "H100",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        "tensorflow-2.9",
    ),
    Case("tf29-k80", "K80", "ubuntu-20.04", "470-server 470.256.02", "gpu-last-branch", "tensorflow-2.9"),
    Case("tf29-v100", "V100", "ubuntu-22.04", "580-server 580.95.05", "cuda-minor", "tensorflow-2.9"),
    Case(
        "tf24-cuda-11.0-has-no-minor-rule",
        "V100",
        "ubuntu-18.04",
        "470-server 470.256.02",
        "cuda-ga",
        "tensorflow-2.4",
    ),
    Case(
        "tf218-unknown-archs", "T4", "ubuntu-22.04", "580-server-open 580.95.05", "cuda-ga", "tensorflow-2.18"
    ),
    Case("tf220-h100-ptx", "H100", "ubuntu-24.04", "580-server-open 580.95.05", "ptx-jit", "tensorflow-2.20"),
    Case(
        "tf220-v100-native", "V100", "ubuntu-24.04", "580-server 580.95.05", "cuda-minor", "tensorflow-2.20"
    ),
    Case("tf214-a100-on-535", "A100", "ubuntu-20.04", "535-server 535.274.02", "ptx-jit", "tensorflow-2.14"),
    # PyTorch.
    Case("torch112-cu102", "V100", "ubuntu-18.04", "470-server 470.256.02", "cuda-ga", "pytorch-1.12-cu102"),
    Case(
        "torch113-a100-native",
        "A100",
        "ubuntu-20.04",
        "535-server 535.274.02",
        "cuda-minor",
        "pytorch-1.13-cu117",
    ),
    Case(
        "torch25-cu124",
        "H100",
        "ubuntu-24.04",
        "580-server-open 580.95.05",
        "cuda-minor",
        "pytorch-2.5-cu124",
    ),
    Case(
        "torch211-cu130",
        "A100",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "cuda-minor",
        "pytorch-2.11-cu130",
    ),
    Case(
        "torch211-cu126-v100",
        "V100",
        "ubuntu-22.04",
        "580-server 580.95.05",
        "cuda-minor",
        "pytorch-2.11-cu126",
    ),
    Case(
        "torch213-cu132-minor",
        "B200",
        "ubuntu-24.04",
        "580-server-open 580.95.05",
        "cuda-minor",
        "pytorch-2.13-cu132",
    ),
    Case(
        "torch28-rtx",
        "RTX PRO 6000",
        "ubuntu-24.04",
        "580-server-open 580.95.05",
        "gpu-product",
        "pytorch-2.8-cu128",
    ),
    Case("torch-alias", "T4", "ubuntu-22.04", "580-server-open 580.95.05", "cuda-minor", "pytorch-2.11"),
    Case(
        "tf29-and-torch211-on-a100",
        "A100",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "cuda-minor",
        "tensorflow-2.9,pytorch-2.11-cu130",
    ),
    Case(
        "cu130-leaves-535-behind",
        "T4",
        "ubuntu-22.04",
        "595-server-open 595.71.05",
        "cuda-minor",
        "pytorch-2.11-cu130",
        archive=_ubuntu("ubuntu-22.04", "535.274.02", "595.71.05"),
    ),
    # Debian: names without a branch, the version tells it.
    Case(
        "debian11-security-has-535",
        "A100",
        "debian-11",
        "535 535.309.01",
        "ptx-jit",
        "tensorflow-2.9",
        install="dkms",
    ),
    Case(
        "debian11-k80-takes-the-release",
        "K80",
        "debian-11",
        "470 470.256.02",
        "gpu-last-branch",
        exact=True,
        install="dkms",
    ),
    Case("debian12-a100", "A100", "debian-12", "535 535.309.01", "ptx-jit", "tensorflow-2.9", install="dkms"),
    Case(
        "debian12-open-lags-behind",
        "A100",
        "debian-12",
        "535-open 535.261.03",
        "ptx-jit",
        "tensorflow-2.9",
        {"flavour": "open"},
        install="dkms",
        exact=True,
    ),
    Case("debian12-k80-tesla-470", "K80", "debian-12", "470 470.256.02", "gpu-last-branch", install="dkms"),
    Case("debian13-h100", "H100", "debian-13", "550 550.163.01", "gpu-first-branch", install="dkms"),
    Case(
        "debian13-gh200-open", "GH200", "debian-13", "550-open 550.163.01", "gpu-first-branch", install="dkms"
    ),
    Case(
        "debian13-torch-cu126-jit-free",
        "L4",
        "debian-13",
        "550 550.163.01",
        "cuda-minor",
        "pytorch-2.11-cu126",
        install="dkms",
    ),
    Case(
        "gh200-has-open-modules-of-the-older-branch-only",
        "GH200",
        "ubuntu-24.04",
        "570-server-open 570.195.03",
        "open-required",
        archive=[
            ubuntu("580.95.05-0ubuntu0.24.04.1", K24, flavours=("proprietary",)),
            ubuntu("570.195.03-0ubuntu0.24.04.1", K24),
        ],
    ),
    # NVIDIA's CUDA repository.
    Case(
        "cuda-repo-580",
        "A100",
        "ubuntu-22.04",
        "580-open 580.95.05",
        "gpu-first-branch",
        wishes={"source": "cuda_repo"},
        install="dkms",
        more=CUDA_22,
        source="cuda_repo",
    ),
    Case(
        "cuda-repo-595-by-branch",
        "A100",
        "ubuntu-22.04",
        "595-open 595.71.05",
        "user-branch",
        wishes={"source": "cuda_repo", "branch": "595"},
        install="dkms",
        more=CUDA_22,
        exact=True,
    ),
    Case(
        "cuda-repo-plain-pin",
        "H100",
        "ubuntu-22.04",
        "595-open 595.58.03",
        "user-version",
        wishes={"source": "cuda_repo", "version": "595.58.03"},
        install="dkms",
        more=CUDA_22,
        exact=True,
    ),
    Case(
        "cuda-repo-debian12",
        "A100",
        "debian-12",
        "580-open 580.95.05",
        "gpu-first-branch",
        wishes={"source": "cuda_repo"},
        install="dkms",
        more=CUDA_D12,
        exact=True,
    ),
    Case(
        "auto-stays-with-the-distribution",
        "A100",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        more=CUDA_22,
        source="ubuntu",
    ),
    Case(
        "cuda-repo-before-it-is-added",
        "A100",
        "ubuntu-22.04",
        "580-open None",
        "gpu-first-branch",
        wishes={"source": "cuda_repo"},
        install="dkms",
        source="cuda_repo",
    ),
    # Wishes.
    Case(
        "branch-wish",
        "A100",
        "ubuntu-22.04",
        "595-server-open 595.71.05",
        "user-branch",
        wishes={"branch": "595"},
    ),
    Case(
        "flavour-wish",
        "A100",
        "ubuntu-22.04",
        "580-server 580.95.05",
        "gpu-first-branch",
        wishes={"flavour": "proprietary"},
    ),
    Case(
        "minimum-wish",
        "T4",
        "ubuntu-22.04",
        "595-server-open 595.71.05",
        "user-minimum",
        wishes={"min_version": "590"},
    ),
    Case(
        "upstream-pin",
        "T4",
        "ubuntu-22.04",
        "535-server 535.274.02",
        "user-version",
        wishes={"version": "535.274.02"},
    ),
    Case(
        "full-pin",
        "T4",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "user-version",
        wishes={"version": "580.95.05-0ubuntu0.22.04.1"},
    ),
    Case(
        "older-pin-is-built-with-its-whole-set",
        "A100",
        "ubuntu-22.04",
        "580-server-open 580.65.06",
        "user-version",
        wishes={"version": "580.65.06"},
        install="dkms",
        exact=True,
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1 580.65.06-0ubuntu0.22.04.1", K22)],
    ),
    # The ladder of kernels.
    Case(
        "running-and-next-kernel",
        "T4",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1", K22, NEXT22)],
        node={"next_boot": NEXT22},
        kernel=K22,
    ),
    Case(
        "metapackage-brings-its-kernel",
        "T4",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1", metapackage=NEXT22)],
        node={"running": OLD22, "headers": []},
        install="metapackage",
        reboot=True,
        kernel=NEXT22,
    ),
    Case(
        "metapackage-before-dkms",
        "T4",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1", metapackage=NEXT22)],
        node={"running": OLD22},
        install="metapackage",
        reboot=True,
        kernel=NEXT22,
    ),
    Case(
        "no-reboot-allowed-takes-dkms",
        "T4",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        wishes={"host_reboot_allowed": False},
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1", metapackage=NEXT22)],
        node={"running": OLD22},
        install="dkms",
        kernel=OLD22,
    ),
    Case(
        "older-metapackage-is-no-way",
        "T4",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1", metapackage=OLD22)],
        install="dkms",
        kernel=K22,
    ),
    Case(
        "hwe-metapackage-of-an-hwe-kernel",
        "T4",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        archive=[
            ubuntu("580.95.05-0ubuntu0.22.04.1", metapackage=NEXT22),
            ubuntu("580.95.05-0ubuntu0.22.04.1", metapackage="6.8.0-90-generic", line="generic-hwe-22.04"),
        ],
        node={"running": "6.8.0-85-generic", "headers": []},
        install="metapackage",
        reboot=True,
        kernel="6.8.0-90-generic",
    ),
    Case(
        "dkms-without-precompiled",
        "A100",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1")],
        install="dkms",
        kernel=K22,
    ),
    Case(
        "next-kernel-only",
        "T4",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1", NEXT22)],
        node={"running": OLD22, "next_boot": NEXT22, "headers": []},
        reboot=True,
        kernel=NEXT22,
    ),
    Case(
        "next-kernel-by-dkms",
        "T4",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1")],
        node={"running": OLD22, "next_boot": NEXT22, "headers": [NEXT22]},
        install="dkms",
        reboot=True,
        kernel=NEXT22,
    ),
    Case(
        "next-boot-would-lose-it",
        "T4",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1", K22, dkms=False)],
        node={"next_boot": NEXT22, "headers": []},
        kernel=K22,
        lost=NEXT22,
    ),
    Case(
        "dkms-covers-both-kernels",
        "T4",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1", K22)],
        node={"next_boot": NEXT22, "headers": [K22, NEXT22]},
        install="dkms",
        kernel=K22,
    ),
    Case(
        "metapackage-saves-the-next-boot",
        "T4",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1", K22, metapackage="5.15.0-161-generic")],
        node={"next_boot": NEXT22, "headers": []},
        kernel=K22,
    ),
    # Secure Boot.
    Case(
        "secure-boot-precompiled",
        "A100",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        node=SB,
    ),
    Case(
        "secure-boot-rules-the-built-one-out",
        "A100",
        "ubuntu-22.04",
        "535-server 535.274.02",
        "secure-boot",
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1"), ubuntu("535.274.02-0ubuntu0.22.04.1", K22)],
        node=SB,
    ),
    Case(
        "secure-boot-enrolled-key",
        "A100",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1")],
        node=MOK,
        install="dkms",
    ),
    Case(
        "secure-boot-next-kernel-is-signed",
        "A100",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        archive=[ubuntu("580.95.05-0ubuntu0.22.04.1", NEXT22)],
        node={**SB, "next_boot": NEXT22},
        reboot=True,
        kernel=NEXT22,
    ),
    # NVSwitches.
    Case(
        "nvswitch",
        "H100,H100",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "gpu-first-branch",
        node={"nvswitches": 4},
    ),
    Case(
        "nvswitch-fabric-manager-of-another-branch-only",
        "H100",
        "ubuntu-22.04",
        "595-server-open 595.71.05",
        "nvswitch",
        archive=[
            ubuntu("580.95.05-0ubuntu0.22.04.1", K22, fabric=False),
            ubuntu("595.71.05-0ubuntu0.22.04.1", K22),
        ],
        node={"nvswitches": 4},
    ),
    # What failed verification is not chosen again, unless somebody asks for it by name.
    Case(
        "rejected",
        "A100",
        "ubuntu-22.04",
        "595-server-open 595.71.05",
        "rejected",
        node={"rejected": ["580.95.05"]},
    ),
    Case(
        "rejected-but-pinned",
        "A100",
        "ubuntu-22.04",
        "580-server-open 580.95.05",
        "user-version",
        wishes={"version": "580.95.05"},
        node={"rejected": ["580.95.05"]},
    ),
    # Names and versions.
    Case(
        "transitional-name-is-seen-through",
        "A100",
        "ubuntu-20.04",
        "470-server 470.256.02",
        "gpu-first-branch",
        archive=[
            ubuntu("470.256.02-0ubuntu0.20.04.1", KERNELS["ubuntu-20.04"]),
            ubuntu("470.256.02-0ubuntu0.20.04.1", KERNELS["ubuntu-20.04"], named=460),
        ],
    ),
    Case(
        "desktop-family-where-there-is-no-server",
        "T4",
        "ubuntu-24.04",
        "595-open 595.71.05",
        "gpu-first-branch",
        archive=[ubuntu("595.71.05-0ubuntu0.24.04.1", K24, family="desktop")],
    ),
    Case(
        "no-lists-by-the-catalog",
        "A100",
        "ubuntu-22.04",
        "580-server-open None",
        "gpu-first-branch",
        node={"lists": False},
    ),
    Case(
        "debian-components-not-enabled",
        "A100",
        "debian-12",
        "535 None",
        "gpu-first-branch",
        archive=[],
        install="dkms",
        node={"components": ["main"]},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden(case: Case) -> None:
    offers = (ARCHIVES[case.system] if case.archive is None else case.archive) + case.more
    result = ask(node(case.gpus, case.system, offers, **case.node), case.workloads, **case.wishes)
    option = result.option
    assert option is not None, result.conflicts
    assert f"{option.name()} {option.version}" == case.driver
    assert (bound(result), option.install) == (case.binds, case.install), result.chain
    assert (option.exact, option.reboot) == (case.exact, case.reboot), option.packages
    assert option.without_next_boot == case.lost
    assert case.kernel in (None, option.kernel)
    assert option.source is not None and case.source in (None, option.source.name)
    assert "\u2190 this bound" in result.chain and result.chain.startswith(option.name() + ": ")
    # What was chosen is whole: once it is installed there is nothing left to do.
    if option.version and not option.reboot:
        after = install_option(node(case.gpus, case.system, offers, **case.node), result)
        again = ask(after, case.workloads, **case.wishes)
        assert again.keeps_installed, (again.installed, again.conflicts)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60 and len({case.name for case in CASES}) == len(CASES)
    rules = (
        "user-version user-branch user-minimum cuda-minor cuda-ga ptx-jit gpu-first-branch gpu-last-branch"
    )
    more = "gpu-product open-impossible open-required secure-boot nvswitch rejected"
    assert {case.binds for case in CASES} >= {*rules.split(), *more.split()}
    assert {case.system for case in CASES} == set(KERNELS)
    assert CATALOG.branches
