# Apache-2.0 (see LICENSE)
"""Names, addresses and ranges of hosts, as Ansible's inventories write them: ``gpu[01:08]``."""

from __future__ import annotations

import ipaddress
import re
import string
from typing import Sequence

#: More than any request for nodes; a slip such as [1:99999999] should not fill the memory.
MOST = 4096

RANGE = re.compile(r"\[([^\[\]]*)\]")
LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


class HostnameError(ValueError):
    """Neither a name nor an address nor a range; one sentence."""


def _alternatives(inner: str, whole: str) -> list[str]:
    """What one pair of brackets stands for."""
    bounds = inner.split(":")
    if len(bounds) not in (2, 3) or not all(bounds):
        raise HostnameError("%r: a range is [first:last] or [first:last:step], with both ends" % whole)
    first, last = bounds[:2]
    step = bounds[2] if len(bounds) == 3 else "1"
    if not step.isascii() or not step.isdigit() or int(step) < 1:
        raise HostnameError("%r: the step %r of the range is no number from 1" % (whole, step))
    if len(first) == len(last) == 1 and first in string.ascii_letters and last in string.ascii_letters:
        letters = string.ascii_letters
        found = list(letters[letters.index(first) : letters.index(last) + 1 : int(step)])
    elif first.isascii() and last.isascii() and first.isdigit() and last.isdigit():
        width = 0
        if first[0] == "0" and len(first) > 1:
            width = len(first)
            if len(last) != width:
                raise HostnameError(
                    "%r: both ends of a range with leading zeros are of the same length" % whole
                )
        if (int(last) - int(first)) // int(step) >= MOST:
            raise HostnameError("%r: more than %d hosts" % (whole, MOST))
        found = [str(number).zfill(width) for number in range(int(first), int(last) + 1, int(step))]
    else:
        raise HostnameError("%r: a range goes from number to number, or from letter to letter" % whole)
    if not found:
        raise HostnameError("%r: the range ends (%s) before it begins (%s)" % (whole, last, first))
    return found


def expand(pattern: str) -> list[str]:
    """All that a pattern with any number of ranges stands for; itself where it has none.

    >>> expand("10.0.0.[8:10]"), expand("gpu[01:03:2].[a:b]")
    (['10.0.0.8', '10.0.0.9', '10.0.0.10'], ['gpu01.a', 'gpu01.b', 'gpu03.a', 'gpu03.b'])
    """
    found = [""]
    rest = 0
    for brackets in RANGE.finditer(pattern):
        between = pattern[rest : brackets.start()]
        alternatives = _alternatives(brackets.group(1), pattern)
        if len(found) * len(alternatives) > MOST:
            raise HostnameError("%r: more than %d hosts" % (pattern, MOST))
        found = [head + between + one for head in found for one in alternatives]
        rest = brackets.end()
    tail = pattern[rest:]
    if set("[]") & set(RANGE.sub("", pattern)):
        raise HostnameError("%r: a bracket is left open" % pattern)
    return [head + tail for head in found]


def split_port(text: str) -> tuple[str, str | None]:
    """An address or a pattern, and the port behind it as it is written.

    >>> split_port("10.0.0.[1:4]:2222"), split_port("[2001:db8::7]:22"), split_port("2001:db8::7")
    (('10.0.0.[1:4]', '2222'), ('2001:db8::7', '22'), ('2001:db8::7', None))
    """
    bracketed = re.fullmatch(r"\[([^\[\]]*(?:\[[^\]]*\][^\[\]]*)*)\](?::([^:]*))?", text)
    if bracketed and is_ip(bracketed.group(1)):
        return bracketed.group(1), bracketed.group(2)
    with_port = re.fullmatch(r"((?:[^:\[\]]|\[[^\]]*\])*):([^:\[\]]*)", text)
    return (with_port.group(1), with_port.group(2)) if with_port else (text, None)


def is_ip(text: str) -> bool:
    """An IP address of either family, without a port."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def names_of(key: str) -> Sequence[str]:
    """The hosts that a key of an inventory's ``hosts`` stands for."""
    pattern, port = split_port(key)
    if port is not None and not port.isdigit():
        pattern = key
    return expand(pattern) if "[" in pattern else (pattern,)


def check_port(text: str) -> int:
    """A TCP port."""
    number = int(text) if re.fullmatch(r"[0-9]{1,5}", text) else 0
    if not 1 <= number <= 65535:
        raise HostnameError("port %r is no number from 1 to 65535" % text)
    return number


def check_address(text: str) -> str:
    """An IP address or a DNS name that can be a node's; the canonical form.

    >>> check_address("2001:DB8:0:0::7"), check_address("GPU17.example.org")
    ('2001:db8::7', 'gpu17.example.org')
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        if re.fullmatch(r"[0-9.]+", text):
            raise HostnameError("%r is no IP address" % text) from None
        labels = text.rstrip(".").split(".")
        if len(text) > 253 or not all(LABEL.fullmatch(label) for label in labels):
            raise HostnameError("%r is neither an IP address nor a host name" % text) from None
        return text.rstrip(".").lower()
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        raise HostnameError("%r is the address of no single host" % text)
    return str(address)


def check_name(text: str) -> str:
    """A name for a host in an inventory: letters, digits, dots, dashes and underscores."""
    if len(text) > 253 or not all(LABEL.fullmatch(label) for label in text.split(".")):
        raise HostnameError("%r cannot be a host's name: letters, digits, dots, - and _ are possible" % text)
    if text in ("all", "localhost", "ungrouped"):
        raise HostnameError("%r means something else to Ansible; take another name" % text)
    return text
