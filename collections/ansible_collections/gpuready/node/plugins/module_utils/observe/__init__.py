"""The observation of a node: contract 1 of docs/contracts.md.

Slow questions start first, side by side; files are read while they run; then the answers are put together.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Dict, List, Optional, Sequence

from ..secrecy import without_secret_option
from . import (
    application,
    apt,
    cdi,
    disk,
    docker,
    driver,
    endpoints,
    health,
    host,
    kernel_log,
    nouveau,
    nvml,
    packages,
    pci,
    processes,
    systemd,
    toolkit,
    venvs,
    workbenches,
)
from .node import Jobs, Node

SCHEMA = 1
PERSISTENCED = "nvidia-persistenced.service"
FABRICMANAGER = "nvidia-fabricmanager.service"
CDI_REFRESH = "nvidia-cdi-refresh.service"


def observe(
    node: Node,
    addresses: Sequence[Dict[str, str]] = (),
    interpreters: Sequence[str] = (),
    textfile_directory: Optional[str] = None,
) -> Dict[str, Any]:
    """Reads the node. Changes nothing, and never raises for what the node looks like."""
    begun = time.monotonic()
    jobs = Jobs(node)
    kernel = node.attempt(
        "host.kernel",
        lambda: host.kernel(node),
        {"running": None, "next_boot": None, "installed": None, "headers": None},
    )
    kernels = [
        name for name in (kernel["running"], kernel["next_boot"], *(kernel["installed"] or ())) if name
    ]

    jobs.start("dpkg", lambda: packages.read(node))
    services = [docker.UNIT, PERSISTENCED, FABRICMANAGER, CDI_REFRESH]
    jobs.start("systemd", lambda: systemd.units(node, services))
    jobs.start("candidates", lambda: apt.candidates(node, kernels))
    jobs.start("sources", lambda: apt.reading(node))
    jobs.start("virtual", lambda: host.virtual(node))
    # Asking NVML holds the driver's device files: whoever else does is looked for before that.
    loaded = node.attempt("driver.loaded", lambda: driver.loaded(node))
    holders = (
        []
        if loaded is None
        else node.attempt("driver.processes", lambda: processes.processes(node, loaded["users"]))
    )
    jobs.start("nvml", lambda: nvml.nvml(node))
    jobs.start("userspace", lambda: driver.userspace(node))
    jobs.start("on_disk", lambda: driver.on_disk(node, kernel["running"]))
    if kernel["next_boot"] not in (None, kernel["running"]):
        jobs.start("on_disk_next_boot", lambda: driver.on_disk(node, kernel["next_boot"]))
    jobs.start("toolkit", lambda: toolkit.version(node))
    for index, endpoint in enumerate(addresses):
        jobs.start(
            "endpoint-%d" % index,
            partial(endpoints.check, endpoint["name"], endpoint["address"], min(3.0, node.timeout)),
        )

    # A command has its own time limit, and no question takes more than three; only NVML's library can hang
    # beyond it.
    patience = node.timeout * 3 + 1

    def answer(probe: str, name: str, default: Any = None) -> Any:
        return node.attempt(probe, lambda: jobs.result(name, patience), default)

    devices = node.attempt("host.gpus", lambda: pci.nvidia_devices(node))
    addresses_of = [device["pci"] for device in devices or []]
    jobs.start("kernel_log", lambda: kernel_log.kernel_log(node, addresses_of))
    units: Optional[Dict[str, Dict[str, str]]] = answer("systemd", "systemd")

    def unit(name: str) -> Optional[Dict[str, str]]:
        return None if units is None else units.get(name, {})

    found: Optional[List[packages.Package]] = answer("dpkg", "dpkg")
    jobs.start("upgrades", lambda: apt.unattended_upgrades(node, found))
    engine = _docker(node, found, units)
    space = node.attempt("disk", lambda: disk.disk(node, engine["root_dir"]))

    libraries = answer(
        "driver.userspace",
        "userspace",
        {"version": None, "libcuda": None, "libnvidia_ml": None, "nvidia_smi": None},
    )
    nvml_devices, nvml_facts = answer(
        "driver.nvml",
        "nvml",
        (None, {"source": None, "driver_version": None, "cuda_version": None, "error": None}),
    )
    if nvml_facts["error"] is None and any(problem["probe"] == "driver.nvml" for problem in node.problems):
        nvml_facts["error"] = next(p["error"] for p in node.problems if p["probe"] == "driver.nvml")

    observed = {
        "schema": SCHEMA,
        "seconds": 0.0,
        "problems": node.problems,
        "host": dict(
            _host(node, kernel, devices, found),
            virtual=answer("host.virtual", "virtual"),
            kernel_log=answer("host.kernel_log", "kernel_log"),
        ),
        "driver": {
            "packages": None if found is None else packages.driver(found),
            "loaded": loaded,
            "processes": holders,
            "on_disk": answer("driver.on_disk", "on_disk"),
            "on_disk_next_boot": answer("driver.on_disk_next_boot", "on_disk_next_boot")
            if kernel["next_boot"] not in (None, kernel["running"])
            else None,
            "userspace": libraries,
            "devices": nvml_devices,
            "nvml": nvml_facts,
            "device_nodes": node.attempt("driver.device_nodes", lambda: driver.device_nodes(node)),
            "device_access": node.attempt("driver.device_access", lambda: driver.device_access(node)),
            "majors": node.attempt("driver.majors", lambda: driver.majors(node)),
            "persistenced": node.attempt(
                "driver.persistenced",
                lambda: driver.persistenced(node, unit(PERSISTENCED)),
                {"installed": None, "enabled": None, "active": None},
            ),
            "fabricmanager": node.attempt(
                "driver.fabricmanager",
                lambda: driver.fabricmanager(node, found, unit(FABRICMANAGER)),
                {"installed": None, "version": None, "enabled": None, "active": None},
            ),
            "record": node.attempt("driver.record", lambda: driver.record(node)),
            "dkms": node.attempt("driver.dkms", lambda: driver.dkms(node)),
        },
        "container_runtime": {
            "docker": engine["facts"],
            "toolkit": _toolkit(
                node,
                found,
                engine["process"],
                unit(CDI_REFRESH),
                lambda: answer("container_runtime.toolkit", "toolkit"),
            ),
            "cdi": {
                "specs": node.attempt(
                    "container_runtime.cdi",
                    lambda: cdi.specs(node, libraries["version"], engine["cdi_directories"]),
                )
            },
            "gpu_containers": engine["gpu_containers"],
        },
        "framework": {
            "images": engine["images"],
            "endpoints": [
                answer("framework.endpoints", "endpoint-%d" % index) for index in range(len(addresses))
            ],
            "venvs": node.attempt("framework.venvs", lambda: venvs.venvs(node)),
            "pythons": node.attempt("framework.pythons", lambda: venvs.pythons(node, interpreters)),
        },
        "application": {
            "files": node.attempt("application.files", lambda: application.files(node)),
            "units": node.attempt("application.units", lambda: application.units(node)),
            "listening": node.attempt("application.listening", lambda: application.listening(node)),
            "workbenches": node.attempt(
                "application.workbenches", lambda: workbenches.workbenches(node, engine["socket"])
            ),
            "health": node.attempt(
                "application.health", lambda: health.health(node, found, textfile_directory)
            ),
        },
        "apt": node.attempt(
            "apt",
            lambda: apt.facts(
                node,
                found,
                lambda: apt.with_origins(
                    jobs.result("candidates", patience),
                    node.attempt(
                        "apt.candidates", lambda: apt.index_origins(jobs.result("sources", patience))
                    ),
                ),
                lambda: jobs.result("upgrades", patience),
                lambda: jobs.result("sources", patience).errors,
            ),
            {
                "lists_age_seconds": None,
                "sources": None,
                "candidates": None,
                "holds": None,
                "unattended_upgrades": None,
                "driver_pin": None,
                "dpkg_interrupted": None,
                "lock_held": None,
                "errors": None,
                "broken": None,
            },
        ),
        "disk": space,
    }
    observed["seconds"] = round(time.monotonic() - begun, 3)
    return observed


def _host(
    node: Node,
    kernel: Dict[str, Any],
    devices: Optional[List[Dict[str, Any]]],
    found: Optional[List[packages.Package]],
) -> Dict[str, Any]:
    system = node.attempt(
        "host.os",
        lambda: host.os_release(node),
        {"id": None, "version_id": None, "codename": None, "pretty_name": None},
    )
    own = packages.installed(found or [], "dpkg")
    system["arch"] = own.arch if own is not None else host.machine_arch(node)
    secure_boot = node.attempt("host.secure_boot", lambda: host.secure_boot(node))
    nouveau_facts = node.attempt(
        "host.nouveau",
        lambda: nouveau.nouveau(node),
        {"loaded": None, "blacklisted": None, "files": None},
    )
    return {
        "hostname": node.attempt("host.hostname", lambda: host.hostname(node)),
        "os": system,
        "kernel": kernel,
        "boot_id": node.attempt("host.boot_id", lambda: host.boot_id(node)),
        "uptime_seconds": node.attempt("host.uptime_seconds", lambda: host.uptime(node)),
        "memory": node.attempt(
            "host.memory", lambda: host.memory(node), {"total_mib": None, "available_mib": None}
        ),
        "secure_boot": secure_boot,
        "mok": node.attempt(
            "host.mok",
            lambda: host.mok(node, system["id"], secure_boot),
            {"key": None, "enrolled": None},
        ),
        "gpus": None if devices is None else pci.gpus(devices),
        "nvswitches": None if devices is None else pci.nvswitches(devices),
        "nouveau": nouveau_facts,
        "initramfs": node.attempt(
            "host.initramfs",
            lambda: host.initramfs(node, kernel["next_boot"], nouveau_facts["files"]),
            {"present": None, "tool": None, "stale": None},
        ),
    }


def _docker(
    node: Node, found: Optional[List[packages.Package]], units: Optional[Dict[str, Dict[str, str]]]
) -> Dict[str, Any]:
    """The Docker facts, and what other probes need of them."""
    probe = "container_runtime.docker"
    unit = None if units is None else units.get(docker.UNIT, {})
    process = node.attempt(probe, lambda: docker.find_process(node, unit))
    argv = docker.command_line(process, unit)
    snap = node.attempt(probe, lambda: docker.is_snap(node))
    package = docker.package(found or [])
    binary = docker.dockerd(node)
    installed = bool(package or binary or snap or process)
    config = node.attempt(probe + ".daemon_json", lambda: docker.daemon_json(node, argv, bool(snap)))
    if config is not None:
        config["runtime_paths"] = node.attempt(
            probe + ".daemon_json",
            lambda: docker.runtime_paths(node, config["runtimes"], process.path if process else None),
        )
    result: Dict[str, Any] = {
        "process": process,
        "images": None,
        "gpu_containers": None,
        "root_dir": None,
        "socket": None,
        "cdi_directories": list(cdi.DIRECTORIES),
    }
    live = None
    log: Optional[List[str]] = None
    rootless: Optional[bool] = False
    version = None
    if installed:
        sock = docker.find_socket(node, argv, (config or {}).get("content"))
        live, info = docker.ask(node, sock)
        version = docker.version_of(package.version if package else live["server_version"])
        if version is None and binary:
            version = node.attempt(probe, lambda: docker.version_of(node.output([binary, "--version"])))
        if live["reachable"]:
            result["socket"] = sock
            result["root_dir"] = live["root_dir"]
            result["images"] = node.attempt("framework.images", lambda: docker.images(node, sock))
            result["gpu_containers"] = node.attempt(
                "container_runtime.gpu_containers", lambda: docker.gpu_containers(node, sock)
            )
            rootless = "name=rootless" in (info.get("SecurityOptions") or [])
            result["cdi_directories"] += [
                path for path in live["cdi_spec_dirs"] or [] if path not in result["cdi_directories"]
            ]
        else:
            rootless = sock.startswith("/run/user/")
            data_root = ((config or {}).get("content") or {}).get("data-root")
            if isinstance(data_root, str) and data_root.startswith("/"):
                result["root_dir"] = data_root
            # Why it does not answer, in its own words; a healthy node is not asked.
            log = node.attempt(probe + ".log", lambda: docker.log(node))
    elif found is not None:
        # No Docker: no image and no container, and that is known.
        result["images"], result["gpu_containers"] = None, []
    state = (unit or {}).get("ActiveState")
    enabled = (unit or {}).get("UnitFileState")
    result["facts"] = {
        "installed": installed if found is not None or installed else None,
        "package": package.name if package else None,
        "version": version,
        "snap": snap,
        "rootless": rootless,
        "service": {
            "unit": docker.UNIT,
            "active": None if unit is None else state in ("active", "reloading"),
            "enabled": None
            if unit is None
            else enabled in ("enabled", "enabled-runtime", "alias", "indirect"),
            "pid": process.pid if process else None,
            "started_at": process.started_at if process else None,
            "result": (unit or {}).get("Result") or None,
            "exec_start": [without_secret_option(word) for word in argv],
        },
        "daemon_json": config,
        "live": live,
        "log": log,
    }
    return result


def _toolkit(
    node: Node,
    found: Optional[List[packages.Package]],
    process: Optional[docker.Process],
    unit: Optional[Dict[str, str]],
    version: Any,
) -> Dict[str, Any]:
    probe = "container_runtime.toolkit"
    facts = {
        "packages": None if found is None else packages.toolkit(found),
        "binaries": node.attempt(probe, lambda: toolkit.binaries(node), dict.fromkeys(toolkit.BINARIES)),
        "version": version(),
        "cdi_refresh": toolkit.cdi_refresh(unit),
    }
    settings = node.attempt(probe, lambda: toolkit.config(node))
    facts.update(config=settings, ldconfig_exists=toolkit.ldconfig_exists(node, settings))
    facts.update(
        node.attempt(
            probe,
            lambda: toolkit.hook(node, process),
            {"hook_on_dockerd_path": None, "hook_newer_than_dockerd": None},
        )
    )
    return facts
