"""The program that goes to the nodes: whole, the same each time, and readable by the oldest Python there."""

from __future__ import annotations

import ast
import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from gpuready.health import build


def runs(path: str) -> bool:
    """pyenv leaves commands that only say that they are elsewhere."""
    return subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0


CANDIDATES = [shutil.which("python3.8"), *Path.home().glob(".pyenv/versions/3.8*/bin/python3")]
OLD_PYTHONS = [str(path) for path in CANDIDATES if path and runs(str(path))]


def archive() -> zipfile.ZipFile:
    data = build.contents()[build.PROGRAM]
    assert data.startswith(b"#!/usr/bin/python3 -IB\n")
    return zipfile.ZipFile(io.BytesIO(data))


def test_the_same_sources_make_the_same_bytes() -> None:
    assert build._archive() == build._archive()
    assert {entry.date_time for entry in archive().infolist()} == {build.MOMENT}
    assert {entry.compress_type for entry in archive().infolist()} == {zipfile.ZIP_STORED}


def test_it_holds_the_probes_and_not_the_controllers_part() -> None:
    names = archive().namelist()
    assert "gpuready/health/probes/tensorflow.py" in names
    assert "gpuready/health/build.py" not in names
    assert [name for name in names if "catalog" in name or "planner" in name or "draft" in name] == []


def test_it_needs_nothing_but_python_3_8() -> None:
    for name in archive().namelist():
        if name.endswith(".py") and "/probes/" not in name:
            ast.parse(archive().read(name), filename=name, feature_version=(3, 8))


def test_it_starts_from_anywhere(tmp_path: Path) -> None:
    program = tmp_path / "gpuready-health.pyz"
    program.write_bytes(build.contents()[build.PROGRAM])
    for python in [sys.executable, *OLD_PYTHONS[:1]]:
        told = subprocess.run(
            [python, "-IB", program, "check", "--config", tmp_path / "none.json"],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert told.returncode == 1
        assert (
            told.stderr
            == f"gpuready-health: {tmp_path}/none.json is not there: run site.yml, which writes it\n"
        )


@pytest.mark.skipif(not OLD_PYTHONS, reason="there is no Python 3.8 on this machine")
def test_every_module_of_it_is_importable_with_python_3_8(tmp_path: Path) -> None:
    program = tmp_path / "gpuready-health.pyz"
    program.write_bytes(build.contents()[build.PROGRAM])
    modules = [
        name[:-3].replace("/", ".").replace(".__init__", "")
        for name in archive().namelist()
        if name.endswith(".py") and "/probes/" not in name and name != "__main__.py"
    ]
    script = f"import sys, importlib; sys.path.insert(0, {str(program)!r})\n"
    script += "".join(f"importlib.import_module({name!r})\n" for name in modules)
    subprocess.run([OLD_PYTHONS[0], "-IB", "-c", script], check=True, timeout=60)


def test_bindings_of_the_controller_go_along() -> None:
    assert b"def nvmlInit" in build.contents()[build.BINDINGS]
    assert set(build.digests()) == {build.PROGRAM, build.BINDINGS} == set(build.MODES)
