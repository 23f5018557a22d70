# Apache-2.0 (see LICENSE)
"""`gpuready`: the planner and the diagnosis for people and scripts, without Ansible.

Exit codes: 0 nothing to do (or: an answer was found), 1 the question could not be understood,
2 there is something to do, 3 a conflict. Of `diagnose`: 0 healthy, 2 a cause was found, 3 no known cause.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import textwrap
from pathlib import Path
from typing import Any, Dict, List, Mapping, NoReturn, Optional, Sequence, Tuple

from . import runs_cli, watch_cli
from .catalog import Catalog, CatalogError, load_catalog
from .diagnosis import bundle_cli
from .inputs import Trouble, read_log, read_text
from .render import WIDTH, one_line, render, render_driver

# A verb imports what only it needs: `diagnose` answers before the planner would be loaded.

OK, BAD_QUESTION, CHANGES, CONFLICT = 0, 1, 2, 3
STATUS_CODES = {"converged": OK, "changes": CHANGES, "conflict": CONFLICT}
HEALTHY, CAUSE_FOUND, UNKNOWN = 0, 2, 3
DIAGNOSIS_CODES = {"healthy": HEALTHY, "unknown": UNKNOWN, "cause_found": CAUSE_FOUND}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Trouble("%s (%s --help shows how)" % (message, self.prog))


def _facts(path: str) -> List[Tuple[str, Mapping[str, Any]]]:
    """Observations from a JSON file: one, a report's artifact, a list of them, or {host: observation}."""
    try:
        data = json.loads(read_text(path))
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

    from .wishes import DEFAULT_WISHES

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

    from . import workbenches
    from .wishes import WishError, complete

    given: Dict[str, Any] = {}
    if options.wishes:
        try:
            data = yaml.safe_load(read_text(options.wishes))
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
        if workbenches.USERS in given:
            given[workbenches.USERS] = workbenches.read_key_files(
                given[workbenches.USERS], lambda path: Path(path).expanduser().read_text(encoding="utf-8")
            )
        return complete(given)
    except workbenches.KeyFileError as error:
        raise Trouble(one_line([str(error)])) from error
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
    from .planner import plan as make_plan

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


