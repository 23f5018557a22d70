# Apache-2.0 (see LICENSE)
"""The host's part of the plan: which driver, from where, and what of it is missing."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from . import aptpins, driver_conflicts, driver_options, requirements, resolver
from .catalog import Framework, PackageSource
from .draft import Draft, listing, lists_are_old, probe_failed
from .driver_options import Installed, Option
from .plain import plain_copy
from .plan_kernel import plan_kernel
from .plan_packages import holds, loose, membership, part_of, replaced
from .plan_sources import Repository, plan_pin, repository
from .versions import compare


def plan_driver(work: Draft) -> None:
    if work.conflicting("framework.workload_unknown") or not _check_gpus(work):
        work.conflicts += driver_conflicts.check_wishes(work.wishes, work.catalog)
        return
    own = driver_options.source_of(work.observed, work.wishes, work.catalog)
    if own is None:
        return  # _node_is_possible has said so
    needed = repository(work, own)
    resolution = resolver.resolve(
        work.observed, work.workloads, work.wishes, work.catalog, today=work.today, gpus=work.usable_gpus
    )
    work.resolution = resolution
    installed = resolution.installed or Installed()
    foreign = _foreign_driver(work, installed)
    work.conflicts += plain_copy(resolution.conflicts)
    option = resolution.option
    for note in resolution.notes:
        # What the next boot lacks is said louder, with the ways out (plan_kernel).
        if not option or not option.without_next_boot or note not in option.notes:
            work.note(note)
    if option is None or foreign:
        return
    option = work.option = _with_extras(work, option)
    source = option.source or own
    if source is not own:
        needed = Repository(None, [], "")  # what is kept, or completed from where it came
    lack = _lack(work, option, installed)
    # What is kept needs no source, unless that very source was asked for.
    adding = bool(needed.faults) and (lack is not None or work.wishes["nvidia_driver_source"] != "auto")
    # Lists that are fetched first may name newer versions: then apt chooses.
    floating = lack is not None and (
        not resolution.listed or (lists_are_old(work) and not work.wishes["nvidia_driver_version"])
    )
    wanted = [*option.packages, *(lack.more if lack else [])]
    packages = [{"name": name, "version": None if floating else text} for name, text in wanted]
    replaces = replaced(work, option, installed) if lack else []
    change = _change(option, installed) if lack else "none"
    if adding:
        work.act(
            "driver.source",
            needed.summary,
            "the driver's packages come from there"
            if lack
            else "nvidia_driver_source is %s" % work.wishes["nvidia_driver_source"],
            needed.faults,
        )
    pin = _plan_pin(work, option, source)
    previous = _previous(installed) if change in ("upgrade", "downgrade", "switch") else None
    if lack:
        _install(work, option, installed, lack, change, replaces)
    work.driver = {
        "branch": str(option.branch),
        "flavour": option.flavour,
        "source": source.name,
        "origin": option.origin or source.origin,
        "repo": needed.repo if needed.repo and (adding or source.distro) else None,
        "pin": pin,
        "install": option.install,
        "kernel": option.kernel or work.see("host", "kernel", "running"),
        "version": option.version,
        "package_version": option.package_version,
        "packages": packages,
        "holds": holds(work, option, installed) if work.wishes["nvidia_driver_hold_enabled"] else [],
        "reinstall": lack.reinstall if lack else [],
        "replaces": replaces,
        "min_required": resolution.min_required,
        "because": [dict(row) for row in resolution.because],
        "keeps_installed": resolution.keeps_installed,
        "change": change,
        "previous": previous,
    }
    _driver_guards(work, option, installed)
    plan_kernel(work, option)


def _with_extras(work: Draft, option: Option) -> Option:
    """The option, with what the driver's services come in where they are packages of their own."""
    if not option.family.extras or not work.wishes["nvidia_driver_persistenced_enabled"]:
        return option
    planned = dict(option.packages)
    listed = driver_options.has_lists(work.observed) and option.version is not None
    found = []
    for name in option.family.extras:
        offered = driver_options.versions_of(work.observed, name)
        version = option.package_version if option.package_version in offered else None
        version = version or driver_options.candidate_of(work.observed, name)
        if name in planned:
            continue
        if version or not listed:
            found.append((name, version))
        else:
            work.note("apt has no %s: an idle GPU is initialised again by every job" % name)
            work.unavailable.append(name)
    return dataclasses.replace(option, packages=(*option.packages, *found)) if found else option


