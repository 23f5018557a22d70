# Apache-2.0 (see LICENSE)
"""The plan: what to do on a node, why, and what stands against it.

`plan` is a pure function: the same observation, wishes, catalog and day give the same plan. It reads and changes nothing.
"""

from __future__ import annotations

import copy
import datetime
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from . import daemon_config, resolver
from .catalog import Catalog, Framework, PackageSource, annotate
from .resolver import Installed, Option, Resolution, conflict
from .versions import Version, at_least, compare, driver_version, matches, newest, upstream
from .wishes import ROLES, check, nearest, role_of

SCHEMA = 1

# In the order of application: (role, layer).
ACTIONS: Dict[str, Tuple[str, str]] = {
    "apt.finish_dpkg": ("host_prepare", "host"),
    "apt.refresh_lists": ("host_prepare", "host"),
    "toolkit.source": ("nvidia_container_toolkit", "container_runtime"),
    "docker.source": ("docker_engine", "container_runtime"),
    "host.nouveau_off": ("host_prepare", "host"),
    "docker.install": ("docker_engine", "container_runtime"),
    "toolkit.install": ("nvidia_container_toolkit", "container_runtime"),
    "toolkit.hold": ("nvidia_container_toolkit", "container_runtime"),
    "docker.service": ("docker_engine", "container_runtime"),
    "docker.daemon_config": ("docker_engine", "container_runtime"),
    "toolkit.runtime": ("nvidia_container_toolkit", "container_runtime"),
    "docker.restart": ("nvidia_container_toolkit", "container_runtime"),
    "image.fetch": ("framework_image", "framework"),
    "driver.upgrade_guard": ("nvidia_driver", "host"),
    "driver.install": ("nvidia_driver", "host"),
    "driver.hold": ("nvidia_driver", "host"),
    "driver.load": ("nvidia_driver", "host"),
    "driver.persistenced": ("nvidia_driver", "host"),
    "host.reboot": ("host_reboot", "host"),
    "toolkit.cdi": ("nvidia_container_toolkit", "container_runtime"),
}

# Drivers that give a GPU to a virtual machine: such a GPU is not this node's to use.
PASSTHROUGH = ("vfio-pci", "pci-stub", "xen-pciback")
# Room beside the image itself: what is downloaded while it is unpacked, and air.
IMAGE_HEADROOM = 1.25


def _get(data: Any, *path: str) -> Any:
    for name in path:
        if not isinstance(data, Mapping):
            return None
        data = data.get(name)
    return data


def _names(items: Sequence[str], limit: int = 6) -> str:
    shown = ", ".join(items[:limit])
    return shown + (", and %d more" % (len(items) - limit) if len(items) > limit else "")


class _Plan:
    """The plan in the making."""

    def __init__(
        self, observed: Mapping[str, Any], wishes: Dict[str, Any], catalog: Catalog, host: str, today: str
    ) -> None:
        self.observed, self.wishes, self.catalog, self.host, self.today = (
            observed,
            wishes,
            catalog,
            host,
            today,
        )
        self.actions: Dict[str, Dict[str, Any]] = {}
        self.conflicts: List[Dict[str, Any]] = []
        self.notes: List[str] = []
        self.workloads: List[Framework] = []
        self.workload_rows: List[Dict[str, Any]] = []
        self.resolution: Optional[Resolution] = None
        self.driver: Optional[Dict[str, Any]] = None
        self.runtime: Optional[Dict[str, Any]] = None
        self.reboot_reason: Optional[str] = None
        self.reboot_evidence: List[str] = []

    def see(self, *path: str) -> Any:
        return _get(self.observed, *path)

    def act(
        self,
        identifier: str,
        summary: str,
        reason: str,
        evidence: Sequence[str],
        *,
        reboot: bool = False,
        restarts: Sequence[str] = (),
    ) -> None:
        role, layer = ACTIONS[identifier]
        self.actions[identifier] = {
            "id": identifier,
            "layer": layer,
            "role": role,
            "summary": summary,
            "reason": reason,
            "evidence": [line for line in evidence if line],
            "reboot": reboot,
            "restarts": list(restarts),
        }

    def refuse(
        self,
        identifier: str,
        layer: str,
        role: str,
        what: str,
        because: Sequence[str],
        options: Sequence[str],
    ) -> None:
        self.conflicts.append(conflict(identifier, layer, role, what, because, options))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def conflicting(self, prefix: str) -> bool:
        return any(row["id"].startswith(prefix) for row in self.conflicts)

    @property
    def gpus(self) -> List[Mapping[str, Any]]:
        return self.see("host", "gpus") or []

    @property
    def usable_gpus(self) -> List[Mapping[str, Any]]:
        return [gpu for gpu in self.gpus if gpu.get("driver_bound") not in PASSTHROUGH]


def plan(
    observed: Mapping[str, Any],
    wishes: Mapping[str, Any],
    catalog: Catalog,
    *,
    host: str,
    today: Union[str, datetime.date],
) -> Dict[str, Any]:
    """The plan for one node (docs/contracts.md, section 3)."""
    day = today.isoformat()[:10] if isinstance(today, datetime.date) else str(today)[:10]
    complete, problems = check(wishes)
    work = _Plan(annotate(observed, catalog), complete, catalog, host, day)
    for problem in problems:
        role = role_of(problem.variable)
        work.refuse("wishes.invalid", ROLES[role], role, problem.what, [], problem.options)

    _choose_workloads(work)
    if _node_is_possible(work):
        _plan_driver(work)
        _plan_runtime(work)
        _plan_images(work)
        _plan_reboot(work)
        _plan_cdi(work)
        _plan_apt(work)

    # Of several actions that restart Docker, one is enough; each says why it would.
    actions = [work.actions[identifier] for identifier in ACTIONS if identifier in work.actions]
    allowed = bool(complete["host_reboot_allowed"])
    needed = work.reboot_reason is not None
    status = "conflict" if work.conflicts else "changes" if actions or needed else "converged"
    result = {
        "schema": SCHEMA,
        "host": host,
        "simulated": bool(complete["gpuready_simulated"]),
        "status": status,
        "os": _host_line(work),
        "workloads": work.workload_rows,
        "gpus": [
            {key: gpu.get(key) for key in ("pci", "device_id", "name", "chip", "arch", "compute_capability")}
            for gpu in work.gpus
        ],
        "driver": work.driver,
        "container_runtime": work.runtime,
        "reboot": {"needed": needed, "reason": work.reboot_reason, "allowed": allowed},
        "actions": actions,
        "conflicts": work.conflicts,
        "notes": work.notes,
    }
    # What is handed out shares nothing with what was handed in.
    return copy.deepcopy(result)


