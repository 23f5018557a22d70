# Apache-2.0 (see LICENSE)
"""What a first login finds out about a node, and what its failure means. Reads only; for the controller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MARK = "gpuready:"
#: For any POSIX shell; nothing but what every system has, since nobody knows yet which one it is.
LOOK = r"""
say() { printf 'gpuready:%s=%s\n' "$1" "$2"; }
say uid "$(id -u)"
say kernel "$(uname -s)"
say python "$(command -v python3 || true)"
say sudo "$(command -v sudo || true)"
if [ -r /etc/os-release ]; then
  say os "$(. /etc/os-release; printf '%s' "$ID")"
  say os_name "$(. /etc/os-release; printf '%s' "$PRETTY_NAME")"
fi
if sudo -n true >/dev/null 2>&1; then say root sudo; fi
"""
DISTRIBUTIONS = ("ubuntu", "debian")


class LoginError(Exception):
    """Why nobody can work on the node, and what to do."""


@dataclass(frozen=True)
class Way:
    """One way in: who, by what, and how it goes on to root."""

    user: str
    #: key | password
    by: str
    #: The automation user's own way.
    automation: bool = False


def answers(text: str) -> dict[str, str]:
    """What the script said, between whatever else a login prints.

    >>> answers("Welcome!\\ngpuready:uid=0\\n")
    {'uid': '0'}
    """
    found = {}
    for line in text.splitlines():
        _, mark, rest = line.partition(MARK)
        if mark:
            name, _, value = rest.strip().partition("=")
            found[name] = value
    return found


#: What ssh says → what it is. The first that matches.
SAID = (
    (
        "expired",
        re.compile(r"password (has )?expired|password change required|must change your password", re.I),
    ),
    ("host_key", re.compile(r"host key verification failed|identification has changed", re.I)),
    (
        "denied",
        re.compile(r"permission denied|too many authentication failures|no supported authentication", re.I),
    ),
    ("name", re.compile(r"could not resolve hostname|name or service not known", re.I)),
    (
        "silent",
        re.compile(
            r"timed out|connection refused|no route to host|network is unreachable|connection (closed|reset)|"
            r"kex_exchange_identification|connection timeout",
            re.I,
        ),
    ),
)


def kind(said: str) -> str:
    """What a failed login is: expired, host_key, denied, name, silent, or other.

    >>> kind("dc@10.0.0.17: Permission denied (publickey,password).")
    'denied'
    """
    return next((name for name, pattern in SAID if pattern.search(said)), "other")


def offered(said: str) -> list[str]:
    """The methods that the server offers, as ssh tells in its refusal.

    >>> offered("dc@10.0.0.17: Permission denied (publickey,password).")
    ['publickey', 'password']
    """
    match = re.search(r"permission denied \(([^)]*)\)", said, re.I)
    return match.group(1).split(",") if match else []


def last_line(said: str) -> str:
    """The one line of ssh's words that a person needs."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if kind(line) != "other"]
    return (telling or lines or ["ssh said nothing"])[-1]


def refusal(place: str, way: Way, said: str, *, key: str | None) -> str:
    """Why a login failed, for people."""
    what, words = kind(said), last_line(said)
    if what == "expired":
        return (
            f"{place}: the password of {way.user} has expired, and the node wants a new one before "
            f"anything else: "
            f"log in once by hand (ssh {way.user}@…), set it, and run again with the new one"
        )
    if what == "host_key":
        return f"{place}: the host key is not the one that is known: {words}"
    if what in ("name", "silent"):
        return f"{place} was not reached: {words}"
    if what != "denied":
        return f"{place}: the login as {way.user} failed: {words}"
    methods = offered(said)
    if way.by == "password" and methods and not {"password", "keyboard-interactive"} & set(methods):
        return (
            f"{place} takes no passwords from {way.user} (it offers {', '.join(methods)}): leave the "
            f"password out and "
            "log in with a key (ansible_ssh_private_key_file, or your SSH agent)"
        )
    if way.by == "password":
        return (
            f"{place} refuses the password of {way.user}: wrong user (-e bootstrap_user=…) or wrong password "
            "(-e @file with bootstrap_password, --ask-pass, or the column bootstrap_password of the CSV)"
        )
    if way.automation:
        return (
            f"{place} refuses the automation user {way.user} with "
            f"{f'the key {key}' if key else 'your keys'}: is its "
            "public half among node_access_authorized_keys, is this machine's address among "
            "node_access_sources, and "
            "do AllowUsers, AllowGroups or AuthorizedKeysFile in the node's sshd_config leave the user out?"
        )
    with_key = f"the key {key}" if key else "the keys of your SSH agent and ~/.ssh"
    return (
        f"{place} refuses {way.user} with {with_key}: name the user that the data centre set up (-e "
        f"bootstrap_user=…), "
        "and its password (--ask-pass, -e @file with bootstrap_password, or the CSV) or its key "
        "(ansible_ssh_private_key_file)"
    )


def unsuitable(place: str, facts: Mapping[str, str], way: Way) -> str | None:
    """Why the node is none that can be provisioned; None when it is one. Asked before anything is changed."""
    if "uid" not in facts:
        return (
            f"{place}: {way.user} gets no shell there: does its login run something else (a menu, a "
            f"forced command)?"
        )
    if facts.get("kernel") != "Linux":
        return (
            f"{place} runs {facts.get('kernel') or 'an unknown system'}, not Linux: only Ubuntu and "
            f"Debian nodes can be onboarded"
        )
    if facts.get("os") not in DISTRIBUTIONS:
        name = facts.get("os_name") or facts.get("os") or "an unknown Linux"
        return (
            f"{place} runs {name}: only Ubuntu and Debian nodes can be onboarded. Have it installed with "
            f"one of "
            "them; nothing was changed"
        )
    if not facts.get("python"):
        return f"{place} has no python3, which Ansible needs: apt-get install python3 there, and run again"
    if not facts.get("sudo"):
        return (
            f"{place} has no sudo, by which the automation user works: apt-get install sudo there, and "
            f"run again"
        )
    return None


def no_sudo(place: str, way: Way, *, password_given: bool, said: str) -> str:
    """Why a user cannot become root."""
    if not password_given:
        return (
            f"{place}: {way.user} cannot become root without a password: give sudo's (--ask-become-pass, or "
            "bootstrap_become_password in -e @file), or log in as root; nothing was changed"
        )
    if re.search(r"not in the sudoers|not allowed|may not run", said, re.I):
        why = "it has no sudo"
    elif re.search(r"incorrect|sorry, try again|no password was provided", said, re.I):
        why = "sudo refuses the password"
    else:
        why = f"sudo says: {last_line(said)}"
    return (
        f"{place}: {way.user} cannot become root ({why}): let the data centre give it sudo, or log in as "
        f"another user "
        "(-e bootstrap_user=…); nothing was changed"
    )