def _plan_pin(work: Draft, option: Option, source: PackageSource) -> Optional[str]:
    pin, have = plan_pin(work, option, source), work.see("apt", "driver_pin")
    if pin is not None and pin != have:
        others = aptpins.blocked(pin)
        work.act(
            "driver.pin",
            "keep apt from mixing the driver with packages of %s" % listing(others),
            "a driver works only when all of its packages come from one origin, here %s"
            % (option.origin or source.origin),
            [
                "%s does not exist" % aptpins.PATH
                if have is None
                else "%s says something else" % aptpins.PATH,
                "apt also knows the driver of %s, or will" % listing(others),
            ],
        )
    return pin


def _change(option: Option, installed: Installed) -> str:
    """What the install is to the driver that is there."""
    if installed.branch is None:
        return "install"
    same_origin = not (option.origin and installed.origin) or option.origin == installed.origin
    if (
        option.branch != installed.branch
        or option.family.family != (installed.family or option.family).family
        or (installed.flavour and option.flavour != installed.flavour)
        or not same_origin
    ):
        return "switch"
    if not option.package_version or not installed.package_version:
        return "complete"
    order = compare(option.package_version, installed.package_version)
    return "upgrade" if order > 0 else "downgrade" if order < 0 else "complete"


def _previous(installed: Installed) -> Optional[Dict[str, Any]]:
    """Where a rollback would go back to: a whole driver, or nothing."""
    kept = installed.option
    if kept is None:
        return None
    source = installed.source or kept.source
    return {
        "version": kept.version,
        "branch": str(kept.branch),
        "flavour": kept.flavour,
        "source": source.name if source else None,
        "packages": [
            {"name": name, "version": version} for name, version in sorted(part_of(installed, kept).items())
        ],
    }


def _install(
    work: Draft,
    option: Option,
    installed: Installed,
    lack: Lack,
    change: str,
    replaces: Sequence[str],
) -> None:
    verb = {
        "install": "install driver %s",
        "complete": "complete driver %s",
        "upgrade": "upgrade the driver to %s",
        "downgrade": "downgrade the driver to %s",
        "switch": "switch the driver to %s",
    }[change] % (option.version or "branch %d" % option.branch)
    named = listing([name for name, _ in option.packages])
    evidence = [*lack.evidence, "replaces %s" % listing(replaces) if replaces else ""]
    if change in ("upgrade", "downgrade", "switch"):
        evidence.append(
            "now: %s, %s, from %s"
            % (installed.version, installed.flavour, installed.origin or "an unknown origin")
        )
    target = ""
    if option.reboot:
        target = " for kernel %s, the next boot's" % option.kernel
    work.act(
        "driver.install",
        "%s (%s, %s)%s: %s" % (verb, option.flavour, option.install, target, named),
        lack.reason,
        evidence,
    )


def _check_gpus(work: Draft) -> bool:
    """May the driver be chosen, given what is known of the GPUs?"""
    fine = True
    decided = (
        work.wishes["nvidia_driver_branch"] != "auto" or work.wishes["nvidia_driver_version"]
    ) and work.wishes["nvidia_driver_flavour"] != "auto"
    for gpu in work.usable_gpus:
        if gpu.get("arch"):
            continue
        known = work.catalog.pci_ids.get(str(gpu.get("device_id")))
        what = "GPU %s (PCI id 10de:%s%s) is of no architecture that gpuready knows" % (
            gpu.get("pci"),
            gpu.get("device_id"),
            ", " + known if known else "",
        )
        if decided:
            work.note(what + "; the branch and flavour that were asked for are taken unchecked for it")
            continue
        work.refuse(
            "driver.gpu_unknown",
            "host",
            requirements.ROLE,
            what,
            ["its driver branches and kernel modules are not in data/gpus.yml, and gpuready does not guess"],
            [
                "add its chip to data/gpus.yml (python -m gpuready.catalog --refresh-pci-ids renews pci.ids)",
                "set nvidia_driver_branch and nvidia_driver_flavour for this node",
            ],
        )
        fine = False
    for framework in work.workloads:
        for gpu in {
            g.get("compute_capability"): g for g in work.usable_gpus if g.get("compute_capability")
        }.values():
            _note_limits(work, framework, gpu)
    return fine


