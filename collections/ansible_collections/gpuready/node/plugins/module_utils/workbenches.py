# Apache-2.0 (see LICENSE)
"""What people write about workbenches (role gpu_workbench), checked and completed. Pure."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import struct
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from .wish_words import Problem, nearest
from .workbench_names import FIRST_UID

USERS = "gpu_workbench_users"
JUPYTER_PORT = 8888
SSH_PORT = 2222
# What Jupyter's token holds at least, in random bytes.
SAFE_BYTES = 16
MOST_BYTES = 256

_NAME = re.compile(r"^[a-z][a-z0-9-]{0,30}$")
_SIZE = re.compile(r"^[1-9][0-9]*[bkmg]?$")
_CPUS = re.compile(r"^([0-9]+(\.[0-9]+)?|\.[0-9]+)$")
_UUID = re.compile(r"^GPU-[0-9a-fA-F-]{8,}$")
_BRANDS = ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
KEY_TYPES = (*_BRANDS, "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com")
# Names that the images' own accounts have, and that a second account would hide.
TAKEN_NAMES = ("root", "daemon", "bin", "sys", "nobody", "sshd", "www-data", "mail", "proxy", "backup")

DEFAULTS: Dict[str, Any] = {
    "recipe": "",
    "jupyter_port": JUPYTER_PORT,
    "ssh_port": SSH_PORT,
    "authorized_keys": [],
    "gpus": "all",
    "memory": None,
    "cpus": None,
    "shm_size": "1g",
    "uid": None,
    "state": "present",
}
KEYS = ("name", *DEFAULTS)

Rule = Callable[[str, Any], Tuple[Any, Optional[str], str]]


class _Wrong(Exception):
    """One thing about one user that cannot be understood."""

    def __init__(self, what: str, *options: str) -> None:
        self.what, self.options = what, list(options)
        super().__init__(what)


def users(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    """The rule of `gpu_workbench_users`: each user with all keys, by name; or the first thing wrong."""
    if value in (None, ""):
        return [], None
    try:
        if not isinstance(value, (list, tuple)):
            raise _Wrong(
                "%s is %r, but must be a list of users" % (name, value), "set %s: [{name: alice}]" % name
            )
        rows = [_user(entry, "%s[%d]" % (name, index)) for index, entry in enumerate(value)]
        _no_twins(rows, name)
    except _Wrong as wrong:
        return value, Problem(name, wrong.what, wrong.options)
    return sorted(rows, key=lambda row: row["name"]), None


def _user(entry: Any, place: str) -> Dict[str, Any]:
    if isinstance(entry, str):
        raise _Wrong("%s is %r, but must be a mapping" % (place, entry), "write {name: %s}" % entry)
    if not isinstance(entry, Mapping):
        raise _Wrong("%s is %r, but must be a mapping with a name" % (place, entry), "write {name: alice}")
    for key in entry:
        if key not in KEYS:
            raise _Wrong(
                "%s has %r, which a workbench does not know" % (place, key),
                "did you mean %s?" % nearest(key, KEYS, 1)[0],
                "a user has %s" % ", ".join(KEYS),
            )
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.match(name):
        raise _Wrong(
            "%s.name is %r, but must be a small letter and at most 30 small letters, digits and dashes"
            % (place, name),
            "write a name such as alice",
        )
    if name in TAKEN_NAMES:
        raise _Wrong(
            "%s.name is %r, an account of the images themselves" % (place, name), "take another name"
        )
    row = dict(DEFAULTS, name=name, authorized_keys=[])
    row.update(entry)
    where = "%s (%s)" % (place, name)
    if row["state"] not in ("present", "absent"):
        raise _Wrong("%s.state is %r" % (where, row["state"]), "set state: present", "set state: absent")
    if row["state"] == "absent":
        return dict(DEFAULTS, name=name, authorized_keys=[], state="absent")
    row["recipe"] = _text(row["recipe"], where + ".recipe")
    row["jupyter_port"] = _port(row["jupyter_port"], where + ".jupyter_port")
    row["authorized_keys"] = _keys(row["authorized_keys"], where + ".authorized_keys")
    if "ssh_port" not in entry and not row["authorized_keys"]:
        row["ssh_port"] = None  # nobody could log in
    row["ssh_port"] = _port(row["ssh_port"], where + ".ssh_port")
    if row["ssh_port"] is not None and not row["authorized_keys"]:
        raise _Wrong(
            "%s has an ssh_port and no authorized_keys, so nobody could log in" % where,
            "add a public key to authorized_keys",
            "set ssh_port: null",
        )
    if row["jupyter_port"] is None and row["ssh_port"] is None:
        raise _Wrong(
            "%s has neither Jupyter nor SSH" % where,
            "set jupyter_port: %d" % JUPYTER_PORT,
            "set state: absent",
        )
    row["gpus"] = _gpus(row["gpus"], where + ".gpus")
    row["memory"] = _size(row["memory"], where + ".memory", "16g")
    row["shm_size"] = _size(row["shm_size"], where + ".shm_size", "1g")
    row["cpus"] = _cpus(row["cpus"], where + ".cpus")
    row["uid"] = _uid(row["uid"], where + ".uid")
    return row


def _text(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _Wrong(
            "%s is %r, but must be a recipe's name" % (where, value),
            "write a name of framework_image_recipes",
        )
    return value.strip()


def _port(value: Any, where: str) -> Optional[int]:
    if value is None or value == "":
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise _Wrong(
            "%s is %r, but must be a port, 1 to 65535, or null" % (where, value),
            "write a free port of the node",
        )
    return int(text)


def _size(value: Any, where: str, example: str) -> Optional[str]:
    if value is None or value == "":
        return None
    text = str(value).strip().lower()
    if isinstance(value, bool) or not _SIZE.match(text):
        raise _Wrong(
            "%s is %r, but must be a size as docker run takes it" % (where, value), "write it as %s" % example
        )
    return text


def _cpus(value: Any, where: str) -> Optional[str]:
    if value is None or value == "":
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not _CPUS.match(text) or float(text) < 0.01:
        raise _Wrong(
            "%s is %r, but must be a number of processors" % (where, value), 'write it as "4" or "0.5"'
        )
    return text


def _uid(value: Any, where: str) -> Optional[int]:
    if value is None or value == "":
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdigit() or not 1 <= int(text) <= 65533:
        raise _Wrong(
            "%s is %r, but must be a user's number, 1 to 65533: there is no root in a workbench"
            % (where, value),
            "leave it out: the first free one from %d on" % FIRST_UID,
        )
    return int(text)


def _gpus(value: Any, where: str) -> Any:
    if value in ("all", ["all"]):
        return "all"
    if value is None or value == "" or value == "none":
        return []
    items = value if isinstance(value, (list, tuple)) else str(value).split(",")
    found: List[str] = []
    for item in items:
        text = str(item).strip()
        if isinstance(item, bool) or not (text.isdigit() or _UUID.match(text)):
            raise _Wrong(
                "%s holds %r, but GPUs are named by index or UUID" % (where, item),
                "set gpus: all",
                "set gpus: [0]",
                "nvidia-smi -L prints the UUIDs",
            )
        text = str(int(text)) if text.isdigit() else text
        if text not in found:
            found.append(text)
    return found


# public keys ------------------------------------------------------------------------------------------------


def looks_like_a_path(text: str) -> bool:
    """A file's name, and no key as text?

    >>> looks_like_a_path("~/.ssh/id_ed25519.pub"), looks_like_a_path("ssh-ed25519 AAAA alice@desk")
    (True, False)
    """
    text = text.strip()
    return (
        "\n" not in text and " " not in text and (text.startswith(("/", "~", ".")) or text.endswith(".pub"))
    )


def read_key_files(value: Any, read: Callable[[str], str]) -> Any:
    """The users with their keys' files read: each path becomes the file's lines.

    `read` is the front door's way to a file of the controller. Raises KeyFileError, which says what is wrong.
    What is no list of users is left to the rule.
    """
    if not isinstance(value, (list, tuple)):
        return value
    result = []
    for index, entry in enumerate(value):
        if isinstance(entry, Mapping) and isinstance(entry.get("authorized_keys"), (list, tuple, str)):
            keys = entry["authorized_keys"]
            texts: List[Any] = []
            for item in [keys] if isinstance(keys, str) else keys:
                if isinstance(item, str) and looks_like_a_path(item):
                    where = "%s[%d] (%s).authorized_keys" % (USERS, index, entry.get("name"))
                    texts += read_key_file(read, item.strip(), where)
                else:
                    texts.append(item)
            entry = dict(entry, authorized_keys=texts)
        result.append(entry)
    return result


class KeyFileError(ValueError):
    """A file of public keys that is none."""


def read_key_file(read: Callable[[str], str], path: str, where: str) -> List[str]:
    """The keys in a file of the controller; ``where`` is who names it, for the error."""
    if not path.startswith(("/", "~")):
        raise KeyFileError(
            "%s names %s, which is no absolute path: write {{ inventory_dir }}/%s or the key itself"
            % (where, path, path)
        )
    try:
        text = read(path)
    except OSError as error:
        raise KeyFileError(
            "%s names %s, which cannot be read on the controller: %s" % (where, path, error.strerror or error)
        ) from error
    except UnicodeDecodeError as error:
        raise KeyFileError("%s names %s, which is no text: no public key" % (where, path)) from error
    if "PRIVATE KEY" in text:
        # Its content must not reach anybody's screen or node.
        raise KeyFileError(
            "%s names %s, which is a private key: name the public one (%s.pub)" % (where, path, path)
        )
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    if not lines:
        raise KeyFileError("%s names %s, which holds no key" % (where, path))
    for line in lines:
        if key_of(line) is None:
            raise KeyFileError(
                "%s names %s, which holds a line that is no public key: %s" % (where, path, _shown(line))
            )
    return lines


def _shown(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _keys(value: Any, where: str) -> List[str]:
    if value is None or value == "":
        return []
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise _Wrong("%s is %r, but must be a list of public keys" % (where, value), "give a list")
    found: List[str] = []
    for item in items:
        if not isinstance(item, str):
            raise _Wrong(
                "%s holds %r, which is no public key" % (where, item), "write the line of a .pub file"
            )
        if "PRIVATE KEY" in item:
            raise _Wrong(
                "%s holds a private key" % where,
                "take it out of the inventory, and make a new one: it is no secret any more",
                "write the line of the .pub file",
            )
        for line in item.splitlines():
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            if looks_like_a_path(line):
                raise _Wrong(
                    "%s names the file %s, which nobody has read here" % (where, line), "write the key itself"
                )
            if key_of(line) is None:
                raise _Wrong(
                    "%s holds %r, which is no public key" % (where, _shown(line)),
                    "write the line of a .pub file, such as: ssh-ed25519 AAAA... alice@desk",
                )
            if line not in found:
                found.append(line)
    return found


def key_of(line: str) -> Optional[str]:
    """The type of a public key's line, options before it allowed; None when it is none.

    >>> key_of("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVQxvlE0dgYwmCJmZ1YRU4yIr/Q9WBqEVCW8GeZJV4c alice")
    'ssh-ed25519'
    >>> key_of("ssh-ed25519 nonsense") is None
    True
    """
    words = line.split()
    for index, word in enumerate(words[:-1]):
        if word in KEY_TYPES:
            return word if _blob_type(words[index + 1]) == word else None
    return None


def _blob_type(text: str) -> Optional[str]:
    """What kind of key the bytes themselves say they are; None where they do not fill what they promise."""
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    parts = []
    at = 0
    while at < len(blob):
        if at + 4 > len(blob):
            return None
        (size,) = struct.unpack(">I", blob[at : at + 4])
        if at + 4 + size > len(blob):
            return None
        parts.append(blob[at + 4 : at + 4 + size])
        at += 4 + size
    if len(parts) < 2:
        return None
    return parts[0].decode("ascii", "replace")


# all of them together ---------------------------------------------------------------------------------------


def _no_twins(rows: Sequence[Mapping[str, Any]], name: str) -> None:
    seen: Dict[str, int] = {}
    ports: Dict[int, str] = {}
    for index, row in enumerate(rows):
        if row["name"] in seen:
            raise _Wrong(
                "%s names %s twice, in [%d] and [%d]" % (name, row["name"], seen[row["name"]], index),
                "give each user one entry",
            )
        seen[row["name"]] = index
        if row["state"] == "absent":
            continue
        for key in ("jupyter_port", "ssh_port"):
            port = row[key]
            if port is None:
                continue
            if port in ports:
                taken = {row[k] for row in rows for k in ("jupyter_port", "ssh_port")}
                free = next(number for number in range(port + 1, 65536) if number not in taken)
                raise _Wrong(
                    "%s[%d] (%s).%s is %d, which is %s's already"
                    % (name, index, row["name"], key, port, ports[port]),
                    "set %s: %d" % (key, free),
                )
            ports[port] = "%s's %s" % (row["name"], key)


def bind_address(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    """The rule of whatever says at which of the node's addresses something listens."""
    text = str(value).strip() if isinstance(value, str) else ""
    try:
        return str(ipaddress.ip_address(text.strip("[]"))), None
    except ValueError:
        return value, Problem(
            name,
            "%s is %r, but must be an IP address of the node" % (name, value),
            ["set %s: 127.0.0.1" % name, "set %s: 0.0.0.0 for all of them" % name],
        )


def is_loopback(address: str) -> bool:
    """
    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    return ipaddress.ip_address(address).is_loopback


def token_length(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    """The rule of `gpu_workbench_token_length`."""
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdigit() or not SAFE_BYTES <= int(text) <= MOST_BYTES:
        return value, Problem(
            name,
            "%s is %r, but must be a number of bytes, %d to %d: whoever guesses the token owns the workbench"
            % (name, value, SAFE_BYTES, MOST_BYTES),
            ["set %s: 32" % name],
        )
    return int(text), None


def absolute_path(name: str, value: Any) -> Tuple[Any, Optional[Problem]]:
    """The rule of a path on the node."""
    if value in (None, ""):
        return "", None
    text = value.strip() if isinstance(value, str) else ""
    if not re.match(r"^/[A-Za-z0-9._/@+-]+$", text) or "/../" in text + "/":
        return value, Problem(
            name,
            "%s is %r, but must be an absolute path on the node, of letters, digits and ._/@+-"
            % (name, value),
            ["write it from / on, without spaces"],
        )
    return text.rstrip("/"), None
