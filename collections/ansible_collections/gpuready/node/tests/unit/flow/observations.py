"""Observations of one node on its way from bare to converged, in the shape of docs/contracts.md."""

from __future__ import annotations

import copy

from gpuready.wishes import DEFAULT_WISHES

KERNEL = "5.15.0-157-generic"
DRIVER = "580.95.05-0ubuntu0.22.04.2"
UPSTREAM = "580.95.05"
DRIVER_PACKAGES = (
    f"linux-modules-nvidia-580-server-open-{KERNEL}",
    "linux-modules-nvidia-580-server-open-generic",
    "nvidia-kernel-common-580-server",
    "nvidia-headless-no-dkms-580-server-open",
    "nvidia-utils-580-server",
    "libnvidia-compute-580-server",
    "nvidia-compute-utils-580-server",
)
TOOLKIT_PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
IMAGE = "tensorflow/tensorflow:2.9.0-gpu"


def _packages(names, version):
    return [{"name": name, "version": version, "held": True, "status": "installed"} for name in names]


def _candidates(names, version, installed=False, origin="Ubuntu"):
    return {
        name: {
            "candidate": version,
            "installed": version if installed else None,
            "versions": [version],
            "origins": {version: [origin]},
            "kernel": None,
        }
        for name in names
    }


def _unattended(*, guarded):
    return {"installed": False, "enabled": False, "blacklist": [], "guard_file": guarded}


def bare() -> dict:
    """Ubuntu 22.04 as it comes, with fresh lists of the distribution's archive only."""
    return {
        "schema": 1,
        "seconds": 0.3,
        "problems": [],
        "host": {
            "hostname": "n",
            "os": {
                "id": "ubuntu",
                "version_id": "22.04",
                "codename": "jammy",
                "pretty_name": "Ubuntu 22.04.5 LTS",
                "arch": "amd64",
            },
            "kernel": {"running": KERNEL, "next_boot": KERNEL, "installed": [KERNEL], "headers": []},
            "boot_id": "b1",
            "uptime_seconds": 800.0,
            "secure_boot": False,
            "mok": {"key": None, "enrolled": None},
            "gpus": [
                {
                    "pci": "0000:3b:00.0",
                    "vendor_id": "10de",
                    "device_id": "20b5",
                    "subsystem_id": "10de:1533",
                    "class": "030200",
                    "driver_bound": None,
                    "name": None,
                    "chip": None,
                    "arch": None,
                }
            ],
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
            "nvml": {
                "source": None,
                "driver_version": None,
                "cuda_version": None,
                "error": "no libnvidia-ml",
            },
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
                "daemon_json": {
                    "path": "/etc/docker/daemon.json",
                    "exists": False,
                    "valid": None,
                    "error": None,
                    "sha256": None,
                    "content": {},
                    "runtimes": {},
                    "default_runtime": None,
                    "features": {},
                },
                "live": None,
            },
            "toolkit": {
                "packages": [],
                "binaries": dict.fromkeys(
                    (
                        "nvidia-ctk",
                        "nvidia-container-runtime",
                        "nvidia-container-runtime-hook",
                        "nvidia-cdi-hook",
                        "nvidia-container-cli",
                    )
                ),
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
            "endpoints": [{"name": "registry", "address": "r:443", "reachable": True, "error": None}],
        },
        "apt": {
            "lists_age_seconds": 120.0,
            "sources": [
                {
                    "file": "/etc/apt/sources.list",
                    "format": "list",
                    "enabled": True,
                    "uris": ["http://archive.ubuntu.com/ubuntu"],
                    "suites": ["jammy"],
                    "components": ["main", "restricted", "universe"],
                    "signed_by": None,
                }
            ],
            "candidates": {
                **_candidates(DRIVER_PACKAGES, DRIVER),
                **_candidates(["docker.io", "containerd"], "20.10.24"),
            },
            "holds": [],
            "unattended_upgrades": {
                "installed": False,
                "enabled": False,
                "blacklist": [],
                "guard_file": False,
            },
            "driver_pin": None,
            "dpkg_interrupted": False,
            "lock_held": False,
        },
        "disk": [
            {"path": path, "total_mib": 100000, "free_mib": 60000}
            for path in ("/", "/var/lib/docker", "/var", "/boot")
        ],
    }


