# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Find the way into a node, by connections of Ansible's own. See modules/node_login.py."""

from __future__ import annotations

import shlex
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import connection_loader
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils import first_contact, ssh_words
from ansible_collections.gpuready.node.plugins.module_utils.first_contact import Way

ARGUMENTS: dict[str, dict[str, Any]] = {
    "automation_user": {"type": "str"},
    "bootstrap": {"type": "bool", "default": True},
    "private_key_file": {"type": "path"},
}
#: A former login's connection must not vouch for this one.
ALONE = "-o ControlMaster=no -o ControlPath=none"


class Refused(Exception):
    """A way that does not lead in."""


class ActionModule(ActionBase):
    """Try the automation user's key, then what the task's variables say, and look what the user may."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self._variables = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        wanted = transform_to_native_types(arguments, redact=False)
        if not wanted["automation_user"] and not wanted["bootstrap"]:
            raise AnsibleActionFail("no way is asked for: name automation_user, or leave bootstrap")
        self._place = ssh_words.place(str(self._variables["inventory_hostname"]), self._connection)
        if not ssh_words.is_ssh(self._connection):
            raise AnsibleActionFail(f"{self._place} is not reached by SSH: there is no way in to be found")
        self._key = wanted["private_key_file"] or None
        ways = []
        if wanted["automation_user"]:
            ways.append(Way(wanted["automation_user"], "key", automation=True))
        if wanted["bootstrap"]:
            ways.append(self._bootstrap_way())
        tried: list[tuple[str, str]] = []
        for way in ways:
            try:
                facts = self._enter(way)
            except Refused as refused:
                said = str(refused)
                why = first_contact.refusal(self._place, way, said, key=self._key_of(way))
                # Where nobody answers, nobody else will be let in either.
                if way is ways[-1] or first_contact.kind(said) not in ("denied", "expired", "other"):
                    also = f". Nor does {tried[0][0]} get in with its key" if tried else ""
                    raise AnsibleActionFail(why + also) from None
                tried.append((way.user, why))
                continue
            problem = first_contact.unsuitable(self._place, facts, way)
            if problem is None:
                try:
                    root = self._root(way, facts)
                except Refused as refused:
                    problem = str(refused)
                else:
                    return self._result(way, facts, root)
            if way is ways[-1]:
                raise AnsibleActionFail(problem)
            tried.append((way.user, problem))
        raise AnsibleActionFail(tried[-1][1])

    @staticmethod
    def _result(way: Way, facts: dict[str, str], root: str) -> dict[str, Any]:
        return {
            "changed": False,
            "user": way.user,
            "by": way.by,
            "automation": way.automation,
            "root": root,
            "os": facts.get("os_name") or facts.get("os"),
        }

    def _key_of(self, way: Way) -> str | None:
        return (self._key if way.automation else None) or ssh_words.key_file(self._connection)

    def _bootstrap_way(self) -> Way:
        user = self._connection.get_option("remote_user") or self._play_context.remote_user or "root"
        password = self._connection.get_option("password") or self._play_context.password
        return Way(str(user), "password" if password else "key")

    # --- one login ----------------------------------------------------------------------------------------

    def _connected(self, way: Way) -> Any:
        """A connection of its own, with the variables of the task but this way's user and secret."""
        context = self._play_context.copy()
        if way.by == "key":
            context.password = None
        connection = connection_loader.get("ansible.builtin.ssh", context)
        names = C.config.get_plugin_vars("connection", "ssh")
        variables = {
            name: self._templar.template(self._variables[name]) for name in names if name in self._variables
        }
        extra = self._connection.get_option("ssh_extra_args") or ""
        options: dict[str, Any] = {"remote_user": way.user, "ssh_args": ALONE}
        if way.by == "key":
            # The task's variables may be those of a login by password, which goes without keys.
            options.update(
                password=None,
                private_key_file=self._key_of(way),
                ssh_args=f"{ALONE} -o PubkeyAuthentication=yes",
            )
        else:
            # An agent full of keys would use up the server's patience before the password's turn.
            options["ssh_extra_args"] = f"{extra} -o PubkeyAuthentication=no".strip()
        connection.set_options(var_options=variables, direct=options)
        return connection

    def _say(self, connection: Any, command: str, stdin: str = "") -> tuple[int, str, str]:
        try:
            code, out, err = connection.exec_command(
                command, in_data=to_bytes(stdin) if stdin else None, sudoable=False
            )
        except AnsibleConnectionFailure as error:
            raise Refused(str(error)) from None
        except AnsibleError as error:
            raise AnsibleActionFail(f"{self._place}: {error}") from None
        said = to_text(out, errors="replace"), to_text(err, errors="replace")
        if code == 255:
            raise Refused("\n".join(said))
        return int(code), *said

    def _enter(self, way: Way) -> dict[str, str]:
        connection = self._connected(way)
        try:
            _code, out, err = self._say(connection, f"/bin/sh -c {shlex.quote(first_contact.LOOK)}")
        finally:
            connection.close()
        facts = first_contact.answers(out)
        if not facts and first_contact.kind(out + err) == "expired":
            raise Refused(out + err)
        return facts

    def _root(self, way: Way, facts: dict[str, str]) -> str:
        """How the user becomes root: login (it is), sudo, or sudo_password."""
        if facts["uid"] == "0":
            return "login"
        if facts.get("root") == "sudo":
            return "sudo"
        password = None if way.automation else self._become_password()
        if not password:
            raise Refused(first_contact.no_sudo(self._place, way, password_given=False, said=""))
        connection = self._connected(way)
        try:
            # The password goes through standard input: arguments can be read by everybody there.
            code, out, err = self._say(connection, "LC_ALL=C sudo -k -S -p '' id -u", f"{password}\n")
        finally:
            connection.close()
        if code != 0 or out.split()[-1:] != ["0"]:
            raise Refused(first_contact.no_sudo(self._place, way, password_given=True, said=f"{out}\n{err}"))
        return "sudo_password"

    def _become_password(self) -> str | None:
        for name in ("ansible_become_password", "ansible_become_pass", "ansible_sudo_pass"):
            if self._variables.get(name) and (value := self._templar.template(self._variables[name])):
                return str(value)
        return self._play_context.become_pass or None
