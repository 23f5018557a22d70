"""The lab's Python indexes: one like PyPI, and one per CUDA tag like PyTorch's.

Real wheels come from the machine's own index, in the versions of `tests/lab/wheels/locks`; stand-ins
are packed from the trees below `tests/lab/wheels/stand-ins`. Both lie under
`http://gpulab-mirror/pypi/simple/` and `http://gpulab-mirror/whl/<tag>/`.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import re
import shutil
import subprocess
import sys
import urllib.parse
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import machine, rootfs, settings, trees
from .errors import LabError
from .shell import run

SOURCE = settings.SOURCE / "wheels"
#: Raise it when this file lays the indexes out differently.
LAYOUT = 2
#: PyTorch's own index, for machines that do not have its CPU build in an index of their own.
PYTORCH_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Lock:
    """Real wheels: a list of versions, for one Python, and the index that offers them."""

    name: str
    python: str
    #: The newest glibc that the wheels may ask for: minor version.
    glibc: int
    #: Path of the index below the mirror.
    index: str

    @property
    def requirements(self) -> Path:
        """The versions."""
        return SOURCE / "locks" / f"{self.name}-{self.python}.txt"

    @property
    def cache(self) -> Path:
        """Where the wheels are kept."""
        return settings.home() / "cache" / f"wheels-{self.name}-{self.python}"

    @property
    def digest(self) -> str:
        """Changes when other wheels are wanted."""
        return rootfs.digest_of(self.requirements.read_text(), self.glibc)


PYPI = "pypi/simple"
#: What nodes and the small image are really made of: Python and glibc.
SYSTEMS = {"debian": ("3.11", 36), "ubuntu": ("3.10", 35)}


#: What execution nodes are really made of: ansible-core needs Python 3.11 at least, which jammy has not.
CONTROLLERS = {"debian": ("3.11", 36), "ubuntu": ("3.12", 39)}


def locks(host: machine.Machine) -> tuple[Lock, ...]:
    """JupyterLab for the images' Pythons, PyTorch for the nodes' own, Ansible for execution nodes."""
    python, glibc = SYSTEMS[host.distribution]
    return (
        Lock("jupyter", "3.9", 31, PYPI),
        Lock("jupyter", python, glibc, PYPI),
        Lock("torch", python, glibc, "whl/cpu"),
        Lock("runner", *CONTROLLERS[host.distribution], PYPI),
    )


def root() -> Path:
    """What the mirror's web server serves below /pypi and /whl."""
    return settings.home() / "mirror" / "python"


# --- Real wheels --------------------------------------------------------------------------------------------


def pip_command() -> list[str]:
    """A pip of this machine that can fetch wheels for another Python."""
    for python in (settings.REPO / ".venv" / "bin" / "python", Path(sys.executable)):
        if python.exists():
            asked = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
            if asked.returncode == 0:
                return [str(python), "-m", "pip"]
    raise LabError("no pip to fetch wheels with: run `make env` first")


def target_options(python: str, glibc: int) -> list[str]:
    """pip's options for wheels of a Python that is not its own."""
    digits = python.replace(".", "")
    platforms = [
        *(f"manylinux_2_{minor}_x86_64" for minor in range(5, glibc + 1)),
        *("manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64", "any"),
    ]
    return [
        "--no-deps",
        # pip holds some wheels' limits against its own Python, not against the one they are for.
        "--ignore-requires-python",
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={python}",
        *(f"--abi={abi}" for abi in (f"cp{digits}", "abi3", "none")),
        *(f"--platform={name}" for name in platforms),
    ]


def fetch(lock: Lock) -> str:
    """The wheels of a lock, from the machine's own index; once per lock."""
    stamp = lock.cache / ".complete"
    if stamp.exists() and stamp.read_text() == lock.digest:
        return "reused"
    shutil.rmtree(lock.cache, ignore_errors=True)
    lock.cache.mkdir(parents=True)
    command = [*pip_command(), "download", "--quiet", "--dest", str(lock.cache)]
    command += [*target_options(lock.python, lock.glibc), "--requirement", str(lock.requirements)]
    what = f"fetching the wheels of {lock.requirements.name} with pip"
    try:
        run(command, what=what)
    except LabError:
        if lock.index == PYPI:
            raise
        # Most machines have PyTorch's CPU build in its own index only.
        run([*command, f"--extra-index-url={PYTORCH_INDEX}"], what=what)
    stamp.write_text(lock.digest)
    return f"{len(list(lock.cache.glob('*.whl')))} wheels"


