# Apache-2.0 (see LICENSE)
"""gpuready-health: what a node asks itself, between gpuready's visits. Runs on the node: Python 3.8.

metrics   writes the metrics for node_exporter's textfile collector, once or for ever
check     is the node still what was planned? Reads only, a fraction of a second
verify    do the workloads' frameworks see their GPUs? Runs their containers
run       all three, and says in words what came out
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence

from . import exporter, sources, store

CONFIG = "/etc/gpuready/health/health.json"
STATE = "/var/lib/gpuready/health"
RUN = "/run/gpuready-health"
# What looks at a node must not be the load on it.
NICE = 10


class Places:
    """Where things lie; tests have others."""

    def __init__(self, config: str = CONFIG, state: str = STATE, run: str = RUN) -> None:
        self.config, self.state, self.run = config, state, run

    def of(self, name: str) -> str:
        return os.path.join(self.state, name + ".json")


class Failure(Exception):
    """It cannot go on; the text says why, and what to do."""


def settings(places: Places) -> Dict[str, Any]:
    try:
        found = store.read(places.config)
    except ValueError as error:
        raise Failure(
            "%s is not valid JSON (%s): run site.yml, which writes it anew" % (places.config, error)
        ) from None
    if found is None:
        raise Failure("%s is not there: run site.yml, which writes it" % places.config)
    return found


def remembered(path: str) -> Optional[Dict[str, Any]]:
    """What was written before; damaged, it is worth nothing, and comes anew."""
    try:
        return store.read(path)
    except ValueError:
        return None


# --- metrics ----------------------------------------------------------------------------------------------


def metrics(places: Places) -> str:
    """The metrics as text; written to the textfile that the configuration names."""
    config = settings(places)
    nvml = sources.nvml()
    path = os.path.join(places.run, "metrics.json")
    before = remembered(path) or {}
    boot = sources.boot_id()
    xids = sources.xids(before.get("xids"), boot)
    gpus = _named(nvml, before.get("gpus") or {} if before.get("boot") == boot else {})
    after = {"boot": boot, "xids": xids, "gpus": gpus}
    if after != before:
        store.write_json(path, after)
    text = exporter.render(
        config,
        nvml,
        now=time.time(),
        processes=sources.processes(nvml),
        xids=xids["counts"],
        known_gpus=gpus,
        check=remembered(places.of("check")),
        verify=remembered(places.of("verify")),
        driver=sources.loaded_driver(),
    )
    if config.get("textfile"):
        folder = os.path.dirname(config["textfile"])
        if not os.path.isdir(folder):
            raise Failure(
                "%s is not there, where node_exporter would look for the metrics: is it still installed, and "
                "is gpu_health_textfile_directory its directory? Run site.yml" % folder
            )
        store.write_text(config["textfile"], text, mode=0o644)
    return text


def _named(nvml: Mapping[str, Any], before: Mapping[str, Any]) -> Dict[str, Any]:
    """Address → labels of this boot's GPUs. A lost one has only its index left, and gets its name back."""
    gpus = dict(before)
    by_index = {row["gpu"]: row for row in before.values()}
    for gpu in nvml["gpus"] or []:
        if gpu["pci"]:
            gpus[gpu["pci"].rpartition(".")[0]] = exporter.labels(gpu)
        elif gpu["uuid"] is None and gpu["index"] in by_index:
            gpu.update(uuid=by_index[gpu["index"]]["uuid"], name=by_index[gpu["index"]]["name"])
    return gpus


