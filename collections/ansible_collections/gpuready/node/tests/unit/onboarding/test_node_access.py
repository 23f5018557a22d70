"""The automation user, on a folder that stands in for a node's root and programs that keep a log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gpuready import node_access, workbenches
from gpuready.node_access import RECORD, SSHD, SUDOERS, Access, AccessError, Node

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVQxvlE0dgYwmCJmZ1YRU4yIr/Q9WBqEVCW8GeZJV4c alice"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAVQxvlE0dgYwmCJmZ1YRU4yIr/Q9WBqEVCW8GeZJV4c bob"


class Machine(Node):
    """A node whose programs do what the real ones would, in a folder."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.log: list[str] = []
        self.users = {"dc": [1000, "P"]}
        self.fails: dict[str, str] = {}
        self.sshd_says: str | None = None
        for folder in ("etc/ssh/sshd_config.d", "etc/sudoers.d", "home/dc"):
            (root / folder).mkdir(parents=True)

    def run(self, *argv: str) -> tuple[int, str]:
        words = " ".join(argv)
        self.log.append(words)
        for name, said in self.fails.items():
            if words.startswith(name):
                return 1, said
        if argv[0] == "getent":
            found = self.users.get(argv[2])
            return (0, f"{argv[2]}:x:{found[0]}:{found[0]}::/home/{argv[2]}:/bin/bash") if found else (2, "")
        if argv[0] == "passwd":
            return (
                (0, f"{argv[-1]} {self.users[argv[-1]][1]} 11/23/2026") if argv[-1] in self.users else (1, "")
            )
        if argv[0] == "usermod":
            self.users[argv[-1]][1] = "L" if argv[1] == "--lock" else "P"
        if argv[0] == "useradd":
            self.users[argv[-1]] = [1001, "L"]
            Path(self.path(f"/home/{argv[-1]}")).mkdir()
        if argv[0] == "userdel":
            del self.users[argv[-1]]
        if argv[:2] == ("sshd", "-T"):
            value = "no" if self.read(SSHD) else "yes"
            return (
                0,
                self.sshd_says or f"passwordauthentication {value}\nkbdinteractiveauthentication {value}",
            )
        return 0, ""

    def changes(self) -> list[str]:
        """What was really done."""
        return [
            line for line in self.log if line.split()[0] in ("useradd", "userdel", "usermod", "systemctl")
        ]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def tree(root: str) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text()
        for path in sorted(Path(root).rglob("*"))
        if path.is_file()
    }


def granted(machine: Machine, *keys: str) -> Access:
    access = Access(machine, "gpuready")
    access.grant(node_access.key_lines(keys or [KEY], []))
    return access


def test_grant_makes_user_keys_and_sudo(machine: Machine) -> None:
    access = granted(machine)
    assert len(access.done) == 3
    keys = Path(machine.path("/home/gpuready/.ssh/authorized_keys"))
    assert f"no-agent-forwarding,no-X11-forwarding {KEY}\n" in keys.read_text()
    assert keys.stat().st_mode & 0o777 == 0o600
    assert "gpuready ALL=(root) NOPASSWD: ALL" in (machine.read(SUDOERS) or "")
    assert json.loads(machine.read(RECORD) or "")["user_created"] is True


def test_second_time_changes_nothing(machine: Machine) -> None:
    granted(machine).lock("dc")
    before = tree(machine.root)
    again = granted(machine)
    again.lock("dc")
    assert again.done == []
    assert tree(machine.root) == before


def test_other_keys_of_the_user_stay_and_gpureadys_are_replaced(machine: Machine) -> None:
    machine.users["gpuready"] = [1001, "P"]
    folder = Path(machine.path("/home/gpuready/.ssh"))
    folder.mkdir(parents=True)
    (folder / "authorized_keys").write_text("ssh-rsa AAAA mine")
    granted(machine, OTHER)
    access = granted(machine, KEY)
    text = (folder / "authorized_keys").read_text()
    assert "ssh-rsa AAAA mine\n" in text and KEY in text and OTHER not in text
    assert access.record["user_created"] is False
    access.revoke()
    assert (folder / "authorized_keys").read_text() == "ssh-rsa AAAA mine\n"
    assert "gpuready" in machine.users


