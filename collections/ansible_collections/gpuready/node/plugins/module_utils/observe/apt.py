"""apt: lists, sources, what it could install, holds, unattended upgrades, locks."""

from __future__ import annotations

import fcntl
import os
import re
import struct
from typing import Any, Dict, List, NamedTuple, Optional

from .. import aptguard, aptpins, aptsources, openpgp
from . import packages as dpkg
from .node import Node, ProbeError

LISTS = "/var/lib/apt/lists"
STAMP = "/var/lib/apt/periodic/update-success-stamp"
LOCK = "/var/lib/dpkg/lock-frontend"
UPDATES = "/var/lib/dpkg/updates"
_PACKAGES = re.compile(r"_Packages(\.(lz4|gz|xz|zst|bz2|lzma))?$")

# What keeps the other origins' driver packages out, written by the role nvidia_driver.
DRIVER_PIN = aptpins.PATH

# Asked for by name, whatever the node: what the planner may have to install.
NAMES = (
    "apt",  # always known: an answer without it is no answer
    "containerd",
    "containerd.io",
    "dkms",
    "docker-buildx-plugin",
    "docker-ce",
    "docker-ce-cli",
    "docker-cli",
    "docker-compose-plugin",
    "docker.io",
    "linux-headers-amd64",
    "linux-headers-arm64",
    "linux-headers-cloud-amd64",
    "linux-headers-generic",
    "linux-headers-virtual",
    "mokutil",
    "prometheus-node-exporter",
    "runc",
)
# The driver's packages and the container toolkit's, in the names of Ubuntu, Debian and NVIDIA. All names
# that apt knows are searched in one go: apt's own patterns take half a second each on a real archive.
_CHAIN = re.compile(
    r"^(?:(?:lib)?nvidia-[^\n]+|lib(?:cuda|cudadebugger|nvcuvid|nvoptix)1(?:-[^\n]+)?|libnvsdm[^\n]*|nvlsm"
    r"|firmware-nvidia-[^\n]+|cuda-drivers[^\n]*)$",
    re.M,
)
# Named alike, but of no use to a driver: CUDA's developer tools and what belongs to a desktop.
_NOT_CHAIN = re.compile(
    r"^(nvidia-(cuda-|cudnn|profiler|visual-profiler|opencl-dev|openjdk|texture-tools|nsight|detect$|cg-|primus|prime"
    r"|vaapi|xconfig|fs(-|$)|gds)|libnvidia-(ml-dev|egl-))|-dev$"
)
# A kernel's flavour: what is left of its name without the version. 5.15.0-157-generic, 6.8.0-1024-aws,
# 6.1.0-50-cloud-amd64, 6.12.107+deb13-amd64.
_FLAVOUR = re.compile(r"^\d+\.\d+[^-]*(?:-\d[\w.]*)?-(?P<flavour>[a-z].*)$")
# A package whose only use is to depend on those of the newest kernel of a flavour.
_METAPACKAGE = (
    r"^linux-(?:modules-nvidia-[0-9][0-9a-z-]*|image|headers)-(?:%s)"
    r"(?:-(?:hwe|lts)-[0-9.]+|-[0-9]+\.[0-9]+)?(?:-edge)?$"
)
_ANY_FLAVOUR = r"[a-z][a-z0-9]*(?:-[a-z][a-z0-9]*)*"
_KERNEL = re.compile(
    r"^linux-(?:modules-nvidia-[0-9a-z-]+?|image(?:-unsigned)?|headers)-(\d+\.\d+\S*-[a-z]\S*)$"
)
_POLICY_NAME = re.compile(r"^(\S+):$")
_POLICY_VERSION = re.compile(r"^ (?:\*\*\*|   ) (\S+)(?: |$)")
_POLICY_INDEX = re.compile(r"^\s+-?\d+ (\S.*)$")
_RELEASE_ORIGIN = re.compile(r"^\s+release (?:.*,)?o=(?P<origin>.*?)(?:,[a-z]=.*)?$")


def has_lists(node: Node) -> bool:
    """Whether apt has any package lists."""
    return any(_PACKAGES.search(name) for name in node.listdir(LISTS))


def _modified(node: Node, path: str) -> Optional[float]:
    try:
        found = node.stat(path)
    except OSError:
        return None
    return None if found is None else found.st_mtime


