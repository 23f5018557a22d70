"""Observed nodes for the planner's tests, and what applying a plan would make of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[7] / "tests" / "fixtures" / "observed"
KERNEL = "5.15.0-157-generic"
NOBLE_KERNEL = "6.8.0-85-generic"
TOOLKIT = [
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
]
TOOLKIT_URL = "https://nvidia.github.io/libnvidia-container/stable/deb/amd64"
LIBRARIES = "/usr/lib/x86_64-linux-gnu"

Node = dict[str, Any]


def offer(
    *versions: str, installed: str | None = None, origin: str = "Ubuntu", kernel: str | None = None
) -> Node:
    """One package as apt offers it; `kernel`: of a kernel metapackage."""
    return {
        "candidate": versions[0],
        "installed": installed,
        "versions": list(versions),
        "origins": {version: [origin] for version in versions},
        "kernel": kernel,
    }


def driver_packages(
    branch: int,
    version: str,
    kernel: str,
    *,
    flavours: tuple[str, ...] = ("open", "proprietary"),
    precompiled: bool = True,
    dkms: bool = True,
) -> Node:
    """apt's candidates of one driver branch."""
    family = f"{branch}-server"
    found = {
        f"nvidia-utils-{family}": offer(version),
        f"nvidia-compute-utils-{family}": offer(version),
        f"nvidia-kernel-common-{family}": offer(version),
        f"libnvidia-compute-{family}": offer(version),
        f"libnvidia-cfg1-{family}": offer(version),
        f"nvidia-fabricmanager-{branch}": offer(version.split("-")[0] + "-1"),
    }
    for flavour in flavours:
        mark = "-open" if flavour == "open" else ""
        if precompiled:
            found[f"linux-modules-nvidia-{family}{mark}-{kernel}"] = offer("5.15.0-157.167")
            found[f"nvidia-headless-no-dkms-{family}{mark}"] = offer(version)
        if dkms:
            found[f"nvidia-headless-{family}{mark}"] = offer(version)
            found[f"nvidia-dkms-{family}{mark}"] = offer(version)
            found[f"nvidia-kernel-source-{family}{mark}"] = offer(version)
    return found


def gpu(device_id: str, pci: str = "0000:3b:00.0", driver: str | None = None) -> Node:
    return {
        "pci": pci,
        "vendor_id": "10de",
        "device_id": device_id,
        "subsystem_id": "10de:1533",
        "class": "030200",
        "driver_bound": driver,
        "name": None,
        "chip": None,
        "arch": None,
    }