def test_link_of_a_user_is_not_followed(machine: Machine) -> None:
    machine.users["gpuready"] = [1001, "P"]
    home = Path(machine.path("/home/gpuready"))
    home.mkdir()
    (home / ".ssh").symlink_to(machine.path("/etc"))
    with pytest.raises(AccessError, match="is a link"):
        granted(machine)


def test_rule_that_visudo_refuses_never_counts(machine: Machine) -> None:
    machine.fails["visudo"] = "syntax error"
    with pytest.raises(AccessError, match="visudo refuses"):
        granted(machine)
    assert list(Path(machine.path("/etc/sudoers.d")).iterdir()) == []


def test_lock_ends_password_logins_and_locks_the_first_user(machine: Machine) -> None:
    access = granted(machine)
    access.lock("dc")
    assert machine.users["dc"][1] == "L"
    assert access.record["locked"] == ["dc"]
    assert "PasswordAuthentication no" in (machine.read(SSHD) or "")
    assert "systemctl reload ssh.service" in machine.log
    # Looked at before it was put in force.
    assert machine.log.index("sshd -t") < machine.log.index("systemctl reload ssh.service")


@pytest.mark.parametrize(
    ("fails", "says", "told"),
    [
        ({"sshd -t": "bad line 7"}, None, "bad line 7"),
        ({}, "passwordauthentication yes\nkbdinteractiveauthentication no", "does not take effect"),
        ({"systemctl reload": "no such unit"}, None, "could not reload sshd"),
    ],
)
def test_settings_that_sshd_does_not_take_are_put_back(
    machine: Machine, fails: dict[str, str], says: str | None, told: str
) -> None:
    access = granted(machine)
    machine.fails, machine.sshd_says = fails, says
    with pytest.raises(AccessError, match=told):
        access.lock("dc")
    assert machine.read(SSHD) is None
    assert machine.users["dc"][1] == "P"


def test_check_mode_does_nothing(machine: Machine) -> None:
    before = tree(machine.root)
    access = Access(machine, "gpuready", check_mode=True)
    access.grant([KEY])
    access.lock("dc")
    assert len(access.done) == 5
    assert tree(machine.root) == before
    assert machine.changes() == []


def test_revoke_leaves_what_was_there_before(machine: Machine) -> None:
    before, users = tree(machine.root), {name: list(value) for name, value in machine.users.items()}
    access = granted(machine)
    access.lock("dc")
    Access(machine, "gpuready").revoke()
    Path(machine.path("/home/gpuready/.ssh/authorized_keys")).unlink()  # userdel's work
    assert tree(machine.root) == before
    assert machine.users == users
    assert machine.changes()[-1].startswith("userdel")


def test_revoke_of_a_run_that_was_cut_off_removes_the_user(machine: Machine) -> None:
    machine.fails["visudo"] = "killed"
    with pytest.raises(AccessError):
        granted(machine)
    Access(machine, "gpuready").revoke()
    assert "gpuready" not in machine.users


def test_password_that_was_locked_before_stays_locked(machine: Machine) -> None:
    machine.users["dc"][1] = "L"
    access = granted(machine)
    access.lock("dc")
    Access(machine, "gpuready").revoke()
    assert machine.users["dc"][1] == "L"


def test_root_is_no_automation_user(machine: Machine) -> None:
    machine.users["toor"] = [0, "P"]
    with pytest.raises(AccessError, match="no root"):
        Access(machine, "toor").grant([KEY])
    assert node_access.user_problem("root")
    assert node_access.user_problem("A b")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["-----BEGIN OPENSSH " + "PRIVATE KEY-----\nabc"], "private key"),
        (["/nowhere/id.pub"], "/nowhere/id.pub"),
        (["ssh-ed25519 nonsense"], "no public key"),
        ([f'command="x" {KEY}'], "without options"),
        ([], "ansible_ssh_private_key_file"),
    ],
)
def test_keys_that_are_none_are_named(keys: list[str], told: str) -> None:
    with pytest.raises(workbenches.KeyFileError, match=told):
        node_access.read_keys(keys, lambda path: Path(path).read_text())


def test_keys_of_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "id.pub").write_text(f"{KEY}\n")
    found = node_access.read_keys([str(tmp_path / "id.pub"), KEY, OTHER], lambda path: Path(path).read_text())
    assert found == [KEY, OTHER]