def lists_age(node: Node) -> Optional[float]:
    """Seconds since the lists of all sources were fetched; null when there are none, or a source is newer."""
    if not has_lists(node):
        return None
    # The lists' own mtimes are the archive's. Ubuntu leaves a stamp after an update; elsewhere the directory
    # of downloads tells of an update that brought nothing new (and of a failed one just the same).
    times = [_modified(node, path) for path in (LISTS, STAMP if node.exists(STAMP) else LISTS + "/partial")]
    known = [at for at in times if at is not None]
    if not known:
        return None
    # A run that was cut off may have left a source that apt was never told to fetch.
    for path in source_files(node):
        at = _modified(node, path)
        if at is not None and max(known) < at <= node.now():
            return None
    return max(0.0, round(node.now() - max(known), 1))


def source_files(node: Node) -> List[str]:
    """The files that apt reads its sources from."""
    parts = [name for name in node.listdir(aptsources.PARTS) if aptsources.is_part(name)]
    return [aptsources.LIST_FILE, *("%s/%s" % (aptsources.PARTS, name) for name in parts)]


def sources(node: Node) -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = []
    keyrings: Dict[str, Optional[List[Key]]] = {}
    for path in source_files(node):
        try:
            text = node.text(path)
        except OSError as error:
            node.problem("apt.sources", error)
            continue
        for entry in aptsources.parse(path, text or ""):
            held = keys(node, entry.signed_by, keyrings)
            found.append(
                dict(
                    entry.facts(path),
                    fingerprints=None if held is None else [key["fingerprint"] for key in held],
                    keys=held,
                )
            )
    return found


Key = Dict[str, Any]


def _keys(node: Node, data: bytes) -> List[Key]:
    return [
        {
            "fingerprint": key.fingerprint,
            "expires": key.expires,
            # By this node's clock, which is what apt goes by.
            "expired": key.expires is not None and key.expires <= node.now(),
        }
        for key in openpgp.keys(data)
    ]


def keys(node: Node, signed_by: Optional[str], known: Dict[str, Optional[List[Key]]]) -> Optional[List[Key]]:
    """The primary keys that Signed-By lets sign; null when it names none, or its keyring cannot be read."""
    if not signed_by:
        return None
    if "BEGIN PGP" in signed_by:
        # deb822 writes an empty line as a dot.
        text = "\n".join("" if line == "." else line for line in signed_by.splitlines())
        try:
            return _keys(node, text.strip().encode("utf-8"))
        except openpgp.OpenPGPError as error:
            node.problem("apt.sources", "a key embedded in a source: %s" % error)
            return None
    held: List[Key] = []
    for path in aptsources.keyrings(signed_by):
        if path not in known:
            known[path] = None
            try:
                data = node.data(path)
                if data is not None:
                    known[path] = _keys(node, data)
            except (OSError, openpgp.OpenPGPError) as error:
                node.problem("apt.sources", "keyring %s: %s" % (path, error))
        those = known[path]
        if those is None:
            return None
        held += those
    return held or None


def flavour_of(kernel: str) -> Optional[str]:
    match = _FLAVOUR.match(kernel)
    return match.group("flavour") if match else None


def metapackages(known: str, kernels: List[str]) -> List[str]:
    """The kernel metapackages of the node's flavours; of any flavour where the archive has none of them."""
    flavours = {flavour for flavour in map(flavour_of, kernels) if flavour}
    if "generic" in flavours:
        flavours.add("virtual")
    for alternatives in ("|".join(map(re.escape, sorted(flavours))), _ANY_FLAVOUR):
        found = re.findall(_METAPACKAGE % alternatives, known, re.M) if alternatives else []
        if found:
            return sorted(set(found))
    return []


def parse_dependencies(text: str) -> Dict[str, Dict[str, List[str]]]:
    """`apt-cache showpkg`: name → version → the names it depends on."""
    found: Dict[str, Dict[str, List[str]]] = {}
    versions: Dict[str, List[str]] = {}
    inside = False
    for line in text.splitlines():
        if line.startswith("Package: "):
            versions = found.setdefault(line[len("Package: ") :].strip(), {})
            inside = False
        elif line.startswith("Dependencies:"):
            inside = True
        elif re.match(r"^[A-Z][A-Za-z ]+:", line):
            inside = False
        elif inside:
            version, dash, names = line.partition(" - ")
            if dash:
                versions[version] = re.findall(r"(\S+) \(\d+ ", names)
    return found