def _note_limits(work: Draft, framework: Framework, gpu: Mapping[str, Any]) -> None:
    """What a framework does not do on this GPU; what it does not run on at all, the resolver refuses."""
    asked = gpu["compute_capability"]
    key = (id(framework), asked)
    limits = work.memory.recall("limits", key, lambda: requirements.limits_of(framework, asked))
    label = "%s (compute capability %s)" % (gpu.get("name") or gpu.get("device_id"), asked)
    for limit in limits:
        if limit.support == "none":
            continue
        work.note("%s on %s: %s" % (framework.name, label, limit.text))
        if work.wishes["gpu_verify_level"] == "compute":
            work.note("gpu_verify_level is compute, which %s may not pass on this GPU" % framework.name)


def _foreign_driver(work: Draft, installed: Installed) -> bool:
    """A driver that no package owns (NVIDIA's .run installer) would be mixed with ours."""
    on_disk, loaded = work.see("driver", "on_disk"), work.see("driver", "loaded")
    if work.see("driver", "packages") is None or installed.packages or not (on_disk or loaded):
        return False
    # Without a module on disk, a loaded one is only what a removed package left behind.
    if not on_disk:
        return False
    work.refuse(
        "driver.foreign",
        "host",
        requirements.ROLE,
        "driver %s is on the node but belongs to no package" % on_disk.get("version"),
        [
            "module: %s" % on_disk.get("path"),
            "NVIDIA's .run installer does that; packages would be mixed with its files",
        ],
        ["remove it first: nvidia-uninstall (or NVIDIA-Linux-….run --uninstall), then run again"],
    )
    return True


class Lack(NamedTuple):
    """What of the chosen driver is not on the node."""

    reason: str
    evidence: List[str]
    reinstall: List[str]  # packages that dpkg calls installed, but whose files are not there
    # What others brought along and was taken away since: apt leaves it out when only those are asked for.
    more: Sequence[Tuple[str, Optional[str]]] = ()


def _lack(work: Draft, option: Option, installed: Installed) -> Optional[Lack]:
    """None when the chosen driver is all there."""
    have = _have(work, option, installed)
    missing = [name for name, _ in option.packages if name not in have]
    absent = ["missing: %s" % listing(missing)] if missing else []
    if missing and installed.branch is None:
        return Lack("no NVIDIA driver is installed", absent, [])
    resolution = work.resolution
    if installed.option and not option.installed and resolution:
        broken = [rule.sentence() for rule in resolution.requirements if not installed.option.satisfies(rule)]
        if broken:
            reason = "the installed driver %s does not fulfil the requirements" % installed.option.words()
            return Lack(reason, [*broken, *absent], [])
    if missing:
        kernel = option.kernel or work.see("host", "kernel", "running")
        _, upcoming = driver_options.kernels(work.observed)
        reason = "the driver is not complete for kernel %s" % kernel
        if upcoming and upcoming != kernel and all(upcoming in name for name in missing):
            reason = "the next boot's kernel %s has no module of the driver" % upcoming
        return Lack(reason, absent, [])
    member, extras = membership(work, option), option.family.extras
    different = [
        "%s is %s, planned is %s" % (name, have[name], version)
        for name, version in option.packages
        if version
        and have[name] not in (None, version)
        and not member.is_headers(name)
        and name not in extras
    ]
    if different:
        return Lack("the installed version is not the planned one", different, [])
    evidence, packages = _lost_files(work, option)
    if evidence:
        reason = "the driver's packages are installed, but their files are not all there or not theirs"
        gone = [name for name in packages if name not in installed.packages and name not in have]
        more = [
            (name, option.package_version if option.package_version in versions else None)
            for name in gone
            if (versions := driver_options.versions_of(work.observed, name))
        ]
        if more:
            evidence.append("missing: %s" % listing([name for name, _ in more]))
        return Lack(reason, evidence, [name for name in packages if name in installed.packages], more)
    return None


