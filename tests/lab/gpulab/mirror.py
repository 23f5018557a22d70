"""The lab's apt mirror: signed archives, as Ubuntu, Debian, NVIDIA and Docker publish them."""

from __future__ import annotations

import functools
import gzip
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from . import keys, rootfs, settings, trees
from .errors import LabError
from .shell import output, run

#: Raise it when this file lays the archives out differently.
LAYOUT = 8

#: From the distribution, with all they depend on; everything that the roles install beside NVIDIA's packages.
DOWNLOAD = (
    *("docker.io", "containerd", "runc", "python3-debian", "pciutils", "xz-utils", "gnupg"),
    *("python3-venv", "prometheus-node-exporter"),
)


def downloads(suite: str) -> tuple[str, ...]:
    """What the base of a release fetches for the mirror."""
    # Debian 13 moved the client to a package of its own, which docker.io only recommends.
    return (*DOWNLOAD, "docker-cli") if suite == "trixie" else DOWNLOAD


def debs_dir(suite: str) -> Path:
    """Where the downloaded packages of a release are kept."""
    return settings.home() / "cache" / f"debs-{suite}"


def image_debs_dir(suite: str) -> Path:
    """The same, of a release that images are made of."""
    return settings.home() / "cache" / f"debs-image-{suite}"


def root() -> Path:
    """What the mirror's web server serves at its root."""
    return settings.home() / "mirror" / "archives"


def keyring(distribution: str) -> Path:
    """The key of a distribution's archives."""
    return root() / "current" / f"{distribution}-keyring.gpg"


def images_root() -> Path:
    """What it serves below /images."""
    return settings.home() / "mirror" / "images"


def ensure(suites: Mapping[str, str], simulated: Path) -> str:
    """The archives for `codename → release the packages come from`."""
    stamps = [
        LAYOUT,
        dict(suites),
        [(debs_dir(suite) / ".complete").read_text() for suite in sorted(set(suites.values()))],
        [keys.fingerprint(archive) for archive in keys.ARCHIVES],
        _read(simulated / ".digest"),
    ]
    digest = rootfs.digest_of(*stamps)
    return trees.ensure(root(), digest, functools.partial(_archives, suites, simulated))


def _archives(suites: Mapping[str, str], simulated: Path, fresh: Path) -> str:
    for os_ in settings.OSES.values():
        if os_.codename in suites:
            source = suites[os_.codename]
            distribution_archives(fresh, os_, source, simulated / "archives")
            if os_.codename in DOCKER_CE:
                docker = fresh / "docker-ce" / "linux" / os_.distribution
                docker_archive(docker, os_.codename, source)
    toolkit = sorted((simulated / "toolkit").glob("*.deb"))
    toolkit_archive(fresh / "libnvidia-container", toolkit, "toolkit")
    toolkit_archive(fresh / "rotated" / "libnvidia-container", toolkit, "toolkit-rotated")
    for directory in sorted((simulated / "cuda").iterdir()):
        # The container toolkit is in it too, in its newest version.
        debs = [*sorted(directory.glob("*.deb")), *newest(toolkit)]
        for prefix, key in (("compute/cuda/repos", "cuda"), ("rotated/compute/cuda/repos", "cuda-rotated")):
            cuda_archive(fresh / prefix / directory.name / "x86_64", debs, key)
    for distribution in ("ubuntu", "debian"):
        keys.export_public(distribution, fresh / f"{distribution}-keyring.gpg")
    keys.stop_agents()
    return f"{sum(1 for _ in fresh.rglob('*.deb'))} packages"


def ensure_images(suites: Iterable[str]) -> str:
    """The archive that images' own systems can install from: `deb http://gpulab-mirror/images <suite> main`.

    What the nodes are made of is another release than what the images are made of.
    """
    wanted = sorted(suites)
    stamps = [(image_debs_dir(suite) / ".complete").read_text() for suite in wanted]
    digest = rootfs.digest_of(LAYOUT, wanted, stamps, keys.fingerprint("debian"))

    def build(fresh: Path) -> str:
        base = fresh / "images"
        for suite in wanted:
            pool = Path("pool") / suite
            link_all(sorted(image_debs_dir(suite).glob("*.deb")), base / pool)
            index(base, pool, base / "dists" / suite / "main" / "binary-amd64")
            release(
                base / "dists" / suite,
                "debian",
                Origin="gpulab",
                Label="gpulab",
                Suite=suite,
                Codename=suite,
                Components="main",
                Description="Packages for the systems in a gpuready lab's images",
            )
        keys.stop_agents()
        return f"{sum(1 for _ in fresh.rglob('*.deb'))} packages"

    return trees.ensure(images_root(), digest, build)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def link_all(debs: Iterable[Path], target: Path) -> None:
    """Put packages into a pool without copying them where the file system allows it."""
    target.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        trees.link(deb, target / deb.name)


