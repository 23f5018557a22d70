"""Debian nodes for NVIDIA's real driver: a snapshot of Debian's real archives, and nodes that use it.

Real: every package, byte for byte, with the archive's own index entries and paths; apt, dpkg, DKMS, the
compiler, Debian's kernels and headers, modprobe, update-initramfs. Simulated: the GPU on the node's PCI bus;
the name of the kernel that runs (a node runs on this machine's); and the snapshot's signature (the lab's key,
because it signs only the part of the archive that was fetched).
"""

from __future__ import annotations

import functools
import gzip
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import keys, lab, machine, mirror, nodes, rootfs, services, settings, simulator, trees
from .engine import Docker
from .errors import LabError
from .settings import NodeSpec
from .shell import output, run

#: Raise it when this file lays the snapshot out differently.
LAYOUT = 1
KEY = "debian-snapshot"
SERVER = f"{settings.PREFIX}-debian"
KEYRING = "/usr/share/keyrings/gpulab-debian-archive-keyring.gpg"
#: The driver as a compute node wants it, and `nvidia-driver`: with it in the archive, a role that let
#: recommended packages in would really get X.
DRIVER = (
    "nvidia-kernel-dkms",
    "nvidia-smi",
    "libcuda1",
    "libnvidia-ml1",
    "libnvidia-cfg1",
    "libnvidia-encode1",
    "libnvcuvid1",
    "libnvidia-ptxjitcompiler1",
    "nvidia-opencl-icd",
    "nvidia-driver-bin",
    "nvidia-persistenced",
    "nvidia-modprobe",
    "nvidia-driver",
)
KERNEL = ("linux-image-cloud-amd64", "linux-headers-cloud-amd64", "dkms")
#: What every package of the driver's source packages matches; for pinning a whole version of it.
FAMILY = ("src:nvidia-graphics-drivers", "src:nvidia-open-gpu-kernel-modules", "src:firmware-nvidia-gsp")


@dataclass(frozen=True)
class Wanted:
    """Packages that can be installed together."""

    packages: tuple[str, ...]
    #: Source packages that come from one suite, whatever is newer elsewhere.
    pinned: tuple[str, ...] = ()
    suite: str = ""


@dataclass(frozen=True)
class Release:
    """A Debian release: what of it is fetched."""

    os: str
    version: str
    components: tuple[str, ...]
    #: What is fetched, each set with all it depends on.
    sets: tuple[Wanted, ...]


RELEASES: dict[str, Release] = {
    "bullseye": Release(
        "debian-11",
        "11",
        ("main", "contrib", "non-free"),
        # Of what the security archive offers for this old release, its pool has lost a part.
        (
            Wanted(
                DRIVER + KERNEL,
                (*FAMILY, "src:nvidia-modprobe", "src:linux", "src:linux-signed-amd64"),
                "bullseye",
            ),
        ),
    ),
    "bookworm": Release(
        "debian-12",
        "12",
        ("main", "contrib", "non-free", "non-free-firmware"),
        # The security team's driver is newer; the open modules exist in the release's own version only.
        # Where only contrib and non-free of the release are enabled, theirs must do for themselves.
        (Wanted(DRIVER + KERNEL), Wanted((*DRIVER, "nvidia-open-kernel-dkms"), ("*",), "bookworm")),
    ),
    "trixie": Release(
        "debian-13",
        "13",
        ("main", "contrib", "non-free", "non-free-firmware"),
        # Two kernels: the module does not build for each of them.
        (
            Wanted((*DRIVER, "nvidia-open-kernel-dkms", *KERNEL)),
            Wanted(KERNEL, ("src:linux", "src:linux-signed-amd64"), "trixie"),
        ),
    ),
}


def suites(codename: str) -> dict[str, tuple[str, ...]]:
    """archive → its suites of a release."""
    return {"debian": (codename, f"{codename}-updates"), "debian-security": (f"{codename}-security",)}


def home() -> Path:
    """Snapshot, its apt roots and what they downloaded: a cache, kept by `down`, removed by `clean`."""
    path = settings.home() / "cache" / "real-driver"
    path.mkdir(parents=True, exist_ok=True)
    return path


# --- fetching -----------------------------------------------------------------------------------------------


@functools.cache
def archives() -> dict[str, str]:
    """Debian's archive and that of its security team, where this machine's own apt has them."""
    host = machine.check()
    found = machine.archive_uris(host) if host.distribution == "debian" else None
    if found is None:
        raise LabError(
            "the real driver comes from Debian's archive, and this machine's apt sources name none: "
            "run it on a Debian machine"
        )
    return dict(zip(("debian", "debian-security"), found, strict=True))