def _have(work: Draft, option: Option, installed: Installed) -> Dict[str, Optional[str]]:
    """The option's packages that are installed, and the headers that are there without a package."""
    candidates = work.see("apt", "candidates") or {}
    usable = work.see("host", "kernel", "headers") or []
    there = {pattern.format(kernel=kernel) for kernel in usable for pattern in option.family.kernel_headers}
    found: Dict[str, Optional[str]] = {}
    for name, _ in option.packages:
        version = installed.packages.get(name) or (candidates.get(name) or {}).get("installed")
        if version or name in there:
            found[name] = version
    return found


def _lost_files(work: Draft, option: Option) -> Tuple[List[str], List[str]]:
    """(evidence, packages) of files that the installed packages should have put on the disk."""
    evidence: List[str] = []
    packages: List[str] = []

    def lost(text: str, patterns: Sequence[Optional[str]]) -> None:
        evidence.append(text)
        known = [pattern for pattern in patterns if pattern]
        for name in driver_options.names(known, option.branch, option.family, option.flavour):
            if name not in packages:
                packages.append(name)

    running, upcoming = driver_options.kernels(work.observed)
    named = [name for name, _ in option.packages]
    for kernel, key in ((running, "on_disk"), (upcoming, "on_disk_next_boot")):
        if not kernel or probe_failed(work, "driver.%s" % key):
            continue
        if option.install != requirements.DKMS:
            pattern = (option.family.kernel_modules or "").replace("{kernel}", kernel)
            if driver_options.names([pattern], option.branch, option.family, option.flavour)[0] not in named:
                continue  # no module for this kernel can be had, or another kernel is the target
        else:
            pattern = option.family.dkms_module_package(option.flavour == requirements.OPEN) or ""
            # DKMS builds for the kernels whose headers are there.
            if (option.kernel or running) != kernel and kernel not in (
                work.see("host", "kernel", "headers") or []
            ):
                continue
            if option.reboot and kernel == running:
                continue
        module = work.see("driver", key)
        if not module:
            lost("no nvidia module on disk for kernel %s" % kernel, [pattern])
        elif module.get("flavour") and module["flavour"] != option.flavour:
            words = (kernel, module["flavour"], option.flavour)
            lost("the module for kernel %s is %s, not %s" % words, [pattern])
        elif option.version and module.get("version") and module["version"] != option.version:
            words = (kernel, module["version"], option.version)
            lost("the module for kernel %s is of version %s, not %s" % words, [pattern])
    userspace = work.see("driver", "userspace") or {}
    if probe_failed(work, "driver.userspace"):
        return evidence, packages
    for key, file in (("libcuda", "libcuda.so.1"), ("libnvidia_ml", "libnvidia-ml.so.1")):
        if not userspace.get(key):
            lost("%s is not found" % file, [option.family.library_package])
    if not userspace.get("nvidia_smi"):
        lost("nvidia-smi is not found", [option.family.version_package])
    found = userspace.get("version")
    if found and option.version and found != option.version:
        lost(
            "the libraries are of version %s, not %s" % (found, option.version),
            [option.family.library_package],
        )
    return evidence, packages


def _driver_guards(work: Draft, option: Option, installed: Installed) -> None:
    wishes = work.wishes
    if (
        wishes["nvidia_driver_upgrade_guard_enabled"]
        and work.see("apt", "unattended_upgrades", "guard_file") is not True
    ):
        upgrades = work.see("apt", "unattended_upgrades") or {}
        work.act(
            "driver.upgrade_guard",
            "keep unattended-upgrades away from NVIDIA's packages",
            "an unattended upgrade of the libraries cuts GPU containers off until the next reboot",
            [
                "gpuready's guard file is missing or was changed",
                "unattended-upgrades is %s" % ("on" if upgrades.get("enabled") else "not on now"),
            ],
        )
    if wishes["nvidia_driver_hold_enabled"]:
        unheld = loose(work, option, installed)
        if "driver.install" in work.actions:
            work.act(
                "driver.hold",
                "hold the driver's packages",
                "held packages move only when gpuready moves them",
                ["to be installed in this run"],
            )
        elif unheld:
            work.act(
                "driver.hold",
                "hold %s" % listing(unheld),
                "held packages move only when gpuready moves them",
                ["not held: %s" % listing(unheld)],
            )
