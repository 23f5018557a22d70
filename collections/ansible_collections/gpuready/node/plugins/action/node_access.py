# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Read and check the keys here, then let the node do the rest. See modules/node_access.py."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils import node_access, workbenches
from ansible_collections.gpuready.node.plugins.module_utils.answers import failure

ARGUMENTS: dict[str, dict[str, Any]] = {
    "user": {"type": "str", "default": "gpuready"},
    "authorized_keys": {"type": "list", "elements": "str", "default": []},
    "sources": {"type": "list", "elements": "str", "default": []},
    "private_key_file": {"type": "path"},
    "former_lines": {"type": "list", "elements": "str", "default": []},
    "bootstrap_user": {"type": "str"},
    "state": {"type": "str", "choices": ["granted", "locked", "absent"], "default": "granted"},
}


def _read_here(path: str) -> str:
    """A file of the controller."""
    return Path(path).expanduser().read_text(encoding="utf-8")


def _public_half(private_key: str) -> str:
    """The public half of a key that the inventory names."""
    path = Path(private_key).expanduser()
    if not path.is_file():
        raise AnsibleActionFail(f"ansible_ssh_private_key_file names {path}, which is not there")
    # ssh-keygen needs the private key's passphrase, if it has one; the file beside it needs nothing.
    if (public := path.with_name(f"{path.name}.pub")).is_file():
        return str(public.absolute())
    words = ["ssh-keygen", "-y", "-P", "", "-f", str(path)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AnsibleActionFail(
            f"ansible_ssh_private_key_file names {path}, whose public half cannot be had "
            f"({done.stderr.strip()}): put it into {public}, or name it in node_access_authorized_keys"
        )
    return done.stdout.strip()


class ActionModule(ActionBase):
    """Keys from the controller, everything else on the node."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        wanted = transform_to_native_types(arguments, redact=False)
        problem = node_access.user_problem(wanted["user"])
        if problem:
            raise AnsibleActionFail(f"node_access_user: {problem}")
        lines: list[str] = []
        if wanted["state"] == "granted":
            lines = wanted["former_lines"] or self._lines(
                wanted["authorized_keys"], wanted["private_key_file"], wanted["sources"]
            )
        result = self._execute_module(
            module_name="gpuready.node.node_access",
            module_args={
                "user": wanted["user"],
                "lines": lines,
                "bootstrap_user": wanted["bootstrap_user"],
                "state": wanted["state"],
            },
            task_vars=task_vars,
        )
        if result.get("failed") and "steps" not in result:
            result["msg"] = failure("the automation user could not be set up", result)
        return result

    @staticmethod
    def _lines(keys: list[str], private_key: str | None, sources: list[str]) -> list[str]:
        problems = [problem for source in sources if (problem := node_access.source_problem(source))]
        if problems:
            raise AnsibleActionFail(f"node_access_sources: {'; '.join(problems)}")
        if not keys and private_key:
            keys = [_public_half(private_key)]
        try:
            found = node_access.read_keys(keys, _read_here)
        except workbenches.KeyFileError as error:
            raise AnsibleActionFail(str(error)) from None
        return node_access.key_lines(found, sources)
