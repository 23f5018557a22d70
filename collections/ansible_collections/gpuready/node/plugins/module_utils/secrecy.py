# Apache-2.0 (see LICENSE)
"""What a secret is called, and what it looks like: the one place that says so. Runs on nodes too: Python 3.8.

What is found becomes `***`. The support bundle takes out more (`diagnosis/redaction.py`), by the same names.
"""

from __future__ import annotations

import re
from typing import Any, Callable

GONE = "***"

# What is called so is one, whatever stands before it (`splunk-token`, `AWS_SECRET`, `dbpassword`).
_ALWAYS = (
    r"passw(?:or)?d|pass(?:phrase|code)|secret|token|credential|authorization|authtoken|bearer|cookie"
    r"|(?:api|access|private|secret|encryption|license|ssh|account|auth)[-_]?key(?:[-_]id)?"
)
# Parts of other words (`compass`, `author`), too.
_ALONE = r"pass|pwd|auth(?:s)?|signature"
#: A secret's name, as it stands in a text.
NAME = r"(?:(?:%s)|(?<![A-Za-z0-9])(?:%s))s?" % (_ALWAYS, _ALONE)
_KEY = re.compile(r"(?:%s|%s)s?$" % (_ALWAYS, _ALONE), re.I)
# Keys that end like a secret's and hold none.
_HARMLESS_KEY = re.compile(
    r"^(?:.*(?:key|token|secret)s?_(?:url|path|file|fingerprint)s?|keys?|(?:old)?pwd|authors?)$", re.I
)
_ASSIGNED = re.compile(r"(%s[\"']?\s*[=:]\s*[\"']?(?:bearer\s+)?)[^\s\"'&,;]+" % NAME, re.I)
_OPTION = re.compile(r"(%s=).+" % NAME, re.I)
_IN_URL = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
# What says by its form that it is one.
_FORM = re.compile(
    r"\b(?:gh[pousr]_\w{10,}|github_pat_\w{20,}|gl(?:pat|dt|rt)-[\w-]{10,}|hf_\w{10,}|sk-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{12,}|AIza[\w-]{30,}|ya29\.[\w-]{20,}|nvapi-[\w-]{10,}"
    r"|dckr_(?:pat|oat)_[\w-]{16,}|npm_\w{20,}|pypi-[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?"
    r"|eyJ[\w-]{20,}|glsa_\w{20,}|dop_v1_\w{20,}|SG\.[\w-]{16,}\.[\w-]{16,})"
)


# What such a key may say without telling anything: the kind of it.
_KINDS = ("", "none", "password", "token", GONE)


def is_secret_key(key: str) -> bool:
    """Does a mapping keep a secret under this key?

    >>> [name for name in ("hf_token", "API-Key", "repo_key_url", "author", "key") if is_secret_key(name)]
    ['hf_token', 'API-Key']
    """
    return bool(_KEY.search(key)) and not _HARMLESS_KEY.match(key)


def without_url_passwords(text: str) -> str:
    """A text without the users and passwords in its URLs."""
    return _IN_URL.sub(GONE, text)


def without_secrets(text: str) -> str:
    """A log line without what looks like a password, a token or a key."""
    return _FORM.sub(GONE, _ASSIGNED.sub(r"\1" + GONE, without_url_passwords(text)))


def without_secret_option(word: str) -> str:
    """A word of a command line: all that stands behind `…token=`, such as a log driver's option."""
    return _OPTION.sub(r"\1" + GONE, word)


def redact(value: Any, text: Callable[[str], str] = without_url_passwords) -> Any:
    """The same value without passwords: those inside its texts, and the values of keys named like one.

    >>> redact({"proxies": {"http-proxy": "http://me:pw@proxy:3128"}, "token": "abc", "auth": "token"})
    {'proxies': {'http-proxy': 'http://***@proxy:3128'}, 'token': '***', 'auth': 'token'}
    """
    if isinstance(value, dict):
        return {
            key: GONE
            if isinstance(item, str) and item not in _KINDS and is_secret_key(str(key))
            else redact(item, text)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact(item, text) for item in value]
    if isinstance(value, str):
        return text(value)
    return value
