# Apache-2.0 (see LICENSE)
"""Python environments on the host (role framework_venv): what to install, and why."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from . import wheels
from .catalog import Framework
from .draft import Draft, listing, lists_are_old
from .driver_options import candidate_of, has_lists
from .plan_framework import disk_holding
from .venvs import content_hash, wrong
from .wish_words import nearest

ROLE = "framework_venv"
# Room beside the environment itself: the former one stays until the new one is complete.
HEADROOM = 1.25


def describe_venvs(work: Draft) -> None:
    """The rows of `workloads` and `venvs`, of an impossible node too; what is present comes later."""
    folder = work.wishes["framework_venv_directory"]
    for wish in work.wishes["framework_venv_environments"]:
        framework = work.catalog.framework(wish["workload"])
        if framework is None or not _is_wheel(work, wish, framework):
            continue
        path = "%s/%s" % (folder, wish["name"])
        url = wheels.index_url(work.wishes["framework_venv_index_url"], framework)
        interpreter = _interpreter(work, wish["python"])
        version = interpreter.get("version") if interpreter else None
        needed = [*wheels.requirements(framework, url), *wish["packages"]]
        digest = content_hash(wish["name"], version, needed, wish["owner"])
        extra = work.wishes["framework_venv_packages_index_url"]
        work.venvs.append(
            {
                "name": wish["name"],
                "workload": framework.name,
                "path": path,
                "hash": digest,
                "build": "%s@%s" % (path, digest[:12]),
                "python": interpreter["path"] if interpreter else wish["python"],
                "python_version": version,
                "cuda": framework.cuda,
                "tag": framework.variant,
                "index_url": wheels.without_login(url),
                "extra_index_url": wheels.without_login(extra) if extra else None,
                "requirements": needed,
                "owner": wish["owner"],
                "needs": [],
                "present": False,
            }
        )
        work.workload_rows.append(
            {
                "name": wish["name"],
                "image": None,
                "pull": None,
                "probe": framework.probe,
                "image_size_mib": None,
                "present": False,
                "expect": dict(framework.expect),
                "venv": path,
            }
        )


def _is_wheel(work: Draft, wish: Mapping[str, Any], framework: Framework) -> bool:
    if framework.wheel is not None:
        return True
    known = [row.name for row in work.catalog.frameworks.values() if row.wheel is not None]
    work.refuse(
        "framework.no_wheel",
        "framework",
        ROLE,
        "the environment %s wants %s, which gpuready knows as an image and not as a wheel"
        % (wish["name"], framework.name),
        ["framework_venv_environments: %s: workload: %s" % (wish["name"], wish["workload"])],
        [
            "use one of the wheels: %s" % ", ".join(nearest("pytorch-2", known, 3)),
            "put it into gpuready_workloads",
        ],
    )
    return False


def plan_venvs(work: Draft) -> None:
    observed = {row["path"]: row for row in work.see("framework", "venvs") or []}
    installs, packages = [], {}
    for row in work.venvs:
        framework = work.catalog.frameworks[row["workload"]]
        _check(work, row, framework)
        have = observed.get(row["path"])
        if have is not None and have["foreign"]:
            _refuse_foreign(work, row)
            continue
        evidence = wrong(row, have)
        row["present"] = not evidence
        if evidence:
            installs.append((row, framework, evidence))
            packages.update(_missing_packages(work, row))
    present = {row["path"]: row["present"] for row in work.venvs}
    for workload in work.workload_rows:
        if workload.get("venv") in present:
            workload["present"] = present[workload["venv"]]
    if packages:
        names = sorted(packages)
        work.act(
            "venv.packages",
            "install %s" % listing(names),
            "this system keeps what makes Python environments in packages of their own",
            ["%s cannot make environments" % packages[name] for name in names],
        )
    if installs:
        _install(work, installs)
    _remove(work, observed)


def _install(work: Draft, installs: Sequence[Tuple[Dict[str, Any], Framework, List[str]]]) -> None:
    rows = [row for row, _framework, _evidence in installs]
    sizes = [framework.wheel.size_mib for _row, framework, _evidence in installs if framework.wheel]
    known = sum(size for size in sizes if size)
    work.act(
        "venv.install",
        "install %s from %s"
        % (
            listing(["%s (%s)" % (row["name"], row["requirements"][0]) for row in rows]),
            listing(list(dict.fromkeys(row["index_url"] for row in rows))),
        ),
        "the workload runs in this environment",
        [line for _row, _framework, evidence in installs for line in evidence],
    )
    folder = work.wishes["framework_venv_directory"]
    disk = disk_holding(work, folder)
    needed = int(known * HEADROOM)
    if disk and disk.get("free_mib") is not None and disk["free_mib"] < needed:
        work.refuse(
            "framework.disk_full",
            "framework",
            ROLE,
            "too little disk for %s on %s: %d MiB are free at %s, %d MiB are needed"
            % (listing([row["name"] for row in rows]), work.host, disk["free_mib"], folder, needed),
            ["an environment with its CUDA libraries takes about %d MiB" % max(size or 0 for size in sizes)],
            ["free space on the file system of %s" % folder, "set framework_venv_directory to a larger disk"],
        )


def _check(work: Draft, row: Mapping[str, Any], framework: Framework) -> None:
    """Three agree: wheel and channel, wheel and Python; the driver's part is the resolver's."""
    wish = next(w for w in work.wishes["framework_venv_environments"] if w["name"] == row["name"])
    subject = "the environment %s" % row["name"]
    pythons = work.see("framework", "pythons")
    suitable = [p for p in pythons or [] if p["version"] and wheels.python_suits(framework, p["version"])]
    options = ["set its python to %s (Python %s)" % (p["path"], p["version"]) for p in suitable[:2]]
    for found in wheels.disagreements(
        framework,
        index_url=row["index_url"],
        python=row["python_version"],
        subject=subject,
        alternatives=tuple(work.catalog.frameworks.values()),
        python_options=tuple(options),
    ):
        work.refuse(found.id, "framework", ROLE, found.what, found.because, found.options)
    if pythons is not None and _interpreter(work, wish["python"]) is None:
        work.refuse(
            "framework.python_missing",
            "framework",
            ROLE,
            "%s wants %s, which is not on %s" % (subject, wish["python"], work.host),
            ["there are %s" % (listing(["%s (%s)" % (p["path"], p["version"]) for p in pythons]) or "none")],
            [*options, "install it on the node"],
        )
    elif row["python_version"] is None:
        work.note(
            "which Python %s is on %s is not known: whether a wheel fits it shows when it is installed"
            % (wish["python"], work.host)
        )
    taken = [
        other
        for other in work.workload_rows
        if other["name"] == row["name"] and other.get("venv") != row["path"]
    ]
    if taken or work.catalog.framework(row["name"]) is not None:
        work.refuse(
            "framework.name_taken",
            "framework",
            ROLE,
            "%s has the name of a workload or a recipe, and results would be mixed up" % subject,
            ["framework_venv_environments: name: %s" % row["name"]],
            ["give it another name"],
        )


def _refuse_foreign(work: Draft, row: Mapping[str, Any]) -> None:
    work.refuse(
        "framework.venv_foreign",
        "framework",
        ROLE,
        "%s is on %s already, and gpuready did not make it" % (row["path"], work.host),
        ["an environment of gpuready's is a link to %s" % row["build"]],
        [
            "move it away",
            "give the environment another name",
            "set framework_venv_directory to another folder",
        ],
    )


def _missing_packages(work: Draft, row: Dict[str, Any]) -> Dict[str, str]:
    """{package: interpreter} of what the interpreter needs to make environments."""
    found = next((p for p in work.see("framework", "pythons") or [] if p["path"] == row["python"]), None)
    if found is None or found["venv"] is not False:
        return {}
    name = "python%s-venv" % found["version"]
    # Only the system's own interpreters get their parts from apt.
    if os.path.dirname(found["path"]) != "/usr/bin":
        work.refuse(
            "framework.python_without_venv",
            "framework",
            ROLE,
            "the environment %s wants %s, which cannot make environments" % (row["name"], found["path"]),
            ["its standard library has no venv and ensurepip"],
            ["install an interpreter with both", "use the system's own python3"],
        )
        return {}
    if has_lists(work.observed) and not candidate_of(work.observed, name) and not lists_are_old(work):
        work.refuse(
            "framework.venv_not_installable",
            "framework",
            ROLE,
            "apt on %s knows no package %s, which %s needs to make environments"
            % (work.host, name, found["path"]),
            ["no enabled source has it"],
            [
                "enable Ubuntu's component universe"
                if work.system[0] == "ubuntu"
                else "enable the source that has it"
            ],
        )
        return {}
    row["needs"] = [name]
    return {name: found["path"]}


def _interpreter(work: Draft, wanted: str) -> Optional[Dict[str, Any]]:
    """What an inventory's name of an interpreter means on this node."""
    for found in work.see("framework", "pythons") or []:
        if wanted in (found["path"], os.path.basename(found["path"])):
            return dict(found)
    return None


