# Apache-2.0 (see LICENSE)
"""From the packages to a working GPU: nouveau, the loaded modules, the driver's services, and the reboot."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from . import driver_options, requirements
from .draft import Draft, gpu_containers, listing, probe_failed
from .driver_options import Option

# Stopped before a reload, and started after it.
SERVICES = ("nvidia-persistenced", "nvidia-fabricmanager")


def plan_kernel(work: Draft, option: Option) -> None:
    """What of the chosen driver is not in the kernel yet."""
    if _plan_nouveau(work):
        _plan_modules(work, option)
    _plan_services(work, option)


def _plan_nouveau(work: Draft) -> bool:
    """Is the way free for NVIDIA's modules, now, without a reboot?"""
    nouveau = work.see("host", "nouveau") or {}
    bound = [gpu for gpu in work.usable_gpus if gpu.get("driver_bound") == "nouveau"]
    in_use = bool(nouveau.get("loaded")) or bool(bound)
    holding = ["nouveau holds GPU %s" % gpu.get("pci") for gpu in bound]
    if in_use and not holding:
        holding = ["nouveau is loaded"]
    if work.wishes["host_prepare_nouveau_disabled"]:
        evidence = []
        if nouveau.get("blacklisted") is not True:
            evidence.append("no modprobe configuration blocks nouveau")
        elif work.see("host", "initramfs", "stale"):
            evidence.append(
                "the initramfs of the next boot is older than what blacklists nouveau (%s)"
                % listing(nouveau.get("files") or ["modprobe's configuration"])
            )
        if evidence:
            work.act(
                "host.nouveau_off",
                "blacklist nouveau and rebuild the initramfs",
                "nouveau and NVIDIA's driver cannot both hold a GPU",
                [*evidence, *holding],
            )
    elif in_use:
        work.refuse(
            "host.nouveau_kept",
            "host",
            "host_prepare",
            "nouveau holds the GPU and host_prepare_nouveau_disabled is false",
            holding,
            [
                "set host_prepare_nouveau_disabled: true",
                "take care of nouveau yourself, reboot, and run again",
            ],
        )
        return False
    if in_use:
        work.want_reboot("nouveau", "nouveau holds the GPU and lets go of it only at a reboot", holding)
    return not in_use


def _plan_modules(work: Draft, option: Option) -> None:
    """Bring the modules into the kernel: load, load anew, or by a reboot."""
    loaded = work.see("driver", "loaded")
    if option.reboot:
        work.want_reboot(
            "kernel:%s" % option.kernel,
            "the driver's modules are made for kernel %s, not for the running one" % option.kernel,
            [
                "running: kernel %s, for which no module of this driver can be had"
                % work.see("host", "kernel", "running"),
                "loaded: %s" % (loaded or {}).get("version", "no NVIDIA driver"),
            ],
        )
        return
    if loaded:
        different = _difference(work, option, loaded)
        if different:
            _reload(work, *different)
            return
        missing = _missing_nodes(work)
        modules = loaded.get("modules") or []
        if modules and "nvidia_uvm" not in modules:
            missing.insert(0, "module nvidia_uvm is not loaded")
        if missing:
            work.act(
                "driver.load",
                "load nvidia_uvm and make the device files",
                "CUDA needs the module nvidia_uvm and the device files",
                missing,
            )
        return
    if probe_failed(work, "driver.loaded"):
        return
    evidence = ["no nvidia module is loaded"]
    evidence += [
        "GPU %s is bound to no driver" % gpu.get("pci")
        for gpu in work.usable_gpus
        if not gpu.get("driver_bound")
    ]
    work.act(
        "driver.load",
        "load the driver %s" % (option.version or "once it is installed"),
        "the driver is not loaded",
        evidence,
    )


