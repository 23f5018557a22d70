# Apache-2.0 (see LICENSE)
"""The host's part of the plan: the driver, nouveau, the loaded module, and whether only a reboot helps."""

from __future__ import annotations

import re
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from . import driver_conflicts, driver_options, requirements, resolver
from .catalog import Framework, PackageSource
from .draft import Draft, gpu_containers, listing, lists_are_old, probe_failed
from .driver_options import Installed, Option
from .versions import compare


def plan_driver(work: Draft) -> None:
    if work.conflicting("framework.workload_unknown") or not _check_gpus(work):
        work.conflicts += driver_conflicts.check_wishes(work.wishes, work.catalog)
        return
    source = driver_options.source_of(work.observed, work.wishes, work.catalog)
    if source is None:
        return  # _node_is_possible has said so
    installed = driver_options.read_installed(work.observed, source, work.catalog)
    foreign = _foreign_driver(work, installed)
    resolution = resolver.resolve(
        work.observed, work.workloads, work.wishes, work.catalog, today=work.today, gpus=work.usable_gpus
    )
    work.resolution = resolution
    work.conflicts += resolution.conflicts
    for note in resolution.notes:
        work.note(note)
    option = resolution.option
    if option is None or foreign:
        return
    if _is_apt_downgrade(work, option, installed):
        return
    lack = _lack(work, option, installed, source)
    # Lists that are fetched first may name newer versions: then apt chooses.
    floating = lack is not None and lists_are_old(work) and not work.wishes["nvidia_driver_version"]
    packages = [{"name": name, "version": None if floating else text} for name, text in option.packages]
    replaces = _replaced(option, installed, source) if lack else []
    if lack:
        words = (option.version or "branch %d" % option.branch, option.flavour, option.install)
        named = listing([name for name, _ in option.packages])
        evidence = [*lack.evidence, "replaces %s" % listing(replaces) if replaces else ""]
        work.act("driver.install", "install driver %s (%s, %s): %s" % (*words, named), lack.reason, evidence)
    work.driver = {
        "branch": str(option.branch),
        "flavour": option.flavour,
        "source": source.name,
        "install": option.install,
        "version": option.version,
        "package_version": option.package_version,
        "packages": packages,
        "holds": _holds(work, option, installed, source) if work.wishes["nvidia_driver_hold_enabled"] else [],
        "reinstall": lack.reinstall if lack else [],
        "replaces": replaces,
        "min_required": resolution.min_required,
        "because": resolution.because,
        "keeps_installed": resolution.keeps_installed,
    }
    _driver_guards(work, option, installed, source)
    _driver_kernel(work, option)


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
            fine = _check_support(work, framework, gpu) and fine
    return fine


def _check_support(work: Draft, framework: Framework, gpu: Mapping[str, Any]) -> bool:
    """Does the framework support this GPU at all? False after a conflict."""
    asked = gpu["compute_capability"]
    label = "%s (compute capability %s)" % (gpu.get("name") or gpu.get("device_id"), asked)
    others = [
        other.name
        for other in work.catalog.frameworks.values()
        if requirements.code_for(other, asked)[0] in ("native", "jit") and not limits_of(other, asked)
    ]
    how, _ = requirements.code_for(framework, asked)
    limits = limits_of(framework, asked)
    if how == "none" or any(limit.support == "none" for limit in limits):
        text = [limit.text for limit in limits if limit.support == "none"]
        if how == "none":
            text.append("its wheel carries %s" % ", ".join(framework.archs or ()))
        work.refuse(
            "framework.gpu_unsupported",
            "framework",
            requirements.ROLE,
            "%s does not run on %s" % (framework.name, label),
            text,
            (["use a workload that does: %s" % listing(others, 4)] if others else [])
            + ["take %s out of gpuready_workloads of this node" % framework.name],
        )
        return False
    for limit in limits:
        work.note("%s on %s: %s" % (framework.name, label, limit.text))
        if work.wishes["gpu_verify_level"] == "compute":
            work.note("gpu_verify_level is compute, which %s may not pass on this GPU" % framework.name)
    return True


def limits_of(framework: Framework, asked: str) -> List[Any]:
    """The limit that holds for a compute capability: the row with the highest start, or none."""
    holding = [
        limit
        for limit in framework.gpu_limits
        if requirements.capability(asked) >= requirements.capability(limit.since)
    ]
    return [max(holding, key=lambda limit: requirements.capability(limit.since))] if holding else []


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


def _is_apt_downgrade(work: Draft, option: Option, installed: Installed) -> bool:
    """The same packages in an older version: apt would refuse, and so do we, with the way out."""
    if not option.package_version or not installed.package_version or option.installed:
        return False
    if option.branch != installed.branch or option.family != installed.family:
        return False
    if compare(option.package_version, installed.package_version) >= 0:
        return False
    work.refuse(
        "driver.downgrade",
        "host",
        requirements.ROLE,
        "%s is installed and %s is asked for: gpuready does not downgrade a driver in place"
        % (installed.package_version, option.package_version),
        ["apt refuses the older version of an installed package; the newer libraries would stay behind"],
        [
            'set nvidia_driver_version: "%s" to keep what is installed' % installed.version,
            "remove the driver first (role nvidia_driver, tasks_from remove), and run again",
        ],
    )
    return True


