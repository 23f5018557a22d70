# Apache-2.0 (see LICENSE)
"""Which file of a run's inventory can be edited, and editing it in one step. Controller only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .inventory_edit import Edit, InventoryError, read

#: How long somebody else may hold the file.
LOCK_SECONDS = 300.0
YAML_ENDINGS = (".yml", ".yaml", ".json")
# Ansible's own list, and where the acceptance records lie.
_NO_SOURCE = re.compile(r"^\.|^(?:host_vars|group_vars|vars_plugins|acceptance)$|~$")
_NO_ENDINGS = (
    ".pyc", ".pyo", ".swp", ".bak", ".rpm", ".md", ".txt", ".rst", ".orig", ".cfg", ".retry", ".ini", ".toml",
)  # fmt: skip
SAY = "say which YAML file to edit: -e inventory_file=…"


def resolve(sources: Sequence[str], given: str | None = None) -> Path:
    """The file that hosts are written into: the given one, else the only YAML one of the ``-i`` sources."""
    if given:
        path = Path(given).expanduser()
        problem = _unusable(path)
        if path.is_dir():
            return resolve([str(path)])
        if problem:
            raise InventoryError(f"inventory_file: {path} {problem}")
        return path
    found: list[Path] = []
    refused: list[str] = []
    for source in sources:
        if "," in source:
            refused.append(f"{source!r} is a list of hosts on the command line")
            continue
        path = Path(source)
        for file in _files(path) if path.is_dir() else [path]:
            problem = _unusable(file)
            if problem is None:
                found.append(file)
            else:
                refused.append(f"{file} {problem}")
    found = list(dict.fromkeys(found))
    if len(found) == 1:
        return found[0]
    if found:
        raise InventoryError(f"there are several YAML inventories ({', '.join(map(str, found))}): {SAY}")
    because = "; ".join(refused) or "the run has no inventory file"
    raise InventoryError(f"there is no inventory file that could be edited ({because}): {SAY}")


def _files(folder: Path) -> list[Path]:
    """The files of an inventory folder; ``hosts.yml`` alone where there is one."""
    usual = [
        folder / f"hosts{ending}" for ending in (".yml", ".yaml") if (folder / f"hosts{ending}").is_file()
    ]
    if usual:
        return usual
    found = []
    for path in sorted(folder.iterdir()):
        if _NO_SOURCE.search(path.name) or path.name.endswith(_NO_ENDINGS):
            continue
        found += _files(path) if path.is_dir() else [path]
    return found


def _unusable(path: Path) -> str | None:
    """Why a file cannot be edited as a YAML inventory."""
    if not path.exists():
        return "is not there; make it first (a line `---` is enough)"
    if path.is_dir():
        return None
    if (path.suffix not in YAML_ENDINGS and os.access(path, os.X_OK)) or _starts_like_a_script(path):
        return "is a script, which makes its hosts itself"
    if path.suffix and path.suffix not in YAML_ENDINGS:
        return f"is no YAML file (it ends in {path.suffix})"
    try:
        read(read_file(path))
    except InventoryError as error:
        # Without an ending it may as well be INI.
        return f"is no YAML inventory: {error}" if path.suffix else "is no YAML inventory (an INI file?)"
    return None


def _starts_like_a_script(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            return handle.read(2) == b"#!"
    except OSError:
        return False


# --- changing it ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(path: Path, seconds: float) -> Iterator[int]:
    """The file, open and locked against everybody else who edits it so. A killed holder lets go by itself."""
    limit = time.monotonic() + seconds
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise InventoryError(f"it cannot be opened for writing: {error.strerror}") from None
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EINTR):
                        raise InventoryError(f"it cannot be locked: {error.strerror}") from None
                    if time.monotonic() > limit:
                        raise InventoryError(
                            f"somebody else has held it for {seconds:g} s: try again"
                        ) from None
                    time.sleep(0.02)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    yield descriptor
                    return
            # Replaced while we waited: the lock is on what is no inventory any more.
        finally:
            os.close(descriptor)


def _temporary_prefix(path: Path) -> str:
    # A leading dot: Ansible does not take it for an inventory.
    return f".{path.name}.gpuready-"


def read_file(path: Path) -> str:
    """An inventory file's text, or a sentence about why it cannot be one."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InventoryError("there is no such file; make it first (a line `---` is enough)") from None
    except IsADirectoryError:
        raise InventoryError("it is a folder; name the file in it") from None
    except OSError as error:
        raise InventoryError(f"it cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InventoryError(f"it cannot be parsed: it is not UTF-8 at byte {error.start}") from None


def change_file(
    path: str | os.PathLike[str],
    change: Callable[[str], Edit],
    *,
    check_mode: bool = False,
    lock_seconds: float = LOCK_SECONDS,
) -> tuple[str, Edit]:
    """Edit a file in one step, locked, with its mode and owner kept. Returns the old text and the edit."""
    # A link stays one: what it points at is edited.
    real = Path(os.path.realpath(path))
    try:
        before = read_file(real)
        if check_mode:
            return before, change(before)
        # Nobody is kept waiting, and nothing needs to be writable, where there is nothing to do.
        outcome = change(before)
        if not outcome.changed:
            return before, outcome
        with _locked(real, lock_seconds) as descriptor:
            before = read_file(real)
            outcome = change(before)
            if outcome.changed:
                _replace(real, outcome.text.encode("utf-8"), os.fstat(descriptor))
            return before, outcome
    except InventoryError as error:
        raise InventoryError(f"{path}: {error}") from None


def _same_owner(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_uid, one.st_gid) == (other.st_uid, other.st_gid)


def _replace(path: Path, content: bytes, former: os.stat_result) -> None:
    """Put a new file in an old one's place, all at once."""
    for left in path.parent.glob(f"{_temporary_prefix(path)}*"):
        # Under the lock nobody else writes: it is of one who was killed.
        left.unlink(missing_ok=True)
    try:
        descriptor, name = tempfile.mkstemp(prefix=_temporary_prefix(path), dir=path.parent)
    except OSError as error:
        raise InventoryError(f"nothing can be written beside it: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            if not _same_owner(os.fstat(handle.fileno()), former):
                os.fchown(handle.fileno(), former.st_uid, former.st_gid)
            # Times are the new file's own; access lists and labels come along.
            shutil.copystat(path, name)
            os.fchmod(handle.fileno(), stat.S_IMODE(former.st_mode))
            os.utime(handle.fileno())
            os.fsync(handle.fileno())
        if Path(name).read_bytes() != content:
            raise InventoryError("what was written cannot be read back: is the disk sound?")
        os.replace(name, path)
    except PermissionError as error:
        raise InventoryError(
            f"its owner (uid {former.st_uid}, gid {former.st_gid}) cannot be kept ({error.strerror}): "
            "run this as that user"
        ) from None
    except OSError as error:
        raise InventoryError(f"it cannot be written: {error.strerror}") from None
    finally:
        Path(name).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
