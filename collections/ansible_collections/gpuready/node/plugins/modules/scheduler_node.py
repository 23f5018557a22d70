#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: scheduler_node
short_description: Takes a node out of Slurm's or Kubernetes' service, and puts it back
version_added: "0.6.0"
description:
  - Runs where the scheduler's own program is, C(scontrol) or C(kubectl), and goes by what that program says
    of the node.
  - In Slurm the node is drained with a reason, which gives it no new jobs, and its jobs are waited for. In
    Kubernetes it is cordoned and its pods are evicted, as C(kubectl drain) does.
  - A node that is as asked for already is not touched.
options:
  scheduler:
    description: Whose node it is.
    type: str
    choices: [slurm, kubernetes]
    required: true
  node:
    description: The node's name there. Either this or O(selector).
    type: str
  selector:
    description: Kubernetes only - a label selector that holds for this node alone, instead of its name.
    type: str
  state:
    description:
      - V(drained) takes the node out of service and returns when the scheduler has nothing on it any more.
      - V(resumed) puts it back.
      - V(seen) only asks how it is.
    type: str
    choices: [seen, drained, resumed]
    default: seen
  reason:
    description: Why it is drained, for whoever looks. Slurm wants one; Kubernetes keeps none.
    type: str
    default: gpuready
  wait_seconds:
    description: How long its jobs or pods may take to be gone, in seconds.
    type: int
    default: 3600
  interval_seconds:
    description: The time between two looks, in seconds, 0.2 to 600.
    type: float
    default: 10.0
  command:
    description:
      - The program and what goes before its verb, as a list of words, to name a path, a context or a
        configuration file. By default C(scontrol) or C(kubectl).
    type: list
    elements: str
    default: []
  pod_selector:
    description: Kubernetes only - a label selector for the pods that are evicted; all of them by default.
    type: str
  drain_arguments:
    description: Kubernetes only - further arguments of C(kubectl drain).
    type: list
    elements: str
    default: [--ignore-daemonsets, --delete-emptydir-data]
attributes:
  check_mode:
    description: Asks the scheduler, changes nothing, and tells whether it would.
    support: full
  diff_mode:
    description: Shows the node's state before and after.
    support: full
  idempotent:
    description: A node that is as asked for is not touched.
    support: full
  platform:
    description: Linux.
    support: full
    platforms: linux
author:
  - gpuready contributors (@gpuready)
"""

EXAMPLES = r"""
- name: Drain a node in Slurm
  gpuready.node.scheduler_node:
    scheduler: slurm
    node: "{{ inventory_hostname }}"
    state: drained
    reason: new driver
  delegate_to: slurm-controller

- name: Put it back
  gpuready.node.scheduler_node:
    scheduler: kubernetes
    selector: "kubernetes.io/hostname={{ inventory_hostname }}"
    state: resumed
    command: [kubectl, --context, production]
  delegate_to: localhost
  become: false
"""

RETURN = r"""
node:
  description: The node's name in the scheduler.
  returned: success
  type: str
  sample: gpu01
before:
  description:
    - How the scheduler had it. C(drained) means that it is given nothing, whatever the cause; C(busy) that
      jobs are on it; C(responding) that its agent answers; C(state) and C(reason) are the scheduler's own
      words.
  returned: success
  type: dict
  sample: {drained: false, busy: true, responding: true, state: MIXED, reason: null}
after:
  description: How the scheduler has it now (in check mode, as before).
  returned: success
  type: dict
  sample: {drained: true, busy: false, responding: true, state: IDLE+DRAIN, reason: "new driver [root@17:00]"}
waited_seconds:
  description: How long the jobs or pods took to be gone, in seconds.
  returned: success
  type: float
  sample: 40.2
"""

import time
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import scheduler

#: How long the scheduler's agent may take to answer after a reboot, before the node is put back all the same.
RESPONSE_SECONDS = 120.0
PROGRAMS = {"slurm": "scontrol", "kubernetes": "kubectl"}


class Scheduler:
    """One node, as a scheduler has it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        asked = module.params
        self.name: str = asked["node"] or ""
        self.kind: str = asked["scheduler"]
        self.program: List[str] = asked["command"] or [PROGRAMS[self.kind]]

    def run(self, *words: str) -> str:
        """What the program said; whatever it complains of ends the module."""
        argv = [*self.program, *words]
        rc, out, err = self.module.run_command(argv, handle_exceptions=False)
        said = (err.strip() or out.strip())[-2000:]
        # scontrol tells of an unknown node on standard output.
        if rc != 0:
            self.module.fail_json(
                msg="%s of node %s: `%s` ended with %d: %s"
                % (self.kind.capitalize(), self.label, " ".join(argv), rc, said or "it said nothing"),
                rc=rc,
                cmd=argv,
            )
        return out

    @property
    def label(self) -> str:
        """The node in messages."""
        return self.name or "with %s" % self.module.params["selector"]

    def look(self) -> Dict[str, Any]:
        """How the scheduler has the node."""
        try:
            if self.kind == "slurm":
                return scheduler.slurm_node(self.run("--oneliner", "show", "node", self.name))
            which = ["--selector", self.module.params["selector"]] if not self.name else [self.name]
            found = scheduler.kubernetes_node(
                self.run("get", "nodes", *which, "--output", "json"), "The node %s" % self.label
            )
        except scheduler.SchedulerError as error:
            self.module.fail_json(msg="%s." % error)
        self.name = found.pop("name")
        return found

    def drain(self, seen: Dict[str, Any]) -> None:
        """Give the node nothing new, and let what is on it end."""
        asked = self.module.params
        if self.kind == "slurm":
            if not seen["drained"]:
                self.run("update", "NodeName=%s" % self.name, "State=DRAIN", "Reason=%s" % asked["reason"])
            self.wait_for_jobs()
            return
        pods = ["--pod-selector", asked["pod_selector"]] if asked["pod_selector"] else []
        limit = "--timeout=%ds" % max(1, asked["wait_seconds"])
        self.run("drain", self.name, *asked["drain_arguments"], limit, *pods)

    def wait_for_jobs(self) -> None:
        """Slurm's jobs on the node, until there are none."""
        asked = self.module.params
        deadline = time.monotonic() + asked["wait_seconds"]
        while True:
            seen = self.look()
            if not seen["busy"]:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                self.module.fail_json(
                    msg="Slurm still has jobs on node %s after %d s (State=%s): see `squeue --nodelist %s`."
                    % (self.name, asked["wait_seconds"], seen["state"], self.name),
                    after=seen,
                )
            time.sleep(min(asked["interval_seconds"], left))

    def resume(self) -> None:
        """Put it back."""
        if self.kind == "slurm":
            # Slurm takes a node down again whose slurmd comes back from a reboot after it was resumed.
            deadline = time.monotonic() + min(self.module.params["wait_seconds"], RESPONSE_SECONDS)
            while not self.look()["responding"] and time.monotonic() < deadline:
                time.sleep(min(self.module.params["interval_seconds"], 2.0))
            self.run("update", "NodeName=%s" % self.name, "State=RESUME")
        else:
            self.run("uncordon", self.name)


