"""Shared by the simulator's unit tests: they need gcc, no root, no lab."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import build  # noqa: E402
from machine import Machine  # noqa: E402


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole build, for a kernel of Ubuntu's naming."""
    directory = tmp_path_factory.mktemp("simulator")
    command = [sys.executable, str(HERE / "build.py"), "--output", str(directory)]
    subprocess.run([*command, "--kernel", "6.8.0-136-generic"], check=True)
    return directory


@pytest.fixture(scope="session")
def machine_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every test's machine lives: the libraries are compiled for one place, once."""
    return tmp_path_factory.mktemp("machine") / "root"


@pytest.fixture
def machine(machine_root: Path) -> Machine:
    """A new machine with one A100, not booted yet."""
    shutil.rmtree(machine_root, ignore_errors=True)
    return Machine(machine_root)


@pytest.fixture(scope="session")
def libraries(machine_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The user-space libraries and nvidia-smi of a driver version, looking at the machine's root."""
    base = tmp_path_factory.mktemp("libraries")
    build.generated_includes(base)
    build.build_program("nvidia-smi.c", base / "nvidia-smi", base)
    for name in ("libcuda", "libnvidia-ml"):
        build.build_library(name, base / name, base, str(machine_root))

    def of(version: str) -> Path:
        directory = base / version
        if not directory.exists():
            directory.mkdir()
            shutil.copy(base / "nvidia-smi", directory)
            for name in ("libcuda", "libnvidia-ml"):
                data = build.brand((base / name).read_bytes(), build.DRIVERS[version])
                (directory / f"{name}.so.1").write_bytes(data)
        return directory

    return of