def _host_line(work: _Plan) -> Dict[str, Any]:
    """What the readable plan says of the host."""
    return {
        "pretty_name": work.see("host", "os", "pretty_name"),
        "arch": work.see("host", "os", "arch"),
        "kernel": work.see("host", "kernel", "running"),
        "secure_boot": work.see("host", "secure_boot"),
    }


# The wishes and the node -------------------------------------------------------------------------------------------


def _choose_workloads(work: _Plan) -> None:
    known = list(work.catalog.frameworks)
    for name in work.wishes["gpuready_workloads"]:
        framework = work.catalog.frameworks.get(name)
        if framework is None:
            near = nearest(name, known)
            work.refuse(
                "framework.workload_unknown",
                "framework",
                "gpuready",
                "gpuready_workloads names %r, which is no workload that gpuready knows" % name,
                ["known workloads: %s" % ", ".join(known)],
                ["set gpuready_workloads: [%s]" % name for name in near]
                + ["add it to data/frameworks.yml (docs/adding-a-framework.md)"],
            )
        elif framework not in work.workloads:
            work.workloads.append(framework)


def _node_is_possible(work: _Plan) -> bool:
    """Is this a node that gpuready can work on at all? Says why not."""
    source = work.catalog.package_sources[work.wishes["nvidia_driver_source"]]
    os_id, release, arch = (work.see("host", "os", key) for key in ("id", "version_id", "arch"))
    name = work.see("host", "os", "pretty_name") or "%s %s" % (os_id, release)
    possible = True
    if os_id != source.os or release not in source.releases:
        work.refuse(
            "host.os_unsupported",
            "host",
            "gpuready",
            "%s runs %s, which nvidia_driver_source %r does not cover" % (work.host, name, source.name),
            ["covered: %s %s" % (source.os, ", ".join(source.releases))],
            ["install a covered release on the node", "take the node out of the inventory"],
        )
        possible = False
    if arch not in source.architectures:
        work.refuse(
            "host.arch_unsupported",
            "host",
            "gpuready",
            "%s has the architecture %s, which gpuready does not support" % (work.host, arch),
            ["supported: %s" % ", ".join(source.architectures)],
            ["take the node out of the inventory"],
        )
        possible = False
    if work.see("host", "gpus") is None:
        problems = ["%s: %s" % (p.get("probe"), p.get("error")) for p in work.see("problems") or []]
        work.refuse(
            "host.gpus_unknown",
            "host",
            "gpuready",
            "%s's PCI bus could not be read, so its GPUs are not known" % work.host,
            problems,
            ["make /sys/bus/pci readable for the user that gpuready becomes"],
        )
        possible = False
    elif not work.gpus:
        work.refuse(
            "host.no_gpu",
            "host",
            "gpuready",
            "%s has no NVIDIA GPU on its PCI bus" % work.host,
            ["no PCI device of vendor 10de with a display class (0x0300, 0x0302) was found"],
            [
                "take the node out of the inventory",
                "check that the GPU is seated and powered, is switched on in the firmware, and is passed through to this machine (lspci -nn -d 10de:)",
            ],
        )
        possible = False
    elif not work.usable_gpus:
        work.refuse(
            "host.gpu_passthrough",
            "host",
            "gpuready",
            "every GPU of %s is given to virtual machines" % work.host,
            ["%s is bound to %s" % (gpu.get("pci"), gpu.get("driver_bound")) for gpu in work.gpus],
            [
                "unbind a GPU from %s" % work.gpus[0].get("driver_bound"),
                "make the virtual machine the node, not its host",
            ],
        )
        possible = False
    for gpu in work.gpus:
        if gpu.get("driver_bound") in PASSTHROUGH and work.usable_gpus:
            work.note(
                "GPU %s is bound to %s (given to a virtual machine) and left alone"
                % (gpu.get("pci"), gpu["driver_bound"])
            )
    for problem in work.see("problems") or []:
        work.note("not observed: %s (%s)" % (problem.get("probe"), problem.get("error")))
    return possible


# The driver --------------------------------------------------------------------------------------------------------


def _check_gpus(work: _Plan) -> bool:
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
            resolver.ROLE,
            what,
            ["its driver branches and kernel modules are not in data/gpus.yml, and gpuready does not guess"],
            [
                "add its chip to data/gpus.yml (and refresh data/pci.ids: python -m gpuready.catalog --refresh-pci-ids)",
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


def _check_support(work: _Plan, framework: Framework, gpu: Mapping[str, Any]) -> bool:
    """Does the framework support this GPU at all? False after a conflict."""
    asked = gpu["compute_capability"]
    label = "%s (compute capability %s)" % (gpu.get("name") or gpu.get("device_id"), asked)
    others = [
        other.name
        for other in work.catalog.frameworks.values()
        if resolver.code_for(other, asked)[0] in ("native", "jit") and not _limits(other, asked)
    ]
    how, _ = resolver.code_for(framework, asked)
    limits = _limits(framework, asked)
    if how == "none" or any(limit.support == "none" for limit in limits):
        text = [limit.text for limit in limits if limit.support == "none"]
        if how == "none":
            text.append("its wheel carries %s" % ", ".join(framework.archs or ()))
        work.refuse(
            "framework.gpu_unsupported",
            "framework",
            resolver.ROLE,
            "%s does not run on %s" % (framework.name, label),
            text + ["source: %s" % work.catalog.cite(limit.source) for limit in limits[:1]],
            (["use a workload that does: %s" % _names(others, 4)] if others else [])
            + ["take %s out of gpuready_workloads of this node" % framework.name],
        )
        return False
    for limit in limits:
        work.note("%s on %s: %s" % (framework.name, label, limit.text))
    return True


def _limits(framework: Framework, asked: str) -> List[Any]:
    """The limit that holds for a compute capability: the row with the highest start, as a list of none or one."""
    holding = [
        limit
        for limit in framework.gpu_limits
        if resolver.capability(asked) >= resolver.capability(limit.since)
    ]
    return [max(holding, key=lambda limit: resolver.capability(limit.since))] if holding else []


def _plan_driver(work: _Plan) -> None:
    if work.conflicting("framework.workload_unknown") or not _check_gpus(work):
        work.conflicts += resolver.check_wishes(work.wishes, work.catalog)
        return
    source = work.catalog.package_sources[work.wishes["nvidia_driver_source"]]
    installed = resolver.read_installed(work.observed, source, work.catalog)
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
    refresh = _lists_are_old(work)
    needs = _driver_needs(work, option, installed, source)
    packages = [
        {
            "name": name,
            "version": version
            if needs is None or not refresh or work.wishes["nvidia_driver_version"]
            else None,
        }
        for name, version in option.packages
    ]
    replaces = (
        sorted(set(installed.packages) - set(_closure(option, source)) - {row["name"] for row in packages})
        if needs
        else []
    )
    work.driver = {
        "branch": str(option.branch),
        "flavour": option.flavour,
        "source": source.name,
        "install": option.install,
        "version": option.version,
        "package_version": option.package_version,
        "packages": packages,
        "holds": _holds(work, option, installed, source) if work.wishes["nvidia_driver_hold_enabled"] else [],
        "reinstall": needs[2] if needs else [],
        "replaces": [name for name in replaces if not name.startswith("linux-modules-")],
        "min_required": resolution.min_required,
        "because": resolution.because,
        "keeps_installed": resolution.keeps_installed,
    }
    if needs:
        reason, evidence, reinstall = needs
        if work.driver["replaces"]:
            evidence = [*evidence, "replaces %s" % _names(work.driver["replaces"])]
        work.act(
            "driver.install",
            "install driver %s (%s, %s): %s"
            % (
                option.version or "branch %d" % option.branch,
                option.flavour,
                option.install,
                _names([p["name"] for p in packages]),
            ),
            reason,
            evidence,
        )
    _driver_guards(work, option, installed, source)
    _driver_kernel(work, option)


def _foreign_driver(work: _Plan, installed: Installed) -> bool:
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
        resolver.ROLE,
        "driver %s is on the node but belongs to no package" % on_disk.get("version"),
        [
            "module: %s" % on_disk.get("path"),
            "NVIDIA's .run installer does that; packages would be mixed with its files",
        ],
        ["remove it first: nvidia-uninstall (or NVIDIA-Linux-….run --uninstall), then run again"],
    )
    return True


