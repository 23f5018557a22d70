# Apache-2.0 (see LICENSE)
"""The automation user of a node: made, given its keys and sudo, and taken away again (module node_access).

Everything that is read and done goes through a :class:`Node`, so that it can be tried on a folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import tempfile
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from . import workbenches

SUDOERS = "/etc/sudoers.d/90-gpuready"
# sshd takes the first value that it meets, and reads these in the order of their names.
SSHD = "/etc/ssh/sshd_config.d/00-gpuready.conf"
RECORD = "/var/lib/gpuready/node_access.json"
BEGIN = "# gpuready begins: written anew whenever the keys change (role node_access)"
END = "# gpuready ends"

SUDOERS_TEXT = """\
# gpuready: Ansible's modules run as root and nobody answers questions. Only root, and no other user.
Defaults:{user} !requiretty
{user} ALL=(root) NOPASSWD: ALL
"""
SSHD_TEXT = """\
# gpuready: the automation user has a key, so no password opens this node any more (role node_access).
PasswordAuthentication no
KbdInteractiveAuthentication no
"""
#: What sshd must say of itself afterwards.
SSHD_WORDS = ("passwordauthentication", "kbdinteractiveauthentication")

USER_NAME = re.compile(r"^[a-z_][a-z0-9_-]{0,30}$")
#: Neither may be the automation user: they have rights or duties of their own.
TAKEN_NAMES = (
    *("root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy"),
    *("www-data", "backup", "list", "irc", "nobody", "sshd", "systemd-network", "messagebus"),
)
_PATTERN = re.compile(r"^!?[0-9A-Za-z.:*?_/-]+$")


class AccessError(Exception):
    """What cannot be done, and what to do about it."""


def user_problem(name: Any) -> Optional[str]:
    """What is wrong with the automation user's name; None when nothing is.

    >>> user_problem("gpuready") is None
    True
    >>> user_problem("root")
    "'root' is a user of the system itself: choose another name, such as gpuready"
    """
    if not isinstance(name, str) or not USER_NAME.match(name):
        return "%r is no user name: small letters, digits, - and _, at most 31, such as gpuready" % (name,)
    if name in TAKEN_NAMES:
        return "%r is a user of the system itself: choose another name, such as gpuready" % name
    return None


def source_problem(source: Any) -> Optional[str]:
    """What is wrong with an address that logins may come from.

    >>> source_problem("10.0.0.0/24") is None
    True
    >>> source_problem('10.0.0.1" command="x')
    '\\'10.0.0.1" command="x\\' is no address, network (10.0.0.0/24) or pattern (*.example.org)'
    """
    if isinstance(source, str) and _PATTERN.match(source):
        return None
    return "%r is no address, network (10.0.0.0/24) or pattern (*.example.org)" % (source,)


def key_lines(keys: Sequence[str], sources: Sequence[str]) -> List[str]:
    """The lines of authorized_keys: a key opens a shell, and no way to anywhere else.

    >>> key_lines(["ssh-ed25519 AAAA me"], ["10.0.0.1", "10.1.0.0/16"])
    ['from="10.0.0.1,10.1.0.0/16",no-agent-forwarding,no-X11-forwarding ssh-ed25519 AAAA me']
    """
    options = ['from="%s"' % ",".join(sources)] if sources else []
    prefix = ",".join([*options, "no-agent-forwarding", "no-X11-forwarding"])
    return ["%s %s" % (prefix, key) for key in keys]


def read_keys(keys: Sequence[str], read: Callable[[str], str]) -> List[str]:
    """The public keys themselves: files of the controller are read. Raises workbenches.KeyFileError."""
    where = "node_access_authorized_keys"
    found: List[str] = []
    for item in keys:
        item = item.strip()
        if workbenches.looks_like_a_path(item):
            lines = workbenches.read_key_file(read, item, where)
        elif "PRIVATE KEY" in item:
            raise workbenches.KeyFileError(
                "%s holds a private key: write the line of the .pub file, and make a new key, for this "
                "one is "
                "no secret any more" % where
            )
        else:
            lines = [line.strip() for line in item.splitlines() if line.strip()]
        for line in lines:
            words = line.split()
            if workbenches.key_of(line) is None or words[0] not in workbenches.KEY_TYPES:
                raise workbenches.KeyFileError(
                    "%s holds %r, which is no public key: write the line of a .pub file, such as ssh-ed25519 "
                    "AAAA... alice@desk, without options before it" % (where, line[:40])
                )
            if line not in found:
                found.append(line)
    if not found:
        raise workbenches.KeyFileError(
            "%s is empty, and ansible_ssh_private_key_file names no key whose public half could be used: say "
            "which key the automation user gets" % where
        )
    return found


def with_block(text: str, lines: Sequence[str]) -> str:
    """A file of keys with gpuready's block holding these lines; without lines, without the block."""
    outside: List[str] = []
    inside = False
    for line in text.splitlines():
        if line == BEGIN:
            inside = True
        elif line == END:
            inside = False
        elif not inside:
            outside.append(line)
    whole = [*outside, *([BEGIN, *lines, END] if lines else [])]
    return "".join(line + "\n" for line in whole)


