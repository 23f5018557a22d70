# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Say whether a job computes on the GPU, and why not. See modules/gpu_usage.py."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils import usage as judging
from ansible_collections.gpuready.node.plugins.module_utils.answers import failure

INFO_ACTION = "gpuready.node.gpu_usage_info"
DIAGNOSE_ACTION = "gpuready.node.gpu_diagnose"

ARGUMENTS: dict[str, dict[str, Any]] = {
    "container": {"type": "str"},
    "pid": {"type": "int"},
    "window_seconds": {"type": "float", "default": 5.0},
    "interval_seconds": {"type": "float", "default": 0.5},
    "diagnose": {"type": "bool", "default": True},
    "simulated": {"type": "bool", "default": False},
    "must_use_gpu": {"type": "bool", "default": True},
}


class ActionModule(ActionBase):
    """Look, judge, and ask for the reason where there is one to be found."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        arguments = transform_to_native_types(arguments, redact=False)
        container = (arguments["container"] or "").strip() or None
        pid = arguments["pid"]
        if (container is None) == (pid is None):
            raise AnsibleActionFail(
                "say which job is meant: -e container=NAME (or its id), or -e pid=NUMBER with --limit NODE; "
                + ("not both" if container else "neither was given")
            )
        host = str(task_vars["inventory_hostname"])
        asked: dict[str, Any] = {
            "window_seconds": arguments["window_seconds"],
            "interval_seconds": arguments["interval_seconds"],
            **({"container": container} if container else {"pid": pid}),
        }
        result = self._act(INFO_ACTION, asked, task_vars)
        if result.get("failed") or "usage" not in result:
            if result.get("msg") and "module_stderr" not in result:
                # The module's own words: what is wrong with the question.
                raise AnsibleActionFail(f"{host}: {result['msg']}")
            raise AnsibleActionFail(failure(f"{host} could not be asked", result))
        usage = dict(result["usage"])
        answer = judging.judge(usage, host=host, simulated=arguments["simulated"])
        extra: dict[str, Any] = {}
        if arguments["diagnose"] and answer["verdict"] in ("on_cpu", "idle", "unknown"):
            said = self._diagnose(usage["subject"], task_vars)
            # The node's own documents, so that the report has them.
            extra = {key: said[key] for key in ("gpu_stack", "plan") if key in said}
            answer = judging.judge(
                usage, host=host, simulated=arguments["simulated"], diagnosis=said.get("diagnosis")
            )
        text = judging.render(answer)
        outcome: dict[str, Any] = {
            "changed": False,
            "usage": answer,
            "observed": usage,
            "text": text,
            "_ansible_verbose_override": True,
            **extra,
        }
        if arguments["must_use_gpu"] and not judging.is_good(answer):
            outcome.update(failed=True, msg=text.rstrip())
        return outcome

    def _diagnose(self, subject: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Why the job has no GPU: its container, its Python on the host, or the node alone."""
        arguments: dict[str, Any] = {"must_be_healthy": False, "verify": False}
        container = subject.get("container") or {}
        if container:
            arguments["container"] = container.get("name") or container["id"]
        elif subject.get("program"):
            arguments["framework"] = subject["program"]
        return self._act(DIAGNOSE_ACTION, arguments, task_vars)

    def _act(self, name: str, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Another action plugin of this collection, as if it were this task."""
        task = self._task.copy()
        task.args = arguments
        action = self._shared_loader_obj.action_loader.get(
            name,
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        return dict(action.run(task_vars=task_vars))