def _difference(
    work: Draft, option: Option, loaded: Mapping[str, Any]
) -> Optional[Tuple[str, str, List[str]]]:
    """(key, reason, evidence) when the loaded modules are not those that will be on disk; else None."""
    version, flavour = loaded.get("version"), loaded.get("flavour")
    on_disk = work.see("driver", "on_disk") or {}
    installing = "driver.install" in work.actions
    target = option.version or (None if installing else on_disk.get("version"))
    evidence = [
        "loaded: %s" % version,
        "%s: %s" % ("planned" if installing else "installed", target),
        "on disk: %s" % (on_disk.get("version") or "none"),
        "libraries: %s" % (work.see("driver", "userspace", "version") or "none"),
    ]
    if target and version and version != target:
        reason = (
            "the loaded driver %s is replaced by %s"
            if installing
            else "the loaded driver %s is not the installed one, %s"
        )
        return "driver:%s->%s" % (version, target), reason % (version, target), evidence
    disk_version = on_disk.get("version")
    if version and disk_version and disk_version != version and not installing:
        reason = "the loaded driver %s is not the one on disk, %s" % (version, disk_version)
        return "driver:%s->%s" % (version, disk_version), reason, evidence
    if flavour and flavour != option.flavour:
        reason = "the loaded modules are %s, the planned ones %s" % (flavour, option.flavour)
        return "driver:%s->%s" % (flavour, option.flavour), reason, ["loaded flavour: %s" % flavour]
    return None


def _reload(work: Draft, key: str, reason: str, evidence: Sequence[str]) -> None:
    """Load the modules anew if nothing uses them; else only a reboot helps."""
    blockers = reload_blockers(work)
    if blockers:
        work.want_reboot(key, reason, [*evidence, *("no reload: %s" % text for text in blockers)])
        return
    stopped = [row["service"] for row in work.see("driver", "processes") or [] if row.get("service")]
    work.act(
        "driver.reload",
        "unload the driver's modules and load them again, without a reboot",
        reason,
        [*evidence, "no process and no container uses a GPU"],
        restarts=sorted(set(stopped)),
    )


def reload_blockers(work: Draft) -> List[str]:
    """What forbids to unload the modules; empty when nothing does."""
    if not work.wishes["nvidia_driver_reload_allowed"]:
        return ["nvidia_driver_reload_allowed is false"]
    failed = work.see("driver", "reload_failed")
    if failed:
        return ["it was tried in this run and failed (%s)" % failed]
    processes = work.see("driver", "processes")
    containers = work.see("container_runtime", "gpu_containers") or []
    users = work.see("driver", "loaded", "users")
    found = [
        "process %s (%s) holds %s" % (row.get("pid"), row.get("name"), listing(row.get("files") or [], 2))
        for row in processes or []
        if not row.get("service")
    ]
    found += ["container %s (%s) uses a GPU" % (row.get("name"), row.get("image")) for row in containers]
    if processes is None:
        found.append("which processes use a GPU cannot be told")
    if users is None:
        found.append("how often the modules are in use cannot be told")
    elif users and not found and not any(row.get("service") for row in processes or []):
        found.append("the modules have %d users that are no process (a console, another module)" % users)
    return found


def _missing_nodes(work: Draft) -> List[str]:
    """Device files that the loaded driver should have."""
    nodes = work.see("driver", "device_nodes")
    if nodes is None:
        return []
    wanted = ["/dev/nvidiactl", "/dev/nvidia-uvm"]
    missing = ["%s is missing" % path for path in wanted if path not in nodes]
    numbered = [
        path for path in nodes if path.startswith("/dev/nvidia") and path[len("/dev/nvidia") :].isdigit()
    ]
    driven = [gpu for gpu in work.usable_gpus if gpu.get("driver_bound") in ("nvidia", None)]
    if len(numbered) < len(driven):
        missing.append("%d of %d GPUs have a device file /dev/nvidia<number>" % (len(numbered), len(driven)))
    return missing


# The driver's services --------------------------------------------------------------------------------


def _plan_services(work: Draft, option: Option) -> None:
    if work.wishes["nvidia_driver_persistenced_enabled"] and "nvidia-persistenced" not in work.unavailable:
        state = work.see("driver", "persistenced") or {}
        lacking = _lacking(work, state)
        if lacking:
            work.act(
                "driver.persistenced",
                _service_words(work, "nvidia-persistenced"),
                "without it an idle GPU is given up and initialised again by every job",
                ["nvidia-persistenced is not %s" % " and not ".join(lacking)],
            )
    if work.see("host", "nvswitches"):
        state = work.see("driver", "fabricmanager") or {}
        lacking = _lacking(work, state)
        evidence = ["nvidia-fabricmanager is not %s" % " and not ".join(lacking)] if lacking else []
        have, wanted = state.get("version"), option.version
        if have and wanted and have != wanted and work.reboot is None:
            evidence.append("it is of version %s, the driver of %s" % (have, wanted))
        if evidence:
            switches = work.see("host", "nvswitches")
            work.act(
                "driver.fabricmanager",
                _service_words(work, "nvidia-fabricmanager")
                + (" at the driver's version %s" % wanted if wanted else ""),
                "GPUs behind NVSwitches do not work without a fabric manager of the driver's own version",
                [*evidence, "%d NVSwitches on the PCI bus" % len(switches)],
            )