LABELS = {
    "ubuntu": ("Ubuntu", "Ubuntu"),
    "debian": ("Debian", "Debian"),
    "debian-security": ("Debian", "Debian-Security"),
}
#: What an archive has, where that is more than a fresh system has enabled.
COMPONENTS = {
    "bullseye": ("main", "contrib", "non-free"),
    "bookworm": ("main", "contrib", "non-free", "non-free-firmware"),
    "trixie": ("main", "contrib", "non-free", "non-free-firmware"),
}
#: Docker's own repository is made for these: their packages are big, and the others' would be the same ones.
DOCKER_CE = ("jammy", "noble")


def distribution_archives(base: Path, os_: settings.NodeOs, source: str, simulated: Path) -> None:
    """All suites of a release: the real packages in its main, the stand-ins where the distribution has them.

    `<codename>-latest` is the same release once it has dropped all but the newest version of every package.
    """
    own = os_.distribution
    real = real_packages(base / own, source, with_client_inside=own == "ubuntu")
    for directory in sorted((simulated / own).glob(f"{os_.codename}*")):
        distribution_suite(base, own, os_, directory, real if directory.name == os_.codename else "")
    latest_suite(base / own, own, os_)
    if own == "debian":
        security = simulated / "debian-security" / f"{os_.codename}-security"
        distribution_suite(base, "debian-security", os_, security, "")


def real_packages(archive: Path, source: str, *, with_client_inside: bool) -> str:
    """The index of a release's real packages; they lie in the pool once, for all releases made of them."""
    pool = Path("pool") / "real" / source
    known = archive / f".{source}.index"
    if not known.exists():
        debs = sorted(debs_dir(source).glob("*.deb"))
        if with_client_inside and (parts := client_apart(debs)):
            joined = repacked(f"docker.io-{source}", source, functools.partial(with_client, *parts))
            debs = [*(deb for deb in debs if deb not in parts), *joined]
        link_all(debs, archive / pool)
        known.write_text(scan(archive, pool))
    return known.read_text()


def repacked(name: str, source: str, make: Callable[[Path], None]) -> list[Path]:
    """Packages that are made of a release's real ones: once, and not at every change of the stand-ins."""
    target = settings.home() / "cache" / f"repacked-{name}"
    stamp = target / ".made-of"
    digest = rootfs.digest_of(LAYOUT, (debs_dir(source) / ".complete").read_text())
    if _read(stamp) != digest:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        make(target)
        stamp.write_text(digest)
    return sorted(target.glob("*.deb"))


def distribution_suite(base: Path, archive: str, os_: settings.NodeOs, directory: Path, real: str) -> None:
    """dists/ and pool/ of one suite, from a directory of components; `real` goes into main."""
    suite = directory.name
    parts = [path.name for path in sorted(directory.iterdir())] if directory.is_dir() else []
    components = list(dict.fromkeys([*COMPONENTS.get(os_.codename, os_.components), *parts]))
    for component in components:
        pool = Path("pool") / suite / component
        link_all(sorted((directory / component).glob("*.deb")), base / archive / pool)
        text = scan(base / archive, pool) + (real if component == "main" else "")
        write_index(base / archive / "dists" / suite / component / "binary-amd64", text)
    suite_release(base / archive, archive, os_, suite, components)


def suite_release(
    base: Path, archive: str, os_: settings.NodeOs, suite: str, components: Iterable[str]
) -> None:
    """The signed Release of a suite."""
    origin, label = LABELS[archive]
    release(
        base / "dists" / suite,
        os_.distribution,
        Origin=origin,
        Label=label,
        Suite=suite,
        Codename=suite,
        Version=os_.version_id,
        Components=" ".join(components),
        Description=f"Simulated {origin} archive of a gpuready lab",
    )


def latest_suite(base: Path, archive: str, os_: settings.NodeOs) -> None:
    """<codename>-latest, out of the same pool."""
    dists = base / "dists"
    components = [path.name for path in sorted((dists / os_.codename).iterdir()) if path.is_dir()]
    for component in components:
        index_ = dists / os_.codename / component / "binary-amd64" / "Packages"
        text = "".join(stanza + "\n\n" for stanza in newest_stanzas(index_.read_text()))
        write_index(dists / f"{os_.codename}-latest" / component / "binary-amd64", text)
    suite_release(base, archive, os_, f"{os_.codename}-latest", components)


