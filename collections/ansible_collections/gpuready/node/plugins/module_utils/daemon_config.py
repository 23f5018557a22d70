# Copyright: gpuready developers
# SPDX-License-Identifier: Apache-2.0
"""dockerd's daemon.json as data: read it, merge into it, take out of it, check it, write it back.

Pure Python without input or output. The observer reads daemon.json with `parse`, the planner asks
`conflicts`, `satisfied` and `merge`, and the module `docker_daemon_config` writes what `render` gives:
one definition for all three, so that what is reported and what is enforced cannot drift apart.

Merging follows one rule: what the user wrote survives. Mappings are merged key by key. Lists that dockerd
reads as sets (registries, mirrors, labels, …) become the union, the user's entries first. Anything else has
one value; two different values are a conflict, never a silent overwrite.
"""

from __future__ import annotations

import json
import re
from typing import Any, Iterable, Sequence

from .plain import plain_copy

# Lists in which dockerd sees a set: entries of several authors live side by side.
# A list that is not named here (a runtime's args, for example) is one value.
SET_LISTS = (
    "allow-nondistributable-artifacts",
    "authorization-plugins",
    "cdi-spec-dirs",
    "default-address-pools",
    "dns",
    "dns-opts",
    "dns-search",
    "exec-opts",
    "hosts",
    "insecure-registries",
    "labels",
    "node-generic-resources",
    "registry-mirrors",
    "storage-opts",
)

# Of these, the entries read `name=value`; one name with two values is a conflict.
_NAME_VALUE_LISTS = ("exec-opts", "labels", "storage-opts")

_BOOLEANS = (
    "debug",
    "experimental",
    "icc",
    "init",
    "ip-forward",
    "ip-masq",
    "ip6tables",
    "iptables",
    "ipv6",
    "live-restore",
    "no-new-privileges",
    "raw-logs",
    "selinux-enabled",
    "tls",
    "tlsverify",
    "userland-proxy",
)

_STRINGS = (
    "bip",
    "bridge",
    "cgroup-parent",
    "containerd",
    "data-root",
    "default-cgroupns-mode",
    "default-ipc-mode",
    "default-runtime",
    "default-shm-size",
    "exec-root",
    "fixed-cidr",
    "group",
    "init-path",
    "log-driver",
    "log-level",
    "pidfile",
    "storage-driver",
    "userns-remap",
)

_INTEGERS = (
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
    "mtu",
    "network-control-plane-mtu",
    "shutdown-timeout",
)

# Keys that dockerd takes over on SIGHUP, when they are added or changed. Taking one away needs a restart:
# dockerd only looks at the keys that are there. `features` is not among them: CDI is set up at start.
RELOADABLE = (
    "debug",
    "default-runtime",
    "insecure-registries",
    "labels",
    "live-restore",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "registry-mirrors",
    "runtimes",
    "shutdown-timeout",
)

# Where a bare program name in daemon.json is found; there, the name and the full path mean the same program.
_SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")

_MISSING = object()


class DaemonConfigError(ValueError):
    """daemon.json cannot be used as it is. `line` and `column` count from 1 and are null when unknown."""

    def __init__(self, reason: str, line: int | None = None, column: int | None = None) -> None:
        self.reason = reason
        self.line = line
        self.column = column
        where = "" if line is None else f" at line {line}, column {column}"
        super().__init__(reason + where)


class MergeConflict(DaemonConfigError):
    """The wish and the file set the same thing to different values."""

    def __init__(self, found: list[dict[str, Any]]) -> None:
        self.conflicts = found
        super().__init__(
            "; ".join(
                "{} is {} in the file, but {} is wanted".format(
                    item["path"], _show(item["current"]), _show(item["wanted"])
                )
                for item in found
            )
        )


# -- reading ---------------------------------------------------------------------------------------


