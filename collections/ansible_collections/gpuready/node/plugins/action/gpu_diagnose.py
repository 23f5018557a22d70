# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Say what is wrong on a node: facts first, probes where they do not decide. See modules/gpu_diagnose.py."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils import verification as judging
from ansible_collections.gpuready.node.plugins.module_utils.answers import failure
from ansible_collections.gpuready.node.plugins.module_utils.catalog import Catalog, load_catalog
from ansible_collections.gpuready.node.plugins.module_utils.diagnosis import assemble, engine
from ansible_collections.gpuready.node.plugins.module_utils.diagnosis.chain import LINKS
from ansible_collections.gpuready.node.plugins.module_utils.diagnosis.knowledge import (
    Knowledge,
    load_knowledge,
)
from ansible_collections.gpuready.node.plugins.module_utils.diagnosis.render import render
from ansible_collections.gpuready.node.plugins.module_utils.secrecy import redact, without_secrets

display = Display()

PLAN_ACTION = "gpuready.node.gpu_plan"
PROBE_ACTION = "gpuready.node.container_gpu_probe"
CHAIN_MODULE = "gpuready.node.gpu_chain_probe"
#: A cause in one of these links keeps every container from its GPU: none needs to be started to see that.
BLOCKING = {
    link.name
    for link in itertools.takewhile(lambda link: link.name != "request", LINKS)
    if link.name != "packages"
}

ARGUMENTS: dict[str, dict[str, Any]] = {
    "container": {"type": "str"},
    "framework": {"type": "dict"},
    "verifications": {"type": "list", "elements": "dict"},
    "verify": {"type": "bool", "default": True},
    "verify_timeout_seconds": {"type": "int", "default": 120},
    "probe_timeout_seconds": {"type": "float", "default": 30.0},
    "must_be_healthy": {"type": "bool", "default": True},
}