class AptRoot:
    """An apt of its own for one release: nothing is installed in it, so every dependency counts."""

    def __init__(self, codename: str) -> None:
        self.codename = codename
        self.release = RELEASES[codename]
        self.root = home() / f"apt-{codename}"
        self.debs = self.root / "cache" / "archives"

    def prepare(self) -> None:
        """Its directories, sources and settings."""
        keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
        if not keyring.exists():
            machine.install(["debian-archive-keyring"])
        for name in ("state/lists/partial", "cache/archives/partial", "etc/preferences.d", "etc/apt.conf.d"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "status").touch()
        components = " ".join(self.release.components)
        lines = [
            f"deb [arch=amd64 signed-by={keyring}] {archives()[archive]} {suite} {components}\n"
            for archive, names in suites(self.codename).items()
            for suite in names
        ]
        (self.root / "etc" / "sources.list").write_text("".join(lines))
        options = {
            "Dir::State": self.root / "state",
            "Dir::State::status": self.root / "status",
            "Dir::Cache": self.root / "cache",
            "Dir::Etc": self.root / "etc",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "APT::Get::Assume-Yes": "true",
            "Acquire::Languages": "none",
            "Acquire::GzipIndexes": "false",
            "Acquire::Retries": "3",
            "Debug::NoLocking": "true",
        }
        text = "".join(f'{name} "{value}";\n' for name, value in options.items())
        text += "".join(f"{option};\n" for option in machine.apt_options())
        (self.root / "apt.conf").write_text(text)

    @property
    def env(self) -> dict[str, str]:
        """What makes an apt command use this root."""
        return {"APT_CONFIG": str(self.root / "apt.conf")}

    def update(self) -> None:
        """Fetch the lists."""
        run(["apt-get", "--quiet", "update"], what=f"fetching Debian's {self.codename} lists", env=self.env)

    def download(self, wanted: Wanted) -> None:
        """Fetch packages with all they depend on, and what the other roles install."""
        packages = (*wanted.packages, *mirror.downloads(self.codename))
        pin = f"Package: {' '.join(wanted.pinned)}\nPin: release n={wanted.suite}\nPin-Priority: 1001\n"
        (self.root / "etc" / "preferences").write_text(pin if wanted.pinned else "")
        run(
            ["apt-get", "--quiet", "--download-only", "install", *packages],
            what=f"fetching NVIDIA's driver for Debian's {self.codename}",
            env=self.env,
        )

    def indexes(self) -> Iterator[tuple[str, str, str, str]]:
        """(archive, suite, component, text) of every fetched index of packages."""
        listing = output(
            [
                "apt-get",
                "indextargets",
                "--format",
                "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(FILENAME)",
                "Created-By: Packages",
                "Architecture: amd64",
            ],
            what="reading apt's lists",
            env=self.env,
        )
        by_uri = {uri.rstrip("/"): archive for archive, uri in archives().items()}
        for line in listing.splitlines():
            uri, suite, component, file = line.split("|")
            if Path(file).exists():
                yield by_uri[uri.rstrip("/")], suite, component, Path(file).read_text()


def deb_name(stanza: str) -> str:
    """The file name that apt gives a package of an index: its version with the epoch's colon quoted."""
    fields = dict(re.findall(r"^(Package|Version|Architecture): (.*)$", stanza, flags=re.MULTILINE))
    return f"{fields['Package']}_{fields['Version'].replace(':', '%3a')}_{fields['Architecture']}.deb"


def publish(apt: AptRoot, target: Path) -> int:
    """The fetched part of a release as archives: Debian's own index entries and paths, signed by the lab."""
    found = {path.name: path for path in apt.debs.glob("*.deb")}
    done: set[str] = set()
    for archive, suite, component, text in apt.indexes():
        chosen = [stanza for stanza in text.strip().split("\n\n") if deb_name(stanza) in found]
        for stanza in chosen:
            place = target / archive / re.findall(r"^Filename: (.*)$", stanza, flags=re.MULTILINE)[0]
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                trees.link(found[deb_name(stanza)], place)
            done.add(deb_name(stanza))
        index = target / archive / "dists" / suite / component / "binary-amd64"
        index.mkdir(parents=True)
        content = "".join(stanza + "\n\n" for stanza in chosen).encode()
        (index / "Packages").write_bytes(content)
        (index / "Packages.gz").write_bytes(gzip.compress(content, 6, mtime=0))
    for archive, names in suites(apt.codename).items():
        for suite in names:
            mirror.release(
                target / archive / "dists" / suite,
                KEY,
                Origin="Debian",
                Label="Debian-Security" if archive == "debian-security" else "Debian",
                Suite=suite.replace(apt.codename, SUITE_NAMES[apt.codename]),
                Version=apt.release.version,
                Codename=suite,
                Components=" ".join(apt.release.components),
                Description=f"Part of Debian {apt.release.version}, signed by a gpuready lab",
            )
    if missing := sorted(set(found) - done):
        raise LabError(f"fetched, but in no index of Debian's {apt.codename}: {', '.join(missing[:5])}")
    return len(done)


SUITE_NAMES = {"bullseye": "oldoldstable", "bookworm": "oldstable", "trixie": "stable"}


