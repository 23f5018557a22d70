# Apache-2.0 (see LICENSE)
"""Makes the node's health program on the controller: a zip application, the same bytes from the same sources.

It holds `health` and what that imports, which is read off the sources; nothing is compressed, because another
zlib would write other bytes.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, Optional, Set

UTILS = Path(__file__).resolve().parents[1]
PROBES = UTILS.parents[1] / "data" / "probes"
PACKAGE = "gpuready"
FOLDER = "/usr/local/lib/gpuready"
PROGRAM = FOLDER + "/gpuready-health.pyz"
BINDINGS = FOLDER + "/pynvml.py"
MODES = {PROGRAM: "0755", BINDINGS: "0644"}
# -I: nothing of the caller's environment; -B: no byte code beside what gpuready owns.
SHEBANG = b"#!/usr/bin/python3 -IB\n"
ROOTS = ("health/program.py",)
# The controller's own part of this folder.
NOT_ON_NODES = ("health/build.py",)
MAIN = "import sys\nfrom gpuready.health.program import main\nsys.exit(main())\n"
# zip knows no time before 1980.
MOMENT = (1980, 1, 1, 0, 0, 0)


def _imported(relative: str) -> Set[str]:
    """The files of module_utils that a file imports, wherever in it."""
    source = (UTILS / relative).read_text(encoding="utf-8")
    found: Set[str] = set()
    package = Path(relative).parent
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        base = package
        for _ in range(node.level - 1):
            base = base.parent
        if node.module:
            base = base.joinpath(*node.module.split("."))
        found |= _files(base)
        for name in node.names:
            found |= _files(base / name.name)
    return found


def _files(path: Path) -> Set[str]:
    for candidate in (path.with_name(path.name + ".py") if path.name else path, path / "__init__.py"):
        if (UTILS / candidate).is_file():
            return {candidate.as_posix()}
    return set()


def files() -> Dict[str, bytes]:
    """Everything in the program: name → bytes."""
    seen: Set[str] = set()
    waiting: List[str] = list(ROOTS)
    while waiting:
        relative = waiting.pop()
        if relative in seen:
            continue
        if relative in NOT_ON_NODES:
            raise ValueError("%s is the controller's, but the health program imports it" % relative)
        seen.add(relative)
        # A module's packages are imported before it.
        waiting += [
            (parent / "__init__.py").as_posix()
            for parent in Path(relative).parents
            if (UTILS / parent / "__init__.py").is_file()
        ]
        waiting += sorted(_imported(relative))
    content = {"%s/%s" % (PACKAGE, name): (UTILS / name).read_bytes() for name in seen}
    content["%s/__init__.py" % PACKAGE] = b""
    content["__main__.py"] = MAIN.encode("utf-8")
    for probe in PROBES.glob("*.py"):
        content["%s/health/probes/%s" % (PACKAGE, probe.name)] = probe.read_bytes()
    return content


def _archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(files().items()):
            entry = zipfile.ZipInfo(name, MOMENT)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, data)
    return out.getvalue()


@lru_cache(maxsize=1)
def contents() -> Dict[str, bytes]:
    """What is put into FOLDER on nodes: the program, and beside it NVML's Python bindings."""
    found = {PROGRAM: SHEBANG + _archive()}
    origin = _bindings()
    if origin is not None:
        found[BINDINGS] = Path(origin).read_bytes()
    return found


def _bindings() -> Optional[str]:
    """The controller's nvidia-ml-py; the planner says what to do where there is none."""
    try:
        found = importlib.util.find_spec("pynvml")
    except (ImportError, ValueError):
        return None
    return found.origin if found is not None and (found.origin or "").endswith(".py") else None


@lru_cache(maxsize=1)
def digests() -> Dict[str, str]:
    return {path: hashlib.sha256(data).hexdigest() for path, data in contents().items()}
