"""apt: lists, sources, what it could install, holds, unattended upgrades, locks."""

from __future__ import annotations

import fcntl
import os
import re
import struct
from typing import Any, Dict, List, Optional

from .. import aptguard, aptsources, openpgp
from . import packages as dpkg
from .node import Node, ProbeError

LISTS = "/var/lib/apt/lists"
STAMP = "/var/lib/apt/periodic/update-success-stamp"
LOCK = "/var/lib/dpkg/lock-frontend"
UPDATES = "/var/lib/dpkg/updates"
_PACKAGES = re.compile(r"_Packages(\.(lz4|gz|xz|zst|bz2|lzma))?$")

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
    "firmware-nvidia-gsp",
    "libcuda1",
    "linux-headers-amd64",
    "linux-headers-arm64",
    "linux-headers-cloud-amd64",
    "linux-headers-generic",
    "linux-headers-virtual",
    "runc",
)
# apt-patterns(7). The driver's modules come in one package per kernel: those of kernels that are not on
# the node would be thousands of names that nobody can use.
PATTERNS = (
    '?name("^(lib)?nvidia-")',
    '?and(?name("^linux-(modules|objects|signatures)-nvidia-"),?not(?name("[0-9]+[.][0-9]+[.][0-9]+-[0-9]+-")))',
    '?name("^(xserver-xorg-video-nvidia|cuda-drivers)")',
)
_CHAIN = re.compile(
    r"^((lib)?nvidia-|linux-(modules|objects|signatures)-nvidia-|xserver-xorg-video-nvidia|cuda-drivers)"
)
_KERNEL = re.compile(r"\d+\.\d+\.\d+-\d+-")
_POLICY_NAME = re.compile(r"^(\S+):$")
_POLICY_VERSION = re.compile(r"^ (?:\*\*\*|   ) (\S+)(?: |$)")


def lists_age(node: Node) -> Optional[float]:
    """Seconds since the lists were fetched; null when there are none."""
    names = node.listdir(LISTS)
    if not any(_PACKAGES.search(name) for name in names):
        return None
    # The lists' own mtimes are the archive's. Ubuntu leaves a stamp after an update; elsewhere the directory
    # of downloads tells of an update that brought nothing new (and of a failed one just the same).
    times = []
    for path in (LISTS, STAMP if node.exists(STAMP) else LISTS + "/partial"):
        try:
            found = node.stat(path)
        except OSError:
            continue
        if found is not None:
            times.append(found.st_mtime)
    if not times:
        return None
    return max(0.0, round(node.now() - max(times), 1))


def sources(node: Node) -> List[Dict[str, Any]]:
    paths = [aptsources.LIST_FILE]
    paths += [
        "%s/%s" % (aptsources.PARTS, name)
        for name in node.listdir(aptsources.PARTS)
        if aptsources.is_part(name)
    ]
    found: List[Dict[str, Any]] = []
    keyrings: Dict[str, Optional[List[str]]] = {}
    for path in paths:
        try:
            text = node.text(path)
        except OSError as error:
            node.problem("apt.sources", error)
            continue
        for entry in aptsources.parse(path, text or ""):
            found.append(dict(entry.facts(path), fingerprints=fingerprints(node, entry.signed_by, keyrings)))
    return found


def fingerprints(
    node: Node, signed_by: Optional[str], known: Dict[str, Optional[List[str]]]
) -> Optional[List[str]]:
    """The primary keys that Signed-By lets sign; null when it names none, or its keyring cannot be read."""
    if not signed_by:
        return None
    if "BEGIN PGP" in signed_by:
        # deb822 writes an empty line as a dot.
        text = "\n".join("" if line == "." else line for line in signed_by.splitlines())
        try:
            return [key.fingerprint for key in openpgp.keys(text.strip().encode("utf-8"))]
        except openpgp.OpenPGPError as error:
            node.problem("apt.sources", "a key embedded in a source: %s" % error)
            return None
    held: List[str] = []
    for path in aptsources.keyrings(signed_by):
        if path not in known:
            known[path] = None
            try:
                data = node.data(path)
                if data is not None:
                    known[path] = [key.fingerprint for key in openpgp.keys(data)]
            except (OSError, openpgp.OpenPGPError) as error:
                node.problem("apt.sources", "keyring %s: %s" % (path, error))
        keys = known[path]
        if keys is None:
            return None
        held += keys
    return held or None


def kernel_pattern(kernels: List[str]) -> Optional[str]:
    if not kernels:
        return None
    # A regular expression without a backslash: apt's patterns and shells disagree about them.
    names = "|".join(re.sub(r"([.+])", r"[\1]", kernel) for kernel in sorted(set(kernels)))
    return '?name("^linux-(modules|objects|signatures|headers|image).*-(%s)$")' % names


def parse_policy(text: str) -> Dict[str, Dict[str, Any]]:
    """`apt-cache policy`: name → candidate, installed, versions (newest first); no virtual names."""
    found: Dict[str, Dict[str, Any]] = {}
    entry: Optional[Dict[str, Any]] = None
    for line in text.splitlines():
        name = _POLICY_NAME.match(line)
        if name:
            entry = {"candidate": None, "installed": None, "versions": []}
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
        if version and version.group(1) not in entry["versions"]:
            entry["versions"].append(version.group(1))
    return {name: entry for name, entry in found.items() if entry["versions"]}


def candidates(node: Node, kernels: List[str]) -> Optional[Dict[str, Dict[str, Any]]]:
    """Every package of the chain that apt knows; null when it has no lists."""
    if lists_age(node) is None:
        return None
    patterns = [*PATTERNS]
    of_kernels = kernel_pattern(kernels)
    if of_kernels:
        patterns.append(of_kernels)
    result = node.run(["apt-cache", "policy", *NAMES, *patterns])
    found = parse_policy(result.out)
    if result.rc != 0 or "apt" not in found or "?name" in result.err:
        found = _candidates_by_name(node, kernels)
    found.pop("apt", None)
    return found


def _candidates_by_name(node: Node, kernels: List[str]) -> Dict[str, Dict[str, Any]]:
    """For an apt that does not take patterns here: list all names, then ask for ours."""
    suffixes = tuple("-" + kernel for kernel in kernels)
    names = set(NAMES)
    for name in node.output(["apt-cache", "pkgnames"]).split():
        of_our_kernel = name.startswith("linux-") and name.endswith(suffixes)
        if of_our_kernel or (_CHAIN.match(name) and not _KERNEL.search(name)):
            names.add(name)
    return parse_policy(node.output(["apt-cache", "policy", *sorted(names)]))


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


def facts(node: Node, found: Optional[List[dpkg.Package]], known: Any, upgrades: Any) -> Dict[str, Any]:
    """`known` and `upgrades`: callables that give the answers asked for in the background."""
    if node.which("apt-get") is None:
        raise ProbeError("this node has no apt")
    locked = node.attempt("apt.lock_held", lambda: lock_holder(node) is not None)
    return {
        "lists_age_seconds": node.attempt("apt.lists_age_seconds", lambda: lists_age(node)),
        "sources": node.attempt("apt.sources", lambda: sources(node)),
        "candidates": node.attempt("apt.candidates", known),
        "holds": None if found is None else dpkg.holds(found),
        "unattended_upgrades": node.attempt("apt.unattended_upgrades", upgrades),
        "dpkg_interrupted": node.attempt("apt.dpkg_interrupted", lambda: interrupted(node, found, locked)),
        "lock_held": locked,
    }
