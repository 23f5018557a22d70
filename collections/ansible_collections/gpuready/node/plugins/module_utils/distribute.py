# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""One playbook over a large inventory, in slices on several execution nodes, and one report in the end.

Each slice goes by ``ansible-runner``'s own remote jobs: transmit here, worker over there (through ssh),
process here. An execution node needs ansible-core, ansible-runner and nvidia-ml-py, and a way to its nodes;
nothing of gpuready and nothing of the site stays on it. Controller only.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import queue
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from . import report, runs, slices, workbenches
from .runs import FleetResult, Inventory, RunError

#: What of a checkout the playbooks need; everything else stays here.
PROJECT_PARTS = ("ansible.cfg", "site.yml", "playbooks", "roles", "collections")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "tests", ".*cache*")
#: These belong to the whole fleet, or to files of this machine: in slices they would do something else.
WHOLE_FLEET_ONLY = {
    "upgrade.yml": "its batches go over the whole fleet, and every slice would have a canary of its own",
    "onboard.yml": "it writes this machine's inventory",
    "offboard.yml": "it writes this machine's inventory",
    "support_bundle.yml": "it writes its archives on the machine that runs it",
    "workbench_access.yml": "it shows secrets, which are not to be sent around",
    "report.yml": "it prints this machine's reports",
}
#: Between two signs of life of a worker (ansible-runner's keepalive), and how much silence means it is gone.
KEEPALIVE_SECONDS = 10
SILENT_SECONDS = 120.0
#: How long ssh may take to reach an execution node.
CONNECT_SECONDS = 20

# On the execution node. $1: the slice's folder, $2: ansible-runner. Everything goes when it ends, and what an
# execution node that lost its power left behind goes with the next slice.
WORKER = """
set -eu
umask 077
folder=$1 runner=$2
case $runner in */*) PATH=${runner%/*}:$PATH; export PATH ;; esac
cd "${folder%/*}"
find . -maxdepth 1 -user "$(id -un)" -name 'gpuready-slice-*' -mtime +1 -exec rm -rf {} + 2>/dev/null || true
mkdir "$folder"
trap 'rm -rf "$folder"' EXIT
trap 'kill "$job" 2>/dev/null; exit 129' HUP INT TERM
exec 3<&0
"$runner" worker --private-data-dir "$folder" --keepalive-seconds SECONDS <&3 3<&- &
job=$!
# With the connection goes its sshd, and nobody hears what would go on.
(while kill -0 "$PPID" 2>/dev/null; do sleep 2; done; kill "$job") </dev/null >/dev/null 2>&1 3<&- &
guard=$!
code=0
wait "$job" || code=$?
kill "$guard" 2>/dev/null || true
exit "$code"
""".strip().replace("SECONDS", str(KEEPALIVE_SECONDS))

# Asked before anything starts: is all there that a slice needs?
CHECK = """
runner=$1
case $runner in */*) PATH=${runner%/*}:$PATH; export PATH ;; esac
command -v "$runner" >/dev/null || { echo "there is no $runner"; exit 3; }
command -v ansible-playbook >/dev/null || { echo "there is no ansible-playbook on its PATH"; exit 3; }
echo "runner $("$runner" --version 2>/dev/null | head -n 1)"
LC_ALL=C.UTF-8 ansible-playbook --version 2>&1 | sed -n 's/^ansible-playbook \\[core \\(.*\\)\\]/core \\1/p'
""".strip()


# --- what is said about it --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Worker:
    """An execution node, by a name of one's own and its address as ssh takes it (``user@host``, ``ssh://…:2222``)."""

    name: str
    destination: str


@dataclass(frozen=True)
class SliceResult:
    """One slice: where it ran, and how it ended. ``error`` is why its worker is lost, or None."""

    number: int
    worker: str | None
    hosts: tuple[str, ...]
    rc: int | None
    seconds: float
    transmitted_bytes: int
    error: str | None


@dataclass(frozen=True)
class Distribution:
    """The one result, and how it came about."""

    result: FleetResult
    slices: tuple[SliceResult, ...]