def serve(places: Places, every: float) -> int:
    """Metrics for ever. NVML is let go between two looks: who holds it keeps a driver from being replaced."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ending.set())
    said = None
    _notify("READY=1")
    while not ending.is_set():
        begun = time.monotonic()
        try:
            metrics(places)
            complaint = None
        except (Failure, OSError) as error:
            complaint = str(error)
        if complaint != said:  # once, and not every few seconds
            print("gpuready-health: %s" % (complaint or "the metrics are written again"), flush=True)
            said = complaint
        _notify("WATCHDOG=1")
        ending.wait(max(1.0, every - (time.monotonic() - begun)))
    _take_away(places)
    return 0


def _take_away(places: Places) -> None:
    """Nobody is to read old numbers as new ones."""
    try:
        textfile = settings(places).get("textfile")
    except Failure:
        return
    if textfile and os.path.exists(textfile):
        os.unlink(textfile)


def _notify(word: str) -> None:
    """systemd's way to know that a service lives (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        try:
            to.sendto(word.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            print("gpuready-health: systemd cannot be told: %s" % error, file=sys.stderr)


# --- check and verify -------------------------------------------------------------------------------------


def check(places: Places) -> Dict[str, Any]:
    """Compares the node with the plan; the answer is also kept for the metrics and for gpuready."""
    # Imported here, as below: the metrics run for ever, and need not carry all of it.
    from ..observe import observe
    from ..observe.node import Node
    from . import drift

    config = settings(places)
    begun = time.monotonic()
    observed = observe(Node())
    last = (remembered(places.of("verify")) or {}).get("results") or []
    rows = drift.drift(
        config["expected"], observed, {row["image"]: row["image_id"] for row in last if row.get("image")}
    )
    nvml = sources.nvml()
    gpus = nvml["gpus"]
    errors = [] if nvml["error"] is None else [nvml["error"]]
    errors += ["GPU %d: %s" % (gpu["index"], gpu["error"]) for gpu in gpus or [] if gpu["error"]]
    expected = config["expected"].get("gpus")
    found = None if gpus is None else sum(1 for gpu in gpus if gpu["error"] is None)
    if found is not None and expected is not None and found != expected and not errors:
        errors.append("the driver shows %d of %d GPUs" % (found, expected))
    answer = {
        "schema": 1,
        "at": int(time.time()),
        "boot_id": sources.boot_id(),
        "ok": not errors and not any(row["drifted"] for row in rows),
        "seconds": round(time.monotonic() - begun, 3),
        "nvml": {"up": gpus is not None, "gpus": found, "errors": errors},
        "drift": rows,
        "problems": observed["problems"],
    }
    store.write_json(places.of("check"), answer)
    return answer


def verify(places: Places, reason: str, *, only_if_changed: bool = False) -> Optional[Dict[str, Any]]:
    """Runs the workloads; None where nothing of the chain changed and that was the question."""
    from . import chain, verifying

    config = settings(places)
    os.makedirs(places.run, mode=0o755, exist_ok=True)
    with open(os.path.join(places.run, "verify.lock"), "w") as lock:
        # The daily one and that after a package's change may meet: the second then has the first's answer.
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Who changes the driver has more to do: load it anew, or boot. Looking now would stand in the way.
        quiet = config["package_quiet_seconds"] if only_if_changed else 0
        while True:
            chain.wait_for_dpkg(config["package_wait_seconds"], quiet)
            packages = chain.packages()
            last = remembered(places.of("verify"))
            if only_if_changed and last is not None and last.get("packages") == packages:
                return None
            answer = verifying.verify(config, reason)
            answer["packages"] = packages
            store.write_json(places.of("verify"), answer)
            # A change during the run is seen here: the path unit sleeps while its service runs.
            if chain.packages() == packages:
                return answer
            only_if_changed = True


# --- words ------------------------------------------------------------------------------------------------


def _said(rows: Sequence[Mapping[str, Any]]) -> List[str]:
    return [
        "%s: %s is %s, not %s" % (row["layer"], row["what"], _short(row["found"]), _short(row["expected"]))
        for row in rows
        if row["drifted"]
    ]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _tell_check(answer: Mapping[str, Any]) -> List[str]:
    if answer["ok"]:
        return ["check: as planned, %s GPUs (%.1f s)" % (answer["nvml"]["gpus"], answer["seconds"])]
    lines = answer["nvml"]["errors"] + _said(answer["drift"])
    return ["check: NOT as planned"] + ["  " + line for line in lines]


def _tell_verify(answer: Optional[Mapping[str, Any]]) -> List[str]:
    if answer is None:
        return ["verify: no package of the chain has changed"]
    lines = []
    for row in answer["results"]:
        if row["ok"]:
            told = (row["workload"], row["gpus_listed"], row["seconds"] or 0)
            lines.append("verify: %s lists %s GPU (%.1f s)" % told)
        else:
            lines.append("verify: %s FAILED" % row["workload"])
            lines += ["  %s: %s" % (item["layer"], item["finding"]) for item in row["findings"]]
    return lines or ["verify: no workload to verify"]


# --- command line -----------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    summary = (__doc__ or "").split("\n", 1)[0]
    parser = argparse.ArgumentParser(prog="gpuready-health", description=summary)
    verbs = parser.add_subparsers(dest="verb", required=True)
    shown = verbs.add_parser("metrics", help="write the metrics for node_exporter")
    shown.add_argument("--print", action="store_true", help="print them as well")
    shown.add_argument("--every", type=float, metavar="SECONDS", help="write them for ever, this often")
    verbs.add_parser("check", help="is the node still what was planned?")
    verifying = verbs.add_parser("verify", help="do the workloads see their GPUs?")
    verifying.add_argument("--reason", default="by hand", help="why, for the record")
    verifying.add_argument(
        "--if-packages-changed",
        action="store_true",
        help="only when a package of the chain did since the last time",
    )
    verbs.add_parser("run", help="all three")
    for command in verbs.choices.values():
        command.add_argument("--config", default=CONFIG, help="default: " + CONFIG)
        command.add_argument("--state", default=STATE, help="default: " + STATE)
        command.add_argument("--run-directory", default=RUN, help="default: " + RUN)
    return parser


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """What was found is no failure of this program: a failed unit would say that nothing was found out."""
    given = _parser().parse_args(arguments)
    places = Places(given.config, given.state, given.run_directory)
    os.nice(NICE)
    try:
        return _do(given, places)
    except (Failure, OSError) as failure:
        print("gpuready-health: %s" % failure, file=sys.stderr)
        return 1


def _do(given: argparse.Namespace, places: Places) -> int:
    if given.verb == "metrics" and given.every:
        return serve(places, given.every)
    lines: List[str] = []
    result = 0
    if given.verb == "metrics":
        text = metrics(places)
        lines += [text.rstrip()] if given.print else []
    elif given.verb == "check":
        lines += _tell_check(check(places))
    elif given.verb == "verify":
        lines += _tell_verify(verify(places, given.reason, only_if_changed=given.if_packages_changed))
    else:
        found, verified = check(places), verify(places, "by hand")
        metrics(places)
        lines += _tell_check(found) + _tell_verify(verified)
        # Asked by a person or a script, it also answers with its exit status.
        bad = not found["ok"] or not (verified or {}).get("ok")
        result = 2 if bad else 0
    if lines:
        print("\n".join(lines))
    return result
