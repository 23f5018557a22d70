# Apache-2.0 (see LICENSE)
"""Which key a host shows, which one it is known by, and whether that is right. For the controller only.

The key is asked for by `ssh` itself, with the host's own options (jump hosts, aliases, ports), in a login
that tries no password and no key, so that nothing is told to a host that nobody knows yet.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

FINGERPRINT = re.compile(r"^SHA256:[A-Za-z0-9+/]{43}$")
#: How a key came into known_hosts.
COMMENTS = {"pinned": "gpuready:pinned", "accepted_unseen": "gpuready:accepted-unseen"}
#: Asked for one after the other: ssh shows one key per connection.
ALGORITHMS = (
    "",  # whatever both sides like best
    "ssh-ed25519",
    "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521",
    "rsa-sha2-512,rsa-sha2-256",
)
LOOK = (
    "BatchMode=yes",
    "PreferredAuthentications=none",
    "StrictHostKeyChecking=accept-new",
    "GlobalKnownHostsFile=/dev/null",
    "UpdateHostKeys=no",
    "HashKnownHosts=no",
    "CheckHostIP=no",
    "ControlMaster=no",
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "LogLevel=ERROR",
)


class HostKeyError(Exception):
    """What cannot be trusted, and what to do about it."""


class NotReached(HostKeyError):
    """No SSH server answered."""


@dataclass(frozen=True)
class Key:
    """A host key: ``ssh-ed25519`` and its base64 text, under a name of known_hosts."""

    name: str
    kind: str
    text: str
    marker: str = ""
    #: What stands behind it in known_hosts.
    comment: str = ""
    #: Where it is known from; 0 = it was shown just now.
    path: str = ""
    line: int = 0

    @property
    def fingerprint(self) -> str:
        """As ``ssh-keygen -l`` prints it.

        >>> Key("h", "ssh-ed25519", "AAAA").fingerprint
        'SHA256:cJ6AyISHokEeHuTfufIqhhSS0gxHZRUMDHlKvXD4FHw'
        """
        return fingerprint(self.text)

    @property
    def known_hosts(self) -> str:
        """Its line of known_hosts."""
        return " ".join(filter(None, (self.name, self.kind, self.text, self.comment))) + "\n"

    @property
    def trust(self) -> str:
        """What its being known rests on: the line itself tells, also a later run."""
        return next((trust for trust, comment in COMMENTS.items() if self.comment == comment), "known")


def fingerprint(text: str) -> str:
    """The SHA-256 fingerprint of a key's base64 text."""
    digest = hashlib.sha256(base64.b64decode(text + "=" * (-len(text) % 4))).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def wanted_fingerprints(given: str) -> list[str]:
    """The fingerprints that a person vouches for: one, or several with commas or spaces.

    >>> wanted_fingerprints("SHA256:" + 43 * "A" + "=")
    ['SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA']
    """
    found = [word.rstrip("=") for word in re.split(r"[\s,]+", given) if word]
    for word in found:
        if not FINGERPRINT.match(word):
            raise HostKeyError(
                f"host_key is {word!r}, which is no fingerprint: write it as `ssh-keygen -lf "
                "/etc/ssh/ssh_host_ed25519_key.pub` prints it on the node, SHA256: and 43 characters"
            )
    return found


def parse(text: str, path: str = "") -> list[Key]:
    """The keys in lines of known_hosts, or in what ``ssh-keygen -F`` prints."""
    found = []
    number = 0
    for line in text.splitlines():
        if match := re.match(r"# Host .* found: line (\d+)", line):
            number = int(match.group(1))
            continue
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        marker = words.pop(0) if words[0].startswith("@") else ""
        if len(words) >= 3:
            with contextlib.suppress(binascii.Error, ValueError):
                fingerprint(words[2])
                name, kind, key, *comment = words
                found.append(Key(name, kind, key, marker, " ".join(comment), path, number))
    return found


class Ssh:
    """``ssh`` to one host, by the words that lead there: options first, without the host."""

    def __init__(self, words: Sequence[str], host: str, *, timeout: int = 20) -> None:
        self.words, self.host, self.timeout = list(words), host, timeout

    def _run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=6 * self.timeout,
            check=False,
            start_new_session=True,
        )

    def settings(self) -> dict[str, str]:
        """What ssh itself makes of options and configuration for this host."""
        done = self._run([*self.words, "-G", self.host])
        if done.returncode:
            raise HostKeyError(f"ssh does not understand its options: {done.stderr.strip()}")
        pairs = (line.partition(" ")[::2] for line in done.stdout.splitlines())
        return {name.lower(): value for name, value in pairs}

    def shown(self) -> Iterator[Key]:
        """The host's keys, one connection each, until nobody asks for more."""
        seen: set[str] = set()
        for algorithms in ALGORITHMS:
            with tempfile.TemporaryDirectory(prefix="gpuready-host-key-") as folder:
                path = Path(folder) / "known_hosts"
                options = [*LOOK, f"UserKnownHostsFile={path}", f"ConnectTimeout={self.timeout}"]
                options += [f"HostKeyAlgorithms={algorithms}"] if algorithms else []
                # ssh takes the first value of an option that it meets.
                ahead = [word for option in options for word in ("-o", option)]
                try:
                    done = self._run([self.words[0], *ahead, *self.words[1:], self.host, "true"])
                except subprocess.TimeoutExpired:
                    raise NotReached(f"no answer within {6 * self.timeout} s") from None
                keys = parse(path.read_text(encoding="utf-8")) if path.exists() else []
            if not keys and not algorithms:
                raise NotReached(reason(done.stderr) or f"ssh ended with {done.returncode}")
            for key in keys:
                if key.text not in seen:
                    seen.add(key.text)
                    yield key

    def known(self, name: str, paths: Sequence[str]) -> list[Key]:
        """The keys that these files have for the host; ssh-keygen knows hashed names, too."""
        found = []
        for path in paths:
            if Path(path).is_file():
                done = self._run(["ssh-keygen", "-F", name, "-f", path])
                found += parse(done.stdout, path)
        return found


