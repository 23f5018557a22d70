#!/usr/bin/python
# Copyright: gpuready developers
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: python_environment
short_description: Makes and removes Python environments that are complete before they are used
version_added: "0.1.0"
description:
  - An environment is a folder C(NAME@HASH), and a link C(NAME) beside it. A new one is made next to the
    former one; the link moves when everything is in it and was checked, in one step. Whatever goes wrong
    before that leaves the former environment where it was, and nothing half-made.
  - Only wheels are installed. No code of a package runs while it is installed, and no compiler is needed.
  - The first requirement is the one that decides. After the installation its version and the CUDA that it was
    built with are compared with what was asked for; a CPU-only build or another CUDA's is refused.
  - A former build goes when no process runs out of it; else it is left, and named.
extends_documentation_fragment:
  - gpuready.node.attributes.linux
options:
  path:
    description: The environment's own name, a link; with V(absent) it may be left out.
    type: path
  build:
    description: The folder to build in, O(path), an C(@) and a hash.
    type: path
  builds:
    description: With V(absent), the folders to remove.
    type: list
    elements: path
    default: []
  folders:
    description: With V(absent), folders to remove as well where they are empty then.
    type: list
    elements: path
    default: []
  python:
    description: The interpreter, by its full path.
    type: path
  requirements:
    description: What to install; the first one decides.
    type: list
    elements: str
    default: []
  cuda:
    description: The CUDA version that the first requirement must be built with, to any depth.
    type: str
  index_url:
    description: The index, without a login.
    type: str
  index_login:
    description: Its user and password, as C(user:password). It is in no process list and in no result.
    type: str
  extra_index_url:
    description:
      - A second index. If left out and there is more than one requirement, the one that pip uses anyway.
    type: str
  extra_index_login:
    description: Its user and password.
    type: str
  owner:
    description: Whose environment it is.
    type: str
    default: root
  stamp:
    description: What to write into the environment about itself, with C(hash).
    type: dict
    default: {}
  timeout_seconds:
    description: How long it may take, in seconds.
    type: int
    default: 3600
  state:
    description: Whether it shall be there.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Says what would be made and removed; does nothing.
    support: full
  diff_mode:
    description: Shows the requirements before and after.
    support: full
  idempotent:
    description: A complete environment of the same hash, with the same wheel in it, is left as it is.
    support: full
author:
  - gpuready developers
"""

EXAMPLES = r"""
- name: Make an environment with PyTorch for CUDA 12.4
  gpuready.node.python_environment:
    path: /opt/gpuready/venvs/research
    build: /opt/gpuready/venvs/research@0123456789ab
    python: /usr/bin/python3
    requirements: [torch==2.5.1+cu124, torchvision]
    cuda: "12.4"
    index_url: https://download.pytorch.org/whl/cu124
    stamp: {name: research, workload: pytorch-2.5-cu124, hash: 0123456789abcdef}

- name: Remove an environment
  gpuready.node.python_environment:
    path: /opt/gpuready/venvs/research
    builds: [/opt/gpuready/venvs/research@0123456789ab]
    state: absent
"""

RETURN = r"""
build:
  description: The folder that the link points at.
  returned: success
  type: str
  sample: /opt/gpuready/venvs/research@0123456789ab
packages:
  description: What is installed, by name.
  returned: success
  type: dict
  sample: {torch: 2.5.1+cu124}
removed:
  description: Folders and links that went.
  returned: success
  type: list
  elements: str
  sample: [/opt/gpuready/venvs/research@fedcba987654]
kept:
  description: Former builds that a process still runs out of.
  returned: success
  type: list
  elements: str
  sample: []
reason:
  description:
    - Why it failed - V(owner), V(python), V(foreign), V(unreachable), V(untrusted), V(denied), V(missing),
      V(conflict), V(disk_full), V(timeout), V(cpu_only), V(other_cuda), V(other_version), V(in_use) or
      V(unknown).
  returned: failure
  type: str
  sample: missing
