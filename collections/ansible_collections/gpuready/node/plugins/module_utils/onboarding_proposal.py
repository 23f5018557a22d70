# Apache-2.0 (see LICENSE)
"""What a new node's entry in the inventory should say: its group, its differences. Pure; controller only.

A group's variables hold for all of it; a host's entry says only what they do not. Each word has its reason.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .hostnames import is_ip
from .inventory_edit import QUARANTINE, SERVICE, Inventory, same
from .wishes import DEFAULT_WISHES

#: What a group may demand and a node of another kind cannot give. Nothing else is ever given up for a node.
DEMANDS = (
    "nvidia_driver_branch",
    "nvidia_driver_version",
    "nvidia_driver_flavour",
    "nvidia_driver_source",
    "docker_engine_version",
    "nvidia_container_toolkit_version",
    "nvidia_container_toolkit_cdi",
    "gpu_verify_launch",
)
#: Words around a model's name in a group's.
AROUND = {"nvidia", "gpu", "gpus", "node", "nodes", "server", "servers", "host", "hosts", "tesla", "geforce"}
# A memory's size tells two variants apart, and names no model.
_SIZE = re.compile(r"\d+(?:gb|g|gib)")


@dataclass
class Proposal:
    """What goes into the inventory, and why."""

    groups: list[dict[str, str]] = field(default_factory=list)
    variables: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def document(self, name: str) -> dict[str, Any]:
        """As it is handed over."""
        return {
            "groups": self.groups,
            "group_names": [group["name"] for group in self.groups],
            "variables": self.variables,
            "variables_dict": {variable["name"]: variable["value"] for variable in self.variables},
            "notes": self.notes,
            "text": self.text(name),
        }

    def text(self, name: str) -> str:
        """For people."""
        lines = [f"{name} in the inventory:"]
        lines += [f"  group {group['name']}: {group['reason']}" for group in self.groups]
        lines += [
            f"  {variable['name']}: {variable['value']!r}: {variable['reason']}"
            for variable in self.variables
        ]
        if not self.variables:
            lines.append("  no variable of its own: the groups say all that it needs")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines) + "\n"


def tokens(text: str) -> list[str]:
    """The words of a model's or a group's name.

    >>> tokens("A100 PCIe 80GB"), tokens("gpu_a100_80gb")
    (['a100', 'pcie', '80gb'], ['gpu', 'a100', '80gb'])
    """
    return re.findall(r"[a-z0-9]+", text.lower())


def group_fits(group: str, gpu: Mapping[str, Any]) -> int:
    """How exactly a group's name says this GPU; 0 = it doesn't.

    >>> gpu = {"name": "A100 PCIe 80GB", "chip": "GA100", "arch": "ampere"}
    >>> [group_fits(group, gpu) for group in ("a100_80gb", "a100", "ga100", "ampere", "a10", "a100_40gb")]
    [4, 3, 2, 1, 0, 0]
    """
    words = [word for word in tokens(group) if word not in AROUND]
    model = [word for word in tokens(str(gpu.get("name") or "")) if word not in AROUND]
    if not words:
        return 0
    if set(words) <= set(model):
        named = [word for word in words if re.search(r"\d", word) and not _SIZE.fullmatch(word)]
        # A name without a number (TITAN V) has to be there as a whole.
        if named or words == model:
            return len(set(words)) + 2
    if "".join(words) == "".join(word for word in model if not _SIZE.fullmatch(word)):
        return len(words) + 2
    if words == [str(gpu.get("chip") or "").lower()]:
        return 2
    if words == [str(gpu.get("arch") or "").lower()]:
        return 1
    return 0


def choose_groups(
    gpus: Sequence[Mapping[str, Any]], asked: Sequence[str], inventory: Inventory | None
) -> list[dict[str, str]]:
    """The groups of a node in service: those asked for, else the one that says its GPUs' model."""
    below = inventory.descendants(SERVICE) if inventory else {SERVICE}
    order = [group for group in (inventory.groups if inventory else []) if group in below]
    chosen = [{"name": group, "reason": "asked for"} for group in dict.fromkeys(asked)]
    if any(group["name"] in below | {SERVICE} for group in chosen):
        return chosen
    names = sorted({str(gpu.get("name") or gpu.get("device_id") or "unknown") for gpu in gpus})
    what = f"{len(gpus)} x {names[0]}" if len(names) == 1 else ", ".join(names)
    best: tuple[int, str] | None = None
    for group in order:
        if group == SERVICE:
            continue
        fits = min((group_fits(group, gpu) for gpu in gpus), default=0)
        if fits and (best is None or fits > best[0]):
            best = (fits, group)
    if best:
        return [{"name": best[1], "reason": f"its GPUs are {what}, which that group is for"}, *chosen]
    reason = (
        f"no group below it is named for its GPUs ({what})"
        if len(order) > 1
        else "where GPU nodes in service are"
    )
    return [{"name": SERVICE, "reason": reason}, *chosen]


