# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Propose a new node's entry in the inventory. See modules/onboarding_proposal.py."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.inventory.host import Host
from ansible.plugins.action import ActionBase
from ansible.template import Templar
from ansible.utils.display import Display
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils import onboarding_proposal as proposing
from ansible_collections.gpuready.node.plugins.module_utils import planner, wishes, workbenches
from ansible_collections.gpuready.node.plugins.module_utils.catalog import annotate, load_catalog
from ansible_collections.gpuready.node.plugins.module_utils.inventory_edit import (
    InventoryError,
    read,
)
from ansible_collections.gpuready.node.plugins.module_utils.inventory_file import read_file, resolve

display = Display()

ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str"},
    "gpu_stack": {"type": "dict"},
    "groups": {"type": "list", "elements": "str", "default": []},
    "variables": {"type": "dict", "default": {}},
    "connection": {"type": "dict", "default": {}},
    "inventory_file": {"type": "path"},
}
#: A host of this name is in no inventory: it has what its groups have, and nothing else.
NOBODY = "gpuready.invalid"


class ActionModule(ActionBase):
    """Holds what was observed against what the groups say; the node is not asked."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        arguments = transform_to_native_types(arguments, redact=False)
        name = arguments["name"] or str(task_vars["inventory_hostname"])
        observed = arguments["gpu_stack"] or (task_vars.get("ansible_facts") or {}).get("gpu_stack")
        if not observed:
            raise AnsibleActionFail(f"{name} was not observed yet: run gpuready.node.gpu_plan before")
        observed = transform_to_native_types(observed, redact=False)
        catalog = load_catalog()
        observed = annotate(observed, catalog)
        today = datetime.date.today().isoformat()

        def plan(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
            complete, _problems = wishes.check(wanted)
            return planner.plan(observed, complete, catalog, host=name, today=today)

        try:
            path = resolve(
                list(task_vars.get("ansible_inventory_sources") or []), arguments["inventory_file"]
            )
            proposal = proposing.propose(
                name=name,
                observed=observed,
                asked=arguments["groups"],
                inventory=read(read_file(path)),
                connection=arguments["connection"],
                variables=arguments["variables"],
                group_variables=lambda groups: self._group_variables(
                    groups, {*arguments["connection"], *arguments["variables"], *wishes.DEFAULT_WISHES}
                ),
                plan=plan,
            )
        except InventoryError as error:
            raise AnsibleActionFail(str(error)) from None
        except ValueError as error:
            raise AnsibleActionFail(str(error)) from None
        return {
            "changed": False,
            "inventory_file": str(path),
            "_ansible_verbose_override": True,
            **proposal.document(name),
        }

    def _group_variables(self, groups: Sequence[str], wanted: set[str]) -> dict[str, Any]:
        """What a host in these groups has of the wanted variables, by no doing of its own."""
        manager = self._task.get_variable_manager()
        inventory = manager._inventory
        host = Host(NOBODY)
        for group in groups:
            if group in inventory.groups:
                host.add_group(inventory.groups[group])
        raw = manager.get_vars(host=host, include_hostvars=False)
        templar = Templar(loader=self._loader, variables=raw)
        found = {}
        for variable in sorted(wanted):
            # What the command line says holds for this run only.
            if variable not in raw or variable in manager.extra_vars:
                continue
            try:
                value = transform_to_native_types(templar.template(raw[variable]), redact=False)
                if variable == workbenches.USERS:
                    value = workbenches.read_key_files(
                        value, lambda file: Path(file).expanduser().read_text("utf-8")
                    )
            except (AnsibleError, workbenches.KeyFileError) as error:
                display.vv(f"onboarding_proposal: {variable} of {', '.join(groups)} is not known: {error}")
                continue
            found[variable] = value
        return found