def _is_apt_downgrade(work: _Plan, option: Option, installed: Installed) -> bool:
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
        resolver.ROLE,
        "%s is installed and %s is asked for: gpuready does not downgrade a driver in place"
        % (installed.package_version, option.package_version),
        ["apt refuses the older version of an installed package; the newer libraries would stay behind"],
        [
            'set nvidia_driver_version: "%s" to keep what is installed' % installed.version,
            "remove the driver first: ansible-playbook playbooks/role.yml -e role=nvidia_driver -e tasks_from=remove",
        ],
    )
    return True


def _driver_needs(
    work: _Plan, option: Option, installed: Installed, source: PackageSource
) -> Optional[Tuple[str, List[str], List[str]]]:
    """(reason, evidence, packages to install anew) when packages have to be installed; None when all is there."""
    have = resolver.installed_packages(work.observed)
    headers = [
        source.kernel_headers.format(kernel=kernel) for kernel in work.see("host", "kernel", "headers") or []
    ]
    missing = [name for name, _ in option.packages if name not in have and name not in headers]
    if missing:
        if installed.branch is None:
            return "no NVIDIA driver is installed", ["missing: %s" % _names(missing)], []
        running = work.see("host", "kernel", "running")
        if installed.branch != option.branch:
            reason = "the installed driver %s does not fulfil the requirements" % installed.version
            broken = [
                r.sentence()
                for r in (work.resolution.requirements if work.resolution else [])
                if installed.option and not installed.option.satisfies(r)
            ]
            return reason, [*broken, "missing: %s" % _names(missing)], []
        return "the driver is not complete for kernel %s" % running, ["missing: %s" % _names(missing)], []
    different = [
        "%s is %s, planned is %s" % (name, have[name], version)
        for name, version in option.packages
        if version and not name.startswith("linux-") and have.get(name, version) != version
    ]
    if different:
        return "the installed version is not the planned one", different, []
    # The packages are there; are their files?
    on_disk, userspace = work.see("driver", "on_disk"), work.see("driver", "userspace") or {}
    evidence: List[str] = []
    again: List[str] = []
    if on_disk is None and not _probe_failed(work, "driver.on_disk"):
        evidence.append("no nvidia module on disk for kernel %s" % work.see("host", "kernel", "running"))
        again += [name for name, _ in option.packages if name.startswith(("linux-modules-", "nvidia-dkms-"))]
        if option.install == resolver.DKMS:
            again += [
                name
                for name in resolver.names([source.dkms_module], option.branch, option.family, option.flavour)
                if name in have
            ]
    elif on_disk and on_disk.get("flavour") and on_disk["flavour"] != option.flavour:
        evidence.append("the module on disk is %s, planned is %s" % (on_disk["flavour"], option.flavour))
        again += [name for name, _ in option.packages if name.startswith("linux-modules-")]
    if not _probe_failed(work, "driver.userspace"):
        for key, package in (
            ("libcuda", "libnvidia-compute-{branch}{family}"),
            ("libnvidia_ml", "libnvidia-compute-{branch}{family}"),
            ("nvidia_smi", source.version_package),
        ):
            if not userspace.get(key):
                evidence.append("%s is missing on disk" % key.replace("_", "-"))
                again += [n for n in resolver.names([package], option.branch, option.family) if n in have]
        if (
            userspace.get("version")
            and option.version
            and userspace["version"] != option.version
            and not evidence
        ):
            evidence.append(
                "the libraries on disk are %s, the packages are %s" % (userspace["version"], option.version)
            )
            again += [
                n
                for n in resolver.names(["libnvidia-compute-{branch}{family}"], option.branch, option.family)
                if n in have
            ]
    if evidence:
        return (
            "the driver's packages are installed, but their files are not all there",
            evidence,
            sorted(set(again)),
        )
    return None


def _probe_failed(work: _Plan, probe: str) -> bool:
    """Did this probe, or the one that it is part of, fail? Then null means unknown and not absent."""
    return any(
        probe == p.get("probe") or str(p.get("probe", "")).startswith(probe + ".")
        for p in work.see("problems") or []
    )


def _closure(option: Option, source: PackageSource) -> List[str]:
    names = resolver.names(source.closure, option.branch, option.family, option.flavour)
    kernels = [name for name, _ in option.packages if name.startswith("linux-modules-")]
    return [*names, *kernels]


def _holds(work: _Plan, option: Option, installed: Installed, source: PackageSource) -> List[str]:
    """The closure as far as it is there or will be: planned, installed, or known to apt."""
    planned = {name for name, _ in option.packages}
    known = set(work.see("apt", "candidates") or {})
    complete = _driver_needs(work, option, installed, source) is None
    return [
        name
        for name in _closure(option, source)
        if name in planned or name in installed.packages or (not complete and name in known)
    ]


def _driver_guards(work: _Plan, option: Option, installed: Installed, source: PackageSource) -> None:
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
            for name in _closure(option, source)
            if name in installed.packages and not installed.held.get(name)
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
                "hold %s" % _names(loose),
                "held packages move only when gpuready moves them",
                ["not held: %s" % _names(loose)],
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


def _driver_kernel(work: _Plan, option: Option) -> None:
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
    if _probe_failed(work, "driver.loaded"):
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


def _missing_nodes(work: _Plan) -> List[str]:
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


