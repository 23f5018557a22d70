"""What systemd knows of a few units, in one question."""

from __future__ import annotations

from typing import Dict, List

from .node import Node

PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "MainPID",
    "ExecStart",
    "FragmentPath",
    "Result",
)


def parse(text: str) -> Dict[str, Dict[str, str]]:
    units: Dict[str, Dict[str, str]] = {}
    for block in text.split("\n\n"):
        properties = {}
        for line in block.splitlines():
            key, equals, value = line.partition("=")
            if equals:
                properties[key] = value
        if properties.get("Id"):
            units[properties["Id"]] = properties
    return units


def units(node: Node, names: List[str]) -> Dict[str, Dict[str, str]]:
    """Unit → its properties; a unit that does not exist has LoadState=not-found."""
    return parse(
        node.output(["systemctl", "show", "--no-pager", "--property=" + ",".join(PROPERTIES), *names])
    )
