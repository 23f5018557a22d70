# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Runs as data: a playbook's run through ansible-runner, and what came of it as typed results.

For programs that embed gpuready (a scheduler, a portal, a test). Everything is read from the report's files
(``artifacts/<run>/``), nothing from the screen. Controller only.

    from gpuready import runs

    result = runs.site(inventory="inventories/mysite", limit=["gpu17"])
    if not result.ok:
        for node in result.failed:
            print(node.host, node.status, node.error)
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import report

Inventory = str | Path | Mapping[str, Any] | Sequence[str | Path]

#: Where the report callback writes which folder it made.
POINTER = "GPUREADY_REPORT_POINTER"
#: What a run is limited to when it is stopped for its time.
KILLED = -1
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class RunError(Exception):
    """Ansible did not begin, or was stopped: there is no result. ``output`` is all that it said."""

    def __init__(self, message: str, output: str = "", rc: int | None = None) -> None:
        super().__init__(message)
        self.output = output
        self.rc = rc


# --- results ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerResult:
    """What is known of one layer of a node; ``ok`` is None where nothing is."""

    ok: bool | None
    version: str | None
    detail: str
    actions: tuple[str, ...]
    findings: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Timing:
    """How long a stage took on a node."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class NodeResult:
    """One node's result; ``document`` is all of its file (docs/contracts.md, section 6)."""

    host: str
    status: str
    ok: bool
    simulated: bool
    layers: dict[str, LayerResult]
    plan: dict[str, Any] | None
    verifications: tuple[dict[str, Any], ...]
    diagnosis: dict[str, Any] | None
    changed_tasks: tuple[str, ...]
    error: str | None
    timings: tuple[Timing, ...]
    document: dict[str, Any]

    @property
    def causes(self) -> tuple[str, ...]:
        """The ids of the root causes that its diagnosis names, the likeliest first."""
        return tuple(cause["cause"] for cause in report.root_causes(self.document))


@dataclass(frozen=True)
class FleetResult:
    """One run's result. ``folder`` is None for a playbook that reports nothing (no node was looked at)."""

    run: str | None
    playbook: str
    ok: bool
    rc: int
    started: datetime.datetime
    finished: datetime.datetime
    seconds: float
    check_mode: bool
    simulated: bool
    nodes: dict[str, NodeResult]
    folder: Path | None

    @property
    def failed(self) -> tuple[NodeResult, ...]:
        """The nodes that are not what was asked for."""
        return tuple(node for node in self.nodes.values() if not node.ok)

    @property
    def totals(self) -> dict[str, int]:
        """How many nodes have which status."""
        counts: dict[str, int] = {}
        for node in self.nodes.values():
            counts[node.status] = counts.get(node.status, 0) + 1
        return counts

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON types, without the nodes' whole documents."""
        return {
            "run": self.run,
            "playbook": self.playbook,
            "ok": self.ok,
            "rc": self.rc,
            "started": self.started.isoformat(timespec="seconds"),
            "finished": self.finished.isoformat(timespec="seconds"),
            "seconds": self.seconds,
            "check_mode": self.check_mode,
            "simulated": self.simulated,
            "totals": self.totals,
            "folder": str(self.folder) if self.folder else None,
            "nodes": {
                name: {
                    "status": node.status,
                    "ok": node.ok,
                    "error": node.error,
                    "causes": list(node.causes),
                    "changed_tasks": list(node.changed_tasks),
                    "layers": {
                        layer: {"ok": verdict.ok, "version": verdict.version, "detail": verdict.detail}
                        for layer, verdict in node.layers.items()
                    },
                    "timings": [
                        {"stage": timing.stage, "seconds": timing.seconds} for timing in node.timings
                    ],
                }
                for name, node in self.nodes.items()
            },
        }


def _layer(verdict: Mapping[str, Any]) -> LayerResult:
    return LayerResult(
        ok=verdict.get("ok"),
        version=verdict.get("version"),
        detail=str(verdict.get("detail") or ""),
        actions=tuple(verdict.get("actions") or ()),
        findings=tuple(verdict.get("findings") or ()),
        warnings=tuple(verdict.get("warnings") or ()),
    )