def _remove(work: Draft, observed: Mapping[str, Mapping[str, Any]]) -> None:
    """What nobody wants any more: environments that are not declared, and former builds."""
    wanted = {row["path"]: row for row in work.venvs}
    evidence = []
    for path, have in sorted(observed.items()):
        if have["foreign"]:
            continue
        mine = wanted.get(path)
        builds = [(former["path"], former["used_by"]) for former in have["former"]]
        if mine is None and have["target"]:
            builds.append((have["target"], have["used_by"]))
        if mine is not None and not mine["present"]:
            continue  # the installation clears up what it replaces
        used = [(build, users) for build, users in builds if users]
        for build, users in used:
            work.note(
                "%s is not needed any more, but %s out of it: it goes when that has ended"
                % (
                    build,
                    listing(["process %s (%s) runs" % (user["pid"], user["name"]) for user in users], 2),
                )
            )
        free = [build for build, users in builds if not users]
        link = path if mine is None and have["target"] and not have["used_by"] else None
        if free or link:
            work.venvs_absent.append({"name": have["name"], "path": link, "builds": free})
            evidence += ["%s is a former build" % build for build in free if build != have["target"]]
            if link:
                evidence.append("%s is not among framework_venv_environments" % link)
    if evidence:
        work.act(
            "venv.remove",
            "remove %s"
            % listing(
                [path for row in work.venvs_absent for path in [row["path"] or "", *row["builds"]] if path]
            ),
            "nothing wants it any more",
            evidence,
        )
