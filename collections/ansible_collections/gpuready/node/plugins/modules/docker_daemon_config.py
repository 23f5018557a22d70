#!/usr/bin/python
# Copyright: gpuready developers
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_daemon_config
short_description: Merges settings into dockerd's daemon.json and makes dockerd run with them
version_added: "0.1.0"
description:
  - Merges O(config) into C(daemon.json), or takes it out again, and keeps everything else that is in the
    file.
  - The new file is checked before it goes live, by the shape of dockerd's usual keys and by dockerd itself,
    together with the flags that it runs with (C(dockerd --validate) from Docker 23 on; an older one is
    started as nobody, who gets no further than the configuration). It is written atomically, with the owner,
    the mode, the order of keys and the indentation that the file had.
  - dockerd takes the change over by a reload (SIGHUP) where that is enough, which no container notices, and
    by a restart otherwise. If dockerd does not come back, the file is restored byte for byte, dockerd is
    started with it again, and the module fails with dockerd's own last log lines.
  - A file that is not valid JSON, is not an object, or sets something to another value than the one wanted
    is an error; nothing is touched then.
options:
  config:
    description:
      - What C(daemon.json) must hold. Mappings are merged key by key.
      - Lists that dockerd reads as sets (C(insecure-registries), C(registry-mirrors), C(dns), C(dns-opts),
        C(dns-search), C(labels), C(hosts), C(exec-opts), C(storage-opts), C(authorization-plugins),
        C(cdi-spec-dirs), C(default-address-pools), C(node-generic-resources),
        C(allow-nondistributable-artifacts)) become the union, entries that were there first.
        In C(labels), C(exec-opts) and C(storage-opts) one name with two values is a conflict.
      - Everything else, a runtime's C(args) included, has one value; another value in the file is a conflict.
      - A runtime that starts the same program in the same way is left as it is written
        (C(/usr/bin/nvidia-container-runtime) for C(nvidia-container-runtime), C(runtimeArgs) for C(args)).
    type: dict
    default: {}
  state:
    description:
      - V(present) merges O(config) in.
      - V(absent) takes out what O(config) holds and leaves what differs from it. Objects and lists that
        become empty go too, and so does the file when nothing is left in it. A value that was there before,
        equal to the one in O(config), cannot be told from it and goes as well.
    type: str
    choices: [present, absent]
    default: present
  absent:
    description:
      - Keys that must not be there, as dotted paths (C(runtimes.nvidia)), whatever their value.
    type: list
    elements: str
    default: []
  replace:
    description:
      - Dotted paths of keys in which O(config) may overwrite another value. Without it, another value is an
        error.
    type: list
    elements: str
    default: []
  path:
    description: The file.
    type: path
    default: /etc/docker/daemon.json
  restart:
    description:
      - V(changed) makes dockerd take the file over when the file changed, when the running dockerd does not
        have what O(config) asks for, when a program in O(restart_if_newer) appeared after dockerd started, or
        when dockerd is enabled but does not run. It reloads where a reload is enough.
      - V(always) restarts in any case, V(never) leaves dockerd alone.
      - A dockerd that is not installed, or that is stopped and disabled, is not started.
    type: str
    choices: [changed, always, never]
    default: changed
  restart_if_newer:
    description:
      - Programs that dockerd looks up once, when it starts (C(nvidia-container-runtime-hook)). One of them
        that is newer than the running dockerd is a reason to restart.
    type: list
    elements: path
    default: []
  service:
    description: The systemd unit of dockerd.
    type: str
    default: docker.service
  socket:
    description: The socket at which dockerd answers; used to see that it is up and what it runs with.
    type: path
    default: /var/run/docker.sock
  restart_timeout_seconds:
    description: How long dockerd may take to answer after a restart.
    type: int
    default: 60
  backup:
    description: Keep the old file beside the new one, with the time in its name.
    type: bool
    default: true
attributes:
  check_mode:
    description: Says what would change, after the same checks; writes and restarts nothing.
    support: full
  diff_mode:
    description: Shows the file before and after.
    support: full
  idempotent:
    description: A second call changes and restarts nothing, unless O(restart=always).
    support: full
  platform:
    description: Linux with systemd.
    support: full
    platforms: linux
author: gpuready developers
"""

EXAMPLES = r"""
- name: Register the NVIDIA runtime
  gpuready.node.docker_daemon_config:
    config:
      runtimes:
        nvidia:
          path: nvidia-container-runtime
          args: []
    restart_if_newer:
      - /usr/bin/nvidia-container-runtime-hook