def block(text: str) -> List[str]:
    """The lines of gpuready's block.

    >>> block(with_block("one\\n", ["two"]))
    ['two']
    """
    found: List[str] = []
    inside = False
    for line in text.splitlines():
        if line in (BEGIN, END):
            inside = line == BEGIN
        elif inside:
            found.append(line)
    return found


class Node:
    """The machine that this runs on; ``root`` is another folder in tests."""

    def __init__(self, root: str = "/") -> None:
        self.root = root

    def path(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))

    def run(self, *argv: str) -> Tuple[int, str]:
        """Exit status and what was said, on both streams."""
        environment = dict(os.environ, LC_ALL="C", PATH="/usr/sbin:/usr/bin:/sbin:/bin")
        try:
            done = subprocess.run(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=60,
                check=False,
            )
        except FileNotFoundError:
            return 127, "%s is not installed" % argv[0]
        except subprocess.TimeoutExpired:
            return 124, "%s did not end within 60 s" % argv[0]
        return done.returncode, done.stdout.decode("utf-8", "replace").strip()

    def read(self, path: str) -> Optional[str]:
        try:
            with open(self.path(path), encoding="utf-8", errors="surrogateescape") as source:
                return source.read()
        except FileNotFoundError:
            return None

    def write(self, path: str, text: str, mode: int, owner: Optional[Tuple[int, int]] = None) -> None:
        """Replace a file in one step; what is written is on the disk before the old one goes."""
        target = self.path(path)
        handle, fresh = tempfile.mkstemp(prefix=".gpuready-", dir=os.path.dirname(target))
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as sink:
                sink.write(text)
                sink.flush()
                os.fsync(sink.fileno())
            os.chmod(fresh, mode)
            if owner is not None and os.geteuid() == 0:
                os.chown(fresh, *owner)
            os.replace(fresh, target)
        except BaseException:
            os.unlink(fresh)
            raise

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(path))

    def account(self, user: str) -> Optional[Dict[str, Any]]:
        """The user as the node's own databases have it."""
        code, said = self.run("getent", "passwd", user)
        fields = said.split(":")
        if code != 0 or len(fields) < 7:
            return None
        return {"uid": int(fields[2]), "gid": int(fields[3]), "home": fields[5], "shell": fields[6]}

    def password_status(self, user: str) -> Optional[str]:
        """P: has a password; L: locked or none that could match; NP: empty. None: no such user."""
        code, said = self.run("passwd", "--status", user)
        words = said.split()
        return words[1] if code == 0 and len(words) > 1 else None


