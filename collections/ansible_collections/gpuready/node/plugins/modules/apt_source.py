#!/usr/bin/python
# Copyright: gpuready developers
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_source
short_description: Manages one apt source with a pinned key
version_added: "0.1.0"
description:
  - Writes one deb822 source to C(/etc/apt/sources.list.d), and the keys that may sign it to its own keyring.
  - A key is taken only when its primary fingerprint is pinned. Fingerprints are computed on the node without
    C(gpg), which minimal systems do not have. Keys that are not pinned are not written.
  - Other enabled sources of the same repository (same URI, whether C(http) or C(https), and same suite) are
    disabled, entry by entry, because apt refuses to work at all when two sources of one repository name
    different keys. Everything else in those files stays. Their former text is kept in
    C(/var/backups/gpuready/apt_source).
  - Before anything goes live, apt itself parses the sources as they would be. All files change, or none.
  - Does not run C(apt-get update).
options:
  name:
    description:
      - What the source is called. Its file is C(/etc/apt/sources.list.d/<name>.sources).
    type: str
    required: true
  state:
    description:
      - V(present) writes the source; V(absent) removes the source and its keyring, and puts back what
        V(present) had disabled, unless somebody has changed that file since.
    type: str
    choices: [present, absent]
    default: present
  types:
    description: Kinds of packages.
    type: list
    elements: str
    choices: [deb, deb-src]
    default: [deb]
  uris:
    description:
      - Where the repository is. C($(ARCH\)) stands for the architecture. Needed for O(state=present).
    type: list
    elements: str
    default: []
  suites:
    description: Suites, or exact paths that end in C(/). Needed for O(state=present).
    type: list
    elements: str
    default: []
  components:
    description: Components; none when the suites are exact paths.
    type: list
    elements: str
    default: []
  architectures:
    description: Architectures; all that dpkg knows when empty.
    type: list
    elements: str
    default: []
  key:
    description: The signing key (or keys) as armored text. Exclusive with O(key_url).
    type: str
  key_url:
    description:
      - Where the signing key (or keys) can be fetched, armored or binary. It is fetched only when the keyring
        does not hold pinned keys already, when the source moves to another O(uris), or with
        O(key_refresh_enabled).
    type: str
  key_fingerprint:
    description:
      - Primary-key fingerprints that are trusted for this source, 40 or 64 hexadecimal digits; spaces, colons
        and a leading C(0x) do not matter. List the coming key as well while a repository rotates its key.
        Needed for O(state=present), unless there is O(signed_by).
    type: list
    elements: str
    default: []
  key_fingerprint_variable:
    description: The variable that sets O(key_fingerprint), for errors that say where to change it.
    type: str
    default: key_fingerprint
  key_refresh_enabled:
    description: Fetch the key even if the keyring is in order, to take over renewed expiry dates and subkeys.
    type: bool
    default: false
  signed_by:
    description:
      - For further components of an archive that the node has already, and whose keys it trusts already. What
        that archive's own source says in Signed-By, such as a keyring's path; empty when it says nothing. No
        key is written then, and no other source is disabled. Exclusive with O(key), O(key_url), O(keyring).
    type: str
  keyring:
    description:
      - The keyring's path; C(/etc/apt/keyrings/<name>.asc) when not given. It is written armored, or binary
        when its name ends in C(.gpg), as apt expects.
    type: path
  timeout_seconds:
    description: How long fetching the key may take, in seconds.
    type: int
    default: 30
attributes:
  check_mode:
    description: Fetches and checks the key, asks apt about the result, and writes nothing.
    support: full
  diff_mode:
    description: Shows every file that changes.
    support: full
  idempotent:
    description: A second run changes nothing and does not fetch the key.
    support: full
author:
  - gpuready developers
"""

EXAMPLES = r"""
- name: Manage NVIDIA's container toolkit repository
  gpuready.node.apt_source:
    name: nvidia-container-toolkit
    uris:
      - https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH)
    suites:
      - /
    key_url: https://nvidia.github.io/libnvidia-container/gpgkey
    key_fingerprint:
      - C95B 321B 61E8 8C18 09C4 F759 DDCA E044 F796 ECB0
  become: true

