# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Write a node's support bundle on the controller. See modules/support_bundle.py."""

from __future__ import annotations

import datetime
import getpass
import json
import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils.answers import failure
from ansible_collections.gpuready.node.plugins.module_utils.diagnosis import bundle

LOGS_MODULE = "gpuready.node.gpu_logs_info"
ARGUMENTS: dict[str, dict[str, Any]] = {
    "dest": {"type": "path", "required": True},
    "diagnosis": {"type": "dict", "default": {}},
    "error": {"type": "str"},
    "keep_hostnames": {"type": "bool", "default": False},
    "lines": {"type": "int", "default": 400},
    "paths": {"type": "list", "elements": "str", "default": []},
}
#: Variables that name who logs in to the node.
USERS = ("ansible_user", "ansible_ssh_user", "ansible_become_user", "remote_user")


def _controller_user() -> list[str]:
    try:
        return [getpass.getuser()]
    except (OSError, KeyError):
        # Nobody in the controller's user table: no name to take out.
        return []


class ActionModule(ActionBase):
    """Logs from the node, everything else from this run; the archive on the controller."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        arguments = transform_to_native_types(arguments, redact=False)
        host = str(task_vars["inventory_hostname"])
        read = self._execute_module(
            module_name=LOGS_MODULE,
            module_args={"lines": arguments["lines"], "paths": arguments["paths"]},
            task_vars=task_vars,
        )
        if read.get("failed") or "logs" not in read:
            raise AnsibleActionFail(failure(f"the logs of {host} could not be read", read))
        now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        created = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        document = self._document(host, arguments, task_vars)
        document["log_problems"] = list(read.get("problems") or [])
        contents = bundle.files(
            document,
            logs=read["logs"],
            created=created,
            keep_hosts=arguments["keep_hostnames"],
            hosts=tuple(sorted(str(name) for name in task_vars.get("ansible_play_hosts_all") or [])),
            users=tuple(self._users(task_vars)),
        )
        name = bundle.name_of(contents, created)
        path = os.path.join(arguments["dest"], name + ".tar.gz")
        if not self._task.check_mode:
            try:
                path = bundle.write(arguments["dest"], name, name, contents, int(now.timestamp()))
            except OSError as error:
                raise AnsibleActionFail(
                    f"dest is {arguments['dest']}: {error.strerror}; name a folder on the controller that can"
                    " be written to"
                ) from error
        return {
            "changed": True,
            "path": path,
            "files": list(contents),
            "taken_out": json.loads(contents["manifest.json"])["taken_out"],
        }

    def _document(self, host: str, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        known = task_vars.get("ansible_facts") or {}
        answer = arguments["diagnosis"]
        facts = answer.get("facts") if isinstance(answer.get("facts"), dict) else {}
        stack = transform_to_native_types(known.get("gpu_stack"), redact=False)
        plan = transform_to_native_types(known.get("gpu_plan"), redact=False)
        diagnosis = answer.get("diagnosis")
        if not diagnosis:
            diagnosis = transform_to_native_types(known.get("gpu_diagnosis"), redact=False)
        document = {
            "schema": 1,
            "host": host,
            "simulated": bool((plan or {}).get("simulated")),
            "status": (diagnosis or {}).get("status"),
            "error": arguments["error"],
            "gpu_stack": stack,
            "plan": plan,
            "verification": answer.get("verifications") or [],
            "diagnosis": diagnosis,
        }
        for name in ("container", "framework", "platform", "probes"):
            if facts.get(name):
                document[name] = facts[name]
        return document

    def _users(self, task_vars: dict[str, Any]) -> list[str]:
        """Who works here: their names are taken out wherever they stand."""
        found = _controller_user()
        for name in USERS:
            value = task_vars.get(name)
            if isinstance(value, str):
                value = self._templar.template(value)
            if isinstance(value, str) and value:
                found.append(value)
        found.append(str(self._play_context.remote_user or ""))
        return [name for name in dict.fromkeys(found) if name]
