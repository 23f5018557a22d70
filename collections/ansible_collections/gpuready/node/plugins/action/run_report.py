# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Make a run's files anew, or one run of several. See modules/run_report.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils import report

ARGUMENTS: dict[str, dict[str, Any]] = {
    "folders": {"type": "list", "elements": "path", "required": True},
    "into": {"type": "path"},
    "run": {"type": "str"},
}


class ActionModule(ActionBase):
    """Reads and writes folders of the controller; no node is asked."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        arguments = transform_to_native_types(arguments, redact=False)
        folders, into = [Path(folder) for folder in arguments["folders"]], arguments["into"]
        check = bool(self._task.check_mode)
        if not folders:
            raise AnsibleActionFail("folders is empty: name the folder of a run, such as artifacts/latest")
        if len(folders) > 1 and not into:
            raise AnsibleActionFail(
                f"folders names {len(folders)} runs: say with into where one run of them is to be made"
            )
        try:
            if into:
                joined = report.join_runs(folders, Path(into), run=arguments["run"] or None, check=check)
                names = sorted(path.name for path in joined.iterdir()) if joined else []
                folder = str(joined) if joined else ""
                page = f"{folder}/report.html" if joined else ""
                return {"changed": True, "folder": folder, "page": page, "files": names}
            names = report.rebuild(folders[0], check=check)
        except (OSError, ValueError) as error:
            raise AnsibleActionFail(f"{error}") from None
        page = str(folders[0] / "report.html")
        return {"changed": bool(names), "folder": str(folders[0]), "page": page, "files": names}
