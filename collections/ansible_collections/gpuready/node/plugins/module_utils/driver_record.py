"""The driver's record on the node: contract 7 of docs/contracts.md.

The role nvidia_driver writes it through the module install_record; the observation reads it as
`driver.record`. Both take an older record, and one that somebody edited.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Tuple

ROLE = "nvidia_driver"
PATH = "/var/lib/gpuready/%s.json" % ROLE

LISTS = ("packages", "requested", "held", "files")
STATES = ("original", "previous")
STATE_TEXTS = ("version", "branch", "flavour", "source")
FLAVOURS = ("open", "proprietary")


def empty() -> Dict[str, Any]:
    """What a driver that gpuready has not touched would have."""
    record: Dict[str, Any] = {name: [] for name in LISTS}
    record.update(dict.fromkeys(STATES))
    record.update(unverified=None, rejected=[])
    return record


def normalised(record: Mapping[str, Any]) -> Dict[str, Any]:
    """The record with every key of the contract, whatever it lacked. Keys of other parts stay."""
    whole = dict(empty(), **record)
    for name in STATES:
        if isinstance(whole[name], Mapping):
            whole[name] = dict(dict.fromkeys(STATE_TEXTS), packages=[])
            whole[name].update(record[name])
    return whole


def contract(record: Mapping[str, Any]) -> Dict[str, Any]:
    """The whole record with the contract's keys and no others, as the observation hands it on."""
    whole = normalised(record)
    shown: Dict[str, Any] = {name: list(whole[name]) for name in LISTS}
    for name in STATES:
        state = whole[name]
        shown[name] = None
        if state is not None:
            shown[name] = {key: state[key] for key in STATE_TEXTS}
            shown[name]["packages"] = [
                {"name": row["name"], "version": row.get("version")} for row in state["packages"]
            ]
    keys = ("version", "package_version", "at")
    unverified = whole["unverified"]
    shown["unverified"] = None if unverified is None else {key: unverified.get(key) for key in keys}
    shown["rejected"] = [{key: row.get(key) for key in (*keys, "why")} for row in whole["rejected"]]
    return shown


def complaints(record: Mapping[str, Any]) -> List[str]:
    """What in it is not as the contract says; nothing when all is well. Absent keys are no complaint."""
    found: List[str] = []
    for name in LISTS:
        if name in record:
            _texts(record[name], name, found)
    for name in STATES:
        if record.get(name) is not None:
            _state(record[name], name, found)
    if record.get("unverified") is not None:
        _version_at(record["unverified"], "unverified", found)
    rejected = record.get("rejected", [])
    if not isinstance(rejected, list):
        found.append("rejected is %r, not a list" % (rejected,))
    else:
        for index, row in enumerate(rejected):
            _version_at(row, "rejected[%d]" % index, found)
            if isinstance(row, Mapping) and not isinstance(row.get("why"), (str, type(None))):
                found.append("rejected[%d].why is %r, not a text" % (index, row["why"]))
    return found


def _texts(value: Any, at: str, found: List[str]) -> None:
    if not isinstance(value, list):
        found.append("%s is %r, not a list" % (at, value))
        return
    found += ["%s holds %r, not a text" % (at, item) for item in value if not isinstance(item, str)]


def _state(value: Any, at: str, found: List[str]) -> None:
    if not isinstance(value, Mapping):
        found.append("%s is %r, not a mapping" % (at, value))
        return
    for key in STATE_TEXTS:
        if not isinstance(value.get(key), (str, type(None))):
            found.append("%s.%s is %r, not a text" % (at, key, value[key]))
    flavour = value.get("flavour")
    if isinstance(flavour, str) and flavour not in FLAVOURS:
        found.append("%s.flavour is %r, not one of: %s" % (at, flavour, ", ".join(FLAVOURS)))
    packages = value.get("packages", [])
    if not isinstance(packages, list):
        found.append("%s.packages is %r, not a list" % (at, packages))
        return
    for row in packages:
        if not (isinstance(row, Mapping) and isinstance(row.get("name"), str)):
            found.append("%s.packages holds %r, not a mapping with a name" % (at, row))
        elif not isinstance(row.get("version"), (str, type(None))):
            found.append(
                "%s.packages: the version of %s is %r, not a text" % (at, row["name"], row["version"])
            )


def _version_at(value: Any, at: str, found: List[str]) -> None:
    if not isinstance(value, Mapping):
        found.append("%s is %r, not a mapping" % (at, value))
        return
    if not isinstance(value.get("version"), str):
        found.append("%s.version is %r, not a text" % (at, value.get("version")))
    for key in ("package_version", "at"):
        if not isinstance(value.get(key), (str, type(None))):
            found.append("%s.%s is %r, not a text" % (at, key, value[key]))


def repaired(record: Mapping[str, Any]) -> Tuple[Dict[str, Any], List[str]]:
    """The record without what is not as the contract says, and what that was."""
    return {key: value for key, value in record.items() if not complaints({key: value})}, complaints(record)