def _want_reboot(work: _Plan, reason: str, evidence: Sequence[str]) -> None:
    if work.reboot_reason is None:
        work.reboot_reason = reason
        work.reboot_evidence = list(evidence)


def _plan_reboot(work: _Plan) -> None:
    if work.reboot_reason is None:
        return
    containers = _gpu_containers(work)
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


def _gpu_containers(work: _Plan) -> List[str]:
    return [
        "stops the running GPU container %s (%s)" % (item.get("name"), item.get("image"))
        for item in work.see("container_runtime", "gpu_containers") or []
    ]


# The container runtime ---------------------------------------------------------------------------------------------


def _docker_version(work: _Plan) -> Tuple[Optional[str], str]:
    """The upstream version of the Docker that will be there, and where it is known from."""
    docker = work.see("container_runtime", "docker") or {}
    if docker.get("installed") and "docker.install" not in work.actions:
        return docker.get("version"), "installed"
    name = _docker_packages(work)[0]
    wish = work.wishes["docker_engine_version"]
    if wish:
        return upstream(wish), "docker_engine_version"
    candidate = resolver.candidate_of(work.observed, name)
    if candidate:
        return upstream(candidate), "apt's candidate"
    return (
        (docker.get("version"), "installed")
        if docker.get("version")
        else (None, "not known before apt has lists")
    )


def _docker_packages(work: _Plan) -> Tuple[str, ...]:
    facts = work.catalog.docker
    return (
        facts.docker_ce_packages
        if work.wishes["docker_engine_source"] == "docker_ce"
        else facts.distro_packages
    )


def _plan_runtime(work: _Plan) -> None:
    wishes, facts = work.wishes, work.catalog.toolkit
    docker = work.see("container_runtime", "docker") or {}
    _plan_docker(work, docker)
    packages, version = _plan_toolkit(work)
    version_text, known_from = _docker_version(work)
    cdi = _decide_cdi(work, version_text, known_from)
    runtime = {"path": facts.runtime["path"], "args": list(facts.runtime["args"])}
    _plan_daemon(work, docker, cdi, runtime)
    launch = _decide_launch(work, version_text, cdi)
    wish = wishes["docker_engine_version"]
    work.runtime = {
        "docker": {
            "source": wishes["docker_engine_source"],
            "packages": [
                {"name": name, "version": _exact(work, name, wish) if wish else None}
                for name in _docker_packages(work)
            ],
            "daemon_config": wishes["docker_engine_daemon_config"],
        },
        "toolkit": {
            "version": version,
            "packages": packages,
            "reinstall": _toolkit_reinstall(work),
            "repo_url": wishes["nvidia_container_toolkit_repo_url"],
            "repo_key_url": wishes["nvidia_container_toolkit_repo_key_url"],
            "repo_key_fingerprint": wishes["nvidia_container_toolkit_repo_key_fingerprint"],
            "runtime": runtime,
            "default_runtime": wishes["nvidia_container_toolkit_default_runtime"],
            "cdi": cdi,
        },
        "launch": launch,
    }


def _exact(work: _Plan, name: str, wish: str) -> Optional[str]:
    """The full package version that a wished version means, if apt knows it."""
    fitting = [version for version in resolver.versions_of(work.observed, name) if matches(version, wish)]
    # containerd.io has versions of its own, which no wish for Docker's can name.
    return newest(fitting)


def _plan_docker(work: _Plan, docker: Mapping[str, Any]) -> None:
    wishes, facts = work.wishes, work.catalog.docker
    source, wish = wishes["docker_engine_source"], wishes["docker_engine_version"]
    names = _docker_packages(work)
    package = docker.get("package")
    if docker.get("rootless"):
        work.refuse(
            "docker.rootless",
            "container_runtime",
            "docker_engine",
            "dockerd runs rootless on %s" % work.host,
            [
                "a rootless dockerd reads another daemon.json and cannot run the GPU hook as gpuready sets it up"
            ],
            [
                "stop the rootless dockerd (dockerd-rootless-setuptool.sh uninstall) and let gpuready install the system's"
            ],
        )
        return
    if docker.get("snap") and not package:
        work.refuse(
            "docker.snap",
            "container_runtime",
            "docker_engine",
            "Docker on %s comes from a snap" % work.host,
            ["a snap's dockerd sees neither the GPU hook nor /etc/docker/daemon.json"],
            [
                "remove it (snap remove docker) and run again; its images and volumes stay in the snap's own folder until then"
            ],
        )
        return
    if source == "docker_ce":
        wanted = facts.docker_ce_repo
        if not _sources_of(work, wanted):
            work.act(
                "docker.source",
                "add Docker's own apt source",
                "docker_engine_source is docker_ce",
                ["no enabled apt source of %s with a keyring of its own" % wanted],
            )
        if package and package not in names:
            work.refuse(
                "docker.other_package",
                "container_runtime",
                "docker_engine",
                "docker_engine_source is 'docker_ce', but %s is installed from the distribution" % package,
                [
                    "replacing it would stop every container of the node (%s running)"
                    % (_get(docker, "live", "containers_running") or 0)
                ],
                ["set docker_engine_source: distro to keep it", "remove %s yourself and run again" % package],
            )
            return
    elif package and package not in names:
        work.note(
            "%s %s is installed and kept: docker_engine_source 'distro' only says where Docker would come from"
            % (package, docker.get("version"))
        )
    if wish and not _check_docker_pin(work, wish, package or names[0]):
        return
    if not docker.get("installed"):
        candidate = resolver.candidate_of(work.observed, names[0])
        work.act(
            "docker.install",
            "install %s%s" % (" ".join(names), " " + (wish or candidate or ""))
            if (wish or candidate)
            else "install %s" % " ".join(names),
            "Docker is not installed",
            ["no dockerd was found"],
        )
    elif wish and docker.get("version") and not _docker_fits(work, docker, wish):
        work.act(
            "docker.install",
            "install %s %s" % (package or names[0], wish),
            "docker_engine_version asks for %s" % wish,
            ["installed: %s" % docker["version"], *_gpu_containers(work)],
            restarts=["docker"],
        )
    service = docker.get("service") or {}
    live = docker.get("live") or {}
    broken_config = _get(docker, "daemon_json", "valid") is False
    if not docker.get("installed"):
        work.act(
            "docker.service",
            "enable and start Docker",
            "containers need a running dockerd, after a reboot too",
            ["Docker is not installed yet"],
        )
    else:
        lacking = [word for word in ("enabled", "active") if service.get(word) is False]
        if not lacking and live.get("reachable") is False:
            lacking = ["answering (%s)" % live.get("error")]
        if lacking and not broken_config:
            work.act(
                "docker.service",
                "enable and start Docker",
                "containers need a running dockerd, after a reboot too",
                ["docker.service is not %s" % " and not ".join(lacking)],
            )


