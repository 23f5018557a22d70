# Apache-2.0 (see LICENSE)
"""The plan in the making: what is known, what was decided, and which actions there are."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .catalog import Catalog, Framework, PackageSource
from .driver_options import Option, has_lists
from .passthrough import PASSTHROUGH
from .requirements import Memory, conflict
from .resolver import Resolution

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
    "driver.source": ("nvidia_driver", "host"),
    "driver.pin": ("nvidia_driver", "host"),
    "driver.upgrade_guard": ("nvidia_driver", "host"),
    "driver.install": ("nvidia_driver", "host"),
    "driver.hold": ("nvidia_driver", "host"),
    "driver.reload": ("nvidia_driver", "host"),
    "driver.load": ("nvidia_driver", "host"),
    "driver.fabricmanager": ("nvidia_driver", "host"),
    "driver.persistenced": ("nvidia_driver", "host"),
    "host.reboot": ("host_reboot", "host"),
    "toolkit.cdi_refresh": ("nvidia_container_toolkit", "container_runtime"),
    "toolkit.cdi": ("nvidia_container_toolkit", "container_runtime"),
    "image.build": ("framework_image", "framework"),
    "venv.packages": ("framework_venv", "framework"),
    "venv.install": ("framework_venv", "framework"),
    "venv.remove": ("framework_venv", "framework"),
    "workbench.configure": ("gpu_workbench", "application"),
    "workbench.start": ("gpu_workbench", "application"),
    "workbench.remove": ("gpu_workbench", "application"),
    # After the workbenches: an image goes when they run from the one that took its place.
    "image.prune": ("framework_image", "framework"),
    "health.packages": ("gpu_health", "application"),
    "health.configure": ("gpu_health", "application"),
    "health.start": ("gpu_health", "application"),
    "health.remove": ("gpu_health", "application"),
}


def listing(items: Sequence[str], limit: int = 6) -> str:
    shown = ", ".join(items[:limit])
    return shown + (", and %d more" % (len(items) - limit) if len(items) > limit else "")


class Draft:
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
        self.memory = Memory.of(catalog)
        self.system = (self.see("host", "os", "id"), self.see("host", "os", "version_id"))
        self.sources: Tuple[PackageSource, ...] = self.memory.recall(
            "sources", self.system, lambda: catalog.sources_for(*self.system)
        )
        self.actions: Dict[str, Dict[str, Any]] = {}
        self.conflicts: List[Dict[str, Any]] = []
        self.notes: List[str] = []
        self.workloads: List[Framework] = []
        self.workload_rows: List[Dict[str, Any]] = []
        self.resolution: Optional[Resolution] = None
        self.option: Optional[Option] = None
        self.unavailable: List[str] = []  # packages beside the driver that apt does not have
        self.driver: Optional[Dict[str, Any]] = None
        self.runtime: Optional[Dict[str, Any]] = None
        self.reboot: Optional[Dict[str, Any]] = None  # {key, reason, evidence}
        self.recipes: List[Dict[str, Any]] = []  # derived images
        self.surplus_images: List[str] = []
        self.venvs: List[Dict[str, Any]] = []
        self.venvs_absent: List[Dict[str, Any]] = []
        self.workbench: Optional[Dict[str, Any]] = None
        self.health: Optional[Dict[str, Any]] = None

    def see(self, *path: str) -> Any:
        """What was observed there; None where the way ends. As `dig`, in the place that asks most often."""
        data: Any = self.observed
        for name in path:
            if not isinstance(data, dict):
                return None
            data = data.get(name)
        return data

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

    def want_reboot(self, key: str, reason: str, evidence: Sequence[str]) -> None:
        """The first reason counts. The key says the same to machines, whatever the words become."""
        if self.reboot is None:
            self.reboot = {"key": key, "reason": reason, "evidence": list(evidence)}

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


def gpu_containers(work: Draft) -> List[str]:
    return [
        "stops the running GPU container %s (%s)" % (item.get("name"), item.get("image"))
        for item in work.see("container_runtime", "gpu_containers") or []
    ]


def probe_failed(work: Draft, probe: str) -> bool:
    """Did this probe, or the one that it is part of, fail? Then null means unknown and not absent."""
    return any(
        probe == p.get("probe") or str(p.get("probe", "")).startswith(probe + ".")
        for p in work.see("problems") or []
    )


def lists_are_old(work: Draft) -> bool:
    """Would apt's lists be fetched again before an install?"""
    age = work.see("apt", "lists_age_seconds")
    if age is None or not has_lists(work.observed):
        return True
    return bool(age > work.wishes["host_prepare_apt_lists_max_age_seconds"])