def bare(
    *gpus: str,
    version_id: str = "22.04",
    kernel: str = KERNEL,
    branches: dict[int, str] | None = None,
    docker: str = "24.0.7-0ubuntu4",
) -> Node:
    """A freshly installed Ubuntu server with GPUs and nothing of the stack."""
    if branches is None:
        branches = {580: f"580.95.05-0ubuntu0.{version_id}.2", 535: f"535.274.02-0ubuntu0.{version_id}.1"}
    candidates: Node = {
        "docker.io": offer(docker),
        "containerd": offer("1.7.28-0ubuntu1"),
        "dkms": offer("2.8.7-2ubuntu2"),
        f"linux-headers-{kernel}": offer("5.15.0-157.167"),
    }
    for branch, version in branches.items():
        candidates.update(driver_packages(branch, version, kernel))
    codename = {"20.04": "focal", "22.04": "jammy", "24.04": "noble"}[version_id]
    return {
        "schema": 1,
        "seconds": 0.2,
        "problems": [],
        "host": {
            "hostname": "node1",
            "os": {
                "id": "ubuntu",
                "version_id": version_id,
                "codename": codename,
                "pretty_name": f"Ubuntu {version_id} LTS",
                "arch": "amd64",
            },
            "kernel": {"running": kernel, "next_boot": kernel, "installed": [kernel], "headers": []},
            "boot_id": "0a1b2c3d-0000-4000-8000-000000000001",
            "uptime_seconds": 812.4,
            "secure_boot": False,
            "mok": {"key": None, "enrolled": None},
            "gpus": [gpu(device, f"0000:{0x3B + n:02x}:00.0") for n, device in enumerate(gpus)],
            "nvswitches": [],
            "nouveau": {"loaded": False, "blacklisted": False, "files": []},
            "initramfs": {"present": True, "tool": "/usr/sbin/update-initramfs", "stale": False},
        },
        "driver": {
            "packages": [],
            "loaded": None,
            "processes": [],
            "on_disk": None,
            "on_disk_next_boot": None,
            "userspace": {"version": None, "libcuda": None, "libnvidia_ml": None, "nvidia_smi": None},
            "devices": None,
            "nvml": {"source": None, "driver_version": None, "cuda_version": None, "error": None},
            "device_nodes": [],
            "persistenced": {"installed": False, "enabled": False, "active": False},
            "fabricmanager": {"installed": False, "version": None, "enabled": False, "active": False},
            "record": None,
            "dkms": None,
        },
        "container_runtime": {
            "docker": {
                "installed": False,
                "package": None,
                "version": None,
                "snap": False,
                "rootless": False,
                "service": {
                    "unit": "docker.service",
                    "active": False,
                    "enabled": False,
                    "pid": None,
                    "started_at": None,
                },
                "daemon_json": daemon_json(None),
                "live": None,
            },
            "toolkit": {
                "packages": [],
                "binaries": {
                    "nvidia-ctk": None,
                    "nvidia-container-runtime": None,
                    "nvidia-container-runtime-hook": None,
                    "nvidia-cdi-hook": None,
                    "nvidia-container-cli": None,
                },
                "version": None,
                "hook_on_dockerd_path": None,
                "hook_newer_than_dockerd": None,
                "cdi_refresh": {"installed": False, "failed": None},
            },
            "cdi": {"specs": []},
            "gpu_containers": [],
        },
        "framework": {
            "images": None,
            "endpoints": [{"name": "registry", "address": "registry:5000", "reachable": True, "error": None}],
        },
        "apt": {
            "lists_age_seconds": 120.5,
            "sources": [
                {
                    "file": "/etc/apt/sources.list",
                    "format": "one-line",
                    "enabled": True,
                    "types": ["deb"],
                    "uris": ["http://archive.ubuntu.com/ubuntu"],
                    "suites": [codename],
                    "components": ["main", "restricted"],
                    "architectures": [],
                    "signed_by": None,
                    "fingerprints": None,
                }
            ],
            "candidates": candidates,
            "holds": [],
            "unattended_upgrades": {
                "installed": True,
                "enabled": True,
                "blacklist": [],
                "guard_file": False,
            },
            "driver_pin": None,
            "dpkg_interrupted": False,
            "lock_held": False,
        },
        "disk": [
            {"path": "/", "total_mib": 40000, "free_mib": 30000},
            {"path": "/var/lib/docker", "total_mib": 40000, "free_mib": 30000},
            {"path": "/var", "total_mib": 40000, "free_mib": 30000},
        ],
    }


def daemon_json(content: Node | None) -> Node:
    return {
        "path": "/etc/docker/daemon.json",
        "exists": content is not None,
        "valid": None if content is None else True,
        "error": None,
        "sha256": None if content is None else "0" * 64,
        "content": content,
        "runtimes": (content or {}).get("runtimes", {}),
        "default_runtime": (content or {}).get("default-runtime"),
        "features": (content or {}).get("features", {}),
    }


# What the actions do to an observation ---------------------------------------------------------------------


def _install(node: Node, rows: list[Node]) -> None:
    """dpkg after an install of the driver: the named packages and what they depend on."""
    candidates = node["apt"]["candidates"] or {}
    have = {row["name"]: row for row in node["driver"]["packages"]}
    names = [row["name"] for row in rows]
    versions = {row["name"]: row["version"] for row in rows}
    utils = next(name for name in names if name.startswith("nvidia-utils-"))
    family = utils[len("nvidia-utils-") :]
    branch = family.split("-")[0]
    for name in candidates:
        pulled = name in (
            f"nvidia-compute-utils-{family}",
            f"nvidia-kernel-common-{family}",
            f"libnvidia-compute-{family}",
            f"libnvidia-cfg1-{family}",
        )
        headless = next((n for n in names if n.startswith(f"nvidia-headless-{branch}")), "")
        mark = headless[len("nvidia-headless-") :]
        if pulled or (mark and name in (f"nvidia-dkms-{mark}", f"nvidia-kernel-source-{mark}")):
            names.append(name)
            versions[name] = versions[utils]
    for name in names:
        version = versions.get(name) or (candidates.get(name) or {}).get("candidate") or "580.95.05-0ubuntu1"
        if name.startswith("linux-headers-"):
            node["host"]["kernel"]["headers"] = [name[len("linux-headers-") :]]
        else:
            have[name] = {"name": name, "version": version, "held": False, "status": "installed"}
        if name in candidates:
            candidates[name]["installed"] = version
    other = [n for n in have if "fabric" not in n and not n.endswith(family) and f"-{family}-" not in n]
    for name in other:
        del have[name]
        if name in candidates:
            candidates[name]["installed"] = None
    node["driver"]["packages"] = list(have.values())


