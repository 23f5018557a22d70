"""Nodes: containers that boot systemd and sshd, bare of Docker and driver, like fresh machines."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import tarfile
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import keys, machine, mirror, rootfs, settings, simulator
from .engine import Docker
from .errors import LabError
from .settings import NodeOs, NodeSpec

#: What a node's root file system starts with: what a fresh Ubuntu server has, as far as it matters here.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "python3",
    "python3-apt",
    "openssh-server",
    "iproute2",
    "iptables",
    "ca-certificates",
    "sudo",
    "kmod",
    "procps",
    "curl",
    "gpg",
    "gpgv",
    "lsb-release",
    "unattended-upgrades",
)

HARDWARE = "/etc/gpulab/hardware.json"
HARDWARE_TOOL = "/usr/lib/gpulab/hardware"
BOOT_SECONDS = 60

#: Taken from the measured recipe: all that systemd and a nested Docker Engine need, without --privileged.
RUN_FLAGS = (
    "--cap-add=ALL",
    "--cap-drop=SYS_RESOURCE",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
    "--device-cgroup-rule=a *:* rwm",
    "--tmpfs=/run:exec,mode=755",
    "--tmpfs=/tmp:exec,mode=1777",
    "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
    "--cgroupns=host",
    "--stop-signal=SIGRTMIN+3",
    # `reboot` in the node ends the container; this is its power switch.
    "--restart=always",
    # Names of the lab resolve; anything else fails soon instead of leaking to the machine's resolver.
    "--dns=240.0.0.1",
    "--dns-option=timeout:1",
    "--dns-option=attempts:1",
    "--dns-option=ndots:0",
    "--env=container=docker",
)


@dataclass(frozen=True)
class Node:
    """A node that exists."""

    name: str
    os: str
    port: int
    running: bool
    #: Content of the image it was made of.
    image: str = ""

    def connection(self) -> dict[str, Any]:
        """How to reach it, in the terms of molecule's instance_config and of an inventory."""
        ssh = settings.dot_lab() / "ssh"
        return {
            "name": self.name,
            "host": "127.0.0.1",
            "port": self.port,
            "user": settings.USER,
            "os": self.os,
            "identity_file": str(ssh / "id_ed25519"),
            "known_hosts": str(ssh / "known_hosts"),
            "running": self.running,
        }


def full_name(name: str) -> str:
    """The container's name: always with the lab's prefix."""
    name = name if name.startswith(f"{settings.PREFIX}-") else f"{settings.PREFIX}-{name}"
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])", name):
        raise LabError(
            f"{name!r} cannot be a host name: use lower-case letters, digits and hyphens, at most 52 in all"
        )
    if name in {settings.MIRROR, settings.REGISTRY}:
        raise LabError(f"{name} is one of the lab's own services, not a node")
    return name


def lookup_os(key: str) -> NodeOs:
    """The operating system of that name."""
    if key not in settings.OSES:
        raise LabError(f"unknown operating system {key!r} (--os): the lab has {', '.join(settings.OSES)}")
    return settings.OSES[key]


def suite_of(host: machine.Machine, os_: NodeOs) -> str:
    """The release a node is really made of: itself where the machine has it, else a stand-in."""
    return os_.made_of[host.distribution]


def archive_keyring(os_: NodeOs) -> str:
    """Where a node has its distribution's key."""
    return f"/usr/share/keyrings/gpulab-{os_.distribution}-archive-keyring.gpg"


def recipe(suite: str, download: tuple[str, ...]) -> rootfs.Recipe:
    """The base of all nodes of a release."""
    components = ("main", "universe") if suite in {"focal", "jammy", "noble"} else ("main",)
    return rootfs.Recipe(
        suite=suite,
        components=components,
        packages=PACKAGES,
        download=download,
        hooks=(
            f'chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash {settings.USER}',
            'rm -f "$1"/etc/motd "$1"/etc/update-motd.d/*',
            # Ubuntu's server images leave these off; they only slow a container's boot down.
            'chroot "$1" systemctl mask --quiet getty.target console-getty.service systemd-resolved.service',
        ),
    )


