# Apache-2.0 (see LICENSE)
"""What is well on a node now, and will not be after the next boot. Pure; used on the controller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _get(data: Any, *path: str) -> Any:
    for name in path:
        if not isinstance(data, Mapping):
            return None
        data = data.get(name)
    return data


def warnings(stack: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What still works, but will not after the next boot, or the next time that the driver is loaded."""
    found = []
    kernel = _get(stack, "host", "kernel") or {}
    driver = _get(stack, "driver") or {}
    on_disk, loaded = driver.get("on_disk"), driver.get("loaded")
    following = kernel.get("next_boot")
    if following and following != kernel.get("running") and on_disk and not driver.get("on_disk_next_boot"):
        found.append(
            _warning(
                f"the kernel of the next boot, {following}, has no driver",
                [f"kernel {kernel.get('running')} has driver {on_disk.get('version')}"],
                "run site.yml: it adds the module where one is to be had",
            )
        )
    libraries = _get(driver, "userspace", "version")
    # Where loaded and libraries do not fit either, it is a mismatch already and not only to come.
    fits = loaded and loaded.get("version") == libraries
    if fits and on_disk and on_disk.get("version") not in (None, libraries):
        found.append(
            _warning(
                "the driver that the next boot loads and the libraries are of two versions",
                [f"on disk: {on_disk['version']}", f"libraries: {libraries}"],
                "run site.yml: it brings both to one version",
            )
        )
    return found


def _warning(text: str, evidence: list[str], fix: str) -> dict[str, Any]:
    return {"layer": "host", "finding": text, "evidence": evidence, "fix": [fix]}
