# Apache-2.0 (see LICENSE)
"""The environments that an inventory declares (`framework_venv_environments`), read and hashed. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .wish_words import Problem, given_rows, nearest

DIRECTORY = "/opt/gpuready/venvs"
#: The role's record on the node (install_record): where it made environments, whatever the variable says now.
RECORD = "/var/lib/gpuready/framework_venv.json"
STAMP = "gpuready.json"
#: What comes along with a wheel and makes up its CUDA: as much a part of it as the wheel itself.
PARTS = ("nvidia-", "triton", "pytorch-triton")
KEYS = ("name", "workload", "python", "packages", "owner")
_NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,40}$")
_PYTHON = re.compile(r"^(?:python3(?:\.\d+)?|/[^\s:@]+)$")
_OWNER = re.compile(r"^[a-z_][a-z0-9_-]{0,31}\$?$")
# A requirement as pip reads it: a name, extras, versions, a marker; no options, files or addresses.
_REQUIREMENT = re.compile(
    r"^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\s*(?:\[[A-Za-z0-9._,\s-]*\])?"
    r"\s*(?:(?:===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+(?:\s*,\s*(?:===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+)*)?"
    r"\s*(?:;.*)?$"
)


def plain_name(requirement: str) -> str:
    """The distribution that a requirement is about, as indexes compare names.

    >>> plain_name("Torch_Vision[extra]>=0.20 ; python_version > '3.8'")
    'torch-vision'
    """
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[=~!<>;]", requirement.strip(), maxsplit=1)[0]).lower()


def is_requirement(text: str) -> bool:
    """Can pip read it, and is it a name with versions and no more?"""
    return bool(_REQUIREMENT.match(text.strip()))


def environments_rule(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    """The wish `framework_venv_environments`, normalised: every key there."""
    example = "set %s: [{name: research, workload: pytorch-2.5-cu124}]" % name
    given, problem = given_rows(name, value, example)
    if problem:
        return value, problem
    found: List[Dict[str, Any]] = []
    for number, row in enumerate(given, start=1):
        normal, problem = _environment(name, number, row)
        if problem:
            return value, problem
        if any(other["name"] == normal["name"] for other in found):
            what = "%s names the environment %r twice" % (name, normal["name"])
            return value, Problem(name, what, ["give each its own name"])
        found.append(normal)
    return found, None


def directory_rule(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    """The wish `framework_venv_directory`: a folder of its own, by its full path."""
    text = str(value or "").strip().rstrip("/")
    # Scripts in an environment begin with its path, and the kernel takes 127 characters of that line.
    if not re.match(r"^(?:/[A-Za-z0-9._+-]+){2,}$", text) or "/../" in text + "/" or len(text) > 60:
        options = ["set %s: %s" % (name, DIRECTORY)]
        what = (
            "%s is %r, but must be a full path of two parts or more, without blanks, of 60 characters at most"
        )
        return value, Problem(name, what % (name, value), options)
    return text, None


def index_rule(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    """An address of a package index; empty = the usual one."""
    text = str(value or "").strip()
    if text and not re.match(r"^(?:https?|file)://[^\s]+$", text):
        what = "%s is %r, which is no address of an index" % (name, value)
        return value, Problem(name, what, ["write it with its scheme, such as https://HOST/whl/$(TAG)"])
    return text, None


def _environment(variable: str, number: int, row: Any) -> Tuple[Dict[str, Any], Optional[Problem]]:
    def problem(what: str, *options: str) -> Tuple[Dict[str, Any], Problem]:
        return {}, Problem(variable, what, list(options))

    where = "%s, item %d" % (variable, number)
    if not isinstance(row, dict):
        return problem(
            "%s is %r, but must be a mapping" % (where, row), "{name: research, workload: pytorch-2.5-cu124}"
        )
    for key in row:
        if key not in KEYS:
            return problem(
                "%s has the key %r, which is not known" % (where, key),
                "did you mean %s?" % nearest(key, KEYS, 1)[0],
            )
    for key in ("name", "workload"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            return problem("%s has no %s" % (where, key), "give it a %s" % key)
    name = row["name"].strip()
    where = "%s: %s" % (variable, name)
    if not _NAME.match(name):
        return problem(
            "%s: %r is no name for an environment" % (variable, name),
            "use small letters, digits and dashes, at most 41, a letter or digit first",
        )
    python = row.get("python") if row.get("python") not in (None, "") else "python3"
    # YAML reads 3.10 as 3.1: a number is refused, whichever it is.
    if not isinstance(python, str) or not _PYTHON.match(python):
        return problem(
            "%s: python is %r, which is no interpreter" % (where, python),
            "name one (python3, python3.11) or give its full path",
        )
    owner = row.get("owner") if row.get("owner") not in (None, "") else "root"
    if not isinstance(owner, str) or not _OWNER.match(owner):
        return problem("%s: owner is %r, which is no user's name" % (where, owner), "name a user of the node")
    packages = row.get("packages")
    packages = [] if packages is None else [packages] if isinstance(packages, str) else packages
    if not isinstance(packages, (list, tuple)) or not all(isinstance(item, str) for item in packages):
        return problem(
            "%s: packages is %r, but must be a list of requirements" % (where, packages), "packages: [numpy]"
        )
    for item in packages:
        if not is_requirement(item):
            return problem(
                "%s: packages holds %r, which is no requirement" % (where, item),
                "write a name with versions, such as torchvision or numpy<3",
                "put files and addresses into an index: pip's options are not taken here",
            )
    normal = {
        "name": name,
        "workload": row["workload"].strip(),
        "python": python,
        "packages": [item.strip() for item in packages],
        "owner": owner,
    }
    return normal, None


def workload_names(environments: Sequence[Dict[str, Any]]) -> List[str]:
    """The workloads that environments hold."""
    return [row["workload"] for row in environments]


def interpreters(environments: Sequence[Dict[str, Any]]) -> List[str]:
    """The interpreters that are given by their full path: nobody would look there unasked."""
    return sorted({row["python"] for row in environments if row["python"].startswith("/")})


def content_hash(name: str, python: Optional[str], requirements: Sequence[str], owner: str) -> str:
    """What makes an environment another one. Where the packages come from does not."""
    what = {"name": name, "python": python, "requirements": list(requirements), "owner": owner}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode("utf-8")).hexdigest()


def wrong(row: Mapping[str, Any], have: Optional[Mapping[str, Any]]) -> List[str]:
    """Evidence that an environment is not what is wanted; nothing where it is."""
    path = row["path"]
    if have is None or have["target"] is None:
        left = " (a build was begun and not finished)" if have and have["former"] else ""
        return ["%s is not there%s" % (path, left)]
    stamp = have["stamp"] or {}
    if not have["complete"]:
        return ["%s is incomplete" % path]
    if stamp.get("hash") != row.get("hash"):
        return ["%s was made for %s" % (path, _made_for(stamp, row))]
    found = []
    if have["owner"] != row["owner"]:
        found.append("%s belongs to %s, not to %s" % (path, have["owner"], row["owner"]))
    before: Mapping[str, Any] = stamp.get("packages") or {}
    wheel = plain_name(row["requirements"][0])
    for name, version in sorted(before.items()):
        now = have["packages"].get(name)
        if (name == wheel or name.startswith(PARTS)) and now != version:
            found.append("%s has %s %s, where %s was installed" % (path, name, now or "no more", version))
    for requirement in row["requirements"][1:]:
        if plain_name(requirement) not in have["packages"]:
            found.append("%s has no %s" % (path, plain_name(requirement)))
    return found


def _made_for(stamp: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    if stamp.get("workload") != row.get("workload"):
        return "%s, not for %s" % (stamp.get("workload"), row.get("workload"))
    before = [name for name in stamp.get("requirements") or [] if name not in row["requirements"]]
    now = [name for name in row["requirements"] if name not in (stamp.get("requirements") or [])]
    if before or now:
        return "%s, not for %s" % (", ".join(before) or "less", ", ".join(now) or "less")
    if stamp.get("python_version") != row.get("python_version"):
        return "Python %s, not for %s" % (stamp.get("python_version"), row.get("python_version"))
    return "another owner or name"