def metapackage_kernels(node: Node, names: List[str]) -> Dict[str, Dict[str, str]]:
    """Metapackage → version → the kernel that it is for."""
    if not names:
        return {}
    found: Dict[str, Dict[str, str]] = {}
    for name, versions in parse_dependencies(node.output(["apt-cache", "showpkg", *names])).items():
        for version, dependencies in versions.items():
            kernels = [match.group(1) for match in map(_KERNEL.match, dependencies) if match]
            if kernels:
                found.setdefault(name, {})[version] = kernels[0]
    return found


def chain(known: str, kernels: List[str]) -> List[str]:
    """Of all names that apt knows, those that the planner may need on a node with these kernels."""
    names = {name for name in _CHAIN.findall(known) if not _NOT_CHAIN.search(name)}
    # What Debian and Ubuntu keep apart from Python: without it there are no environments.
    names.update(re.findall(r"^python3(?:\.\d+)?-venv$", known, re.M))
    if kernels:
        # The modules come in one package per kernel: those of other kernels would be thousands.
        alternatives = "|".join(re.escape(kernel) for kernel in sorted(set(kernels)))
        pattern = r"^linux-(?:modules|objects|signatures|headers|image)[^\n]*-(?:%s)$" % alternatives
        names.update(re.findall(pattern, known, re.M))
    return sorted(names)


def parse_policy(text: str) -> Dict[str, Dict[str, Any]]:
    """`apt-cache policy NAMES`: name → candidate, installed, versions (newest first); no virtual names.

    `origins` names, for each version, the indexes that have it; `with_origins` makes origins of them.
    """
    found: Dict[str, Dict[str, Any]] = {}
    entry: Optional[Dict[str, Any]] = None
    indexes: List[str] = []
    for line in text.splitlines():
        name = _POLICY_NAME.match(line)
        if name:
            entry = {"candidate": None, "installed": None, "versions": [], "origins": {}, "kernel": None}
            # "libnvidia-gl-580:i386:" is another architecture's package.
            if ":" not in name.group(1):
                found[name.group(1)] = entry
            continue
        if entry is None:
            continue
        body = line.strip()
        for key in ("Installed", "Candidate"):
            if body.startswith(key + ": "):
                value = body[len(key) + 2 :].strip()
                entry[key.lower()] = None if value == "(none)" else value
        version = _POLICY_VERSION.match(line)
        if version:
            indexes = entry["origins"].setdefault(version.group(1), [])
            if version.group(1) not in entry["versions"]:
                entry["versions"].append(version.group(1))
            continue
        index = _POLICY_INDEX.match(line)
        if index and entry["versions"] and not index.group(1).startswith("/"):
            indexes.append(index.group(1))
    return {name: entry for name, entry in found.items() if entry["versions"]}


def parse_index_origins(text: str) -> Dict[str, str]:
    """`apt-cache policy` without names: index → the Origin of its archive."""
    found: Dict[str, str] = {}
    index = None
    for line in text.splitlines():
        if line.startswith("Pinned packages:"):
            break
        match = _POLICY_INDEX.match(line)
        if match:
            index = match.group(1)
            continue
        origin = _RELEASE_ORIGIN.match(line)
        if origin and index is not None:
            found[index] = origin.group("origin")
    return found


class Reading(NamedTuple):
    """What apt says when it reads its sources: the origins of its indexes, or why it cannot."""

    origins: Dict[str, str]
    errors: List[str]
    failure: Optional[str]


def reading(node: Node) -> Reading:
    result = node.run(["apt-cache", "policy"])
    # apt's own "E: …": two entries for one archive with different keys, a line that it cannot read, …
    errors = [line[2:].strip() for line in result.err.splitlines() if line.startswith("E: ")]
    failure = "apt-cache policy: %s" % result.message if result.rc != 0 else None
    return Reading(parse_index_origins(result.out), errors, failure)


def index_origins(found: Reading) -> Dict[str, str]:
    if found.failure:
        raise ProbeError(found.failure)
    return found.origins


def with_origins(
    found: Optional[Dict[str, Dict[str, Any]]], known: Optional[Dict[str, str]]
) -> Optional[Dict[str, Dict[str, Any]]]:
    """The candidates with the origins of their indexes. An index whose Release file names none gives none."""
    for entry in (found or {}).values():
        for version, indexes in entry["origins"].items():
            origins = [(known or {}).get(index, "") for index in indexes]
            entry["origins"][version] = sorted({origin for origin in origins if origin})
    return found