class Lack(NamedTuple):
    """What of the chosen driver is not on the node."""

    reason: str
    evidence: List[str]
    reinstall: List[str]  # packages that dpkg calls installed, but whose files are not there


def _lack(work: Draft, option: Option, installed: Installed, source: PackageSource) -> Optional[Lack]:
    """None when the chosen driver is all there."""
    have = driver_options.installed_packages(work.observed)
    headers = [
        pattern.format(kernel=kernel)
        for kernel in work.see("host", "kernel", "headers") or []
        for pattern in option.family.kernel_headers
    ]
    missing = [name for name, _ in option.packages if name not in have and name not in headers]
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
        kernel = work.see("host", "kernel", "running")
        return Lack("the driver is not complete for kernel %s" % kernel, absent, [])
    different = [
        "%s is %s, planned is %s" % (name, have[name], version)
        for name, version in option.packages
        if version and not name.startswith("linux-headers-") and have.get(name, version) != version
    ]
    if different:
        return Lack("the installed version is not the planned one", different, [])
    evidence, packages = _lost_files(work, option, source)
    if evidence:
        reason = "the driver's packages are installed, but their files are not all there or not theirs"
        return Lack(reason, evidence, [name for name in packages if name in have])
    return None


def _lost_files(work: Draft, option: Option, source: PackageSource) -> Tuple[List[str], List[str]]:
    """(evidence, packages) of files that the installed packages should have put on the disk."""
    evidence: List[str] = []
    packages: List[str] = []

    def lost(text: str, patterns: Sequence[str]) -> None:
        evidence.append(text)
        for name in driver_options.names(patterns, option.branch, option.family, option.flavour):
            if name not in packages:
                packages.append(name)

    running, upcoming = driver_options.kernels(work.observed)
    for kernel, key in ((running, "on_disk"), (upcoming, "on_disk_next_boot")):
        if not kernel or probe_failed(work, "driver.%s" % key):
            continue
        if option.install == requirements.PRECOMPILED:
            patterns = [(option.family.kernel_modules or "").replace("{kernel}", kernel)]
            owned = driver_options.names(patterns, option.branch, option.family, option.flavour)[0]
            if owned not in [name for name, _ in option.packages]:
                continue  # no module for the next boot's kernel can be had
        else:
            patterns = [option.family.dkms_module_package(option.flavour == requirements.OPEN) or ""]
            if key != "on_disk":
                continue  # DKMS builds it when that kernel's headers come
        module = work.see("driver", key)
        if not module:
            lost("no nvidia module on disk for kernel %s" % kernel, patterns)
        elif module.get("flavour") and module["flavour"] != option.flavour:
            words = (kernel, module["flavour"], option.flavour)
            lost("the module for kernel %s is %s, not %s" % words, patterns)
        elif option.version and module.get("version") and module["version"] != option.version:
            words = (kernel, module["version"], option.version)
            lost("the module for kernel %s is of version %s, not %s" % words, patterns)
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


def _belongs(name: str, option: Option, source: PackageSource) -> bool:
    """Is this package part of the chosen driver, and of no other branch, family or flavour?"""
    other = requirements.PROPRIETARY if option.flavour == requirements.OPEN else requirements.OPEN
    patterns = [pattern for pattern in option.family.closure if "{open}" in pattern]
    if name in driver_options.names(patterns, option.branch, option.family, other):
        return False
    ours = r"-%d%s(-|$)" % (option.branch, re.escape(option.family.suffix))
    # Those for NVSwitches carry the branch alone.
    return bool(re.search(ours, name)) or name in driver_options.names(
        option.family.closure, option.branch, option.family, option.flavour
    )


def _holds(work: Draft, option: Option, installed: Installed, source: PackageSource) -> List[str]:
    """The closure as far as it is there or will be: what is planned, installed, or known to apt."""
    planned = [name for name, _ in option.packages if not name.startswith("linux-headers-")]
    there = [name for name in installed.packages if _belongs(name, option, source)]
    known = []
    if "driver.install" in work.actions:
        candidates = work.see("apt", "candidates") or {}
        closure = driver_options.names(option.family.closure, option.branch, option.family, option.flavour)
        known = [name for name in closure if name in candidates]
        # Ubuntu's precompiled modules bring the signed objects in a package of their own.
        known += [
            name.replace("linux-modules-", "linux-objects-", 1)
            for name in planned
            if name.startswith("linux-modules-nvidia-")
        ]
    return sorted({*planned, *there, *known})


def _replaced(option: Option, installed: Installed, source: PackageSource) -> List[str]:
    """Installed driver packages of another branch, family or flavour: apt removes them in the same step."""
    numbered = [name for name in installed.packages if re.search(r"-\d{3,4}(-server)?(-open)?$", name)]
    return sorted(name for name in numbered if not _belongs(name, option, source))


