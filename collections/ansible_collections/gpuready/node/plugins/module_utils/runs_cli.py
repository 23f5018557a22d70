# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""`gpuready run` and `gpuready distribute`: a run, and what came of it as data. Controller only."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import report
from .inputs import Trouble, read_text

OK = 0
SOME_FAILED = 2
CODES = "exit codes: 0 every node is as asked for, 1 bad question (nothing was started), 2 some are not"


def add(verbs: Any) -> None:
    """The subcommands' arguments."""
    running = verbs.add_parser(
        "run",
        help="run a playbook and hand over its result as data",
        description="Runs one of gpuready's playbooks through ansible-runner. With --json, what Ansible says "
        "goes to standard error, so that standard output is the result alone.",
        epilog=CODES,
    )
    _common(running)
    running.set_defaults(run=run)

    spreading = verbs.add_parser(
        "distribute",
        help="run a playbook in slices on execution nodes; one report",
        description="Deals the inventory's nodes out into slices, sends each through ssh to an execution "
        "node (ansible-runner transmit | worker | process) and merges the results into one report. Private "
        "keys stay here: they are lent through a forwarded ssh-agent. Execution nodes need ansible-core, "
        "ansible-runner and nvidia-ml-py (docs/fleet.md).",
        epilog=CODES,
    )
    _common(spreading)
    spreading.add_argument(
        "--worker",
        action="append",
        default=[],
        metavar="NAME=SSH-DESTINATION",
        help="an execution node: exec1=user@host, exec2=ssh://user@host:2222; repeat it",
    )
    spreading.add_argument(
        "--slices", type=int, metavar="N", help="how many slices (default: one per worker)"
    )
    spreading.add_argument(
        "--ssh-config", metavar="FILE", help="how ssh reaches the execution nodes (ssh -F FILE)"
    )
    spreading.add_argument(
        "--runner",
        default="ansible-runner",
        metavar="PROGRAM",
        help="ansible-runner on the execution nodes, a name or a path (default: ansible-runner)",
    )
    spreading.add_argument(
        "--keys",
        choices=["agent", "none"],
        default="agent",
        help="agent: lend the inventory's private keys through a forwarded agent; none: the execution "
        "nodes have keys of their own (default: agent)",
    )
    spreading.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an environment variable for Ansible on the execution nodes; repeat it",
    )
    spreading.set_defaults(run=distribute)

    merging = verbs.add_parser(
        "merge",
        help="make one report of several runs' reports (a sliced job's)",
        description="Writes one run out of several: a node that is in several is as the last one found it.",
        epilog=CODES,
    )
    merging.add_argument("folders", nargs="+", metavar="RUN", help="a run's folder: artifacts/<run>")
    merging.add_argument(
        "--artifacts",
        default="artifacts",
        metavar="FOLDER",
        help="where the report goes (default: artifacts)",
    )
    merging.add_argument("--json", action="store_true", help="print the result as JSON")
    merging.set_defaults(run=merge)


def _common(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "playbook", metavar="PLAYBOOK", help="site, plan, verify, …, or a path from the project"
    )
    verb.add_argument(
        "-i",
        "--inventory",
        action="append",
        metavar="INVENTORY",
        help="as ansible-playbook takes it; repeat it",
    )
    verb.add_argument(
        "--limit", action="append", default=[], metavar="PATTERN", help="which hosts; repeat it"
    )
    verb.add_argument(
        "-e",
        "--extra-vars",
        action="append",
        default=[],
        metavar="NAME=VALUE|@FILE",
        help="as ansible-playbook takes them; repeat it",
    )
    verb.add_argument("--check", action="store_true", help="change nothing, say what would be changed")
    verb.add_argument("--tags", action="append", default=[], metavar="TAG[,TAG]", help="only these parts")
    verb.add_argument("--forks", type=int, metavar="N", help="how many nodes at a time")
    verb.add_argument("--timeout", type=float, metavar="SECONDS", help="stop the run after so long")
    verb.add_argument("--artifacts", metavar="FOLDER", help="where the report goes (default: artifacts/)")
    verb.add_argument("--project", metavar="FOLDER", help="gpuready's checkout (default: this program's)")
    verb.add_argument("--json", action="store_true", help="print the result as JSON")
    verb.add_argument("--quiet", action="store_true", help="do not show what Ansible prints")


