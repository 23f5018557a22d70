"""A machine made of a temporary folder, recorded command output and recorded Engine answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from gpuready.observe.node import DockerError, MissingTool, Node, Result


class Machine:
    """What a test describes; `node` is what the probes see of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands: dict[str, Any] = {}
        self.api: dict[str, Any] = {}
        self.asked: list[list[str]] = []
        self.now = 1_790_000_000.0
        self.uid = 0

    def write(self, path: str, data: str | bytes = "", mode: int | None = None) -> Path:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data.encode() if isinstance(data, str) else data)
        if mode is not None:
            target.chmod(mode)
        return target

    def program(self, path: str) -> Path:
        return self.write(path, "#!/bin/sh\n", 0o755)

    def mkdir(self, path: str) -> Path:
        target = self.root / path.lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        return target

    def link(self, path: str, target: str) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def answer(self, command: str, out: str = "", err: str = "", rc: int = 0) -> None:
        """What a command says; the longest matching beginning of its command line wins."""
        self.commands[command] = Result(rc, out, err)

    def fail(self, command: str, error: Exception) -> None:
        self.commands[command] = error

    def _run(self, argv: Sequence[str]) -> Result:
        self.asked.append(list(argv))
        line = " ".join(argv)
        for command in sorted(self.commands, key=len, reverse=True):
            if line == command or line.startswith(command + " "):
                found = self.commands[command]
                if isinstance(found, Exception):
                    raise found
                return found
        raise MissingTool(f"{argv[0]} is not installed")

    def _docker(self, sock: str, path: str) -> Any:
        if not self.api:
            raise DockerError(f"Docker Engine at {sock}: No such file or directory")
        if path not in self.api:
            raise DockerError(f"Docker Engine at {sock}: no such thing: {path}")
        found = self.api[path]
        if isinstance(found, Exception):
            raise found
        return found

    @property
    def node(self) -> Node:
        return Node(
            str(self.root),
            run=self._run,
            docker=self._docker,
            timeout=2,
            now=lambda: self.now,
            uid=self.uid,
        )

    def process(self, pid: int, name: str, *files: str, cgroup: str = "/") -> None:
        """A running process and what it holds open."""
        self.write(f"/proc/{pid}/comm", name + "\n")
        self.write(f"/proc/{pid}/cgroup", f"0::{cgroup}\n")
        self.mkdir(f"/proc/{pid}/fd")
        for number, path in enumerate(files):
            self.link(f"/proc/{pid}/fd/{number}", path)

    def module(self, name: str, refcnt: str | None = "0", holders: Sequence[str] = ()) -> None:
        """A loaded kernel module."""
        self.mkdir(f"/sys/module/{name}/holders")
        if refcnt is not None:
            self.write(f"/sys/module/{name}/refcnt", refcnt + "\n")
        for holder in holders:
            self.link(f"/sys/module/{name}/holders/{holder}", f"../../{holder}")

    def pci(self, address: str, **files: str) -> None:
        base = f"/sys/bus/pci/devices/{address}/"
        driver = files.pop("driver", None)
        for name, value in files.items():
            self.write(base + name, value + "\n")
        if driver:
            self.link(base + "driver", f"../../../../bus/pci/drivers/{driver}")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    root = tmp_path / "root"
    root.mkdir()
    return Machine(root)


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a file refuse to be read, which root's tests cannot do with a mode."""
    real_open = open

    def forbid(path: str) -> None:
        def refusing(name: Any, *arguments: Any, **options: Any) -> Any:
            if str(name).endswith(path):
                raise PermissionError(13, os.strerror(13), path)
            return real_open(name, *arguments, **options)

        monkeypatch.setattr("builtins.open", refusing)

    return forbid
