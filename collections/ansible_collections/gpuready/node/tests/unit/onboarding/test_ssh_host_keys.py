"""Whether a host is the one that is meant, and what becomes of known_hosts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from gpuready import ssh_host_keys
from gpuready.ssh_host_keys import HostKeyError, Key, judge


def made(folder: Path, name: str, kind: str = "ed25519") -> Key:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", folder / name], check=True)
    words = (folder / f"{name}.pub").read_text().split()
    return Key("[10.0.0.17]:2222", words[0], words[1])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Key, Key]:
    folder = tmp_path_factory.mktemp("keys")
    return made(folder, "one"), made(folder, "two")


def test_fingerprint_is_ssh_keygens(tmp_path: Path) -> None:
    key = made(tmp_path, "one")
    said = subprocess.run(
        ["ssh-keygen", "-lf", tmp_path / "one.pub"], check=True, capture_output=True, text=True
    ).stdout
    assert key.fingerprint == said.split()[1]


def test_unknown_key_is_refused_with_its_fingerprint_and_the_way_out(keys: tuple[Key, Key]) -> None:
    with pytest.raises(HostKeyError) as refused:
        judge(iter(keys[:1]), [], [], accepted=False, host="gpu17")
    assert keys[0].fingerprint in str(refused.value)
    assert f"-e host_key={keys[0].fingerprint}" in str(refused.value)
    assert "host_key_accepted=true" in str(refused.value)


def test_known_key_is_trusted(keys: tuple[Key, Key]) -> None:
    verdict = judge(iter(keys[:1]), list(keys), [], accepted=False, host="gpu17")
    assert (verdict.trust, verdict.write, verdict.drop) == ("known", [], [])


def test_key_that_somebody_vouches_for_is_written(keys: tuple[Key, Key]) -> None:
    verdict = judge(iter(keys), [], [keys[1].fingerprint], accepted=False, host="gpu17")
    assert verdict.trust == "pinned"
    (line,) = verdict.write
    assert (line.text, line.comment) == (keys[1].text, "gpuready:pinned")


@pytest.mark.parametrize("accepted", [False, True])
def test_changed_key_is_refused_whatever_is_accepted(keys: tuple[Key, Key], accepted: bool) -> None:
    old = Key(keys[1].name, keys[1].kind, keys[1].text, path="/home/me/.ssh/known_hosts", line=3)
    with pytest.raises(HostKeyError) as refused:
        judge(iter(keys[:1]), [old], [], accepted=accepted, host="gpu17")
    for words in ("has changed", keys[0].fingerprint, keys[1].fingerprint, "/home/me/.ssh/known_hosts:3"):
        assert words in str(refused.value)


def test_changed_key_is_replaced_when_somebody_vouches_for_the_new_one(keys: tuple[Key, Key]) -> None:
    verdict = judge(iter(keys[:1]), [keys[1]], [keys[0].fingerprint], accepted=False, host="gpu17")
    assert (verdict.trust, verdict.drop) == ("pinned", [keys[1]])
    assert [key.text for key in verdict.write] == [keys[0].text]


def test_other_key_than_the_papers_say_is_refused(keys: tuple[Key, Key]) -> None:
    with pytest.raises(HostKeyError, match="another host key than host_key says"):
        judge(iter(keys[:1]), [], [keys[1].fingerprint], accepted=True, host="gpu17")


def test_accepted_unseen_is_called_so(keys: tuple[Key, Key]) -> None:
    verdict = judge(iter(keys), [], [], accepted=True, host="gpu17")
    assert verdict.trust == "accepted_unseen"
    # The line itself tells a later run, until somebody vouches for the key.
    (line,) = ssh_host_keys.parse(verdict.write[0].known_hosts)
    assert judge(iter(keys[:1]), [line], [], accepted=False, host="gpu17").trust == "accepted_unseen"
    vouched = judge(iter(keys[:1]), [line], [keys[0].fingerprint], accepted=False, host="gpu17")
    assert (vouched.trust, vouched.drop) == ("pinned", [line])
    assert [key.trust for key in vouched.write] == ["pinned"]


def test_revoked_key_is_refused_even_when_vouched_for(keys: tuple[Key, Key]) -> None:
    revoked = Key("*", keys[0].kind, keys[0].text, "@revoked")
    with pytest.raises(HostKeyError, match="revokes"):
        judge(iter(keys[:1]), [revoked], [keys[0].fingerprint], accepted=True, host="gpu17")


def test_authority_is_left_to_ssh(keys: tuple[Key, Key]) -> None:
    authority = Key("*", keys[1].kind, keys[1].text, "@cert-authority")
    assert judge(iter(keys[:1]), [authority], [], accepted=False, host="gpu17").trust == "known"


@pytest.mark.parametrize("given", ["MD5:aa:bb", "SHA256:short", "ssh-ed25519 AAAA"])
def test_fingerprint_that_is_none_is_named(given: str) -> None:
    with pytest.raises(HostKeyError, match="no fingerprint"):
        ssh_host_keys.wanted_fingerprints(given)


def test_hashed_names_are_found_and_only_their_lines_go(tmp_path: Path, keys: tuple[Key, Key]) -> None:
    path = tmp_path / "known_hosts"
    others = "# a comment\nother " + " ".join(keys[1].known_hosts.split()[1:]) + "\n"
    path.write_text(others + keys[0].known_hosts)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
    ssh = ssh_host_keys.Ssh(["ssh"], "10.0.0.17")
    (found,) = ssh.known(keys[0].name, [str(path)])
    assert (found.text, found.line, found.path) == (keys[0].text, 3, str(path))
    before = path.read_text().splitlines()
    ssh_host_keys.write(path, [keys[1]], [found])
    assert path.read_text().splitlines() == [*before[:2], keys[1].known_hosts.strip()]
    assert ssh.known("other", [str(path)])


def test_new_file_is_private_and_writing_twice_changes_nothing(tmp_path: Path, keys: tuple[Key, Key]) -> None:
    path = tmp_path / "ssh" / "known_hosts"
    ssh_host_keys.write(path, [keys[0]], [])
    assert path.stat().st_mode & 0o777 == 0o600
    ssh_host_keys.write(path, [keys[0]], [])
    assert path.read_text() == keys[0].known_hosts
    assert [one.name for one in path.parent.iterdir()] == ["known_hosts"]


def test_host_that_does_not_answer_is_told() -> None:
    ssh = ssh_host_keys.Ssh(["ssh", "-F", "/dev/null", "-p", "1"], "127.0.0.1", timeout=2)
    with pytest.raises(ssh_host_keys.NotReached, match="refused"):
        next(ssh.shown())
