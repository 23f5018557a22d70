"""Root file systems from packages, and images made of them; each is built once per content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

from . import machine, settings
from .engine import Docker
from .errors import LabError
from .shell import output, run

#: Raise it when this file builds something else from the same recipe.
BUILDER = 3

#: What an image must not carry: the machine's archives and proxies, identities, caches.
SCRUB = (
    'cd "$1" && rm -f etc/apt/sources.list etc/apt/apt.conf.d/99mmdebstrap etc/resolv.conf etc/hostname '
    "etc/ssh/ssh_host_*; rm -rf etc/apt/sources.list.d/* var/lib/apt/lists/* var/cache/apt/* "
    "var/log/apt var/log/dpkg.log var/log/bootstrap.log; : > etc/machine-id"
)
NO_DOCS = (
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
)


@dataclass(frozen=True)
class Recipe:
    """What goes into a root file system; its content decides whether an image is rebuilt."""

    suite: str
    packages: tuple[str, ...]
    components: tuple[str, ...] = ("main",)
    variant: str = "minbase"
    updates: bool = True
    docs: bool = False
    #: Packages fetched with all they depend on, without being installed (for the lab's mirror).
    download: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()

    def digest(self) -> str:
        """Changes when the recipe changes."""
        return digest_of(BUILDER, asdict(self))


def digest_of(*parts: object) -> str:
    """A short hash of anything that JSON can write."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def digest_tree(root: Path, *, skip: Iterable[str] = ("__pycache__",)) -> str:
    """A hash of a directory's files: names, link targets, contents, and whether they can be executed.

    Nothing else of them: git keeps neither empty directories nor other permissions, so two checkouts of the
    same commit differ in those, and `overlay` sets the permissions anyway. What tools leave in hidden
    directories (.pytest_cache, …) does not count either.
    """
    total = hashlib.sha256()
    skipped = set(skip)
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if skipped & set(parts) or any(part.startswith(".") for part in parts[:-1]):
            continue
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            total.update(f"{path.relative_to(root)}\0link\0{path.readlink()}\0".encode())
        elif stat.S_ISREG(mode):
            total.update(f"{path.relative_to(root)}\0{'x' if mode & 0o100 else '-'}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def sources(host: machine.Machine, recipe: Recipe) -> list[str]:
    """apt source lines for a suite from the machine's own archive; empty = mmdebstrap's default for it."""
    archive = machine.archive_uris(host)
    family = (
        "ubuntu"
        if recipe.suite in {os_.codename for os_ in settings.OSES.values() if os_.distribution == "ubuntu"}
        else "debian"
    )
    if archive is None or family != host.distribution:
        return []
    main, security = archive
    components = " ".join(recipe.components)
    lines = [f"deb {main} {recipe.suite} {components}"]
    if recipe.updates:
        lines += [
            f"deb {main} {recipe.suite}-updates {components}",
            f"deb {security} {recipe.suite}-security {components}",
        ]
    return lines


def mmdebstrap(host: machine.Machine, recipe: Recipe, target: Path, *, debs: Path | None = None) -> None:
    """Build a root file system into a tar file or a directory, by the target's name."""
    command = [
        "mmdebstrap",
        f"--variant={recipe.variant}",
        f"--components={','.join(recipe.components)}",
        f"--include={','.join(recipe.packages)}",
        "--dpkgopt=force-unsafe-io",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::Retries "3"',
    ]
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if keyring.exists():
        command.append(f"--keyring={keyring}")
    command += [f"--aptopt={option}" for option in machine.apt_options()]
    if not recipe.docs:
        command += [f"--dpkgopt={option}" for option in NO_DOCS]
    if recipe.download:
        assert debs is not None
        shutil.rmtree(debs, ignore_errors=True)
        (debs / "partial").mkdir(parents=True)
        packages = " ".join(recipe.download)
        command.append(
            f'--customize-hook=APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes --download-only '
            f"-oDir::Cache::archives={debs} -oAPT::Sandbox::User=root -oDebug::NoLocking=1 install {packages}"
        )
    command += [f"--customize-hook={hook}" for hook in recipe.hooks]
    command += [f"--customize-hook={SCRUB}", recipe.suite, str(target), *sources(host, recipe)]
    # A root file system is too big for a /tmp in memory.
    temporary = settings.home() / "build" / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    what = f"building a {recipe.suite} root file system"
    run(command, what=what, env={"TMPDIR": str(temporary)})


def cached_image(docker: Docker, name: str, digest: str) -> bool:
    """Whether the engine has the image with this content."""
    return (
        docker.ask(
            "image", "inspect", "--format", f'{{{{index .Config.Labels "{settings.LABEL_HASH}"}}}}', name
        )
        == digest
    )


def ensure_base(
    host: machine.Machine,
    docker: Docker,
    name: str,
    recipe: Recipe,
    *,
    changes: Iterable[str] = (),
    debs: Path | None = None,
) -> str:
    """The image of a recipe: built if the engine lacks it; a word on which."""
    digest = digest_of(recipe.digest(), list(changes))
    stamp = debs / ".complete" if debs is not None else None
    if cached_image(docker, name, digest) and (
        stamp is None or (stamp.exists() and stamp.read_text() == digest)
    ):
        return "reused"
    build = settings.home() / "build"
    build.mkdir(parents=True, exist_ok=True)
    archive = build / f"{name.replace(':', '-').replace('/', '-')}.tar"
    archive.unlink(missing_ok=True)
    mmdebstrap(host, recipe, archive, debs=debs)
    labels = [f"LABEL {settings.LABEL}=1", f"LABEL {settings.LABEL_HASH}={digest}"]
    docker.run(
        "import", *(part for change in [*labels, *changes] for part in ("--change", change)), archive, name
    )
    archive.unlink()
    if stamp is not None:
        stamp.write_text(digest)
    return "built"


def overlay(trees: Iterable[Path], files: Mapping[str, tuple[int, bytes] | str] = {}) -> bytes:
    """A tar of file trees laid over each other plus single files, all owned by root.

    A file is (mode, content), or a string for a symbolic link's target.
    """
    buffer = BytesIO()

    def rooted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if "__pycache__" in info.name:
            return None
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        info.mtime = 0
        info.mode = 0o755 if info.mode & 0o100 or info.isdir() else 0o644
        return info

    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for tree in trees:
            for path in sorted(tree.iterdir()):
                archive.add(path, arcname=path.name, filter=rooted)
        for name, content in files.items():
            entry = tarfile.TarInfo(name.lstrip("/"))
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.mode, data = content
                entry.size = len(data)
                archive.addfile(entry, BytesIO(data))
    return buffer.getvalue()


def copy_in(docker: Docker, container: str, archive: bytes) -> None:
    """Unpack a tar in a container that need not run."""
    # docker cp sets mode and owner of every directory that the archive names.
    done = subprocess.run(
        ["docker", "cp", "-", f"{container}:/"],
        input=archive,
        capture_output=True,
        check=False,
        env={**os.environ, **docker.env},
    )
    if done.returncode:
        raise LabError(f"copying files into {container} failed:\n{done.stderr.decode(errors='replace')}")


def ensure_layered(
    docker: Docker,
    name: str,
    base: str,
    archive: bytes,
    digest: str,
    changes: Iterable[str] = (),
    script: str = "",
) -> str:
    """An image = another image plus a tar of files, and what a shell script does with them."""
    if cached_image(docker, name, digest):
        return "reused"
    command = ["/bin/sh", "-euc", script] if script else ["true"]
    container = docker.out("create", "--label", f"{settings.LABEL}=1", "--network=none", base, *command)
    try:
        copy_in(docker, container, archive)
        if script:
            docker.out("start", "--attach", container, what=f"finishing the image {name}")
        labels = [f"LABEL {settings.LABEL}=1", f"LABEL {settings.LABEL_HASH}={digest}"]
        docker.out(
            "commit",
            *(part for change in [*labels, *changes] for part in ("--change", change)),
            container,
            name,
        )
    finally:
        docker.out("rm", "--force", container)
    return "built"


def base_digest(docker: Docker, name: str) -> str:
    """The content hash of an image that is there."""
    return output(
        [
            "docker",
            "image",
            "inspect",
            "--format",
            f'{{{{index .Config.Labels "{settings.LABEL_HASH}"}}}}',
            name,
        ],
        env=docker.env,
    ).strip()
