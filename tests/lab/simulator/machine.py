"""A simulated machine in a directory, for the unit tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import binaries
import parts

HERE = Path(__file__).resolve().parent
KERNEL = os.uname().release


class Machine:
    """Simulated hardware in a directory instead of /: no mounts, plain files as device nodes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.program = HERE / "node/usr/lib/gpulab/hardware"
        local = root / "usr/lib/gpulab"
        local.mkdir(parents=True)
        # The program finds its models beside itself, as in a node.
        shutil.copy(self.program, local / "hardware")
        shutil.copy(HERE / "models.json", local / "models.json")
        (local / "nouveau.ko").write_bytes(
            binaries.build_module("nouveau", None, "nouveau", binaries.ANY_KERNEL) + binaries.signature()
        )
        self.profile: dict[str, Any] = {"gpus": [{"pci": "0000:3b:00.0", "model": "a100"}], "faults": {}}
        (root / "lib/modules" / KERNEL).mkdir(parents=True)
        (root / "boot").mkdir()
        (root / "dev").mkdir()

    def run(self, *arguments: str) -> SimpleNamespace:
        """One call of the hardware program."""
        path = self.root / "etc/gpulab/hardware.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.profile))
        done = subprocess.run(
            [sys.executable, self.root / "usr/lib/gpulab/hardware", *arguments],
            env={**os.environ, "GPULAB_ROOT": str(self.root)},
            capture_output=True,
            text=True,
            check=False,
        )
        return SimpleNamespace(rc=done.returncode, out=done.stdout, err=done.stderr)

    def boot(self, **faults: Any) -> None:
        """A boot: what was in memory is gone."""
        if faults:
            self.profile["faults"].update(faults)
        for name in ("run", "proc", "sys", "dev"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        (self.root / "dev").mkdir()
        done = self.run("boot")
        assert done.rc == 0, done.err

    def install(
        self, version: str = "580.95.05", flavour: str = "open", *, signed: bool = True, udev: bool = True
    ) -> None:
        """The driver's modules on disk, as the packages leave them."""
        directory = self.root / "lib/modules" / KERNEL / "kernel" / f"nvidia-{version}"
        directory.mkdir(parents=True, exist_ok=True)
        for name in parts.MODULE_NAMES:
            data = binaries.build_module(name, binaries.DRIVERS[version], flavour, KERNEL)
            (directory / f"{name}.ko").write_bytes(data + (binaries.signature() if signed else b""))
        modules = self.root / "lib/modules" / KERNEL
        found = sorted(path.relative_to(modules) for path in modules.rglob("*.ko"))
        # The newest driver wins, as there is only one in a real tree.
        unique = {path.name: path for path in sorted(found, key=lambda path: path.parts[1] == directory.name)}
        (modules / "modules.dep").write_text("".join(f"{path}:\n" for path in unique.values()))
        if udev:
            self.write("lib/udev/rules.d/71-nvidia.rules", parts.UDEV_RULES)

    def write(self, path: str, text: str) -> None:
        """A file of the machine."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def read(self, path: str) -> str:
        """A file of the machine, or '' when it is not there."""
        target = self.root / path
        return target.read_text() if target.exists() else ""

    def driver_of(self, address: str = "0000:3b:00.0") -> str | None:
        """Which driver the PCI device is bound to."""
        link = self.root / "sys/bus/pci/devices" / address / "driver"
        return link.readlink().name if link.is_symlink() else None