def newest_stanzas(packages: str) -> list[str]:
    """Of each package in an index the entry with the highest version."""
    best: dict[str, tuple[str, str]] = {}
    for stanza in filter(None, packages.split("\n\n")):
        fields = dict(re.findall(r"^(Package|Version): (.*)$", stanza, re.MULTILINE))
        name, version = fields["Package"], fields["Version"]
        if name not in best or newer(version, best[name][0]):
            best[name] = (version, stanza.strip("\n"))
    return [stanza for _, stanza in best.values()]


@functools.cache
def newer(left: str, right: str) -> bool:
    """dpkg's order of versions."""
    return subprocess.run(["dpkg", "--compare-versions", left, "gt", right], check=False).returncode == 0


def newest(debs: Iterable[Path]) -> list[Path]:
    """Of each package the file with the highest version."""
    best: dict[str, Path] = {}
    for deb in debs:
        name, version, _ = deb.name.split("_")
        if name not in best or newer(version, best[name].name.split("_")[1]):
            best[name] = deb
    return list(best.values())


def client_apart(debs: Iterable[Path]) -> tuple[Path, Path] | None:
    """docker.io and docker-cli, where they are two: Debian 13 packs the client apart."""
    found = {deb.name.partition("_")[0]: deb for deb in debs}
    return (found["docker.io"], found["docker-cli"]) if "docker-cli" in found else None


def with_client(docker: Path, client: Path, target: Path) -> None:
    """docker.io with Docker's client inside, where Ubuntu has it."""
    build = Path(tempfile.mkdtemp(prefix="docker.io-", dir=settings.home()))
    try:
        tree = build / "docker.io"
        run(["dpkg-deb", "--raw-extract", docker, tree])
        run(["dpkg-deb", "--extract", client, tree])
        control = tree / "DEBIAN" / "control"
        control.write_text(join_control(control.read_text()))
        # Its checksums are those of the package before.
        (tree / "DEBIAN" / "md5sums").unlink(missing_ok=True)
        build_deb(tree, target)
    finally:
        shutil.rmtree(build)


