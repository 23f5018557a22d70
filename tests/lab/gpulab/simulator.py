"""The simulated driver and toolkit: built by tests/lab/simulator/build.py, once per content."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from . import rootfs, settings
from .shell import run


def models() -> set[str]:
    """The GPU models that a hardware profile may name."""
    path = settings.SIMULATOR / "models.json"
    return (
        {name for name in json.loads(path.read_text()) if not name.startswith("_")}
        if path.exists()
        else set()
    )


def output_dir() -> Path:
    """What the simulator's build makes: archives/, cuda/, toolkit/, node/."""
    return settings.home() / "simulator"


def releases() -> dict[str, dict[str, Any]]:
    """codename → kernels and driver packages of its archives."""
    found = json.loads((settings.SIMULATOR / "releases.json").read_text())
    return {name: release for name, release in found.items() if not name.startswith("_")}


def kernel_debs(os_: settings.NodeOs) -> list[Path]:
    """The kernel that a new node has installed: its image, and the metapackage that follows it."""
    release = releases()[os_.codename]
    main = output_dir() / "archives" / os_.distribution / os_.codename / "main"
    names = (release["kernels"]["running"], release["flavour"])
    return [path for name in names for path in sorted(main.glob(f"linux-image-{name}_*.deb"))]


#: Beside the sources, and without influence on what is made of them.
NOT_SOURCES = ("__pycache__", "README.md", "conftest.py", "machine.py")


def ensure() -> str:
    """Build the simulator's packages and files if its sources changed."""
    target = output_dir()
    build = settings.SIMULATOR / "build.py"
    tests = [path.name for path in settings.SIMULATOR.glob("test_*.py")]
    digest = rootfs.digest_tree(settings.SIMULATOR, skip=(*NOT_SOURCES, *tests))
    stamp = target / ".digest"
    if stamp.exists() and stamp.read_text() == digest:
        return "reused"
    fresh = target.with_name("simulator.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    run(
        [sys.executable, build, "--output", fresh],
        what="building the simulated driver and toolkit",
    )
    (fresh / ".digest").write_text(digest)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return "built"