def _driver_guards(work: Draft, option: Option, installed: Installed, source: PackageSource) -> None:
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
        loose = [
            name
            for name, held in installed.held.items()
            if not held and name in installed.packages and _belongs(name, option, source)
        ]
        if "driver.install" in work.actions:
            work.act(
                "driver.hold",
                "hold the driver's packages",
                "held packages move only when gpuready moves them",
                ["to be installed in this run"],
            )
        elif loose:
            work.act(
                "driver.hold",
                "hold %s" % listing(loose),
                "held packages move only when gpuready moves them",
                ["not held: %s" % listing(loose)],
            )
    persistenced = work.see("driver", "persistenced") or {}
    # A state that systemd could not tell is no reason to act.
    if wishes["nvidia_driver_persistenced_enabled"]:
        lacking = [
            word
            for word, key in (("enabled", "enabled"), ("active", "active"))
            if persistenced.get(key) is False
        ]
        if persistenced.get("installed") is False:
            lacking = ["installed"]
        if lacking:
            work.act(
                "driver.persistenced",
                "enable and start nvidia-persistenced",
                "without it an idle GPU is given up and initialised again by every job",
                ["nvidia-persistenced is not %s" % " and not ".join(lacking)],
            )


def _driver_kernel(work: Draft, option: Option) -> None:
    """nouveau, the loaded module, and whether only a reboot helps."""
    nouveau = work.see("host", "nouveau") or {}
    bound = [gpu for gpu in work.usable_gpus if gpu.get("driver_bound") == "nouveau"]
    in_use = bool(nouveau.get("loaded")) or bool(bound)
    if work.wishes["host_prepare_nouveau_disabled"]:
        if nouveau.get("blacklisted") is not True:
            evidence = ["no modprobe configuration blocks nouveau"]
            evidence += ["nouveau holds GPU %s" % gpu.get("pci") for gpu in bound] or (
                ["nouveau is loaded"] if in_use else []
            )
            work.act(
                "host.nouveau_off",
                "blacklist nouveau and rebuild the initramfs",
                "nouveau and NVIDIA's driver cannot both hold a GPU",
                evidence,
            )
    elif in_use:
        work.refuse(
            "host.nouveau_kept",
            "host",
            "host_prepare",
            "nouveau holds the GPU and host_prepare_nouveau_disabled is false",
            ["nouveau holds GPU %s" % gpu.get("pci") for gpu in bound] or ["nouveau is loaded"],
            [
                "set host_prepare_nouveau_disabled: true",
                "take care of nouveau yourself, reboot, and run again",
            ],
        )
        return
    loaded, on_disk = work.see("driver", "loaded"), work.see("driver", "on_disk")
    version = (loaded or {}).get("version")
    if in_use:
        _want_reboot(
            work,
            "nouveau holds the GPU and lets go of it only at a reboot",
            ["nouveau holds GPU %s" % g.get("pci") for g in bound] or ["nouveau is loaded"],
        )
        return
    if loaded:
        target = option.version
        installing = "driver.install" in work.actions
        if target and version and version != target:
            _want_reboot(
                work,
                "the loaded driver %s is not the installed one, %s" % (version, target)
                if not installing
                else "the loaded driver %s is replaced by %s" % (version, target),
                [
                    "loaded: %s" % version,
                    "planned: %s" % target,
                    "on disk: %s" % ((on_disk or {}).get("version") or "none"),
                ],
            )
            return
        if version and on_disk and on_disk.get("version") and on_disk["version"] != version:
            _want_reboot(
                work,
                "the loaded driver %s is not the one on disk, %s" % (version, on_disk["version"]),
                ["loaded: %s" % version, "on disk: %s" % on_disk["version"]],
            )
            return
        if loaded.get("flavour") and loaded["flavour"] != option.flavour:
            _want_reboot(
                work,
                "the loaded modules are %s, the planned ones %s" % (loaded["flavour"], option.flavour),
                ["loaded flavour: %s" % loaded["flavour"]],
            )
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


def _want_reboot(work: Draft, reason: str, evidence: Sequence[str]) -> None:
    if work.reboot_reason is None:
        work.reboot_reason = reason
        work.reboot_evidence = list(evidence)


def plan_reboot(work: Draft) -> None:
    if work.reboot_reason is None:
        return
    containers = gpu_containers(work)
    running = work.see("host", "kernel", "running")
    upcoming = work.see("host", "kernel", "next_boot")
    evidence = list(work.reboot_evidence)
    if upcoming and upcoming != running:
        evidence.append("the node boots into another kernel: %s, not %s" % (upcoming, running))
    if work.wishes["host_reboot_allowed"]:
        work.act("host.reboot", "reboot the node", work.reboot_reason, [*evidence, *containers], reboot=True)
    else:
        work.note(
            "a reboot is needed (%s) and host_reboot_allowed is false: reboot %s yourself and run again"
            % (work.reboot_reason, work.host)
        )
