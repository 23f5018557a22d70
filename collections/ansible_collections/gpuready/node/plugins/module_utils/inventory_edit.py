# Apache-2.0 (see LICENSE)
"""Put a host into a YAML inventory, move it, take it out; the rest stays byte for byte. Controller only.

What was meant is worked out on the data beside the text (`yaml_splice.py` cuts that), and a text that does
not read as exactly that is never returned: an inventory too unusual to be edited safely is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from .hostnames import HostnameError, names_of
from .yaml_splice import Block, Place, SpliceError, Text, get, load, plain, put, same, without

#: In service, and on the way there (or turned down).
SERVICE, QUARANTINE = "gpu_nodes", "gpu_quarantine"
QUARANTINE_COMMENT = "# On their way into service, or turned down: site.yml leaves them alone."
#: What is said of a text that would not read as what was meant.
UNUSUAL = (
    "it is written in a way that cannot be edited safely (an anchor, an alias or a shared mapping there): "
    "make this change by hand"
)
InventoryError = SpliceError


# --- what is there ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Definition:
    """A place where a group is written down; a group may have several."""

    group: str
    path: Place
    hosts: Mapping[str, Any]


@dataclass(frozen=True)
class Inventory:
    """What of an inventory file matters here."""

    data: Any
    definitions: tuple[Definition, ...]
    children: Mapping[str, frozenset[str]]

    @property
    def groups(self) -> list[str]:
        """All groups, in the order in which they are written."""
        return list(dict.fromkeys(definition.group for definition in self.definitions))

    def descendants(self, group: str) -> set[str]:
        """A group and all below it."""
        found: set[str] = set()
        waiting = [group]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.children.get(name, ())
        return found

    def groups_of(self, host: str) -> list[str]:
        """The groups that a host is directly in."""
        return list(
            dict.fromkeys(
                definition.group
                for definition in self.definitions
                if any(host in covered(key) for key in definition.hosts)
            )
        )

    def variables_of(self, host: str) -> dict[str, Any]:
        """A host's own variables: what is written last counts, as in Ansible."""
        found: dict[str, Any] = {}
        for definition in self.definitions:
            for key, variables in definition.hosts.items():
                if host in covered(key) and isinstance(variables, dict):
                    found.update(variables)
        return found

    def hosts(self) -> dict[str, dict[str, Any]]:
        """All hosts with their own variables."""
        found: dict[str, dict[str, Any]] = {}
        for definition in self.definitions:
            for key, variables in definition.hosts.items():
                for name in covered(key):
                    found.setdefault(name, {}).update(variables if isinstance(variables, dict) else {})
        return found


def covered(key: str) -> Sequence[str]:
    """The hosts that a key stands for: one, or a range's."""
    try:
        return names_of(key)
    except HostnameError:
        return (key,)


def read(text: str) -> Inventory:
    """The groups and hosts of a YAML inventory."""
    if text.startswith("$ANSIBLE_VAULT"):
        raise InventoryError(
            "it is encrypted as a whole: keep its secrets in group_vars, where vaults belong"
        )
    data = load(text)
    if data is not None and not isinstance(data, dict):
        raise InventoryError(f"it is no inventory: a mapping of groups is wanted, and it is a {_kind(data)}")
    if data and data.get("plugin"):
        raise InventoryError(f"it configures the inventory plugin {data['plugin']} and lists no hosts")
    definitions: list[Definition] = []
    children: dict[str, set[str]] = {}

    def walk(name: Any, value: Any, path: Place, above: Place = ()) -> None:
        if name in above:
            raise InventoryError(f"it is no inventory: the group {name} is below itself")
        if not isinstance(name, str) or not isinstance(value, (dict, type(None))):
            where = ".".join(path[:-1]) or "the top"
            raise InventoryError(f"it is no inventory: {name!r} at {where} is no group (a {_kind(value)})")
        sections: dict[str, dict[Any, Any]] = {}
        for section in ("hosts", "children", "vars"):
            inner = (value or {}).get(section)
            if isinstance(inner, str):
                inner = {inner: None}
            if not isinstance(inner, (dict, type(None))):
                raise InventoryError(
                    f"it is no inventory: {section} of {name} is a {_kind(inner)}, and a mapping is wanted"
                )
            sections[section] = inner or {}
        odd = [key for key in sections["hosts"] if not isinstance(key, str)]
        if odd:
            raise InventoryError(f"it is no inventory: {odd[0]!r} in {name} is no host name; quote it")
        definitions.append(Definition(name, path, sections["hosts"]))
        children.setdefault(name, set()).update(sections["children"])
        for child, below in sections["children"].items():
            walk(child, below, (*path, "children", child), (*above, name))

    for name, value in (data or {}).items():
        walk(name, value, (name,))
    return Inventory(data, tuple(definitions), {name: frozenset(below) for name, below in children.items()})