def base_image(suite: str) -> str:
    """The image of a release's packages."""
    return f"{settings.PREFIX}-base:{suite}"


def node_image(os_: NodeOs) -> str:
    """The base with the lab's and the simulator's files, the release's identity, and its kernel."""
    return f"{settings.PREFIX}-node:{os_.key}"


#: Where the kernel's packages lie while the image is made.
KERNEL_DEBS = "/var/cache/gpulab-kernel"


def ensure_image(docker: Docker, os_: NodeOs, suite: str, simulated: Path) -> str:
    """The node image of an operating system, made new when its files changed."""
    trees = [simulated / "node", settings.SOURCE / "files" / "node"]
    files = identity_files(os_, suite)
    debs = simulator.kernel_debs(os_)
    files |= {f"{KERNEL_DEBS}/{deb.name}".lstrip("/"): (0o644, deb.read_bytes()) for deb in debs}
    archive = rootfs.overlay(trees, files)
    digest = rootfs.digest_of(
        rootfs.base_digest(docker, base_image(suite)),
        *(rootfs.digest_tree(tree) for tree in trees),
        hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest(),
        IMAGE,
    )
    changes = ('CMD ["/usr/local/lib/gpulab/init"]',)
    script = f"dpkg --install {KERNEL_DEBS}/*.deb && rm -r {KERNEL_DEBS}"
    return rootfs.ensure_layered(docker, node_image(os_), base_image(suite), archive, digest, changes, script)


#: Raise it when this file makes something else of the same files.
IMAGE = 1


#: A node's fields in one `docker container ls`: a second question could find a node gone that was listed.
LISTED = (
    ".State",
    ".Names",
    *(f'.Label "{label}"' for label in (settings.LABEL_OS, settings.LABEL_PORT, settings.LABEL_HASH)),
)


def all_nodes(docker: Docker) -> list[Node]:
    """Every node of the lab, running or not."""
    text = docker.out(
        "container",
        "ls",
        "--all",
        "--no-trunc",
        "--format",
        "\t".join(f"{{{{{field}}}}}" for field in LISTED),
        "--filter",
        f"label={settings.LABEL}=1",
        "--filter",
        f"label={settings.LABEL_ROLE}=node",
    )
    nodes = []
    for line in text.splitlines():
        state, name, os_, port, image = [*line.split("\t"), ""][: len(LISTED)]
        if name:  # what is being removed may have lost it already
            nodes.append(Node(name, os_, int(port), state == "running", image))
    return sorted(nodes, key=lambda node: node.port)


def find(docker: Docker, name: str) -> Node | None:
    """A node by its full name."""
    return next((node for node in all_nodes(docker) if node.name == name), None)


def require(docker: Docker, name: str) -> Node:
    """A node that must exist."""
    name = full_name(name)
    nodes = all_nodes(docker)
    for node in nodes:
        if node.name == name:
            return node
    raise LabError(f"there is no node {name}; the lab has {', '.join(node.name for node in nodes) or 'none'}")


def port_is_free(port: int) -> bool:
    """Nobody listens on that port of loopback."""
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def pick_port(wanted: int | None, taken: Iterable[int], *, any_port: bool = False) -> int:
    """The wanted port, or the first free one that is no default node's; `any_port`: a preference."""
    used = set(taken)
    if wanted is not None:
        if wanted not in used and port_is_free(wanted):
            return wanted
        if not any_port:
            raise LabError(
                f"port 127.0.0.1:{wanted} is taken: choose another one (--port) or stop what listens there"
            )
    used |= {node.port for node in settings.DEFAULT_NODES if node.port}
    for port in settings.PORTS:
        if port not in used and port_is_free(port):
            return port
    raise LabError(f"no free port on 127.0.0.1 from {settings.PORTS.start} to {settings.PORTS.stop - 1}")


