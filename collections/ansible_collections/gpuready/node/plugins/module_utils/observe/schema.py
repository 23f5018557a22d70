"""The observation's shape, checkable: contract 1 of docs/contracts.md in code.

Not needed on the node. Tests hold what the probes produce against it, and whoever reads recorded
observations can ask whether they are whole.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple, Union

STRING, INTEGER, NUMBER, BOOLEAN, ANY = "string", "integer", "number", "boolean", "anything"
_TYPES: Dict[str, Tuple[type, ...]] = {
    STRING: (str,),
    INTEGER: (int,),
    NUMBER: (int, float),
    BOOLEAN: (bool,),
}


class Null:
    """Null, or what is inside."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Each:
    """A list of what is inside."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Table:
    """A mapping with free keys to what is inside."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner


class OneOf:
    """One of these texts."""

    def __init__(self, *values: str) -> None:
        self.values = values


Shape = Union[str, Dict[str, Any], Null, Each, Table, OneOf]

STRINGS = Each(STRING)
PACKAGE = {"name": STRING, "version": Null(STRING), "held": BOOLEAN, "status": STRING}
FLAVOUR = Null(OneOf("open", "proprietary"))
UNIT_STATE = {"installed": Null(BOOLEAN), "enabled": Null(BOOLEAN), "active": Null(BOOLEAN)}
DRIVER_STATE = Null(
    {
        "version": Null(STRING),
        "branch": Null(STRING),
        "flavour": FLAVOUR,
        "source": Null(STRING),
        "packages": Each({"name": STRING, "version": Null(STRING)}),
    }
)
VERSION_AT = {"version": Null(STRING), "package_version": Null(STRING), "at": Null(STRING)}
# Contract 7: what the role nvidia_driver remembers on the node.
RECORD = {
    "packages": STRINGS,
    "requested": STRINGS,
    "held": STRINGS,
    "files": STRINGS,
    "original": DRIVER_STATE,
    "previous": DRIVER_STATE,
    "unverified": Null(VERSION_AT),
    "rejected": Each(dict(VERSION_AT, why=Null(STRING))),
}
ON_DISK = Null(
    {"version": Null(STRING), "flavour": FLAVOUR, "kernel": STRING, "path": STRING, "signed": BOOLEAN}
)

TOOLKIT_SETTINGS = (
    "accept_envvar_unprivileged",
    "accept_as_volume_mounts",
    "disable_require",
    "supported_driver_capabilities",
    "swarm_resource",
    "root",
    "cli_path",
    "no_cgroups",
    "ldconfig",
    "user",
    "load_kmods",
    "mode",
    "runtimes",
    "cdi_default_kind",
    "cdi_spec_dirs",
    "hook_path",
    "skip_mode_detection",
)

