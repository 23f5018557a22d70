# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Know a host before anything is told to it. See modules/ssh_host_key.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils import ssh_host_keys, ssh_words
from ansible_collections.gpuready.node.plugins.module_utils.ssh_host_keys import HostKeyError, Key, Verdict

ARGUMENTS: dict[str, dict[str, Any]] = {
    "host_key": {"type": "str", "default": ""},
    "accepted": {"type": "bool", "default": False},
    "known_hosts_file": {"type": "path"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


class ActionModule(ActionBase):
    """Ask ssh, judge, and write what was vouched for."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        wanted = transform_to_native_types(arguments, redact=False)
        if not ssh_words.is_ssh(self._connection):
            # Nobody else can answer for a local connection or a container's.
            return {
                "changed": False,
                "trust": "known",
                "fingerprints": [],
                "known_hosts_file": "",
                "name": "",
            }
        words, address = ssh_words.words(self._connection)
        place = ssh_words.place(str(task_vars["inventory_hostname"]), self._connection)
        ssh = ssh_host_keys.Ssh(words, address, timeout=int(self._connection.get_option("timeout")))
        try:
            settings = ssh.settings()
            mine = ssh_host_keys.files(settings, "userknownhostsfile")
            everyones = ssh_host_keys.files(settings, "globalknownhostsfile")
            path = self._path(wanted["known_hosts_file"], mine, place)
            if wanted["state"] == "absent":
                return self._forget(ssh, settings, path, address)
            return self._present(ssh, wanted, path, [*mine, *everyones], place)
        except ssh_host_keys.NotReached as error:
            raise AnsibleActionFail(f"{place} was not reached: {error}") from None
        except HostKeyError as error:
            raise AnsibleActionFail(str(error)) from None
        except OSError as error:
            raise AnsibleActionFail(f"{error.filename or place}: {error.strerror or error}") from None

    @staticmethod
    def _path(chosen: str | None, mine: list[str], place: str) -> Path:
        """Where a key is written that was vouched for: where ssh looks for it."""
        if chosen:
            path = str(Path(chosen).expanduser())
            if path not in mine:
                raise HostKeyError(
                    f"node_access_known_hosts_file is {path}, where ssh does not look for {place} (it "
                    f"looks in "
                    f"{', '.join(mine)}): add -o UserKnownHostsFile={path} to ansible_ssh_common_args, or "
                    f"leave it out"
                )
            return Path(path)
        found = [path for path in mine if path != "/dev/null"]
        if not found:
            raise HostKeyError(
                f"ssh keeps the host keys of {place} nowhere (UserKnownHostsFile): name a file in "
                f"ansible_ssh_common_args"
            )
        return Path(found[0])

    def _present(
        self, ssh: ssh_host_keys.Ssh, wanted: dict[str, Any], path: Path, paths: list[str], place: str
    ) -> dict[str, Any]:
        vouched = ssh_host_keys.wanted_fingerprints(wanted["host_key"])
        shown = ssh.shown()
        first = next(shown)
        known = ssh.known(first.name, paths)

        def all_shown() -> Any:
            yield first
            yield from shown

        verdict = ssh_host_keys.judge(all_shown(), known, vouched, accepted=wanted["accepted"], host=place)
        elsewhere = sorted({key.path for key in verdict.drop if key.path != str(path)})
        if elsewhere:
            raise HostKeyError(
                f"{', '.join(elsewhere)} has another host key of {place}, and only {path} is written: take "
                f"it out there"
            )
        return self._result(verdict, path, first.name)

    def _result(self, verdict: Verdict, path: Path, name: str) -> dict[str, Any]:
        changed = bool(verdict.write or verdict.drop)
        if changed and not self._task.check_mode:
            ssh_host_keys.write(path, verdict.write, verdict.drop)
        return {
            "changed": changed,
            "trust": verdict.trust,
            "fingerprints": [key.fingerprint for key in verdict.keys],
            "known_hosts_file": str(path),
            "name": name,
            "diff": {
                "before_header": str(path),
                "after_header": str(path),
                "before": "".join(key.known_hosts for key in verdict.drop),
                "after": "".join(key.known_hosts for key in verdict.write),
            },
        }

    def _forget(
        self, ssh: ssh_host_keys.Ssh, settings: dict[str, str], path: Path, address: str
    ) -> dict[str, Any]:
        """The host may be gone, so its name is made up as ssh makes it."""
        name = settings.get("hostkeyalias") or settings.get("hostname") or address
        port = settings.get("port", "22")
        if port != "22" and "hostkeyalias" not in settings:
            name = f"[{name}]:{port}"
        known: list[Key] = [key for key in ssh.known(name, [str(path)]) if not key.marker]
        return self._result(Verdict("forgotten", known, [], known), path, name)