def connection_variables(
    name: str, connection: Mapping[str, Any], group_variables: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """How the node is reached, as far as its groups do not say so."""
    found = []
    for variable, value in connection.items():
        if value is None or value == "":
            continue
        if variable in group_variables and str(group_variables[variable]) == str(value):
            continue
        reason = "the groups say " + (
            f"{group_variables[variable]!r}" if variable in group_variables else "nothing about it"
        )
        if variable == "ansible_host":
            if str(value) == name and "ansible_host" not in group_variables:
                continue
            reason = "its name is not its address" if str(value) != name else reason
        elif variable == "ansible_port":
            value = int(value)
            if value == 22 and variable not in group_variables:
                continue
            reason = "not SSH's usual port" if variable not in group_variables else reason
        found.append({"name": variable, "value": value, "reason": reason})
    return found


def demands_to_drop(
    plan: Callable[[Mapping[str, Any]], Mapping[str, Any]], wishes: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The fewest of the groups' demands that this node cannot meet, and the conflicts that stay anyhow.

    ``plan``: the planner, for this node's observation.
    """
    first = plan(wishes)
    if first["status"] != "conflict":
        return [], []
    demands = [name for name in DEMANDS if name in wishes and not same(wishes[name], DEFAULT_WISHES[name])]
    for count in (1, 2):
        for some in itertools.combinations(demands, count):
            if plan({**wishes, **{name: DEFAULT_WISHES[name] for name in some}})["status"] != "conflict":
                why = "; ".join(conflict["what"] for conflict in first["conflicts"])
                return [
                    {
                        "name": name,
                        "value": DEFAULT_WISHES[name],
                        "reason": f"its groups demand {wishes[name]!r}, and then: {why}",
                    }
                    for name in some
                ], []
    return [], [str(conflict["what"]) for conflict in first["conflicts"]]


def propose(
    *,
    name: str,
    observed: Mapping[str, Any],
    asked: Sequence[str],
    inventory: Inventory | None,
    connection: Mapping[str, Any],
    variables: Mapping[str, Any],
    group_variables: Callable[[Sequence[str]], Mapping[str, Any]],
    plan: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> Proposal:
    """The entry for a node that was observed.

    ``connection``: how it is reached; ``variables``: the asset list's; ``group_variables``: what a host in
    these groups would have; ``plan``: the planner for this observation, of wishes.
    """
    if QUARANTINE in asked:
        raise ValueError(
            f"groups: a node comes out of {QUARANTINE} by being accepted; name the group it will be in"
        )
    gpus = list((observed.get("host") or {}).get("gpus") or [])
    proposal = Proposal(groups=choose_groups(gpus, asked, inventory))
    theirs = group_variables([group["name"] for group in proposal.groups])
    proposal.variables = connection_variables(name, connection, theirs)
    for variable, value in variables.items():
        if variable not in theirs or not same(theirs[variable], value):
            said = (
                f"the groups say {theirs[variable]!r}"
                if variable in theirs
                else "the groups say nothing about it"
            )
            proposal.variables.append(
                {"name": variable, "value": value, "reason": f"asked for with the node; {said}"}
            )
    wishes = {key: value for key, value in {**theirs, **variables}.items() if key in DEFAULT_WISHES}
    dropped, left = demands_to_drop(plan, {**DEFAULT_WISHES, **wishes})
    own = [drop for drop in dropped if drop["name"] in variables]
    if own:
        # What was asked for with the node itself is not overruled.
        left = [drop["reason"] for drop in own]
    else:
        proposal.variables += dropped
    proposal.notes += [f"no variable mends this: {conflict}" for conflict in left]
    models = {str(gpu.get("name") or gpu.get("device_id")) for gpu in gpus}
    if len(models) > 1:
        proposal.notes.append(f"its GPUs are of several models: {', '.join(sorted(models))}")
    unknown = sorted(
        {f"{gpu.get('vendor_id')}:{gpu.get('device_id')}" for gpu in gpus if not gpu.get("chip")}
    )
    if unknown:
        proposal.notes.append(f"the catalog does not know its GPU {', '.join(unknown)}")
    if is_ip(name):
        hostname = (observed.get("host") or {}).get("hostname")
        if hostname and hostname not in ("localhost", name):
            proposal.notes.append(
                f"it calls itself {hostname}; it would be called so in the inventory with "
                f"-e node={hostname}={connection.get('ansible_host') or name}"
            )
    return proposal