def _resolve(options: argparse.Namespace, catalog: Catalog) -> int:
    from . import whatif

    if options.source:
        options.wish.append("nvidia_driver_source=%s" % options.source)
    try:
        source = options.source or "auto"
        for item in options.wish:
            if item.startswith("nvidia_driver_source="):
                source = item.partition("=")[2].strip()
        system = whatif.parse_os(options.os, catalog, source)
        gpus = whatif.parse_gpus(options.gpu, catalog)
        wishes, today = _wishes(options), _today(options.today)
        names = whatif.parse_workloads(options.workloads or wishes["gpuready_workloads"], catalog)
        if options.nvswitch < 0:
            raise Trouble("--nvswitch %d: must be 0 or more" % options.nvswitch)
    except whatif.Unknown as error:
        raise Trouble(str(error)) from error
    stack = whatif.imagine(
        gpus,
        system,
        catalog,
        secure_boot=options.secure_boot,
        nvswitches=options.nvswitch,
        kernel=options.kernel,
    )
    answer = whatif.answer(stack, names, wishes, catalog, today)
    if options.json:
        json.dump(answer, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        print(render_driver(answer) + "".join(line + "\n" for line in _rejected(answer)), end="")
    return CONFLICT if answer["conflicts"] else OK


def _rejected(answer: Mapping[str, Any]) -> List[str]:
    """The better options and what each of them fails at, for a terminal."""
    rows = answer["rejected"]
    if not rows:
        return []
    title = "Rejected, though preferred otherwise:" if answer["driver"] else "Looked at, the preferred first:"
    lines = ["", title]
    for row in rows:
        fails = list(
            dict.fromkeys("%s (%s)" % (fail["requirement"], fail["subject"]) for fail in row["fails"])
        )
        lines += textwrap.wrap(
            "fails %s" % "; ".join(fails),
            width=WIDTH,
            initial_indent="  %-4s %-12s" % (row["branch"], row["flavour"]),
            subsequent_indent=" " * 19,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _matrix(options: argparse.Namespace, catalog: Catalog) -> int:
    from . import matrix

    text = matrix.page(catalog)
    if options.check:
        if read_text(options.check) != text:
            print(
                "%s is out of date; make it anew: gpuready matrix --write %s" % (options.check, options.check)
            )
            return CHANGES
        return OK
    if options.write:
        try:
            with open(options.write, "w", encoding="utf-8") as handle:
                handle.write(text)
        except OSError as error:
            raise Trouble("%s: %s" % (options.write, error.strerror)) from error
    else:
        print(text, end="")
    return OK


def _catalog(options: argparse.Namespace, catalog: Catalog) -> int:
    from . import whatif

    if options.what == "check":
        from . import catalog as catalog_module
        from .diagnosis import knowledge

        return max(catalog_module.main(["--check"]), knowledge.main())
    for framework in catalog.frameworks.values():
        also = "  (also: %s)" % ", ".join(framework.aliases) if framework.aliases else ""
        print("%-20s CUDA %-5s %s%s" % (framework.name, framework.cuda, framework.image or "wheel", also))
    print("releases: %s" % ", ".join(whatif.covered(catalog)))
    print("driver branches: %s" % ", ".join(map(str, catalog.branches)))
    return OK


def _known(path: str) -> List[Dict[str, Any]]:
    """The nodes of a JSON file: facts of the diagnosis, an artifact, or observations alone."""
    from .diagnosis import assemble

    nodes = []
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise Trouble("%s: not JSON: %s" % (path, error)) from error
    rows: List[Any] = data if isinstance(data, list) else [data]
    known = ("gpu_stack", "container", "framework", "platform", "probes", "commands", "plan", "verification")
    if isinstance(data, dict) and "schema" not in data and not any(name in data for name in known):
        rows = [
            dict(value, host=value.get("host") if isinstance(value.get("host"), str) else name)
            if isinstance(value, dict) and any(part in value for part in known)
            else {"host": name, "gpu_stack": value}
            for name, value in data.items()
        ]
    for row in rows:
        if isinstance(row, dict) and "driver" in row and isinstance(row.get("host"), dict):
            row = {"gpu_stack": row}
        if not isinstance(row, dict) or not any(isinstance(row.get(name), dict) for name in known):
            raise Trouble(
                "%s: no facts in it (an observation as gpu_stack_info returns it, or one of %s)"
                % (path, ", ".join(known))
            )
        facts = {name: row[name] for name in known if row.get(name) is not None}
        if isinstance(facts.get("verification"), list):
            # A run's artifact has all of them: the one that failed, else the last, is what is asked about.
            chosen = assemble.the_verification(facts.pop("verification"))
            if chosen and not (facts.get("container") or {}).get("name"):
                facts["verification"] = chosen
        host = row.get("host")
        if not isinstance(host, str):
            host = ((facts.get("gpu_stack") or {}).get("host") or {}).get("hostname")
        nodes.append({"host": host, "facts": facts, "simulated": row.get("simulated") is True})
    return nodes


def _diagnose(options: argparse.Namespace, catalog: Catalog) -> int:
    from .diagnosis import engine, reader
    from .diagnosis import render as screen
    from .diagnosis.knowledge import load_knowledge

    knowledge = load_knowledge(skip_broken=True)
    for problem in knowledge.problems:
        print("gpuready: left out: %s" % problem, file=sys.stderr)
    texts = []
    for path in options.log or ([] if options.facts else ["-"]):
        if path == "-" and sys.stdin.isatty():
            print("Paste the output, then end with Ctrl-D.", file=sys.stderr)
        text = read_log(path)
        if not text.strip():
            raise Trouble("%s: nothing in it to diagnose" % ("standard input" if path == "-" else path))
        texts.append(("the text" if path == "-" else path.rpartition("/")[2], text))
    said = reader.read("\n".join(text for _name, text in texts)) if texts else {}
    nodes = [node for name in options.facts for node in _known(name)] or [{"host": None, "facts": {}}]
    answers = [
        engine.diagnose(
            engine.merge(node["facts"], said),
            texts,
            knowledge=knowledge,
            catalog=catalog,
            host=options.host or node["host"],
            simulated=node.get("simulated", False),
        )
        for node in nodes
    ]
    if options.json:
        json.dump(answers if len(answers) != 1 else answers[0], sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        try:
            "".join(screen.SYMBOLS.values()).encode(sys.stdout.encoding or "ascii")
            symbols = screen.SYMBOLS
        except UnicodeEncodeError:
            symbols = screen.ASCII_SYMBOLS
        print("\n".join(screen.render(answer, symbols=symbols) for answer in answers), end="")
    codes = [DIAGNOSIS_CODES[answer["status"]] for answer in answers]
    return CAUSE_FOUND if CAUSE_FOUND in codes else max(codes)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gpuready",
        description="What a GPU node needs, and why.",
        epilog="exit codes: 0 nothing to do or answered, 1 bad question, 2 something to do, 3 conflict; "
        "of diagnose: 0 healthy, 2 a cause was found, 3 no known cause; "
        "of run and distribute: 2 some nodes are not as asked for",
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
        "--gpu",
        action="append",
        required=True,
        metavar="NAME[:COUNT][,…]",
        help="A100, T4:2, a PCI id; several make a mixed node",
    )
    resolving.add_argument("--os", default="ubuntu-22.04", metavar="OS", help="ubuntu-22.04, debian-12")
    resolving.add_argument(
        "--workloads", action="append", metavar="NAME[,NAME]", help="tensorflow-2.9,pytorch-2.5-cu124"
    )
    resolving.add_argument("--source", metavar="NAME", help="ubuntu, debian or cuda_repo (default: auto)")
    resolving.add_argument("--secure-boot", action="store_true", help="as if Secure Boot were on")
    resolving.add_argument(
        "--nvswitch", type=int, default=0, metavar="N", help="as if the node had N NVSwitches"
    )
    resolving.add_argument("--kernel", metavar="RELEASE", help="as uname -r says it")
    common(resolving)
    resolving.set_defaults(run=_resolve)

    asking = verbs.add_parser(
        "diagnose",
        help="why no GPU is seen: from a log, or from facts",
        description="Names the layer, the cause and the fix, from whatever output you have.",
        epilog="exit codes: 0 healthy, 1 bad question, 2 a cause was found, 3 no known cause",
    )
    asking.add_argument(
        "log",
        nargs="*",
        metavar="FILE",
        help="output of docker, nvidia-smi, dmesg, apt, TensorFlow, … of one machine (default: -, stdin)",
    )
    asking.add_argument(
        "--facts",
        action="append",
        default=[],
        metavar="FILE",
        help="facts as JSON: an observation, or a run's artifact; they beat the log; repeat it",
    )
    asking.add_argument("--host", help="the node's name (default: from the facts)")
    asking.add_argument("--json", action="store_true", help="print JSON")
    asking.set_defaults(run=_diagnose)

    bundle_cli.add(verbs)
    watch_cli.add(verbs)
    runs_cli.add(verbs)

    page = verbs.add_parser("matrix", help="GPUs, workloads and drivers as a page (docs/matrix.md)")
    page.add_argument("--write", metavar="FILE", help="write it there")
    page.add_argument("--check", metavar="FILE", help="is that file up to date? exit code 2 when not")
    page.set_defaults(run=_matrix)

    data = verbs.add_parser("catalog", help="gpuready's data")
    data.add_argument(
        "what", choices=["check", "list"], help="check: read all files and check every row; list: known names"
    )
    data.set_defaults(run=_catalog)
    return parser


def main(arguments: Optional[Sequence[str]] = None) -> int:
    try:
        options = _parser().parse_args(arguments)
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