def _check_docker_pin(work: _Plan, wish: str, name: str) -> bool:
    docker = work.see("container_runtime", "docker") or {}
    if docker.get("installed") and _docker_fits(work, docker, wish):
        return True
    offered = resolver.versions_of(work.observed, name)
    # Before the source or the lists are there nothing can be checked; the plan after them does it.
    if not offered and ("docker.source" in work.actions or not resolver.has_lists(work.observed)):
        return True
    if any(matches(version, wish) for version in offered):
        return True
    work.refuse(
        "docker.version_missing",
        "container_runtime",
        "docker_engine",
        "docker_engine_version is %r, which apt cannot install as %s" % (wish, name),
        ["apt offers: %s" % (_names(offered, 8) or "nothing")],
        ['set docker_engine_version: "%s"' % upstream(version) for version in offered[:2]]
        + ['set docker_engine_version: ""'],
    )
    return False


def _docker_fits(work: _Plan, docker: Mapping[str, Any], wish: str) -> bool:
    full = _get(work.see("apt", "candidates"), str(docker.get("package")), "installed")
    return docker.get("version") == upstream(wish) if not full else matches(full, wish)


def _normal(uri: str, arch: str) -> str:
    return uri.strip().replace("$(ARCH)", arch).rstrip("/")


def _sources_of(work: _Plan, url: str) -> List[Mapping[str, Any]]:
    """Enabled apt sources of a URL that name a keyring; none when two of them name different ones (apt refuses that)."""
    arch = work.see("host", "os", "arch") or ""
    found = [
        source
        for source in work.see("apt", "sources") or []
        if source.get("enabled")
        and _normal(url, arch) in [_normal(uri, arch) for uri in source.get("uris") or []]
    ]
    keyrings = {source.get("signed_by") for source in found}
    return found if len(keyrings) == 1 and None not in keyrings else []


def _plan_toolkit(work: _Plan) -> Tuple[List[Dict[str, Any]], Optional[str]]:
    """The toolkit's source, packages and holds; returns (packages, version)."""
    wishes, facts = work.wishes, work.catalog.toolkit
    url, wish = wishes["nvidia_container_toolkit_repo_url"], wishes["nvidia_container_toolkit_version"]
    arch = work.see("host", "os", "arch") or ""
    if url and not _sources_of(work, url):
        same = [
            "%s: %s, signed by %s"
            % (
                source.get("file"),
                "enabled" if source.get("enabled") else "disabled",
                source.get("signed_by") or "nothing named",
            )
            for source in work.see("apt", "sources") or []
            if _normal(url, arch) in [_normal(uri, arch) for uri in source.get("uris") or []]
        ]
        work.act(
            "toolkit.source",
            "add the apt source of the container toolkit, with its key pinned",
            "the toolkit's packages come from their own repository",
            same or ["no apt source of %s" % url],
        )
    rows = {
        row["name"]: row
        for row in work.see("container_runtime", "toolkit", "packages") or []
        if row.get("status", "installed") == "installed"
    }
    legacy = [name for name in facts.legacy_packages if name in rows]
    if legacy:
        work.note(
            "%s is installed: the container toolkit has taken its place, it can be removed" % _names(legacy)
        )
    installed = {name: rows[name]["version"] for name in facts.packages if name in rows}
    versions = set(installed.values())
    offered = resolver.versions_of(work.observed, facts.packages[0])
    for name in facts.packages[1:]:
        others = resolver.versions_of(work.observed, name)
        offered = [version for version in offered if version in others]
    whole = len(installed) == len(facts.packages) and len(versions) == 1
    current = next(iter(versions)) if whole else None
    if current and (not wish or matches(current, wish)):
        version: Optional[str] = current
        gone = _toolkit_gone(work)
        if gone:
            work.act(
                "toolkit.install",
                "install the container toolkit's files again",
                "the toolkit's packages are installed, but their files are not all there",
                ["missing: %s" % _names(gone)],
            )
    else:
        fitting = [v for v in offered if not wish or matches(v, wish)]
        version = newest(fitting)
        if wish and not fitting and offered and "toolkit.source" not in work.actions:
            work.refuse(
                "toolkit.version_missing",
                "container_runtime",
                "nvidia_container_toolkit",
                "nvidia_container_toolkit_version is %r, which apt cannot install" % wish,
                ["apt offers the four packages at: %s" % _names(offered, 8)],
                ['set nvidia_container_toolkit_version: "%s"' % upstream(v) for v in offered[:2]]
                + ['set nvidia_container_toolkit_version: ""'],
            )
        missing = [name for name in facts.packages if name not in installed]
        if missing:
            reason, evidence = "the container toolkit is not installed", ["missing: %s" % _names(missing)]
            if installed:
                reason = "the container toolkit is not complete"
        elif len(versions) > 1:
            reason = "the four packages of the toolkit work only at one version"
            evidence = ["%s %s" % item for item in installed.items()]
        else:
            reason, evidence = (
                "nvidia_container_toolkit_version asks for %s" % wish,
                ["installed: %s" % current],
            )
        work.act(
            "toolkit.install",
            "install the container toolkit%s" % (" " + version if version else ""),
            reason,
            evidence,
        )
    loose = [name for name in facts.packages if name in rows and not rows[name].get("held")]
    if "toolkit.install" in work.actions and not whole:
        work.act(
            "toolkit.hold",
            "hold the container toolkit's packages",
            "the four packages move together or not at all",
            ["to be installed in this run"],
        )
    elif loose:
        work.act(
            "toolkit.hold",
            "hold %s" % _names(loose),
            "the four packages move together or not at all",
            ["not held: %s" % _names(loose)],
        )
    refreshed = _lists_are_old(work) and "toolkit.install" in work.actions and not wish
    packages = [{"name": name, "version": None if refreshed else version} for name in facts.packages]
    return packages, version


def _toolkit_gone(work: _Plan) -> List[str]:
    found = work.see("container_runtime", "toolkit", "binaries")
    if not found:
        return []
    return [name for name in work.catalog.toolkit.binaries if name in found and found[name] is None]


def _toolkit_reinstall(work: _Plan) -> List[str]:
    """Packages whose files are missing although dpkg calls them installed."""
    rows = work.see("container_runtime", "toolkit", "packages") or []
    have = {row["name"] for row in rows if row.get("status", "installed") == "installed"}
    return [name for name in work.catalog.toolkit.packages if name in have] if _toolkit_gone(work) else []


