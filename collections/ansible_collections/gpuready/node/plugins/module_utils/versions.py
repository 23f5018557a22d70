# Apache-2.0 (see LICENSE)
"""Versions: Debian's ordering (deb-version(7)) and the driver version inside a package version.

Runs on nodes too: Python 3.8.
"""

from __future__ import annotations

import re
from functools import total_ordering
from typing import List, Optional, Tuple

_UPSTREAM_DRIVER = re.compile(r"(?:^|\.so\.)(\d{3,4}(?:\.\d+){1,2})(?!\d)")
_BRANCH = re.compile(r"^(\d{3,4})(?:\.|$)")
_NON_DIGITS = re.compile(r"^[^0-9]*")
_DIGITS = re.compile(r"^[0-9]*")


def _order(char: str) -> int:
    """The weight of a non-digit: ~ sorts before the end, the end before letters, letters before the rest."""
    if char == "~":
        return -1
    if char.isalpha():
        return ord(char)
    return ord(char) + 256


def _compare_part(left: str, right: str) -> int:
    """Compare two upstream versions or two revisions as dpkg does."""
    while left or right:
        left_text = _NON_DIGITS.match(left).group(0)  # type: ignore[union-attr]
        right_text = _NON_DIGITS.match(right).group(0)  # type: ignore[union-attr]
        left, right = left[len(left_text) :], right[len(right_text) :]
        for index in range(max(len(left_text), len(right_text))):
            left_weight = _order(left_text[index]) if index < len(left_text) else 0
            right_weight = _order(right_text[index]) if index < len(right_text) else 0
            if left_weight != right_weight:
                return -1 if left_weight < right_weight else 1
        left_digits = _DIGITS.match(left).group(0)  # type: ignore[union-attr]
        right_digits = _DIGITS.match(right).group(0)  # type: ignore[union-attr]
        left, right = left[len(left_digits) :], right[len(right_digits) :]
        left_number, right_number = int(left_digits or "0"), int(right_digits or "0")
        if left_number != right_number:
            return -1 if left_number < right_number else 1
    return 0


def split(version: str) -> Tuple[int, str, str]:
    """(epoch, upstream, revision) of a Debian version."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    if not epoch.isdigit():
        raise ValueError("not a version: %r (the epoch is not a number)" % version)
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, ""
    return int(epoch), upstream, revision


def compare(left: str, right: str) -> int:
    """-1, 0 or 1: left is older than, equal to or newer than right, by dpkg's rules."""
    left_epoch, left_upstream, left_revision = split(left)
    right_epoch, right_upstream, right_revision = split(right)
    if left_epoch != right_epoch:
        return -1 if left_epoch < right_epoch else 1
    return _compare_part(left_upstream, right_upstream) or _compare_part(left_revision, right_revision)


def at_least(version: str, floor: str) -> bool:
    """Is `version` the same as or newer than `floor`?"""
    return compare(version, floor) >= 0


@total_ordering
class Version:
    """A version as a sort key."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and compare(self.text, other.text) == 0

    def __lt__(self, other: "Version") -> bool:
        return compare(self.text, other.text) < 0

    def __hash__(self) -> int:
        # Equal versions may be spelt differently (1.0 and 1.00), so only what cannot differ is hashed.
        return hash(split(self.text)[0])

    def __repr__(self) -> str:
        return "Version(%r)" % self.text


def newest(candidates: List[str]) -> Optional[str]:
    """The newest of some versions; None of nothing."""
    return max(candidates, key=Version) if candidates else None


def upstream(package_version: str) -> str:
    """The program's own version: `5:28.5.1-1~ubuntu.22.04~jammy` -> `28.5.1`."""
    return split(package_version)[1].partition("+")[0].partition("~")[0]


def driver_version(text: Optional[str]) -> Optional[str]:
    """The driver version in a text such as a package version or a library's name; None without one."""
    if not text:
        return None
    match = _UPSTREAM_DRIVER.search(re.sub(r"^\d+:", "", text))
    return match.group(1) if match else None


def driver_branch(version: Optional[str]) -> Optional[int]:
    """`580.95.05` -> 580; None when it does not look like a driver version."""
    if not version:
        return None
    match = _BRANCH.match(upstream(version))
    return int(match.group(1)) if match else None


def matches(package_version: str, wish: str) -> bool:
    """Does a package version answer a wish for the full package version or only for the upstream one?"""
    return package_version == wish or upstream(package_version) == wish or split(package_version)[1] == wish
