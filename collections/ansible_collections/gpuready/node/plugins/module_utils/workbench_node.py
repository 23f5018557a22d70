# Apache-2.0 (see LICENSE)
"""Workbenches on their node: written, started, and put back as they were when the start fails.

Runs on nodes: Python 3.8, the standard library only. A row is one of `plan.workbench.users` (section 12 of
docs/contracts.md). What only the node knows (tokens, passwords, host keys) is made here and stays here.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import pwd
import re
import secrets
import shutil
import socket
import ssl
import stat
import tempfile
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

from .observe.node import Node, ProbeError, Result
from .workbench_names import (
    FIRST_UID,
    FOLDER,
    HOST_KEYS,
    LABEL_CONFIG,
    LABEL_USER,
    PREFIX,
    SUFFIX,
    UNITS,
    container_name,
    unit_name,
)

NAME = re.compile(r"^[a-z][a-z0-9-]{0,30}$")
LAST_UID = 59999
COMMAND_SECONDS = 120
LOG_LINES = 30
POLL_SECONDS = 0.5


class WorkbenchError(Exception):
    """What stands against it, in words for people."""


def system_run(argv: Sequence[str]) -> Result:
    """A command in English; one that cannot be run, or does not end, has failed like any other."""
    try:
        return Node(timeout=COMMAND_SECONDS).run(argv)
    except ProbeError as error:
        return Result(127, "", str(error))


class Container(NamedTuple):
    """What runs under a workbench's name."""

    running: bool
    config: Optional[str]
    image_id: Optional[str]


class Begun(NamedTuple):
    """A start that was asked for."""

    since: float  # by the clock
    limit: float  # monotonic
    restarts: int  # of the unit, before
    error: Optional[str]  # systemd's, at once


class Former(NamedTuple):
    """A workbench as it was: what a failed start goes back to."""

    files: Dict[str, Optional[bytes]]  # null: it was not there
    modes: Dict[str, int]
    was_there: bool
    running: bool
    enabled: bool


