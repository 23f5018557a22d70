"""What the mirror serves: directories named by a hash of their content, switched in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def ensure(root: Path, digest: str, build: Callable[[Path], str]) -> str:
    """`root/current`, with this content: built beside the former one if that is another; a word on which."""
    target, current = root / digest, root / "current"
    if target.is_dir() and current.is_symlink() and str(current.readlink()) == digest:
        return "reused"
    fresh = root / f"{digest}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    word = build(fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    switch = root / "current.new"
    switch.unlink(missing_ok=True)
    switch.symlink_to(digest)
    switch.replace(current)
    for old in root.iterdir():
        if old.is_dir() and not old.is_symlink() and old.name != digest:
            shutil.rmtree(old)
    return word


def link(source: Path, target: Path) -> None:
    """A file in a second place, without a copy where the file system allows it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