def _kind(value: Any) -> str:
    names = {list: "list", str: "text", int: "number", float: "number", bool: "yes or no", dict: "mapping"}
    return names.get(type(value), type(value).__name__)


@dataclass(frozen=True)
class Edit:
    """What came of an edit of a text."""

    text: str
    changed: bool
    groups_before: list[str]
    groups: list[str]
    variables: dict[str, Any]


class _Editor:
    """A text and its data, changed side by side: each step must read as what was meant."""

    def __init__(self, text: str) -> None:
        self.text = Text(text)
        self.inventory = read(text)

    def step(self, act: Callable[[], None], meant: Any, emptied: Place | None = None) -> None:
        before = self.text.text
        for greedy in (False, True):
            self.text.text, self.text.greedy = before, greedy
            try:
                act()
                found = read(self.text.text)
            except (yaml.YAMLError, InventoryError) as error:
                if isinstance(error, InventoryError) and "cannot be parsed" not in str(error):
                    raise
                continue
            finally:
                self.text.greedy = False
            if emptied and not get(meant, emptied) and get(found.data, emptied) in (None, {}):
                meant = put(meant, emptied, get(found.data, emptied))
            if same(found.data, meant):
                self.inventory = found
                return
        raise InventoryError(UNUSUAL)

    def set(self, path: Place, value: Any) -> None:
        self.step(lambda: self.text.set(path, value), put(self.inventory.data, path, plain(value)))

    def delete(self, path: Place) -> None:
        self.step(lambda: self.text.delete(path), without(self.inventory.data, path), path[:-1])


def edit(
    text: str,
    *,
    name: str,
    groups: Sequence[str] | None = None,
    variables: Mapping[str, Any] | None = None,
    state: str = "present",
) -> Edit:
    """The text with a host in these groups and with these variables, or without the host.

    ``groups``: those that it is directly in afterwards, of ``gpu_nodes``, ``gpu_quarantine`` and what is
    below them; groups elsewhere stay, and one that is named is added. None: they stay all. ``variables`` are
    set, the host's other ones stay.
    """
    mark = text[:1] if text[:1] == "\ufeff" else ""
    editor = _Editor(text[len(mark) :])
    before = editor.inventory.groups_of(name)
    if state == "absent":
        _take_out(editor, name)
    else:
        _bring_in(
            editor, name, None if groups is None else list(dict.fromkeys(groups)), dict(variables or {})
        )
    new = mark + editor.text.text
    after = editor.inventory
    return Edit(new, new != text, before, after.groups_of(name), after.variables_of(name))


def _places(inventory: Inventory, name: str) -> Iterator[tuple[Definition, str]]:
    """Where a host is written, and as what."""
    for definition in inventory.definitions:
        for key in definition.hosts:
            if key == name or name in covered(key):
                yield definition, key


def _path(definition: Definition, key: str) -> Place:
    return (*definition.path, "hosts", key)


def _refuse_range(name: str, definition: Definition, key: str) -> None:
    if key != name:
        raise InventoryError(
            f"{name} is in {definition.group} as part of {key!r}: write its hosts out one by one"
        )


def _drop(editor: _Editor, definition: Definition, name: str) -> None:
    """Take one occurrence away; ``hosts: gpu01``, a text, becomes nothing."""
    if isinstance(get(editor.inventory.data, (*definition.path, "hosts")), str):
        editor.set((*definition.path, "hosts"), None)
    else:
        editor.delete(_path(definition, name))


def _take_out(editor: _Editor, name: str) -> None:
    for definition, key in list(_places(editor.inventory, name)):
        _refuse_range(name, definition, key)
        _drop(editor, definition, name)


