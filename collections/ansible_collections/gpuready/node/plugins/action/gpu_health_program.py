# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Put the health program on a node: made here, copied there. See modules/gpu_health_program.py."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.gpuready.node.plugins.module_utils.answers import failure
from ansible_collections.gpuready.node.plugins.module_utils.health import build

ARGUMENTS: dict[str, Any] = {}


class ActionModule(ActionBase):
    """One copy per file, by Ansible's own copy: checksums, check mode and diff are its own."""

    TRANSFERS_FILES = True
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _validation, _arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        contents = build.contents()
        if build.BINDINGS not in contents:
            raise AnsibleActionFail(
                "nvidia-ml-py (pynvml.py) is not installed beside Ansible: install it (make env does), or "
                "set gpu_health_enabled: false"
            )
        folder = self._execute_module(
            module_name="ansible.legacy.file",
            module_args={
                "path": build.FOLDER,
                "state": "directory",
                "owner": "root",
                "group": "root",
                "mode": "0755",
            },
            task_vars=task_vars,
        )
        if folder.get("failed"):
            raise AnsibleActionFail(failure(f"{build.FOLDER} could not be made", folder))
        result.update(changed=bool(folder.get("changed")), files=build.digests())
        if self._task.check_mode and folder.get("changed"):
            return result
        for path, data in sorted(contents.items()):
            answer = self._copy(path, data, task_vars or {})
            if answer.get("failed"):
                return {**result, **answer}
            result["changed"] = result["changed"] or bool(answer.get("changed"))
        return result

    def _copy(self, path: str, data: bytes, task_vars: dict[str, Any]) -> dict[str, Any]:
        handle, source = tempfile.mkstemp(prefix="gpuready-health-")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(data)
            task = self._task.copy()
            task.args = {
                "src": source,
                "dest": path,
                "owner": "root",
                "group": "root",
                "mode": build.MODES[path],
            }
            copy = self._shared_loader_obj.action_loader.get(
                "ansible.legacy.copy",
                task=task,
                connection=self._connection,
                play_context=self._play_context,
                loader=self._loader,
                templar=self._templar,
                shared_loader_obj=self._shared_loader_obj,
            )
            return copy.run(task_vars=task_vars)
        finally:
            os.unlink(source)
