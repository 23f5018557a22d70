# Apache-2.0 (see LICENSE)
"""Python environments that gpuready made on the node (role framework_venv), and its interpreters."""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
from typing import Any, Dict, Iterator, List, Optional, Sequence

from ..venvs import DIRECTORY, RECORD, STAMP
from .node import SEARCH_PATH, Node, natural_key

_INTERPRETER = re.compile(r"^python3(?:\.\d+)?$")
_NUMBERED = re.compile(r"^python(3\.\d+)$")
_DISTRIBUTION = re.compile(r"^(.+?)-([^-]+)\.dist-info$")
_ASK = "import sys; print('%d.%d' % sys.version_info[:2])"


def pythons(node: Node, more: Sequence[str] = ()) -> List[Dict[str, Any]]:
    """The interpreters that a name can mean, and those asked for by their path.

    `venv`: can it make an environment with pip in it (Debian and Ubuntu have that in a package of its own)?
    """
    found: Dict[str, Dict[str, Any]] = {}
    for folder in SEARCH_PATH:
        if node.real(folder) != folder:  # /bin is /usr/bin nearly everywhere
            continue
        for name in sorted((n for n in node.listdir(folder) if _INTERPRETER.match(n)), key=natural_key):
            path = "%s/%s" % (folder, name)
            if node.is_file(path):
                found[path] = _interpreter(node, path)
    for path in more:
        if path not in found and node.is_file(path):
            found[path] = _interpreter(node, path)
    return list(found.values())


def _interpreter(node: Node, path: str) -> Dict[str, Any]:
    real = node.real(path)
    numbered = _NUMBERED.match(os.path.basename(real))
    version: Optional[str] = numbered.group(1) if numbered else None
    if version is None:
        answer = node.run([path, "-I", "-c", _ASK])
        version = answer.out.strip() if answer.rc == 0 else None
    library = "%s/lib/python%s" % (os.path.dirname(os.path.dirname(real)), version)
    parts = ("venv/__init__.py", "ensurepip/__init__.py")
    return {
        "path": path,
        "version": version,
        "venv": None if version is None else all(node.is_file("%s/%s" % (library, part)) for part in parts),
    }


def venvs(node: Node) -> List[Dict[str, Any]]:
    """The environments in gpuready's folders: the linked ones, and what is left of former ones."""
    recorded = _recorded(node)
    found = []
    for folder in sorted({DIRECTORY, *(os.path.dirname(path) for path in recorded)}):
        entries = node.listdir(folder) if node.is_dir(folder) else []
        names = {entry.partition("@")[0] for entry in entries}
        names |= {os.path.basename(path) for path in recorded if os.path.dirname(path) == folder}
        for name in sorted(names):
            path = "%s/%s" % (folder, name)
            builds = ["%s/%s" % (folder, entry) for entry in entries if entry.startswith(name + "@")]
            found.append(environment(node, name, path, builds))
    tell_users(node, found)
    return found


def _recorded(node: Node) -> List[str]:
    text = node.text(RECORD)
    if text is None:
        return []
    try:
        paths = json.loads(text).get("environments") or []
    except (ValueError, AttributeError):
        node.problem("framework.venvs", "%s is not a JSON object" % RECORD)
        return []
    return [path for path in paths if isinstance(path, str) and path.startswith("/")]


def environment(node: Node, name: str, path: str, builds: List[str], users: bool = False) -> Dict[str, Any]:
    """One environment; `users`: with who runs out of it, which otherwise is asked for all at once."""
    seen = node.lstat(path)
    target = node.readlink(path) if seen is not None and stat.S_ISLNK(seen.st_mode) else None
    if target is not None and not target.startswith("/"):
        target = "%s/%s" % (os.path.dirname(path), target)
    row: Dict[str, Any] = {
        "name": name,
        "path": path,
        "target": target,
        "foreign": seen is not None and target not in builds,
        "complete": False,
        "stamp": None,
        "python": None,
        "owner": None,
        "packages": {},
        "former": [{"path": build, "used_by": []} for build in builds if build != target],
        "used_by": [],
        "size_mib": None,
    }
    if users:
        tell_users(node, [row])
    if target is None or target not in builds:
        return row
    row["stamp"] = _stamp(node, target)
    row["python"] = _python(node, target)
    row["owner"] = _owner(node, target)
    row["packages"] = packages(node, target)
    runs = node.is_file(target + "/bin/python")
    row["complete"] = bool(runs and row["stamp"] and row["python"])
    return row


def _stamp(node: Node, target: str) -> Optional[Dict[str, Any]]:
    try:
        stamp = json.loads(node.text("%s/%s" % (target, STAMP)) or "null")
    except ValueError:
        return None
    return stamp if isinstance(stamp, dict) else None


def _python(node: Node, target: str) -> Optional[str]:
    found = re.search(
        r"^version(?:_info)?\s*=\s*(\d+\.\d+\.\d+)", node.text(target + "/pyvenv.cfg") or "", re.M
    )
    return found.group(1) if found else None


def _owner(node: Node, target: str) -> Optional[str]:
    seen = node.stat(target)
    if seen is None:
        return None
    try:
        return pwd.getpwuid(seen.st_uid).pw_name
    except KeyError:
        return str(seen.st_uid)


def packages(node: Node, target: str) -> Dict[str, str]:
    """What is installed, by the names as indexes compare them; read off the folders' names."""
    found = {}
    for library in node.listdir(target + "/lib"):
        for entry in node.listdir("%s/lib/%s/site-packages" % (target, library)):
            match = _DISTRIBUTION.match(entry)
            if match:
                found[re.sub(r"[-_.]+", "-", match.group(1)).lower()] = match.group(2)
    return dict(sorted(found.items()))


def tell_users(node: Node, rows: List[Dict[str, Any]]) -> None:
    """Which processes run out of which environment: removing it would pull the rug from under them."""
    # Whoever was started by the link's name runs out of what it points at now.
    names = {row["target"]: [row["target"], row["path"]] for row in rows if row["target"]}
    names.update({former["path"]: [former["path"]] for row in rows for former in row["former"]})
    users = used_by(node, names)
    for row in rows:
        row["used_by"] = users.get(row["target"], [])
        for former in row["former"]:
            former["used_by"] = users[former["path"]]


def used_by(node: Node, names: Dict[str, List[str]]) -> Dict[str, List[Dict[str, Any]]]:
    """Per folder, by all its names, the Python processes that run out of it or have files of it loaded."""
    found: Dict[str, List[Dict[str, Any]]] = {place: [] for place in names}
    if not found:
        return found
    for pid, name in _pythons_running(node):
        try:
            text = node.text("/proc/%s/maps" % pid) or ""
            text += "\n" + (node.text("/proc/%s/environ" % pid) or "").replace("\0", "\n") + "\n"
            text += (node.text("/proc/%s/cmdline" % pid) or "").replace("\0", "\n") + "\n"
        except OSError:  # it has ended, or is not to be looked at
            continue
        for place, users in found.items():
            if any(name + "/" in text for name in names[place]):
                users.append({"pid": int(pid), "name": name})
    return found


def _pythons_running(node: Node) -> Iterator[Any]:
    own = str(os.getpid())
    for pid in node.listdir("/proc"):
        if not pid.isdigit() or pid == own:
            continue
        try:
            program = os.path.basename(os.readlink(node.host_path("/proc/%s" % pid) + "/exe"))
        except OSError:
            continue
        if program.startswith("python"):
            try:
                yield pid, (node.text("/proc/%s/comm" % pid) or "").strip()
            except OSError:
                continue
