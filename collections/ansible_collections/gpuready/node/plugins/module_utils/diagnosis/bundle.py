# Apache-2.0 (see LICENSE)
"""A support bundle: one archive per node with what is known of it, and nothing that is nobody's business.

:func:`files` makes the contents out of a node's document (docs/contracts.md, section 6) and its logs, and is
pure; :func:`write` makes the archive.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Mapping
from typing import Any

from .redaction import Redactor
from .render import ASCII_SYMBOLS, render

SCHEMA = 1
#: Of each log, the last so many characters: what happened last is what counts.
LOG_CHARACTERS = 400_000

README = """\
gpuready support bundle
=======================

What is known of one node, for whoever helps. Begin with diagnosis.txt.

  diagnosis.txt      what is wrong, by which evidence, what to do
  diagnosis.json     the same for programs
  facts.json         the observation, and what probes found in containers
  plan.json          what site.yml would do
  verification.json  what the workloads' containers said
  run.json           what the run did, and how it ended
  logs/              the kernel's lines about the GPU, the engine's, the driver's, apt's
  manifest.json      the files with their digests, and how often what was taken out

Taken out: passwords, tokens and keys (***), names of users (user-1), e-mail, IP and MAC addresses
(email-1, ip-1, mac-1)%(hosts)s. The same name stands for the same thing throughout.
Serial numbers and UUIDs are digests, the same in every bundle. Look through it before you hand it on
all the same: a log can say anything.
"""
HOSTS_GONE = ", names of machines (host-1)"
HOSTS_KEPT = "; names of machines were kept on request"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n"


def _logs(document: Mapping[str, Any], logs: Mapping[str, str]) -> dict[str, str]:
    """The logs that came with the facts, and those that were read besides."""
    found: dict[str, str] = {}
    stack = document.get("gpu_stack") or {}
    kernel = (stack.get("host") or {}).get("kernel_log") or {}
    if kernel.get("lines"):
        found["kernel.log"] = "\n".join(map(str, kernel["lines"]))
    docker = ((stack.get("container_runtime") or {}).get("docker") or {}).get("log")
    if docker:
        found["dockerd.log"] = "\n".join(map(str, docker)) if isinstance(docker, list) else str(docker)
    for number, item in enumerate(document.get("verification") or []):
        if isinstance(item, Mapping) and item.get("log"):
            found["verification-%d-%s.log" % (number + 1, _file_name(str(item.get("workload"))))] = str(
                item["log"]
            )
    container = document.get("container")
    if isinstance(container, Mapping) and container.get("log"):
        found["container.log"] = str(container["log"])
    for name, text in logs.items():
        if text and text.strip():
            found[
                _file_name(name) if _file_name(name).endswith((".log", ".txt")) else _file_name(name) + ".log"
            ] = text
    return found


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "log"


def files(
    document: Mapping[str, Any],
    *,
    logs: Mapping[str, str] | None = None,
    created: str,
    keep_hosts: bool = False,
    hosts: tuple[str, ...] = (),
    users: tuple[str, ...] = (),
) -> dict[str, str]:
    """``{name: text}`` of the bundle, redacted. `created` is a UTC time such as ``2026-11-23T10:00:00Z``."""
    host = str(document.get("host") or "node")
    raw_logs = _logs(document, logs or {})
    redactor = Redactor(keep_hosts=keep_hosts, hosts=(*hosts, host), users=users)
    redactor.learn(document)
    redactor.learn(list(raw_logs.values()))
    clean = redactor.value(dict(document))
    parts: dict[str, str] = {}
    diagnosis = clean.get("diagnosis")
    if isinstance(diagnosis, Mapping) and diagnosis.get("causes") is not None:
        parts["diagnosis.txt"] = render(diagnosis, symbols=ASCII_SYMBOLS)
        parts["diagnosis.json"] = _json(diagnosis)
    facts = {
        name: clean[name]
        for name in ("gpu_stack", "container", "framework", "platform", "probes", "commands")
        if clean.get(name)
    }
    if facts:
        parts["facts.json"] = _json(facts)
    if clean.get("plan"):
        parts["plan.json"] = _json(clean["plan"])
    if clean.get("verification"):
        parts["verification.json"] = _json(clean["verification"])
    kept = ("gpu_stack", "plan", "verification", "diagnosis", *facts)
    parts["run.json"] = _json({name: value for name, value in clean.items() if name not in kept})
    for name, text in sorted(raw_logs.items()):
        parts["logs/" + redactor.text(name)] = redactor.text(text[-LOG_CHARACTERS:]).rstrip("\n") + "\n"
    parts = {name: text if text.endswith("\n") else text + "\n" for name, text in parts.items()}
    readme = README % {"hosts": HOSTS_KEPT if keep_hosts else HOSTS_GONE}
    manifest = {
        "schema": SCHEMA,
        "host": clean.get("host"),
        "simulated": bool(document.get("simulated")),
        "created": created,
        "status": document.get("status"),
        "hosts_kept": keep_hosts,
        "taken_out": dict(sorted(redactor.counts.items())),
        "files": [
            {"name": name, "bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
            for name, text in sorted(parts.items())
        ],
    }
    return {"README.txt": readme, "manifest.json": _json(manifest), **parts}


def name_of(contents: Mapping[str, str], created: str) -> str:
    """The archive's name: the host's name in the bundle, which may be a pseudonym, is no use outside it."""
    stamp = re.sub(r"[^0-9TZ]", "", created)
    return "gpuready-bundle-%s-%s" % (
        _file_name(str(json.loads(contents["manifest.json"])["host"] or "node")),
        stamp,
    )


def archive(contents: Mapping[str, str], folder: str, mtime: int) -> bytes:
    """A .tar.gz of it: the same contents and time give the same bytes."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, text in contents.items():
            data = text.encode()
            entry = tarfile.TarInfo("%s/%s" % (folder, name))
            entry.size, entry.mtime, entry.mode = len(data), mtime, 0o600
            tar.addfile(entry, io.BytesIO(data))
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=mtime) as stream:
        stream.write(plain.getvalue())
    return packed.getvalue()


def write(directory: str, name: str, folder: str, contents: Mapping[str, str], mtime: int) -> str:
    """Write the archive, readable by its owner alone; never half of it. Returns its path."""
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, name + ".tar.gz")
    partial = path + ".part"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(archive(contents, folder, mtime))
    os.replace(partial, path)
    return path
