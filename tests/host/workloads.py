"""The images of the workloads, by gpuready's catalog: the names that people type after `docker run`."""

from __future__ import annotations

from gpuready.catalog import load_catalog
from gpuready.wishes import DEFAULT_WISHES


def images_of(workloads: list[str] | None, framework: str = "") -> dict[str, str]:
    """Workload → image; `framework` keeps one framework's only. None stands for the default workloads."""
    wanted = {
        name: load_catalog().frameworks[name] for name in workloads or DEFAULT_WISHES["gpuready_workloads"]
    }
    return {name: entry.image for name, entry in wanted.items() if framework in ("", entry.framework)}
