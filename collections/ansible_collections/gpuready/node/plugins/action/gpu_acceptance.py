# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Judge a new node, and write the record. See modules/gpu_acceptance.py."""

from __future__ import annotations

import datetime
import getpass
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils import acceptance, report
from ansible_collections.gpuready.node.plugins.module_utils.catalog import load_catalog
from ansible_collections.gpuready.node.plugins.module_utils.diagnosis import assemble, engine
from ansible_collections.gpuready.node.plugins.module_utils.diagnosis.knowledge import load_knowledge
from ansible_collections.gpuready.node.plugins.module_utils.secrecy import redact, without_secrets

DICTIONARY: dict[str, Any] = {"type": "dict"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "verifications": {"type": "list", "elements": "dict", "default": []},
    "stress": DICTIONARY,
    "watch": DICTIONARY,
    "watch_problem": {"type": "str"},
    "hardware": DICTIONARY,
    "limits": {"type": "dict", "default": {}},
    "failure": DICTIONARY,
    "diagnosis": DICTIONARY,
    "host_key": DICTIONARY,
    "address": {"type": "str"},
    "simulated": {"type": "bool", "default": False},
    "started": {"type": "str"},
    "signed_by": {"type": "str"},
    "timings": {"type": "list", "elements": "dict", "default": []},
    "folder": {"type": "path"},
    "must_pass": {"type": "bool", "default": True},
}


class ActionModule(ActionBase):
    """Nothing here asks the node."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        given: dict[str, Any] = transform_to_native_types(arguments, redact=False)
        unknown = sorted(set(given["limits"]) - set(acceptance.LIMITS))
        if unknown:
            known = ", ".join(sorted(acceptance.LIMITS))
            raise AnsibleActionFail(f"limits: there is no {unknown[0]!r}; there are {known}")
        host = str(task_vars["inventory_hostname"])
        facts = task_vars.get("ansible_facts") or {}
        gpu_stack = transform_to_native_types(facts.get("gpu_stack"), redact=False)
        plan = transform_to_native_types(facts.get("gpu_plan"), redact=False)
        finished = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        started = self._started(given["started"], finished)
        record = self._judge(host, given, gpu_stack, plan, started, finished)
        answer: dict[str, Any] = {
            "changed": False,
            "acceptance": record,
            "text": acceptance.text(record),
            "refusal": None,
            "file": None,
            "ansible_facts": {"gpu_acceptance": record},
            "_ansible_verbose_override": True,
        }
        if given["folder"] and not self._task.check_mode:
            answer["file"] = self._write(Path(given["folder"]), record)
        if record["verdict"] != acceptance.ACCEPTED:
            answer["refusal"] = self._refusal(record, answer["file"])
            if given["must_pass"]:
                answer.update(failed=True, msg=answer["refusal"])
        return answer

    # --- judging ------------------------------------------------------------------------------------------

    def _judge(
        self,
        host: str,
        given: dict[str, Any],
        gpu_stack: dict[str, Any] | None,
        plan: dict[str, Any] | None,
        started: datetime.datetime,
        finished: datetime.datetime,
    ) -> dict[str, Any]:
        # A node that failed early has no plan; the inventory's own word is there all the same.
        simulated = bool((plan or {}).get("simulated", given["simulated"]))
        tests = [*given["verifications"], *([given["stress"]] if given["stress"] else [])]
        diagnosis = given["diagnosis"]

        def judged() -> dict[str, Any]:
            return acceptance.judge(
                host=host,
                address=given["address"],
                simulated=simulated,
                limits=given["limits"],
                hardware=given["hardware"],
                host_key=given["host_key"],
                gpu_stack=gpu_stack,
                verifications=given["verifications"],
                stress=given["stress"],
                watch=given["watch"],
                watch_problem=given["watch_problem"],
                failure=given["failure"],
                diagnosis=diagnosis,
                started=started.isoformat(),
                finished=finished.isoformat(),
                seconds=(finished - started).total_seconds(),
                signed_by=given["signed_by"] or f"{getpass.getuser()}@{socket.gethostname()}",
                timings=given["timings"],
            )

        record = judged()
        if record["verdict"] != acceptance.ACCEPTED and not diagnosis and gpu_stack:
            diagnosis = self._diagnosis(host, simulated, gpu_stack, plan, tests)
            record = judged() if diagnosis else record
        return record

    @staticmethod
    def _diagnosis(
        host: str,
        simulated: bool,
        gpu_stack: dict[str, Any],
        plan: dict[str, Any] | None,
        verifications: list[dict[str, Any]],
    ) -> dict[str, Any] | None:
        """The root cause, from what this run knows of the node; null where it finds nothing wrong."""
        catalog = load_catalog()
        bad = [each for each in verifications if not each.get("ok")] or verifications
        answer = engine.diagnose(
            assemble.facts_of(gpu_stack, plan, bad[:1], catalog=catalog),
            # A broken entry is told by gpu_diagnose and `gpuready catalog check`.
            knowledge=load_knowledge(skip_broken=True),
            catalog=catalog,
            host=host,
            simulated=simulated,
        )
        return None if answer.get("status") == "healthy" else redact(answer, without_secrets)

    @staticmethod
    def _started(text: str | None, finished: datetime.datetime) -> datetime.datetime:
        if not text:
            return finished
        try:
            found = datetime.datetime.fromisoformat(text)
        except ValueError:
            raise AnsibleActionFail(
                f"started is {text!r}; give a time such as {finished.isoformat()}"
            ) from None
        if found.tzinfo is None:
            found = found.replace(tzinfo=datetime.timezone.utc)
        return found.replace(microsecond=0)

    # --- the file -----------------------------------------------------------------------------------------

    @staticmethod
    def _write(folder: Path, record: dict[str, Any]) -> str:
        """The record as JSON, and beside it as people read it. Nobody ever finds half of one."""
        path = folder / f"{report.file_name(record['host'])}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            content = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
            for target, words in ((path, content), (path.with_suffix(".txt"), acceptance.text(record))):
                descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=folder)
                with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
                    handle.write(words)
                os.chmod(name, 0o644)
                os.replace(name, target)
        except OSError as error:
            raise AnsibleActionFail(
                f"the acceptance record of {record['host']} could not be written to {folder}: "
                f"{error.strerror}; name another folder in gpu_acceptance_inventory_directory"
            ) from error
        return str(path)

    @staticmethod
    def _refusal(record: dict[str, Any], file: str | None) -> str:
        lines = [f"{record['host']} is not accepted:", *(f"  {text}" for text in record["because"])]
        for line in acceptance.diagnosis_text(record.get("diagnosis")):
            lines.append(f"  {line}")
        if file:
            lines.append(f"Its record: {file}")
        return "\n".join(lines)