def _decide_cdi(work: _Plan, version: Optional[str], known_from: str) -> Dict[str, Any]:
    facts, wish = work.catalog.docker, work.wishes["nvidia_container_toolkit_cdi"]
    spec = _effective_spec(work)
    cdi = {
        "enabled": False,
        "feature_flag": False,
        "spec": (spec or {}).get("path") or work.catalog.toolkit.cdi_spec,
        "reason": "",
    }
    turned_off = _get(work.wishes["docker_engine_daemon_config"], "features", "cdi") is False
    short = ".".join(version.split(".")[:2]) if version else None
    if wish == "disabled":
        cdi["reason"] = "nvidia_container_toolkit_cdi is disabled"
    elif version is None:
        cdi["reason"] = "Docker's version is %s" % known_from
    elif not at_least(version, facts.cdi_feature_since):
        cdi["reason"] = "Docker %s has no CDI" % short
        if wish == "enabled":
            work.refuse(
                "toolkit.cdi_unsupported",
                "container_runtime",
                "nvidia_container_toolkit",
                "nvidia_container_toolkit_cdi is 'enabled', but Docker %s has no CDI" % version,
                ["CDI came with Docker %s (%s: %s)" % (facts.cdi_feature_since, known_from, version)],
                [
                    "set nvidia_container_toolkit_cdi: auto",
                    "use a newer Docker (docker_engine_source: docker_ce)",
                ],
            )
    elif turned_off:
        cdi["reason"] = "docker_engine_daemon_config switches features.cdi off"
        if wish == "enabled":
            work.refuse(
                "toolkit.cdi_contradiction",
                "container_runtime",
                "nvidia_container_toolkit",
                "nvidia_container_toolkit_cdi is 'enabled', but docker_engine_daemon_config sets features.cdi to false",
                [],
                [
                    "take features.cdi out of docker_engine_daemon_config",
                    "set nvidia_container_toolkit_cdi: disabled",
                ],
            )
    elif not at_least(version, facts.cdi_default_since):
        cdi.update(enabled=True, feature_flag=True, reason="Docker %s has CDI behind features.cdi" % short)
    else:
        cdi.update(enabled=True, reason="Docker %s has CDI on by default" % short)
        if _get(work.see("container_runtime", "docker", "daemon_json", "features"), "cdi") is False:
            if wish == "enabled":
                cdi["feature_flag"] = True
            else:
                cdi.update(enabled=False, reason="daemon.json switches features.cdi off")
    return cdi


def _effective_spec(work: _Plan) -> Optional[Mapping[str, Any]]:
    """The CDI specification for GPUs that counts: /var/run/cdi goes before /etc/cdi."""
    specs = [
        spec
        for spec in work.see("container_runtime", "cdi", "specs") or []
        if spec.get("kind") == work.catalog.toolkit.cdi_kind
    ]
    return (
        max(
            specs,
            key=lambda spec: (
                str(spec.get("path")).startswith(("/var/run/", "/run/")),
                str(spec.get("path")),
            ),
        )
        if specs
        else None
    )


def _plan_daemon(
    work: _Plan, docker: Mapping[str, Any], cdi: Mapping[str, Any], runtime: Mapping[str, Any]
) -> None:
    """daemon.json and what dockerd really runs with."""
    facts, wishes = work.catalog.toolkit, work.wishes
    file = docker.get("daemon_json") or {}
    path = file.get("path") or "/etc/docker/daemon.json"
    asked: Dict[str, Any] = wishes["docker_engine_daemon_config"]
    ours: Dict[str, Any] = {"runtimes": {facts.runtime["name"]: runtime}}
    if wishes["nvidia_container_toolkit_default_runtime"]:
        ours["default-runtime"] = facts.runtime["name"]
    if cdi["feature_flag"]:
        ours["features"] = {"cdi": True}
    for problem in daemon_config.problems(asked):
        work.refuse(
            "docker.daemon_config_invalid",
            "container_runtime",
            "docker_engine",
            "docker_engine_daemon_config: %s" % problem,
            ["dockerd would not start with it"],
            ["correct docker_engine_daemon_config"],
        )
    for item in daemon_config.conflicts(asked, ours):
        work.refuse(
            "docker.daemon_config_contradiction",
            "container_runtime",
            "docker_engine",
            "docker_engine_daemon_config sets %s to %r, but the container toolkit needs %r"
            % (item["path"], item["current"], item["wanted"]),
            [],
            ["take %s out of docker_engine_daemon_config" % item["path"]],
        )
    if file.get("valid") is False:
        work.refuse(
            "docker.daemon_json_invalid",
            "container_runtime",
            "docker_engine",
            "%s on %s cannot be used: %s" % (path, work.host, file.get("error")),
            ["gpuready merges into the file and never throws away what it cannot read"],
            [
                "correct the file by hand (python3 -m json.tool %s names the place)" % path,
                "move it away if nothing in it is wanted",
            ],
        )
        return
    content = file.get("content") or {}
    before = len(work.conflicts)
    # A true wish may overrule features.cdi: false only when it was written down; see _decide_cdi.
    overrule = (
        ["features.cdi"]
        if cdi["feature_flag"] and wishes["nvidia_container_toolkit_cdi"] == "enabled"
        else []
    )
    for wanted, role, variable in (
        (asked, "docker_engine", "docker_engine_daemon_config"),
        (ours, "nvidia_container_toolkit", ""),
    ):
        for item in daemon_config.conflicts(content, wanted, overrule):
            _refuse_setting(work, item, role, variable, path)
    if len(work.conflicts) > before:
        return
    containers = _gpu_containers(work)
    if _get(docker, "live", "live_restore"):
        containers = ["running containers survive: live-restore is on"] if containers else []
    running = bool(_get(docker, "live", "reachable"))
    restarts = ["docker"] if running or not docker.get("installed") else []
    if asked and not daemon_config.satisfied(content, asked):
        work.act(
            "docker.daemon_config",
            "merge docker_engine_daemon_config into %s" % path,
            "dockerd is to run with these settings",
            ["not in the file: %s" % _names(_lacking(content, asked)), *containers],
            restarts=restarts,
        )
    if not daemon_config.satisfied(content, ours):
        if not (
            ours.get("features")
            and daemon_config.satisfied(content, {k: v for k, v in ours.items() if k != "features"})
        ):
            reason = "docker run --runtime=%s needs the runtime in daemon.json" % facts.runtime["name"]
        else:
            reason = "Docker has CDI only with features.cdi"
        work.act(
            "toolkit.runtime",
            "merge the %s runtime into %s" % (facts.runtime["name"], path),
            reason,
            ["not in the file: %s" % _names(_lacking(content, ours)), *containers],
            restarts=restarts,
        )
    _plan_restart(work, docker, content, ours, asked, cdi, containers)