def variables_of(said: Sequence[str]) -> dict[str, Any]:
    """Extra variables in the three forms that ansible-playbook takes.

    >>> variables_of(["a=1 b='x y'", '{"c": [1]}'])
    {'a': '1', 'b': 'x y', 'c': [1]}
    """
    import yaml

    found: dict[str, Any] = {}
    for item in said:
        text = read_text(item[1:]) if item.startswith("@") else item
        if item.startswith("@") or text.lstrip().startswith(("{", "[")):
            try:
                data = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise Trouble(f"-e {item}: not YAML: {' '.join(str(error).split())}") from error
            if not isinstance(data, Mapping):
                raise Trouble(f"-e {item}: must be a mapping of variables")
            found.update(data)
            continue
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise Trouble(f"-e {item}: {error}") from error
        for word in words:
            name, equals, value = word.partition("=")
            if not equals or not name.isidentifier():
                raise Trouble(f"-e {item}: write it as NAME=VALUE, as a JSON mapping, or as @FILE")
            found[name] = value
    return found


def _options(options: argparse.Namespace) -> dict[str, Any]:
    inventory = options.inventory
    if not inventory:
        from ansible import constants

        inventory = [source for source in constants.DEFAULT_HOST_LIST if Path(source).exists()]
        if not inventory:
            raise Trouble("-i INVENTORY is missing, and ansible.cfg names none")
    return {
        "inventory": inventory,
        "limit": options.limit,
        "variables": variables_of(options.extra_vars),
        "check": options.check,
        "tags": [tag for item in options.tags for tag in item.split(",") if tag],
        "forks": options.forks,
        "timeout": options.timeout,
        "artifacts": options.artifacts,
        "project": options.project,
    }


def run(options: argparse.Namespace, _catalog: Any) -> int:
    """One run here."""
    from . import runs

    target = sys.stderr if options.json else sys.stdout

    def show(event: runs.Event) -> None:
        if event.text and not options.quiet:
            print(event.text, file=target, flush=True)

    try:
        result = runs.run(options.playbook, on_event=show, **_options(options))
    except runs.RunError as error:
        raise Trouble(str(error)) from error
    if options.json:
        json.dump(result.as_json(), sys.stdout, indent=2, ensure_ascii=False)
        print()
    elif options.quiet:
        _table(result)
    return OK if result.ok else SOME_FAILED


def distribute(options: argparse.Namespace, _catalog: Any) -> int:
    """One run in slices."""
    from . import distribute as spread
    from . import runs

    target = sys.stderr if options.json else sys.stdout
    lock = threading.Lock()
    width = max((len(item.partition("=")[0]) for item in options.worker), default=0)

    def show(worker: str, line: str) -> None:
        if not options.quiet:
            with lock:
                print(f"{worker:<{width}} | {line}".rstrip(), file=target, flush=True)

    environ = {}
    for item in options.env:
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise Trouble(f"--env {item}: write it as NAME=VALUE")
        environ[name] = value
    try:
        done = spread.distribute(
            options.playbook,
            workers=spread.workers_of(options.worker),
            slices_wanted=options.slices,
            ssh_config=options.ssh_config,
            runner=options.runner,
            keys=options.keys,
            environ=environ,
            on_line=show,
            **_options(options),
        )
    except runs.RunError as error:
        raise Trouble(str(error)) from error
    if options.json:
        slices = [
            {
                "number": part.number,
                "worker": part.worker,
                "hosts": list(part.hosts),
                "rc": part.rc,
                "seconds": part.seconds,
                "transmitted_bytes": part.transmitted_bytes,
                "error": part.error,
            }
            for part in done.slices
        ]
        json.dump({**done.result.as_json(), "slices": slices}, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        _table(done.result)
        for part in done.slices:
            size = f"{part.transmitted_bytes / 1e6:.1f} MB sent"
            print(
                f"slice {part.number}: {part.worker or 'nobody'}, {len(part.hosts)} node"
                f"{'' if len(part.hosts) == 1 else 's'}, {part.seconds:.1f} s, {size}"
                f"{': ' + part.error if part.error else ''}"
            )
        print(f"Report: {done.result.folder}")
    return OK if done.result.ok else SOME_FAILED


def merge(options: argparse.Namespace, _catalog: Any) -> int:
    """One report out of several."""
    from . import runs

    try:
        nodes, fleet = report.merge([Path(folder).resolve() for folder in options.folders])
        folder = report.write_run(
            Path(options.artifacts).absolute(),
            f"{fleet['run']}-merged",
            nodes,
            fleet,
            report.report_text(nodes, fleet),
        )
        result = runs.load(folder)
    except OSError as error:
        raise Trouble(f"{error.filename}: {error.strerror}") from error
    except (ValueError, runs.RunError) as error:
        raise Trouble(str(error)) from error
    if options.json:
        json.dump(result.as_json(), sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        _table(result)
        print(f"Report: {result.folder}")
    return OK if result.ok else SOME_FAILED


def _table(result: Any) -> None:
    """The table and the causes, as a run's own report prints them."""
    nodes = [node.document for node in result.nodes.values()]
    if not nodes:
        return
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    for line, _status in report.table(nodes, unicode=encoding == "utf8"):
        print(line)
    for line, _status in report.problems(nodes):
        print(line)
    print()