"""

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from typing import Any, Dict, List, Optional, Tuple
from urllib.parse import quote, urlsplit, urlunsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import venvs
from ansible_collections.gpuready.node.plugins.module_utils.observe import venvs as observing
from ansible_collections.gpuready.node.plugins.module_utils.observe.node import Node

# pip's words, and what they mean. The first that fits counts: an index that cannot be reached is in the end
# also one that has nothing.
REASONS: Tuple[Tuple[str, str], ...] = (
    ("disk_full", r"No space left on device"),
    ("untrusted", r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|not a trusted or secure host"),
    (
        "denied",
        r"\b40[137] (?:Client Error|Unauthorized|Forbidden)|HTTP error 40[137]|401 Error, Credentials",
    ),
    (
        "unreachable",
        r"Failed to establish a new connection|NewConnectionError|Name or service not known"
        r"|Connection refused|Temporary failure in name resolution|ConnectTimeoutError|Read timed out"
        r"|Network is unreachable",
    ),
    ("conflict", r"ResolutionImpossible|conflicting dependencies"),
    ("missing", r"No matching distribution found|Could not find a version that satisfies"),
)
SHOWN_LINES = 12


class Failure(Exception):
    """What a person is told; the former environment is as it was."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def with_login(url: str, login: Optional[str]) -> str:
    """The address as pip is given it, in its environment and not in its arguments."""
    if not login:
        return url
    parts = urlsplit(url)
    # A password as people write it, or already quoted for an address.
    login = ":".join(part if "%" in part else quote(part, safe="") for part in login.split(":", 1))
    return urlunsplit(parts._replace(netloc="%s@%s" % (login, parts.netloc)))


def reason_of(text: str) -> str:
    return next((reason for reason, pattern in REASONS if re.search(pattern, text)), "unknown")


