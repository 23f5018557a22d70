# Apache-2.0 (see LICENSE)
"""How the code that a build carries runs on a GPU. Runs on nodes too: Python 3.8."""

from __future__ import annotations

import functools
import re
from typing import Optional, Sequence, Tuple


@functools.lru_cache(maxsize=256)
def sm(name: str) -> Tuple[int, int]:
    """The number of an architecture; feature-specific code counts as its own number.

    >>> sm("sm_86"), sm("compute_120"), sm("sm_90a")
    ((8, 6), (12, 0), (9, 0))
    """
    digits = re.sub(r"\D", "", name.rpartition("_")[2])
    return int(digits[:-1]), int(digits[-1])


@functools.lru_cache(maxsize=256)
def capability(text: str) -> Tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def how_it_runs(archs: Optional[Sequence[str]], compute_capability: str) -> Tuple[str, Optional[str]]:
    """(native | jit | none | unknown, the architecture used): code of the GPU's own generation, else PTX.

    >>> how_it_runs(["sm_80", "compute_90"], "8.6"), how_it_runs(["sm_90", "compute_90"], "10.0")
    (('native', 'sm_80'), ('jit', 'compute_90'))
    """
    if archs is None:
        return "unknown", None
    gpu = capability(compute_capability)
    native = [a for a in archs if a.startswith("sm_") and sm(a)[0] == gpu[0] and sm(a) <= gpu]
    if native:
        return "native", max(native, key=sm)
    ptx = [a for a in archs if a.startswith("compute_") and sm(a) <= gpu]
    if ptx:
        return "jit", max(ptx, key=sm)
    return "none", None