def _position(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1


def parse(data: bytes | str) -> dict[str, Any]:
    """The content of daemon.json; an empty file is an empty configuration.

    Stricter than Python's json where dockerd is (byte order mark, NaN), and where a merge would lose
    something without a word (the same key twice).
    """
    if isinstance(data, bytes):
        for mark, name in ((b"\xef\xbb\xbf", "UTF-8"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")):
            if data.startswith(mark):
                raise DaemonConfigError(
                    f"the file starts with a {name} byte order mark, which dockerd refuses", 1, 1
                )
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            before = data[: error.start].decode("utf-8")
            line, column = _position(before, len(before))
            raise DaemonConfigError("the file is not UTF-8 text", line, column) from None
    else:
        text = data
    if not text.strip(" \t\r\n"):
        return {}

    repeated: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in items:
            if key in mapping:
                repeated.append(key)
            mapping[key] = value
        return mapping

    def no_constant(name: str) -> Any:
        line, column = _position(text, max(text.find(name), 0))
        raise DaemonConfigError(f"the value {name} is not JSON", line, column)

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=no_constant)
    except RecursionError:
        raise DaemonConfigError("the file nests too deeply") from None
    except json.JSONDecodeError as error:
        raise DaemonConfigError(
            f"the file is not valid JSON: {error.msg}", error.lineno, error.colno
        ) from None
    if not isinstance(value, dict):
        line, column = _position(text, len(text) - len(text.lstrip(" \t\r\n")))
        raise DaemonConfigError(
            f"the file holds {_kind(value)} where a JSON object {{…}} must be", line, column
        )
    if repeated:
        # The second occurrence is the one that surprises; point there.
        hits = list(re.finditer(re.escape(json.dumps(repeated[0], ensure_ascii=False)) + r"\s*:", text))
        line, column = _position(text, hits[-1].start() if hits else 0)
        raise DaemonConfigError(f"the key {_show(repeated[0])} appears twice in one object", line, column)
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "an object"


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


# -- comparing -------------------------------------------------------------------------------------


def equal(left: Any, right: Any) -> bool:
    """JSON's equality: true is not 1."""
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    if isinstance(left, dict) and isinstance(right, dict):
        return set(left) == set(right) and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


def same_runtime(left: Any, right: Any) -> bool:
    """Whether two entries of `runtimes` start the same program in the same way.

    `nvidia-container-runtime` and `/usr/bin/nvidia-container-runtime` do; the old key `runtimeArgs` and
    `args` mean the same, and no arguments are written as nothing or as an empty list.
    """
    if not isinstance(left, dict) or not isinstance(right, dict):
        return False
    return equal(_plain_runtime(left), _plain_runtime(right))


def _plain_runtime(entry: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in entry.items() if key not in ("args", "runtimeArgs", "path")}
    arguments = entry.get("args") or entry.get("runtimeArgs") or []
    if arguments:
        plain["args"] = arguments
    path = entry.get("path")
    if isinstance(path, str):
        folder, _slash, name = path.rpartition("/")
        path = name if folder in _SYSTEM_PATH else path
    plain["path"] = path
    return plain


def _is_runtime(path: Sequence[str]) -> bool:
    return len(path) == 2 and path[0] == "runtimes"


def _is_set_list(path: Sequence[str]) -> bool:
    return len(path) == 1 and path[0] in SET_LISTS


def _dotted(path: Sequence[str]) -> str:
    return ".".join(path)


def _name_of(key: str, item: Any) -> str | None:
    if key in _NAME_VALUE_LISTS and isinstance(item, str) and "=" in item:
        return item.split("=", 1)[0]
    return None


# -- merging ---------------------------------------------------------------------------------------


def _merge_into(
    current: Any, wanted: Any, path: tuple[str, ...], replace: Sequence[str], found: list[dict[str, Any]]
) -> Any:
    consent = any(_dotted(path[:depth]) in replace for depth in range(1, len(path) + 1))
    if _is_runtime(path) and same_runtime(current, wanted):
        return current
    if isinstance(current, dict) and isinstance(wanted, dict) and not _is_runtime(path):
        for key, value in wanted.items():
            if key in current:
                current[key] = _merge_into(current[key], value, (*path, key), replace, found)
            else:
                current[key] = plain_copy(value)
        return current
    if isinstance(current, list) and isinstance(wanted, list) and _is_set_list(path):
        return _union(current, wanted, path, consent, found)
    if equal(current, wanted):
        return current
    if consent:
        return plain_copy(wanted)
    found.append({"path": _dotted(path), "current": plain_copy(current), "wanted": plain_copy(wanted)})
    return current


def _union(
    current: list[Any], wanted: list[Any], path: tuple[str, ...], consent: bool, found: list[dict[str, Any]]
) -> list[Any]:
    merged = list(current)
    for item in wanted:
        if any(equal(item, other) for other in merged):
            continue
        name = _name_of(path[0], item)
        rival = None if name is None else next((o for o in merged if _name_of(path[0], o) == name), None)
        if rival is None:
            merged.append(plain_copy(item))
        elif consent:
            merged[merged.index(rival)] = item
        else:
            found.append({"path": _dotted(path), "current": rival, "wanted": item})
    return merged


def merge(current: dict[str, Any], wanted: dict[str, Any], replace: Iterable[str] = ()) -> dict[str, Any]:
    """A new configuration that holds `wanted` and everything of `current`.

    `replace` names, as dotted paths, what the wish may overwrite; anything else that differs raises
    `MergeConflict` with all conflicts at once.
    """
    found: list[dict[str, Any]] = []
    merged = _merge_into(plain_copy(current), wanted, (), list(replace), found)
    if found:
        raise MergeConflict(found)
    return merged


def conflicts(
    current: dict[str, Any], wanted: dict[str, Any], replace: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """What stands against a merge: a list of {path, current, wanted}; empty when nothing does."""
    found: list[dict[str, Any]] = []
    _merge_into(plain_copy(current), wanted, (), list(replace), found)
    return found


def satisfied(current: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether `current` already holds all of `wanted`."""
    return not conflicts(current, wanted) and equal(merge(current, wanted), current)


def added(current: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The part of `wanted` that a merge puts in: what `unmerge` has to take out again, and no more."""
    part = _added_to(current, wanted, ())
    return {} if part is _MISSING else part


def _added_to(current: Any, wanted: Any, path: tuple[str, ...]) -> Any:
    if _is_runtime(path):
        return _MISSING if same_runtime(current, wanted) else wanted
    if isinstance(current, dict) and isinstance(wanted, dict):
        parts = {
            key: _added_to(current[key], value, (*path, key)) if key in current else plain_copy(value)
            for key, value in wanted.items()
        }
        parts = {key: part for key, part in parts.items() if part is not _MISSING}
        return parts if parts else _MISSING
    if isinstance(current, list) and isinstance(wanted, list) and _is_set_list(path):
        items = [item for item in wanted if not any(equal(item, other) for other in current)]
        return items if items else _MISSING
    return _MISSING if equal(current, wanted) else plain_copy(wanted)


def unmerge(current: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The opposite of `merge`: take out what `wanted` put in, and nothing that differs from it.

    Containers that become empty go too. A value that the user had set to just the same before cannot be
    told from ours and goes as well.
    """
    remaining = _unmerge_from(plain_copy(current), wanted, ())
    return {} if remaining is _MISSING else remaining


def _unmerge_from(current: Any, wanted: Any, path: tuple[str, ...]) -> Any:
    if _is_runtime(path):
        return _MISSING if same_runtime(current, wanted) else current
    if isinstance(current, dict) and isinstance(wanted, dict):
        for key, value in wanted.items():
            if key in current:
                remaining = _unmerge_from(current[key], value, (*path, key))
                if remaining is _MISSING:
                    del current[key]
                else:
                    current[key] = remaining
        return current if current else _MISSING
    if isinstance(current, list) and isinstance(wanted, list) and _is_set_list(path):
        rest = [item for item in current if not any(equal(item, other) for other in wanted)]
        return rest if rest else _MISSING
    return _MISSING if equal(current, wanted) else current


def without(current: dict[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """A new configuration without the keys that the dotted paths name; parents left empty go too.

    A key may hold dots itself (`runtimes.io.containerd.runsc.v1`): at every level the whole rest of the path
    is tried as one key before it is split.
    """
    result = plain_copy(current)
    for path in paths:
        _remove_path(result, path)
    return result


def _remove_path(mapping: dict[str, Any], path: str) -> bool:
    if path in mapping:
        del mapping[path]
        return True
    for key in sorted(mapping, key=len, reverse=True):
        inner = mapping[key]
        if (
            path.startswith(key + ".")
            and isinstance(inner, dict)
            and _remove_path(inner, path[len(key) + 1 :])
        ):
            if not inner:
                del mapping[key]
            return True
    return False


# -- checking --------------------------------------------------------------------------------------


def problems(config: dict[str, Any]) -> list[str]:
    """Why dockerd would refuse to start with this configuration, as far as its shape tells.

    For a dockerd without `--validate`. It knows the types of dockerd's usual keys and says nothing about
    keys that it does not know.
    """
    found: list[str] = []
    for keys, accepts, kind in (
        (_BOOLEANS, lambda v: isinstance(v, bool), "true or false"),
        (_STRINGS, lambda v: isinstance(v, str), "a string"),
        (_INTEGERS, lambda v: isinstance(v, int) and not isinstance(v, bool), "a whole number"),
    ):
        for key in keys:
            if key in config and not accepts(config[key]):
                found.append(f"{key} is {_show(config[key])}, but dockerd wants {kind}")
    for key in SET_LISTS:
        if key not in config:
            continue
        entry = dict if key == "default-address-pools" else str
        if not isinstance(config[key], list) or not all(isinstance(item, entry) for item in config[key]):
            kind = "a list of objects" if entry is dict else "a list of strings"
            found.append(f"{key} is {_show(config[key])}, but dockerd wants {kind}")
    found.extend(_mapping_problems(config))
    found.extend(_runtime_problems(config))
    return found


def _mapping_problems(config: dict[str, Any]) -> list[str]:
    found = []
    for key, entry, kind in (
        ("features", bool, "true or false"),
        ("log-opts", str, "a string (put it in quotes)"),
    ):
        if key not in config:
            continue
        if not isinstance(config[key], dict):
            found.append(f"{key} is {_show(config[key])}, but dockerd wants an object")
            continue
        for name, value in config[key].items():
            if not isinstance(value, entry):
                found.append(f"{key}.{name} is {_show(value)}, but dockerd wants {kind}")
    return found


def _runtime_problems(config: dict[str, Any]) -> list[str]:
    found = []
    runtimes = config.get("runtimes", {})
    if not isinstance(runtimes, dict):
        return [f"runtimes is {_show(runtimes)}, but dockerd wants an object"]
    for name, entry in runtimes.items():
        if name == "runc":
            found.append("runtimes.runc is set, but dockerd keeps the name runc for itself")
        elif not isinstance(entry, dict):
            found.append(f"runtimes.{name} is {_show(entry)}, but dockerd wants an object")
        elif not (_filled(entry.get("path")) or _filled(entry.get("runtimeType"))):
            found.append(f"runtimes.{name} names no program: it has neither path nor runtimeType")
        else:
            for key in ("args", "runtimeArgs"):
                value = entry.get(key) or []
                if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                    found.append(
                        f"runtimes.{name}.{key} is {_show(value)}, but dockerd wants a list of strings"
                    )
    default = config.get("default-runtime")
    # A containerd shim (io.containerd.…) or a path needs no entry in `runtimes`.
    known = not default or default == "runc" or default in runtimes
    if isinstance(default, str) and not known and "." not in default and "/" not in default:
        found.append(f"default-runtime is {_show(default)}, but runtimes has no such entry")
    return found


def _filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


# -- applying --------------------------------------------------------------------------------------


def reload_suffices(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether dockerd can take the difference over while it runs (SIGHUP), without a restart."""
    for key in set(before) | set(after):
        if equal(before.get(key, _MISSING), after.get(key, _MISSING)):
            continue
        if key not in RELOADABLE or key not in after:
            return False
        old, new = before.get(key), after[key]
        if isinstance(old, dict) and isinstance(new, dict) and set(old) - set(new):
            return False
        if isinstance(old, list) and isinstance(new, list) and any(item not in new for item in old):
            return False
    return True


def not_live(config: dict[str, Any], info: dict[str, Any]) -> list[str]:
    """What of a configuration the running dockerd does not have, judged by its own answer to GET /info.

    Only keys that the answer shows can be judged: runtimes, default-runtime, registries, live-restore.
    """
    missing = []
    live = info.get("Runtimes") or {}
    for name, entry in (config.get("runtimes") or {}).items():
        shown = live.get(name)
        if shown is None:
            missing.append(f"runtimes.{name}")
            continue
        # Newer engines show only the type or the shim; a path that is shown must be the right one.
        path = entry.get("path") if isinstance(entry, dict) else None
        if path and shown.get("path") and not same_runtime({"path": path}, {"path": shown["path"]}):
            missing.append(f"runtimes.{name}")
    default = config.get("default-runtime")
    if default and info.get("DefaultRuntime") not in (None, default):
        missing.append("default-runtime")
    if "live-restore" in config and info.get("LiveRestoreEnabled") not in (None, config["live-restore"]):
        missing.append("live-restore")
    registries = info.get("RegistryConfig") or {}
    if registries:
        insecure = {
            name
            for name, index in (registries.get("IndexConfigs") or {}).items()
            if not index.get("Secure", True)
        }
        insecure.update(registries.get("InsecureRegistryCIDRs") or [])
        for item in config.get("insecure-registries") or []:
            bare = re.sub(r"^https?://", "", item).rstrip("/")
            if bare not in insecure and not _is_network(bare):
                missing.append(f"insecure-registries: {item}")
        mirrors = {mirror.rstrip("/") for mirror in registries.get("Mirrors") or []}
        for item in config.get("registry-mirrors") or []:
            if item.rstrip("/") not in mirrors:
                missing.append(f"registry-mirrors: {item}")
    return missing


def _is_network(text: str) -> bool:
    # dockerd may write a network in another form than the user did (10.1.2.3/8 → 10.0.0.0/8).
    return "/" in text


# -- writing ---------------------------------------------------------------------------------------


def render(config: dict[str, Any], original: bytes | None = None) -> bytes:
    """The text of a configuration, in the user's own layout where there is one to follow."""
    text = (original or b"").decode("utf-8", "replace")
    newline = "\r\n" if "\r\n" in text else "\n"
    stripped = text.strip()
    found = re.search(r"\{\s*?\n([ \t]*)\"", text)
    indent: str | None = "    "
    if found:
        indent = found.group(1)
    elif len(stripped) > 2 and "\n" not in stripped and stripped != "{}":
        indent = None  # the user wrote it on one line
    separators = None
    if indent is None and re.search(r"\":\S", stripped) and not re.search(r"\":\s", stripped):
        separators = (",", ":")
    body = json.dumps(config, ensure_ascii=False, indent=indent, separators=separators)
    if newline != "\n":
        body = body.replace("\n", newline)
    end = newline if not stripped or text.endswith("\n") else ""
    return (body + end).encode("utf-8")