def wheel_cuda(site: str, package: str) -> Optional[str]:
    """The CUDA that a wheel says it was built with: a version, "" for none; None where it does not say."""
    try:
        with open(os.path.join(site, package, "version.py"), encoding="utf-8") as handle:
            text = handle.read()
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*(?:None|(['\"])([\d.]+)\1)", text, re.M)
    return None if found is None else (found.group(2) or "")


def matches(actual: str, wanted: str) -> bool:
    return actual.split(".")[: len(wanted.split("."))] == wanted.split(".")


class Environment:
    """One environment, on its way."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.deadline = time.monotonic() + self.params["timeout_seconds"]
        self.node = Node()

    def observed(self) -> Optional[Dict[str, Any]]:
        path, folder = self.params["path"], os.path.dirname(self.params["path"])
        builds = [
            "%s/%s" % (folder, n)
            for n in self.node.listdir(folder)
            if n.startswith(os.path.basename(path) + "@")
        ]
        if not builds and not os.path.lexists(path):
            return None
        return observing.environment(self.node, os.path.basename(path), path, builds, users=True)

    def wanted(self) -> Dict[str, Any]:
        return dict(self.params["stamp"], **{k: self.params[k] for k in ("path", "requirements", "owner")})

    # making --------------------------------------------------------------------------------------------

    def run(self, argv: List[str], what: str, environment: Optional[Dict[str, str]] = None) -> str:
        """Run a command to its end or to the limit; what it printed, or a Failure with its own last words."""
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
        plain.update(LC_ALL="C.UTF-8", PYTHONNOUSERSITE="1", **(environment or {}))
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=plain,
            cwd="/",
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(timeout=max(1.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise Failure(
                "timeout", "%s did not end within %d s" % (what, self.params["timeout_seconds"])
            ) from None
        text = out.decode("utf-8", "replace")
        if process.returncode != 0:
            raise Failure(reason_of(text), "%s failed:\n%s" % (what, last_words(text)))
        return text

    def make(self, before: Optional[Dict[str, Any]]) -> Dict[str, Any]:
        self.check_input(before)
        build = self.free_place(before)
        os.makedirs(os.path.dirname(build), mode=0o755, exist_ok=True)
        try:
            os.mkdir(build, 0o755)
            self.fill(build)
            site = self.site_of(build)
            packages = observing.packages(self.node, build)
            self.check_wheel(site, packages)
            self.write_stamp(build, packages)
            self.give(build)
            self.point_at(build)
        except BaseException:
            shutil.rmtree(build, ignore_errors=True)
            raise
        return {"build": build, "packages": packages}

    def check_input(self, before: Optional[Dict[str, Any]]) -> None:
        if before is not None and before["foreign"]:
            raise Failure("foreign", "%s is there already and was not made by gpuready" % self.params["path"])
        try:
            pwd.getpwnam(self.params["owner"])
        except KeyError:
            raise Failure("owner", "there is no user %s on this node" % self.params["owner"]) from None
        if not os.access(self.params["python"], os.X_OK):
            raise Failure("python", "there is no interpreter %s on this node" % self.params["python"])

    def free_place(self, before: Optional[Dict[str, Any]]) -> str:
        """A folder to build in: scripts know its name, so that it cannot be moved later."""
        inhabited = {row["path"] for row in (before or {}).get("former", []) if row["used_by"]}
        inhabited.add((before or {}).get("target"))
        place, number = self.params["build"], 1
        while place in inhabited:
            number += 1
            place = "%s-%d" % (self.params["build"], number)
        if os.path.lexists(place):  # what an interrupted run left
            shutil.rmtree(place)
        return place

    def fill(self, build: str) -> None:
        self.run([self.params["python"], "-m", "venv", build], "making the environment")
        temporary = os.path.join(build, ".tmp")
        os.mkdir(temporary, 0o700)
        # Settings in the environment and not in the arguments: everybody on the node can read those.
        settings = {
            "PIP_INDEX_URL": with_login(self.params["index_url"], self.params["index_login"]),
            "PIP_NO_INPUT": "1",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_PROGRESS_BAR": "off",
            "PIP_RETRIES": "2",
            "PIP_DEFAULT_TIMEOUT": "30",
            # A wheel is as large as a disk image, and /tmp may be in memory.
            "TMPDIR": temporary,
        }
        extra = self.params["extra_index_url"]
        if extra:
            settings["PIP_EXTRA_INDEX_URL"] = with_login(extra, self.params["extra_index_login"])
        elif len(self.params["requirements"]) > 1:
            settings["PIP_EXTRA_INDEX_URL"] = self.usual_index(build)
        # Whoever writes http:// has accepted what that means.
        plain = [
            urlsplit(url).netloc
            for url in (self.params["index_url"], extra)
            if (url or "").startswith("http://")
        ]
        if plain:
            settings["PIP_TRUSTED_HOST"] = " ".join(sorted(set(plain)))
        python = os.path.join(build, "bin", "python")
        install = [python, "-m", "pip", "install", "--only-binary", ":all:", *self.params["requirements"]]
        self.run(install, "pip install %s" % " ".join(self.params["requirements"]), settings)
        shutil.rmtree(temporary, ignore_errors=True)
        self.run([python, "-m", "pip", "check"], "pip check", {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})

    def usual_index(self, build: str) -> str:
        """Where this node's pip looks without being told: its configuration's index, else its own."""
        python = os.path.join(build, "bin", "python")
        try:
            told = self.run([python, "-m", "pip", "config", "get", "global.index-url"], "pip config").strip()
        except Failure:  # nothing is configured
            told = ""
        if told:
            return told.splitlines()[-1]
        ask = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
        return self.run([python, "-c", ask], "asking pip for its index").strip()

    def site_of(self, build: str) -> str:
        python = os.path.join(build, "bin", "python")
        ask = "import sysconfig; print(sysconfig.get_paths()['platlib'])"
        return self.run([python, "-I", "-c", ask], "asking Python for its folders").strip()

    def check_wheel(self, site: str, packages: Dict[str, str]) -> None:
        """The one that decides: its version, and the CUDA that it was built with."""
        requirement = self.params["requirements"][0]
        name = venvs.plain_name(requirement)
        version = packages.get(name)
        index = self.params["index_url"]
        wanted = requirement.partition("==")[2]
        if wanted and version != wanted:
            raise Failure("other_version", "%s brought %s %s instead of %s" % (index, name, version, wanted))
        cuda, promised = wheel_cuda(site, name), self.params["cuda"]
        if cuda is None or not promised:
            return
        if not cuda:
            raise Failure(
                "cpu_only",
                "%s has %s %s without CUDA: a CPU-only wheel, which can use no GPU" % (index, name, version),
            )
        if not matches(cuda, promised):
            raise Failure(
                "other_cuda",
                "%s has %s %s for CUDA %s instead of %s" % (index, name, version, cuda, promised),
            )

    def write_stamp(self, build: str, packages: Dict[str, str]) -> None:
        stamp = dict(
            self.params["stamp"],
            requirements=self.params["requirements"],
            packages=packages,
            installed_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        path = os.path.join(build, venvs.STAMP)
        with open(path, "w", encoding="utf-8") as handle:
            handle.write(json.dumps(stamp, indent=2, sort_keys=True) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(path, 0o644)

    def give(self, build: str) -> None:
        """Everything in it to its owner; nobody but root could write to it before."""
        owner = pwd.getpwnam(self.params["owner"])
        if owner.pw_uid == 0:
            return
        for folder, folders, files in os.walk(build):
            for entry in [*folders, *files]:
                os.lchown(os.path.join(folder, entry), owner.pw_uid, owner.pw_gid)
        os.lchown(build, owner.pw_uid, owner.pw_gid)

    def point_at(self, build: str) -> None:
        temporary = "%s@.link" % self.params["path"]
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(os.path.basename(build), temporary)
        os.replace(temporary, self.params["path"])

    # removing ------------------------------------------------------------------------------------------

    def clear(self, keep: str) -> Tuple[List[str], List[str]]:
        """(removed, kept) of the former builds."""
        now = self.observed()
        removed, kept = [], []
        for former in (now or {}).get("former", []):
            if former["path"] == keep:
                continue
            if former["used_by"]:
                kept.append(former["path"])
            else:
                remove_tree(former["path"])
                removed.append(former["path"])
        return removed, kept


def remove_tree(path: str) -> None:
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
    else:
        shutil.rmtree(path)


def last_words(text: str) -> str:
    """The end of what pip said, without its advertisements."""
    lines = [line for line in text.rstrip().splitlines() if line.strip() and not line.startswith("[notice]")]
    return "\n".join(lines[-SHOWN_LINES:])


def is_ours(path: str) -> bool:
    """A build's folder, by its name: nothing else is ever removed."""
    return bool(re.match(r"^/[^@]+@(?:[0-9a-f]{12}(?:-\d+)?|\.link)$", path))


def absent(module: AnsibleModule) -> None:
    environment, params = Environment(module), module.params
    path, folders = params["path"], [build for build in params["builds"] if os.path.lexists(build)]
    for build in params["builds"]:
        if not is_ours(build):
            module.fail_json(msg="builds: %s is no build of gpuready's" % build, reason="foreign")
    link = path if path and os.path.islink(path) else None
    if link and not is_ours(os.path.join(os.path.dirname(link), os.readlink(link))):
        module.fail_json(msg="%s was not made by gpuready. Nothing was removed." % link, reason="foreign")
    names = {build: [build] for build in folders}
    if link:
        target = os.path.join(os.path.dirname(link), os.readlink(link))
        names.setdefault(target, [target]).append(link)
    used = observing.used_by(environment.node, names)
    busy = [(build, users) for build, users in used.items() if users]
    if busy:
        said = ["%s is used by process %d (%s)" % (b, u[0]["pid"], u[0]["name"]) for b, u in busy]
        module.fail_json(
            msg="%s. End it and run again. Nothing was removed." % "; ".join(said), reason="in_use"
        )
    gone = ([link] if link else []) + folders
    if not module.check_mode:
        try:
            for item in gone:
                remove_tree(item)
            # The deepest first; one that somebody else put something into stays.
            for folder in sorted(params["folders"], key=len, reverse=True):
                if os.path.isdir(folder) and not os.listdir(folder):
                    os.rmdir(folder)
                    gone.append(folder)
        except OSError as error:
            module.fail_json(msg="cannot remove %s: %s" % (error.filename, error.strerror), reason="unknown")
    module.exit_json(
        changed=bool(gone),
        build=None,
        packages={},
        removed=gone,
        kept=[],
        diff={"before": "".join(item + "\n" for item in gone), "after": ""},
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path"},
            "build": {"type": "path"},
            "builds": {"type": "list", "elements": "path", "default": []},
            "folders": {"type": "list", "elements": "path", "default": []},
            "python": {"type": "path"},
            "requirements": {"type": "list", "elements": "str", "default": []},
            "cuda": {"type": "str"},
            "index_url": {"type": "str"},
            "index_login": {"type": "str", "no_log": True},
            "extra_index_url": {"type": "str"},
            "extra_index_login": {"type": "str", "no_log": True},
            "owner": {"type": "str", "default": "root"},
            "stamp": {"type": "dict", "default": {}},
            "timeout_seconds": {"type": "int", "default": 3600},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ("path", "build", "python", "requirements", "index_url"))],
        supports_check_mode=True,
    )
    params = module.params
    if params["state"] == "absent":
        absent(module)
        return
    for requirement in params["requirements"]:
        if not venvs.is_requirement(requirement):
            module.fail_json(msg="requirements: %r is none" % requirement, reason="unknown")
    if not is_ours(params["build"]) or not params["build"].startswith(params["path"] + "@"):
        module.fail_json(
            msg="build is %s; it must be %s, an @ and 12 hexadecimal digits"
            % (params["build"], params["path"]),
            reason="unknown",
        )
    environment = Environment(module)
    before = environment.observed()
    wrong = venvs.wrong(environment.wanted(), before)
    told = (before or {}).get("stamp") or {}
    diff = {
        "before_header": params["path"],
        "after_header": params["path"],
        "before": "".join("%s\n" % item for item in told.get("requirements") or []),
        "after": "".join("%s\n" % item for item in params["requirements"]),
    }
    result: Dict[str, Any] = {"build": params["build"], "packages": {}, "removed": [], "kept": []}
    try:
        if wrong and module.check_mode:
            environment.check_input(before)
        elif wrong:
            result.update(environment.make(before))
            removed, kept = environment.clear(result["build"])
            result.update(removed=removed, kept=kept)
        elif before is not None:
            result.update(build=before["target"], packages=before["packages"])
    except Failure as failure:
        module.fail_json(msg=str(failure), reason=failure.reason)
    except OSError as error:
        text = "%s: %s" % (error.filename or params["path"], error.strerror or error)
        module.fail_json(msg=text, reason="disk_full" if error.errno == 28 else "unknown")
    module.exit_json(changed=bool(wrong), diff=diff, **result)


if __name__ == "__main__":
    main()