- name: Remove it, and put back what it had disabled
  gpuready.node.apt_source:
    name: nvidia-container-toolkit
    state: absent
  become: true
"""

RETURN = r"""
file:
  description: The source's path.
  returned: always
  type: str
  sample: /etc/apt/sources.list.d/nvidia-container-toolkit.sources
keyring:
  description: The keyring's path.
  returned: always
  type: str
  sample: /etc/apt/keyrings/nvidia-container-toolkit.asc
fingerprints:
  description: Primary-key fingerprints that the keyring holds (or, in check mode, would hold).
  returned: always
  type: list
  elements: str
  sample: [C95B321B61E88C1809C4F759DDCAE044F796ECB0]
disabled:
  description: Entries of other files that this run disabled.
  returned: always
  type: list
  elements: dict
  contains:
    file:
      description: The file that held the entry.
      type: str
    uris:
      description: The entry's URIs.
      type: list
      elements: str
    suites:
      description: The entry's suites.
      type: list
      elements: str
    signed_by:
      description: The keyring that the entry named.
      type: str
  sample:
    - file: /etc/apt/sources.list.d/libnvidia.list
      uris: [https://example.com/deb]
      suites: [/]
      signed_by: null
restored:
  description: Files that O(state=absent) put back.
  returned: always
  type: list
  elements: str
  sample: [/etc/apt/sources.list.d/libnvidia.list]
"""

import os
import platform
import re
import shutil
import tempfile
from typing import Any, Dict, List, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.gpuready.node.plugins.module_utils import aptsources, openpgp
from ansible_collections.gpuready.node.plugins.module_utils.aptfiles import Backups, Change, Files, sha256

KEY_LIMIT = 4 * 1024 * 1024
MACHINE_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


class Refusal(Exception):
    """Nothing was changed; the text names the value, the place and the fix."""


def check_parameters(params: Dict[str, Any]) -> List[str]:
    """The pinned fingerprints."""
    name = params["name"]
    # apt ignores files with other characters, and would so ignore the source without a word.
    if not re.match(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", name):
        raise Refusal("name is '%s'; apt reads only file names of letters, digits, '_', '-' and '.'" % name)
    if params["keyring"] is not None and not re.match(r"^/\S+\.(asc|gpg)$", params["keyring"]):
        raise Refusal(
            "keyring is '%s'; apt needs an absolute path that ends in .asc (or .gpg), without blanks"
            % params["keyring"]
        )
    if params["state"] == "absent":
        return []
    trusted = params["signed_by"] is not None
    for parameter in ("uris", "suites", *(() if trusted else ("key_fingerprint",))):
        if not params[parameter]:
            raise Refusal("%s is empty; apt_source '%s' needs it for state=present" % (parameter, name))
    if trusted and re.search(r"\n|BEGIN PGP", params["signed_by"]):
        raise Refusal(
            "signed_by of apt_source '%s' holds more than a path or fingerprints; a key is given with key"
            % name
        )
    if not trusted and not params["key"] and not params["key_url"]:
        raise Refusal("apt_source '%s' needs the signing key: give key or key_url" % name)
    for uri in params["uris"]:
        if not re.match(r"^[A-Za-z][A-Za-z0-9+.-]*:\S+$", uri):
            raise Refusal("uris holds '%s', which is not a URI such as https://example.com/debian" % uri)
    for parameter in ("suites", "components", "architectures"):
        for value in params[parameter]:
            if not re.match(r"^\S+$", value):
                raise Refusal(
                    "%s holds '%s'; give each in an item of its own, without blanks" % (parameter, value)
                )
    exact = [suite for suite in params["suites"] if suite.endswith("/")]
    if exact and params["components"]:
        raise Refusal(
            "components is %s, but the suite '%s' is an exact path, which has none; leave components empty"
            % (params["components"], exact[0])
        )
    if not params["components"] and len(exact) < len(params["suites"]):
        raise Refusal("components is empty, but the suite '%s' needs at least one" % params["suites"][0])
    try:
        return [openpgp.normalise_fingerprint(text) for text in params["key_fingerprint"]]
    except openpgp.OpenPGPError as error:
        raise Refusal("key_fingerprint of apt_source '%s': %s" % (name, error)) from None


def fetch(url: str, timeout: int) -> bytes:
    try:
        with open_url(url, timeout=timeout, http_agent="gpuready") as response:
            data: bytes = response.read(KEY_LIMIT)
    except Exception as error:  # urllib, ssl, socket and http.client each have their own
        raise Refusal("cannot fetch the key from %s (key_url): %s" % (url, error)) from None
    return data


def choose_keys(data: bytes, pinned: List[str], source: str, name: str, variable: str) -> List[openpgp.Key]:
    try:
        found = openpgp.keys(data)
    except openpgp.OpenPGPError as error:
        raise Refusal(
            "the key of apt_source '%s' from %s cannot be used: %s" % (name, source, error)
        ) from None
    chosen = openpgp.select(found, pinned)
    if not chosen:
        held = ", ".join("%s (%s)" % (key.fingerprint, "; ".join(key.user_ids) or "no name") for key in found)
        raise Refusal(
            "the key of apt_source '%s' from %s is not the pinned one: expected %s, found %s. If its owner"
            " announces this key, add its fingerprint to %s; otherwise do not trust the"
            " repository. Nothing was changed" % (name, source, " or ".join(pinned), held, variable)
        )
    return chosen


def keyring_in_order(data: Optional[bytes], pinned: List[str]) -> Optional[List[str]]:
    """The fingerprints in a keyring that holds pinned keys and no others; null otherwise."""
    if data is None:
        return None
    try:
        held = [key.fingerprint for key in openpgp.keys(data)]
    except openpgp.OpenPGPError:
        return None
    return held if set(held) <= set(pinned) else None


def uris(source: bytes) -> List[bytes]:
    """What a deb822 source says about where the repository is."""
    return [line.split(b":", 1)[1].strip() for line in source.splitlines() if line.startswith(b"URIs:")]


def architecture(module: AnsibleModule) -> str:
    dpkg = module.get_bin_path("dpkg")
    if dpkg:
        rc, out, _err = module.run_command([dpkg, "--print-architecture"])
        if rc == 0 and out.strip():
            return str(out.strip())
    return MACHINE_ARCH.get(platform.machine(), platform.machine())


class Source:
    """One managed source."""

    def __init__(self, params: Dict[str, Any], files: Files, arch: str) -> None:
        self.params = params
        self.files = files
        self.arch = arch
        self.name: str = params["name"]
        self.path = "%s/%s.sources" % (aptsources.PARTS, self.name)
        self.keyring: str = params["keyring"] or "/etc/apt/keyrings/%s.asc" % self.name
        self.backups = Backups(files, self.name)
        self.disabled: List[Dict[str, Any]] = []
        self.restored: List[str] = []
        self.fingerprints: List[str] = []
        self.warnings: List[str] = []

    def present(self, pinned: List[str]) -> List[Change]:
        params = self.params
        trusted = params["signed_by"] is not None
        wanted = aptsources.render(
            params["types"],
            params["uris"],
            params["suites"],
            params["components"],
            params["architectures"],
            params["signed_by"] if trusted else self.keyring,
        ).encode("utf-8")
        before = self.files.read(self.path)
        # Another repository is signed by a key of its own, whatever the former one's keyring holds.
        moved = before is not None and uris(before) != uris(wanted)
        changes = [] if trusted else [*self._keys(pinned, moved), *self._conflicting()]
        if before != wanted:
            changes.append(Change(self.path, before, wanted, self._foreign(self.path, before)))
        return self.backups.changes([change for change in changes if change.keep]) + changes

    def _keys(self, pinned: List[str], moved: bool) -> List[Change]:
        """The keyring, if it has to change."""
        params = self.params
        ring = self.files.read(self.keyring)
        fresh = moved or params["key_refresh_enabled"] or params["key"]
        held = None if fresh else keyring_in_order(ring, pinned)
        if held is not None:
            self.fingerprints = held
        else:
            data = (
                params["key"].encode("utf-8")
                if params["key"]
                else fetch(params["key_url"], params["timeout_seconds"])
            )
            source = "the parameter key" if params["key"] else params["key_url"]
            chosen = choose_keys(data, pinned, source, self.name, params["key_fingerprint_variable"])
            self.fingerprints = [key.fingerprint for key in chosen]
            new_ring = openpgp.keyring(chosen, armored=not self.keyring.endswith(".gpg"))
            if new_ring != ring:
                return [Change(self.keyring, ring, new_ring, self._foreign(self.keyring, ring))]
        return []

    def _foreign(self, path: str, data: Optional[bytes]) -> bool:
        """Somebody else's file in our place: not empty, and not one that we wrote."""
        if not data:
            return False
        if path == self.path:
            return not data.startswith(b"# Managed by gpuready (apt_source).")
        # A keyring is ours when our source is there and names it.
        own = self.files.read(self.path) or b""
        return ("Signed-By: %s\n" % path).encode("utf-8") not in own

    def _conflicting(self) -> List[Change]:
        repository = aptsources.Repository.of(self.params["uris"], self.params["suites"], self.arch)
        paths = [aptsources.LIST_FILE]
        paths += ["%s/%s" % (aptsources.PARTS, part) for part in self.files.listdir(aptsources.PARTS)]
        changes = []
        for path in paths:
            if path == self.path or (
                path != aptsources.LIST_FILE and not aptsources.is_part(os.path.basename(path))
            ):
                continue
            data = self.files.read(path)
            if not data:
                continue
            # Text that is not UTF-8 (a remark in Latin-1) has to come back as it was.
            text = data.decode("utf-8", "surrogateescape")
            found = [
                item
                for item in aptsources.overlaps(path, text, repository, self.arch)
                if self._in_the_way(item.entry)
            ]
            if not found:
                continue
            after = aptsources.disable(path, text, found, self.name).encode("utf-8", "surrogateescape")
            changes.append(Change(path, data, after, True))
            self.disabled += [
                {
                    "file": path,
                    "uris": item.entry.uris,
                    "suites": item.entry.suites,
                    "signed_by": item.entry.facts(path)["signed_by"],
                }
                for item in found
            ]
        return changes

    def _in_the_way(self, entry: aptsources.Entry) -> bool:
        """The same packages again, or the same repository with other keys."""
        if set(entry.types) & set(self.params["types"]):
            return True
        return aptsources.keyrings(entry.signed_by) != [self.keyring]

    def absent(self) -> List[Change]:
        changes = []
        entries = self.backups.entries()
        latest = {entry["path"]: entry for entry in entries}
        for path in (self.path, self.keyring):
            before = self.files.read(path)
            kept = latest.pop(path, None)
            after = self.files.read(kept["backup"]) if kept else None
            if kept:
                self.restored.append(path)
            if path == self.path and kept is None and self._foreign(path, before):
                self.warnings.append("%s was not written by apt_source; it stays" % path)
                continue
            if path == self.keyring and kept is None and not self._removable(before):
                continue
            if before != after:
                changes.append(Change(path, before, after, False))
        for path, entry in latest.items():
            before = self.files.read(path)
            if before is None or sha256(before) != entry["left"]:
                self.warnings.append(
                    "%s has changed since apt_source '%s' disabled an entry in it, so it stays as it is; its"
                    " former text is in %s" % (path, self.name, entry["backup"])
                )
                continue
            changes.append(Change(path, before, self.files.read(entry["backup"]), False))
            self.restored.append(path)
        if entries and not self.warnings:
            for path in [*(entry["backup"] for entry in entries), self.backups.index]:
                changes.append(Change(path, self.files.read(path), None, False))
        elif entries:
            # What could not be put back stays in reach, but is not tried again.
            index = self.files.read(self.backups.index)
            changes.append(Change(self.backups.index, index, None, False))
            changes.append(Change(self.backups.index + ".done", None, index, False))
        return changes

    def _removable(self, before: Optional[bytes]) -> bool:
        """A keyring goes with the source that names it; one that nothing of ours names is not ours."""
        return before is not None and not self._foreign(self.keyring, before)


def ask_apt(module: AnsibleModule, files: Files, changes: List[Change]) -> Optional[str]:
    """apt's own complaint about the sources as they would be; null when it has none."""
    apt_get = module.get_bin_path("apt-get")
    if not apt_get:
        return None
    coming = {change.path: change.after for change in changes}
    with tempfile.TemporaryDirectory(prefix="gpuready-apt-") as directory:
        parts = os.path.join(directory, "parts")
        os.mkdir(parts)
        names = [
            aptsources.PARTS + "/" + name
            for name in files.listdir(aptsources.PARTS)
            if aptsources.is_part(name)
        ]
        for path in {aptsources.LIST_FILE, *names, *coming}:
            data = coming[path] if path in coming else files.read(path)
            if data is None:
                continue
            target = os.path.join(directory, "sources.list") if path == aptsources.LIST_FILE else None
            if os.path.dirname(path) == aptsources.PARTS:
                target = os.path.join(parts, os.path.basename(path))
            if target:
                with open(target, "wb") as handle:
                    handle.write(data)
        rc, _out, err = module.run_command(
            [
                apt_get,
                "indextargets",
                "-o",
                "Dir::Etc::sourcelist=" + os.path.join(directory, "sources.list"),
                "-o",
                "Dir::Etc::sourceparts=" + parts,
            ],
            environ_update={"LC_ALL": "C", "LANGUAGE": ""},
        )
    return None if rc == 0 else " ".join(str(err).replace(directory + "/parts", aptsources.PARTS).split())


def diff_of(changes: List[Change]) -> List[Dict[str, str]]:
    return [
        {
            "before_header": change.path,
            "after_header": change.path,
            "before": (change.before or b"").decode("utf-8", "replace"),
            "after": (change.after or b"").decode("utf-8", "replace"),
        }
        for change in changes
        if not change.path.startswith("/var/backups/")
    ]


def tidy(files: Files, name: str) -> None:
    """Empty backup directories are no use to anybody."""
    directory = files.at(Backups(files, name).directory)
    if os.path.isdir(directory) and not os.listdir(directory):
        shutil.rmtree(directory)


def converge(module: AnsibleModule, files: Files) -> Tuple[Source, List[Change]]:
    params = module.params
    pinned = check_parameters(params)
    source = Source(params, files, architecture(module))
    changes = source.present(pinned) if params["state"] == "present" else source.absent()
    if changes:
        complaint = ask_apt(module, files, changes)
        if complaint and (params["state"] == "absent" or ask_apt(module, files, [])):
            # Not of our making: other sources are broken now, and may be repaired after this one.
            source.warnings.append("apt refuses this node's sources: %s" % complaint)
        elif complaint:
            raise Refusal(
                "apt would refuse this node's sources with apt_source '%s', so nothing was changed: %s"
                % (source.name, complaint)
            )
    return source, changes


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "types": {"type": "list", "elements": "str", "choices": ["deb", "deb-src"], "default": ["deb"]},
            "uris": {"type": "list", "elements": "str", "default": []},
            "suites": {"type": "list", "elements": "str", "default": []},
            "components": {"type": "list", "elements": "str", "default": []},
            "architectures": {"type": "list", "elements": "str", "default": []},
            "key": {"type": "str", "no_log": False},
            "key_url": {"type": "str", "no_log": False},
            "key_fingerprint": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "key_fingerprint_variable": {"type": "str", "default": "key_fingerprint", "no_log": False},
            "key_refresh_enabled": {"type": "bool", "default": False, "no_log": False},
            "signed_by": {"type": "str"},
            "keyring": {"type": "path", "no_log": False},
            "timeout_seconds": {"type": "int", "default": 30},
        },
        mutually_exclusive=[
            ("key", "key_url"),
            *(("signed_by", key) for key in ("key", "key_url", "keyring")),
        ],
        supports_check_mode=True,
    )
    files = Files()
    try:
        source, changes = converge(module, files)
    except Refusal as refusal:
        module.fail_json(msg=str(refusal))
    except OSError as error:
        module.fail_json(msg="apt_source '%s' cannot read apt's files: %s" % (module.params["name"], error))
    if changes and not module.check_mode:
        try:
            files.apply(changes)
            tidy(files, source.name)
        except OSError as error:
            module.fail_json(
                msg="apt_source '%s' could not write, and put everything back: %s" % (source.name, error)
            )
    for warning in source.warnings:
        module.warn(warning)
    result: Dict[str, Any] = {
        "changed": bool(changes),
        "file": source.path,
        "keyring": source.keyring,
        "fingerprints": source.fingerprints,
        "disabled": source.disabled,
        "restored": source.restored,
    }
    if module._diff:
        result["diff"] = diff_of(changes)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
