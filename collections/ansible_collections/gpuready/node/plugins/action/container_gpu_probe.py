# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Run a workload's container, and judge its answer here. See modules/container_gpu_probe.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils import verification as judging
from ansible_collections.gpuready.node.plugins.module_utils.answers import failure
from ansible_collections.gpuready.node.plugins.module_utils.catalog import load_catalog
from ansible_collections.gpuready.node.plugins.module_utils.diagnosis import assemble, engine
from ansible_collections.gpuready.node.plugins.module_utils.diagnosis.knowledge import load_knowledge

PROBES = Path(__file__).parents[2] / "data" / "probes"

ARGUMENTS: dict[str, dict[str, Any]] = {
    "image": {"type": "str"},
    "python": {"type": "str"},
    "probe": {"type": "str", "default": "tensorflow"},
    "workload": {"type": "str", "default": ""},
    "level": {"type": "str", "choices": ["list", "compute", "stress"], "default": "list"},
    "every_gpu": {"type": "bool", "default": False},
    "stress_seconds": {"type": "int", "default": 60},
    "stress_memory_mib": {"type": "int"},
    "launch": {"type": "str", "choices": ["auto", *judging.LAUNCH_ARGUMENTS], "default": "auto"},
    "gpus_expected": {"type": "int"},
    "expect": {
        "type": "dict",
        "default": {},
        "options": {"framework_version": {"type": "str"}, "cuda": {"type": "str"}},
    },
    "simulated": {"type": "bool", "default": False},
    "timeout_seconds": {"type": "int", "default": 300},
    "must_pass": {"type": "bool", "default": True},
}


class ActionModule(ActionBase):
    """Send the probe with the module, then judge."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        arguments = transform_to_native_types(arguments, redact=False)
        if arguments["timeout_seconds"] < 1:
            raise AnsibleActionFail("timeout_seconds must be at least 1")
        if arguments["stress_seconds"] < 1:
            raise AnsibleActionFail("stress_seconds must be at least 1")
        host = str(task_vars["inventory_hostname"])
        facts = task_vars.get("ansible_facts") or {}
        gpu_stack = transform_to_native_types(facts.get("gpu_stack"), redact=False)
        gpu_plan = transform_to_native_types(facts.get("gpu_plan"), redact=False)
        if bool(arguments["image"]) == bool(arguments["python"]):
            raise AnsibleActionFail("give either an image or the python of an environment on the host")
        timeout = arguments["timeout_seconds"]
        if arguments["level"] == "stress":
            timeout += arguments["stress_seconds"]
        launch = judging.ON_HOST if arguments["python"] else self._launch(arguments["launch"], gpu_plan)

        result = self._execute_module(
            module_name="gpuready.node.container_gpu_probe",
            module_args={
                "image": arguments["image"],
                "python": arguments["python"],
                "probe_text": self._probe_text(arguments["probe"]),
                "level": arguments["level"],
                "launch_arguments": launch["arguments"],
                "timeout_seconds": timeout,
                "probe_arguments": self._probe_arguments(arguments, gpu_stack),
            },
            task_vars=task_vars,
        )
        if result.get("failed") or "run" not in result:
            raise AnsibleActionFail(failure(f"the probe could not be run on {host}", result))

        expected = arguments["gpus_expected"]
        verification = judging.judge(
            result["run"],
            host=host,
            simulated=arguments["simulated"],
            workload=arguments["workload"],
            image=arguments["image"],
            python=arguments["python"],
            level=arguments["level"],
            launch=launch,
            expect={key: value for key, value in arguments["expect"].items() if value},
            gpus_expected=expected if expected is not None else judging.expected_gpus(gpu_stack),
            timeout=timeout,
        )
        diagnosis = None
        if not verification["ok"]:
            # Why it came to that stands before what the container could see of it.
            diagnosis = self._diagnosis(gpu_stack, gpu_plan, verification)
            verification["findings"] = assemble.findings(diagnosis) + verification["findings"]
        text = judging.verdict_text(verification)
        answer = {
            "changed": False,
            "verification": verification,
            "diagnosis": diagnosis,
            "text": text,
            "_ansible_verbose_override": True,
        }
        if arguments["must_pass"] and not verification["ok"]:
            answer.update(failed=True, msg=text)
        return answer

    @staticmethod
    def _diagnosis(
        gpu_stack: dict[str, Any] | None, gpu_plan: dict[str, Any] | None, verification: dict[str, Any]
    ) -> dict[str, Any]:
        """The root cause, from what this run knows of the node and from what the container said."""
        catalog = load_catalog()
        return engine.diagnose(
            assemble.facts_of(gpu_stack, gpu_plan, [verification], catalog=catalog),
            # A broken entry is told by gpu_diagnose and `gpuready catalog check`, not by a verification.
            knowledge=load_knowledge(skip_broken=True),
            catalog=catalog,
            host=verification["host"],
            simulated=bool(verification["simulated"]),
        )

    @staticmethod
    def _launch(way: str, gpu_plan: dict[str, Any] | None) -> dict[str, Any]:
        reason = "asked for"
        if way == "auto":
            planned = ((gpu_plan or {}).get("container_runtime") or {}).get("launch") or {}
            way = planned.get("way") or "gpus"
            reason = planned.get("reason") or "no plan says otherwise"
        return {"way": way, "arguments": judging.LAUNCH_ARGUMENTS[way], "reason": reason}

    @staticmethod
    def _probe_arguments(arguments: dict[str, Any], gpu_stack: dict[str, Any] | None) -> list[str]:
        if arguments["level"] == "compute" and arguments["every_gpu"]:
            return ["--every-gpu"]
        if arguments["level"] != "stress":
            return []
        devices = ((gpu_stack or {}).get("driver") or {}).get("devices") or []
        known = [device["memory_total_mib"] for device in devices if device.get("memory_total_mib")]
        memory = arguments["stress_memory_mib"] or min(known, default=4096)
        return ["--seconds", str(arguments["stress_seconds"]), "--memory-mib", str(memory)]

    @staticmethod
    def _probe_text(name: str) -> str:
        known = sorted(path.stem for path in PROBES.glob("*.py"))
        if name not in known:
            raise AnsibleActionFail(f"probe: there is no probe {name!r}; there are {', '.join(known)}")
        return (PROBES / f"{name}.py").read_text(encoding="utf-8")