def join_control(text: str) -> str:
    """docker.io's control file once it holds the client too."""
    text = re.sub(r"^(Version: .*)$", r"\1+gpulab1", text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^(Recommends: .*?), docker-cli\b", r"\1", text, count=1, flags=re.MULTILINE)
    for field in ("Provides", "Conflicts", "Replaces"):
        joined, count = re.subn(rf"^({field}: .*)$", r"\1, docker-cli", text, count=1, flags=re.MULTILINE)
        text = joined if count else f"{field}: docker-cli\n{text}"
    # The package's name comes first.
    return "".join(sorted(text.splitlines(keepends=True), key=lambda line: not line.startswith("Package:")))


def flat_archive(flat: Path, debs: list[Path], key: str, key_file: Path, **fields: str) -> None:
    """A flat repository, as NVIDIA's are: packages, index and signature in one folder; the key is a file."""
    link_all(debs, flat)
    index(flat, Path("."), flat)
    release(flat, key, **fields)
    key_file.write_text(keys.public_key(key))


def toolkit_archive(archive: Path, debs: list[Path], key: str) -> None:
    """NVIDIA's repository of the container toolkit."""
    flat_archive(
        archive / "stable" / "deb" / "amd64",
        debs,
        key,
        archive / "gpgkey",
        Origin="https://nvidia.github.io/libnvidia-container",
        Label="NVIDIA CORPORATION (simulated)",
        Suite="bullseye",
        Codename="bullseye",
        Description="Simulated libnvidia-container archive of a gpuready lab",
    )


def cuda_archive(flat: Path, debs: list[Path], key: str) -> None:
    """NVIDIA's CUDA repository of one distribution; its key lies in it, under the real one's name."""
    flat_archive(
        flat,
        debs,
        key,
        flat / "3bf863cc.pub",
        Origin="NVIDIA",
        Label="NVIDIA CUDA",
        Description="Simulated CUDA repository of a gpuready lab",
    )


def docker_archive(archive: Path, codename: str, source: str) -> None:
    """Docker's own repository; its packages are made of the distribution's."""
    pool = Path("dists") / codename / "pool" / "stable" / "amd64"
    debs = sorted(debs_dir(source).glob("*.deb"))
    make = functools.partial(repackage_docker, debs, codename)
    link_all(repacked(f"docker-ce-{codename}", source, make), archive / pool)
    index(archive, pool, archive / "dists" / codename / "stable" / "binary-amd64")
    release(
        archive / "dists" / codename,
        "docker-ce",
        Origin="Docker",
        Label="Docker CE",
        Suite=codename,
        Codename=codename,
        Components="stable",
        Description="Docker archive of a gpuready lab, repackaged",
    )
    (archive / "gpg").write_text(keys.public_key("docker-ce"))


def index(archive: Path, pool: Path, target: Path) -> None:
    """Packages and Packages.gz of a pool, with paths relative to the archive."""
    write_index(target, scan(archive, pool))


def scan(archive: Path, pool: Path) -> str:
    """What apt-ftparchive says of a pool."""
    (archive / pool).mkdir(parents=True, exist_ok=True)
    # The checksums that Debian's own indexes have; more of them only takes longer.
    options = ["-o", "APT::FTPArchive::SHA1=no", "-o", "APT::FTPArchive::SHA512=no"]
    command = ["apt-ftparchive", *options, "packages", str(pool)]
    return output(command, what="apt-ftparchive packages", cwd=archive)


def write_index(target: Path, text: str) -> None:
    """Packages, plain and compressed."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "Packages").write_text(text)
    (target / "Packages.gz").write_bytes(gzip.compress(text.encode(), 6, mtime=0))


def release(directory: Path, key: str, **fields: str) -> None:
    """Release, signed both ways that apt knows."""
    options = [
        part for name, value in fields.items() for part in ("-o", f"APT::FTPArchive::Release::{name}={value}")
    ]
    options += ["-o", "APT::FTPArchive::Release::Architectures=amd64", "-o", "APT::FTPArchive::DoByHash=no"]
    text = output(["apt-ftparchive", *options, "release", str(directory)], what="apt-ftparchive release")
    # A flat archive lies beside its Release file and must not list that file itself.
    (directory / "Release").write_text(
        "".join(line for line in text.splitlines(keepends=True) if not line.endswith(" Release\n"))
    )
    sign = [*keys.gpg(keys.gpg_home(key)), "--yes", "--pinentry-mode", "loopback", "--passphrase", ""]
    run(
        [*sign, "--clearsign", "--output", directory / "InRelease", directory / "Release"],
        what="signing an archive",
    )
    run(
        [*sign, "--armor", "--detach-sign", "--output", directory / "Release.gpg", directory / "Release"],
        what="signing an archive",
    )


# --- Docker's own packages, made of the distribution's ------------------------------------------------------

CE_OF = {
    "docker.io": "docker-ce",
    "tini": "docker-ce",
    "docker-cli": "docker-ce-cli",
    "containerd": "containerd.io",
    "runc": "containerd.io",
}
CE_CONTROL = {
    "docker-ce": "Conflicts: docker (<< 1.5~), docker.io\nReplaces: docker-engine\n"
    "Recommends: ca-certificates, git, pigz, xz-utils",
    "docker-ce-cli": "Conflicts: docker (<< 1.5~), docker.io, docker-cli\nReplaces: docker-cli\n"
    "Breaks: docker-engine (<< 5:18.09~)",
    "containerd.io": "Conflicts: containerd, runc\nReplaces: containerd, runc\nProvides: containerd, runc",
}
CE_ABOUT = {
    "docker-ce": "Docker: the open-source application container engine",
    "docker-ce-cli": "Docker CLI: the open-source application container engine",
    "containerd.io": "An open and reliable container runtime",
}
POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    {group}
    if [ -d /run/systemd/system ]; then systemctl --system daemon-reload >/dev/null || true; fi
    for unit in {units}; do deb-systemd-helper enable "$unit" >/dev/null || true; done
    if [ -d /run/systemd/system ]; then deb-systemd-invoke start {units} >/dev/null || true; fi
fi
"""
PRERM = """\
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    deb-systemd-invoke stop {units} >/dev/null || true
fi
"""


def ce_package(package: str, path: str) -> str | None:
    """Which of Docker's packages a file of a distribution's package belongs to; None = left out."""
    if not re.match(r"(\./)?(usr/)?(s?bin|lib/systemd/system|libexec/docker|lib/docker)/", path):
        return None
    if package == "docker.io" and path.endswith("/bin/docker"):
        return "docker-ce-cli"
    return CE_OF.get(package)


def ce_version(package: str, upstream: str, codename: str) -> str:
    """A version as Docker writes it."""
    plain = re.match(r"[0-9.]+", upstream.partition(":")[2] or upstream)
    number = plain.group().rstrip(".") if plain else upstream
    if package == "containerd.io":
        return f"{number}-1"
    os_ = next((os_ for os_ in settings.OSES.values() if os_.codename == codename), None)
    system = f"{os_.distribution}.{os_.version_id}" if os_ else codename
    return f"5:{number}-1~{system}~{codename}"


def ce_depends(fields: Iterable[str], package: str) -> str:
    """The distribution's dependencies, without those that are in Docker's packages now."""
    kept: dict[str, None] = {}
    for text in fields:
        for item in filter(None, (part.strip() for part in text.split(","))):
            if item.split()[0] not in {*CE_OF, "lsb-base", "adduser"}:
                kept[item] = None
    own = {
        "docker-ce": ["containerd.io (>= 1.4.1)", "docker-ce-cli", "adduser", "init-system-helpers"],
        "containerd.io": ["init-system-helpers"],
    }
    return ", ".join([*own.get(package, []), *kept])


def repackage_docker(debs: list[Path], codename: str, target: Path) -> None:
    """docker-ce, docker-ce-cli and containerd.io out of docker.io, containerd, runc and tini."""
    found = {deb.name.partition("_")[0]: deb for deb in debs if deb.name.partition("_")[0] in CE_OF}
    if "docker.io" not in found or "containerd" not in found:
        raise LabError(
            "the distribution's docker.io and containerd were not downloaded "
            f"(have: {', '.join(sorted(found)) or 'none'})"
        )
    build = Path(tempfile.mkdtemp(prefix="docker-ce-", dir=settings.home()))
    try:
        depends: dict[str, list[str]] = {}
        versions: dict[str, str] = {}
        for name, deb in found.items():
            unpacked = build / "unpacked" / name
            unpacked.mkdir(parents=True)
            run(["dpkg-deb", "--extract", deb, unpacked])
            fields = output(["dpkg-deb", "--showformat", "${Version}\\n${Depends}\\n", "--show", deb]).split(
                "\n"
            )
            depends.setdefault(CE_OF[name], []).append(fields[1])
            if name in {"docker.io", "containerd"}:
                versions[CE_OF[name]] = fields[0]
            for path in sorted(unpacked.rglob("*")):
                relative = path.relative_to(unpacked)
                package = ce_package(name, str(relative))
                if package is None or (path.is_dir() and not path.is_symlink()):
                    continue
                # Docker's packages keep everything in /usr/bin.
                place = build / package / str(relative).replace("usr/sbin/", "usr/bin/")
                place.parent.mkdir(parents=True, exist_ok=True)
                if path.is_symlink() and path.readlink().name == path.name:
                    continue
                shutil.copy2(path, place, follow_symlinks=False)
        versions["docker-ce-cli"] = versions["docker-ce"]
        depends.setdefault("docker-ce-cli", ["libc6"])
        for unit in (build / "docker-ce").rglob("docker.service"):
            unit.write_text(unit.read_text().replace("/usr/sbin/dockerd", "/usr/bin/dockerd"))
        for package in CE_CONTROL:
            pack(
                build / package,
                package,
                ce_version(package, versions[package], codename),
                ce_depends(depends[package], package),
                target,
            )
    finally:
        shutil.rmtree(build)


def pack(tree: Path, package: str, version: str, depends: str, target: Path) -> None:
    """One .deb of a file tree."""
    control = tree / "DEBIAN"
    control.mkdir(parents=True)
    control.joinpath("control").write_text(
        f"Package: {package}\nVersion: {version}\nArchitecture: amd64\nSection: admin\nPriority: optional\n"
        f"Maintainer: gpuready lab <lab@gpuready.invalid>\nDepends: {depends}\n{CE_CONTROL[package]}\n"
        f"Description: {CE_ABOUT[package]}\n"
        " Repackaged from the distribution for a gpuready lab.\n"
    )
    units = sorted(path.name for path in tree.rglob("*") if path.suffix in {".service", ".socket"})
    if units:
        group = (
            "getent group docker >/dev/null || addgroup --system docker" if package == "docker-ce" else ":"
        )
        for name, text in (("postinst", POSTINST), ("prerm", PRERM)):
            script = control / name
            script.write_text(text.format(group=group, units=" ".join(units)))
            script.chmod(0o755)
    build_deb(tree, target)


def build_deb(tree: Path, target: Path) -> None:
    """A package of a tree with its DEBIAN directory; uncompressed, for it travels over a bridge only."""
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"building a package of {tree.name}: {done.stderr.strip()}")