GPU_STACK: Dict[str, Any] = {
    "schema": INTEGER,
    "seconds": NUMBER,
    "problems": Each({"probe": STRING, "error": STRING}),
    "host": {
        "hostname": Null(STRING),
        "os": {
            "id": Null(STRING),
            "version_id": Null(STRING),
            "codename": Null(STRING),
            "pretty_name": Null(STRING),
            "arch": Null(STRING),
        },
        "kernel": {
            "running": Null(STRING),
            "next_boot": Null(STRING),
            "installed": Null(STRINGS),
            "headers": Null(STRINGS),
        },
        "boot_id": Null(STRING),
        "uptime_seconds": Null(NUMBER),
        "memory": {"total_mib": Null(INTEGER), "available_mib": Null(INTEGER)},
        "virtual": Null(STRING),
        "kernel_log": Null({"source": OneOf("dmesg", "journalctl"), "lines": STRINGS}),
        "secure_boot": Null(BOOLEAN),
        "mok": {"key": Null(STRING), "enrolled": Null(BOOLEAN)},
        "gpus": Null(
            Each(
                {
                    "pci": STRING,
                    "vendor_id": STRING,
                    "device_id": Null(STRING),
                    "subsystem_id": Null(STRING),
                    "class": Null(STRING),
                    "driver_bound": Null(STRING),
                    "name": Null(STRING),
                    "chip": Null(STRING),
                    "arch": Null(STRING),
                }
            )
        ),
        "nvswitches": Null(Each({"pci": STRING, "vendor_id": STRING, "device_id": Null(STRING)})),
        "nouveau": {"loaded": Null(BOOLEAN), "blacklisted": Null(BOOLEAN), "files": Null(STRINGS)},
        "initramfs": {"present": Null(BOOLEAN), "tool": Null(STRING), "stale": Null(BOOLEAN)},
    },
    "driver": {
        "packages": Null(Each(PACKAGE)),
        "loaded": Null(
            {"version": Null(STRING), "flavour": FLAVOUR, "modules": STRINGS, "users": Null(INTEGER)}
        ),
        "processes": Null(
            Each(
                {
                    "pid": INTEGER,
                    "name": Null(STRING),
                    "files": STRINGS,
                    "service": Null(
                        OneOf(
                            "nvidia-persistenced",
                            "nvidia-fabricmanager",
                            "gpuready-health-metrics",
                            "gpuready-health-check",
                        )
                    ),
                    "container": Null(STRING),
                }
            )
        ),
        "on_disk": ON_DISK,
        "on_disk_next_boot": ON_DISK,
        "userspace": {
            "version": Null(STRING),
            "libcuda": Null(STRING),
            "libnvidia_ml": Null(STRING),
            "nvidia_smi": Null(STRING),
        },
        "devices": Null(
            Each(
                {
                    "index": Null(INTEGER),
                    "uuid": Null(STRING),
                    "name": Null(STRING),
                    "pci": Null(STRING),
                    "memory_total_mib": Null(INTEGER),
                    "memory_used_mib": Null(INTEGER),
                    "compute_capability": Null(STRING),
                    "utilization_percent": Null(INTEGER),
                    "temperature_c": Null(INTEGER),
                    "mig_mode": Null(BOOLEAN),
                    "mig_instances": Null(INTEGER),
                }
            )
        ),
        "nvml": {
            "source": Null(OneOf("pynvml", "nvidia-smi")),
            "driver_version": Null(STRING),
            "cuda_version": Null(STRING),
            "error": Null(STRING),
        },
        "device_nodes": Null(STRINGS),
        "device_access": Null(Table({"mode": STRING, "owner": STRING, "device": Null(STRING)})),
        "majors": Null(Table(INTEGER)),
        "persistenced": UNIT_STATE,
        "fabricmanager": dict(UNIT_STATE, version=Null(STRING)),
        "record": Null(RECORD),
        "dkms": Null(Each({"module": STRING, "version": STRING, "kernel": Null(STRING), "status": STRING})),
    },
    "container_runtime": {
        "docker": {
            "installed": Null(BOOLEAN),
            "package": Null(OneOf("docker.io", "docker-ce")),
            "version": Null(STRING),
            "snap": Null(BOOLEAN),
            "rootless": Null(BOOLEAN),
            "service": {
                "unit": STRING,
                "active": Null(BOOLEAN),
                "enabled": Null(BOOLEAN),
                "pid": Null(INTEGER),
                "started_at": Null(NUMBER),
                "result": Null(STRING),
                "exec_start": STRINGS,
            },
            "daemon_json": Null(
                {
                    "path": STRING,
                    "exists": BOOLEAN,
                    "valid": Null(BOOLEAN),
                    "error": Null(STRING),
                    "sha256": Null(STRING),
                    "content": Null(Table(ANY)),
                    "runtimes": Table(ANY),
                    "default_runtime": Null(STRING),
                    "features": Table(ANY),
                    "runtime_paths": Null(Table({"path": STRING, "found": BOOLEAN})),
                }
            ),
            "live": Null(
                {
                    "reachable": BOOLEAN,
                    "error": Null(STRING),
                    "server_version": Null(STRING),
                    "runtimes": Null(STRINGS),
                    "default_runtime": Null(STRING),
                    "root_dir": Null(STRING),
                    "cdi_spec_dirs": Null(STRINGS),
                    "cgroup_version": Null(STRING),
                    "cgroup_driver": Null(STRING),
                    "insecure_registries": Null(STRINGS),
                    "registry_mirrors": Null(STRINGS),
                    "live_restore": Null(BOOLEAN),
                    "containers_running": Null(INTEGER),
                    "cpus": Null(INTEGER),
                    "security_options": Null(STRINGS),
                }
            ),
            "log": Null(STRINGS),
        },
        "toolkit": {
            "packages": Null(Each(PACKAGE)),
            "binaries": {
                "nvidia-ctk": Null(STRING),
                "nvidia-container-runtime": Null(STRING),
                "nvidia-container-runtime-hook": Null(STRING),
                "nvidia-cdi-hook": Null(STRING),
                "nvidia-container-cli": Null(STRING),
            },
            "version": Null(STRING),
            "hook_on_dockerd_path": Null(BOOLEAN),
            "hook_newer_than_dockerd": Null(BOOLEAN),
            "cdi_refresh": {"installed": Null(BOOLEAN), "failed": Null(BOOLEAN)},
            "config": Null(dict({name: Null(ANY) for name in TOOLKIT_SETTINGS}, path=STRING)),
            "ldconfig_exists": Null(BOOLEAN),
        },
        "cdi": {
            "specs": Null(
                Each(
                    {
                        "path": STRING,
                        "error": Null(STRING),
                        "cdi_version": Null(STRING),
                        "kind": Null(STRING),
                        "devices": Null(STRINGS),
                        "driver_version": Null(STRING),
                        "stale": Null(BOOLEAN),
                        "missing_paths": Null(STRINGS),
                        "device_nodes": Null(STRINGS),
                        "wrong_devices": Null(Each({"path": STRING, "spec": STRING, "host": STRING})),
                    }
                )
            )
        },
        "gpu_containers": Null(
            Each({"id": STRING, "name": STRING, "image": Null(STRING), "labels": Table(STRING)})
        ),
    },
    "framework": {
        "images": Null(
            Each(
                {
                    "ref": STRING,
                    "id": STRING,
                    "digests": STRINGS,
                    "size_mib": INTEGER,
                    "env": Null(Table(STRING)),
                    "labels": Null(Table(STRING)),
                    "architecture": Null(STRING),
                    "containers": Null(STRINGS),
                }
            )
        ),
        "endpoints": Each(
            Null({"name": STRING, "address": STRING, "reachable": BOOLEAN, "error": Null(STRING)})
        ),
        "venvs": Null(
            Each(
                {
                    "name": STRING,
                    "path": STRING,
                    "target": Null(STRING),
                    "foreign": BOOLEAN,
                    "complete": BOOLEAN,
                    "stamp": Null(Table(ANY)),
                    "python": Null(STRING),
                    "owner": Null(STRING),
                    "packages": Table(STRING),
                    "former": Each({"path": STRING, "used_by": Each({"pid": INTEGER, "name": STRING})}),
                    "used_by": Each({"pid": INTEGER, "name": STRING}),
                    "size_mib": Null(INTEGER),
                }
            )
        ),
        "pythons": Null(Each({"path": STRING, "version": Null(STRING), "venv": Null(BOOLEAN)})),
    },
    "application": {
        "files": Null(Table({"sha256": Null(STRING), "mode": STRING, "owner": STRING, "link": Null(STRING)})),
        "units": Null(
            Table({"active": BOOLEAN, "enabled": BOOLEAN, "sub_state": Null(STRING), "result": Null(STRING)})
        ),
        "listening": Null(
            Each({"address": STRING, "port": INTEGER, "process": Null(STRING), "pid": Null(INTEGER)})
        ),
        "workbenches": Null(
            Each(
                {
                    "name": STRING,
                    "unit": {"active": BOOLEAN, "enabled": BOOLEAN, "result": Null(STRING)},
                    "container": Null(
                        {
                            "id": STRING,
                            "running": BOOLEAN,
                            "image": Null(STRING),
                            "image_id": Null(STRING),
                            "config": Null(STRING),
                            "ports": Each(INTEGER),
                            "restarts": Null(INTEGER),
                            "started_at": Null(STRING),
                        }
                    ),
                    "token": Null(
                        {
                            "auth": OneOf("token", "password"),
                            "exists": BOOLEAN,
                            "mode": Null(STRING),
                            "uid": Null(INTEGER),
                            "length": Null(INTEGER),
                        }
                    ),
                    "host_keys": BOOLEAN,
                    "certificate_current": Null(BOOLEAN),
                    "home": {"exists": BOOLEAN, "path": Null(STRING), "uid": Null(INTEGER)},
                }
            )
        ),
        "health": Null(
            {
                "program": Null(STRING),
                "last_check": Null(
                    {
                        "at": Null(INTEGER),
                        "ok": BOOLEAN,
                        "errors": STRINGS,
                        "drift": Each({"layer": STRING, "what": STRING, "expected": ANY, "found": ANY}),
                    }
                ),
                "last_verify": Null(
                    Each(
                        {
                            "workload": STRING,
                            "ok": BOOLEAN,
                            "at": Null(INTEGER),
                            "seconds": Null(NUMBER),
                            "gpus_listed": Null(INTEGER),
                            "findings": STRINGS,
                        }
                    )
                ),
                "textfile_directory": Null(BOOLEAN),
                "node_exporter": {
                    "installed": Null(BOOLEAN),
                    "package": Null(BOOLEAN),
                    "ours": BOOLEAN,
                    "active": BOOLEAN,
                    "directory": Null(STRING),
                },
            }
        ),
    },
    "apt": {
        "lists_age_seconds": Null(NUMBER),
        "sources": Null(
            Each(
                {
                    "file": STRING,
                    "format": OneOf("deb822", "one-line"),
                    "enabled": BOOLEAN,
                    "types": STRINGS,
                    "uris": STRINGS,
                    "suites": STRINGS,
                    "components": STRINGS,
                    "architectures": STRINGS,
                    "signed_by": Null(STRING),
                    "fingerprints": Null(STRINGS),
                    "keys": Null(Each({"fingerprint": STRING, "expires": Null(INTEGER), "expired": BOOLEAN})),
                }
            )
        ),
        "candidates": Null(
            Table(
                {
                    "candidate": Null(STRING),
                    "installed": Null(STRING),
                    "versions": STRINGS,
                    "origins": Table(STRINGS),
                    "kernel": Null(STRING),
                }
            )
        ),
        "holds": Null(STRINGS),
        "unattended_upgrades": Null(
            {
                "installed": Null(BOOLEAN),
                "enabled": Null(BOOLEAN),
                "blacklist": STRINGS,
                "guard_file": BOOLEAN,
            }
        ),
        "driver_pin": Null(STRING),
        "dpkg_interrupted": Null(BOOLEAN),
        "lock_held": Null(BOOLEAN),
        "errors": Null(STRINGS),
        "broken": Null(Each({"name": STRING, "status": STRING})),
    },
    "disk": Null(Each({"path": STRING, "total_mib": INTEGER, "free_mib": INTEGER})),
}