def _bring_in(editor: _Editor, name: str, groups: list[str] | None, variables: dict[str, Any]) -> None:
    inventory = editor.inventory
    if QUARANTINE in inventory.descendants(SERVICE):
        raise InventoryError(
            f"{QUARANTINE} is below {SERVICE}, so that a rejected node would be in service: put it beside"
        )
    if groups is None and not inventory.groups_of(name):
        raise InventoryError(f"{name} is in none of its groups: say which one it belongs to")
    if groups is not None:
        _check_groups(inventory, groups)
    meant = {**inventory.variables_of(name), **variables}
    if groups is not None:
        _regroup(editor, name, groups)
    _set_variables(editor, name, meant)


def _check_groups(inventory: Inventory, groups: list[str]) -> None:
    if not groups:
        raise InventoryError(f"no group was given: name {SERVICE}, {QUARANTINE} or a group below them")
    known = inventory.groups
    unknown = [group for group in groups if group not in known and group not in (SERVICE, QUARANTINE)]
    if unknown:
        there = ", ".join(group for group in known if group != "all") or "none"
        raise InventoryError(f"there is no group {', '.join(unknown)}: it has {there}")
    if "all" in groups:
        raise InventoryError(
            f"every host is in all anyway: name {SERVICE}, {QUARANTINE} or a group below them"
        )
    service = [group for group in groups if group in inventory.descendants(SERVICE) | {SERVICE}]
    kept_out = [group for group in groups if group in inventory.descendants(QUARANTINE) | {QUARANTINE}]
    if service and kept_out:
        raise InventoryError(
            f"a node is in service ({service[0]}) or in quarantine ({kept_out[0]}), never in both"
        )


def _regroup(editor: _Editor, name: str, groups: list[str]) -> None:
    inventory = editor.inventory
    managed = inventory.descendants(SERVICE) | inventory.descendants(QUARANTINE) | {SERVICE, QUARANTINE}
    leaving = [place for place in _places(inventory, name) if place[0].group in managed - set(groups)]
    for definition, key in leaving:
        _refuse_range(name, definition, key)
    missing = [group for group in groups if group not in inventory.groups_of(name)]
    # The first place moves, as it is written and with its comments, to the first new group.
    moved: Any = None
    for definition, _key in leaving:
        value = definition.hosts[name]
        if moved is None and missing:
            moved = value
            if isinstance(get(inventory.data, (*definition.path, "hosts")), dict):
                moved = editor.text.raw(_path(definition, name), value)
        _drop(editor, definition, name)
    for group in missing:
        _enter(editor, group, name, moved)
        moved = None


def _enter(editor: _Editor, group: str, name: str, value: Any) -> None:
    """Write a host into a group, which is made where it is missing."""
    if isinstance(value, dict):
        value = Block(value)
    inventory = editor.inventory
    places = [definition for definition in inventory.definitions if definition.group == group]
    if places:
        place = max(places, key=lambda one: (bool(one.hosts), get(inventory.data, one.path) is not None))
        path = (*place.path, "hosts")
        alone = get(inventory.data, path)
        if isinstance(alone, str):
            editor.set(path, None)
            editor.set((*path, alone), None)
        editor.set((*path, name), value)
        return
    content = Block({"hosts": Block({name: value})})
    if group == QUARANTINE:
        content.comment = QUARANTINE_COMMENT
    editor.set((*_home(inventory), group), content)


def _home(inventory: Inventory) -> Place:
    """Where a group that is missing is to be written: beside the other one."""
    for definition in inventory.definitions:
        if definition.group in (SERVICE, QUARANTINE):
            return definition.path[:-1]
    return ("all", "children") if not inventory.data or "all" in inventory.data else ()


def _set_variables(editor: _Editor, name: str, meant: dict[str, Any]) -> None:
    for variable, value in meant.items():
        inventory = editor.inventory
        current = inventory.variables_of(name)
        if variable in current and same(current[variable], value):
            continue
        places = [place for place, key in _places(inventory, name) if key == name]
        having = [place for place in places if variable in (place.hosts[name] or {})]
        if not places:
            # Only a range has it: it gets a line of its own beside that.
            place = next(place for place, _key in _places(inventory, name))
            editor.set(_path(place, name), Block({variable: value}))
            continue
        for place in having or places[:1]:
            if isinstance(get(inventory.data, (*place.path, "hosts")), str):
                editor.set((*place.path, "hosts"), None)
            editor.set((*_path(place, name), variable), value)
