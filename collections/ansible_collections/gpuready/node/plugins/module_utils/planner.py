# Apache-2.0 (see LICENSE)
"""The plan: what to do on a node, why, and what stands against it.

`plan` is a pure function: the same observation, wishes, catalog and day give the same plan.
"""

from __future__ import annotations

import datetime
from typing import Any, Dict, List, Mapping, Union

from . import driver_options
from .catalog import Catalog, annotate
from .draft import ACTIONS, Draft, listing, lists_are_old
from .passthrough import PASSTHROUGH
from .plan_driver import plan_driver
from .plan_framework import choose_workloads, driver_only, plan_images
from .plan_health import health_packages, plan_health
from .plan_kernel import plan_reboot, reboot_row
from .plan_recipes import describe_recipes, plan_recipes
from .plan_runtime import docker_packages, plan_cdi, plan_runtime
from .plan_venvs import describe_venvs, plan_venvs
from .plan_workbench import plan_workbench
from .wishes import ROLES, check, role_of

SCHEMA = 1
# Lists of this age were fetched in this run or just before: fetching them again tells nothing new.
FRESH_SECONDS = 600
NEW_SOURCES = {
    "toolkit.source": "the toolkit's source",
    "docker.source": "Docker's source",
    "driver.source": "the driver's source",
}
INSTALLING = ("docker.install", "toolkit.install", "driver.install", "venv.packages", "health.packages")


def plan(
    observed: Mapping[str, Any],
    wishes: Mapping[str, Any],
    catalog: Catalog,
    *,
    host: str,
    today: Union[str, datetime.date],
) -> Dict[str, Any]:
    """The plan for one node (docs/contracts.md, section 3).

    It shares nothing with what was handed in, nor with other plans: a test holds every part to that.
    """
    day = today.isoformat()[:10] if isinstance(today, datetime.date) else str(today)[:10]
    complete, problems = check(wishes)
    work = Draft(annotate(observed, catalog), complete, catalog, host, day)
    for problem in problems:
        role = role_of(problem.variable)
        work.refuse("wishes.invalid", ROLES[role], role, problem.what, [], problem.options)

    choose_workloads(work)
    describe_recipes(work)
    describe_venvs(work)
    if _node_is_possible(work):
        plan_driver(work)
        plan_runtime(work)
        plan_images(work)
        plan_reboot(work, work.option)
        plan_cdi(work)
        plan_recipes(work)
        plan_venvs(work)
        plan_workbench(work)
        plan_health(work)
        _plan_apt(work)

    actions = [work.actions[identifier] for identifier in ACTIONS if identifier in work.actions]
    needed = work.reboot is not None
    status = "conflict" if work.conflicts else "changes" if actions or needed else "converged"
    result = {
        "schema": SCHEMA,
        "host": host,
        "simulated": bool(complete["gpuready_simulated"]),
        "status": status,
        "os": _host_line(work),
        "workloads": work.workload_rows,
        "driver_only": driver_only(work),
        "gpus": [
            {key: gpu.get(key) for key in ("pci", "device_id", "name", "chip", "arch", "compute_capability")}
            for gpu in work.gpus
        ],
        "driver": work.driver,
        "container_runtime": work.runtime,
        "reboot": reboot_row(work),
        "recipes": work.recipes,
        "surplus_images": work.surplus_images,
        "venvs": work.venvs,
        "venvs_absent": work.venvs_absent,
        "workbench": work.workbench,
        "health": work.health,
        "actions": actions,
        "conflicts": work.conflicts,
        "notes": work.notes,
    }
    return result


def _host_line(work: Draft) -> Dict[str, Any]:
    """What the readable plan says of the host."""
    return {
        "pretty_name": work.see("host", "os", "pretty_name"),
        "arch": work.see("host", "os", "arch"),
        "kernel": work.see("host", "kernel", "running"),
        "secure_boot": work.see("host", "secure_boot"),
    }


def _node_is_possible(work: Draft) -> bool:
    """Is this a node that gpuready can work on at all? Says why not."""
    wish = work.wishes["nvidia_driver_source"]
    os_id, release, arch = (work.see("host", "os", key) for key in ("id", "version_id", "arch"))
    source = work.catalog.package_source(wish, os_id, release)
    covering = work.catalog.sources_named(wish)
    name = work.see("host", "os", "pretty_name") or "%s %s" % (os_id, release)
    possible = True
    if source is None:
        work.refuse(
            "host.os_unsupported",
            "host",
            "gpuready",
            "%s runs %s, which nvidia_driver_source %r does not cover" % (work.host, name, wish),
            ["covered: %s %s" % (row.os, ", ".join(row.releases)) for row in covering],
            ["install a covered release on the node", "take the node out of the inventory"],
        )
        possible = False
    architectures = sorted({name for row in ([source] if source else covering) for name in row.architectures})
    if arch not in architectures:
        work.refuse(
            "host.arch_unsupported",
            "host",
            "gpuready",
            "%s has the architecture %s, which gpuready does not support" % (work.host, arch),
            ["supported: %s" % ", ".join(architectures)],
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
                "check that the GPU is seated, powered and switched on in the firmware, "
                "or passed through to this virtual machine (lspci -nn -d 10de:)",
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


def _plan_apt(work: Draft) -> None:
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
    if not driver_options.has_lists(work.observed):
        evidence.append("apt has no package lists")
    elif age is None:
        evidence.append("a source of packages is newer than apt's lists")
    elif lists_are_old(work):
        evidence.append(
            "the lists are %d hours old, the limit is %d"
            % (age // 3600, work.wishes["host_prepare_apt_lists_max_age_seconds"] // 3600)
        )
    evidence += ["%s is new" % words for action, words in NEW_SOURCES.items() if action in work.actions]
    unknown = _unknown_packages(work)
    if unknown and not evidence:
        if age < FRESH_SECONDS:
            for identifier, names in unknown.items():
                _refuse_unknown(work, identifier, names)
            return
        evidence += ["apt does not know %s" % listing(names) for names in unknown.values()]
    if evidence:
        work.act(
            "apt.refresh_lists",
            "fetch apt's package lists",
            "packages are to be installed, and apt must know what there is",
            evidence,
        )


def _unknown_packages(work: Draft) -> Dict[str, List[str]]:
    """Per action, the packages to be installed that apt has never heard of."""
    wanted = {
        "toolkit.install": work.catalog.toolkit.packages,
        "docker.install": docker_packages(work),
        "health.packages": health_packages(work),
    }
    found = {}
    for identifier, names in wanted.items():
        if identifier in work.actions:
            found[identifier] = [n for n in names if not driver_options.candidate_of(work.observed, n)]
    return {identifier: names for identifier, names in found.items() if names}


def _refuse_unknown(work: Draft, identifier: str, names: List[str]) -> None:
    role, layer = ACTIONS[identifier]
    repository = work.wishes["nvidia_container_toolkit_repo_url"]
    options = {
        "toolkit.install": ["check nvidia_container_toolkit_repo_url (%s)" % repository],
        "docker.install": ["enable Ubuntu's component universe, or set docker_engine_source: docker_ce"],
        "health.packages": [
            "enable Ubuntu's component universe",
            "install a node_exporter yourself, and name its directory in gpu_health_textfile_directory",
            "set gpu_health_exporter: none",
        ],
    }
    work.refuse(
        "%s.not_installable" % identifier.split(".")[0],
        layer,
        role,
        "apt on %s knows no package %s" % (work.host, listing(names)),
        ["its lists are fresh, and no enabled source has it"],
        options[identifier],
    )
