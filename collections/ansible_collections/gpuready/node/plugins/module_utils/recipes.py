# Apache-2.0 (see LICENSE)
"""Derived images (`framework_image_recipes`): recipes read, checked, rendered as Dockerfiles, hashed, judged.

Pure, but for the files of data/image, which are part of this code.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shlex
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from .secrecy import is_secret_key
from .venvs import is_requirement
from .verification import matches
from .wish_words import Problem, given_rows, nearest, truth

REPOSITORY = "gpuready"
#: Where a derived image keeps its own Dockerfile and what it was built with.
FOLDER = "/opt/gpuready"
#: The labels of derived images; what they say is read back in every observation.
LABEL = "io.gpuready."
RECIPE, HASH, BASE, CHECKED = (LABEL + word for word in ("recipe", "recipe_hash", "base", "checked"))

JUPYTER = ("jupyterlab>=4,<5",)
SSH = ("openssh-server",)

KEYS = ("name", "base", "workload", "jupyter", "ssh", "apt", "pip", "env", "commands")
_NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,40}$")
_REFERENCE = re.compile(
    r"^(?:[A-Za-z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[A-Za-z0-9_][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$"
)
_PACKAGE = re.compile(r"^[a-z0-9][a-z0-9+.-]+(?::[a-z0-9]+)?(?:=[0-9A-Za-z.+:~-]+)?$")
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_SOURCE = re.compile(r"^deb\s+(?:\[[^\]]+\]\s+)?[a-z+]+:\S+\s+\S+")
# What `RUN` takes as it stands, in Docker's old builder and in BuildKit alike.
_PLAIN_COMMAND = re.compile(r"^[A-Za-z0-9_./\"'({:][^\n]*[^\\\n]$|^[A-Za-z0-9]$")

# What an image is built with and keeps: the files of data/image.
_FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "data", "image")


class Part(NamedTuple):
    """A file of the build's context."""

    name: str
    mode: str
    content: str


# --- wishes ----------------------------------------------------------------------------------------