# --- Stand-ins ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StandIn:
    """A wheel to be packed from a tree: `<index>/<name>-<version>[-<python>-<abi>-<platform>]/`.

    The tree is what pip puts into site-packages. Two files in it are for the wheel itself: METADATA (fields
    to add to its metadata, Requires-Dist for one) and SCRIPTS (lines of entry_points.txt's console_scripts).
    """

    tree: Path
    index: str

    @property
    def parts(self) -> list[str]:
        """name, version, and the tags where they are not py3-none-any."""
        parts = self.tree.name.split("-")
        if len(parts) not in (2, 5):
            raise LabError(f"{self.tree}: a stand-in is named <name>-<version>[-<python>-<abi>-<platform>]")
        return parts

    @property
    def filename(self) -> str:
        """The wheel's name."""
        name, version, *tags = self.parts
        return "-".join([re.sub(r"[-_.]+", "_", name), version, *(tags or ["py3", "none", "any"])]) + ".whl"

    def write(self, directory: Path) -> None:
        """Pack the wheel; the same bytes each time."""
        name, version, *tags = self.parts
        stem = "-".join(self.filename.split("-")[:2])
        info = f"{stem}.dist-info"
        files = dict(self.content())
        more = files.pop("METADATA", b"").decode()
        scripts = files.pop("SCRIPTS", b"").decode()
        summary = "A stand-in of a gpuready lab (SIMULATED): the name, and nothing of the real one"
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {summary}"
        files[f"{info}/METADATA"] = (f"{head}\n{more.strip()}".rstrip() + "\n").encode()
        tag = "-".join(tags or ["py3", "none", "any"])
        pure = "false" if tags and tags[2] != "any" else "true"
        files[f"{info}/WHEEL"] = (
            f"Wheel-Version: 1.0\nGenerator: gpulab\nRoot-Is-Purelib: {pure}\nTag: {tag}\n".encode()
        )
        if scripts:
            files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts.strip()}\n".encode()
        record = f"{info}/RECORD"
        files[record] = record_of(files, record)
        directory.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(directory / self.filename, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in files.items():
                entry = zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0))
                entry.external_attr = 0o644 << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, data)

    def content(self) -> Iterator[tuple[str, bytes]]:
        """path → bytes, in a fixed order."""
        for path in sorted(self.tree.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(self.tree)), path.read_bytes()


def record_of(files: dict[str, bytes], record: str) -> bytes:
    """RECORD: each file with its hash and size."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        writer.writerow([path, f"sha256={digest}", len(data)])
    writer.writerow([record, "", ""])
    return text.getvalue().encode()


def stand_ins(source: Path = SOURCE / "stand-ins") -> list[StandIn]:
    """All of them: `pypi/<tree>` and `whl/<tag>/<tree>`."""
    found = [StandIn(tree, PYPI) for tree in sorted((source / "pypi").glob("*/"))]
    for tag in sorted((source / "whl").glob("*/")):
        found += [StandIn(tree, f"whl/{tag.name}") for tree in sorted(tag.glob("*/"))]
    return [stand_in for stand_in in found if stand_in.tree.name != "__pycache__"]


# --- Indexes ------------------------------------------------------------------------------------------------


def ensure(host: machine.Machine) -> str:
    """The indexes, of what was fetched and of the stand-ins."""
    wanted = locks(host)
    digest = rootfs.digest_of(
        LAYOUT, [(lock.digest, lock.index) for lock in wanted], rootfs.digest_tree(SOURCE / "stand-ins")
    )

    def build(fresh: Path) -> str:
        for lock in wanted:
            folder = fresh / lock.index / "-"
            folder.mkdir(parents=True, exist_ok=True)
            for wheel in sorted(lock.cache.glob("*.whl")):
                if not (folder / wheel.name).exists():
                    trees.link(wheel, folder / wheel.name)
        for stand_in in stand_ins():
            stand_in.write(fresh / stand_in.index / "-")
        return f"{sum(write_index(folder.parent) for folder in sorted(fresh.rglob('-/')))} wheels"

    return trees.ensure(root(), digest, build)


def normal(name: str) -> str:
    """A project's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def write_index(folder: Path) -> int:
    """The pages of an index (PEP 503, metadata as in PEP 658) for the wheels in its `-` folder; how many."""
    projects: dict[str, list[Path]] = {}
    for wheel in sorted((folder / "-").glob("*.whl")):
        projects.setdefault(normal(wheel.name.partition("-")[0]), []).append(wheel)
    for name, wheels in projects.items():
        page = folder / name / "index.html"
        page.parent.mkdir()
        page.write_text(document(f"Links for {name}", [anchor(wheel) for wheel in wheels]))
    names = [f'<a href="{name}/">{name}</a>' for name in sorted(projects)]
    (folder / "index.html").write_text(document("Simple index", names))
    return sum(map(len, projects.values()))


def document(title: str, lines: Iterable[str]) -> str:
    """One page."""
    body = "\n".join(f"    {line}<br>" for line in lines)
    head = f'<meta name="pypi:repository-version" content="1.0"><title>{html.escape(title)}</title>'
    return f"<!DOCTYPE html>\n<html>\n  <head>{head}</head>\n  <body>\n{body}\n  </body>\n</html>\n"


def anchor(wheel: Path) -> str:
    """A wheel's line; its metadata lies beside it, so that pip need not fetch the wheel to read it."""
    metadata = metadata_of(wheel)
    beside = wheel.with_name(f"{wheel.name}.metadata")
    beside.write_bytes(metadata)
    # Not under its first name, data-dist-info-metadata: pip 23.0 took that and rejected names such as a_b.
    fields = {"data-core-metadata": f"sha256={hashlib.sha256(metadata).hexdigest()}"}
    if python := re.search(r"^Requires-Python: *(.+)$", metadata.decode(errors="replace"), re.MULTILINE):
        fields["data-requires-python"] = python[1]
    with wheel.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    href = f"../-/{urllib.parse.quote(wheel.name)}#sha256={digest}"
    text = "".join(f' {key}="{html.escape(value)}"' for key, value in fields.items())
    return f'<a href="{href}"{text}>{html.escape(wheel.name)}</a>'


def metadata_of(wheel: Path) -> bytes:
    """METADATA of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if re.fullmatch(r"[^/]+\.dist-info/METADATA", name):
                return archive.read(name)
    raise LabError(f"{wheel} has no METADATA: it is no wheel")