def identity_files(os_: NodeOs, suite: str) -> dict[str, tuple[int, bytes] | str]:
    """What makes a stand-in look like the release it plays."""
    if suite == os_.codename:
        return {}
    if os_.distribution == "debian":
        release = (
            f'PRETTY_NAME="{os_.pretty_name}"\nNAME="Debian GNU/Linux"\nVERSION_ID="{os_.version_id}"\n'
            f'VERSION="{os_.version_id} ({os_.codename})"\nVERSION_CODENAME={os_.codename}\nID=debian\n'
        )
        return {
            "usr/lib/os-release": (0o644, release.encode()),
            "etc/debian_version": (0o644, f"{os_.version_id}.0\n".encode()),
        }
    release = (
        f'PRETTY_NAME="{os_.pretty_name}"\nNAME="Ubuntu"\nVERSION_ID="{os_.version_id}"\n'
        f'VERSION="{os_.version_id} LTS ({os_.codename.title()})"\nVERSION_CODENAME={os_.codename}\n'
        f"ID=ubuntu\nID_LIKE=debian\n"
        f"UBUNTU_CODENAME={os_.codename}\nLOGO=ubuntu-logo\n"
    )
    lsb = (
        f"DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE={os_.version_id}\nDISTRIB_CODENAME={os_.codename}\n"
        f'DISTRIB_DESCRIPTION="{os_.pretty_name}"\n'
    )
    debian_version = {
        "focal": "bullseye/sid",
        "jammy": "bookworm/sid",
        "noble": "trixie/sid",
        "resolute": "forky/sid",
    }[os_.codename]
    return {
        "usr/lib/os-release": (0o644, release.encode()),
        "etc/lsb-release": (0o644, lsb.encode()),
        "etc/debian_version": (0o644, f"{debian_version}\n".encode()),
        "etc/dpkg/origins/ubuntu": (
            0o644,
            b"Vendor: Ubuntu\nVendor-URL: https://www.ubuntu.com/\nParent: debian\n",
        ),
        "etc/dpkg/origins/default": "ubuntu",
        "etc/apt/apt.conf.d/50unattended-upgrades": (0o644, UNATTENDED_UPGRADES.encode()),
    }


UNATTENDED_UPGRADES = """\
// As Ubuntu ships it, without its comments.
Unattended-Upgrade::Allowed-Origins {
    "${distro_id}:${distro_codename}";
    "${distro_id}:${distro_codename}-security";
    "${distro_id}ESMApps:${distro_codename}-apps-security";
    "${distro_id}ESM:${distro_codename}-infra-security";
};
Unattended-Upgrade::Package-Blacklist {
};
Unattended-Upgrade::DevRelease "auto";
"""


def node_files(
    name: str, os_: NodeOs, suite: str, hardware: dict[str, Any]
) -> dict[str, tuple[int, bytes] | str]:
    """What tells one node from another."""
    key = keys.host_key(name)
    simulated = {
        "simulated": ["NVIDIA GPU", "NVIDIA driver", "NVIDIA Container Toolkit"],
        "identity": os_.pretty_name,
        "made_of": suite,
        "note": "A node of gpuready's lab. Nothing reads this file; the inventory says gpuready_simulated.",
    }
    files: dict[str, tuple[int, bytes] | str] = {
        "etc/machine-id": (0o444, f"{uuid.uuid4().hex}\n".encode()),
        "etc/ssh/ssh_host_ed25519_key": (0o600, key.read_bytes()),
        "etc/ssh/ssh_host_ed25519_key.pub": (0o644, key.with_suffix(".pub").read_bytes()),
        "etc/ssh/gpulab_authorized_keys": (0o644, keys.user_key().with_suffix(".pub").read_bytes()),
        "etc/gpulab/simulated.json": (0o644, (json.dumps(simulated, indent=2) + "\n").encode()),
        HARDWARE.lstrip("/"): (0o644, (json.dumps(hardware, indent=2) + "\n").encode()),
    }
    files[f"etc/apt/sources.list.d/{os_.distribution}.sources"] = (0o644, apt_sources(os_).encode())
    # A node without it would have no archive at all.
    files[archive_keyring(os_).lstrip("/")] = (0o644, mirror.keyring(os_.distribution).read_bytes())
    return files