def rule(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    """The wish `framework_image_recipes`, normalised: every key there."""
    example = "set %s: [{name: tf-notebook, base: tensorflow-2.9, jupyter: true}]" % name
    given, problem = given_rows(name, value, example)
    if problem:
        return value, problem
    found: List[Dict[str, Any]] = []
    for number, row in enumerate(given, start=1):
        try:
            normal = _recipe(name, number, row)
        except _Wrong as wrong:
            return value, Problem(name, wrong.what, wrong.options)
        if any(other["name"] == normal["name"] for other in found):
            what = "%s names the recipe %r twice" % (name, normal["name"])
            return value, Problem(name, what, ["give each recipe its own name"])
        found.append(normal)
    return found, None


class _Wrong(Exception):
    """What is wrong with a recipe, and the ways out."""

    def __init__(self, what: str, *options: str) -> None:
        super().__init__(what)
        self.what, self.options = what, list(options)


def _recipe(variable: str, number: int, row: Any) -> Dict[str, Any]:
    where = "%s, item %d" % (variable, number)
    if not isinstance(row, Mapping):
        raise _Wrong(
            "%s is %r, but must be a mapping" % (where, row), "{name: tf-notebook, base: tensorflow-2.9}"
        )
    for key in row:
        if key not in KEYS:
            best = nearest(key, KEYS, 1)[0]
            raise _Wrong("%s has the key %r, which is not known" % (where, key), "did you mean %s?" % best)
    name, base = _text(row.get("name")), _text(row.get("base"))
    if not name:
        raise _Wrong("%s has no name" % where, "give it a name")
    if not _NAME.match(name):
        raise _Wrong(
            "%s: %r is no name for a recipe" % (variable, name),
            "use small letters, digits and dashes, at most 41, a letter or digit first",
        )
    where = "%s: %s" % (variable, name)
    if not base:
        raise _Wrong("%s has no base" % where, "name a workload, such as tensorflow-2.9, or an image")
    if not _REFERENCE.match(base):
        raise _Wrong(
            "%s: base is %r, which is neither a workload nor an image" % (where, row.get("base")),
            "name a workload, such as tensorflow-2.9, or an image as docker pull takes it",
        )
    if not is_workload_like(base) and re.search(r"^[^@]*(?:/[^/:@]*|:latest)$", base):
        raise _Wrong(
            "%s: base is %r, which names no version: it is another image every week" % (where, base),
            "give it a tag other than latest, or a digest",
        )
    workload = _text(row.get("workload")) or None
    normal: Dict[str, Any] = {
        "name": name,
        "base": base,
        "workload": workload,
        "jupyter": _truth(where, "jupyter", row),
        "ssh": _truth(where, "ssh", row),
        "apt": _texts(where, "apt", row),
        "pip": _texts(where, "pip", row),
        "env": _environment(where, row.get("env")),
        "commands": _texts(where, "commands", row),
    }
    for item in normal["apt"]:
        if not _PACKAGE.match(item):
            raise _Wrong(
                "%s: apt holds %r, which is no package" % (where, item),
                "write name or name=version, one per item",
            )
    for item in normal["pip"]:
        if not is_requirement(item):
            raise _Wrong(
                "%s: pip holds %r, which is no requirement" % (where, item),
                "write a name with versions, such as pandas<3, and no options, files or addresses",
            )
    return normal


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _truth(where: str, key: str, row: Mapping[str, Any]) -> bool:
    known = truth(row.get(key, False))
    if known is None:
        raise _Wrong("%s: %s is %r, but must be true or false" % (where, key, row[key]), "set %s: true" % key)
    return known


def _texts(where: str, key: str, row: Mapping[str, Any]) -> List[str]:
    value = row.get(key)
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not all(
        isinstance(item, str) and item.strip() for item in values
    ):
        raise _Wrong("%s: %s is %r, but must be a list of strings" % (where, key, value), "set %s: []" % key)
    if any("\0" in item for item in values):
        raise _Wrong("%s: %s holds a NUL character" % (where, key), "take it out")
    return [item.strip() for item in values]


def _environment(where: str, value: Any) -> Dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _Wrong("%s: env is %r, but must be a mapping" % (where, value), 'env: {OMP_NUM_THREADS: "4"}')
    found: Dict[str, str] = {}
    for key, item in value.items():
        if not isinstance(key, str) or not _VARIABLE.match(key):
            raise _Wrong(
                "%s: env has %r, which is no name of a variable" % (where, key), "use letters, digits and _"
            )
        if is_secret_key(key):
            raise _Wrong(
                "%s: env has %s, and what is called so is a secret: everybody who has the image could read it"
                % (where, key),
                "give it to the container when it starts, as a file",
            )
        if (
            isinstance(item, bool)
            or not isinstance(item, (str, int, float))
            or re.search(r"[\n\r\0]", str(item))
        ):
            raise _Wrong("%s: env %s is %r, but must be one line of text" % (where, key, item), "quote it")
        found[key] = str(item)
    return found


def index_rule(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    """An index of Python packages: an address without a login, which would stay in the image's history."""
    text = _text(value)
    if value not in (None, "") and not text:
        return value, Problem(name, "%s is %r, but must be an address" % (name, value), ["set %s: ''" % name])
    if text and not re.match(r"^https?://[^\s/]+(?:/\S*)?$", text):
        return value, Problem(
            name, "%s is %r, which is no http(s) address" % (name, text), ["https://HOST/simple"]
        )
    if "@" in urlsplit(text).netloc:
        return value, Problem(
            name,
            "%s holds a login, which would stay in the image's history" % name,
            ["name an index that the node may read without one (a mirror in the site's own network)"],
        )
    return text, None


def sources_rule(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    """Lines of sources.list."""
    values = [] if value in (None, "") else [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not all(isinstance(item, str) for item in values):
        return value, Problem(
            name, "%s is %r, but must be a list of lines" % (name, value), ["set %s: []" % name]
        )
    for item in values:
        if not _SOURCE.match(item.strip()) or "\n" in item.strip():
            return value, Problem(
                name,
                "%s holds %r, which is no line of a sources.list" % (name, item),
                ["deb http://mirror.example/debian bullseye main"],
            )
        if re.search(r"://[^/\s]*@", item):
            return value, Problem(
                name,
                "%s holds a login, which would stay in the image's history" % name,
                ["name a mirror that the node may read without one"],
            )
    return [item.strip() for item in values], None


# --- what a recipe needs and becomes ----------------------------------------------------------------


def workload_names(recipes: Sequence[Mapping[str, Any]]) -> List[str]:
    """The workloads that recipes are made of, by the names that they use; no images."""
    names = [row["base"] for row in recipes if is_workload_like(row["base"])]
    return list(dict.fromkeys(names + [row["workload"] for row in recipes if row["workload"]]))


def is_workload_like(base: str) -> bool:
    """A workload's name has neither a path nor a tag; an image without both is nobody's (`latest`)."""
    return not re.search(r"[/:@]", base)


def image_of(name: str, digest: str) -> str:
    """The derived image's own name.

    >>> image_of("tf-notebook", "3f" * 32)
    'gpuready/tf-notebook:3f3f3f3f3f3f'
    """
    return "%s/%s:%s" % (REPOSITORY, name, digest[:12])


def dockerfile(recipe: Mapping[str, Any], base_image: str, wheel: Sequence[str] = ()) -> str:
    """The Dockerfile of a recipe; `wheel`: the requirements of the workload that comes in."""
    pip = [*(JUPYTER if recipe["jupyter"] else ()), *recipe["pip"]]
    apt = [*(SSH if recipe["ssh"] else ()), *recipe["apt"]]
    parts = ["Dockerfile", *(part.name for part in parts_of(recipe, bool(wheel)))]
    lines = [
        "# The derived image %s. Made by gpuready (role framework_image) out of framework_image_recipes:"
        % recipe["name"],
        "# change the recipe there, not this file. An image made of it has it as %s/Dockerfile." % FOLDER,
        "FROM %s" % base_image,
        "",
        "# The base's own user comes back at the end.",
        "ARG BASE_USER=0",
        "USER 0",
        "COPY %s %s/" % (" ".join(parts), FOLDER),
    ]
    if apt or pip or wheel:
        lines += [
            "",
            "# Where packages come from, for the time of the build; empty: where the base gets them.",
            "ARG APT_SOURCES",
        ]
    if apt:
        lines += ["RUN %s" % _words("%s/apt-install" % FOLDER, apt)]
    if recipe["ssh"]:
        lines += ["COPY sshd_config /etc/ssh/sshd_config"]
    if recipe["jupyter"] or recipe["ssh"]:
        lines += ["COPY profile.sh /etc/profile.d/gpuready.sh"]
    if wheel:
        lines += [
            "",
            "# %s, from the index of its CUDA variant." % recipe["workload"],
            "ARG WHEEL_INDEX_URL",
            "ARG PIP_INDEX_URL",
            "ARG PIP_TRUSTED_HOST",
            "RUN %s" % _words("%s/pip-install --wheel" % FOLDER, wheel),
        ]
    if pip:
        lines += [] if wheel else ["ARG PIP_INDEX_URL", "ARG PIP_TRUSTED_HOST"]
        lines += ["RUN %s" % _words("%s/pip-install" % FOLDER, pip)]
    if recipe["env"]:
        lines += ["", *("ENV %s=%s" % (key, _quoted(value)) for key, value in sorted(recipe["env"].items()))]
    if recipe["commands"]:
        lines += ["", *("RUN %s" % _command(item) for item in recipe["commands"])]
    return "\n".join([*lines, "", "USER ${BASE_USER}", ""])


def _words(program: str, words: Sequence[str]) -> str:
    return " ".join([program, *(shlex.quote(word) for word in words)])


def _quoted(value: str) -> str:
    """Docker replaces variables in ENV: what is written is what is meant."""
    return '"%s"' % re.sub(r'([\\"$])', r"\\\1", value)


def _command(text: str) -> str:
    """A command as RUN takes it; one that would be read otherwise (lines, here-documents) as words."""
    if _PLAIN_COMMAND.match(text) and "<<" not in text:
        return text
    return json.dumps(["/bin/sh", "-ec", text], ensure_ascii=False)


def parts_of(recipe: Mapping[str, Any], wheel: bool = False) -> List[Part]:
    """What is in the build's context beside the Dockerfile."""
    pip = bool(wheel or recipe["jupyter"] or recipe["pip"])
    names = []
    if pip or recipe["ssh"] or recipe["apt"]:
        # pip-install uses it, where the base has no pip.
        names.append("apt-install")
    if pip:
        names.append("pip-install")
    if recipe["jupyter"] or recipe["ssh"]:
        names += ["workbench", "profile.sh"]
    if recipe["ssh"]:
        names.append("sshd_config")
    return [part(name) for name in names]


@functools.lru_cache(maxsize=None)
def part(name: str) -> Part:
    """A file of the context; programs may be run by everybody."""
    path = os.path.join(_FILES, name)
    with open(path + ".py" if name == "workbench" else path, encoding="utf-8") as handle:
        content = handle.read()
    return Part(name, "0755" if content.startswith("#!") else "0644", content)


def content_hash(text: str, parts: Sequence[Part]) -> str:
    """What makes an image another one; where the packages come from does not."""
    what = {"dockerfile": text, "parts": [list(part) for part in parts]}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode("utf-8")).hexdigest()


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def trusted_host(urls: Sequence[str]) -> str:
    """Hosts whose index speaks plain HTTP, which pip takes only where it is told so.

    >>> trusted_host(["http://mirror:8080/simple", "https://pypi.example/simple"])
    'mirror'
    """
    hosts = [urlsplit(url).hostname or "" for url in urls if url.startswith("http://")]
    return " ".join(dict.fromkeys(hosts))


# --- the check that the derivation left the chain whole ----------------------------------------------


def chain_of(answer: Mapping[str, Any]) -> Dict[str, Any]:
    """What of a probe's answer a derivation may not change."""
    framework = answer.get("framework") or {}
    gpus = [row for row in answer.get("devices") or [] if row.get("device_type") == "GPU"]
    return {
        "framework": framework.get("name"),
        "version": framework.get("version"),
        "cuda": framework.get("cuda"),
        "cudnn": framework.get("cudnn"),
        "archs": framework.get("archs"),
        "built_with_cuda": framework.get("built_with_cuda"),
        "gpus": [str((row.get("details") or {}).get("device_name") or row.get("name")) for row in gpus],
    }


def checked_word(chain: Mapping[str, Any]) -> str:
    """The label that says what was found to be the same.

    >>> checked_word({"cuda": "11.2", "cudnn": "8", "version": "2.9.0"})
    'cuda=11.2 cudnn=8 framework=2.9.0'
    """
    pairs = (("cuda", "cuda"), ("cudnn", "cudnn"), ("framework", "version"))
    return " ".join("%s=%s" % (word, chain.get(key) or "none") for word, key in pairs)


def broken(before: Mapping[str, Any], after: Mapping[str, Any]) -> List[str]:
    """What the derivation changed that it must not, a line each; the one that explains the others first."""
    found = []
    name = after["framework"] or before["framework"] or "the framework"
    if before["framework"] != after["framework"]:
        found.append("the framework is %s, and was %s" % (after["framework"], before["framework"]))
    cpu_only = before["cuda"] and (after["built_with_cuda"] is False or not after["cuda"])
    if cpu_only:
        found.append(
            "%s %s is a CPU-only build, where the base has CUDA %s" % (name, after["version"], before["cuda"])
        )
    elif before["cuda"] != after["cuda"]:
        found.append(
            "%s is built for CUDA %s, where the base has CUDA %s" % (name, after["cuda"], before["cuda"])
        )
    if before["version"] != after["version"]:
        found.append("%s is %s, where the base has %s" % (name, after["version"], before["version"]))
    if before["cudnn"] != after["cudnn"] and not cpu_only:
        found.append(
            "%s is built for cuDNN %s, where the base has %s" % (name, after["cudnn"], before["cudnn"])
        )
    if before["archs"] != after["archs"] and not cpu_only:
        lost = [arch for arch in before["archs"] or [] if arch not in (after["archs"] or [])]
        found.append(
            "%s is built for other GPUs%s" % (name, ", without %s" % ", ".join(lost) if lost else "")
        )
    if before["gpus"] != after["gpus"]:
        found.append(
            "it lists %s, where the base lists %s"
            % tuple(", ".join(row["gpus"]) or "no GPU" for row in (after, before))
        )
    return found


def unexpected(chain: Mapping[str, Any], expect: Mapping[str, str], workload: str) -> List[str]:
    """What a wheel that came in is not, of what its workload promises, a line each."""

    found = []
    name = chain["framework"] or "the framework"
    wanted = expect.get("cuda")
    if wanted and (chain["built_with_cuda"] is False or not chain["cuda"]):
        found.append(
            "%s %s is a CPU-only build, where %s is built for CUDA %s"
            % (name, chain["version"], workload, wanted)
        )
    elif wanted and not matches(chain["cuda"], wanted):
        found.append(
            "%s is built for CUDA %s, where %s is for CUDA %s" % (name, chain["cuda"], workload, wanted)
        )
    wanted = expect.get("framework_version")
    if wanted and not matches(chain["version"], wanted):
        found.append("%s is %s, where %s promises %s" % (name, chain["version"], workload, wanted))
    return found