def workers_of(said: Iterable[str]) -> list[Worker]:
    """``NAME=DESTINATION``, several times. All that is wrong is told at once."""
    found: list[Worker] = []
    wrong: list[str] = []
    for item in said:
        name, equals, destination = item.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or not destination.strip():
            wrong.append(f"{item!r} is not NAME=SSH-DESTINATION")
        elif destination.startswith("-"):
            wrong.append(f"{item!r}: the destination begins with a hyphen")
        elif name in {worker.name for worker in found}:
            wrong.append(f"{name!r} is named twice")
        else:
            found.append(Worker(name, destination.strip()))
    if wrong:
        raise RunError(f"worker: {'; '.join(wrong)}")
    if not found:
        raise RunError("worker: none was named; say --worker NAME=SSH-DESTINATION at least once")
    return found


# --- what travels -----------------------------------------------------------------------------------------


def pack_project(root: Path, target: Path) -> None:
    """The parts of a checkout that playbooks need, without tests and caches."""
    target.mkdir(parents=True)
    for name in PROJECT_PARTS:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=LEFT_OUT, symlinks=True)
        elif source.is_file():
            shutil.copy2(source, target / name)
        else:
            raise RunError(f"project {root}: there is no {name} in it")


def read_inventory(
    root: Path, sources: Sequence[str], *, limit: Sequence[str], variables: Mapping[str, Any], pattern: str
) -> dict[str, Any]:
    """The hosts with their variables, and the groups, as Ansible sees them here."""
    question = {
        "inventory": list(sources),
        "limit": list(limit),
        "variables": dict(variables),
        "pattern": pattern,
        "basedir": str(root / "playbooks"),
    }
    done = subprocess.run(
        [sys.executable, "-m", f"{__package__}.slices"],
        input=json.dumps(question, default=str),
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={**os.environ, **runs.environment(root)},
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise RunError(f"the inventory could not be read: {runs.gist(done.stderr)}", done.stderr) from None
    if "error" in answer:
        raise RunError(f"inventory: {answer['error']}", done.stderr)
    if not answer["hosts"]:
        where = f"--limit {','.join(limit)} within {pattern}" if limit else pattern
        raise RunError(f"no host of {', '.join(sources)} matches {where}")
    return dict(answer)


def _public_half(key: str) -> str:
    beside = Path(f"{key}.pub")
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    # An empty passphrase, so that nobody is asked for one.
    done = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", key], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RunError(
            f"the key {key} has a passphrase and no {key}.pub beside it: "
            f"ssh-keygen -y -f {key} > {key}.pub makes that, and ssh-add {key} opens the key for your agent"
        )
    return done.stdout