def _refuse_setting(work: _Plan, item: Mapping[str, Any], role: str, variable: str, path: str) -> None:
    if variable:
        options = ["take %s out of %s" % (item["path"], variable), "take it out of %s on the node" % path]
        wanted = "%s asks for %r" % (variable, item["wanted"])
    else:
        options = ["take %s out of %s on the node, or set it to %r" % (item["path"], path, item["wanted"])]
        wanted = "the container toolkit needs %r" % (item["wanted"],)
    work.refuse(
        "docker.setting_differs",
        "container_runtime",
        role,
        "%s on %s sets %s to %r, but %s" % (path, work.host, item["path"], item["current"], wanted),
        ["gpuready never overwrites what somebody else has set"],
        options,
    )


def _lacking(content: Mapping[str, Any], wanted: Mapping[str, Any]) -> List[str]:
    """Dotted names of what is not in daemon.json yet."""
    found = []
    for key, value in wanted.items():
        if daemon_config.satisfied(dict(content), {key: value}):
            continue
        if isinstance(value, dict) and value:
            found += [
                "%s.%s" % (key, inner)
                for inner in value
                if not daemon_config.satisfied(dict(content), {key: {inner: value[inner]}})
            ]
        else:
            found.append(key)
    return found


def _plan_restart(
    work: _Plan,
    docker: Mapping[str, Any],
    content: Mapping[str, Any],
    ours: Mapping[str, Any],
    asked: Mapping[str, Any],
    cdi: Mapping[str, Any],
    containers: Sequence[str],
) -> None:
    """dockerd runs, but not with what is on disk."""
    if (
        "docker.daemon_config" in work.actions
        or "toolkit.runtime" in work.actions
        or "docker.service" in work.actions
    ):
        return  # these make dockerd read everything anew
    live = docker.get("live") or {}
    toolkit = work.see("container_runtime", "toolkit") or {}
    stale = []
    if "toolkit.install" in work.actions:
        stale.append(
            "the toolkit's hook is installed in this run, and dockerd looks for it only when it starts"
        )
    elif toolkit.get("hook_newer_than_dockerd"):
        stale.append("the toolkit's hook appeared after dockerd was started")
    if live.get("reachable"):
        stale += [
            "%s is in daemon.json, but dockerd runs without it" % name
            for name in _not_live(content, live, {**asked, **ours})
        ]
        if cdi["enabled"] and not live.get("cdi_spec_dirs"):
            stale.append("dockerd runs without CDI")
    if stale:
        work.act(
            "docker.restart",
            "restart Docker",
            "dockerd does not run with what is on disk",
            [*stale, *containers],
            restarts=["docker"],
        )


def _not_live(content: Mapping[str, Any], live: Mapping[str, Any], managed: Mapping[str, Any]) -> List[str]:
    """What of the settings that gpuready manages dockerd does not show, as far as it shows them."""
    found = []
    shown = live.get("runtimes")
    if shown is not None:
        found += ["runtimes.%s" % name for name in managed.get("runtimes") or {} if name not in shown]
    default = managed.get("default-runtime")
    if default and live.get("default_runtime") not in (None, default):
        found.append("default-runtime")
    if managed.get("live-restore") is not None and live.get("live_restore") not in (
        None,
        managed["live-restore"],
    ):
        found.append("live-restore")
    for key, where in (
        ("insecure-registries", "insecure_registries"),
        ("registry-mirrors", "registry_mirrors"),
    ):
        known = live.get(where)
        if known is None:
            continue
        plain = {_plain_registry(item) for item in known}
        # dockerd writes a network in its own way (10.1.2.3/8 -> 10.0.0.0/8); such an entry cannot be compared.
        wanted = [
            item
            for item in managed.get(key) or []
            if not (key == "insecure-registries" and "/" in item.partition("://")[2] or _is_network(item))
        ]
        found += ["%s: %s" % (key, item) for item in wanted if _plain_registry(item) not in plain]
    return found


def _is_network(text: str) -> bool:
    address, slash, bits = text.partition("/")
    return bool(slash) and bits.isdigit()


def _plain_registry(text: str) -> str:
    return text.strip().rstrip("/").lower()


def _decide_launch(work: _Plan, version: Optional[str], cdi: Mapping[str, Any]) -> Dict[str, Any]:
    """How a container gets its GPU; `auto` follows what this Docker and toolkit really do."""
    wish, since = work.wishes["gpu_verify_launch"], work.catalog.docker.gpus_uses_cdi_since
    if wish == "cdi" and not cdi["enabled"] and version is not None:
        work.refuse(
            "toolkit.launch_cdi",
            "container_runtime",
            "nvidia_container_toolkit",
            "gpu_verify_launch is 'cdi', but there is no CDI here: %s" % cdi["reason"],
            [],
            [
                "set gpu_verify_launch: auto",
                "set nvidia_container_toolkit_cdi: auto"
                if work.wishes["nvidia_container_toolkit_cdi"] == "disabled"
                else "use a newer Docker",
            ],
        )
    if wish != "auto":
        return {"way": wish, "reason": "gpu_verify_launch asks for it"}
    toolkit = work.see("container_runtime", "toolkit") or {}
    installed = (toolkit.get("binaries") or {}).get("nvidia-container-runtime-hook")
    if version and at_least(version, since):
        if cdi["enabled"]:
            return {"way": "gpus", "reason": "Docker %s turns --gpus into CDI devices" % version}
        return {
            "way": "gpus",
            "reason": "Docker %s without CDI falls back to the toolkit's hook for --gpus" % version,
        }
    if (
        installed
        and toolkit.get("hook_on_dockerd_path") is False
        and not toolkit.get("hook_newer_than_dockerd")
        and "toolkit.install" not in work.actions
    ):
        return {
            "way": "runtime",
            "reason": "the hook %s is not on dockerd's PATH, which --gpus needs; the runtime is found through daemon.json"
            % installed,
        }
    return {
        "way": "gpus",
        "reason": "Docker %s runs the toolkit's hook for --gpus" % (version or "(version not known yet)"),
    }


def _plan_cdi(work: _Plan) -> None:
    cdi = _get(work.runtime, "toolkit", "cdi")
    if not cdi or not cdi["enabled"] or work.driver is None:
        return
    if work.reboot_reason and not work.wishes["host_reboot_allowed"]:
        work.note("the CDI specification describes the loaded driver: it is written after the reboot")
        return
    spec = _effective_spec(work)
    target = work.driver["version"]
    if spec is None:
        reason, evidence = (
            "Docker's CDI needs a specification of this node's GPUs",
            ["no CDI specification of %s" % work.catalog.toolkit.cdi_kind],
        )
    elif spec.get("stale"):
        reason = "the CDI specification no longer fits the driver"
        evidence = ["%s was made for driver %s" % (spec.get("path"), spec.get("driver_version"))]
        evidence += [
            "it names %s, which is not there" % path for path in (spec.get("missing_paths") or [])[:4]
        ]
    elif spec.get("driver_version") and target and spec["driver_version"] != target:
        reason = "the CDI specification was made for another driver"
        evidence = [
            "%s was made for driver %s, planned is %s" % (spec.get("path"), spec["driver_version"], target)
        ]
    else:
        return
    work.act("toolkit.cdi", "write the CDI specification %s" % cdi["spec"], reason, evidence)