def with_source() -> dict:
    """The toolkit's source is there and its lists are fetched."""
    seen = bare()
    seen["apt"]["sources"].append(
        {
            "file": "/etc/apt/sources.list.d/nvidia-container-toolkit.sources",
            "format": "deb822",
            "enabled": True,
            "uris": ["https://nvidia.github.io/libnvidia-container/stable/deb/amd64"],
            "suites": ["/"],
            "components": [],
            "signed_by": "/usr/share/keyrings/nvidia-container-toolkit.gpg",
            "fingerprints": DEFAULT_WISHES["nvidia_container_toolkit_repo_key_fingerprint"],
        }
    )
    seen["apt"]["candidates"].update(_candidates(TOOLKIT_PACKAGES, "1.17.8-1"))
    seen["host"]["nouveau"] = {
        "loaded": False,
        "blacklisted": True,
        "files": ["/etc/modprobe.d/gpuready-nouveau.conf"],
    }
    return seen


def converged() -> dict:
    """Everything is in place."""
    seen = copy.deepcopy(with_source())
    seen["host"]["gpus"][0]["driver_bound"] = "nvidia"
    module = {"version": UPSTREAM, "flavour": "open"}
    seen["driver"].update(
        packages=_packages(DRIVER_PACKAGES, DRIVER),
        loaded={**module, "modules": ["nvidia", "nvidia_modeset", "nvidia_drm", "nvidia_uvm"], "users": 0},
        on_disk={**module, "kernel": KERNEL, "path": f"/lib/modules/{KERNEL}/nvidia.ko", "signed": True},
        userspace={
            "version": UPSTREAM,
            "libcuda": f"/usr/lib/x86_64-linux-gnu/libcuda.so.{UPSTREAM}",
            "libnvidia_ml": f"/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{UPSTREAM}",
            "nvidia_smi": "/usr/bin/nvidia-smi",
        },
        devices=[
            {
                "index": 0,
                "uuid": "GPU-1",
                "name": "NVIDIA A100 80GB PCIe",
                "pci": "0000:3b:00.0",
                "memory_total_mib": 81920,
                "memory_used_mib": 0,
                "compute_capability": "8.0",
                "utilization_percent": 0,
                "temperature_c": 34,
                "mig_mode": False,
            }
        ],
        nvml={"source": "nvidia-smi", "driver_version": UPSTREAM, "cuda_version": "13.0", "error": None},
        device_nodes=["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"],
        persistenced={"installed": True, "enabled": True, "active": True},
    )
    runtimes = {"nvidia": {"path": "nvidia-container-runtime", "args": []}}
    seen["container_runtime"].update(
        docker={
            **seen["container_runtime"]["docker"],
            "installed": True,
            "package": "docker.io",
            "version": "20.10.24",
            "service": {
                "unit": "docker.service",
                "active": True,
                "enabled": True,
                "pid": 411,
                "started_at": 1790000000.0,
            },
            "daemon_json": {
                **seen["container_runtime"]["docker"]["daemon_json"],
                "exists": True,
                "valid": True,
                "sha256": "0" * 64,
                "content": {"runtimes": runtimes},
                "runtimes": runtimes,
            },
            "live": {
                "reachable": True,
                "error": None,
                "server_version": "20.10.24",
                "runtimes": ["runc", "nvidia"],
                "default_runtime": "runc",
                "root_dir": "/var/lib/docker",
                "cdi_spec_dirs": None,
                "cgroup_version": "1",
                "cgroup_driver": "systemd",
                "insecure_registries": [],
                "registry_mirrors": [],
                "live_restore": False,
                "containers_running": 0,
            },
        },
        toolkit={
            "packages": _packages(TOOLKIT_PACKAGES, "1.17.8-1"),
            "binaries": {
                name: f"/usr/bin/{name}" for name in seen["container_runtime"]["toolkit"]["binaries"]
            },
            "version": "1.17.8",
            "hook_on_dockerd_path": True,
            "hook_newer_than_dockerd": False,
            "cdi_refresh": {"installed": False, "failed": None},
        },
    )
    seen["framework"]["images"] = [
        {
            "ref": IMAGE,
            "id": "sha256:1",
            "digests": ["tensorflow/tensorflow@sha256:2"],
            "size_mib": 3800,
            "env": None,
        }
    ]
    seen["apt"]["candidates"] = {
        **_candidates(DRIVER_PACKAGES, DRIVER, installed=True),
        **_candidates(TOOLKIT_PACKAGES, "1.17.8-1", installed=True),
        **_candidates(["docker.io", "containerd"], "20.10.24", installed=True),
    }
    seen["apt"]["holds"] = [*DRIVER_PACKAGES, *TOOLKIT_PACKAGES]
    seen["apt"]["unattended_upgrades"] = _unattended(guarded=True)
    return seen
