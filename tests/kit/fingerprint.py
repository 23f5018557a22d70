"""A node's state, in a form that two moments can be compared by.

A run that must not change anything leaves every section equal. What is removed again, or repaired, must leave
the node as it was before: then :meth:`Fingerprint.lasting` is compared, without what time alone changes
(process ids, the boot, the age of apt's lists).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

#: Mode, owner, path and (for a link) target of everything below; folders too, so that an empty one is seen.
LOOK = "find {paths} -printf '%M %u:%g %p %l\\n' 2>/dev/null | sort"
HASH = "find {paths} -type f -exec sha256sum {{}} + 2>/dev/null | sort -k 2"


def tree(*paths: str) -> str:
    """The probe of some folders: what is there and what is in it."""
    return "; ".join(command.format(paths=" ".join(paths)) for command in (LOOK, HASH))


UNITS = "'*docker*' '*containerd*' '*nvidia*' '*cdi*' '*gpuready*' '*node-exporter*' '*dcgm*'"
SERVICES = (
    "for unit in docker.service docker.socket containerd.service nvidia-persistenced.service "
    "nvidia-fabricmanager.service; "
    "do echo $unit $(systemctl show --property {properties} --value $unit); done"
)

#: What gpuready answers for: what a removal must restore.
LASTING = {
    "packages": r"dpkg-query -W -f '${binary:Package} ${Version} ${db:Status-Abbrev}\n'",
    "automatically installed": "apt-mark showauto | sort",
    "holds": "apt-mark showhold | sort",
    # Sources, keyrings, preferences and apt.conf.d.
    "apt": tree("/etc/apt", "/usr/share/keyrings"),
    "modprobe": tree("/etc/modprobe.d", "/lib/modprobe.d", "/etc/modules", "/etc/modules-load.d"),
    # Not when it was written, but what is in it: the simulated one is the same for the same content.
    "initramfs": "sha256sum /boot/initrd.img-* 2>/dev/null; ls /boot",
    "docker": tree("/etc/docker", "/etc/nvidia-container-runtime", "/etc/containerd"),
    "cdi": tree("/etc/cdi", "/var/run/cdi"),
    "settings": tree(
        "/etc/default", "/etc/systemd", "/etc/ld.so.conf.d", "/usr/local/bin", "/usr/local/sbin"
    ),
    "units": f"systemctl list-unit-files --no-legend {UNITS} | sort",
    "services": SERVICES.format(properties="ActiveState"),
    # Workbenches, environments, monitoring: what is theirs, and what they would leave lying around.
    "gpuready": (
        tree(
            "/etc/gpuready",
            "/usr/local/lib/gpuready",
            "/srv/gpuready",
            "/var/lib/prometheus",
            "/run/gpuready",
        )
        # Environments hold gigabytes: their names are enough.
        + "; "
        + LOOK.format(paths="/opt/gpuready")
    ),
    # Who gets in and becomes root, and by what.
    "access": tree("/etc/sudoers.d", "/etc/ssh/sshd_config.d")
    + "; passwd --status --all | awk '$2 != \"L\"'",
    "timers": "ls /var/lib/systemd/timers 2>/dev/null | grep -i gpuready; true",
    "accounts": "{ getent passwd; getent group; } | grep -i gpuready; true",
    "containers": "docker ps --all --no-trunc --format '{{.Names}} {{.Image}}' 2>/dev/null | sort; true",
    "records": tree("/var/lib/gpuready"),
    "driver": (
        "ls -d /sys/module/nvidia* /sys/module/nouveau /dev/nvidia* 2>/dev/null; "
        "cat /proc/driver/nvidia/version 2>/dev/null; "
        "find /lib/modules /var/lib/dkms /usr/src -iname '*nvidia*' 2>/dev/null | sort; "
        "ls /usr/lib/*-linux-gnu/libcuda.so* /usr/lib/*-linux-gnu/libnvidia-* 2>/dev/null"
    ),
    "images": (
        "docker image ls --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}' 2>/dev/null | sort; true"
    ),
}
#: What may change though gpuready has restored everything.
PASSING = {
    "package lists": "ls -l --time-style=+%s /var/lib/apt/lists 2>/dev/null | grep -v ' lock$\\| partial$'",
    "dates": (
        "find /etc/apt /etc/docker /etc/cdi /etc/modprobe.d /boot /var/lib/gpuready -type f "
        "-printf '%p %TY-%Tm-%TdT%TT\\n' 2>/dev/null | sort"
    ),
    "processes": SERVICES.format(properties="MainPID"),
    "boot": "cat /proc/sys/kernel/random/boot_id",
}
PROBES = {**LASTING, **PASSING}

MARK = "=== "


@dataclass(frozen=True)
class Fingerprint:
    """One moment of a node: lines by section."""

    sections: dict[str, tuple[str, ...]]

    def __getitem__(self, section: str) -> tuple[str, ...]:
        return self.sections[section]

    def lasting(self, *, but: Iterable[str] = ()) -> Fingerprint:
        """Without what time alone changes, and without the sections in ``but``."""
        kept = [name for name in LASTING if name not in set(but)]
        return Fingerprint({name: self.sections[name] for name in kept})

    def without(self, section: str, unwanted: Callable[[str], bool]) -> Fingerprint:
        """The same, but for some lines of a section."""
        lines = tuple(line for line in self.sections[section] if not unwanted(line))
        return Fingerprint({**self.sections, section: lines})

    def differences(self, after: Fingerprint) -> list[str]:
        """What is gone (-) and what is new (+), by section; empty when nothing changed."""
        assert list(self.sections) == list(after.sections), "fingerprints of different sections"
        return [
            f"{name}: {line}"
            for name, lines in self.sections.items()
            for line in difflib.ndiff(lines, after.sections[name])
            if line[:2] in ("- ", "+ ")
        ]


def read(output: str) -> Fingerprint:
    """The fingerprint out of what :data:`SCRIPT` printed."""
    sections: dict[str, list[str]] = {}
    name = ""
    for line in output.splitlines():
        if line.startswith(MARK) and line[len(MARK) :] in PROBES:
            name = line[len(MARK) :]
            sections[name] = []
        elif name and line.strip():
            sections[name].append(line.rstrip())
    if list(sections) != list(PROBES) or not sections["packages"] or not sections["boot"]:
        raise RuntimeError(f"the fingerprint is incomplete: {', '.join(sections)}")
    return Fingerprint({name: tuple(lines) for name, lines in sections.items()})


#: One connection: the probes are separated by a line that none of them prints.
SCRIPT = "export LC_ALL=C\n" + "\n".join(
    f"echo '{MARK}{name}'; {{ {probe}; }} 2>/dev/null || true" for name, probe in PROBES.items()
)


def take(ask: Callable[[str], str]) -> Fingerprint:
    """A node's fingerprint; ``ask`` runs a script on it as root and returns what it printed."""
    return read(ask(SCRIPT))
