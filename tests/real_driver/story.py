"""One node from bare to installed to bare again; each step is done once, when a test first asks for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cmp_to_key
from pathlib import Path
from typing import Any

from gpuready import versions
from kit.fingerprint import Fingerprint
from kit.nodes import Node
from kit.runs import Player, Run, player

#: What a fingerprint cannot compare byte by byte: a real initramfs is another file each time it is made.
INITRAMFS = "for image in /boot/initrd.img-*; do lsinitramfs $image; done | sort"
#: A build takes two minutes on an idle machine and many more on a busy one.
PATIENCE = 3600


@dataclass
class Story:
    """A Debian node, its archive's snapshot, and what was done so far."""

    codename: str
    node: Node
    #: The kernel of the next boot: Debian's.
    kernel: str
    wishes: dict[str, Any]
    play: Player
    before: Fingerprint
    initramfs_before: str
    failed_units_before: str
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def begin(cls, codename: str, folder: Path, wishes: dict[str, Any]) -> Story:
        """A bare node; the snapshot is fetched first where it is not there."""
        from gpulab import realdriver

        started = time.monotonic()
        realdriver.fetch(codename)
        fetched = time.monotonic()
        made = realdriver.node_up(f"real-{realdriver.RELEASES[codename].version}", codename, ("a100",))
        node = Node(made.name, made.connection())
        kernel = node.sh("ls /boot | sed -n s/^vmlinuz-//p | sort -V | tail -n 1").strip()
        size = int(node.sh(f"stat -c %s /boot/vmlinuz-{kernel}"))
        assert size > 1_000_000, f"the next boot's kernel {kernel} is not Debian's: {size} bytes"
        variables = {"nvidia_driver_source": "debian", "host_reboot_allowed": False, **wishes}
        return cls(
            codename,
            node,
            kernel,
            variables,
            player(folder, [node]),
            node.fingerprint(),
            node.sh(INITRAMFS),
            node.sh("systemctl --failed --plain --no-legend"),
            {"fetch the snapshot": fetched - started, "make the node": time.monotonic() - fetched},
        )

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        """Remember how long it took."""
        started = time.monotonic()
        yield
        self.seconds[what] = time.monotonic() - started

    def look(self, **wishes: Any) -> dict[str, Any]:
        """Observe and plan; the report's document of the node."""
        run = self.play("playbooks/plan.yml", variables={**self.wishes, **wishes})
        return run.node(self.node.name)

    def apply(self, what: str, entry_point: str = "main", **wishes: Any) -> Run:
        """The role alone, by its playbook."""
        variables = {**self.wishes, **wishes, "role": "nvidia_driver", "entry_point": entry_point}
        with self.measure(what):
            return self.play("playbooks/role.yml", variables=variables, timeout=PATIENCE)

    def run(self, what: str, playbook: str, **wishes: Any) -> Run:
        """A whole playbook."""
        with self.measure(what):
            return self.play(playbook, variables={**self.wishes, **wishes}, timeout=PATIENCE)

    # --- what the node itself says -----------------------------------------------------------------------

    def version(self, package: str) -> str:
        """A package's installed version; '' = not installed."""
        script = f"dpkg-query -W -f '${{db:Status-Status}} ${{Version}}' {package} 2>/dev/null"
        status, _, version = self.node.sh(script, check=False).partition(" ")
        return version if status == "installed" else ""

    def offered(self, package: str) -> list[str]:
        """The versions in Debian's archive, the newest first."""
        from gpulab import realdriver

        newest_first = cmp_to_key(lambda one, other: versions.compare(other, one))
        return sorted(realdriver.versions(self.codename, package), key=newest_first)

    def module(self, kernel: str) -> dict[str, str]:
        """What modinfo says of the driver's module for a kernel; empty = there is none."""
        script = f"find /lib/modules/{kernel}/updates -name 'nvidia*.ko*' 2>/dev/null | sort"
        files = self.node.sh(script, check=False).split()
        for file in files:
            said = self.node.sh(f"modinfo {file}")
            split = (line.partition(":") for line in said.splitlines())
            fields = {key.strip(): value.strip() for key, _, value in split}
            if fields.get("name") == "nvidia":
                return fields
        return {}