def apt_sources(os_: NodeOs) -> str:
    """The distribution's archives, as a fresh system has them: on Debian without NVIDIA's components."""
    suites = {os_.distribution: os_.codename}
    if os_.distribution == "debian":
        suites["debian-security"] = f"{os_.codename}-security"
    return "\n".join(
        f"Types: deb\nURIs: http://{settings.MIRROR}/{archive}\nSuites: {suite}\n"
        f"Components: {' '.join(os_.components)}\nSigned-By: {archive_keyring(os_)}\n"
        for archive, suite in suites.items()
    )


#: From choosing a port until the container that takes it exists.
_allocation = threading.Lock()


def create(
    docker: Docker, host: machine.Machine, spec: NodeSpec, hardware: dict[str, Any], *, any_port: bool = False
) -> Node:
    """Make a bare node that has not booted yet; an existing one of that name is replaced."""
    os_ = lookup_os(spec.os)
    suite = suite_of(host, os_)
    image = rootfs.base_digest(docker, node_image(os_))
    remove(docker, spec.name)
    volume = f"{spec.name}-docker"
    docker.out("volume", "create", "--label", f"{settings.LABEL}=1", volume)
    with _allocation:
        port = pick_port(spec.port, (node.port for node in all_nodes(docker)), any_port=any_port)
        labels = {
            settings.LABEL: "1",
            settings.LABEL_ROLE: "node",
            settings.LABEL_OS: spec.os,
            settings.LABEL_PORT: str(port),
            settings.LABEL_HASH: image,
        }
        docker.out(
            "create",
            f"--name={spec.name}",
            f"--hostname={spec.name}",
            f"--network={settings.NETWORK}",
            f"--publish=127.0.0.1:{port}:22",
            *RUN_FLAGS,
            # A real modprobe must not reach the kernel of this machine.
            *(["--cap-drop=SYS_MODULE"] if hardware.get("kernel_tools") == "real" else []),
            f"--volume={volume}:/var/lib/docker",
            *(f"--label={key}={value}" for key, value in labels.items()),
            node_image(os_),
            what=f"creating {spec.name}",
        )
    rootfs.copy_in(docker, spec.name, rootfs.overlay([], node_files(spec.name, os_, suite, hardware)))
    return Node(spec.name, spec.os, port, running=False, image=image)


def boot_new(docker: Docker, node: Node) -> None:
    """A new node's first boot."""
    start(docker, node.name, node.port, bare=True)
    # As cloud-init leaves a new machine: the package lists are there.
    what = f"fetching the package lists on {node.name}"
    docker.out("exec", node.name, "apt-get", "--quiet", "update", what=what)


def start(docker: Docker, name: str, port: int, *, bare: bool = False) -> None:
    """Start a node's container and wait for its boot and its SSH server; on a bare node no unit may fail."""
    docker.out("start", name, what=f"starting {name}")
    wait_booted(docker, name, bare=bare)
    wait_ssh(port, name)


def wait_booted(docker: Docker, name: str, *, bare: bool) -> None:
    """Until systemd has started everything; a unit that failed on a bare node is named."""
    deadline = time.monotonic() + BOOT_SECONDS
    state = ""
    while time.monotonic() < deadline:
        done = subprocess.run(
            ["docker", "exec", name, "systemctl", "is-system-running"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **docker.env},
        )
        state = done.stdout.strip()
        if state == "running" or (state == "degraded" and not bare):
            return
        if state == "degraded":
            failed = docker.ask("exec", name, "systemctl", "--failed", "--plain", "--no-legend")
            log = docker.ask("exec", name, "journalctl", "--no-pager", "--lines=15", "--priority=4")
            hint = inotify_hint(log or "")
            raise LabError(f"{name} booted with failed units:\n{failed}\n{log}{hint}")
        time.sleep(0.2)
    raise LabError(
        f"{name} did not boot within {BOOT_SECONDS} s (systemd says {state or 'nothing'}): "
        f"see `labctl node-exec {name} -- journalctl`"
    )


def inotify_hint(log: str) -> str:
    """What to do when the machine has no inotify instance left for one more node."""
    if "Too many open files" not in log and "inotify" not in log:
        return ""
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    return (
        f"\nEach node takes about six inotify instances, and root has {limit.read_text().strip()} here: take "
        "nodes down that you do not need (labctl node-down), or raise fs.inotify.max_user_instances"
    )