def fetch(codename: str, *, refresh: bool = False) -> Path:
    """The snapshot of one release: made once, and again when the recipe changes or `refresh` asks for it."""
    release = RELEASES[codename]
    digest = rootfs.digest_of(LAYOUT, asdict(release), keys.fingerprint(KEY))
    root = home() / "archive"
    stamp = home() / f"{codename}.complete"
    if stamp.exists() and stamp.read_text() == digest and not refresh:
        return root
    stamp.unlink(missing_ok=True)
    apt = AptRoot(codename)
    apt.prepare()
    apt.update()
    # What an older snapshot held and this one does not: apt leaves it lying, and it is in no index any more.
    shutil.rmtree(apt.debs)
    (apt.debs / "partial").mkdir(parents=True)
    for wanted in release.sets:
        apt.download(wanted)
    fresh = home() / f"{codename}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    publish(apt, fresh)
    target = root / codename
    root.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    shutil.rmtree(apt.debs)
    stamp.write_text(digest)
    return root


def versions(codename: str, package: str) -> set[str]:
    """The versions of a package in the snapshot."""
    found = set()
    for index in (home() / "archive" / codename).rglob("Packages"):
        for stanza in index.read_text().split("\n\n"):
            if stanza.startswith(f"Package: {package}\n"):
                found |= set(re.findall(r"^Version: (.*)$", stanza, flags=re.MULTILINE))
    return found


def size_mib(codename: str) -> int:
    """How much a release's snapshot takes."""
    return sum(path.stat().st_size for path in (home() / "archive" / codename).rglob("*.deb")) >> 20


# --- serving ------------------------------------------------------------------------------------------------


def serve(docker: Docker) -> str:
    """The snapshots in the lab's network: http://gpulab-debian/<codename>/debian and …/debian-security."""
    root = home()
    (root / "archive").mkdir(exist_ok=True)
    current = root / "current"
    if not current.is_symlink():
        current.symlink_to("archive")
    return services.ensure_service(
        docker, SERVER, "mirror", f"{root}:/srv/mirror/archives:ro", ["nginx", "-c", "/etc/nginx/gpulab.conf"]
    )


# --- nodes --------------------------------------------------------------------------------------------------


def sources(codename: str) -> str:
    """A Debian server's apt sources, from the snapshot. NVIDIA's components are off, as on a fresh Debian."""
    enabled = "main" if codename == "bullseye" else "main non-free-firmware"
    return "\n".join(
        f"Types: deb\nURIs: http://{SERVER}/{codename}/{archive}\nSuites: {' '.join(names)}\n"
        f"Components: {enabled}\nSigned-By: {KEYRING}\n"
        for archive, names in suites(codename).items()
    )


def node_up(name: str, codename: str, gpus: tuple[str, ...]) -> nodes.Node:
    """A Debian node with real kernel tools, Debian's kernel for its next boot, and the snapshot's apt.

    It runs under the name of the lab's simulated kernel, which has no headers anywhere: as a machine whose
    kernel has left the archive, and that has not yet been booted into the newer one.
    """
    release = RELEASES[codename]
    hardware: dict[str, Any] = {
        **nodes.hardware_profile(release.os, gpus, None),
        "kernel_tools": "real",
    }
    node = lab.node_up(NodeSpec(nodes.full_name(name), release.os, ()), hardware)
    docker = lab.engine.require()
    with lab.exclusive(KEY):
        fetch(codename)
        serve(docker)
    keyring = home() / "keyring.gpg"
    keys.export_public(KEY, keyring)
    files: dict[str, tuple[int, bytes] | str] = {
        "etc/apt/sources.list.d/debian.sources": (0o644, sources(codename).encode()),
        KEYRING.lstrip("/"): (0o644, keyring.read_bytes()),
    }
    inside(docker, node, "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*", "clearing")
    rootfs.copy_in(docker, node.name, rootfs.overlay([], files))
    inside(docker, node, "apt-get --quiet update", "fetching the package lists")
    install(docker, node, "linux-image-cloud-amd64")
    # The next boot takes the newest kernel: that must be Debian's.
    kernels = simulator.releases()[codename]
    simulated = kernels["kernels"]["running"]
    script = (
        f"if ls /boot/vmlinuz-* | sort -V | tail -n 1 | grep -qx /boot/vmlinuz-{simulated}; then "
        f"dpkg --purge linux-image-{kernels['flavour']} linux-image-{simulated}; "
        f"rm -f /boot/*-{simulated}; fi"
    )
    inside(docker, node, script, "taking the simulated kernel away")
    return node


def inside(docker: Docker, node: nodes.Node, script: str, what: str) -> str:
    """Run a script on a node."""
    return docker.out("exec", node.name, "sh", "-ec", script, what=f"{what} on {node.name}")


def install(docker: Docker, node: nodes.Node, *packages: str) -> None:
    """Install packages on a node as a person would, before gpuready comes."""
    script = "DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --no-install-recommends install"
    inside(docker, node, f"{script} {' '.join(packages)}", f"installing {packages[0]}")
