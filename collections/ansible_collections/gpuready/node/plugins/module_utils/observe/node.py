"""The node that the probes read: its files, its commands and its Docker Engine.

Probes never touch the machine directly. They ask a `Node`, so that a test can hand them a recorded
tree (`root`), recorded command output (`run`) and recorded Engine answers (`docker`).
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import stat
import subprocess
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

# sudo and non-login shells often come without the sbin directories, where most of our tools live.
SEARCH_PATH = (
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
)
READ_LIMIT = 8 * 1024 * 1024
_NOT_FOUND = (FileNotFoundError, NotADirectoryError)


class Result(NamedTuple):
    """What a command answered."""

    rc: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The command's own words about its failure, verbatim."""
        return (self.err.strip() or self.out.strip() or "exit status %d" % self.rc)[-2000:]


class ProbeError(Exception):
    """Something could not be found out; the text says what."""


class MissingTool(ProbeError):
    """A command is not on the node."""


class DockerError(ProbeError):
    """The Docker Engine could not be asked."""


Runner = Callable[[Sequence[str]], Result]
DockerGet = Callable[[str, str], Any]


def _system_run(argv: Sequence[str], timeout: float) -> Result:
    # C.UTF-8 would be nicer, but only C exists everywhere; LANGUAGE beats LC_ALL in gettext.
    environment = dict(os.environ, LC_ALL="C", LANGUAGE="", PATH=":".join(SEARCH_PATH))
    try:
        process = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise MissingTool("%s is not installed" % argv[0]) from None
    except subprocess.TimeoutExpired:
        raise ProbeError("%s did not answer in %g s" % (" ".join(argv[:2]), timeout)) from None
    return Result(
        process.returncode,
        process.stdout.decode("utf-8", "replace"),
        process.stderr.decode("utf-8", "replace"),
    )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _system_docker_get(sock: str, path: str, timeout: float) -> Any:
    """One GET on the Engine's own API: no docker client has to be installed, or to match."""
    connection = _UnixConnection(sock, timeout)
    try:
        connection.request("GET", path, headers={"Host": "docker"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise DockerError("Docker Engine at %s: %s" % (sock, error_text(error))) from None
    finally:
        connection.close()
    try:
        answer = json.loads(body.decode("utf-8", "replace"))
    except ValueError:
        raise DockerError("Docker Engine at %s answers %d without JSON" % (sock, response.status)) from None
    if response.status != 200:
        message = answer.get("message") if isinstance(answer, dict) else None
        raise DockerError("Docker Engine at %s: %s" % (sock, message or response.status))
    return answer


def error_text(error: BaseException) -> str:
    """An exception in one line, without Python's own dressing where it adds nothing."""
    if isinstance(error, ProbeError):
        return str(error)
    if isinstance(error, socket.timeout):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return "%s: %s" % (error.strerror, error.filename) if error.filename else error.strerror
    return "%s: %s" % (type(error).__name__, error)


class Node:
    """A machine, or a recorded one."""

    def __init__(
        self,
        root: str = "/",
        run: Optional[Runner] = None,
        docker: Optional[DockerGet] = None,
        timeout: float = 10.0,
        now: Callable[[], float] = time.time,
        uid: Optional[int] = None,
    ) -> None:
        self.root = os.path.abspath(root)
        self.timeout = timeout
        self.now = now
        self.uid = os.geteuid() if uid is None else uid
        self.problems: List[Dict[str, str]] = []
        self._run = run
        self._docker = docker
        self._lock = threading.Lock()

    # problems -----------------------------------------------------------------------------------

    def problem(self, probe: str, error: Any) -> None:
        """Records that a probe could not see everything."""
        text = error_text(error) if isinstance(error, BaseException) else str(error)
        with self._lock:
            entry = {"probe": probe, "error": text}
            if entry not in self.problems:
                self.problems.append(entry)

    def attempt(self, probe: str, function: Callable[[], Any], default: Any = None) -> Any:
        """A probe fails alone: its answer, or `default` and an entry in `problems`."""
        try:
            return function()
        except Exception as error:  # whatever it is, the rest of the observation must go on
            self.problem(probe, error)
            return default

    # files --------------------------------------------------------------------------------------

    def real(self, path: str) -> str:
        """The path after following every link, as the node names it; links stay inside the root."""
        pending = [part for part in path.split("/") if part]
        done: List[str] = []
        hops = 0
        while pending:
            part = pending.pop(0)
            if part == ".":
                continue
            if part == "..":
                if done:
                    done.pop()
                continue
            here = "/" + "/".join([*done, part])
            try:
                target = os.readlink(self._join(here))
            except OSError:
                done.append(part)
                continue
            hops += 1
            if hops > 40:
                raise OSError(40, "Too many levels of symbolic links", path)
            if target.startswith("/"):
                done = []
            pending = [piece for piece in target.split("/") if piece] + pending
        return "/" + "/".join(done)

    def _join(self, path: str) -> str:
        return path if self.root == "/" else os.path.join(self.root, path.lstrip("/"))

    def host_path(self, path: str) -> str:
        """Where this process finds the file (after links)."""
        return self._join(self.real(path))

    def stat(self, path: str) -> Optional[os.stat_result]:
        """The file's stat after links; null when there is no such file."""
        try:
            return os.stat(self.host_path(path))
        except _NOT_FOUND:
            return None

    def lstat(self, path: str) -> Optional[os.stat_result]:
        """The stat of the file itself, were it a link; null when there is no such file."""
        try:
            return os.lstat(
                self._join(self.real(os.path.dirname(path)).rstrip("/") + "/" + os.path.basename(path))
            )
        except _NOT_FOUND:
            return None

    def exists(self, path: str) -> bool:
        return self.stat(path) is not None

    def is_dir(self, path: str) -> bool:
        found = self.stat(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def is_file(self, path: str) -> bool:
        found = self.stat(path)
        return found is not None and stat.S_ISREG(found.st_mode)

    def readlink(self, path: str) -> Optional[str]:
        try:
            return os.readlink(
                self._join(self.real(os.path.dirname(path)).rstrip("/") + "/" + os.path.basename(path))
            )
        except OSError:
            return None

    def data(self, path: str) -> Optional[bytes]:
        """The file's bytes; null when there is no such file."""
        try:
            with open(self.host_path(path), "rb", buffering=0) as handle:
                # In pieces: /proc/sys answers ENOMEM to a reader with a large buffer.
                data = b""
                while len(data) < READ_LIMIT:
                    piece = handle.read(65536)
                    if not piece:
                        break
                    data += piece
                return data
        except _NOT_FOUND:
            return None

    def text(self, path: str) -> Optional[str]:
        """The file's text; null when there is no such file."""
        data = self.data(path)
        return None if data is None else data.decode("utf-8", "replace")

    def listdir(self, path: str) -> List[str]:
        """The sorted names in a directory; none when there is no such directory."""
        try:
            return sorted(os.listdir(self.host_path(path)))
        except _NOT_FOUND:
            return []

    def statvfs(self, path: str) -> os.statvfs_result:
        return os.statvfs(self.host_path(path))

    def which(self, name: str, path: Sequence[str] = SEARCH_PATH) -> Optional[str]:
        """The command's path in the given directories."""
        for directory in path:
            candidate = "%s/%s" % (directory.rstrip("/"), name)
            try:
                found = self.stat(candidate)
            except OSError:
                continue
            if found is not None and stat.S_ISREG(found.st_mode) and found.st_mode & 0o111:
                return candidate
        return None

    # commands -----------------------------------------------------------------------------------

    def run(self, argv: Sequence[str]) -> Result:
        """Runs a command in the C locale; raises MissingTool or, after the time limit, ProbeError."""
        if self._run is not None:
            return self._run(argv)
        return _system_run(argv, self.timeout)

    def output(self, argv: Sequence[str]) -> str:
        """The output of a command that has to succeed."""
        result = self.run(argv)
        if result.rc != 0:
            raise ProbeError("%s: %s" % (" ".join(argv[:2]), result.message))
        return result.out

    def docker(self, sock: str, path: str) -> Any:
        """One GET on the Engine's API."""
        if self._docker is not None:
            return self._docker(sock, path)
        return _system_docker_get(self.host_path(sock), path, self.timeout)


class Jobs:
    """Slow questions, asked at the same time.

    Daemon threads and not an executor: one that hangs in a broken driver must not keep the module alive.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._results: Dict[str, Tuple[Any, Optional[BaseException]]] = {}
        self._threads: Dict[str, threading.Thread] = {}

    def start(self, name: str, function: Callable[[], Any]) -> None:
        def work() -> None:
            try:
                self._results[name] = (function(), None)
            except Exception as error:  # handed to whoever asks for the result
                self._results[name] = (None, error)

        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads[name] = thread
        thread.start()

    def result(self, name: str, wait: Optional[float] = None) -> Any:
        """The answer; raises what the question raised, or ProbeError when it hangs."""
        self._threads[name].join(wait)
        if name not in self._results:
            raise ProbeError("no answer after %g s" % (wait or 0))
        value, error = self._results[name]
        if error is not None:
            raise error
        return value


_NUMBER = re.compile(r"(\d+)")


def natural_key(text: str) -> Tuple[Any, ...]:
    """Orders 5.15.0-99 before 5.15.0-157."""
    return tuple(
        (1, int(part), "") if part.isdigit() else (0, 0, part) for part in _NUMBER.split(text) if part
    )
