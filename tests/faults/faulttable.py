"""The table of faults (faults.yml), checked when it is read, and the README's table made from it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
TABLE = HERE / "faults.yml"
RECORDED = HERE / "recorded"
README = HERE / "README.md"

LAYERS = ("host", "container_runtime", "framework", "application")
REPAIRS = ("safe", "reboot", "manual")
#: Where a transcript is diagnosed, no node is needed.
TEXT = "text"
NODE_KEYS = {"gpus", "os", "arguments", "standing", "converged", "workload", "like"}
WAITS = ("", "exited", "printed")


class TableError(ValueError):
    """What is wrong in faults.yml, and where."""


@dataclass(frozen=True)
class Fault:
    """One row: what is injected, and what the diagnosis must say."""

    id: str
    injects: str
    cause: str
    layer: str
    repair: str
    node: str
    #: node: asked of the node; container: of a user's container; text: of what a command says; recorded
    how: str
    inject: str = ""
    hardware: dict[str, Any] = field(default_factory=dict)
    reboot: bool = False
    then: str = ""
    undo: str = ""
    reboot_after: bool = False
    options: str = ""
    container: str = ""
    wait: str = ""
    says: str = ""
    transcript: str = ""
    wishes: dict[str, Any] = field(default_factory=dict)
    provision_first: dict[str, Any] | None = None
    keys: str = ""
    stub: bool = False
    group: str = ""
    repaired: str = ""
    #: Why no run repairs this one, though its cause is one that runs repair.
    by_hand: str = ""

    @property
    def container_name(self) -> str:
        """The user's container that is asked about; empty without one."""
        return f"fault-{self.id}" if self.container else ""

    @property
    def repaired_by_a_run(self) -> bool:
        """Whether a test lets site.yml's main part repair it."""
        return bool(self.group or self.repaired)


@dataclass(frozen=True)
class NodeProfile:
    """A node on which some of the faults are injected."""

    name: str
    gpus: str
    os: str
    arguments: tuple[str, ...]
    standing: str
    converged: bool
    workload: str
    #: Plays the pairs of that node's faults, on a node of its own of the same kind.
    like: str = ""


@dataclass(frozen=True)
class Table:
    """All of faults.yml."""

    nodes: dict[str, NodeProfile]
    functions: str
    faults: dict[str, Fault]
    pairs: tuple[tuple[Fault, Fault], ...]
    incompatible: tuple[tuple[frozenset[str], str], ...]

    def of(self, node: str) -> list[Fault]:
        """A node's faults, in order."""
        return [fault for fault in self.faults.values() if fault.node == node]

    def node_of_pairs(self, node: str) -> str:
        """Where pairs of a node's faults are played."""
        return next((profile.name for profile in self.nodes.values() if profile.like == node), node)

    def groups(self, node: str) -> dict[str, list[Fault]]:
        """A node's faults that one run repairs together."""
        found: dict[str, list[Fault]] = {}
        for fault in self.of(node):
            if fault.group:
                found.setdefault(fault.group, []).append(fault)
        return found


def _fault(row: Any, nodes: dict[str, NodeProfile]) -> Fault:
    where = f"fault {row.get('id', row)!r}" if isinstance(row, dict) else f"fault {row!r}"
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise TableError(f"{where}: a fault is a mapping with an id")
    unknown = set(row) - {entry.name for entry in fields(Fault)}
    if unknown:
        raise TableError(f"{where}: unknown keys: {', '.join(sorted(unknown))}")
    missing = {"injects", "cause", "layer", "repair", "node"} - set(row)
    if missing:
        raise TableError(f"{where}: without {', '.join(sorted(missing))}")
    for key, allowed in (("layer", LAYERS), ("repair", REPAIRS), ("node", (*nodes, TEXT)), ("wait", WAITS)):
        if row.get(key, "") not in (*allowed, *([""] if key == "wait" else [])):
            raise TableError(f"{where}: {key} is {row[key]!r}, not one of {', '.join(allowed)}")
    how = row.get("how") or (
        "recorded" if row.get("transcript") else "container" if row.get("container") else "node"
    )
    if how == "recorded" and not (RECORDED / row["transcript"]).is_file():
        raise TableError(f"{where}: there is no transcript {row['transcript']!r} in {RECORDED.name}/")
    if (how == "recorded") != (row["node"] == TEXT):
        raise TableError(f"{where}: a recorded fault needs no node, and any other needs one")
    injected = any(row.get(key) for key in ("inject", "hardware", "container", "transcript"))
    if not injected:
        raise TableError(f"{where}: nothing is injected")
    repaired = bool(row.get("group") or row.get("repaired"))
    if repaired and row["repair"] == "manual":
        raise TableError(f"{where}: what a person must repair (manual) is in no run's group")
    return Fault(**{**row, "how": how})


def load() -> Table:
    """The table, or the first thing that is wrong in it."""
    data = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    nodes: dict[str, NodeProfile] = {}
    for name, row in data["nodes"].items():
        if set(row) - NODE_KEYS:
            raise TableError(f"node {name}: unknown keys: {', '.join(sorted(set(row) - NODE_KEYS))}")
        if "like" in row:
            nodes[name] = replace(nodes[row["like"]], name=name, like=row["like"])
            continue
        nodes[name] = NodeProfile(
            name=name,
            gpus=row.get("gpus", ""),
            os=row.get("os", ""),
            arguments=tuple(row.get("arguments", ())),
            standing=row.get("standing", ""),
            converged=row["converged"],
            workload=row["workload"],
        )
    faults: dict[str, Fault] = {}
    for row in data["faults"]:
        fault = _fault(row, nodes)
        if fault.id in faults:
            raise TableError(f"fault {fault.id!r} is there twice")
        faults[fault.id] = fault
    incompatible = tuple((frozenset(row["faults"]), row["why"]) for row in data["incompatible"])
    for names, _why in incompatible:
        if names - set(faults):
            raise TableError(f"incompatible: no such fault: {', '.join(sorted(names - set(faults)))}")
    pairs = []
    for row in data["pairs"]:
        if len(row) != 2 or set(row) - set(faults):
            raise TableError(f"pair {row}: not two faults of the table")
        one, other = (faults[name] for name in row)
        if one.node != other.node:
            raise TableError(f"pair {row}: they are of two nodes")
        if one.container and other.container:
            raise TableError(f"pair {row}: the diagnosis is asked about one container")
        for names, why in incompatible:
            if {one.id, other.id} <= names:
                raise TableError(f"pair {row}: {why}")
        pairs.append((one, other))
    return Table(nodes, data["functions"], faults, tuple(pairs), incompatible)


BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def markdown(table: Table) -> str:
    """The README's table."""
    lines = [
        "| fault | what is injected | cause to be named | layer | repair | node |",
        "|---|---|---|---|---|---|",
    ]
    for fault in table.faults.values():
        node = {"text": "recorded text"}.get(fault.node, fault.node)
        how = {"container": ", container", "text": ", what docker says"}.get(fault.how, "")
        cells = (f"`{fault.id}`", fault.injects, f"`{fault.cause}`", fault.layer, fault.repair, node + how)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def readme(table: Table) -> str:
    """The README with the table of today's data."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{markdown(table)}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(readme(load()), encoding="utf-8")
