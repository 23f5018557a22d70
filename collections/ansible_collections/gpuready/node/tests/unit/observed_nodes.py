"""Observed nodes, in the shape of docs/contracts.md: the one builder of the tests that need some.

`applied.py` says what applying a plan makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuready.catalog import Catalog, PackageSource
from gpuready.driver_options import names
from gpuready.versions import Version

FIXTURES = Path(__file__).parents[6] / "tests" / "fixtures" / "observed"
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


def archive(
    source: PackageSource,
    versions: Mapping[int, Sequence[str]],
    kernels: Sequence[str] = (),
    *,
    metapackage: str | None = None,
    flavours: Sequence[str] = ("open", "proprietary"),
) -> Node:
    """apt's candidates out of one supplier's archive, named as the catalog names them.

    `versions`: package versions per branch, the newest first; `kernels`: those with precompiled modules;
    `metapackage`: the kernel that the flavour's metapackage is for now.
    """
    found: Node = {}
    for branch, offered in sorted(versions.items()):
        family = next(iter(source.family_of(branch)), None)
        if family is None:
            continue
        for flavour in flavours:
            patterns = [*family.closure, *family.needs, *family.precompiled, *family.metapackages]
            patterns += family.dkms_packages(flavour == "open")
            patterns += [family.dkms_module_package(flavour == "open") or ""]
            patterns += [family.version_package, family.library_package, family.nvswitch or ""]
            for name in names([text for text in patterns if text], branch, family, flavour):
                merge(found, {name: offer(*offered, origin=source.origin)})
            if family.kernel_modules:
                for kernel in kernels:
                    name = names([family.kernel_modules], branch, family, flavour, kernel)[0]
                    merge(found, {name: offer(kernel_version(kernel), origin=source.origin)})
            if family.kernel_metapackage and metapackage:
                line = metapackage.rsplit("-", 1)[-1]
                name = names([family.kernel_metapackage], branch, family, flavour, "", line)[0]
                version = kernel_version(metapackage)
                merge(found, {name: offer(version, origin=source.origin, kernel=metapackage)})
        for name in family.extras:
            merge(found, {name: offer("1.0-1", origin=source.origin)})
    return found


def kernel_version(kernel: str) -> str:
    """`5.15.0-157-generic` -> the version of packages that are made for it."""
    return kernel.rpartition("-")[0] + ".1"


def merge(candidates: Node, more: Node) -> None:
    """What apt makes of another archive: every version, the newest first as the candidate."""
    for name, entry in more.items():
        known = candidates.setdefault(name, {**entry, "versions": [], "origins": {}})
        versions = {*known["versions"], *entry["versions"]}
        known["versions"] = sorted(versions, key=Version, reverse=True)
        known["candidate"] = known["versions"][0]
        known["kernel"] = known["kernel"] or entry["kernel"]
        for version, origins in entry["origins"].items():
            known["origins"][version] = sorted({*known["origins"].get(version, ()), *origins})


def source_row(uri: str, suite: str, components: Sequence[str], **more: Any) -> Node:
    """One enabled apt source, as the observation shows it."""
    row = {
        "file": "/etc/apt/sources.list.d/some.sources",
        "format": "deb822",
        "enabled": True,
        "types": ["deb"],
        "uris": [uri],
        "suites": [suite],
        "components": list(components),
        "architectures": [],
        "signed_by": None,
        "fingerprints": None,
        "keys": None,
    }
    return {**row, **more}


# The Python that each release comes with.
PYTHONS = {
    "focal": "3.8",
    "jammy": "3.10",
    "noble": "3.12",
    "bullseye": "3.9",
    "bookworm": "3.11",
    "trixie": "3.13",
}
RELEASES = {
    ("ubuntu", "20.04"): ("focal", "Ubuntu 20.04 LTS"),
    ("ubuntu", "22.04"): ("jammy", "Ubuntu 22.04 LTS"),
    ("ubuntu", "24.04"): ("noble", "Ubuntu 24.04 LTS"),
    ("debian", "11"): ("bullseye", "Debian GNU/Linux 11 (bullseye)"),
    ("debian", "12"): ("bookworm", "Debian GNU/Linux 12 (bookworm)"),
    ("debian", "13"): ("trixie", "Debian GNU/Linux 13 (trixie)"),
}


def become(
    node: Node, catalog: Catalog, os_id: str, release: str, *, components: Sequence[str] = ("main",)
) -> Node:
    """The same node with another system on it, and no driver in its archive yet."""
    codename, pretty = RELEASES[os_id, release]
    node["host"]["os"].update(id=os_id, version_id=release, codename=codename, pretty_name=pretty)
    node["framework"]["pythons"][0].update(version=PYTHONS[codename])
    address = {"ubuntu": "http://archive.ubuntu.com/ubuntu", "debian": "http://mirror.example/debian"}[os_id]
    node["apt"]["sources"] = [
        source_row(
            address,
            codename,
            components,
            file=f"/etc/apt/sources.list.d/{os_id}.sources",
            signed_by=f"/usr/share/keyrings/{os_id}-archive-keyring.gpg",
        )
    ]
    node["apt"]["candidates"] = {
        name: entry
        for name, entry in (node["apt"]["candidates"] or {}).items()
        if name in ("docker.io", "containerd", "dkms")
    }
    return node


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


def unwatched() -> Node:
    """Nobody watches this node, and no node_exporter is there."""
    return {
        "program": None,
        "last_check": None,
        "last_verify": None,
        "textfile_directory": None,
        "node_exporter": {
            "installed": False,
            "package": False,
            "ours": False,
            "active": False,
            "directory": None,
        },
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
    codename = {"20.04": "focal", "22.04": "jammy", "24.04": "noble"}[version_id]
    candidates: Node = {
        "docker.io": offer(docker),
        "containerd": offer("1.7.28-0ubuntu1"),
        "dkms": offer("2.8.7-2ubuntu2"),
        f"python{PYTHONS[codename]}-venv": offer("3.10.12-1"),
        f"linux-headers-{kernel}": offer("5.15.0-157.167"),
    }
    for branch, version in branches.items():
        candidates.update(driver_packages(branch, version, kernel))
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
            "memory": {"total_mib": 64000, "available_mib": 60000},
            "virtual": "none",
            "kernel_log": {"source": "dmesg", "lines": []},
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
            "device_access": {},
            "majors": {},
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
                    "result": None,
                    "exec_start": [],
                },
                "daemon_json": daemon_json(None),
                "live": None,
                "log": None,
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
                "config": None,
                "ldconfig_exists": None,
            },
            "cdi": {"specs": []},
            "gpu_containers": [],
        },
        "framework": {
            "images": None,
            "endpoints": [{"name": "registry", "address": "registry:5000", "reachable": True, "error": None}],
            "venvs": [],
            "pythons": [{"path": "/usr/bin/python3", "version": PYTHONS[codename], "venv": False}],
        },
        "application": {"files": {}, "units": {}, "listening": [], "workbenches": [], "health": unwatched()},
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
                    "keys": None,
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
            "errors": [],
            "broken": [],
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
        "runtime_paths": {
            name: {"path": settings["path"], "found": True}
            for name, settings in dict((content or {}).get("runtimes") or {}).items()
        },
    }


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
        "cpus": 16,
        "security_options": ["name=seccomp,profile=builtin", "name=cgroupns"],
    }
