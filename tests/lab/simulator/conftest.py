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

import binaries  # noqa: E402
from machine import Machine  # noqa: E402


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole build."""
    directory = tmp_path_factory.mktemp("simulator")
    command = [sys.executable, str(HERE / "build.py"), "--output", str(directory)]
    subprocess.run(command, check=True)
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
    binaries.generated_includes(base)
    binaries.build_program("nvidia-smi.c", base / "nvidia-smi", base)
    for name in ("libcuda", "libnvidia-ml"):
        binaries.build_library(name, base / name, base, str(machine_root))

    def of(version: str) -> Path:
        directory = base / version
        if not directory.exists():
            directory.mkdir()
            shutil.copy(base / "nvidia-smi", directory)
            for name in ("libcuda", "libnvidia-ml"):
                data = binaries.brand((base / name).read_bytes(), binaries.DRIVERS[version])
                (directory / f"{name}.so.1").write_bytes(data)
        return directory

    return of
