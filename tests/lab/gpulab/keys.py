"""Throwaway keys, made once per lab: SSH access, the nodes' host keys, the archives' signatures."""

from __future__ import annotations

import os
from pathlib import Path

from . import settings
from .errors import LabError
from .shell import output, run

ARCHIVES = {
    "ubuntu": "gpuready lab: simulated Ubuntu archive",
    "debian": "gpuready lab: simulated Debian archive",
    "cuda": "gpuready lab: simulated CUDA repository",
    # Who has the old key only must be told what to do.
    "cuda-rotated": "gpuready lab: simulated CUDA repository, after a key rotation",
    "toolkit-rotated": "gpuready lab: simulated libnvidia-container archive, after a key rotation",
    "toolkit": "gpuready lab: simulated libnvidia-container archive",
    "docker-ce": "gpuready lab: simulated Docker archive",
    "debian-snapshot": "gpuready lab: a part of Debian's archive",
}


def directory() -> Path:
    """All keys; for root only."""
    path = settings.home() / "keys"
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def user_key() -> Path:
    """The private key that opens every node."""
    path = directory() / "id_ed25519"
    if not path.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "gpuready-lab", "-f", path])
    return path


def host_key(node: str) -> Path:
    """A node's own host key; kept over a reset, as a reinstalled machine's pinned key would be."""
    path = directory() / "hosts" / node
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", node, "-f", path])
    return path


def gpg_home(archive: str) -> Path:
    """The GnuPG home that holds one archive's signing key."""
    path = directory() / f"gpg-{archive}"
    if not (path / "fingerprint").exists():
        path.mkdir(exist_ok=True)
        path.chmod(0o700)
        uid = f"{ARCHIVES[archive]} <lab@gpuready.invalid>"
        # --passphrase '' needs the loopback pinentry; the key never leaves this machine.
        run(
            [
                *gpg(path),
                "--pinentry-mode",
                "loopback",
                "--passphrase",
                "",
                "--quick-generate-key",
                uid,
                "rsa3072",
                "sign",
                "never",
            ]
        )
        (path / "fingerprint").write_text(
            parse_fingerprint(output([*gpg(path), "--with-colons", "--list-keys"])) + "\n"
        )
    return path


def gpg(home: Path) -> list[str]:
    """A gpg command for one home."""
    return ["gpg", "--homedir", str(home), "--batch", "--no-tty", "--quiet"]


def parse_fingerprint(colons: str) -> str:
    """The primary key's fingerprint in gpg's --with-colons output."""
    for line in colons.splitlines():
        if line.startswith("fpr:"):
            return line.split(":")[9]
    raise LabError("gpg lists no key right after it made one")


def fingerprint(archive: str) -> str:
    """The fingerprint that gpuready pins."""
    return (gpg_home(archive) / "fingerprint").read_text().strip()


def stop_agents() -> None:
    """Each home's agent would stay for ever, and with it two of the few inotify instances that root has."""
    for archive in ARCHIVES:
        run(["gpgconf", "--homedir", gpg_home(archive), "--kill", "gpg-agent"], what="stopping a gpg-agent")


def public_key(archive: str) -> str:
    """The armoured public key."""
    return output([*gpg(gpg_home(archive)), "--armor", "--export"])


def export_public(archive: str, target: Path) -> None:
    """The public key as a binary keyring."""
    run([*gpg(gpg_home(archive)), "--yes", "--output", target, "--export"])


def known_hosts(nodes: dict[str, int]) -> str:
    """The pinned host keys of all nodes, by their port on loopback."""
    lines = []
    for node, port in sorted(nodes.items()):
        algorithm, key = host_key(node).with_suffix(".pub").read_text().split()[:2]
        lines.append(f"[127.0.0.1]:{port} {algorithm} {key}")
    return "".join(line + "\n" for line in lines)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as sink:
        sink.write(text)
    fresh.replace(path)
