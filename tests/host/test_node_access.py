"""Access: the automation user gets in with a key and becomes root, and no password opens the node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.node_access


@pytest.fixture(scope="module")
def user(host: Any, wished: Callable[[str, Any], Any]) -> str:
    """The automation user, on nodes that were onboarded."""
    if not host.file("/var/lib/gpuready/node_access.json").exists:
        pytest.skip("this node was not onboarded by gpuready")
    return wished("node_access_user", "gpuready")


def test_automation_user_has_no_password(host: Any, user: str) -> None:
    assert host.check_output(f"getent shadow {user} | cut -d: -f2") == "*"


def test_its_keys_are_its_own_business(host: Any, user: str) -> None:
    home = host.check_output(f"getent passwd {user} | cut -d: -f6")
    for path, mode in ((f"{home}/.ssh", 0o700), (f"{home}/.ssh/authorized_keys", 0o600)):
        file = host.file(path)
        assert (file.user, file.mode) == (user, mode), path
    lines = [line for line in host.file(f"{home}/.ssh/authorized_keys").content_string.splitlines() if line]
    keys = [line for line in lines if not line.startswith("#")]
    assert keys
    assert all("no-agent-forwarding" in line for line in keys)


def test_it_becomes_root_and_nobody_else(host: Any, user: str) -> None:
    rights = host.check_output(f"sudo -l -U {user}")
    assert "(root) NOPASSWD: ALL" in rights
    assert "(ALL" not in rights
    rule = host.file("/etc/sudoers.d/90-gpuready")
    assert (rule.user, rule.mode) == ("root", 0o440)
    assert host.run("visudo --check --quiet --file %s", rule.path).rc == 0


def test_sshd_takes_no_password_from_anybody(host: Any, user: str, wished: Callable[[str, Any], Any]) -> None:
    if not wished("node_access_password_locked", True):
        pytest.skip("the inventory keeps password logins")
    for who in ("", "-C user=ansible,host=h,addr=192.0.2.1", f"-C user={user},host=h,addr=192.0.2.1"):
        settings = host.check_output(f"sshd -T {who}").lower().splitlines()
        assert {"passwordauthentication no", "kbdinteractiveauthentication no"} <= set(settings), who


def test_first_users_password_is_locked(host: Any, user: str) -> None:
    for name in host.check_output(
        "python3 -c 'import json; "
        'print(*json.load(open("/var/lib/gpuready/node_access.json")).get("locked", []))\''
    ).split():
        assert host.check_output(f"passwd --status {name}").split()[1] == "L"