@contextlib.contextmanager
def agent_with(keys: Sequence[str], publics: Sequence[str], folder: Path) -> Iterator[str | None]:
    """An ssh-agent with these keys and no others, for the time of the run; the socket to be forwarded.

    Where a key has a passphrase, the user's own agent, if it has all of them.
    """
    if not keys:
        # Whatever the user's own agent has: the inventory names no key.
        yield os.environ.get("SSH_AUTH_SOCK") or None
        return
    socket = folder / "agent"
    agent = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(socket)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            if agent.poll() is not None or time.monotonic() > deadline:
                raise RunError("ssh-agent did not start")
            time.sleep(0.02)
        closed = []
        for key in keys:
            done = subprocess.run(
                ["ssh-add", "-q", key],
                env={**os.environ, "SSH_AUTH_SOCK": str(socket), "SSH_ASKPASS_REQUIRE": "never"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                start_new_session=True,
            )
            if done.returncode:
                closed.append((key, " ".join(done.stderr.split())))
        if not closed:
            yield str(socket)
            return
        own = os.environ.get("SSH_AUTH_SOCK") or ""
        listed = subprocess.run(["ssh-add", "-L"], capture_output=True, text=True, check=False).stdout
        known = {line.split()[1] for line in listed.splitlines() if len(line.split()) > 1}
        if not own or any(public.split()[1] not in known for public in publics):
            key, why = closed[0]
            raise RunError(
                f"the key {key} cannot be used ({why}): if it has a passphrase, ssh-add {key} first"
            )
        yield own
    finally:
        agent.terminate()
        agent.wait()


# --- one slice --------------------------------------------------------------------------------------------


class _Heard(io.RawIOBase):
    """A stream that knows when something was last heard from it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.at = time.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.read1(len(buffer))  # type: ignore[attr-defined]
        self.at = time.monotonic()
        buffer[: len(data)] = data
        return len(data)


class _Counted(io.RawIOBase):
    """A stream that counts what goes into it. ansible-runner asks for its name."""

    name = "<ssh>"

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self.bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._sink.write(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        if not self._sink.closed:
            self._sink.flush()


@dataclass
class _Slice:
    """A slice on its way."""

    number: int
    hosts: list[str]
    folder: Path  # here
    remote: str  # there
    ident: str = "slice"
    worker: str | None = None
    status: str = "unstarted"
    explanation: str = ""
    silence: str = ""
    error: str | None = None
    sent: int = 0
    seconds: float = 0.0
    last_line: str = ""
    said: list[str] = field(default_factory=list)

    @property
    def artifacts(self) -> Path:
        return self.folder / "back" / "artifacts" / self.ident

    @property
    def rc(self) -> int | None:
        try:
            return int((self.artifacts / "rc").read_text().strip())
        except (OSError, ValueError):
            return None

    @property
    def report(self) -> Path | None:
        """The folder of the slice's own report, once it is back."""
        found = sorted((self.artifacts / "report").glob("*/fleet.json"))
        return next((path.parent for path in found if not path.parent.is_symlink()), None)


class _Job:
    """What the slices have in common."""

    def __init__(
        self,
        *,
        ssh: Sequence[str],
        environ: Mapping[str, str],
        runner: str,
        playbook: str,
        check: bool,
        tags: Sequence[str],
        forks: int | None,
        timeout: float | None,
        silent_seconds: float,
        on_line: Callable[[str, str], None] | None,
    ) -> None:
        self.ssh = list(ssh)
        self.environ = dict(environ)
        self.runner = runner
        self.playbook = playbook
        self.check = check
        self.tags = list(tags)
        self.forks = forks
        self.timeout = timeout
        self.silent_seconds = silent_seconds
        self.on_line = on_line
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.stopped = threading.Event()
        self._lock = threading.Lock()

    def command(self, worker: Worker, script: str, *words: str) -> list[str]:
        """ssh, and a script for the execution node's shell, whatever the user's login shell is."""
        # exec: its parent is sshd, and not the user's login shell.
        remote = "exec " + shlex.join(["sh", "-c", script, "gpuready", *words])
        return [*self.ssh, "--", worker.destination, remote]

    def stop(self) -> None:
        """End what runs (Ctrl-C, an error here)."""
        self.stopped.set()
        for process in list(self.processes):
            _end(process)

    def check_worker(self, worker: Worker) -> str | None:
        """What is wrong with an execution node; None when it can work."""
        try:
            done = subprocess.run(
                self.command(worker, CHECK, self.runner),
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=CONNECT_SECONDS * 3,
                check=False,
                env=self.environ,
            )
        except subprocess.TimeoutExpired:
            return f"{worker.name} ({worker.destination}): no answer within {CONNECT_SECONDS * 3} s"
        said = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
        where = f"{worker.name} ({worker.destination})"
        if done.returncode == 255:
            return f"{where}: ssh does not get there: {_last_line(done.stderr) or 'no reason was given'}"
        if done.returncode:
            return f"{where}: {_last_line(done.stdout) or _last_line(done.stderr)}"
        ours = _core_version()
        theirs = said.get("core", "")
        if theirs.split(".")[:2] != ours.split(".")[:2]:
            return (
                f"{where}: it has ansible-core {theirs or 'of no version'}, and here is {ours}: install that"
            )
        return None

    def work(self, job: _Slice, worker: Worker) -> None:
        """Send a slice to an execution node and take back what comes of it."""
        from ansible_runner import interface

        job.worker = worker.name
        started = time.monotonic()
        stderr: deque[str] = deque(maxlen=50)
        with subprocess.Popen(
            self.command(worker, WORKER, job.remote, self.runner),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=self.environ,
        ) as process:
            assert process.stdin and process.stdout and process.stderr
            with self._lock:
                self.processes.add(process)
            if self.stopped.is_set():
                _end(process)
            listening = threading.Thread(target=_listen, args=(process.stderr, stderr), daemon=True)
            listening.start()
            heard = _Heard(process.stdout)  # type: ignore[arg-type]
            done = threading.Event()
            guard = threading.Thread(target=self._guard, args=(process, heard, job, done), daemon=True)
            try:
                counted = _Counted(process.stdin)  # type: ignore[arg-type]
                with contextlib.suppress(BrokenPipeError):
                    try:
                        interface.run(streamer="transmit", _output=counted, **self._arguments(job))
                    finally:
                        job.sent = counted.bytes
                        process.stdin.close()
                heard.at = time.monotonic()
                guard.start()
                interface.run(
                    streamer="process",
                    _input=io.BufferedReader(heard),
                    private_data_dir=str(job.folder / "back"),
                    ident=job.ident,
                    settings={},
                    quiet=True,
                    event_handler=lambda data: self._event(job, data),
                    status_handler=lambda status, runner_config: self._status(job, status),
                )
            finally:
                done.set()
                if job.status not in ("successful", "failed"):
                    _end(process)
                process.wait()
                listening.join(timeout=5)
                with self._lock:
                    self.processes.discard(process)
        job.seconds = time.monotonic() - started
        self._judge(job, worker, process.returncode, list(stderr))

    def _arguments(self, job: _Slice) -> dict[str, Any]:
        """ansible-runner's arguments; everything that might be secret is in files of the slice's folder."""
        wanted: dict[str, Any] = {
            "private_data_dir": str(job.folder / "there"),
            "playbook": self.playbook,
            "ident": job.ident,
            "fact_cache_type": "",
            # A node's whole observation in every event would be megabytes; it comes back in the report.
            "only_failed_event_data": True,
        }
        if self.check:
            wanted["cmdline"] = "--check"
        if self.tags:
            wanted["tags"] = ",".join(self.tags)
        if self.forks:
            wanted["forks"] = self.forks
        if self.timeout:
            wanted["timeout"] = int(self.timeout)
        return wanted

    def _event(self, job: _Slice, data: Mapping[str, Any]) -> bool:
        text = str(data.get("stdout") or "")
        for line in text.splitlines():
            job.said.append(line)
            if line.strip():
                job.last_line = runs.COLOURS.sub("", line).strip()
            if self.on_line is not None:
                self.on_line(str(job.worker), line)
        return False  # no file per event

    @staticmethod
    def _status(job: _Slice, status: Mapping[str, Any]) -> None:
        job.status = str(status.get("status"))
        job.explanation = str(status.get("job_explanation") or job.explanation)
        if trace := status.get("result_traceback"):
            job.explanation += ": " + str(trace).strip().rpartition("\n")[2]

    def _guard(
        self, process: subprocess.Popen[bytes], heard: _Heard, job: _Slice, done: threading.Event
    ) -> None:
        """A worker that says nothing any more is gone, even if its connection has not noticed."""
        while not done.wait(min(1.0, self.silent_seconds / 4)):
            if time.monotonic() - heard.at > self.silent_seconds:
                job.silence = f"nothing was heard of it for {self.silent_seconds:.0f} s"
                _end(process, signal.SIGKILL)
                return

    def _judge(self, job: _Slice, worker: Worker, ssh_rc: int, stderr: list[str]) -> None:
        """Whether the slice has a result; else why its worker is lost."""
        if job.status in ("successful", "failed") and job.report is not None:
            return
        who = f"the execution node {worker.name} ({worker.destination})"
        said = "; ".join(line for line in stderr[-3:] if line.strip())
        last = f"; last heard: {job.last_line}" if job.last_line else ""
        if job.status in ("successful", "failed"):
            output = (self._stdout(job) or "\n".join(job.said)).strip()
            job.error = f"{who} did not begin with its slice: {runs.gist(output)}"
        elif job.status == "timeout":
            job.error = f"{who} was stopped after {self.timeout:.0f} s{last}"
        elif job.status in ("unstarted", "starting", "running", "error", "canceled"):
            why = job.silence or job.explanation or f"ssh ended with {ssh_rc}"
            if why.startswith("Unexpected empty line"):
                why = "its connection ended"
            job.error = f"{who} was lost while it worked: {why}{f' ({said})' if said else ''}{last}"

    @staticmethod
    def _stdout(job: _Slice) -> str:
        try:
            return (job.artifacts / "stdout").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def _end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
    """End ssh and what it started (a ProxyCommand)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how)


def _listen(stream: BinaryIO, lines: deque[str]) -> None:
    for raw in stream:
        lines.append(raw.decode("utf-8", "replace").strip())


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _core_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ansible-core")
    except PackageNotFoundError:
        raise RunError("distribute needs ansible-core beside gpuready") from None


# --- all of them ------------------------------------------------------------------------------------------


def distribute(
    playbook: str | Path,
    *,
    inventory: Inventory,
    workers: Sequence[Worker],
    slices_wanted: int | None = None,
    limit: Iterable[str] = (),
    pattern: str = "gpu_nodes",
    variables: Mapping[str, Any] | None = None,
    check: bool = False,
    tags: Iterable[str] = (),
    artifacts: str | Path | None = None,
    timeout: float | None = None,
    forks: int | None = None,
    project: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    ssh_config: str | Path | None = None,
    runner: str = "ansible-runner",
    keys: str = "agent",
    silent_seconds: float = SILENT_SECONDS,
    on_line: Callable[[str, str], None] | None = None,
) -> Distribution:
    """Run a playbook in slices on execution nodes and merge what comes back into one report.

    :param workers: the execution nodes; a worker that is done takes the next slice.
    :param slices_wanted: how many slices; by default one per worker.
    :param pattern: which hosts of the inventory are dealt out (those of ``limit`` among them).
    :param environ: more environment variables for Ansible on the execution nodes (``GPUREADY_ARA``, …).
    :param ssh_config: how ssh reaches the execution nodes (``ssh -F``).
    :param runner: ansible-runner on the execution nodes: a name on their PATH, or a path.
    :param keys: ``agent``: the inventory's private keys stay here and are lent through a forwarded agent;
        ``none``: the execution nodes have keys of their own, where the inventory says.
    :param silent_seconds: a worker that says nothing for so long is lost.
    :param on_line: is called with the worker's name and each line of Ansible's there, from several threads.
    :raises RunError: the question is wrong, or an execution node cannot work; nothing has been started then.
    """
    try:
        import ansible_runner  # noqa: F401
    except ImportError as error:
        raise RunError(f"distribute needs ansible-runner beside gpuready: {error}") from error
    root = runs.project_folder(project)
    book = runs.playbook_path(root, playbook)
    if not book.is_relative_to(root):
        raise RunError(f"{book} is not in {root}, which is what travels to the execution nodes")
    if book.name in WHOLE_FLEET_ONLY:
        raise RunError(f"{book.name} cannot be cut into slices: {WHOLE_FLEET_ONLY[book.name]}; run it here")
    if keys not in ("agent", "none"):
        raise RunError(f"keys {keys!r}: say agent or none")
    if slices_wanted is not None and slices_wanted < 1:
        raise RunError(f"slices {slices_wanted}: there must be one at least")
    if ssh_config is not None and not Path(ssh_config).expanduser().is_file():
        raise RunError(f"ssh_config {ssh_config}: there is no such file")
    # ssh-agent's socket must have a short path.
    own = Path(tempfile.mkdtemp(prefix="gpuready-", dir="/tmp" if os.path.isdir("/tmp") else None))
    try:
        return _distribute(
            own,
            root,
            book.relative_to(root),
            runs.inventory_sources(inventory, own),
            workers=list(workers),
            count=slices_wanted or len(workers),
            limit=list(limit),
            pattern=pattern,
            variables=dict(variables or {}),
            artifacts=_artifacts(root, artifacts),
            environ=dict(environ or {}),
            ssh_config=ssh_config,
            keys=keys,
            job_options={
                "runner": runner,
                "check": check,
                "tags": list(tags),
                "forks": forks,
                "timeout": timeout,
                "silent_seconds": silent_seconds,
                "on_line": on_line,
            },
        )
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _artifacts(root: Path, wanted: str | Path | None) -> Path:
    chosen = wanted or os.environ.get("GPUREADY_ARTIFACTS_DIR") or root / "artifacts"
    return Path(chosen).expanduser().absolute()


def _ssh_environment(agent: str | None) -> dict[str, str]:
    """ssh lends out the agent that it is told to only if it finds one of its own as well."""
    found = dict(os.environ)
    asked = subprocess.run(["ssh-add", "-l"], capture_output=True, check=False)
    if agent and (not found.get("SSH_AUTH_SOCK") or asked.returncode == 2):
        found["SSH_AUTH_SOCK"] = agent
    return found


def _ssh(ssh_config: str | Path | None, agent: str | None) -> list[str]:
    words = ["ssh", "-T"]
    if ssh_config is not None:
        words += ["-F", str(Path(ssh_config).expanduser())]
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(CONNECT_SECONDS),
        # A shared connection would outlive this run, and share one agent.
        "ControlMaster": "no",
        "ControlPath": "none",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
        "ForwardAgent": agent or "no",
    }
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    return words


def _distribute(
    own: Path,
    root: Path,
    book: Path,
    sources: list[str],
    *,
    workers: list[Worker],
    count: int,
    limit: list[str],
    pattern: str,
    variables: dict[str, Any],
    artifacts: Path,
    environ: dict[str, str],
    ssh_config: str | Path | None,
    keys: str,
    job_options: dict[str, Any],
) -> Distribution:
    started = datetime.datetime.now(datetime.timezone.utc)
    clock = time.monotonic()
    answer = read_inventory(root, sources, limit=limit, variables=variables, pattern=pattern)
    _read_key_files(answer["hosts"])
    hosts = list(answer["hosts"])
    # Not to be guessed by others on the execution nodes, whose /tmp it may be.
    token = secrets.token_hex(8)
    remote = f"/tmp/gpuready-slice-{token}"
    jobs: list[_Slice] = []
    pack_project(root, own / "project")
    all_keys: dict[str, str] = {}
    for number, members in enumerate(slices.deal(hosts, count), start=1):
        job = _Slice(number, members, own / f"slice-{number}", f"{remote}-{number}")
        carried = slices.Carried(f"{job.remote}/ssh", keys=keys == "agent")
        _pack_slice(
            job,
            answer,
            carried,
            project=own / "project",
            variables=variables,
            environ={
                "ANSIBLE_HOST_KEY_CHECKING": os.environ.get("ANSIBLE_HOST_KEY_CHECKING", "True"),
                "GPUREADY_ARTIFACTS_DIR": f"{job.remote}/artifacts/{job.ident}/report",
                "GPUREADY_BOARD": "off",
                # Ansible wants a locale of UTF-8, which a machine without a login may not set.
                "LC_ALL": "C.UTF-8",
                # A vault is opened here; its password's file is not over there.
                **({"ANSIBLE_VAULT_PASSWORD_FILE": ""} if answer.get("vault_configured") else {}),
                **environ,
            },
        )
        all_keys.update(carried.keys)
        jobs.append(job)
    publics = [_public_half(key) for key in all_keys]
    with agent_with(list(all_keys), publics, own) as agent:
        work = _Job(
            ssh=_ssh(ssh_config, agent), environ=_ssh_environment(agent), playbook=str(book), **job_options
        )
        _check_workers(work, workers)
        _play(work, jobs, workers)
    try:
        result = _merge(jobs, answer, book, artifacts, started, time.monotonic() - clock, check=work.check)
    except Exception:
        # What took an hour is not lost because the last step fails.
        _save(jobs, artifacts, report.run_name(started, book.name))
        raise
    return Distribution(
        result,
        tuple(
            SliceResult(
                number=job.number,
                worker=job.worker,
                hosts=tuple(job.hosts),
                rc=job.rc,
                seconds=round(job.seconds, 2),
                transmitted_bytes=job.sent,
                error=job.error,
            )
            for job in jobs
        ),
    )


def _read_key_files(hosts: Mapping[str, dict[str, Any]]) -> None:
    """Users' public keys that lie in files of this machine travel as text."""
    for name, variables in hosts.items():
        if workbenches.USERS in variables:
            try:
                variables[workbenches.USERS] = workbenches.read_key_files(
                    variables[workbenches.USERS],
                    lambda path: Path(path).expanduser().read_text(encoding="utf-8"),
                )
            except workbenches.KeyFileError as error:
                raise RunError(f"{name}: {error}") from error


def _known_hosts() -> str:
    """The host keys that this machine knows, for hosts whose variables name no file of their own."""
    texts = []
    for path in (Path("~/.ssh/known_hosts").expanduser(), Path("/etc/ssh/ssh_known_hosts")):
        with contextlib.suppress(OSError):
            texts.append(path.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(text.rstrip("\n") for text in texts if text) + "\n"


def _pack_slice(
    job: _Slice,
    answer: Mapping[str, Any],
    carried: slices.Carried,
    *,
    project: Path,
    variables: Mapping[str, Any],
    environ: Mapping[str, str],
) -> None:
    """A private data directory as ansible-runner transmits it."""
    there = job.folder / "there"
    for part in ("inventory", "env", "ssh"):
        (there / part).mkdir(parents=True, mode=0o700)
    # ansible-runner would send a link as a link.
    shutil.copytree(project, there / "project", symlinks=True, copy_function=os.link)
    moved = {
        host: carried.host(
            answer["hosts"][host],
            default_key=answer.get("private_key_file"),
            known_hosts=f"{carried.folder}/known_hosts",
        )
        for host in job.hosts
    }
    document = slices.document({**answer, "hosts": moved}, job.hosts)
    _private(there / "inventory" / "hosts.yml", slices.text(document))
    _private(there / "env" / "envvars", json.dumps(dict(environ)))
    _private(there / "env" / "settings", json.dumps({"suppress_ansible_output": True}))
    if variables:
        _private(there / "env" / "extravars", json.dumps(dict(variables), default=str))
    _private(there / "ssh" / "known_hosts", _known_hosts())
    for path, name in carried.files.items():
        _private(there / "ssh" / name, Path(path).read_text(encoding="utf-8", errors="replace"))
    for path, name in carried.keys.items():
        _private(there / "ssh" / name, _public_half(path))


def _private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as sink:
        sink.write(text)


def _check_workers(work: _Job, workers: Sequence[Worker]) -> None:
    """All execution nodes can work, or nothing begins."""
    wrong: list[str] = []
    lock = threading.Lock()

    def ask(worker: Worker) -> None:
        trouble = work.check_worker(worker)
        if trouble:
            with lock:
                wrong.append(trouble)

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise RunError("execution nodes that cannot work: " + "; ".join(sorted(wrong)))


def _play(work: _Job, jobs: Sequence[_Slice], workers: Sequence[Worker]) -> None:
    """Every worker takes slices until there are none; one that was lost takes no more."""
    waiting: queue.SimpleQueue[_Slice] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    broken: list[BaseException] = []

    def serve(worker: Worker) -> None:
        while not work.stopped.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                work.work(job, worker)
            except BaseException as error:
                broken.append(error)
                work.stop()
                return
            if job.error is not None:
                return

    threads = [threading.Thread(target=serve, args=(worker,), name=worker.name) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        work.stop()
        for thread in threads:
            thread.join()
        raise
    if broken:
        raise broken[0]
    for job in jobs:
        if job.worker is None:
            job.error = "no execution node was left for it: all of them were lost"


def _save(jobs: Sequence[_Slice], artifacts: Path, run: str) -> None:
    """The slices' own reports, for `gpuready merge`."""
    artifacts.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        if job.report is not None:
            shutil.copytree(job.report, artifacts / f"{run}-slice-{job.number}", dirs_exist_ok=True)


def _merge(
    jobs: Sequence[_Slice],
    answer: Mapping[str, Any],
    book: Path,
    artifacts: Path,
    started: datetime.datetime,
    seconds: float,
    *,
    check: bool,
) -> FleetResult:
    """One report out of the slices'."""
    run = report.run_name(started, book.name)
    groups: dict[str, list[str]] = {}
    for name, members in answer["groups"].items():
        for host in members:
            groups.setdefault(host, []).append(name)
    lost = [
        report.lost_node(
            host,
            run,
            job.error,
            address=answer["hosts"][host].get("ansible_host"),
            groups=sorted(groups.get(host, [])),
        )
        for job in jobs
        if job.error is not None
        for host in job.hosts
    ]
    folders = [job.report for job in jobs if job.error is None and job.report is not None]
    nodes, fleet = report.merge(folders, run=run, lost=lost)
    # The wall clock of the whole, from here; the slices' own are their machines'.
    fleet.update(
        playbook=book.name,
        check_mode=check,
        started=started.isoformat(timespec="seconds"),
        finished=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        seconds=round(seconds, 2),
    )
    folder = report.write_run(artifacts, run, nodes, fleet, report.report_text(nodes, fleet))
    kept = folder / "slices"
    kept.mkdir()
    for job in jobs:
        output = _Job._stdout(job) or "\n".join(job.said)
        text = runs.COLOURS.sub("", output).rstrip("\n") + "\n"
        (kept / f"{job.number}-{job.worker or 'nobody'}.txt").write_text(text, encoding="utf-8")
    worst = max((job.rc or 0 for job in jobs), default=0)
    return runs.load(folder, rc=worst or (4 if lost else 0))