def apply(node: Node, plan: Node) -> Node:
    """The observation after all the plan's actions have done what they promise."""
    node = copy.deepcopy(node)
    done = [action["id"] for action in plan["actions"]]
    runtime, driver = plan["container_runtime"], plan["driver"]
    docker = node["container_runtime"]["docker"]
    toolkit = node["container_runtime"]["toolkit"]
    content = copy.deepcopy(docker["daemon_json"]["content"]) or {}

    if "apt.finish_dpkg" in done:
        node["apt"]["dpkg_interrupted"] = False
    if "apt.refresh_lists" in done:
        node["apt"]["lists_age_seconds"] = 1.0
    if "toolkit.source" in done:
        node["apt"]["sources"].append(
            {
                "file": "/etc/apt/sources.list.d/nvidia-container-toolkit.sources",
                "format": "deb822",
                "enabled": True,
                "types": ["deb"],
                "uris": [runtime["toolkit"]["repo_url"]],
                "suites": ["/"],
                "components": [],
                "architectures": [],
                "signed_by": "/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg",
                "fingerprints": list(runtime["toolkit"]["repo_key_fingerprint"]),
            }
        )
        for name in TOOLKIT:
            node["apt"]["candidates"].setdefault(name, offer("1.17.8-1", "1.17.7-1"))
    if "docker.source" in done:
        node["apt"]["sources"].append(
            {
                "file": "/etc/apt/sources.list.d/docker.sources",
                "format": "deb822",
                "enabled": True,
                "types": ["deb"],
                "uris": ["https://download.docker.com/linux/ubuntu"],
                "suites": ["jammy"],
                "components": ["stable"],
                "architectures": [],
                "signed_by": "/usr/share/keyrings/docker.gpg",
                "fingerprints": ["9DC858229FC7DD38854AE2D88D81803C0EBFCD88"],
            }
        )
        for name in ("docker-ce", "docker-ce-cli", "containerd.io"):
            node["apt"]["candidates"].setdefault(name, offer("5:28.5.1-1~ubuntu.22.04~jammy"))
    if "host.nouveau_off" in done:
        node["host"]["nouveau"].update(blacklisted=True, files=["/etc/modprobe.d/gpuready-nouveau.conf"])
    if "docker.install" in done:
        row = runtime["docker"]["packages"][0]
        version = row["version"] or node["apt"]["candidates"][row["name"]]["candidate"]
        node["apt"]["candidates"].setdefault(row["name"], offer(version))["installed"] = version
        plain = version.split(":")[-1].split("-")[0].split("+")[0]
        docker.update(installed=True, package=row["name"], version=plain)
        node["framework"]["images"] = node["framework"]["images"] or []
    if "toolkit.install" in done:
        versions = node["apt"]["candidates"][TOOLKIT[0]]["versions"]
        version = runtime["toolkit"]["version"] or versions[0]
        toolkit["packages"] = [
            {"name": name, "version": version, "held": False, "status": "installed"} for name in TOOLKIT
        ]
        toolkit["version"] = version.split("-")[0]
        toolkit["binaries"] = {name: f"/usr/bin/{name}" for name in toolkit["binaries"]}
        # The very transaction that brought it may have started dockerd before.
        toolkit["hook_newer_than_dockerd"] = True
        toolkit["hook_on_dockerd_path"] = True
    if "toolkit.hold" in done:
        for row in toolkit["packages"]:
            row["held"] = True
    if "docker.daemon_config" in done:
        content.update(copy.deepcopy(runtime["docker"]["daemon_config"]))
    if "toolkit.runtime" in done:
        content.setdefault("runtimes", {})["nvidia"] = runtime["toolkit"]["runtime"]
        if runtime["toolkit"]["default_runtime"]:
            content["default-runtime"] = "nvidia"
        if runtime["toolkit"]["cdi"]["feature_flag"]:
            content.setdefault("features", {})["cdi"] = True
    if {"docker.daemon_config", "toolkit.runtime"} & set(done):
        docker["daemon_json"] = daemon_json(content)
    restarting = {
        "docker.daemon_config",
        "toolkit.runtime",
        "docker.restart",
        "docker.service",
        "docker.install",
    }
    if restarting & set(done):
        docker["service"].update(active=True, enabled=True, pid=411, started_at=1790000000.0)
        docker["live"] = live(docker, content)
        toolkit["hook_newer_than_dockerd"] = False
        toolkit["hook_on_dockerd_path"] = True
    if "image.fetch" in done:
        node["framework"]["images"] = (node["framework"]["images"] or []) + [
            {"ref": row["image"], "id": "sha256:1", "digests": [], "size_mib": 3800, "env": None}
            for row in plan["workloads"]
            if not row["present"]
        ]
    if "driver.upgrade_guard" in done:
        node["apt"]["unattended_upgrades"]["guard_file"] = True
    if "driver.install" in done:
        _install(node, driver["packages"])
        version = driver["version"] or "580.95.05"
        kernel = node["host"]["kernel"]["running"]
        node["driver"]["on_disk"] = {
            "version": version,
            "flavour": driver["flavour"],
            "kernel": kernel,
            "path": f"/lib/modules/{kernel}/kernel/nvidia-{driver['branch']}srv/nvidia.ko",
            "signed": driver["install"] == "precompiled",
        }
        node["driver"]["userspace"] = {
            "version": version,
            "libcuda": f"{LIBRARIES}/libcuda.so.{version}",
            "libnvidia_ml": f"{LIBRARIES}/libnvidia-ml.so.{version}",
            "nvidia_smi": "/usr/bin/nvidia-smi",
        }
        node["driver"]["persistenced"]["installed"] = True
    if "driver.hold" in done:
        for row in node["driver"]["packages"]:
            row["held"] = row["held"] or row["name"] in driver["holds"]
    if "host.reboot" in done:
        node["host"]["nouveau"]["loaded"] = False
    if {"driver.load", "host.reboot"} & set(done) and node["driver"]["on_disk"]:
        on_disk = node["driver"]["on_disk"]
        node["driver"]["loaded"] = {
            "version": on_disk["version"],
            "flavour": on_disk["flavour"],
            "modules": ["nvidia", "nvidia_uvm"],
            "users": 0,
        }
        numbered = [f"/dev/nvidia{n}" for n in range(len(node["host"]["gpus"]))]
        node["driver"]["device_nodes"] = [*numbered, "/dev/nvidiactl", "/dev/nvidia-uvm"]
        for row in node["host"]["gpus"]:
            row["driver_bound"] = "nvidia"
    if "driver.persistenced" in done:
        node["driver"]["persistenced"].update(installed=True, enabled=True, active=True)
    if "toolkit.cdi" in done:
        node["container_runtime"]["cdi"]["specs"] = [
            {
                "path": runtime["toolkit"]["cdi"]["spec"],
                "kind": "nvidia.com/gpu",
                "devices": ["0", "all"],
                "driver_version": node["driver"]["userspace"]["version"],
                "stale": False,
                "missing_paths": [],
            }
        ]
    return node


def live(docker: Node, content: Node) -> Node:
    """`docker info` of a dockerd that was just started."""
    version = docker["version"] or "24.0.7"
    major = tuple(int(part) for part in version.split(".")[:2])
    flag = (content.get("features") or {}).get("cdi")
    on = flag if flag is not None else major >= (28, 2)
    return {
        "reachable": True,
        "error": None,
        "server_version": version,
        "runtimes": sorted(["runc", *content.get("runtimes", {})]),
        "default_runtime": content.get("default-runtime", "runc"),
        "root_dir": "/var/lib/docker",
        "cdi_spec_dirs": ["/etc/cdi", "/var/run/cdi"] if on and major >= (25, 0) else None,
        "cgroup_version": "2",
        "cgroup_driver": "systemd",
        "insecure_registries": sorted([*content.get("insecure-registries", []), "127.0.0.0/8"]),
        "registry_mirrors": [item.rstrip("/") + "/" for item in content.get("registry-mirrors", [])],
        "live_restore": content.get("live-restore", False),
        "containers_running": 0,
    }
