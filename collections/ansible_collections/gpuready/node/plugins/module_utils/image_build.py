# Apache-2.0 (see LICENSE)
"""Why an image could not be built, from what the build printed. Runs on nodes too: Python 3.8."""

from __future__ import annotations

import re
from typing import List, NamedTuple, Optional, Tuple

from . import docker_images
from .secrecy import without_secrets

LINES = 12
# BuildKit writes `#7 1.234 ` before a step's own words.
_PREFIX = re.compile(r"^#\d+ (?:\d+\.\d+ )?")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# What only says that a step failed, which the message says already.
_NOISE = re.compile(
    r"^(?:Removing intermediate container|Step \d+/\d+|---> |-{3,}|\s*$|Sending build context|WARNING: "
    r"|\[notice\]|debconf: |ERROR: failed to (?:solve|build)|(?:ERROR: )?executor failed"
    r"|sha256:[0-9a-f]{64}|DONE \d|CACHED$|(?:> )?\[\d+/\d+\] |\[internal\]|transferring )"
)


class Reason(NamedTuple):
    """One word for programs, and the sentence for people."""

    word: str
    what: str


# The first match wins; what names the thing comes before what only says that it failed. {0}: the first group.
_REASONS: Tuple[Tuple[str, str, str], ...] = (
    ("disk_full", r"no space left on device|disk quota exceeded", "the disk is full"),
    ("no_package", r"E: Unable to locate package (\S+)", "its package sources have no package {0}"),
    (
        "no_package",
        r"E: Package '?([^'\s]+)'? has no installation candidate",
        "its package sources have no package {0}",
    ),
    (
        "no_package",
        r"E: Version '([^']+)' for '([^']+)' was not found",
        "its package sources have no version {0} of {1}",
    ),
    ("apt_conflict", r"E: (Unable to correct problems, you have held broken packages)", "apt: {0}"),
    (
        "apt_unsigned",
        r"[EW]: (?:GPG error: )?(.*(?:NO_PUBKEY|is not signed|EXPKEYSIG).*)",
        "a package source cannot be trusted: {0}",
    ),
    (
        "apt_unreachable",
        r"E: ((?:Failed to fetch|The repository) .*)|[EW]: (?:Failed to fetch) (.*)",
        "a package source cannot be reached: {0}",
    ),
    (
        "pip_untrusted",
        r"The repository located at (\S+) is not a trusted",
        "pip does not trust the index at {0}",
    ),
    (
        "framework_pinned",
        r"The user requested \(constraint\) ([^\s]+)",
        "it asks for another framework than the base has ({0})",
    ),
    ("pip_conflict", r"ERROR: (Cannot install .*conflicting dependencies)", "{0}"),
    (
        "pip_unreachable",
        r"(?:NewConnectionError|Failed to establish a new connection|Name or service not known)",
        "pip cannot reach the index",
    ),
    (
        "no_distribution",
        r"No matching distribution found for (.+)",
        "the index has no {0} for this image's Python",
    ),
    (
        "base_missing",
        r"(?:pull access denied|manifest (?:for \S+ not found|unknown))",
        "its base is not on the node",
    ),
    (
        "command_failed",
        r"The command '(?:/bin/sh -c )?(.*)' returned a non-zero code: (\d+)",
        "`{0}` failed with exit code {1}",
    ),
    (
        "command_failed",
        r'(?:process "|executor failed running \[)(?:/bin/sh -c )?(.*)(?:" did not complete successfully|\])'
        r": exit code: (\d+)",
        "`{0}` failed with exit code {1}",
    ),
)


def reason(printed: str) -> Reason:
    """Why a build ended badly; `unknown` when its words are not known."""
    text = "\n".join(lines_of(printed))
    for word, pattern, what in _REASONS:
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            groups = [group for group in found.groups() if group] or [""]
            said = what.format(*[without_secrets(group.strip().rstrip(".")) for group in (*groups, "")])
            if word == "no_distribution" and re.search(r"NewConnectionError|Failed to establish a new", text):
                return Reason("pip_unreachable", "pip cannot reach the index")
            return Reason(word, said)
    word = docker_images.reason(text)
    return Reason(word, {"no_docker": "dockerd does not answer"}.get(word, "it cannot be built"))


def lines_of(printed: str) -> List[str]:
    """The build's own words, in either builder's form."""
    return [_PREFIX.sub("", _COLOUR.sub("", line)).rstrip() for line in printed.splitlines()]


def last_lines(printed: str) -> str:
    """The end of what it printed, without what says no more than that it failed."""
    kept: List[str] = []
    for line in lines_of(printed):
        if not _NOISE.match(line.strip()) and (not kept or kept[-1] != line):
            kept.append(line)
    return without_secrets("\n".join(kept[-LINES:]))


def used_cache(printed: str) -> bool:
    """Did a step come from an earlier build?"""
    return bool(re.search(r"^ ---> Using cache$|^#\d+ CACHED$", printed, re.MULTILINE))


def intermediate_images(printed: str) -> List[str]:
    """The old builder's images of the steps, the last one first."""
    return list(reversed(re.findall(r"^ ---> ([0-9a-f]{12})$", printed, re.MULTILINE)))


def why_silent(stderr: str) -> Optional[str]:
    """The line in which Python says why the probe did not answer."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"^\w*(?:Error|Exception)\b", line)]
    return without_secrets((errors or lines)[-1]) if lines else None
