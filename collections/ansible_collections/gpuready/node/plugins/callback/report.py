# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
---
name: report
type: aggregate
short_description: Say what every node came to, on the terminal and in files
version_added: "0.1.0"
description:
  - Follows a run, and if one of its tasks was M(gpuready.node.gpu_plan),
    M(gpuready.node.container_gpu_probe) or M(gpuready.node.gpu_diagnose), ends it with a table of node and
    layer, the cause of every failure, and files under O(artifacts_dir). A page for people (C(report.html)),
    JSON for machines (C(fleet.json) and a file per node), C(junit.xml) for CI, C(fleet.csv) for spreadsheets,
    and the table as C(report.txt).
  - Other runs are left alone. A report that cannot be written is a warning and never fails a run. Results of
    tasks with C(no_log) are not written; passwords within URLs and values of keys named like secrets are
    blotted out.
options:
  artifacts_dir:
    description:
      - Folder for the runs. By default C(artifacts) beside C(site.yml) or, where there is none above the
        playbook, beside the playbook.
    type: path
    env:
      - name: GPUREADY_ARTIFACTS_DIR
    ini:
      - section: gpuready
        key: artifacts_dir
author:
  - gpuready contributors (@gpuready)
requirements:
  - enabled by C(callbacks_enabled) in C(ansible.cfg)