def _lacking(work: Draft, state: Mapping[str, Any]) -> List[str]:
    """What the service is not, as far as it can be helped in this run and is known."""
    if state.get("installed") is False:
        return ["installed"]
    # A state that systemd could not tell is no reason to act; and where a reboot is to come, the service is
    # enabled and starts with it: beside another driver than its own it would only fail.
    words = ("enabled",) if work.reboot else ("enabled", "active")
    return [word for word in words if state.get(word) is False]


def _service_words(work: Draft, service: str) -> str:
    return ("enable %s, which starts with the reboot" if work.reboot else "enable and start %s") % service


# The reboot -------------------------------------------------------------------------------------------


def plan_reboot(work: Draft, option: Optional[Option]) -> None:
    """The reboot that others asked for, and whether the kernel that it boots has the driver."""
    lost = option.without_next_boot if option else None
    if option and lost and not option.reboot:
        _next_boot(work, option, lost)
    if work.reboot is None:
        return
    running = work.see("host", "kernel", "running")
    upcoming = work.see("host", "kernel", "next_boot")
    evidence = list(work.reboot["evidence"])
    if upcoming and upcoming != running and not (option and option.reboot):
        evidence.append("the node boots into another kernel: %s, not %s" % (upcoming, running))
    if work.wishes["host_reboot_allowed"]:
        work.act(
            "host.reboot",
            "reboot the node",
            work.reboot["reason"],
            [*evidence, *gpu_containers(work)],
            reboot=True,
        )
    else:
        work.note(
            "a reboot is needed (%s) and host_reboot_allowed is false: reboot %s yourself and run again"
            % (work.reboot["reason"], work.host)
        )


def _next_boot(work: Draft, option: Option, lost: str) -> None:
    """The kernel of the next boot has no module of the driver, and none can be had."""
    running = work.see("host", "kernel", "running")
    driver = option.version or "branch %d" % option.branch
    headers = [pattern.format(kernel=lost) for pattern in option.family.kernel_headers]
    ways = [
        "remove that kernel (apt-get remove linux-image-%s), so that %s stays the next boot's"
        % (lost, running),
        "make %s the kernel that the boot loader takes" % running,
    ]
    if headers:
        ways.append("add an archive that has %s: DKMS then builds the module" % listing(headers))
    ways += [
        'set nvidia_driver_branch: "%d", which apt has a module of kernel %s for' % (branch, lost)
        for branch in _branches_for(work, option, lost)[:2]
    ]
    what = "the next boot takes kernel %s, for which there is no module of driver %s" % (lost, driver)
    if work.reboot is None:
        work.note(
            "CAUTION: %s: after a reboot the node is without its GPUs. Ways out: %s" % (what, "; ".join(ways))
        )
        return
    work.refuse(
        "driver.next_boot_without_module",
        "host",
        requirements.ROLE,
        what + ", and the plan needs a reboot",
        [
            "the reboot is for this: %s" % work.reboot["reason"],
            "running: kernel %s" % running,
            "apt has neither a precompiled module nor headers of kernel %s" % lost,
        ],
        ways,
    )


def _branches_for(work: Draft, option: Option, kernel: str) -> List[int]:
    """The branches that apt has a precompiled module of this kernel for, the newest first."""
    pattern, family = option.family.kernel_modules, option.family
    if not pattern:
        return []
    found = []
    for branch in sorted(work.catalog.branches, reverse=True):
        if branch != option.branch and family.names(branch):
            name = driver_options.names([pattern], branch, family, option.flavour, kernel)[0]
            if driver_options.candidate_of(work.observed, name):
                found.append(branch)
    return found


def reboot_row(work: Draft) -> Dict[str, Any]:
    """The plan's `reboot`."""
    return {
        "needed": work.reboot is not None,
        "key": work.reboot["key"] if work.reboot else None,
        "reason": work.reboot["reason"] if work.reboot else None,
        "allowed": bool(work.wishes["host_reboot_allowed"]),
    }