def wait_ssh(port: int, name: str, seconds: float = 20) -> None:
    """Until the node's SSH server answers through the published port."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as probe:
            probe.settimeout(2)
            if probe.recv(4) == b"SSH-":
                return
        time.sleep(0.1)
    raise LabError(f"{name} runs, but no SSH server answers on 127.0.0.1:{port}")


def remove(docker: Docker, name: str) -> bool:
    """Remove a node with its data; True if it was there. A container of somebody else is left alone."""
    found = docker.inspect("container", name)
    if found is not None:
        if settings.LABEL not in (found["Config"].get("Labels") or {}):
            raise LabError(f"a container {name} exists that the lab did not make: rename or remove it")
        docker.out("rm", "--force", "--volumes", name)
    volume = docker.inspect("volume", f"{name}-docker")
    if volume is not None and settings.LABEL in (volume.get("Labels") or {}):
        docker.out("volume", "rm", "--force", f"{name}-docker")
    return found is not None


def hardware_profile(
    os_key: str, gpus: Iterable[str], profile: Path | None, *, nvswitches: int = 0
) -> dict[str, Any]:
    """A node's hardware: from a file, or one GPU after the other by model."""
    if profile is not None:
        try:
            data = json.loads(profile.read_text())
        except FileNotFoundError as error:
            raise LabError(f"no hardware profile {profile} (--profile)") from error
        except json.JSONDecodeError as error:
            raise LabError(f"{profile} (--profile) is not valid JSON: {error}") from error
        if not isinstance(data, dict):
            raise LabError(f"{profile} (--profile) must hold a JSON object, not a {type(data).__name__}")
        return {**data, "os": os_key}
    known = simulator.models()
    wanted = [gpu for gpu in gpus if gpu]
    unknown = [gpu for gpu in wanted if gpu not in known]
    if unknown:
        raise LabError(
            f"unknown GPU model {unknown[0]!r} (--gpus): the simulator has {', '.join(sorted(known))}"
        )
    return {
        "gpus": [
            {"pci": f"0000:{0x3B + 0x10 * index:02x}:00.0", "model": gpu} for index, gpu in enumerate(wanted)
        ],
        **({"nvswitches": nvswitches} if nvswitches else {}),
        "faults": {},
        "os": os_key,
    }


def parse_faults(pairs: Iterable[str]) -> dict[str, Any]:
    """key=value … of the command line; values are JSON, and null takes a fault away."""
    faults: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not re.fullmatch(r"[a-z_]+", key):
            raise LabError(
                f"{pair!r} is not key=value (a fault is set like gpu_off_bus=true, taken away with =null)"
            )
        try:
            faults[key] = json.loads(value)
        except json.JSONDecodeError:
            faults[key] = value
    return faults


def set_faults(docker: Docker, node: Node, faults: dict[str, Any]) -> dict[str, Any]:
    """Change a running node's hardware; on the simulator's refusal the profile stays as it was."""
    before = read_file(docker, node.name, HARDWARE)
    profile = json.loads(before)
    merged = {**profile.get("faults", {}), **faults}
    profile["faults"] = {key: value for key, value in merged.items() if value is not None}

    def write(text: str) -> None:
        rootfs.copy_in(docker, node.name, rootfs.overlay([], {HARDWARE.lstrip("/"): (0o644, text.encode())}))

    write(json.dumps(profile, indent=2) + "\n")
    try:
        docker.out("exec", node.name, HARDWARE_TOOL, "apply", what=f"changing the hardware of {node.name}")
    except LabError:
        write(before)
        raise
    return profile


def read_file(docker: Docker, container: str, path: str) -> str:
    """A file of a container, running or not."""
    done = subprocess.run(
        ["docker", "cp", f"{container}:{path}", "-"],
        capture_output=True,
        check=False,
        env={**os.environ, **docker.env},
    )
    if done.returncode:
        raise LabError(f"reading {path} of {container}: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        member = archive.extractfile(archive.getmembers()[0])
        assert member is not None
        return member.read().decode()
