# Apache-2.0 (see LICENSE)
"""The framework's part of the plan: the workloads and their images."""

from __future__ import annotations

from typing import Any, List, Mapping, Optional, Sequence, Tuple

from .catalog import Framework
from .draft import Draft, listing
from .recipes import is_workload_like
from .requirements import dig
from .wishes import nearest

# Room beside the image itself: what is downloaded while it is unpacked, and air.
IMAGE_HEADROOM = 1.25


def choose_workloads(work: Draft) -> None:
    """Every workload that is asked for: by itself, or by what holds it. All count for the driver."""
    known = work.catalog.workload_names()
    wheels = [row.name for row in work.catalog.frameworks.values() if row.wheel is not None]
    named = [(name, "gpuready_workloads", "[%s]") for name in work.wishes["gpuready_workloads"]]
    for row in work.wishes["framework_venv_environments"]:
        named.append(
            (row["workload"], "framework_venv_environments", "[{name: %s, workload: %%s}]" % row["name"])
        )
    for row in work.wishes["framework_image_recipes"]:
        if is_workload_like(row["base"]):
            named.append((row["base"], "framework_image_recipes", "[{name: %s, base: %%s}]" % row["name"]))
        if row["workload"]:
            words = "[{name: %s, base: %s, workload: %%s}]" % (row["name"], row["base"])
            named.append((row["workload"], "framework_image_recipes", words))
    for name, variable, example in named:
        framework = work.catalog.framework(name)
        if framework is None:
            possible = wheels if variable == "framework_venv_environments" else known
            work.refuse(
                "framework.workload_unknown",
                "framework",
                "gpuready",
                "%s names %r, which is no workload that gpuready knows" % (variable, name),
                ["known workloads: %s" % ", ".join(possible)],
                ["set %s: %s" % (variable, example % near) for near in nearest(name, possible)]
                + ["add it to data/frameworks.yml (docs/adding-a-framework.md)"],
            )
        elif framework not in work.workloads:
            work.workloads.append(framework)
    _describe_workloads(work)


def driver_only(work: Draft) -> List[str]:
    """Workloads that come as wheels and that nothing on this node holds."""
    held = {row["workload"] for row in [*work.venvs, *work.recipes]}
    names = [item.name for item in work.workloads if item.image is None and item.name not in held]
    for name in names:
        work.note(
            "%s has no image of its own: it counts for the driver, and is neither fetched nor verified" % name
        )
    return names


def _describe_workloads(work: Draft) -> None:
    """The plan's rows, of an impossible node too: verification also runs there, and says what is wrong."""
    have = {
        plain_reference(image["ref"]) for image in work.see("framework", "images") or [] if image.get("ref")
    }
    mirror = work.wishes["framework_image_registry_mirror"]
    for framework in work.workloads:
        if framework.image is None:
            continue
        work.workload_rows.append(
            {
                "name": framework.name,
                "image": framework.image,
                "pull": pull_reference(framework.image, mirror),
                "probe": framework.probe,
                "image_size_mib": framework.image_size_mib,
                "present": plain_reference(framework.image) in have,
                "expect": dict(framework.expect),
            }
        )


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


def plain_reference(ref: str) -> str:
    """One spelling per image: Docker leaves docker.io/ and library/ out."""
    for prefix in ("docker.io/", "index.docker.io/", "registry-1.docker.io/"):
        if ref.startswith(prefix):
            ref = ref[len(prefix) :]
    return ref[len("library/") :] if ref.startswith("library/") else ref


def plan_images(work: Draft) -> None:
    images = work.see("framework", "images")
    archive = work.wishes["framework_image_archive"]
    rows = {row["name"]: row for row in work.workload_rows}
    absent = [
        (item, rows[item.name])
        for item in work.workloads
        if item.name in rows and not rows[item.name]["present"]
    ]
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
                        "set framework_image_registry_check_enabled: false if dockerd has a proxy for it",
                    ],
                )
    if not known:
        work.note(
            "the size of %s is not known: free disk space was not checked"
            % listing([row["image"] for _, row in absent])
        )
    _check_disk(work, sum(known), absent)


def disk_holding(work: Draft, folder: str) -> Optional[Mapping[str, Any]]:
    """The observed file system that a folder lies on, or will lie on."""

    def holds(path: str) -> bool:
        return folder == path or folder.startswith(path.rstrip("/") + "/")

    disks = [disk for disk in work.see("disk") or [] if disk and disk.get("path") and holds(disk["path"])]
    return max(disks, key=lambda item: len(item["path"])) if disks else None


def _check_disk(work: Draft, size: int, absent: Sequence[Tuple[Framework, Mapping[str, Any]]]) -> None:
    root = (
        work.see("container_runtime", "docker", "live", "root_dir")
        or dig(work.see("container_runtime", "docker", "daemon_json", "content"), "data-root")
        or "/var/lib/docker"
    )
    disk = disk_holding(work, str(root))
    if not size or disk is None:
        return
    needed = int(size * IMAGE_HEADROOM)
    if disk.get("free_mib") is not None and disk["free_mib"] < needed:
        names = listing([row["image"] for _, row in absent])
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
