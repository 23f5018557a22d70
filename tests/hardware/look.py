#!/usr/bin/env python3
"""This machine as gpuready sees it, and what it would do: the observation and the plan as JSON.

    python tests/hardware/look.py [--set gpuready_workloads='["pytorch-2.5-cu124"]'] … > look.json

Reads only. Needs PyYAML, neither Ansible nor an installed gpuready.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULE_UTILS = ROOT / "collections/ansible_collections/gpuready/node/plugins/module_utils"


def find_gpuready() -> None:
    """Makes `import gpuready` work from the working tree, where it is not installed."""
    if importlib.util.find_spec("gpuready") is not None:
        return
    spec = importlib.util.spec_from_file_location(
        "gpuready", MODULE_UTILS / "__init__.py", submodule_search_locations=[str(MODULE_UTILS)]
    )
    if spec is None or spec.loader is None:
        raise SystemExit(f"{MODULE_UTILS} is not there")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpuready"] = module
    spec.loader.exec_module(module)


def observe() -> dict[str, Any]:
    """This machine, read directly."""
    find_gpuready()
    from gpuready.observe import observe as look  # type: ignore[import-not-found,unused-ignore]
    from gpuready.observe.node import Node  # type: ignore[import-not-found,unused-ignore]

    return dict(look(Node()))


def plan(observed: dict[str, Any], wishes: dict[str, Any]) -> dict[str, Any]:
    """What gpuready would do with it."""
    find_gpuready()
    from gpuready.catalog import load_catalog  # type: ignore[import-not-found,unused-ignore]
    from gpuready.planner import plan as make_plan  # type: ignore[import-not-found,unused-ignore]

    host = str(observed["host"]["hostname"])
    today = datetime.date.today().isoformat()
    return dict(make_plan(observed, wishes, load_catalog(), host=host, today=today))


def driver_that_suits(observed: dict[str, Any], system: str | None, workloads: list[str]) -> dict[str, Any]:
    """Which driver these GPUs would get on a release of the catalog, by the catalog alone.

    A machine with a GPU is often a container, whose archives and packages say nothing about the driver.
    """
    find_gpuready()
    from gpuready import cli  # type: ignore[import-not-found,unused-ignore]

    counted = Counter(str(gpu["device_id"]) for gpu in observed["host"]["gpus"] or [])
    if not counted:
        return {"exit_code": None, "said": "there is no NVIDIA GPU on the PCI bus"}
    arguments = ["resolve", "--json", "--os", system or "ubuntu-24.04"]
    arguments += ["--gpu", ",".join(f"{device}:{count}" for device, count in sorted(counted.items()))]
    for workload in workloads:
        arguments += ["--workload", workload]
    code, text = _captured(cli, arguments)
    try:
        return dict(json.loads(text), exit_code=code)
    except ValueError:
        return {"exit_code": code, "said": text}


def _captured(cli: Any, arguments: list[str]) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = cli.main(arguments)
    return int(code or 0), out.getvalue()


def wish(text: str) -> tuple[str, Any]:
    """`name=value`; the value is JSON, or else a text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main() -> int:
    """Prints what was found as one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--set", dest="wishes", metavar="NAME=VALUE", action="append", type=wish, default=[], help="a wish"
    )
    parser.add_argument("--os", help="the release for the question which driver would suit: ubuntu-24.04")
    options = parser.parse_args()
    wishes = dict(options.wishes)
    observed = observe()
    workloads = wishes.get("gpuready_workloads") or ["tensorflow-2.9"]
    answer = {
        "gpu_stack": observed,
        "plan": plan(observed, wishes),
        "resolve": driver_that_suits(observed, options.os, workloads),
    }
    json.dump(answer, sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