class Access:
    """What is on the node, what shall be, and the steps between."""

    def __init__(self, node: Node, user: str, *, check_mode: bool = False) -> None:
        self.node, self.user, self.check_mode = node, user, check_mode
        self.done: List[str] = []
        self.record = self._recorded()

    # --- what gpuready remembers of itself ----------------------------------------------------------------

    def _recorded(self) -> Dict[str, Any]:
        text = self.node.read(RECORD)
        try:
            found = json.loads(text) if text else {}
        except ValueError:
            found = {}
        return found if isinstance(found, dict) else {}

    def _remember(self, **facts: Any) -> None:
        """Before it is done, so that a run that was cut off is undone as well."""
        record = dict(self.record, schema=1, user=self.user, **facts)
        if record == self.record:
            return
        self.record = record
        if self.check_mode:
            return
        os.makedirs(self.node.path(os.path.dirname(RECORD)), mode=0o755, exist_ok=True)
        self.node.write(RECORD, json.dumps(record, indent=2, sort_keys=True) + "\n", 0o644)

    # --- what is --------------------------------------------------------------------------------------------

    def _keys_path(self, account: Mapping[str, Any]) -> str:
        return os.path.join(account["home"], ".ssh", "authorized_keys")

    def key_lines(self) -> List[str]:
        """The automation user's keys that gpuready wrote."""
        account = self.node.account(self.user)
        return block(self.node.read(self._keys_path(account)) or "") if account else []

    def state(self) -> Dict[str, Any]:
        """For a difference that people read."""
        account = self.node.account(self.user)
        return {
            "user": self.user if account else None,
            "keys": self.key_lines(),
            SUDOERS: self.node.read(SUDOERS),
            SSHD: self.node.read(SSHD),
            "passwords locked by gpuready": list(self.record.get("locked") or []),
        }

    def _do(self, what: str) -> bool:
        """Note a step; whether it is really to be done."""
        self.done.append(what)
        return not self.check_mode

    # --- granted --------------------------------------------------------------------------------------------

    def grant(self, lines: Sequence[str]) -> None:
        """User, keys and sudo; nobody loses anything by it."""
        account = self.node.account(self.user)
        if account is not None and account["uid"] == 0:
            raise AccessError(
                "%s has the user id 0: the automation user is no root; choose another name" % self.user
            )
        self._remember(user_created=self.record.get("user_created", account is None))
        if account is None and self._do("make the user %s" % self.user):
            # `*` matches no password; the `!` of a locked one would keep its key out where sshd runs
            # without PAM.
            self._must(
                "make the user %s" % self.user,
                *("useradd", "--create-home", "--shell", "/bin/bash", "--user-group", "--password", "*"),
                *("--comment", "gpuready automation", self.user),
            )
            account = self.node.account(self.user)
            if account is None:
                raise AccessError("useradd made no user %s" % self.user)
        self._grant_keys(account, lines)
        self._grant_sudo()

    def _grant_keys(self, account: Optional[Mapping[str, Any]], lines: Sequence[str]) -> None:
        if account is None:  # check mode, before the user is there
            self.done.append("write its %d key(s)" % len(lines))
            return
        path = self._keys_path(account)
        folder = os.path.dirname(path)
        for one in (folder, path):
            # Root does not follow what a user laid out.
            if os.path.islink(self.node.path(one)):
                raise AccessError("%s is a link: remove it, or choose another automation user" % one)
        before = self.node.read(path) or ""
        wanted = with_block(before, lines)
        real = self.node.path(path)
        loose = os.path.exists(real) and stat.S_IMODE(os.stat(real).st_mode) & 0o077
        if before == wanted and not loose:
            return
        if self._do("write its %d key(s)" % len(lines)):
            self._remember(keys=path)
            owner = (account["uid"], account["gid"])
            if not os.path.isdir(self.node.path(folder)):
                os.mkdir(self.node.path(folder), 0o700)
                if os.geteuid() == 0:
                    os.chown(self.node.path(folder), *owner)
            self.node.write(path, wanted, 0o600, owner)

    def _grant_sudo(self) -> None:
        wanted = SUDOERS_TEXT.format(user=self.user)
        if self.node.read(SUDOERS) == wanted:
            return
        if not os.path.isdir(self.node.path(os.path.dirname(SUDOERS))):
            raise AccessError("sudo is not installed on the node: apt-get install sudo, and run again")
        if self._do("let it become root without a password"):
            # sudo reads no name with a dot, so this one is not in force while it is looked at.
            trial = os.path.join(os.path.dirname(SUDOERS), ".gpuready.trial")
            self.node.write(trial, wanted, 0o440, (0, 0))
            try:
                code, said = self.node.run("visudo", "--check", "--file", self.node.path(trial))
                if code != 0:
                    raise AccessError("visudo refuses %s: %s" % (SUDOERS, said))
                os.replace(self.node.path(trial), self.node.path(SUDOERS))
            finally:
                self.node.remove(trial)

    # --- locked ---------------------------------------------------------------------------------------------

    def lock(self, bootstrap_user: Optional[str]) -> None:
        """No password opens the node any more. Put back where sshd does not take it."""
        self._lock_sshd(bootstrap_user)
        if not bootstrap_user or bootstrap_user == self.user:
            return
        status = self.node.password_status(bootstrap_user)
        if status in (None, "L"):
            return
        if self._do("lock the password of %s" % bootstrap_user):
            if status == "P":
                self._remember(locked=sorted({*(self.record.get("locked") or []), bootstrap_user}))
            self._must("lock the password of %s" % bootstrap_user, "usermod", "--lock", bootstrap_user)

    def _lock_sshd(self, bootstrap_user: Optional[str]) -> None:
        before = self.node.read(SSHD)
        if before == SSHD_TEXT:
            return
        if not os.path.isdir(self.node.path("/etc/ssh")):
            raise AccessError("the node has no /etc/ssh: which SSH server is this?")
        if not self._do("switch sshd's password logins off"):
            return
        self._remember(sshd=SSHD)
        os.makedirs(self.node.path(os.path.dirname(SSHD)), mode=0o755, exist_ok=True)
        self.node.write(SSHD, SSHD_TEXT, 0o644, (0, 0))
        try:
            self._check_sshd()
            self._passwords_are_off(bootstrap_user)
            self._reload_sshd()
        except AccessError:
            self._put_sshd_back(before)
            raise

    def _put_sshd_back(self, before: Optional[str]) -> None:
        if before is None:
            self.node.remove(SSHD)
        else:
            self.node.write(SSHD, before, 0o644, (0, 0))
        self._reload_sshd()

    def _check_sshd(self) -> None:
        # sshd wants its folder of separated privileges even for looking at its configuration.
        os.makedirs(self.node.path("/run/sshd"), mode=0o755, exist_ok=True)
        code, said = self.node.run("sshd", "-t")
        if code != 0:
            raise AccessError(
                "sshd would not start with its configuration, so everything was put back: %s" % said
            )

    def _passwords_are_off(self, bootstrap_user: Optional[str]) -> None:
        """By sshd's own word, for everybody and for this user."""
        who = [[], ["-C", "user=%s,host=localhost,addr=127.0.0.1" % bootstrap_user]]
        for more in who if bootstrap_user else who[:1]:
            code, said = self.node.run("sshd", "-T", *more)
            lines = [line.split() for line in said.splitlines()]
            values = {words[0].lower(): words[1] for words in lines if len(words) == 2}
            still = [word for word in SSHD_WORDS if values.get(word) != "no"]
            if code != 0 or still:
                raise AccessError(
                    "%s does not take effect, so it was put back: sshd still says %s%s. Either "
                    "/etc/ssh/sshd_config has no line `Include /etc/ssh/sshd_config.d/*.conf` at its top, or "
                    "another setting comes first. Repair it and run again, or set "
                    "node_access_password_locked to false."
                    % (
                        SSHD,
                        ", ".join("%s %s" % (word, values.get(word, "?")) for word in still) or said,
                        " for %s" % bootstrap_user if more else "",
                    )
                )

    def _reload_sshd(self) -> None:
        # Where a socket starts sshd, there may be none to reload; the next one reads it.
        code, _said = self.node.run("systemctl", "is-active", "--quiet", "ssh.service")
        if code == 0:
            self._must("reload sshd", "systemctl", "reload", "ssh.service")

    # --- absent ---------------------------------------------------------------------------------------------

    def revoke(self) -> None:
        """All of it back, by the record. The user goes last: it may be the one that this runs through."""
        if self.node.read(SSHD) is not None and self._do("give sshd its own settings back"):
            self.node.remove(SSHD)
            self._check_sshd()
            self._reload_sshd()
        for name in self.record.get("locked") or []:
            if self.node.password_status(name) == "L" and self._do("unlock the password of %s" % name):
                self._must("unlock the password of %s" % name, "usermod", "--unlock", name)
        account = self.node.account(self.user)
        ours = bool(self.record.get("user_created"))
        if account and not ours:
            self._revoke_keys(account)
        if self.node.read(SUDOERS) is not None and self._do("take its sudo away"):
            self.node.remove(SUDOERS)
        if account and ours and self._do("remove the user %s with its home" % self.user):
            # --force: the connection that this comes through may be its own.
            self.node.run("userdel", "--remove", "--force", self.user)
            if self.node.account(self.user) is not None:
                raise AccessError("userdel did not remove %s" % self.user)
        if self.node.read(RECORD) is not None and self._do("forget what gpuready did"):
            self.node.remove(RECORD)
            # Other roles may have records there.
            with contextlib.suppress(OSError):
                os.rmdir(self.node.path(os.path.dirname(RECORD)))

    def _revoke_keys(self, account: Mapping[str, Any]) -> None:
        path = self._keys_path(account)
        before = self.node.read(path)
        if before is None or not block(before):
            return
        if self._do("take gpuready's keys from %s" % path):
            self.node.write(path, with_block(before, []), 0o600, (account["uid"], account["gid"]))

    def _must(self, what: str, *argv: str) -> None:
        code, said = self.node.run(*argv)
        if code != 0:
            raise AccessError("could not %s: %s" % (what, said or "%s ended with %d" % (argv[0], code)))
