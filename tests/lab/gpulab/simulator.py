"""The simulated driver and toolkit: built by tests/lab/simulator/build.py, once per content."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from . import machine, rootfs, settings
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
    """What the simulator's build makes: ubuntu/<codename>/*.deb, toolkit/*.deb, node/."""
    return settings.home() / "simulator"


def ensure(host: machine.Machine) -> str:
    """Build the simulator's packages and files if its sources changed."""
    target = output_dir()
    build = settings.SIMULATOR / "build.py"
    digest = rootfs.digest_of(rootfs.digest_tree(settings.SIMULATOR), host.kernel)
    stamp = target / ".digest"
    if stamp.exists() and stamp.read_text() == digest:
        return "reused"
    fresh = target.with_name("simulator.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    run(
        [sys.executable, build, "--output", fresh, "--kernel", host.kernel],
        what="building the simulated driver and toolkit",
    )
    (fresh / ".digest").write_text(digest)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return "built"