def candidates(node: Node, kernels: List[str]) -> Optional[Dict[str, Dict[str, Any]]]:
    """Every package of the chain that apt knows; null when it has no lists."""
    if not has_lists(node):
        return None
    known = node.output(["apt-cache", "pkgnames"])
    metas = metapackages(known, kernels)
    targets = node.attempt("apt.candidates", lambda: metapackage_kernels(node, metas), {})
    wanted = {kernel for versions in targets.values() for kernel in versions.values()}
    names = sorted({*NAMES, *metas, *chain(known, [*kernels, *wanted])})
    found = parse_policy(node.output(["apt-cache", "policy", *names]))
    if "apt" not in found:
        raise ProbeError("apt-cache policy does not even know apt")
    del found["apt"]
    for name, versions in targets.items():
        if name in found:
            found[name]["kernel"] = versions.get(found[name]["candidate"])
    return found


def parse_config(text: str) -> Dict[str, List[str]]:
    """`apt-config dump`: name (lower case) → values in order; lists are written as `Name:: "value";`."""
    values: Dict[str, List[str]] = {}
    for line in text.splitlines():
        match = re.match(r'^(\S+) "(.*)";$', line)
        if match:
            values.setdefault(match.group(1).rstrip(":").lower(), []).append(match.group(2))
    return values


def guard_file(node: Node) -> bool:
    data = node.data(aptguard.PATH)
    return data is not None and data == aptguard.content().encode("utf-8")


def unattended_upgrades(node: Node, found: Optional[List[dpkg.Package]]) -> Dict[str, Any]:
    config = parse_config(node.output(["apt-config", "dump"]))
    installed = None if found is None else dpkg.installed(found, "unattended-upgrades") is not None
    periodic = (config.get("apt::periodic::unattended-upgrade") or [""])[-1]
    enable = (config.get("apt::periodic::enable") or ["1"])[-1]
    return {
        "installed": installed,
        "enabled": None if installed is None else installed and periodic not in ("", "0") and enable != "0",
        "blacklist": [value for value in config.get("unattended-upgrade::package-blacklist", []) if value],
        "guard_file": guard_file(node),
    }


def lock_holder(node: Node) -> Optional[int]:
    """The pid that holds dpkg's frontend lock (0: unknown to us); null when it is free.

    Asked with F_GETLK: trying the lock, however briefly, could make somebody else's apt fail.
    """
    try:
        descriptor = os.open(node.host_path(LOCK), os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        # struct flock, 64-bit Linux: type, whence, start, length, pid.
        query = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, query))
    finally:
        os.close(descriptor)
    return None if answer[0] == fcntl.F_UNLCK else max(0, answer[4])


def interrupted(node: Node, found: Optional[List[dpkg.Package]], locked: Optional[bool]) -> Optional[bool]:
    """Was dpkg interrupted? While somebody works with it that cannot be told."""
    journal = [name for name in node.listdir(UPDATES) if name.isdigit()]
    unfinished = [] if found is None else dpkg.unfinished(found)
    if journal or unfinished:
        return None if locked or locked is None else True
    return None if found is None else False


def broken(found: List[dpkg.Package]) -> List[Dict[str, str]]:
    """The packages that dpkg has half; one that must be installed again says so, whatever its state."""
    rows = {
        (package.name, "reinst-required" if package.eflag == "reinstreq" else package.status)
        for package in found
        if package.name in dpkg.unfinished([package])
    }
    return [{"name": name, "status": status} for name, status in sorted(rows)]


def facts(
    node: Node, found: Optional[List[dpkg.Package]], known: Any, upgrades: Any, errors: Any
) -> Dict[str, Any]:
    """`known`, `upgrades` and `errors`: callables that give the answers asked for in the background."""
    if node.which("apt-get") is None:
        raise ProbeError("this node has no apt")
    locked = node.attempt("apt.lock_held", lambda: lock_holder(node) is not None)
    return {
        "lists_age_seconds": node.attempt("apt.lists_age_seconds", lambda: lists_age(node)),
        "sources": node.attempt("apt.sources", lambda: sources(node)),
        "candidates": node.attempt("apt.candidates", known),
        "holds": None if found is None else dpkg.holds(found),
        "unattended_upgrades": node.attempt("apt.unattended_upgrades", upgrades),
        "driver_pin": node.attempt("apt.driver_pin", lambda: node.text(DRIVER_PIN)),
        "dpkg_interrupted": node.attempt("apt.dpkg_interrupted", lambda: interrupted(node, found, locked)),
        "lock_held": locked,
        "errors": node.attempt("apt.errors", errors),
        "broken": None if found is None else broken(found),
    }