class Workbenches:
    """All of a node's. `check`: says what would be done, and does nothing. `renew`: new secrets."""

    def __init__(
        self,
        *,
        check: bool = False,
        renew: bool = False,
        start_timeout: float = 60.0,
        run: Callable[[Sequence[str]], Result] = system_run,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.check, self.renew = check, renew
        self.start_timeout, self.run, self.sleep = start_timeout, run, sleep
        self.changed: List[str] = []  # what was done, for people
        self.homes_made: List[str] = []
        self.folders_made: List[str] = []  # the users' own ones as well

    # present ------------------------------------------------------------------------------------------------

    def present(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Make all rows so, or fail with the others done and the failed ones as they were."""
        images = {row["image"]: self._image_id(row) for row in rows}
        for row in rows:
            self._check_row(row)
        former = {row["name"]: self._former(row) for row in rows}
        containers = {row["name"]: self._container(row["container"]) for row in rows}
        failures: List[str] = []
        written: List[Mapping[str, Any]] = []
        units_changed = False
        restart: Dict[str, str] = {}
        for row in rows:
            name = row["name"]
            try:
                fresh, unit_changed = self._write(row)
            except (OSError, WorkbenchError) as error:
                failures.append("%s's workbench could not be written: %s" % (name, error))
                self._put_back(row, former[name])
                units_changed = True
                continue
            written.append(row)
            units_changed = units_changed or unit_changed
            why = self._why_restart(row, containers[name], images[row["image"]], fresh)
            if why:
                restart[name] = why
        if units_changed:
            self._systemctl("daemon-reload")
        self._start(written, former, restart, failures)
        if failures:
            raise WorkbenchError("\n".join(failures))

    def _start(
        self,
        rows: Sequence[Mapping[str, Any]],
        former: Mapping[str, Former],
        restart: Mapping[str, str],
        failures: List[str],
    ) -> None:
        # All that are to change stop first: ports may move from one to the other.
        for row in rows:
            if row["name"] in restart and former[row["name"]].running:
                self._systemctl("stop", row["unit"])
        starting = []
        for row in rows:
            if not self._enabled(row["unit"]):
                self._systemctl("enable", row["unit"])
            if row["name"] in restart:
                self._note("%s: %s" % (row["unit"], restart[row["name"]]))
                starting.append(row)
        if self.check:
            return
        # All at once, then one look after the other: Jupyter takes its time.
        begun = {row["name"]: self._begin(row) for row in starting}
        put_back = []
        for row in starting:
            problem = self._wait(row, begun[row["name"]])
            if problem:
                put_back.append(row)
                failures.append("%s's workbench does not start: %s" % (row["name"], problem))
        for row in put_back:
            self._put_back(row, former[row["name"]])
        if put_back:
            self._systemctl("daemon-reload")
        for row in put_back:
            if former[row["name"]].running:
                again = self._former_row(row)
                problem = self._wait(again, self._begin(again))
                failures.append(
                    "%s's former workbench %s"
                    % (row["name"], "runs again" if not problem else "does not start either: %s" % problem)
                )

    def _check_row(self, row: Mapping[str, Any]) -> None:
        """What can be known to be wrong before anything is changed."""
        home = row["home"]
        if os.path.lexists(home):
            seen = os.lstat(home)
            if not stat.S_ISDIR(seen.st_mode):
                raise WorkbenchError("the home %s of %s is no folder" % (home, row["name"]))
            if seen.st_uid == 0:
                raise WorkbenchError(
                    "the home %s of %s belongs to root: chown it to an id of its own" % (home, row["name"])
                )
            if row["uid"] not in (None, seen.st_uid):
                raise WorkbenchError(
                    "the home %s belongs to %d, and %s's workbench is to run as %d"
                    % (home, seen.st_uid, row["name"], row["uid"])
                )
        if row["tls"] is not None:
            self._check_certificate(row["tls"])

    @staticmethod
    def _check_certificate(tls: Mapping[str, str]) -> None:
        for what, variable in (
            ("certificate", "gpu_workbench_tls_certificate"),
            ("key", "gpu_workbench_tls_key"),
        ):
            try:
                with open(tls[what], "rb"):
                    pass
            except OSError as error:
                raise WorkbenchError(
                    "%s is %s, which cannot be read on the node: %s" % (variable, tls[what], error.strerror)
                ) from error
        try:
            # No password: an encrypted key would wait for one.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                tls["certificate"], tls["key"], lambda: b""
            )
        except (ssl.SSLError, ValueError) as error:
            raise WorkbenchError(
                "gpu_workbench_tls_certificate %s and gpu_workbench_tls_key %s cannot be used together: %s"
                % (tls["certificate"], tls["key"], error)
            ) from error

    def _why_restart(
        self,
        row: Mapping[str, Any],
        container: Optional[Container],
        image_id: Optional[str],
        fresh: List[str],
    ) -> str:
        if container is None or not container.running:
            return "started"
        if container.config != row["config"]:
            return "started anew with another configuration"
        if image_id is not None and container.image_id != image_id:
            return "started anew from the image that %s is now" % row["image"]
        if fresh:
            return "started anew with another %s" % ", ".join(fresh)
        return ""

    # files --------------------------------------------------------------------------------------------------

    def _write(self, row: Mapping[str, Any]) -> Any:
        """(what secret is new and needs a restart, did the unit change)."""
        self._folder(os.path.dirname(row["folder"]), 0o700)
        self._folder(row["folder"], 0o755)
        self._home(row)
        unit_changed = False
        for file in row["files"]:
            content = file["content"].encode("utf-8")
            if self._file(file["path"], content, int(file["mode"], 8)) and file["path"].endswith(SUFFIX):
                unit_changed = True
        fresh = self._secrets(row)
        self._host_keys(row)
        self._tidy(row)
        return fresh, unit_changed

    def _folder(self, path: str, mode: int) -> None:
        missing = []
        parent = path
        while not os.path.isdir(parent):
            missing.append(parent)
            parent = os.path.dirname(parent)
        for folder in reversed(missing):
            if folder in self.folders_made:
                continue  # in check mode it is still not there
            self._note("made %s" % folder)
            self.folders_made.append(folder)
            if not self.check:
                os.mkdir(folder, 0o755)
                os.chmod(folder, mode if folder == path else 0o755)
        if not missing and stat.S_IMODE(os.stat(path).st_mode) != mode and path.startswith(FOLDER_ROOTS):
            self._note("mode of %s" % path)
            if not self.check:
                os.chmod(path, mode)

    def _home(self, row: Mapping[str, Any]) -> None:
        path = row["home"]
        if os.path.isdir(path):
            return
        parent = os.path.dirname(path)
        if not os.path.isdir(parent):
            self._folder(parent, 0o711)
        self._note("made the home %s" % path)
        self.homes_made.append(path)
        if self.check:
            return
        uid = row["uid"] if row["uid"] is not None else free_uid(parent)
        os.mkdir(path, 0o700)
        os.chown(path, uid, uid)

    def _file(self, path: str, content: bytes, mode: int) -> bool:
        """Replace a file in one step where it is not so already."""
        try:
            seen = os.lstat(path)
        except FileNotFoundError:
            seen = None
        if seen is not None and stat.S_ISDIR(seen.st_mode):
            raise WorkbenchError("%s is a folder" % path)
        if seen is not None and stat.S_ISREG(seen.st_mode):
            with open(path, "rb") as handle:
                same = handle.read() == content
            if (
                same
                and stat.S_IMODE(seen.st_mode) == mode
                and (seen.st_uid, seen.st_gid) == (os.geteuid(), os.getegid())
            ):
                return False
        self._note("wrote %s" % path)
        if not self.check:
            replace(path, content, mode)
        return True

    def _secrets(self, row: Mapping[str, Any]) -> List[str]:
        fresh = []
        folder, password_file = row["folder"], self._password_file(row)
        if row["auth"] == "token":
            if self._secret(folder + "/token", row["secret_bytes"]):
                fresh.append("token")
        elif row["auth"] == "password":
            self._folder(os.path.dirname(password_file), 0o700)
            self._secret(password_file, row["secret_bytes"])
            # In check mode there may be none yet.
            password = read_text(password_file)
            digest = read_text(folder + "/password_hash")
            if password is None or not is_digest_of(digest, password):
                if self._file(folder + "/password_hash", digest_of(password or "").encode("ascii"), 0o600):
                    fresh.append("password")
            else:
                self._closed(folder + "/password_hash")
        if row["auth"] != "password" and os.path.exists(password_file):
            self._remove(password_file)
        if row["tls"] is not None:
            for name, what, mode in (("tls.crt", "certificate", 0o644), ("tls.key", "key", 0o600)):
                with open(row["tls"][what], "rb") as handle:
                    if self._file("%s/%s" % (folder, name), handle.read(), mode):
                        fresh.append(what)
        return fresh

    def _secret(self, path: str, count: int) -> bool:
        """A random secret of so many bytes; one that is there and long enough stays."""
        present = read_text(path)
        if (
            not self.renew
            and present is not None
            and len(present.strip()) >= len(secrets.token_urlsafe(count))
        ):
            return self._closed(path)
        self._note("made %s" % path)
        if not self.check:
            replace(path, (secrets.token_urlsafe(count) + "\n").encode("ascii"), 0o600)
        return True

    def _closed(self, path: str) -> bool:
        """Only root may read it. One that others could read meanwhile is still the same secret."""
        seen = os.stat(path)
        if stat.S_IMODE(seen.st_mode) != 0o600 or seen.st_uid != os.geteuid():
            self._note("closed %s" % path)
            if not self.check:
                os.chown(path, os.geteuid(), os.getegid())
                os.chmod(path, 0o600)
        return False

    def _host_keys(self, row: Mapping[str, Any]) -> None:
        """The SSH server's keys; made once, so that clients never see another server."""
        folder = row["folder"] + "/ssh_host_keys"
        if row["ssh"] is None:
            return
        if not os.path.isdir(folder):
            self._folder(folder, 0o755)
        for kind in HOST_KEYS:
            path = "%s/ssh_host_%s_key" % (folder, kind)
            if os.path.exists(path) and os.path.getsize(path) and os.path.exists(path + ".pub"):
                self._closed(path)
                continue
            self._note("made %s" % path)
            if not self.check:
                self._make_key(row, kind, path)

    def _make_key(self, row: Mapping[str, Any], kind: str, path: str) -> None:
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path), prefix=".new-") as folder:
            words = ["-q", "-t", kind, "-N", "", "-C", row["container"], "-f"]
            if shutil.which("ssh-keygen"):
                done = self.run(["ssh-keygen", *words, folder + "/key"])
            else:
                # A node without SSH's programs: the image has them.
                start = ["docker", "run", "--rm", "--pull=never", "--network=none", "--entrypoint=ssh-keygen"]
                mount = "--mount=type=bind,source=%s,target=/keys" % folder
                done = self.run([*start, "--user=0:0", mount, row["image"], *words, "/keys/key"])
            if done.rc != 0:
                raise WorkbenchError("ssh-keygen made no host key: %s" % done.message)
            os.chmod(folder + "/key", 0o600)
            os.chmod(folder + "/key.pub", 0o644)
            os.rename(folder + "/key.pub", path + ".pub")
            os.rename(folder + "/key", path)

    def _tidy(self, row: Mapping[str, Any]) -> None:
        """What is in the folder and nobody wants any more; host keys stay for when SSH comes back."""
        wanted = {os.path.basename(file["path"]) for file in row["files"]} | {"ssh_host_keys"}
        wanted |= {"token"} if row["auth"] == "token" else set()
        wanted |= {"password_hash"} if row["auth"] == "password" else set()
        wanted |= {"tls.crt", "tls.key"} if row["tls"] is not None else set()
        for name in sorted(os.listdir(row["folder"])) if os.path.isdir(row["folder"]) else []:
            if name not in wanted:
                self._remove(row["folder"] + "/" + name)

    def _remove(self, path: str) -> None:
        self._note("removed %s" % path)
        if self.check:
            return
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    @staticmethod
    def _password_file(row: Mapping[str, Any]) -> str:
        return "%s-passwords/%s" % (os.path.dirname(row["folder"]), row["name"])

    # going back ---------------------------------------------------------------------------------------------

    def _former(self, row: Mapping[str, Any]) -> Former:
        paths = [file["path"] for file in row["files"] if file["path"].endswith(SUFFIX)]
        paths.append(self._password_file(row))
        for folder, _folders, names in os.walk(row["folder"]):
            paths += [os.path.join(folder, name) for name in names]
        files: Dict[str, Optional[bytes]] = {}
        modes = {}
        for path in paths:
            files[path] = None
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as handle:
                    files[path] = handle.read()
                modes[path] = stat.S_IMODE(os.stat(path).st_mode)
        container = self._container(row["container"])
        return Former(
            files,
            modes,
            os.path.exists(row["folder"] + "/workbench.json"),
            container is not None and container.running,
            self._enabled(row["unit"]),
        )

    def _put_back(self, row: Mapping[str, Any], former: Former) -> None:
        """The files as they were. Of a new workbench nothing stays but a home that somebody has filled."""
        if self.check:
            return
        self._quietly("stop", row["unit"])
        if not former.was_there:
            self._take_away(row["name"], row["folder"])
            with contextlib.suppress(OSError):
                if row["home"] in self.homes_made:
                    os.rmdir(row["home"])
            return
        for folder, _folders, names in list(os.walk(row["folder"])):
            for name in names:
                if former.files.get(os.path.join(folder, name)) is None:
                    os.unlink(os.path.join(folder, name))
        for path, content in former.files.items():
            if content is not None:
                replace(path, content, former.modes[path])
            elif os.path.exists(path):
                os.unlink(path)
        if not former.enabled:
            self._quietly("disable", row["unit"])

    @staticmethod
    def _former_row(row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Where the former workbench answers, by its own file."""
        try:
            with open(row["folder"] + "/workbench.json", encoding="utf-8") as handle:
                data = json.load(handle)
        except (OSError, ValueError):
            return dict(row, jupyter=None, ssh=None)
        return dict(row, jupyter=data.get("jupyter"), ssh=data.get("ssh"))

    # absent -------------------------------------------------------------------------------------------------

    def names(self) -> List[str]:
        """Whoever has a folder, a unit, a container or a network here."""
        found = set(os.listdir(FOLDER)) if os.path.isdir(FOLDER) else set()
        for name in os.listdir(UNITS) if os.path.isdir(UNITS) else []:
            if name.startswith(PREFIX) and name.endswith(SUFFIX):
                found.add(name[len(PREFIX) : -len(SUFFIX)])
        label = '{{.Label "%s"}}' % LABEL_USER
        for listing in (["ps", "--all"], ["network", "ls"]):
            done = self.run(["docker", *listing, "--filter", "label=" + LABEL_USER, "--format", label])
            if done.rc == 0:
                found.update(name for name in done.out.split() if NAME.match(name))
        return sorted(found)

    def absent(self, names: Sequence[str]) -> None:
        for name in names:
            folder = "%s/%s" % (FOLDER, name)
            unit = "%s/%s" % (UNITS, unit_name(name))
            container = container_name(name)
            there = os.path.exists(folder) or os.path.exists(unit)
            if not (there or self._container(container) or self._network(container)):
                continue
            self._note("took away the workbench of %s" % name)
            if not self.check:
                self._take_away(name, folder)

    def _take_away(self, name: str, folder: str) -> None:
        """All but the home."""
        unit, container = unit_name(name), container_name(name)
        unit_path = "%s/%s" % (UNITS, unit)
        if os.path.exists(unit_path):
            self._systemctl("disable", "--now", unit)
            os.unlink(unit_path)
            self._systemctl("daemon-reload")
        self._quietly("reset-failed", unit)
        if self._container(container) is not None:
            self._must(["docker", "rm", "--force", container])
        if self._network(container):
            self._must(["docker", "network", "rm", container])
        if os.path.isdir(folder):
            shutil.rmtree(folder)
        password = "%s-passwords/%s" % (os.path.dirname(folder), name)
        if os.path.exists(password):
            os.unlink(password)

    def remove_homes(self, homes: Sequence[str]) -> None:
        for path in homes:
            if os.path.isdir(path) and not os.path.islink(path):
                self._note("removed the home %s" % path)
                if not self.check:
                    shutil.rmtree(path)

    def remove_folders(self, folders: Sequence[str]) -> None:
        """Those that are empty, innermost first."""
        for path in sorted(set(folders), key=len, reverse=True):
            if os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path):
                self._note("removed %s" % path)
                if not self.check:
                    os.rmdir(path)

    # Docker and systemd -------------------------------------------------------------------------------------

    def _image_id(self, row: Mapping[str, Any]) -> Optional[str]:
        done = self.run(["docker", "image", "inspect", "--format", "{{.Id}}", row["image"]])
        if done.rc == 0:
            return done.out.strip()
        if self.check:
            return None  # it may only be announced
        raise WorkbenchError(
            "%s's workbench runs from the image %s, which the node does not have: %s"
            % (row["name"], row["image"], done.message)
        )

    def _container(self, name: str) -> Optional[Container]:
        done = self.run(["docker", "container", "inspect", name])
        if done.rc != 0:
            return None
        try:
            details = json.loads(done.out)[0]
        except (ValueError, IndexError):
            return None
        return Container(
            bool((details.get("State") or {}).get("Running")),
            ((details.get("Config") or {}).get("Labels") or {}).get(LABEL_CONFIG),
            details.get("Image"),
        )

    def _network(self, name: str) -> bool:
        return self.run(["docker", "network", "inspect", name]).rc == 0

    def _enabled(self, unit: str) -> bool:
        return self.run(["systemctl", "is-enabled", unit]).out.strip() == "enabled"

    def _systemctl(self, *words: str) -> None:
        if words[0] == "enable":
            self._note("enabled %s" % words[1])
        if not self.check:
            self._must(["systemctl", *words])

    def _quietly(self, *words: str) -> None:
        """For a unit that may not be there."""
        if not self.check:
            self.run(["systemctl", *words])

    def _must(self, argv: Sequence[str]) -> None:
        done = self.run(argv)
        if done.rc != 0:
            raise WorkbenchError("%s: %s" % (" ".join(argv), done.message))

    def _begin(self, row: Mapping[str, Any]) -> Begun:
        since, limit = time.time(), time.monotonic() + self.start_timeout
        done = self.run(["systemctl", "restart", row["unit"]])
        return Begun(since, limit, self._restarts(row["unit"]), done.message if done.rc != 0 else None)

    def _wait(self, row: Mapping[str, Any], begun: Begun) -> Optional[str]:
        """Until both services answer: null, or why they do not."""
        if begun.error is not None:
            return self._with_log(row, begun.error, begun.since)
        while True:
            waiting = silent(row)
            if waiting is None:
                return None
            # Twice from the start again: it will not be different the third time.
            if self._restarts(row["unit"]) >= begun.restarts + 2:
                return self._with_log(row, "it ends again and again", begun.since)
            if time.monotonic() >= begun.limit:
                return self._with_log(row, "%s within %d s" % (waiting, self.start_timeout), begun.since)
            self.sleep(POLL_SECONDS)

    def _restarts(self, unit: str) -> int:
        text = self.run(["systemctl", "show", "--property=NRestarts", "--value", unit]).out.strip()
        return int(text) if text.isdigit() else 0

    def _with_log(self, row: Mapping[str, Any], problem: str, since: float) -> str:
        """The problem, with what the workbench itself said; each line once, and no secret."""
        asked = [
            "journalctl",
            "_SYSTEMD_UNIT=" + row["unit"],
            "--since=@%d" % since,
            "--lines=%d" % LOG_LINES,
        ]
        done = self.run([*asked, "--no-pager", "--quiet", "--output=cat"])
        log = "\n".join(dict.fromkeys(line.rstrip() for line in done.out.splitlines() if line.strip()))
        for path in (row["folder"] + "/token", self._password_file(row)):
            secret = (read_text(path) or "").strip()
            if secret:
                log = log.replace(secret, "***")
        return "%s. It says:\n%s" % (problem, log) if log else problem

    def _note(self, text: str) -> None:
        self.changed.append(text)


# Folders of gpuready's own, whose modes are kept.
FOLDER_ROOTS = (FOLDER,)


def read_text(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def replace(path: str, content: bytes, mode: int) -> None:
    """A file in one step: nobody sees half of it, nor its content before its mode."""
    handle, temporary = tempfile.mkstemp(prefix="." + os.path.basename(path) + ".", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(temporary, mode)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def free_uid(homes: str) -> int:
    """The first id that is no account's and no other home's."""
    taken = {os.lstat(entry).st_uid for entry in _entries(homes)}
    for uid in range(FIRST_UID, LAST_UID):
        if uid in taken:
            continue
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid
    raise WorkbenchError("every id from %d to %d is taken" % (FIRST_UID, LAST_UID))


def _entries(folder: str) -> Iterator[str]:
    for name in os.listdir(folder):
        yield os.path.join(folder, name)


def digest_of(password: str) -> str:
    """As Jupyter keeps it. The password is random and long: nothing slower is needed against guessing."""
    salt = secrets.token_hex(8)
    return "sha256:%s:%s\n" % (salt, _hexdigest(salt, password.strip()))


def is_digest_of(digest: Optional[str], password: str) -> bool:
    parts = (digest or "").strip().split(":")
    return len(parts) == 3 and parts[0] == "sha256" and parts[2] == _hexdigest(parts[1], password.strip())


def _hexdigest(salt: str, password: str) -> str:
    return hashlib.sha256(password.encode("utf-8") + salt.encode("ascii")).hexdigest()


# does it answer? --------------------------------------------------------------------------------------------


def silent(row: Mapping[str, Any]) -> Optional[str]:
    """Which service does not answer yet; null when all do."""
    for service, asks, word in (
        ("jupyter", _jupyter_answers, "Jupyter"),
        ("ssh", _ssh_answers, "the SSH server"),
    ):
        place = row[service]
        if place is not None and not asks(place):
            return "%s does not answer at %s:%d" % (word, place["address"], place["port"])
    return None


def _address(place: Mapping[str, Any]) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(place["address"], place["address"])


def _jupyter_answers(place: Mapping[str, Any]) -> bool:
    address, port = _address(place), place["port"]
    connection: http.client.HTTPConnection
    if place["tls"]:
        # Is it up? Whether a browser trusts its certificate is not asked here.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(address, port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/api")
        answer = connection.getresponse()
        return answer.status == 200 and "version" in json.loads(answer.read(10000).decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()


def _ssh_answers(place: Mapping[str, Any]) -> bool:
    try:
        with socket.create_connection((_address(place), place["port"]), timeout=5) as connection:
            connection.settimeout(5)
            return connection.recv(64).startswith(b"SSH-2.0-")
    except OSError:
        return False