def node_result(document: dict[str, Any]) -> NodeResult:
    """A node's file as a result."""
    status = str(document["status"])
    return NodeResult(
        host=str(document["host"]),
        status=status,
        ok=status not in report.BAD_STATUSES,
        simulated=bool(document.get("simulated")),
        layers={name: _layer(verdict) for name, verdict in (document.get("layers") or {}).items()},
        plan=document.get("plan"),
        verifications=tuple(document.get("verification") or ()),
        diagnosis=document.get("diagnosis"),
        changed_tasks=tuple(document.get("changed_tasks") or ()),
        error=document.get("error"),
        timings=tuple(
            Timing(str(row["stage"]), float(row["seconds"])) for row in document.get("timings") or ()
        ),
        document=document,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise RunError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise RunError(f"{path}: no document of a report")
    return data


def load(folder: str | Path, *, rc: int | None = None) -> FleetResult:
    """A run's folder (``artifacts/<run>``, ``artifacts/latest``) as a result.

    :param rc: how ansible-playbook ended; without it, 0 or 2 by what the report says.
    """
    place = Path(folder).resolve()
    fleet = _read(place / "fleet.json")
    nodes = {name: node_result(_read(place / f"{report.file_name(name)}.json")) for name in fleet["nodes"]}
    ended = (0 if fleet["ok"] else 2) if rc is None else rc
    return FleetResult(
        run=str(fleet["run"]),
        playbook=str(fleet["playbook"]),
        ok=bool(fleet["ok"]) and ended == 0,
        rc=ended,
        started=datetime.datetime.fromisoformat(fleet["started"]),
        finished=datetime.datetime.fromisoformat(fleet["finished"]),
        seconds=float(fleet["seconds"]),
        check_mode=bool(fleet.get("check_mode")),
        simulated=bool(fleet.get("simulated")),
        nodes=nodes,
        folder=place,
    )


# --- what happens meanwhile -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """Something that happened in a run. ``text`` is what Ansible prints for it (several lines, or none)."""

    #: play, task, started, ok, changed, skipped, failed, ignored, unreachable, retry, text, end
    kind: str
    host: str | None
    play: str | None
    role: str | None
    task: str | None
    action: str | None
    seconds: float | None
    message: str | None
    text: str


KINDS = {
    "playbook_on_play_start": "play",
    "playbook_on_task_start": "task",
    "playbook_on_handler_task_start": "task",
    "playbook_on_stats": "end",
    "runner_on_start": "started",
    "runner_on_ok": "ok",
    "runner_on_skipped": "skipped",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
    "runner_retry": "retry",
}


def event_of(data: Mapping[str, Any]) -> Event:
    """An event of ansible-runner's as ours."""
    inner = data.get("event_data") or {}
    said = inner.get("res")
    result: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
    kind = KINDS.get(str(data.get("event")), "text")
    if kind == "ok" and result.get("changed"):
        kind = "changed"
    if kind == "failed" and inner.get("ignore_errors"):
        kind = "ignored"
    duration = inner.get("duration")
    return Event(
        kind=kind,
        host=inner.get("host"),
        play=inner.get("play"),
        role=inner.get("role"),
        task=inner.get("task"),
        action=inner.get("resolved_action") or inner.get("task_action"),
        seconds=float(duration) if isinstance(duration, (int, float)) else None,
        message=str(result["msg"])
        if kind in ("failed", "ignored", "unreachable", "retry") and result.get("msg")
        else None,
        text=str(data.get("stdout") or ""),
    )


# --- running ----------------------------------------------------------------------------------------------


def project_folder(project: str | Path | None = None) -> Path:
    """The folder with ``site.yml``: the given one, this package's, or one above the current folder."""
    if project is not None:
        place = Path(project).expanduser().resolve()
        if not (place / "site.yml").is_file():
            raise RunError(f"project {place}: there is no site.yml in it; it is no checkout of gpuready")
        return place
    here = Path(__file__).resolve()
    for folder in (*here.parents, Path.cwd().resolve(), *Path.cwd().resolve().parents):
        if (folder / "site.yml").is_file() and (folder / "playbooks").is_dir():
            return folder
    raise RunError(
        "gpuready's playbooks were not found beside this package nor above the current folder: say project="
    )


def playbook_path(project: Path, playbook: str | Path) -> Path:
    """A playbook by its path (absolute, or from the project), or by its bare name: ``site``, ``verify``."""
    said = str(playbook)
    candidates = [Path(said)] if os.path.isabs(said) else [project / said, project / "playbooks" / said]
    if re.fullmatch(r"[a-z_]+", said):
        candidates += [project / f"{said}.yml", project / "playbooks" / f"{said}.yml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    names = ["site", *sorted(path.stem for path in (project / "playbooks").glob("*.yml"))]
    raise RunError(f"there is no playbook {said} in {project}; it has {', '.join(names)}")


def inventory_sources(inventory: Inventory, folder: Path) -> list[str]:
    """What ``-i`` is given: existing paths become absolute, a mapping becomes a file in ``folder``."""
    if isinstance(inventory, Mapping):
        path = folder / "inventory.json"
        path.write_text(json.dumps(inventory), encoding="utf-8")
        return [str(path)]
    entries: Sequence[str | Path] = [inventory] if isinstance(inventory, (str, Path)) else list(inventory)
    if not entries:
        raise RunError("inventory: none was given")
    sources = []
    for entry in entries:
        said = str(entry)
        if "," in said:
            sources.append(said)
            continue
        place = Path(said).expanduser()
        if not place.exists():
            raise RunError(f"inventory {said}: there is no such file or folder")
        # The link `lab` stays a link: group_vars lie beside what was named.
        sources.append(os.path.abspath(place))
    return sources


def environment(project: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What ansible-playbook gets besides this process's environment."""
    wanted = {
        # This Python's Ansible, also where its environment is not activated.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        # ansible-runner would switch it off.
        "ANSIBLE_HOST_KEY_CHECKING": os.environ.get("ANSIBLE_HOST_KEY_CHECKING", "True"),
    }
    if "ANSIBLE_CONFIG" not in os.environ and (project / "ansible.cfg").is_file():
        wanted["ANSIBLE_CONFIG"] = str(project / "ansible.cfg")
    return {**wanted, **(more or {})}


def gist(output: str) -> str:
    """What Ansible says went wrong, out of all that it printed."""
    lines = [COLOURS.sub("", line).rstrip() for line in output.splitlines()]
    starts = [n for n, line in enumerate(lines) if re.match(r"(\[ERROR\]:|ERROR!|usage:)", line)]
    if starts:
        block: list[str] = []
        for line in lines[starts[0] :]:
            if block and not line.strip():
                break
            block.append(line)
        return " ".join(" ".join(block).split())
    said = [line for line in lines if line.strip()]
    return said[-1].strip() if said else "it printed nothing"


def run(
    playbook: str | Path,
    *,
    inventory: Inventory,
    limit: Iterable[str] = (),
    variables: Mapping[str, Any] | None = None,
    check: bool = False,
    tags: Iterable[str] = (),
    artifacts: str | Path | None = None,
    timeout: float | None = None,
    on_event: Callable[[Event], None] | None = None,
    project: str | Path | None = None,
    forks: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> FleetResult:
    """Run a playbook and return what came of it.

    :param playbook: ``site``, ``verify``, …, or a path from the project's folder.
    :param inventory: one source or several, as ``-i`` takes them, or a mapping as of a YAML inventory.
    :param variables: extra variables; they travel in a file that only this user reads, not as arguments.
    :param artifacts: folder for the report; by default where the site's configuration says.
    :param timeout: after so many seconds the run is stopped (:class:`RunError`).
    :param on_event: is called for everything that happens, from this thread.
    :raises RunError: Ansible did not begin, or did not end in time.
    """
    try:
        from ansible_runner import interface
    except ImportError as error:
        raise RunError(f"runs need ansible-runner beside gpuready: {error}") from error
    root = project_folder(project)
    book = playbook_path(root, playbook)
    own = Path(tempfile.mkdtemp(prefix="gpuready-run-"))
    try:
        return _run(
            interface,
            own,
            root,
            book,
            inventory_sources(inventory, own),
            limit=list(limit),
            variables=variables,
            check=check,
            tags=list(tags),
            artifacts=artifacts,
            timeout=timeout,
            on_event=on_event,
            forks=forks,
            environ=environ,
        )
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _run(
    interface: Any,
    own: Path,
    root: Path,
    book: Path,
    sources: list[str],
    *,
    limit: list[str],
    variables: Mapping[str, Any] | None,
    check: bool,
    tags: list[str],
    artifacts: str | Path | None,
    timeout: float | None,
    on_event: Callable[[Event], None] | None,
    forks: int | None,
    environ: Mapping[str, str] | None,
) -> FleetResult:
    pointer = own / "report-folder"
    wanted = {POINTER: str(pointer)}
    if artifacts is not None:
        wanted["GPUREADY_ARTIFACTS_DIR"] = str(Path(artifacts).expanduser().absolute())
    words = ["--check"] if check else []
    if variables:
        # The loader looks for it there; 0600, as the folder is 0700.
        (own / "env").mkdir(mode=0o700)
        _write_private(own / "env" / "extravars", json.dumps(dict(variables), default=str))
    said: list[str] = []

    def heard(data: dict[str, Any]) -> bool:
        event = event_of(data)
        if event.text:
            said.append(event.text)
        if on_event is not None:
            on_event(event)
        return False  # no file per event

    started = datetime.datetime.now(datetime.timezone.utc)
    runner = interface.run(
        private_data_dir=str(own),
        project_dir=str(root),
        playbook=str(book),
        inventory=sources,
        limit=",".join(limit) or None,
        tags=",".join(tags) or None,
        forks=forks,
        cmdline=" ".join(words) or None,
        envvars=environment(root, {**wanted, **(environ or {})}),
        fact_cache_type="",
        suppress_env_files=True,
        event_handler=heard,
        timeout=int(timeout) if timeout else None,
        quiet=True,
    )
    finished = datetime.datetime.now(datetime.timezone.utc)
    rc = KILLED if runner.rc is None else int(runner.rc)
    with runner.stdout as stream:
        output = COLOURS.sub("", stream.read())
    output = output or "\n".join(said)
    if runner.status == "timeout":
        raise RunError(f"{book.name} was stopped: it took longer than {timeout:.0f} s", output, rc)
    if pointer.is_file():
        return load(pointer.read_text(encoding="utf-8").strip(), rc=rc)
    if rc != 0:
        raise RunError(f"{book.name} did not begin: {gist(output)}", output, rc)
    # A playbook that looks at no node (report.yml).
    return FleetResult(
        run=None,
        playbook=book.name,
        ok=True,
        rc=rc,
        started=started,
        finished=finished,
        seconds=round((finished - started).total_seconds(), 2),
        check_mode=check,
        simulated=False,
        nodes={},
        folder=None,
    )


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as sink:
        sink.write(text)


def site(**options: Any) -> FleetResult:
    """Provision and verify: ``site.yml``. Options as of :func:`run`."""
    return run("site.yml", **options)


def plan(**options: Any) -> FleetResult:
    """What would be done and why; changes nothing: ``playbooks/plan.yml``."""
    return run("playbooks/plan.yml", **options)


def provision(**options: Any) -> FleetResult:
    """``playbooks/provision.yml``."""
    return run("playbooks/provision.yml", **options)


def verify(**options: Any) -> FleetResult:
    """Run every workload's container again: ``playbooks/verify.yml``."""
    return run("playbooks/verify.yml", **options)


def diagnose(**options: Any) -> FleetResult:
    """Name what is wrong; changes nothing: ``playbooks/diagnose.yml``."""
    return run("playbooks/diagnose.yml", **options)