def _check(shape: Shape, value: Any, at: str, found: List[str]) -> None:
    if isinstance(shape, Null):
        if value is not None:
            _check(shape.inner, value, at, found)
    elif isinstance(shape, Each):
        if not isinstance(value, list):
            found.append("%s is %r, not a list" % (at, value))
            return
        for index, item in enumerate(value):
            _check(shape.inner, item, "%s[%d]" % (at, index), found)
    elif isinstance(shape, Table):
        if not isinstance(value, dict):
            found.append("%s is %r, not a mapping" % (at, value))
            return
        for key, item in value.items():
            _check(shape.inner, item, "%s[%r]" % (at, key), found)
    elif isinstance(shape, OneOf):
        if value not in shape.values:
            found.append("%s is %r, not one of: %s" % (at, value, ", ".join(shape.values)))
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            found.append("%s is %r, not a mapping" % (at, value))
            return
        found += ["%s.%s is missing" % (at, key) for key in shape if key not in value]
        found += ["%s.%s is in no contract" % (at, key) for key in value if key not in shape]
        for key, inner in shape.items():
            if key in value:
                _check(inner, value[key], "%s.%s" % (at, key), found)
    elif shape != ANY and (
        not isinstance(value, _TYPES[shape]) or (isinstance(value, bool) and shape != BOOLEAN)
    ):
        found.append("%s is %r, not a %s" % (at, value, shape))


def complaints(observed: Any) -> List[str]:
    """What is wrong with an observation; nothing when it keeps the contract."""
    found: List[str] = []
    _check(GPU_STACK, observed, "gpu_stack", found)
    return found
