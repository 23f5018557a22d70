# Apache-2.0 (see LICENSE)
"""`gpuready bundle`: support bundles out of a report's files, without asking the nodes again."""

from __future__ import annotations

import argparse
import datetime
import json
import os
from collections.abc import Mapping
from typing import Any

from ..inputs import Trouble, read_log, read_text

OK = 0
LATEST = "artifacts/latest"


def add(verbs: Any) -> None:
    """The subcommand's arguments."""
    packing = verbs.add_parser(
        "bundle",
        help="one archive per node for support: facts, plan, diagnosis, logs, without secrets and names",
        description="Makes one archive per node out of a run's report. Secrets, users and addresses "
        "are taken out.",
    )
    packing.add_argument(
        "path", nargs="?", default=LATEST, help="a run's folder or a node's file (default: %s)" % LATEST
    )
    packing.add_argument(
        "--host", action="append", default=[], metavar="NAME", help="only this node; repeat it"
    )
    packing.add_argument(
        "--log", action="append", default=[], metavar="FILE", help="another log to put in; repeat it"
    )
    packing.add_argument("--output", default=".", metavar="FOLDER", help="where to (default: here)")
    packing.add_argument("--keep-hostnames", action="store_true", help="names of machines stay")
    packing.set_defaults(run=run)


def _documents(path: str) -> list[Mapping[str, Any]]:
    if os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if name.endswith(".json") and name != "fleet.json")
        paths = [os.path.join(path, name) for name in names]
        if not paths:
            raise Trouble("%s: no node's report in it" % path)
    else:
        paths = [path]
    found: list[Mapping[str, Any]] = []
    for one in paths:
        try:
            data = json.loads(read_text(one))
        except json.JSONDecodeError as error:
            raise Trouble("%s: not JSON: %s" % (one, error)) from error
        if (
            not isinstance(data, dict)
            or not isinstance(data.get("gpu_stack"), (dict, type(None)))
            or "host" not in data
        ):
            raise Trouble("%s: not a node's report (host, gpu_stack, …)" % one)
        found.append(data)
    return found


def run(options: argparse.Namespace, catalog: Any) -> int:
    """Write the archives and print their paths."""
    # Only here, for the other subcommands should not wait for it.
    from . import bundle

    documents = _documents(options.path)
    names = [str(document["host"]) for document in documents]
    for name in options.host:
        if name not in names:
            raise Trouble("--host %s: not in %s (there: %s)" % (name, options.path, ", ".join(names)))
    logs = {os.path.basename(path): read_log(path) for path in options.log}
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    created = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    written: set[str] = set()
    for document in documents:
        if options.host and document["host"] not in options.host:
            continue
        contents = bundle.files(
            document,
            logs=logs,
            created=created,
            keep_hosts=options.keep_hostnames,
            hosts=tuple(sorted(names)),
        )
        folder = bundle.name_of(contents, created)
        name = folder
        while name in written:
            name += "+"
        written.add(name)
        try:
            print(bundle.write(options.output, name, folder, contents, int(now.timestamp())))
        except OSError as error:
            raise Trouble("--output %s: %s" % (options.output, error.strerror)) from error
    return OK