def reason(stderr: str) -> str:
    """ssh's last word, without its name before it."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return re.sub(r"^ssh: ", "", lines[-1]).rstrip(".") if lines else ""


def files(settings: dict[str, str], option: str) -> list[str]:
    """The files that an option of ssh names."""
    return [str(Path(word).expanduser()) for word in settings.get(option, "").split() if word != "none"]


@dataclass(frozen=True)
class Verdict:
    """Why a key is trusted, and what has to be written for it."""

    trust: str
    keys: list[Key]
    write: list[Key]
    drop: list[Key]


def noted(key: Key, trust: str) -> Key:
    """The key with what its being known will rest on."""
    return replace(key, comment=COMMENTS[trust])


def judge(
    shown: Iterator[Key], known: Sequence[Key], wanted: Sequence[str], *, accepted: bool, host: str
) -> Verdict:
    """Whether the host is the one that is meant. Raises HostKeyError, which says what to do."""
    if any(key.marker == "@cert-authority" for key in known) and not wanted:
        # ssh itself holds the certificate against the authority, in every login.
        return Verdict("known", [], [], [])
    revoked = {key.text for key in known if key.marker == "@revoked"}
    plain = [key for key in known if not key.marker]
    seen: list[Key] = []
    for key in shown:
        seen.append(key)
        if key.text in revoked:
            raise HostKeyError(f"{host} shows the key {key.fingerprint}, which known_hosts revokes")
        if wanted:
            if key.fingerprint in wanted:
                # Who vouches for the new key replaces the old one by that, and what was taken unseen.
                same = [other for other in plain if other.text == key.text]
                there = any(other.trust != "accepted_unseen" for other in same)
                drop = [other for other in plain if other not in same or other.trust == "accepted_unseen"]
                return Verdict("pinned", [key], [] if there else [noted(key, "pinned")], drop)
        elif same := [other for other in plain if other.text == key.text]:
            return Verdict(same[0].trust, [key], [], [])
        elif accepted and not plain:
            return Verdict("accepted_unseen", [key], [noted(key, "accepted_unseen")], [])
    first = seen[0]
    shows = ", ".join(f"{key.fingerprint} ({key.kind})" for key in seen)
    if wanted:
        raise HostKeyError(
            f"{host} shows another host key than host_key says: it shows {shows}, and host_key is "
            f"{', '.join(wanted)}. Nothing was told to it and nothing was changed. Compare with the node's "
            "console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub): if the node is right, correct "
            "host_key; "
            "if not, somebody else answers at this address."
        )
    if plain:
        places = ", ".join(f"{key.path}:{key.line} has {key.fingerprint} ({key.kind})" for key in plain)
        raise HostKeyError(
            f"the host key of {host} has changed: it shows {shows}, but {places}. Either the node was "
            "installed anew, or somebody else answers at this address. Nothing was told to it and nothing "
            "was "
            "changed. Compare with the node's console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub); "
            "if it "
            f"is the node's, vouch for it: -e host_key={first.fingerprint} (the old key is replaced then)."
        )
    raise HostKeyError(
        f"nobody knows the host key of {host} yet: it shows {shows}. Compare with the data centre's papers "
        f"or "
        "the node's console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then vouch for it: "
        f"-e host_key={first.fingerprint} (for several nodes: the column host_key of the CSV). Or take it "
        f"unseen, at "
        "your own risk, which the acceptance record will tell: -e host_key_accepted=true. Nothing was "
        "changed."
    )


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """One writer at a time of the files in a folder; nothing is left of it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def write(path: Path, add: Sequence[Key], drop: Sequence[Key]) -> None:
    """Put keys into a known_hosts file and take others out; a comment and everybody else's lines stay."""
    with exclusive(path):
        before = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
        after = changed(before, add, {key.text for key in drop}, {key.line for key in drop})
        if after == before:
            return
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        handle, fresh = tempfile.mkstemp(prefix=".known_hosts-", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as sink:
                sink.write(after)
            os.chmod(fresh, mode)
            # A link stays a link: what it leads to is replaced.
            os.replace(fresh, path.resolve())
        except BaseException:
            os.unlink(fresh)
            raise


def changed(text: str, add: Sequence[Key], texts: set[str], numbers: set[int]) -> str:
    """The text of a known_hosts file without the keys that go, with those that come.

    Others may have written since the file was read: a line goes only if it is the very key.
    """
    lines = text.splitlines(keepends=True)
    # A key that several hosts share goes only on the lines that are this host's; they may have moved up.
    at_place = {
        number for number in numbers if 0 < number <= len(lines) and texts & set(lines[number - 1].split())
    }
    kept = [line for number, line in enumerate(lines, 1) if number not in at_place]
    if kept and not kept[-1].endswith("\n"):
        kept[-1] += "\n"
    there = "".join(kept)
    return there + "".join(key.known_hosts for key in add if key.known_hosts not in there)