# Images and apt ----------------------------------------------------------------------------------------------------


def pull_reference(image: str, mirror: str) -> str:
    """What is really pulled: the image's own name, or the same through a mirror.

    >>> pull_reference("tensorflow/tensorflow:2.9.0-gpu", "gpulab-registry:5000/")
    'gpulab-registry:5000/tensorflow/tensorflow:2.9.0-gpu'
    """
    if not mirror:
        return image
    host = mirror.split("://", 1)[-1].rstrip("/")
    first, slash, rest = image.partition("/")
    # A mirror holds the path only; the registry in front of it is what it stands in for.
    path = rest if slash and ("." in first or ":" in first or first == "localhost") else image
    return "%s/%s" % (host, path)


def _plain_reference(ref: str) -> str:
    """One spelling per image: Docker leaves docker.io/ and library/ out."""
    for prefix in ("docker.io/", "index.docker.io/", "registry-1.docker.io/"):
        if ref.startswith(prefix):
            ref = ref[len(prefix) :]
    return ref[len("library/") :] if ref.startswith("library/") else ref


def _plan_images(work: _Plan) -> None:
    images = work.see("framework", "images")
    have = {_plain_reference(image["ref"]): image for image in images or [] if image.get("ref")}
    mirror, archive = work.wishes["framework_image_registry_mirror"], work.wishes["framework_image_archive"]
    absent = []
    for framework in work.workloads:
        present = _plain_reference(framework.image) in have
        work.workload_rows.append(
            {
                "name": framework.name,
                "image": framework.image,
                "pull": pull_reference(framework.image, mirror),
                "probe": framework.probe,
                "image_size_mib": framework.image_size_mib,
                "present": present,
                "expect": dict(framework.expect),
            }
        )
        if not present:
            absent.append((framework, work.workload_rows[-1]))
    if not absent:
        return
    evidence = ["%s is not on the node" % row["image"] for _, row in absent]
    if images is None and work.see("container_runtime", "docker", "installed"):
        evidence.append("dockerd could not be asked for its images")
    sizes = [framework.image_size_mib for framework, _ in absent]
    where = "load from %s" % archive if archive else "pull %s" % ", ".join(row["pull"] for _, row in absent)
    known = [size for size in sizes if size]
    size = " (about %.1f GiB on disk)" % (sum(known) / 1024.0) if known else ""
    work.act("image.fetch", where + size, "the workload runs from this image", evidence)
    if not archive and work.wishes["framework_image_registry_check_enabled"]:
        for endpoint in work.see("framework", "endpoints") or []:
            if endpoint and endpoint.get("name") == "registry" and endpoint.get("reachable") is False:
                work.refuse(
                    "framework.registry_unreachable",
                    "framework",
                    "framework_image",
                    "%s cannot reach the registry %s" % (work.host, endpoint.get("address")),
                    ["%s: %s" % (endpoint.get("address"), endpoint.get("error")), *evidence],
                    [
                        "set framework_image_registry_mirror to a registry that the node reaches",
                        "set framework_image_archive to a file from docker save",
                        "set framework_image_registry_check_enabled: false where dockerd reaches it through a proxy",
                    ],
                )
    if not known:
        work.note(
            "the size of %s is not known: free disk space was not checked"
            % _names([row["image"] for _, row in absent])
        )
    _check_disk(work, sum(known), absent)


def _check_disk(work: _Plan, size: int, absent: Sequence[Tuple[Framework, Mapping[str, Any]]]) -> None:
    root = (
        work.see("container_runtime", "docker", "live", "root_dir")
        or _get(work.see("container_runtime", "docker", "daemon_json", "content"), "data-root")
        or "/var/lib/docker"
    )

    def holds(path: str) -> bool:
        return str(root) == path or str(root).startswith(path.rstrip("/") + "/")

    disks = [disk for disk in work.see("disk") or [] if disk and disk.get("path") and holds(disk["path"])]
    if not size or not disks:
        return
    disk = max(disks, key=lambda item: len(item["path"]))
    needed = int(size * IMAGE_HEADROOM)
    if disk.get("free_mib") is not None and disk["free_mib"] < needed:
        names = _names([row["image"] for _, row in absent])
        work.refuse(
            "framework.disk_full",
            "framework",
            "framework_image",
            "too little disk for the image on %s: %d MiB are free at %s, %d MiB are needed"
            % (work.host, disk["free_mib"], root, needed),
            ["%s takes %d MiB, and a quarter more while it is unpacked" % (names, size)],
            [
                "free space on the file system of %s (docker system df)" % root,
                "set data-root in docker_engine_daemon_config to a larger disk",
            ],
        )


INSTALLING = ("docker.install", "toolkit.install", "driver.install")


def _lists_are_old(work: _Plan) -> bool:
    """Would apt's lists be fetched again before an install?"""
    age = work.see("apt", "lists_age_seconds")
    if age is None or not resolver.has_lists(work.observed):
        return True
    return bool(age > work.wishes["host_prepare_apt_lists_max_age_seconds"])


def _plan_apt(work: _Plan) -> None:
    installing = [identifier for identifier in INSTALLING if identifier in work.actions]
    if work.see("apt", "dpkg_interrupted"):
        work.act(
            "apt.finish_dpkg",
            "finish the interrupted dpkg run",
            "apt refuses to work before that",
            ["dpkg has half-installed or half-configured packages"],
        )
    if work.see("apt", "lock_held"):
        work.note("somebody holds apt's lock now: gpuready waits for it")
    if not installing:
        return
    age = work.see("apt", "lists_age_seconds")
    evidence = []
    if age is None or not resolver.has_lists(work.observed):
        evidence.append("apt has no package lists")
    elif _lists_are_old(work):
        evidence.append(
            "the lists are %d hours old, the limit is %d"
            % (age // 3600, work.wishes["host_prepare_apt_lists_max_age_seconds"] // 3600)
        )
    evidence += [
        "%s is new" % {"toolkit.source": "the toolkit's source", "docker.source": "Docker's source"}[i]
        for i in ("toolkit.source", "docker.source")
        if i in work.actions
    ]
    wanted = []
    if "toolkit.install" in work.actions:
        wanted += list(work.catalog.toolkit.packages)
    if "docker.install" in work.actions:
        wanted += list(_docker_packages(work))
    unknown = [name for name in wanted if not resolver.candidate_of(work.observed, name)]
    if unknown and not evidence:
        evidence.append("apt does not know %s" % _names(unknown))
    if evidence:
        work.act(
            "apt.refresh_lists",
            "fetch apt's package lists",
            "packages are to be installed, and apt must know what there is",
            evidence,
        )