class ActionModule(ActionBase):
    """Collect facts until they decide."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        arguments = transform_to_native_types(arguments, redact=False)
        for name in ("verify_timeout_seconds", "probe_timeout_seconds"):
            if not 0 < arguments[name] <= 600:
                raise AnsibleActionFail(
                    f"{name} is {arguments[name]:g}; give a number of seconds above 0 and up to 600"
                )
        if arguments["container"] and arguments["framework"]:
            raise AnsibleActionFail("container and framework exclude each other: ask about one of them")
        host = str(task_vars["inventory_hostname"])
        gpu_stack, plan, planned = self._look(task_vars)
        self._catalog: Catalog = load_catalog()
        # An entry that is broken (somebody adds one) must not keep the others from being asked.
        self._knowledge: Knowledge = load_knowledge(skip_broken=True)
        for problem in self._knowledge.problems:
            display.warning(f"gpu_diagnose: left out: {problem}")
        self._host, self._simulated = host, bool(plan.get("simulated"))

        verifications = [row for row in arguments["verifications"] or [] if isinstance(row, dict)]
        container = (arguments["container"] or "").strip() or None
        probe: dict[str, Any] | None = None
        facts = assemble.facts_of(gpu_stack, plan, verifications, catalog=self._catalog)
        if arguments["framework"]:
            # A program on the host: no workload says anything of it.
            facts = assemble.facts_of(gpu_stack, plan, program=arguments["framework"], catalog=self._catalog)
        answer = self._diagnose(facts)
        if arguments["framework"]:
            verifications = []
        elif container:
            probe = self._chain(task_vars, arguments, container=container)
            self._refuse_unknown(container, probe)
        elif not self._is_blocked(answer):
            if arguments["verify"] and not verifications:
                verifications = self._verify(task_vars, arguments, plan)
                facts = assemble.facts_of(gpu_stack, plan, verifications, catalog=self._catalog)
                answer = self._diagnose(facts)
            bad = assemble.the_verification(verifications)
            if bad is not None and not bad.get("ok") and not explains_failure(answer):
                probe = self._chain(
                    task_vars,
                    arguments,
                    image=bad.get("image"),
                    launch=(bad.get("launch") or {}).get("arguments"),
                )
        if probe is not None:
            facts = assemble.facts_of(gpu_stack, plan, verifications, probe, catalog=self._catalog)
            answer = self._diagnose(facts)
        answer = redact(answer, without_secrets)
        text = render(answer)
        result: dict[str, Any] = {
            "changed": False,
            "diagnosis": answer,
            # What it rests on besides observation and plan, so that it can be asked again without the node.
            "facts": redact(
                {key: value for key, value in facts.items() if key not in ("gpu_stack", "plan")},
                without_secrets,
            ),
            "verifications": verifications,
            "text": text,
            "ansible_facts": {"gpu_diagnosis": answer},
            "_ansible_verbose_override": True,
        }
        if planned:
            result.update(gpu_stack=gpu_stack, plan=plan)
            result["ansible_facts"].update(gpu_stack=gpu_stack, gpu_plan=plan)
        if arguments["must_be_healthy"] and answer["status"] != "healthy":
            result.update(failed=True, msg=text.rstrip())
        return result

    # --- what is known ------------------------------------------------------------------------------------

    def _look(self, task_vars: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], bool]:
        """(observation, plan, whether they were made now): this run's, else new ones."""
        known = task_vars.get("ansible_facts") or {}
        if known.get("gpu_stack") and known.get("gpu_plan"):
            stack = transform_to_native_types(known["gpu_stack"], redact=False)
            return stack, transform_to_native_types(known["gpu_plan"], redact=False), False
        answer = self._act(PLAN_ACTION, {}, task_vars)
        return answer["gpu_stack"], answer["plan"], True

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

    def _diagnose(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return engine.diagnose(
            facts,
            knowledge=self._knowledge,
            catalog=self._catalog,
            host=self._host,
            simulated=self._simulated,
        )

    @staticmethod
    def _is_blocked(answer: Mapping[str, Any]) -> bool:
        return any(
            cause["standing"] == "root" and cause["certain"] and cause["link"] in BLOCKING
            for cause in answer["causes"]
        )

    # --- what is asked ------------------------------------------------------------------------------------

    def _verify(
        self, task_vars: dict[str, Any], arguments: dict[str, Any], plan: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Every workload whose image is there, up to the first that does not list its GPUs."""
        found: list[dict[str, Any]] = []
        for workload in plan.get("workloads") or []:
            if not workload.get("present"):
                continue
            answer = self._act(
                PROBE_ACTION,
                {
                    "workload": workload["name"],
                    "image": workload["image"],
                    "probe": workload.get("probe") or "tensorflow",
                    "expect": workload.get("expect") or {},
                    "simulated": self._simulated,
                    "timeout_seconds": arguments["verify_timeout_seconds"],
                    "must_pass": False,
                },
                task_vars,
            )
            found.append(answer["verification"])
            if not answer["verification"]["ok"]:
                break
        return found

    def _chain(
        self,
        task_vars: dict[str, Any],
        arguments: dict[str, Any],
        *,
        container: str | None = None,
        image: str | None = None,
        launch: list[str] | None = None,
    ) -> dict[str, Any]:
        asked: dict[str, Any] = {
            "container": container,
            "image": image,
            "timeout_seconds": arguments["probe_timeout_seconds"],
            "launch_arguments": launch or judging.LAUNCH_ARGUMENTS["gpus"],
        }
        result = self._execute_module(
            module_name=CHAIN_MODULE,
            module_args={name: value for name, value in asked.items() if value is not None},
            task_vars=task_vars,
        )
        if result.get("failed") or "probe" not in result:
            raise AnsibleActionFail(failure(f"{self._host} could not be probed", result))
        return dict(result["probe"])

    def _refuse_unknown(self, container: str, probe: Mapping[str, Any]) -> None:
        """A container that nobody knows is a mistake of the question, and no fault of the node."""
        found = probe.get("container") or {}
        if not found.get("unknown"):
            return
        there = ", ".join(found.get("names") or []) or "none"
        raise AnsibleActionFail(
            f"container: {self._host} has no container {container!r}; docker ps --all lists: {there}"
        )


def explains_failure(answer: Mapping[str, Any]) -> bool:
    """Whether a workload's failure is explained for certain; what apt cannot do keeps no GPU from anybody."""
    return any(
        cause["standing"] == "root" and cause["certain"] and cause["link"] != "packages"
        for cause in answer["causes"]
    )
