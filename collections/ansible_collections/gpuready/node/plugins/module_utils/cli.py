# Apache-2.0 (see LICENSE)
"""`gpuready`: the planner for people and scripts, without Ansible.

Exit codes: 0 nothing to do (or: an answer was found), 1 the question could not be understood,
2 there is something to do, 3 a conflict.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from typing import Any, Dict, List, Mapping, NoReturn, Optional, Sequence, Tuple

from . import catalog as catalog_module
from . import resolver
from .catalog import Catalog, CatalogError, annotate, find_gpu, load_catalog
from .planner import plan as make_plan
from .render import one_line, render, render_driver
from .wishes import DEFAULT_WISHES, WishError, complete, nearest

OK, BAD_QUESTION, CHANGES, CONFLICT = 0, 1, 2, 3
STATUS_CODES = {"converged": OK, "changes": CHANGES, "conflict": CONFLICT}


class Trouble(Exception):
    """The question cannot be answered; one line that says why."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Trouble("%s (%s --help shows how)" % (message, self.prog))


def _read(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read()
        with open(path, encoding="utf-8") as handle:
            return handle.read()
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble("%s: %s" % (path, getattr(error, "strerror", None) or error)) from error


def _facts(path: str) -> List[Tuple[str, Mapping[str, Any]]]:
    """Observations from a JSON file: one, a report's artifact, a list of them, or {host: observation}."""
    try:
        data = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise Trouble("%s: not JSON: %s" % (path, error)) from error
    found: List[Tuple[str, Mapping[str, Any]]] = []
    entries: Sequence[Any] = data if isinstance(data, list) else [data]
    if isinstance(data, dict) and "gpu_stack" not in data and "schema" not in data:
        entries = [
            dict(value, _host=name) if isinstance(value, dict) else value for name, value in data.items()
        ]
    for entry in entries:
        stack = entry.get("gpu_stack", entry) if isinstance(entry, dict) else None
        if not isinstance(stack, dict) or not isinstance(stack.get("host"), dict):
            raise Trouble("%s: no observation in it (gpu_stack, as gpu_stack_info returns it)" % path)
        name = entry.get("_host") or entry.get("host")
        if not isinstance(name, str):
            name = stack["host"].get("hostname") or "node"
        found.append((name, stack))
    return found


def _value(name: str, text: str) -> Any:
    """A wish from the command line: as YAML, but versions stay text."""
    import yaml

    if isinstance(DEFAULT_WISHES.get(name), str):
        return text
    if isinstance(DEFAULT_WISHES.get(name), list) and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Trouble("--wish %s: %s" % (name, " ".join(str(error).split()))) from error


def _wishes(options: argparse.Namespace) -> Dict[str, Any]:
    import yaml

    given: Dict[str, Any] = {}
    if options.wishes:
        try:
            data = yaml.safe_load(_read(options.wishes))
        except yaml.YAMLError as error:
            raise Trouble("%s: not YAML: %s" % (options.wishes, " ".join(str(error).split()))) from error
        if data is not None and not isinstance(data, dict):
            raise Trouble("%s: must be a mapping of variables" % options.wishes)
        given.update(data or {})
    for item in options.wish:
        name, equals, text = item.partition("=")
        if not equals:
            raise Trouble("--wish %s: write it as VARIABLE=VALUE" % item)
        given[name.strip()] = _value(name.strip(), text)
    try:
        return complete(given)
    except WishError as error:
        raise Trouble(
            one_line(["%s (%s)" % (p.what, " or ".join(p.options)) for p in error.problems])
        ) from error


def _today(text: Optional[str]) -> str:
    if not text:
        return datetime.date.today().isoformat()
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise Trouble("--today %s: write it as YYYY-MM-DD" % text) from None


def _plan(options: argparse.Namespace, catalog: Catalog) -> int:
    wishes, today = _wishes(options), _today(options.today)
    plans = []
    for path in options.facts:
        for name, stack in _facts(path):
            plans.append(make_plan(stack, wishes, catalog, host=options.host or name, today=today))
    if options.json:
        json.dump(plans if len(plans) != 1 else plans[0], sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        print("\n".join(render(plan) for plan in plans), end="")
    return max((STATUS_CODES[plan["status"]] for plan in plans), default=OK)


def what_if(gpus: Sequence[str], system: str, catalog: Catalog, secure_boot: bool = False) -> Dict[str, Any]:
    """An observation of a node that does not exist: GPUs and an operating system, and no word from apt."""
    match = re.match(r"^([a-z]+)[-: ]?([\d.]+)$", system.lower())
    if not match:
        raise Trouble("--os %s: write it as ubuntu-22.04" % system)
    found: List[Dict[str, Any]] = []
    for text in gpus:
        fitting = find_gpu(text, catalog)
        if not fitting:
            chips = [name for name in catalog.pci_ids.values() if catalog.chip_of(name)]
            products = sorted(
                {
                    part
                    for name in chips
                    for part in re.findall(r"\[(?:Tesla |GeForce |NVIDIA )?([^\]/]+?)\]", name)
                }
            )
            near = nearest(text.upper(), products)
            raise Trouble(
                "--gpu %s: no GPU of that name in pci.ids (nearest: %s; a PCI id such as 20b5 will do)"
                % (text, ", ".join(near))
            )
        found.append(dict(fitting[0], pci="0000:%02x:00.0" % (len(found) + 1)))
    stack: Dict[str, Any] = {
        "schema": 1,
        "host": {
            "os": {"id": match.group(1), "version_id": match.group(2), "pretty_name": None, "arch": "amd64"},
            "kernel": {"running": None, "next_boot": None, "headers": []},
            "secure_boot": secure_boot,
            "gpus": found,
            "nvswitches": [],
        },
        "apt": {"candidates": None},
    }
    return annotate(stack, catalog)


def _resolve(options: argparse.Namespace, catalog: Catalog) -> int:
    wishes, today = _wishes(options), _today(options.today)
    names = [name for item in options.workloads or [] for name in item.split(",") if name]
    names = names or wishes["gpuready_workloads"]
    for name in names:
        if catalog.framework(name) is None:
            near = ", ".join(nearest(name, catalog.workload_names()))
            raise Trouble("--workloads %s: not known (nearest: %s)" % (name, near))
    stack = what_if(options.gpu, options.os, catalog, options.secure_boot)
    wish, system = wishes["nvidia_driver_source"], stack["host"]["os"]
    if catalog.package_source(wish, system["id"], system["version_id"]) is None:
        covered = ["%s-%s" % (row.os, r) for row in catalog.sources_named(wish) for r in row.releases]
        raise Trouble("--os %s: not covered (covered: %s)" % (options.os, ", ".join(covered)))
    wishes["gpuready_workloads"] = names
    plan = make_plan(stack, wishes, catalog, host="what-if", today=today)
    related = ("driver.", "framework.gpu_unsupported", "framework.workload_unknown", "host.")
    conflicts = [row for row in plan["conflicts"] if row["id"].startswith(related)]
    answer = {
        "gpus": plan["gpus"],
        "os_name": options.os,
        "workloads": names,
        "driver": plan["driver"],
        "conflicts": conflicts,
        "notes": [
            note
            for note in plan["notes"]
            if note != resolver.NO_LISTS and not note.startswith(("the size of ", "not observed"))
        ],
    }
    if options.json:
        json.dump(answer, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        print(render_driver(answer), end="")
    return CONFLICT if conflicts else OK


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gpuready",
        description="What a GPU node needs, and why.",
        epilog="exit codes: 0 nothing to do or answered, 1 bad question, 2 something to do, 3 conflict",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)

    def common(verb: argparse.ArgumentParser) -> None:
        verb.add_argument(
            "--wish", action="append", default=[], metavar="VARIABLE=VALUE", help="a role variable; repeat it"
        )
        verb.add_argument("--wishes", metavar="FILE", help="role variables from a YAML file")
        verb.add_argument(
            "--today", metavar="YYYY-MM-DD", help="the day to judge branches by (default: today)"
        )
        verb.add_argument("--json", action="store_true", help="print JSON")

    planning = verbs.add_parser("plan", help="plan for observed nodes")
    planning.add_argument(
        "--facts",
        action="append",
        required=True,
        metavar="FILE",
        help="observation as JSON, - for standard input; repeat it",
    )
    planning.add_argument("--host", help="the node's name (default: from the facts)")
    common(planning)
    planning.set_defaults(run=_plan)

    resolving = verbs.add_parser("resolve", help="which driver would suit, without a node")
    resolving.add_argument(
        "--gpu", action="append", required=True, metavar="NAME", help="A100, T4, a PCI id; repeat it"
    )
    resolving.add_argument("--os", default="ubuntu-22.04", help="ubuntu-22.04")
    resolving.add_argument("--workloads", action="append", metavar="NAME[,NAME]", help="tensorflow-2.9")
    resolving.add_argument("--secure-boot", action="store_true", help="as if Secure Boot were on")
    common(resolving)
    resolving.set_defaults(run=_resolve)

    data = verbs.add_parser("catalog", help="gpuready's data")
    data.add_argument("what", choices=["check"], help="check: read all files and check every row")
    data.set_defaults(run=None)
    return parser


def main(arguments: Optional[Sequence[str]] = None) -> int:
    try:
        options = _parser().parse_args(arguments)
        if options.run is None:
            return catalog_module.main(["--check"])
        return int(options.run(options, load_catalog()))
    except (Trouble, CatalogError) as error:
        print("gpuready: %s" % one_line([str(error)]), file=sys.stderr)
        return BAD_QUESTION
    except BrokenPipeError:
        # The reader has seen enough (gpuready … | head).
        sys.stderr.close()
        return OK


if __name__ == "__main__":
    sys.exit(main())