- name: Move the log driver, which the node sets differently, by consent
  gpuready.node.docker_daemon_config:
    config:
      log-driver: journald
    replace:
      - log-driver

- name: Take the NVIDIA runtime out again
  gpuready.node.docker_daemon_config:
    state: absent
    config:
      default-runtime: nvidia
    absent:
      - runtimes.nvidia
"""

RETURN = r"""
restarted:
  description: Whether dockerd was restarted (in check mode, whether it would be).
  returned: always
  type: bool
  sample: false
reloaded:
  description: Whether dockerd took the change over by a reload (in check mode, whether it would).
  returned: always
  type: bool
  sample: true
restart_reasons:
  description: Why dockerd had to be reloaded or restarted.
  returned: always
  type: list
  elements: str
  sample: ["/etc/docker/daemon.json changed"]
backup_file:
  description: Where the old file is kept. Null when there was none, or it did not change.
  returned: always
  type: str
  sample: /etc/docker/daemon.json.4711.2026-11-23@10:00:00~
before:
  description: The file's content before. Null when there was no file.
  returned: success
  type: dict
  sample: {"debug": true}
after:
  description: The file's content after. Null when no file is left.
  returned: success
  type: dict
  sample: {"debug": true, "runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}
added:
  description:
    - The part of O(config) that the file did not hold before. With O(state=absent) it makes an exact undo.
  returned: success
  type: dict
  sample: {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}
validated_by:
  description:
    - What checked the new file, V(dockerd), or V(structure) where that cannot. Null when nothing changed.
  returned: success
  type: str
  sample: dockerd
conflicts:
  description: What the file sets to another value than the one wanted.
  returned: when there is a conflict
  type: list
  elements: dict
  contains:
    path:
      description: The key, as a dotted path.
      type: str
    current:
      description: Its value in the file.
      type: raw
    wanted:
      description: The value that O(config) asks for.
      type: raw
journal:
  description: dockerd's last log lines.
  returned: when dockerd did not come back
  type: list
  elements: str
rolled_back:
  description: Whether the old file was restored and dockerd answers again.
  returned: when dockerd did not come back
  type: bool
"""

import http.client
import json
import os
import shutil
import socket as socket_lib
import stat
import tempfile
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import daemon_config

# A reload is done when SIGHUP is delivered; dockerd needs a moment to read the file.
RELOAD_SECONDS = 5.0
POLL_SECONDS = 0.2
JOURNAL_LINES = 20
NOBODY = 65534


class _Socket(http.client.HTTPConnection):
    """HTTP over dockerd's socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket_lib.socket(socket_lib.AF_UNIX, socket_lib.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Dockerd:
    """The engine's service: what it is doing, and making it read its file."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.unit = module.params["service"]
        self.socket = module.params["socket"]
        self.timeout = module.params["restart_timeout_seconds"]
        self.systemctl = module.get_bin_path("systemctl")
        self.program = module.get_bin_path("dockerd")

    def run(self, *arguments: str) -> tuple[int, str]:
        code, out, err = self.module.run_command([self.systemctl, *arguments])
        return code, (err or out).strip()

    def show(self) -> dict[str, str]:
        """systemd's view of the unit; empty when there is no systemd to ask."""
        if not self.systemctl:
            return {}
        names = "LoadState,ActiveState,UnitFileState,Result,MainPID,ExecMainStartTimestampMonotonic"
        code, out, _err = self.module.run_command([self.systemctl, "show", "--property", names, self.unit])
        if code != 0:
            return {}
        return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def info(self, timeout: float = 10.0) -> dict[str, Any] | None:
        """dockerd's own account of what it runs with, or None when it does not answer."""
        connection = _Socket(self.socket, timeout)
        try:
            connection.request("GET", "/info")
            answer = connection.getresponse()
            return json.loads(answer.read()) if answer.status == 200 else None
        except (OSError, ValueError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def wait(self, seconds: float) -> dict[str, Any] | None:
        """dockerd's answer once it is up; None when it failed for good or the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            state = self.show().get("ActiveState")
            # Only an active unit is asked: a knock at the socket would start a stopped dockerd.
            answer = self.info(min(10.0, max(seconds, 1.0))) if state == "active" else None
            if answer is not None:
                return answer
            # "failed" is final: systemd has given up restarting it.
            if state == "failed" or time.monotonic() >= deadline:
                return None
            time.sleep(POLL_SECONDS)

    def restart(self) -> dict[str, Any] | None:
        # After several failed starts systemd refuses further ones until it is told to forget them.
        # The socket is part of it: systemd stops listening when the service hits its limit.
        for unit in (self.unit, self.unit.replace(".service", "") + ".socket"):
            self.run("reset-failed", unit)
        self.run("restart", self.unit)
        return self.wait(self.timeout)

    def reload(self, config: dict[str, Any]) -> bool:
        """Whether dockerd has taken the file over by SIGHUP."""
        code, _message = self.run("reload", self.unit)
        if code != 0:
            return False
        deadline = time.monotonic() + RELOAD_SECONDS
        while time.monotonic() < deadline:
            answer = self.info()
            if answer is not None and not daemon_config.not_live(config, answer):
                return True
            time.sleep(POLL_SECONDS)
        return False

    def started_at(self, state: dict[str, str]) -> float | None:
        """When dockerd started, in seconds since the epoch."""
        try:
            microseconds = int(state.get("ExecMainStartTimestampMonotonic", "0"))
        except ValueError:
            return None
        if not microseconds or state.get("ActiveState") != "active":
            return None
        return time.time() - (time.monotonic() - microseconds / 1e6)

    def journal(self, since: float) -> list[str]:
        """What dockerd said since then: its complaints if it has any, else its last lines."""
        journalctl = self.module.get_bin_path("journalctl")
        if not journalctl:
            return []
        _code, out, _err = self.module.run_command(
            [journalctl, "--unit", self.unit, "--since", f"@{int(since)}", "--output", "cat", "--no-pager"]
        )
        # systemd tries several times, and dockerd says the same every time.
        lines = list(dict.fromkeys(line.strip() for line in out.splitlines() if line.strip()))
        complaints = [
            line
            for line in lines
            if "level=error" in line or "level=fatal" in line or line.startswith(("unable to", "failed to"))
        ]
        return (complaints or lines)[-JOURNAL_LINES:]

    def flags(self) -> list[str]:
        """The running dockerd's own arguments; a key must not be set there and in the file."""
        pid = self.show().get("MainPID", "0")
        try:
            with open(f"/proc/{int(pid)}/cmdline", encoding="utf-8", errors="replace") as handle:
                words = [word for word in handle.read().split("\0") if word][1:]
        except (OSError, ValueError):
            return []
        flags: list[str] = []
        skip = False
        for word in words:
            if not skip and word != "--config-file" and not word.startswith("--config-file="):
                flags.append(word)
            skip = word == "--config-file"
        return flags

    def validate(self, data: bytes, shown: str) -> tuple[bool, str]:
        """Whether this dockerd could judge a file before it is live, and what it has against it.

        Docker 23 and newer have --validate. An older one reads its whole configuration before it notices that
        it is not root and gives up, so as nobody it can be asked safely as well.
        """
        if not self.program:
            return False, ""
        _code, out, err = self.module.run_command([self.program, "--help"])
        folder = tempfile.mkdtemp(prefix="gpuready-")
        try:
            path = os.path.join(folder, "daemon.json")
            with open(path, "wb") as handle:
                handle.write(data)
            command = [self.program, *self.flags(), "--config-file", path]
            if "--validate" in out + err:
                command.append("--validate")
            else:
                setpriv = self.module.get_bin_path("setpriv")
                if not setpriv or os.geteuid() != 0:
                    return False, ""
                for own in (path, folder):
                    os.chown(own, NOBODY, NOBODY)
                command = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
            code, out, err = self.module.run_command(["timeout", "20", *command])
        finally:
            shutil.rmtree(folder)
        said = [line.replace(path, shown) for line in (err or out).splitlines() if line.strip()]
        against = [line for line in said if line.startswith("unable to configure")]
        if against:
            return True, against[-1]
        if "--validate" in command and code != 0:
            return True, said[-1] if said else f"dockerd --validate ended with {code}"
        return code == 0 or any("needs to be started with root" in line for line in said), ""


class ConfigFile:
    """daemon.json on the disk."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.shown = module.params["path"]
        # Behind a symbolic link the file is changed, not the link.
        self.path = os.path.realpath(self.shown)
        self.original: bytes | None = None
        self.status: os.stat_result | None = None
        self.made_folder = False
        try:
            with open(self.path, "rb") as handle:
                self.original = handle.read()
                self.status = os.fstat(handle.fileno())
        except FileNotFoundError:
            pass
        except OSError as error:
            module.fail_json(msg=f"Cannot read {self.shown}: {error.strerror}. Nothing was changed.")

    def prepare(self, data: bytes) -> str:
        """A file with the new content, in the same folder, not live yet."""
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            os.makedirs(folder, mode=0o755)
            self.made_folder = True
        handle, temporary = tempfile.mkstemp(prefix=".daemon.json.", dir=folder)
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        if self.status is None:
            os.chmod(temporary, 0o644)
        else:
            os.chown(temporary, self.status.st_uid, self.status.st_gid)
            os.chmod(temporary, stat.S_IMODE(self.status.st_mode))
        return temporary

    def go_live(self, temporary: str) -> None:
        try:
            with open(self.path, "rb") as handle:
                now: bytes | None = handle.read()
        except FileNotFoundError:
            now = None
        if now != self.original:
            os.unlink(temporary)
            self.module.fail_json(
                msg=f"{self.shown} was changed by somebody else just now. Nothing was changed; run again."
            )
        self.module.atomic_move(temporary, self.path, keep_dest_attrs=False)

    def remove(self) -> None:
        os.unlink(self.path)

    def restore(self) -> None:
        """The state before, byte for byte."""
        if self.original is not None:
            self.module.atomic_move(self.prepare(self.original), self.path, keep_dest_attrs=False)
            return
        if os.path.exists(self.path):
            os.unlink(self.path)
        if self.made_folder and not os.listdir(os.path.dirname(self.path)):
            os.rmdir(os.path.dirname(self.path))


def desired(module: AnsibleModule, before: dict[str, Any]) -> dict[str, Any]:
    params = module.params
    if params["state"] == "absent":
        return daemon_config.without(daemon_config.unmerge(before, params["config"]), params["absent"])
    try:
        merged = daemon_config.merge(before, params["config"], params["replace"])
    except daemon_config.MergeConflict as error:
        module.fail_json(
            msg=(
                f"{params['path']} conflicts with the wish: {error}. Nothing was changed. Take the key "
                "out of the file, make the wish the same, or name the key in `replace` to overwrite it."
            ),
            conflicts=error.conflicts,
        )
    return daemon_config.without(merged, params["absent"])


def check(
    module: AnsibleModule, dockerd: Dockerd, file: ConfigFile, before: dict, after: dict, data: bytes
) -> str:
    """Fails when dockerd would refuse the new file; otherwise says who checked it."""
    if daemon_config.parse(data) != after:
        module.fail_json(
            msg=f"The new text of {file.shown} does not read back as what was meant. Nothing was changed."
        )
    old = set(daemon_config.problems(before))
    # What is odd in the user's file already is theirs; dockerd lives with it.
    found = [problem for problem in daemon_config.problems(after) if problem not in old]
    if found:
        module.fail_json(
            msg=f"dockerd would not start with {file.shown} as wanted: {'; '.join(found)}. "
            "Nothing was changed."
        )
    asked, complaint = dockerd.validate(data, file.shown)
    if complaint:
        module.fail_json(msg=f"dockerd refuses {file.shown} as wanted: {complaint}. Nothing was changed.")
    return "dockerd" if asked else "structure"


def reasons(
    module: AnsibleModule, dockerd: Dockerd, changed: bool, state: dict[str, str]
) -> tuple[list[str], bool]:
    """Why dockerd has to take the file over, and whether only a restart will do."""
    params = module.params
    found: list[str] = []
    hard = False
    if params["restart"] == "never" or (not dockerd.program and state.get("LoadState") != "loaded"):
        return found, hard
    active = state.get("ActiveState") in ("active", "reloading", "activating")
    if (
        not active
        and state.get("UnitFileState") not in ("enabled", "enabled-runtime")
        and params["restart"] != "always"
    ):
        return found, hard
    if params["restart"] == "always":
        found.append("a restart was asked for")
        hard = True
    if changed:
        found.append(f"{params['path']} changed")
    started = dockerd.started_at(state)
    for program in params["restart_if_newer"]:
        try:
            appeared = os.stat(program).st_ctime
        except OSError:
            continue
        if started is not None and appeared > started:
            found.append(f"{program} is newer than the running dockerd")
            hard = True
    if not active:
        found.append(f"{params['service']} is meant to run, but does not")
        hard = True
    elif params["state"] == "present" and not changed:
        info = dockerd.info()
        missing = [] if info is None else daemon_config.not_live(params["config"], info)
        if missing:
            found.append(f"the running dockerd does not have {', '.join(missing)}")
    return found, hard


def take_over(
    module: AnsibleModule, dockerd: Dockerd, file: ConfigFile, result: dict, soft: bool, written: bool
) -> None:
    """Makes dockerd run with the file, or puts everything back and fails."""
    if not dockerd.systemctl or not dockerd.show():
        if written:
            file.restore()
        module.fail_json(
            msg=(
                f"dockerd must take {file.shown} over ({'; '.join(result['restart_reasons'])}), but this "
                "node has no systemd that could do it. Nothing was changed; use `restart: never` and restart "
                "dockerd yourself."
            )
        )
    since = time.time() - 1
    if soft and dockerd.reload(module.params["config"] if module.params["state"] == "present" else {}):
        result["reloaded"] = True
        return
    if dockerd.restart() is not None:
        result["restarted"] = True
        return
    journal = dockerd.journal(since)
    said = " | ".join(journal[-2:]) or "nothing (its journal is empty)"
    failed = {"journal": journal, "restarted": True}
    if not written:
        module.fail_json(
            msg=f"dockerd does not come up; {file.shown} was not changed by this call. dockerd said: {said}",
            rolled_back=False,
            backup_file=None,
            **failed,
        )
    file.restore()
    back = dockerd.restart() is not None
    if back and result["backup_file"]:
        # The file is as it was; the copy of it tells nothing more.
        os.unlink(result["backup_file"])
        result["backup_file"] = None
    now = (
        "The old file is back and dockerd runs with it."
        if back
        else "The old file is back, but dockerd does not answer with it either."
    )
    module.fail_json(
        msg=f"dockerd did not come back with the new {file.shown}. {now} dockerd said: {said}",
        rolled_back=back,
        backup_file=result["backup_file"],
        **failed,
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "dict", "default": {}},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "absent": {"type": "list", "elements": "str", "default": []},
            "replace": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path", "default": "/etc/docker/daemon.json"},
            "restart": {"type": "str", "choices": ["changed", "always", "never"], "default": "changed"},
            "restart_if_newer": {"type": "list", "elements": "path", "default": []},
            "service": {"type": "str", "default": "docker.service"},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
            "restart_timeout_seconds": {"type": "int", "default": 60},
            "backup": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    dockerd = Dockerd(module)
    file = ConfigFile(module)
    before: dict[str, Any] = {}
    if file.original is not None:
        try:
            before = daemon_config.parse(file.original)
        except daemon_config.DaemonConfigError as error:
            module.fail_json(
                msg=f"{file.shown}: {error}. Nothing was changed; correct the file or move it away, "
                "and run again.",
                line=error.line,
                column=error.column,
            )

    merging = module.params["state"] == "present"
    after = desired(module, before)
    state = dockerd.show()
    # dockerd before 23 does not start with an empty file; to every dockerd an empty object means the same.
    hollow = merging and file.original is not None and not file.original.strip()
    stopped = state.get("ActiveState") in ("inactive", "failed", "activating", "deactivating")
    changed = not daemon_config.equal(after, before) or (hollow and stopped)
    gone = not merging and not after and file.original is not None and changed
    data = b"" if gone else daemon_config.render(after, file.original)
    result: dict[str, Any] = {
        "changed": changed,
        "restarted": False,
        "reloaded": False,
        "restart_reasons": [],
        "backup_file": None,
        "before": None if file.original is None else before,
        "after": None if gone or (file.original is None and not changed) else after,
        "added": daemon_config.added(before, module.params["config"]) if merging else {},
        "validated_by": None,
    }
    if changed:
        result["validated_by"] = check(module, dockerd, file, before, after, data)

    result["restart_reasons"], hard = reasons(module, dockerd, changed, state)
    soft = not hard and daemon_config.reload_suffices(before, after)
    result["changed"] = changed or bool(result["restart_reasons"])
    if changed or module._diff:
        result["diff"] = {
            "before_header": file.shown,
            "after_header": file.shown,
            "before": (file.original or b"").decode("utf-8") if changed else "",
            "after": data.decode("utf-8") if changed else "",
        }
    if module.check_mode:
        result["restarted"] = bool(result["restart_reasons"]) and not soft
        result["reloaded"] = bool(result["restart_reasons"]) and soft
        module.exit_json(**result)

    if changed:
        try:
            if module.params["backup"] and file.original is not None:
                result["backup_file"] = module.backup_local(file.path)
            if gone:
                file.remove()
            else:
                file.go_live(file.prepare(data))
        except OSError as error:
            module.fail_json(msg=f"Cannot write {file.shown}: {error.strerror}. The file is as it was.")
    if result["restart_reasons"]:
        take_over(module, dockerd, file, result, soft, changed)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
