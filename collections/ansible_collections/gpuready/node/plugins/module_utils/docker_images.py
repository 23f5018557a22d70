# Copyright: gpuready developers
# SPDX-License-Identifier: Apache-2.0
"""Why an image could not be fetched, in one word, from what Docker says."""

from __future__ import annotations

import re

# One word for each thing that somebody has to repair, with Docker's and the registries' own words for it.
# The first match wins; the more particular come first.
_REASONS = (
    ("disk_full", r"no space left on device|disk quota exceeded"),
    ("plain_http", r"server gave HTTP response to HTTPS client"),
    ("untrusted", r"x509:|certificate signed by unknown authority|tls: failed to verify"),
    ("rate_limited", r"toomanyrequests|pull rate limit|429 Too Many Requests"),
    (
        "denied",
        r"unauthorized|authentication required|no basic auth credentials|403 Forbidden|"
        r"pull access denied|denied:",
    ),
    (
        "missing",
        r"manifest unknown|manifest for \S+ not found|name unknown|repository name not known|: not found",
    ),
    (
        "wrong_platform",
        r"no matching manifest for|does not match the (?:specified|detected host) platform",
    ),
    (
        "unreachable",
        r"connection refused|no such host|i/o timeout|network is unreachable|no route to host|"
        r"Client\.Timeout exceeded|context deadline exceeded|TLS handshake timeout|server misbehaving|"
        r"connection reset by peer|temporary failure in name resolution|50[234] |unexpected EOF|: EOF",
    ),
    ("no_docker", r"Cannot connect to the Docker daemon|Is the docker daemon running"),
    (
        "broken_archive",
        r"invalid tar header|archive/tar|unexpected EOF|invalid archive|unrecognized image format",
    ),
)


def reason(words: str) -> str:
    """The reason for a failed `docker pull` or `docker load`; `unknown` when its words are not known."""
    for name, pattern in _REASONS:
        if re.search(pattern, words, re.IGNORECASE):
            return name
    return "unknown"


def last_words(text: str) -> str:
    """The line in which Docker says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "denied", "unauthorized"))]
    return (errors or lines or [""])[-1]


def loaded_names(text: str) -> list[str]:
    """What `docker load` says that it brought: references, or ids for images without a name."""
    return re.findall(r"^Loaded image(?: ID)?: (\S+)$", text, re.MULTILINE)
