"""Write tests/fixtures/observed/*.json: recorded-looking observations of typical and awkward nodes.

`PYTHONPATH=.. python make_fixtures.py` writes them anew; a test keeps them equal to what this file says.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

from applied import converge
from gpuready.catalog import load_catalog
from observed_nodes import (
    FIXTURES,
    KERNEL,
    NOBLE_KERNEL,
    Node,
    bare,
    become,
    daemon_json,
    driver_packages,
    offer,
)


def a100_jammy() -> Node:
    return bare("20b5")


def a100_jammy_converged() -> Node:
    return converge(bare("20b5"))


def t4_noble() -> Node:
    """Docker 28.2 and newer has CDI by itself."""
    return bare(
        "1eb8",
        version_id="24.04",
        kernel=NOBLE_KERNEL,
        branches={580: "580.95.05-0ubuntu0.24.04.2", 590: "590.48.01-0ubuntu0.24.04.1"},
        docker="28.2.2-0ubuntu1~24.04.1",
    )


def t4_noble_converged() -> Node:
    return converge(t4_noble())


def no_gpu() -> Node:
    return bare()


def nouveau_bound() -> Node:
    node = bare("1eb8")
    node["host"]["gpus"][0]["driver_bound"] = "nouveau"
    node["host"]["nouveau"]["loaded"] = True
    return node


def broken_daemon_json() -> Node:
    node = a100_jammy_converged()
    node["container_runtime"]["docker"]["daemon_json"] = {
        **daemon_json(None),
        "exists": True,
        "valid": False,
        "error": "the file is not valid JSON: Expecting ',' delimiter at line 3, column 5",
        "sha256": "1" * 64,
    }
    return node


def foreign_runtime() -> Node:
    """daemon.json gives the name nvidia to something else."""
    node = a100_jammy_converged()
    content = {"runtimes": {"nvidia": {"path": "/opt/other/runtime", "args": []}}, "log-driver": "journald"}
    node["container_runtime"]["docker"]["daemon_json"] = daemon_json(content)
    return node


def secure_boot() -> Node:
    node = bare("20b5")
    node["host"]["secure_boot"] = True
    return node


def secure_boot_dkms_only() -> Node:
    node = secure_boot()
    for name in list(node["apt"]["candidates"]):
        if name.startswith("linux-modules-nvidia-"):
            del node["apt"]["candidates"][name]
    return node


def no_apt_lists() -> Node:
    node = bare("20b5")
    node["apt"].update(lists_age_seconds=None, candidates=None)
    return node


def old_apt_lists() -> Node:
    node = bare("20b5")
    node["apt"]["lists_age_seconds"] = 30 * 86400.0
    return node


def mixed_volta_ampere() -> Node:
    """Volta has no open modules and ends at 580."""
    return bare(
        "1db4", "20b5", branches={595: "595.71.05-0ubuntu0.22.04.1", 535: "535.274.02-0ubuntu0.22.04.1"}
    )


def mixed_volta_blackwell() -> Node:
    return bare("1db4", "2b85")


def kepler() -> Node:
    return bare("102d", branches={580: "580.95.05-0ubuntu0.22.04.2", 470: "470.256.02-0ubuntu0.22.04.1"})


def rubin() -> Node:
    """A GPU that pci.ids names and gpus.yml does not know yet."""
    return bare("3002")


def hook_newer_than_dockerd() -> Node:
    node = a100_jammy_converged()
    node["container_runtime"]["toolkit"]["hook_newer_than_dockerd"] = True
    return node


def another_driver_loaded() -> Node:
    """Upgraded by somebody, and nothing uses the GPU: its modules can be loaded anew."""
    node = a100_jammy_converged()
    node["driver"]["loaded"]["version"] = "580.82.07"
    node["driver"]["nvml"]["error"] = "Driver/library version mismatch"
    return node


def reboot_pending() -> Node:
    """The same, but a job holds the GPU."""
    node = another_driver_loaded()
    node["driver"]["loaded"]["users"] = 2
    node["driver"]["processes"] = [
        {
            "pid": 4711,
            "name": "python3",
            "files": ["/dev/nvidia0", "/dev/nvidiactl"],
            "service": None,
            "container": None,
        }
    ]
    return node


def new_kernel() -> Node:
    """The node was rebooted into a newer kernel, which has no driver yet."""
    node = a100_jammy_converged()
    kernel = "5.15.0-160-generic"
    node["host"]["kernel"].update(running=kernel, next_boot=kernel, installed=[KERNEL, kernel], headers=[])
    node["apt"]["candidates"].update(
        driver_packages(580, "580.105.08-0ubuntu0.22.04.1", kernel)
        | {f"linux-headers-{kernel}": offer("5.15.0-160.170")}
    )
    have = {row["name"]: row["version"] for row in node["driver"]["packages"]}
    for name, version in have.items():
        if name in node["apt"]["candidates"]:
            node["apt"]["candidates"][name]["installed"] = version
    node["driver"].update(loaded=None, on_disk=None, device_nodes=[])
    node["host"]["gpus"][0]["driver_bound"] = None
    return node


def dkms_only() -> Node:
    """A kernel that the archive has no precompiled modules for."""
    node = bare("20b5")
    for name in list(node["apt"]["candidates"]):
        if name.startswith("linux-modules-nvidia-"):
            del node["apt"]["candidates"][name]
    return node


def old_branch_kept() -> Node:
    """A node somebody set up with 535, which is good enough for everything."""
    return converge(bare("20b5", branches={535: "535.274.02-0ubuntu0.22.04.1"}))


def newer_branch_on_volta() -> Node:
    """595 was installed on a GPU that it no longer supports."""
    node = converge(bare("20b5", branches={595: "595.71.05-0ubuntu0.22.04.1"}))
    node["host"]["gpus"][0]["device_id"] = "1db4"
    node["apt"]["candidates"].update(driver_packages(580, "580.95.05-0ubuntu0.22.04.2", KERNEL))
    return node


def runfile_driver() -> Node:
    node = bare("20b5")
    node["driver"]["on_disk"] = {
        "version": "550.54.15",
        "flavour": "proprietary",
        "kernel": KERNEL,
        "path": f"/lib/modules/{KERNEL}/kernel/drivers/video/nvidia.ko",
        "signed": False,
    }
    return node


def nvswitch() -> Node:
    node = bare(*["20b2"] * 8)
    node["host"]["nvswitches"] = [
        {"pci": f"0000:{0xC0 + n:02x}:00.0", "vendor_id": "10de", "device_id": "1af1"} for n in range(6)
    ]
    return node


def snap_docker() -> Node:
    node = bare("20b5")
    node["container_runtime"]["docker"].update(installed=True, snap=True, version="27.2.0")
    return node


def bookworm() -> Node:
    """Debian 12 as it is installed: main and non-free-firmware only."""
    node = become(bare("20b5"), load_catalog(), "debian", "12", components=["main", "non-free-firmware"])
    kernel = "6.1.0-40-amd64"
    node["host"]["kernel"].update(running=kernel, next_boot=kernel, installed=[kernel])
    node["apt"]["candidates"].update(
        {
            "docker.io": offer("20.10.24+dfsg1-1+deb12u1", origin="Debian"),
            "containerd": offer("1.6.20~ds1-1+deb12u1", origin="Debian"),
            f"linux-headers-{kernel}": offer("6.1.153-1", origin="Debian"),
        }
    )
    return node


def kernel_lost() -> Node:
    """A newer kernel is installed that apt has no module for, and a job keeps the old driver loaded."""
    node = reboot_pending()
    node["host"]["kernel"].update(next_boot="5.15.0-160-generic", installed=[KERNEL, "5.15.0-160-generic"])
    return node


def fedora() -> Node:
    node = bare("20b5")
    node["host"]["os"].update(id="fedora", version_id="43", codename=None, pretty_name="Fedora Linux 43")
    return node


def arm64() -> Node:
    node = bare("20b5")
    node["host"]["os"]["arch"] = "arm64"
    return node


def disk_full() -> Node:
    node = bare("20b5")
    for row in node["disk"]:
        row["free_mib"] = 5000
    return node


def registry_down() -> Node:
    node = bare("20b5")
    node["framework"]["endpoints"][0].update(reachable=False, error="Connection refused")
    return node


def passthrough() -> Node:
    node = bare("20b5")
    node["host"]["gpus"][0]["driver_bound"] = "vfio-pci"
    return node


def user_settings() -> Node:
    """A Docker that somebody uses already: own settings, a running GPU container."""
    node = a100_jammy_converged()
    docker = node["container_runtime"]["docker"]
    docker["daemon_json"] = daemon_json({"log-driver": "journald", "data-root": "/data/docker"})
    docker["live"]["runtimes"] = ["runc"]
    node["container_runtime"]["gpu_containers"] = [
        {"id": "ab" * 32, "name": "train", "image": "mine:1", "labels": {}}
    ]
    return node


SCENARIOS: dict[str, Callable[[], Node]] = {
    "a100-jammy-bare": a100_jammy,
    "a100-jammy-converged": a100_jammy_converged,
    "a100-jammy-no-apt-lists": no_apt_lists,
    "a100-jammy-old-apt-lists": old_apt_lists,
    "a100-jammy-secure-boot": secure_boot,
    "a100-jammy-secure-boot-dkms-only": secure_boot_dkms_only,
    "a100-jammy-dkms-only": dkms_only,
    "a100-jammy-broken-daemon-json": broken_daemon_json,
    "a100-jammy-foreign-runtime": foreign_runtime,
    "a100-jammy-hook-newer-than-dockerd": hook_newer_than_dockerd,
    "a100-jammy-another-driver-loaded": another_driver_loaded,
    "a100-jammy-reboot-pending": reboot_pending,
    "a100-jammy-new-kernel": new_kernel,
    "a100-jammy-535-kept": old_branch_kept,
    "a100-jammy-runfile-driver": runfile_driver,
    "a100-jammy-snap-docker": snap_docker,
    "a100-jammy-user-settings": user_settings,
    "a100-jammy-disk-full": disk_full,
    "a100-jammy-registry-down": registry_down,
    "a100-jammy-passthrough": passthrough,
    "a100-nvswitch-jammy-bare": nvswitch,
    "a100-jammy-next-kernel-without-module": kernel_lost,
    "a100-bookworm-bare": bookworm,
    "a100-fedora-bare": fedora,
    "a100-arm64-bare": arm64,
    "t4-noble-bare": t4_noble,
    "t4-noble-converged": t4_noble_converged,
    "t4-jammy-nouveau-bound": nouveau_bound,
    "k80-jammy-bare": kepler,
    "v100-a100-jammy-bare": mixed_volta_ampere,
    "v100-rtx5090-jammy-bare": mixed_volta_blackwell,
    "v100-jammy-595-installed": newer_branch_on_volta,
    "rubin-jammy-bare": rubin,
    "no-gpu-jammy-bare": no_gpu,
}


def text_of(name: str) -> str:
    node = copy.deepcopy(SCENARIOS[name]())
    node["host"]["hostname"] = name
    return json.dumps(node, indent=1, sort_keys=True) + "\n"


def main() -> None:
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for name in SCENARIOS:
        (FIXTURES / f"{name}.json").write_text(text_of(name), encoding="utf-8")
    print(f"{len(SCENARIOS)} observations in {FIXTURES}")


if __name__ == "__main__":
    main()
