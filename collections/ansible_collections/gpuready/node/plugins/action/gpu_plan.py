# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Observe a node and plan for it: one module call there, everything else here. See modules/gpu_plan.py."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path
from typing import Any

import yaml
from ansible import constants as C
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils import variables, venvs, workbenches
from ansible_collections.gpuready.node.plugins.module_utils.answers import failure
from ansible_collections.gpuready.node.plugins.module_utils.catalog import (
    CatalogError,
    annotate,
    load_catalog,
)
from ansible_collections.gpuready.node.plugins.module_utils.planner import plan as make_plan
from ansible_collections.gpuready.node.plugins.module_utils.render import render
from ansible_collections.gpuready.node.plugins.module_utils.wishes import DEFAULT_WISHES, check

display = Display()

ARGUMENTS = {"observed": {"type": "dict"}}


def _read_ahead() -> None:
    """Read what every node's plan needs, before there is a process per node.

    Ansible imports an action plugin in its main process and forks for each task and node: what is in memory
    by then is read once instead of once per node. What cannot be read is told by whoever needs it.
    """
    with contextlib.suppress(CatalogError):
        load_catalog()
    for directory in C.DEFAULT_ROLES_PATH or []:
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            variables.load_specs(Path(directory))


_read_ahead()


def _read_here(path: str) -> str:
    """A file of the controller."""
    return Path(path).expanduser().read_text(encoding="utf-8")


class ActionModule(ActionBase):
    """Collect wishes, observe, plan."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        host = str(task_vars["inventory_hostname"])
        specs = self._specs(task_vars)
        self._refuse_misspelt(task_vars, specs)
        self._refuse_wrong_values(task_vars, specs)
        wishes = self._wishes(task_vars)

        observed = arguments.get("observed")
        if observed is None:
            observed = self._observe(host, wishes, task_vars)
        observed = transform_to_native_types(observed, redact=False)
        observed = self._with_failed_reload(observed, task_vars)

        catalog = load_catalog()
        observed = annotate(observed, catalog)
        plan = make_plan(observed, wishes, catalog, host=host, today=datetime.date.today().isoformat())
        return {
            "changed": False,
            "gpu_stack": observed,
            "plan": plan,
            "text": render(plan),
            "ansible_facts": {"gpu_stack": observed, "gpu_plan": plan},
            # -v shows the plan, not several screens of observation.
            "_ansible_verbose_override": True,
        }

    # --- variables ----------------------------------------------------------------------------------------

    def _specs(self, task_vars: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
        """The argument specs of the roles that lie beside the role ``gpuready``."""
        candidates = []
        role = getattr(self._task, "_role", None)
        if role is not None:
            candidates.append(Path(role.get_role_path()).parent)
        if task_vars.get("playbook_dir"):
            candidates.append(Path(str(task_vars["playbook_dir"])) / "roles")
        candidates += [Path(path) for path in C.DEFAULT_ROLES_PATH or []]
        for directory in candidates:
            if (directory / "gpuready" / "meta" / "argument_specs.yml").is_file():
                return variables.load_specs(directory)
        display.vv("gpu_plan: the roles were not found, so variable names are not checked")
        return {}

    @staticmethod
    def _refuse_misspelt(task_vars: dict[str, Any], specs: dict[str, dict[str, dict[str, Any]]]) -> None:
        names = {str(name): name for name in task_vars}
        found = variables.misspelt(names, specs)
        if found:
            # With the name as the object, Ansible shows the file and line that it comes from.
            raise AnsibleActionFail("; ".join(message for _, message in found), obj=names[found[0][0]])
        for message in variables.lookalikes(names, specs):
            display.warning(message)

    def _refuse_wrong_values(
        self, task_vars: dict[str, Any], specs: dict[str, dict[str, dict[str, Any]]]
    ) -> None:
        """Hold values against their role's argument spec now, and not only when the role is reached.

        The planner's own variables are left to ``wishes.check``, which says more about them.
        """
        mistakes = []
        options = {name: option for role in specs.values() for name, option in role.items()}
        for name in sorted(set(options) - set(DEFAULT_WISHES)):
            if name not in task_vars:
                continue
            try:
                value = transform_to_native_types(self._templar.template(task_vars[name]), redact=False)
            except AnsibleError as error:
                # It may rest on something that only a later task makes; its role will say if not.
                display.vv(f"gpu_plan: {name} cannot be checked yet: {error}")
                continue
            option = {key: item for key, item in options[name].items() if key not in ("default", "required")}
            errors = ArgumentSpecValidator({name: option}).validate({name: value}).error_messages
            mistakes += [(name, message) for message in errors]
        if mistakes:
            raise AnsibleActionFail(
                "; ".join(message for _, message in mistakes), obj=task_vars[mistakes[0][0]]
            )

    def _wishes(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """What the inventory asks for: the values given to the planner's variables, over its defaults."""
        given = {
            name: transform_to_native_types(self._templar.template(task_vars[name]), redact=False)
            for name in DEFAULT_WISHES
            if name in task_vars
        }
        if workbenches.USERS in given:
            try:
                given[workbenches.USERS] = workbenches.read_key_files(given[workbenches.USERS], _read_here)
            except workbenches.KeyFileError as error:
                raise AnsibleActionFail(str(error), obj=task_vars[workbenches.USERS]) from None
        wishes, problems = check(given)
        if problems:
            raise AnsibleActionFail(
                "; ".join(f"{problem.what} ({' or '.join(problem.options)})" for problem in problems),
                obj=task_vars[problems[0].variable],
            )
        return wishes

    @staticmethod
    def _with_failed_reload(observed: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """The role nvidia_driver notes the boot in which the modules could not be loaded anew."""
        driver, boot = observed.get("driver"), (observed.get("host") or {}).get("boot_id")
        if not driver or not boot or task_vars.get("__nvidia_driver_reload_failed") != boot:
            return observed
        return {**observed, "driver": {**driver, "reload_failed": "the modules stayed in use"}}

    # --- the node -----------------------------------------------------------------------------------------

    def _observe(self, host: str, wishes: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        result = self._execute_module(
            module_name="gpuready.node.gpu_stack_info",
            module_args={
                "endpoints": variables.endpoints(wishes),
                "interpreters": venvs.interpreters(wishes["framework_venv_environments"]),
                **(
                    {"textfile_directory": wishes["gpu_health_textfile_directory"]}
                    if wishes["gpu_health_enabled"]
                    else {}
                ),
            },
            task_vars=task_vars,
        )
        if result.get("failed") or "gpu_stack" not in result:
            raise AnsibleActionFail(failure(f"{host} could not be observed", result))
        return result["gpu_stack"]
