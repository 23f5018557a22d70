# Apache-2.0 (see LICENSE)
"""Which nodes are meant: names, addresses, lists, ranges, the data centre's CSV. Pure; controller only.

Everything that is wrong is found here, all of it at once, and before anything is changed anywhere.
"""

from __future__ import annotations

import base64
import binascii
import csv
import difflib
import hashlib
import io
import ipaddress
import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import yaml

from . import variables as public
from .hostnames import MOST, HostnameError, check_address, check_name, check_port, expand, is_ip, split_port
from .inventory_edit import QUARANTINE
from .secrecy import is_secret_key

#: How sshd is reached when nobody says otherwise.
SSH_PORT = 22
COLUMNS = ("name", "address", "port", "groups", "host_key", "bootstrap_user", "bootstrap_password")
NEEDED = ("name", "address")
VARIABLE = "var:"
FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
PUBLIC_KEY = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+ +([A-Za-z0-9+/]+={0,3})(?: .*)?")
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@\\-]{0,63}")
TEMPLATE = re.compile(r"\{\{|\{%|\{#")
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class RequestError(ValueError):
    """The request as a whole cannot be read; one sentence."""


@dataclass(frozen=True)
class Candidate:
    """A node that is to come into service. No secret is ever in it."""

    name: str
    address: str
    port: int | None = None
    groups: tuple[str, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    host_key: str | None = None
    bootstrap_user: str | None = None
    bootstrap_password_given: bool = False
    #: The line of the CSV.
    row: int | None = None
    #: new | quarantine | member
    state: str = "new"

    @property
    def reached(self) -> tuple[str, int]:
        """What no two nodes share."""
        return self.address, self.port or SSH_PORT

    def document(self) -> dict[str, Any]:
        """As it is handed over."""
        return {**vars(self), "groups": list(self.groups), "variables": dict(self.variables)}


@dataclass(frozen=True)
class Rejected:
    """What was asked for and cannot be; ``value`` as it was written, without secrets."""

    row: int | None
    value: str
    problem: str

    def __str__(self) -> str:
        return f"{f'line {self.row} ({self.value})' if self.row else self.value}: {self.problem}"


@dataclass(frozen=True)
class Known:
    """A host that the inventory has already."""

    name: str
    address: str
    port: int | None
    state: str


@dataclass(frozen=True)
class Site:
    """What a request is held against: the inventory, and the variables that exist."""

    hosts: Mapping[str, Known] = field(default_factory=dict)
    #: The groups that can be edited, those of the inventory file; None: nobody looked.
    groups: Sequence[str] | None = None
    #: The roles' argument specs: ``{role: {variable: specification}}``.
    specs: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    #: Whether new nodes are none of the request's business.
    existing_only: bool = False

    def at(self, address: str, port: int | None) -> list[Known]:
        """Who is reached there; without a port, on whichever."""
        found = [host for host in self.hosts.values() if same_address(host.address, address)]
        exact = [host for host in found if (host.port or SSH_PORT) == (port or SSH_PORT)]
        return exact or (found if port is None else [])


def same_address(one: str, other: str) -> bool:
    """The same address, however it is written.

    >>> same_address("2001:db8::7", "2001:DB8:0::7"), same_address("GPU1.example", "gpu1.example.")
    (True, True)
    """
    try:
        return check_address(one) == check_address(other)
    except HostnameError:
        return one == other


def default_name(address: str) -> str:
    """What a node is called of which only the address is known.

    >>> default_name("10.0.0.17"), default_name("2001:db8::17")
    ('10.0.0.17', '2001-db8--17')
    """
    return address.replace(":", "-").strip("-") if is_ip(address) and ":" in address else address


# --- node= --------------------------------------------------------------------------------------------------


def words(node: Any) -> list[str]:
    """The items of ``node=``: a text with commas or blanks between them, or a list."""
    if node is None:
        return []
    if isinstance(node, (list, tuple)):
        return [word for item in node for word in words(item)]
    if isinstance(node, (bool, dict)):
        raise RequestError(
            f"node is {node!r}; give a name, an address, NAME=ADDRESS, a range or a list of these"
        )
    return [word for word in re.split(r"[,\s]+", str(node)) if word]


def requested(node: Any, site: Site) -> tuple[list[Candidate], list[Rejected]]:
    """What ``node=`` means."""
    good: list[Candidate] = []
    bad: list[Rejected] = []
    for word in words(node):
        try:
            for candidate in _of_word(word, site):
                try:
                    good.append(_settled(candidate, site))
                except HostnameError as error:
                    bad.append(Rejected(None, _shown(candidate, word), str(error)))
        except HostnameError as error:
            bad.append(Rejected(None, word, str(error)))
        if len(good) > MOST:
            raise RequestError(f"more than {MOST} nodes at once: take them in parts")
    # Who is named by name and by address is one node all the same.
    once = {(candidate.name, candidate.reached): candidate for candidate in good}
    return _without_twins(list(once.values()), bad)


def _shown(candidate: Candidate, word: str) -> str:
    return word if word in (candidate.name, candidate.address) else f"{candidate.address} of {word}"


def _of_word(word: str, site: Site) -> Iterable[Candidate]:
    name, equals, place = word.rpartition("=")
    pattern, port_text = split_port(place)
    port = check_port(port_text) if port_text is not None else None
    if "/" in pattern:
        raise HostnameError(_network_hint(pattern))
    if re.fullmatch(r"[0-9.]+\.[0-9]+-[0-9.]+", pattern):
        first, _dash, last = pattern.partition("-")
        head, _dot, begin = first.rpartition(".")
        raise HostnameError(f"a range is written {head}.[{begin}:{last.rpartition('.')[2]}]")
    # In an IPv6 address there is no range: its own brackets are around the whole.
    places = [pattern] if is_ip(pattern) else expand(pattern)
    if equals:
        if not name:
            raise HostnameError("there is no name before the =")
        names = expand(name)
        if len(names) != len(places):
            raise HostnameError(f"{len(names)} names for {len(places)} addresses")
        return [
            Candidate(check_name(one), check_address(at), port) for one, at in zip(names, places, strict=True)
        ]
    return [_of_place(at, port, site) for at in places]


def _network_hint(pattern: str) -> str:
    try:
        network = ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return f"{pattern!r} is neither an address nor a range"
    hosts = network.version == 4 and 24 <= network.prefixlen <= 30
    head, _dot, first = str(network.network_address + 1).rpartition(".")
    last = str(network.broadcast_address - 1).rpartition(".")[2] if hosts else ""
    hint = f", such as {head}.[{first}:{last}]" if hosts else ""
    return f"a whole network is no request for nodes: give a range{hint}"


def _of_place(place: str, port: int | None, site: Site) -> Candidate:
    """A word without a name: a host of the inventory, or a new one's address."""
    known = site.hosts.get(place)
    if known is None:
        there = site.at(check_address(place), port)
        if len(there) > 1:
            names = ", ".join(f"{host.name} (port {host.port or SSH_PORT})" for host in there)
            raise HostnameError(f"the inventory has several hosts there: {names}; say which one by its name")
        known = there[0] if there else None
    if known is not None:
        if port is not None and port != (known.port or SSH_PORT):
            raise HostnameError(
                f"the inventory reaches {known.name} at port {known.port or SSH_PORT}, not {port}"
            )
        return Candidate(known.name, known.address, known.port)
    address = check_address(place)
    return Candidate(default_name(address), address, port)


def _settled(candidate: Candidate, site: Site) -> Candidate:
    """The candidate with its state, held against the inventory."""
    known = site.hosts.get(candidate.name)
    if known is not None:
        if not same_address(known.address, candidate.address):
            raise HostnameError(
                f"the name {candidate.name} is taken: the inventory has it at {known.address}; "
                "take another name, or take the old node out with playbooks/offboard.yml"
            )
        if candidate.port is not None and candidate.port != (known.port or SSH_PORT):
            raise HostnameError(
                f"the inventory reaches {known.name} at port {known.port or SSH_PORT}, not {candidate.port}"
            )
        return replace(candidate, port=known.port, state=known.state)
    if site.existing_only:
        near = difflib.get_close_matches(candidate.name, site.hosts, n=1)
        advice = f"; did you mean {near[0]}?" if near else ""
        raise HostnameError(f"the inventory has no such node{advice}")
    for other in site.at(candidate.address, candidate.port or SSH_PORT):
        raise HostnameError(
            f"the address {candidate.address} is taken: the inventory has it as {other.name}; "
            f"use that name, or take the old node out with playbooks/offboard.yml -e node={other.name}"
        )
    return candidate


def _without_twins(
    candidates: list[Candidate], bad: list[Rejected]
) -> tuple[list[Candidate], list[Rejected]]:
    """What names the same node twice: which one is right is a person's word, so that none is taken."""
    names: dict[str, list[Candidate]] = {}
    places: dict[tuple[str, int], list[Candidate]] = {}
    for candidate in candidates:
        names.setdefault(candidate.name, []).append(candidate)
        places.setdefault(candidate.reached, []).append(candidate)
    good = []
    for candidate in candidates:
        others = [one for one in names[candidate.name] if one is not candidate]
        if others:
            where = _lines(others)
            bad.append(
                Rejected(candidate.row, candidate.name, f"the name {candidate.name} is there twice{where}")
            )
            continue
        others = [one for one in places[candidate.reached] if one is not candidate]
        if others:
            by = ", ".join(one.name for one in others)
            bad.append(
                Rejected(
                    candidate.row,
                    candidate.name,
                    f"the address {candidate.address} is there twice, also as {by}{_lines(others)}",
                )
            )
            continue
        good.append(candidate)
    return good, sorted(bad, key=lambda one: one.row or 0)


def _lines(candidates: Sequence[Candidate]) -> str:
    rows = [str(one.row) for one in candidates if one.row]
    return f" (line {', '.join(rows)})" if rows else ""


# --- csv= ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A line of the CSV, by its columns."""

    number: int
    cells: Mapping[str, str]
    problem: str | None = None

    @property
    def value(self) -> str:
        """What tells the row to a person."""
        shown = list(self.cells)
        if self.problem and "bootstrap_password" in shown:
            # Cells that are shifted: what stands under another column may be the password.
            shown = shown[: shown.index("bootstrap_password")]
        told = [self.cells[column] for column in NEEDED if column in shown and self.cells[column]]
        return ", ".join(told) or "no name"


def rows(text: str) -> list[Row]:
    """The rows of a CSV with commas, semicolons or tabs, as spreadsheets and asset systems write it."""
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise RequestError("it is no CSV: there is a NUL byte in it")
    lines = text.splitlines()
    header_line = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=header_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: list[Row] = []
    header: list[str] | None = None
    before = 0
    try:
        for cells in reader:
            number, before = before + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _header(cells)
                continue
            problem = None
            if len(cells) != len(header):
                problem = f"it has {len(cells)} cells, and the header has {len(header)}"
            # A password may begin or end with a blank.
            taken = {
                column: cell if column == "bootstrap_password" else cell.strip()
                for column, cell in zip(header, cells, strict=False)
            }
            found.append(Row(number, taken, problem))
    except csv.Error as error:
        raise RequestError(f"it is no CSV at line {reader.line_num}: {error}") from None
    if header is None:
        raise RequestError(f"it is empty; its first line names the columns: {', '.join(COLUMNS)}, var:NAME")
    if len(found) > MOST:
        raise RequestError(f"it has {len(found)} rows; take at most {MOST} at once")
    return found


def _header(cells: Sequence[str]) -> list[str]:
    header = []
    for cell in cells:
        column = cell.strip()
        plain = column.lower()
        if plain.startswith(VARIABLE):
            header.append(VARIABLE + column[len(VARIABLE) :].strip())
            continue
        if plain not in COLUMNS:
            near = difflib.get_close_matches(plain, COLUMNS, n=1)
            advice = (
                f"did you mean {near[0]}?"
                if near
                else f"a host variable is a column {VARIABLE}{plain or 'NAME'}"
            )
            raise RequestError(
                f"unknown column {column!r}: {advice} The columns: {', '.join(COLUMNS)}, var:NAME"
            )
        header.append(plain)
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise RequestError(f"the column {twice[0]} is there twice")
    missing = [column for column in NEEDED if column not in header]
    if missing:
        raise RequestError(
            f"there is no column {' and no column '.join(missing)}; it has {', '.join(header)}"
        )
    return header


def listed(text: str, site: Site) -> tuple[list[Candidate], list[Rejected]]:
    """What a CSV means."""
    found = rows(text)
    for column in found[0].cells if found else ():
        if column.startswith(VARIABLE):
            check_variable(column[len(VARIABLE) :], site)
    good: list[Candidate] = []
    bad: list[Rejected] = []
    for row in found:
        if row.problem:
            bad.append(Rejected(row.number, row.value, row.problem))
            continue
        candidate, problems = _of_row(row, site)
        if candidate is not None and not problems:
            good.append(candidate)
        bad += [Rejected(row.number, row.value, problem) for problem in problems]
    return _without_twins(good, bad)


def _of_row(row: Row, site: Site) -> tuple[Candidate | None, list[str]]:
    """The row's candidate, and all that is wrong with it."""
    problems: list[str] = []

    def take(column: str, read: Callable[[str], Any], otherwise: Any = None) -> Any:
        text = row.cells.get(column) or ""
        if not text:
            if column in NEEDED:
                problems.append(f"there is no {column}")
            return otherwise
        try:
            return read(text)
        except ValueError as error:
            problems.append(f"{column}: {error}")
            return otherwise

    name = take("name", check_name)
    address = take("address", check_address)
    port = take("port", check_port)
    groups = take("groups", lambda text: _groups(text, site), ())
    host_key = take("host_key", fingerprint)
    user = take("bootstrap_user", _user)
    given = bool(take("bootstrap_password", _password, ""))
    values = {}
    for column in row.cells:
        if column.startswith(VARIABLE) and row.cells[column]:
            variable = column[len(VARIABLE) :]
            values[variable] = take(column, partial(typed, variable, site=site))
    if problems:
        return None, problems
    candidate = Candidate(name, address, port, groups, values, host_key, user, given, row.number)
    try:
        return _settled(candidate, site), []
    except HostnameError as error:
        return None, [str(error)]


def _groups(text: str, site: Site) -> tuple[str, ...]:
    groups = tuple(dict.fromkeys(group for group in re.split(r"[,;|\s]+", text) if group))
    if QUARANTINE in groups:
        raise ValueError(
            f"a node comes out of {QUARANTINE} by being accepted; name the group that it will be in"
        )
    if site.groups is not None:
        unknown = [group for group in groups if group not in site.groups or group == "all"]
        if unknown:
            near = difflib.get_close_matches(unknown[0], site.groups, n=1)
            there = ", ".join(group for group in site.groups if group not in ("all", QUARANTINE)) or "none"
            advice = f"did you mean {near[0]}?" if near else f"the inventory has {there}"
            raise ValueError(f"there is no group {unknown[0]}: {advice}")
    return groups


def fingerprint(text: str) -> str:
    """A host key's fingerprint, of itself or of the public key.

    >>> fingerprint("SHA256:cJ6AyISHokEeHuTfufIqhhSS0gxHZRUMDHlKvXD4FHw")
    'SHA256:cJ6AyISHokEeHuTfufIqhhSS0gxHZRUMDHlKvXD4FHw'
    """
    whole = PUBLIC_KEY.fullmatch(text)
    if whole:
        try:
            key = base64.b64decode(whole.group(1), validate=True)
        except binascii.Error:
            raise ValueError("it is no public key") from None
        return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    if FINGERPRINT.fullmatch(text.rstrip("=")):
        return text.rstrip("=")
    if re.fullmatch(r"(?:MD5:)?(?:[0-9a-f]{2}:){15}[0-9a-f]{2}", text, re.I):
        raise ValueError(
            "an MD5 fingerprint proves nothing any more; give the SHA256 one (ssh-keygen -lf KEY.pub)"
        )
    raise ValueError(
        f"{text!r} is no fingerprint; it is written SHA256:… with 43 characters, or the public key itself"
    )


def _user(text: str) -> str:
    if not USER.fullmatch(text):
        raise ValueError(f"{text!r} is no user's name")
    return text


def _password(text: str) -> str:
    if re.search(r"[\r\n]", text):
        # The value is nobody's business, also in an error.
        raise ValueError("a line break cannot be part of a password")
    return text


def bootstrap_password(text: str, name: str) -> str:
    """The password of a node's row; empty where the CSV has none."""
    found = [row.cells.get("bootstrap_password") or "" for row in rows(text) if row.cells.get("name") == name]
    return found[0] if len(found) == 1 else ""


# --- variables ----------------------------------------------------------------------------------------------


def check_variable(name: str, site: Site) -> None:
    """Whether a column may set this host variable."""
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
        raise RequestError(f"column {VARIABLE}{name}: {name!r} cannot be a variable's name")
    if name.startswith("ansible_"):
        raise RequestError(
            f"column {VARIABLE}{name}: how a node is reached stands in the columns address, port and "
            "bootstrap_user, or in the inventory's group variables"
        )
    if is_secret_key(name):
        raise RequestError(
            f"column {VARIABLE}{name}: a secret does not belong into the inventory; use a vault"
        )
    for _name, message in public.misspelt(
        [name], {role: dict(options) for role, options in site.specs.items()}
    ):
        raise RequestError(f"column {VARIABLE}{name}: {message}")


def typed(name: str, text: str, site: Site) -> Any:
    """A cell's value, of the type that the variable's role wants; text where nobody says."""
    if TEMPLATE.search(text):
        raise ValueError(
            "a template (braces) would be run on this machine; write it into the inventory by hand"
        )
    option = next((options[name] for options in site.specs.values() if name in options), {})
    kind = option.get("type", "str")
    value: Any = text
    if kind == "bool":
        if text.lower() not in TRUE + FALSE:
            raise ValueError(f"{text!r} is neither true nor false")
        value = text.lower() in TRUE
    elif kind in ("int", "float"):
        try:
            value = int(text) if kind == "int" else float(text)
        except ValueError:
            raise ValueError(f"{text!r} is no {'whole number' if kind == 'int' else 'number'}") from None
    elif kind in ("list", "dict"):
        value = _structure(text, list if kind == "list" else dict)
    choices = option.get("choices")
    if choices and kind in ("str", "int") and value not in choices:
        raise ValueError(f"{text!r} is none of {', '.join(map(str, choices))}")
    return value


def _structure(text: str, kind: type) -> Any:
    """A list or a mapping in a cell: ``[a, b]``, ``{a: b}``, or the words of a list."""
    if kind is list and not text.startswith("["):
        return [word for word in re.split(r"[,;|\s]+", text) if word]
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, kind):
        raise ValueError(
            f"{text!r} is no {'list such as [a, b]' if kind is list else 'mapping such as {a: b}'}"
        )
    return value


# --- what is wrong ------------------------------------------------------------------------------------------


def complaint(good: Sequence[Candidate], bad: Sequence[Rejected], source: str) -> str:
    """All that is wrong, in one message."""
    lines = [f"  {rejected}" for rejected in bad]
    nodes = len({(rejected.row, rejected.value) for rejected in bad})
    head = f"{source}: {nodes} of {nodes + len(good)} nodes cannot be taken, and nothing was changed:"
    mend = "Mend " + ("them" if nodes > 1 else "it")
    others = f", or take the other {len(good)} with -e skip_bad_rows=true" if good else ""
    return "\n".join([head, *lines, f"{mend}{others}."])