"""

import datetime
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleError
from ansible.plugins.callback import CallbackBase
from ansible.template import Templar
from ansible_collections.gpuready.node.plugins.module_utils import report, stages

PLAN_ACTIONS = {"gpuready.node.gpu_plan"}
PROBE_ACTIONS = {"gpuready.node.container_gpu_probe"}
DIAGNOSE_ACTIONS = {"gpuready.node.gpu_diagnose"}
ACCEPTANCE_ACTIONS = {"gpuready.node.gpu_acceptance"}

#: Run on the controller, however many nodes they are for.
CONTROLLER_ACTIONS = {
    "add_host",
    "assert",
    "debug",
    "fail",
    "group_by",
    "import_playbook",
    "import_role",
    "import_tasks",
    "include_role",
    "include_tasks",
    "include_vars",
    "meta",
    "pause",
    "set_fact",
    "set_stats",
    "validate_argument_spec",
}
#: Their messages are written for people and stand alone.
SPEAKING_ACTIONS = {"assert", "container_gpu_probe", "fail", "gpu_diagnose", "gpu_plan"}
#: Action plugins that call two modules each time: `stat`, then `copy` or `file`.
TWO_MODULES = {"assemble", "copy", "template"}
#: apt's own count of what it is about to do, in the words of apt-get and, from 3.0 on, of apt.
APT_SUMMARY = re.compile(
    r"^(?:(?P<old>\d+ (?:packages )?upgraded, \d+ newly installed, .*?\d+ to remove)"
    r"|\s*(?P<new>Upgrading: \d+, Installing: \d+, .*?Removing: \d+))",
    re.M,
)
#: Set by the playbooks once the former driver's packages are back: {from, to, why}.
ROLLED_BACK_FACT = "__gpuready_rolled_back"
#: Names a file that gets the path of the run's folder.
POINTER = "GPUREADY_REPORT_POINTER"

STATUS_COLOURS = {
    "verified": C.COLOR_OK,
    "provisioned": C.COLOR_OK,
    "planned": C.COLOR_CHANGED,
    "reboot_pending": C.COLOR_CHANGED,
    "rolled_back": C.COLOR_ERROR,
    "conflict": C.COLOR_ERROR,
    "failed": C.COLOR_ERROR,
    "healthy": C.COLOR_OK,
    "cause_found": C.COLOR_ERROR,
    "unknown": C.COLOR_WARN,
    "unreachable": C.COLOR_UNREACHABLE,
}


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def _speaks_unicode(stream: Any) -> bool:
    """Whether the stream can carry the check marks, and the terminal is likely to draw them."""
    if os.environ.get("TERM") == "linux":  # the text console's font has none
        return False
    try:
        "".join([*report.SYMBOLS.values(), report.PENDING_SYMBOL]).encode(
            getattr(stream, "encoding", None) or "ascii"
        )
    except (LookupError, UnicodeEncodeError):
        return False
    return True


class CallbackModule(CallbackBase):
    """Collect what the tasks returned; write and print it when the run ends."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "gpuready.node.report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._started = _now()
        self._clock = time.monotonic()
        self._playbook = Path("run.yml")
        self._relevant = False
        self._records: dict[str, dict[str, Any]] = {}
        self._hosts: dict[str, Any] = {}
        self._expected: set[str] = set()
        self._variables: Any = None
        #: Per host: the running task, and since when it runs.
        self._running: dict[str, tuple[str, float]] = {}

    # --- events -------------------------------------------------------------------------------------------

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._playbook = Path(playbook._file_name)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._variables = play.get_variable_manager()
        # Of a play in batches this is called for each of them; all of them are meant here.
        hosts = self._variables._inventory.get_hosts(play.hosts, ignore_restrictions=True)
        self._expected.update(host.get_name() for host in hosts if not host.implicit)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        if self._action(task) in PLAN_ACTIONS | PROBE_ACTIONS | DIAGNOSE_ACTIONS:
            self._relevant = True

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self._running[host.get_name()] = (task._uuid, time.monotonic())

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._clock_out(result)

    def v2_runner_on_ok(self, result: Any) -> None:
        record = self._count(result)
        if self._is_hidden(result):
            return
        action = self._action(result.task)
        if action in PLAN_ACTIONS:
            self._take_plan(record, result.result)
        elif action in PROBE_ACTIONS:
            self._take_verifications(record, result.result)
        elif action in DIAGNOSE_ACTIONS:
            self._take_diagnosis(record, result.result)
        elif action in ACCEPTANCE_ACTIONS:
            self._take_acceptance(record, result.result)
        elif action.rpartition(".")[2] == "set_fact":
            self._take_rollback(record, result.result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        record = self._count(result)
        if not self._is_hidden(result):
            if self._action(result.task) in PROBE_ACTIONS:
                self._take_verifications(record, result.result)
            elif self._action(result.task) in DIAGNOSE_ACTIONS:
                self._take_diagnosis(record, result.result)
            elif self._action(result.task) in ACCEPTANCE_ACTIONS:
                self._take_acceptance(record, result.result)
        if not ignore_errors:
            record["failed"] = True
            record["error"] = self._cause(result)
            record["error_stage"] = self._stage(result.task)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        record = self._record(result.host)
        self._clock_out(result)
        record["unreachable"] = True
        record["error"] = self._cause(result)
        record["error_stage"] = self._stage(result.task)

    def v2_runner_retry(self, result: Any) -> None:
        # The last try arrives as ok or failed; every earlier one was an execution too.
        self._record(result.host)["module_executions"] += self._executions(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if not self._relevant:
            return
        # The controller's own part of a run is no node, unless it is what went wrong.
        self._records = {
            host: record
            for host, record in self._records.items()
            if record["failed"] or not self._hosts[host].implicit
        }
        for host, record in self._records.items():
            # What a rescue or ignore_unreachable has forgiven is no longer a failure of the host.
            record["failed"] = record["failed"] and bool(stats.failures.get(host))
            record["unreachable"] = record["unreachable"] and bool(stats.dark.get(host))
            if not record["failed"] and not record["unreachable"]:
                record["error"] = None
        self._report()

    # --- collecting ---------------------------------------------------------------------------------------

    def _record(self, host: Any) -> dict[str, Any]:
        name = host.get_name()
        if name in self._records:
            return self._records[name]
        self._hosts[name] = host
        return self._records.setdefault(
            name,
            {
                "host": name,
                "address": None,
                "groups": [],
                "simulated": False,
                "gpu_stack": None,
                "plan": None,
                "first_gpu_stack": None,
                "first_plan": None,
                "observations": 0,
                "text": "",
                "verification": [],
                "diagnosis": None,
                "diagnosed": False,
                "facts": None,
                "screen": "",
                "changed_tasks": [],
                "driver_before": None,
                "rolled_back": None,
                "reloads": 0,
                "reboots": 0,
                "module_executions": 0,
                "apt_transactions": 0,
                "apt_transactions_by_role": {},
                "failed": False,
                "unreachable": False,
                "timings": {},
                "tasks": [],
                "acceptance": None,
                "acceptance_text": "",
                "error": None,
                "error_stage": None,
            },
        )

    @staticmethod
    def _action(task: Any) -> str:
        return str(getattr(task, "resolved_action", None) or task.action)

    @classmethod
    def _stage(cls, task: Any) -> str:
        role = getattr(task, "_role", None)
        return stages.stage_of(
            str(role.get_name()).rpartition(".")[2] if role is not None else None, cls._action(task)
        )

    def _clock_out(self, result: Any, *, ran: bool = False) -> None:
        """The host's task has ended: its time is its stage's. A stage in which nothing ran is none."""
        name = result.host.get_name()
        task, since = self._running.pop(name, ("", 0.0))
        if task != result.task._uuid:
            return
        record, stage = self._record(result.host), self._stage(result.task)
        if not ran and stage not in record["timings"]:
            return
        spent = time.monotonic() - since
        record["timings"][stage] = record["timings"].get(stage, 0.0) + spent
        if spent >= report.SLOW_SECONDS:
            record["tasks"].append((result.task_name, stage, spent))

    @staticmethod
    def _is_hidden(result: Any) -> bool:
        return bool(result.task.no_log is True or "censored" in result.result)

    @staticmethod
    def _items(result: Any) -> list[dict[str, Any]]:
        """The results of the loop's items, or the one result."""
        items = result.result.get("results")
        if result.task.loop is not None and isinstance(items, list):
            return [item for item in items if isinstance(item, dict)]
        return [result.result]

    def _executions(self, result: Any) -> int:
        """How many modules this result stands for on the node. An estimate: tests/bench counts exactly."""
        action = self._action(result.task).rpartition(".")[2]
        if action in CONTROLLER_ACTIONS or result.task.delegate_to in ("localhost", "127.0.0.1"):
            return 0
        ran = sum(1 for item in self._items(result) if not item.get("skipped"))
        return ran * (2 if action in TWO_MODULES else 1)

    def _count(self, result: Any) -> dict[str, Any]:
        record = self._record(result.host)
        speaks_only = self._action(result.task).rpartition(".")[2] in CONTROLLER_ACTIONS
        self._clock_out(result, ran=not speaks_only or result.is_failed())
        record["module_executions"] += self._executions(result)
        if result.is_changed():
            record["changed_tasks"].append(result.task_name)
            if not self._is_hidden(result):
                count = sum(self._apt_transactions(item) for item in self._items(result))
                record["apt_transactions"] += count
                role = getattr(result.task, "_role", None)
                if count and role is not None:
                    by_role = record["apt_transactions_by_role"]
                    name = str(role.get_name()).rpartition(".")[2]
                    by_role[name] = by_role.get(name, 0) + count
        return record

    @staticmethod
    def _apt_transactions(item: dict[str, Any]) -> int:
        """How many runs of apt put packages on the node: the module's own count, or apt's summary line."""
        if isinstance(item.get("apt_transactions"), int):
            return int(item["apt_transactions"])
        said = APT_SUMMARY.finditer(str(item.get("stdout") or ""))
        return sum(1 for match in said if any(int(number) for number in re.findall(r"\d+", match.group(0))))

    def _take_plan(self, record: dict[str, Any], answer: dict[str, Any]) -> None:
        plan = answer.get("plan")
        if not isinstance(plan, dict):
            return
        first = record["plan"] is None
        record["observations"] += 1
        if first:
            began = {"status": plan.get("status"), "actions": plan.get("actions")}
            record.update(first_gpu_stack=report.glimpse(answer.get("gpu_stack")), first_plan=began)
        self._compare(record, answer.get("gpu_stack"))
        record.update(gpu_stack=answer.get("gpu_stack"), plan=plan, text=str(answer.get("text") or ""))
        record["simulated"] = bool(plan.get("simulated"))
        if first and not self._planning and plan.get("status") == "changes":
            self._display.display(f"{record['host']}: {len(plan['actions'])} to do")
            for action in plan["actions"]:
                self._display.display(f"    {action['id']}: {action['summary']}")

    @staticmethod
    def _compare(record: dict[str, Any], seen: Any) -> None:
        """What became of the driver since the observation before: reloaded, or rebooted."""
        if not isinstance(seen, dict):
            return
        loaded = (seen.get("driver") or {}).get("loaded")
        last = record["gpu_stack"]
        if not isinstance(last, dict):
            record["driver_before"] = loaded
            return
        boots = (last.get("host") or {}).get("boot_id"), (seen.get("host") or {}).get("boot_id")
        before = (last.get("driver") or {}).get("loaded")
        if all(boots) and boots[0] != boots[1]:
            record["reboots"] += 1
        elif before and loaded and any(before.get(key) != loaded.get(key) for key in ("version", "flavour")):
            record["reloads"] += 1

    @staticmethod
    def _take_rollback(record: dict[str, Any], answer: dict[str, Any]) -> None:
        """The former driver is back. What was verified until then was the rejected one."""
        told = (answer.get("ansible_facts") or {}).get(ROLLED_BACK_FACT)
        if isinstance(told, dict):
            record["rolled_back"] = {
                **{key: told.get(key) for key in ("from", "to", "why")},
                "verification": record["verification"],
            }
            record["verification"] = []
            record["diagnosis"] = None

    def _take_verifications(self, record: dict[str, Any], answer: dict[str, Any]) -> None:
        items = answer.get("results") if isinstance(answer.get("results"), list) else [answer]
        for item in items or []:
            verification = item.get("verification") if isinstance(item, dict) else None
            if isinstance(verification, dict):
                record["verification"].append(verification)
                record["simulated"] = record["simulated"] or bool(verification.get("simulated"))
                # The first failure's, which is what the others may follow from.
                if isinstance(item.get("diagnosis"), dict) and record["diagnosis"] is None:
                    record["diagnosis"] = item["diagnosis"]

    def _take_diagnosis(self, record: dict[str, Any], answer: dict[str, Any]) -> None:
        if not isinstance(answer.get("diagnosis"), dict):
            return
        if isinstance(answer.get("plan"), dict):
            self._take_plan(record, answer)
        record.update(
            diagnosis=answer["diagnosis"],
            diagnosed=True,
            facts=answer.get("facts"),
            screen=str(answer.get("text") or ""),
            simulated=bool(answer["diagnosis"].get("simulated")),
        )
        for verification in answer.get("verifications") or []:
            if verification not in record["verification"]:
                record["verification"].append(verification)

    @staticmethod
    def _take_acceptance(record: dict[str, Any], answer: dict[str, Any]) -> None:
        if isinstance(answer.get("acceptance"), dict):
            record["acceptance"] = answer["acceptance"]
            record["acceptance_text"] = str(answer.get("text") or "")

    def _cause(self, result: Any) -> str:
        """What a person needs to read of a failure; never of one that is hidden."""
        task = result.task_name
        if self._is_hidden(result):
            return f"{task}: failed; its output is hidden (no_log)"
        causes = []
        for item in self._items(result):
            if item is not result.result and not item.get("failed"):
                continue
            said = str(item.get("msg") or "").strip()
            stderr = str(item.get("stderr") or item.get("module_stderr") or "").strip()
            if stderr and stderr not in said:
                said = "\n".join(part for part in (said, *stderr.splitlines()[-10:]) if part)
            causes.append(said)
        said = "\n".join(cause for cause in causes if cause)
        if said and self._action(result.task).rpartition(".")[2] in SPEAKING_ACTIONS:
            return said
        return f"{task}: {said or 'failed without a message'}"

    # --- reporting ----------------------------------------------------------------------------------------

    @property
    def _check_mode(self) -> bool:
        return bool((context.CLIARGS or {}).get("check"))

    @property
    def _planning(self) -> bool:
        return self._check_mode or self._playbook.stem == "plan"

    def _artifacts(self) -> Path:
        chosen = self.get_option("artifacts_dir")
        if chosen:
            return Path(chosen)
        folder = self._playbook.absolute().parent
        root = next((above for above in (folder, *folder.parents) if (above / "site.yml").is_file()), folder)
        return root / "artifacts"

    def _locate(self, host: str) -> None:
        """The node's address and groups, as the inventory has them."""
        record, known = self._records[host], self._hosts[host]
        groups = (group.get_name() for group in known.get_groups())
        # Private ones are a playbook's marks.
        record["groups"] = sorted(
            name for name in groups if name not in ("all", "ungrouped") and not name.startswith("__")
        )
        address = known.vars.get("ansible_host")
        if address is None or "{{" in str(address):
            # In a file of host variables, or made of others.
            variables = self._variables.get_vars(host=known, include_hostvars=False)
            try:
                address = Templar(loader=None, variables=variables).template(variables.get("ansible_host"))
            except AnsibleError:
                address = None
        record["address"] = str(address) if address else host

    def _report(self) -> None:
        for host in self._records:
            self._locate(host)
        run = report.run_name(self._started, self._playbook.name)
        nodes = [
            report.node_document(self._records[host], run, planning=self._planning)
            for host in sorted(self._records)
        ]
        finished = _now()
        fleet = report.fleet_document(
            nodes,
            run=run,
            playbook=self._playbook.name,
            started=self._started.isoformat(timespec="seconds"),
            finished=finished.isoformat(timespec="seconds"),
            seconds=time.monotonic() - self._clock,
            check_mode=self._check_mode,
            not_run=self._expected,
        )
        # A failure's text is printed as the node's error; a healthy node has its screen here.
        plans = {
            host: record["screen"] if record["diagnosed"] else record["text"]
            for host, record in sorted(self._records.items())
            if (record["diagnosed"] and not record["failed"]) or (self._planning and not record["diagnosed"])
        }
        where = None
        try:
            where = report.write_run(
                self._artifacts(),
                run,
                nodes,
                fleet,
                report.report_text(nodes, fleet, plans),
                acceptances={
                    host: (record["acceptance"], record["acceptance_text"])
                    for host, record in self._records.items()
                    if record["acceptance"]
                },
            )
            # gpuready.runs finds its own run by it, whatever else writes there meanwhile.
            if pointer := os.environ.get(POINTER):
                Path(pointer).write_text(str(where.absolute()), encoding="utf-8")
        except OSError as error:
            self._display.warning(f"the report could not be written to {self._artifacts()}: {error}")
        self._print(nodes, fleet, plans, where)

    def _print(
        self, nodes: list[dict[str, Any]], fleet: dict[str, Any], plans: dict[str, str], where: Path | None
    ) -> None:
        unicode = _speaks_unicode(sys.stdout)
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        show = self._display.display
        self._display.banner("GPUREADY")
        for text in plans.values():
            if text:
                # Two, since display takes one for the end of the line: an empty line parts the nodes.
                show((text if unicode else text.encode("ascii", "replace").decode()).rstrip() + "\n\n")
        for line, status in report.table(nodes, unicode=unicode, columns=columns):
            show(line, color=STATUS_COLOURS.get(status))
        for line, status in report.problems(nodes):
            show(line, color=STATUS_COLOURS.get(status))
        notices = report.notices(nodes)
        if notices:
            show("")
        for line in notices:
            show(line, color=C.COLOR_WARN)
        show("")
        show(report.summary(fleet))
        if where is not None:
            try:
                shown: Path = where.relative_to(Path.cwd())
            except ValueError:
                shown = where
            show(
                f"Report: {shown}/report.html; fleet.json, one file per node, fleet.csv, junit.xml beside it"
            )
        show("")
