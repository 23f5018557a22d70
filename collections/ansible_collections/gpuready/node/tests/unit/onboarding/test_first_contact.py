"""What a login that failed means, and which nodes are none that can be onboarded."""

from __future__ import annotations

import subprocess

import pytest
from gpuready import first_contact
from gpuready.first_contact import Way

PASSWORD, KEY = Way("dc", "password"), Way("dc", "key")
SUITABLE = {
    "uid": "1000",
    "kernel": "Linux",
    "os": "ubuntu",
    "python": "/usr/bin/python3",
    "sudo": "/usr/bin/sudo",
}


@pytest.mark.parametrize(
    ("way", "said", "told"),
    [
        (PASSWORD, "dc@h: Permission denied (publickey,password).", "refuses the password of dc"),
        (PASSWORD, "dc@h: Permission denied (publickey).", "takes no passwords from dc"),
        (KEY, "dc@h: Permission denied (publickey,password).", "refuses dc with the key /k"),
        (PASSWORD, "Password change required but no TTY available.", "has expired"),
        (KEY, "ssh: connect to host h port 22: Connection refused", "was not reached: ssh: connect"),
        (KEY, "ssh: connect to host h port 22: Connection timed out", "was not reached"),
        (KEY, "ssh: Could not resolve hostname h: Name or service not known", "was not reached"),
        (KEY, "Host key verification failed.", "host key"),
        (KEY, "something new", "failed: something new"),
    ],
)
def test_refusal_says_what_it_is(way: Way, said: str, told: str) -> None:
    text = first_contact.refusal("gpu17 (10.0.0.17)", way, f"Warning: added\n{said}\n", key="/k")
    assert told in text
    assert text.startswith("gpu17 (10.0.0.17)")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"os": "rocky", "os_name": "Rocky Linux 9.4"}, "Rocky Linux 9.4: only Ubuntu and Debian"),
        ({"kernel": "FreeBSD"}, "FreeBSD, not Linux"),
        ({"python": ""}, "no python3"),
        ({"sudo": ""}, "no sudo"),
    ],
)
def test_node_that_is_unsuitable_is_refused(changes: dict[str, str], told: str) -> None:
    assert first_contact.unsuitable("gpu17", SUITABLE, KEY) is None
    assert told in (first_contact.unsuitable("gpu17", {**SUITABLE, **changes}, KEY) or "")


def test_login_that_is_no_shell_is_refused() -> None:
    assert "no shell" in (first_contact.unsuitable("gpu17", {}, KEY) or "")


@pytest.mark.parametrize(
    ("given", "said", "told"),
    [
        (False, "", "without a password"),
        (True, "dc is not in the sudoers file.", "it has no sudo"),
        (True, "sudo: 1 incorrect password attempt", "sudo refuses the password"),
    ],
)
def test_user_without_root_is_told_why(given: bool, said: str, told: str) -> None:
    assert told in first_contact.no_sudo("gpu17", PASSWORD, password_given=given, said=said)


def test_look_runs_in_a_plain_shell() -> None:
    done = subprocess.run(
        ["dash", "-c", f"echo 'Welcome!'; {first_contact.LOOK}"], check=True, capture_output=True, text=True
    )
    facts = first_contact.answers(done.stdout)
    assert facts["kernel"] == "Linux"
    assert {"uid", "python", "sudo", "os", "os_name"} <= set(facts)