def _check(module: AnsibleModule) -> None:
    asked = module.params
    if asked["scheduler"] == "slurm":
        for name in ("selector", "pod_selector"):
            if asked[name]:
                module.fail_json(msg="%s is %r, and Slurm has no labels." % (name, asked[name]))
        if not asked["node"]:
            module.fail_json(msg="node is missing; give the node's name in Slurm.")
    elif bool(asked["node"]) == bool(asked["selector"]):
        module.fail_json(msg="Give either node or selector, to say which node of the cluster is meant.")
    # A name that begins with a dash would be read as an option.
    for name in ("node", "selector", "pod_selector"):
        if (asked[name] or "").startswith("-"):
            module.fail_json(msg="%s is %r, which would be an option of the program." % (name, asked[name]))
    if asked["wait_seconds"] < 0:
        module.fail_json(
            msg="wait_seconds is %d; give a number of seconds that is not below 0." % asked["wait_seconds"]
        )
    if not 0.2 <= asked["interval_seconds"] <= 600:
        module.fail_json(msg="interval_seconds is %g; give 0.2 to 600 seconds." % asked["interval_seconds"])
    if asked["state"] == "drained" and not asked["reason"].strip():
        module.fail_json(msg="reason is empty; say why the node is drained.")


def _diff(kind: str, name: str, before: Dict[str, Any], after: Dict[str, Any]) -> Dict[str, str]:
    def text(seen: Dict[str, Any]) -> str:
        return "".join("%s: %s\n" % (key, seen[key]) for key in ("state", "reason") if seen[key] is not None)

    header = "%s node %s" % (kind, name)
    return {"before_header": header, "after_header": header, "before": text(before), "after": text(after)}


def _apply(module: AnsibleModule, node: Scheduler) -> Tuple[bool, Dict[str, Any], Dict[str, Any], float]:
    before = node.look()
    wanted = module.params["state"]
    if wanted == "seen":
        return False, before, before, 0.0
    changed = before["drained"] != (wanted == "drained")
    if module.check_mode:
        return changed, before, before, 0.0
    started = time.monotonic()
    if wanted == "drained":
        # Also where it is drained already: its jobs or pods may not be gone yet.
        node.drain(before)
    elif changed:
        node.resume()
    waited = time.monotonic() - started
    after = node.look() if changed or wanted == "drained" else before
    if after["drained"] != (wanted == "drained"):
        module.fail_json(
            msg="%s did what it was asked, and yet node %s is not %s: its state is %s%s."
            % (
                node.program[0],
                node.label,
                "drained" if wanted == "drained" else "back in service",
                after["state"],
                " (%s)" % after["reason"] if after["reason"] else "",
            )
        )
    return changed, before, after, waited


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "scheduler": {"type": "str", "choices": ["slurm", "kubernetes"], "required": True},
            "node": {"type": "str"},
            "selector": {"type": "str"},
            "state": {"type": "str", "choices": ["seen", "drained", "resumed"], "default": "seen"},
            "reason": {"type": "str", "default": "gpuready"},
            "wait_seconds": {"type": "int", "default": 3600},
            "interval_seconds": {"type": "float", "default": 10.0},
            "command": {"type": "list", "elements": "str", "default": []},
            "pod_selector": {"type": "str"},
            "drain_arguments": {
                "type": "list",
                "elements": "str",
                "default": ["--ignore-daemonsets", "--delete-emptydir-data"],
            },
        },
        supports_check_mode=True,
    )
    _check(module)
    node = Scheduler(module)
    program = node.program[0]
    try:
        changed, before, after, waited = _apply(module, node)
    except OSError as error:
        module.fail_json(
            msg="%s cannot be run here: %s. Run this where %s's commands are, or name the program's path."
            % (program, error.strerror or error, node.kind.capitalize())
        )
    module.exit_json(
        changed=changed,
        node=node.name,
        before=before,
        after=after,
        waited_seconds=round(waited, 1),
        diff=_diff(node.kind, node.name, before, after) if changed else {},
    )


if __name__ == "__main__":
    main()
