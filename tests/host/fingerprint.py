"""What gpuready could change on a node, in a form that two moments can be compared by.

It covers packages, holds, configuration, apt's sources and lists, units, modules, device nodes, boot and
Docker's images. A run that must not change anything must leave it equal.
"""

from __future__ import annotations

import difflib
from typing import Any

PROBES = {
    "packages": r"dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\n'",
    "holds": "apt-mark showhold",
    "configuration": (
        "find /etc/apt /etc/docker /etc/modprobe.d /etc/modules-load.d /etc/modules /etc/cdi /var/run/cdi "
        "/etc/nvidia-container-runtime /etc/systemd/system /etc/default /usr/share/keyrings "
        "/usr/local/bin /usr/local/sbin \\( -type f -o -type l \\) -exec stat -c '%A %U:%G %n -> %N' {} + "
        "2>/dev/null | sort; "
        "find /etc/apt /etc/docker /etc/modprobe.d /etc/modules-load.d /etc/modules /etc/cdi /var/run/cdi "
        "/etc/nvidia-container-runtime /etc/systemd/system /etc/default /usr/share/keyrings "
        "-type f -exec sha256sum {} + 2>/dev/null | sort"
    ),
    "package lists": "ls -l --time-style=+%s /var/lib/apt/lists 2>/dev/null | grep -v ' lock$\\| partial$'",
    "initramfs": "ls -l --time-style=+%s /boot 2>/dev/null",
    "units": "systemctl list-unit-files --no-legend '*docker*' '*containerd*' '*nvidia*' '*cdi*' | sort",
    "running": (
        "for u in docker.service docker.socket containerd.service nvidia-persistenced.service; do "
        "systemctl show --property Id,ActiveState,MainPID $u | tr '\\n' ' '; echo; done"
    ),
    "modules": "ls -d /sys/module/nvidia* /sys/module/nouveau /dev/nvidia* 2>/dev/null",
    "boot": "cat /proc/sys/kernel/random/boot_id",
    "images": "docker image ls --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}' | sort",
}


def fingerprint(host: Any) -> dict[str, str]:
    """Take the node's fingerprint, one text per subject."""
    # One connection: the probes are separated by a line that none of them prints.
    script = "\n".join(f"echo '=== {name}'; {{ {probe}; }} 2>/dev/null" for name, probe in PROBES.items())
    taken: dict[str, str] = {}
    name = ""
    for line in host.run(script).stdout.splitlines():
        if line.startswith("=== ") and line[4:] in PROBES:
            name = line[4:]
            taken[name] = ""
        else:
            taken[name] += f"{line}\n"
    assert list(taken) == list(PROBES), "the fingerprint is incomplete"
    assert taken["packages"] and taken["boot"], "the fingerprint saw nothing"
    return taken


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The lines that are no longer, or newly, there; empty when nothing changed."""
    return [
        f"{name}: {line}"
        for name in before
        for line in difflib.ndiff(before[name].splitlines(), after[name].splitlines())
        if line[:2] in ("- ", "+ ")
    ]
