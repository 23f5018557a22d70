"""Key files: fingerprints as gpg computes them, and clear words about what is no key."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from gpuready import openpgp
from hypothesis import given
from hypothesis import strategies as st

needs_gpg = pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gpg to compare with")


class Gpg:
    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)

    def __call__(self, *arguments: str, data: bytes | None = None) -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--no-autostart", *arguments]
        if (
            "--quick-gen-key" in arguments
            or "--export-secret-keys" in arguments
            or "--quick-add-key" in arguments
        ):
            command.remove("--no-autostart")
        return subprocess.run(
            command, input=data, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ).stdout

    def make(self, name: str, algorithm: str) -> None:
        self("--passphrase", "", "--quick-gen-key", f"{name} <{name}@example.com>", algorithm, "sign", "1y")

    def listed(self, path: Path) -> tuple[list[str], list[str]]:
        """(primary, subkey) fingerprints by gpg's own word."""
        primary, sub = [], []
        into = primary
        for line in self("--with-colons", "--show-keys", str(path)).decode().splitlines():
            fields = line.split(":")
            if fields[0] == "pub":
                into = primary
            elif fields[0] == "sub":
                into = sub
            elif fields[0] == "fpr":
                into.append(fields[9])
        return primary, sub


@pytest.fixture(scope="module")
def gpg(tmp_path_factory):
    # The agent's socket must have a short path.
    home = Path("/tmp") / f"gpuready-gpg-{os.getpid()}"
    made = Gpg(home)
    made.make("rsa", "rsa2048")
    made.make("ed", "ed25519")
    made.make("nist", "nistp256")
    first = made.listed_primary = made("--with-colons", "--list-keys", "rsa@example.com").decode()
    fingerprint = next(line.split(":")[9] for line in first.splitlines() if line.startswith("fpr"))
    made("--passphrase", "", "--quick-add-key", fingerprint, "rsa2048", "sign", "1y")
    yield made
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=False)
    shutil.rmtree(home)


@needs_gpg
@pytest.mark.parametrize("armor", [True, False])
@pytest.mark.parametrize("names", [["rsa"], ["ed"], ["nist"], ["rsa", "ed", "nist"]])
def test_fingerprints_are_gpg_s(gpg, tmp_path, names, armor):
    addresses = [f"{name}@example.com" for name in names]
    data = gpg(*(["--armor"] if armor else []), "--export", *addresses)
    path = tmp_path / "keys"
    path.write_bytes(data)
    found = openpgp.keys(data)
    primary, sub = gpg.listed(path)
    assert [key.fingerprint for key in found] == primary and len(primary) == len(names)
    assert [print_ for key in found for print_ in key.subkeys] == sub
    assert found[0].user_ids[0].endswith("@example.com>")


@needs_gpg
def test_single_keys_are_cut_out_of_a_keyring_whole(gpg, tmp_path):
    found = openpgp.keys(gpg("--export"))
    wanted = next(key for key in found if "rsa" in key.user_ids[0])
    cut = openpgp.keyring(openpgp.select(found, [wanted.fingerprint]))
    path = tmp_path / "one.asc"
    path.write_bytes(cut)
    assert gpg.listed(path) == ([wanted.fingerprint], wanted.subkeys)
    assert cut.count(b"BEGIN") == 1
    # gpg agrees about the armor, byte for byte.
    assert gpg("--armor", "--export", "rsa@example.com").split(b"\n\n", 1)[1] == cut.split(b"\n\n", 1)[1]
    assert openpgp.keyring([wanted], armored=False) == wanted.raw


@needs_gpg
def test_private_key_is_refused(gpg):
    for arguments in (["--armor"], []):
        data = gpg(
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
            *arguments,
            "--export-secret-keys",
            "ed@example.com",
        )
        with pytest.raises(openpgp.OpenPGPError, match="PRIVATE"):
            openpgp.keys(data)


@pytest.mark.parametrize(
    "name", sorted(Path("/usr/share/keyrings").glob("*.gpg")), ids=lambda path: path.name
)
@needs_gpg
def test_keyrings_of_this_machine(gpg, name):
    assert [key.fingerprint for key in openpgp.keys(name.read_bytes())] == gpg.listed(name)[0]


# Keys by hand, so that these tests need no gpg.
BODY4 = b"\x04\x65\x4b\x67\xde\x16\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01\x01\x07\x40" + b"k" * 32
# The sample version 6 certificate of RFC 9580, A.3 (its primary key packet).
BODY6 = bytes.fromhex("0663877fe31b00000020f94da7bb48d60a61e567706a6587d0331999bb9d891a08242ead84543df895a3")
PRINT6 = "CB186C4F0609A697E4D52DFA6C722B0C1F1E27C18A56708F6525EC27BAD9ACC9"
PRINT4 = hashlib.sha1(b"\x99" + len(BODY4).to_bytes(2, "big") + BODY4).hexdigest().upper()


def old(tag: int, body: bytes) -> bytes:
    return bytes([0x80 | tag << 2 | 1]) + len(body).to_bytes(2, "big") + body


def new(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 255]) + len(body).to_bytes(4, "big") + body


UID = new(13, b"Test <test@example.com>")


@pytest.mark.parametrize(
    ("body", "fingerprint"),
    [
        (BODY4, PRINT4),
        (BODY6, PRINT6),
        (
            b"\x05" + BODY4[1:],
            hashlib.sha256(b"\x9a" + len(BODY4).to_bytes(4, "big") + b"\x05" + BODY4[1:]).hexdigest().upper(),
        ),
    ],
)
@pytest.mark.parametrize("form", [old, new])
def test_fingerprints_of_every_version(form, body, fingerprint):
    found = openpgp.keys(form(6, body) + UID)
    assert [(key.fingerprint, key.user_ids) for key in found] == [(fingerprint, ["Test <test@example.com>"])]


@pytest.mark.parametrize("length", [0, 1, 191, 192, 8383, 8384, 70000])
def test_lengths_in_every_spelling(length):
    body = b"x" * length
    spellings = [b"\xcd\xff" + length.to_bytes(4, "big")]
    if length < 192:
        spellings.append(bytes([0xCD, length]))
    elif length < 8384:
        spellings.append(bytes([0xCD, ((length - 192) >> 8) + 192, (length - 192) & 0xFF]))
    if length < 256:
        spellings.append(bytes([0xB4, length]))
    if length < 65536:
        spellings.append(b"\xb5" + length.to_bytes(2, "big"))
    spellings += [b"\xb6" + length.to_bytes(4, "big"), b"\xb7"]
    for header in spellings:
        assert [(packet.tag, packet.body) for packet in openpgp.packets(header + body)] == [(13, body)], (
            header
        )


def test_partial_lengths_are_joined():
    data = b"\xcd\xe9" + b"a" * 512 + b"\xe1" + b"bb" + b"\x03ccc"
    assert next(openpgp.packets(data)).body == b"a" * 512 + b"bbccc"


def test_key_of_an_old_version_spoils_only_itself():
    ancient = new(6, b"\x03" + b"x" * 20) + UID
    assert [key.fingerprint for key in openpgp.keys(ancient + new(6, BODY4) + UID)] == [PRINT4]
    with pytest.raises(openpgp.OpenPGPError, match="version 3"):
        openpgp.keys(ancient)


GOOD = openpgp.armor(new(6, BODY4) + UID)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        "some words before\n\n" + GOOD + "and after\n",
        GOOD.replace("BLOCK-----\n\n", "BLOCK-----\nVersion: GnuPG v2\nComment: hello\n\n", 1),
        GOOD.replace("BLOCK-----\n\n", "BLOCK-----\n", 1),
        "\n".join(line for line in GOOD.splitlines() if not line.startswith("=")) + "\n",
        GOOD + GOOD,
    ],
    ids=["plain", "crlf", "prose", "headers", "no empty line", "no checksum", "twice"],
)
def test_armor_in_its_varieties(text):
    found = openpgp.keys(text.encode())
    assert {key.fingerprint for key in found} == {PRINT4}
    assert len(openpgp.select(found, [PRINT4])) == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "it begins: <!DOCTYPE html>"),
        (GOOD[:-40].encode(), "no end"),
        (GOOD.replace("\n=", "\n=A", 1).encode(), "base64"),
        (GOOD.replace(GOOD.splitlines()[-2], "=AAAA").encode(), "checksum"),
        (GOOD.replace("PUBLIC KEY BLOCK", "SIGNATURE").encode(), "signature, not a public key"),
        (GOOD.replace("PUBLIC KEY BLOCK", "PRIVATE KEY BLOCK").encode(), "PRIVATE"),
        (new(6, BODY4)[:-5], "cut"),
        (b"\x99\x01", "cut"),
        (b"\xc6\xff\x00", "cut"),
        (UID, "does not begin with a public key"),
        (new(6, b""), "empty key packet"),
        (new(10, b"PGP"), "no public key"),
        (new(6, BODY4) + b"\x00", "begins no OpenPGP packet"),
        (new(5, BODY4), "PRIVATE"),
    ],
)
def test_what_is_no_key_is_named(data, words):
    with pytest.raises(openpgp.OpenPGPError, match=words):
        openpgp.keys(data)


@pytest.mark.parametrize(
    "text",
    [
        PRINT4,
        PRINT4.lower(),
        " ".join(PRINT4[at : at + 4] for at in range(0, 40, 4)),
        ":".join(PRINT4[at : at + 2] for at in range(0, 40, 2)),
        "0x" + PRINT4,
        f"  {PRINT4}\n",
    ],
)
def test_fingerprints_as_people_write_them(text):
    assert openpgp.normalise_fingerprint(text) == PRINT4


@pytest.mark.parametrize("text", ["", "F796ECB0", "0xDDCAE044F796ECB0", PRINT4[:-1], PRINT4 + "0", "x" * 40])
def test_what_is_no_fingerprint(text):
    with pytest.raises(openpgp.OpenPGPError, match="not a fingerprint"):
        openpgp.normalise_fingerprint(text)


def test_key_id_is_named_as_such():
    with pytest.raises(openpgp.OpenPGPError, match="key ID"):
        openpgp.normalise_fingerprint("DDCAE044F796ECB0")


@given(st.binary(max_size=300))
def test_random_bytes_end_in_a_clear_error_or_keys(data):
    try:
        assert openpgp.keys(data)
    except openpgp.OpenPGPError as error:
        assert str(error)


@given(st.binary(min_size=1, max_size=2000))
def test_armor_comes_back(data):
    assert openpgp.dearmor(openpgp.armor(data).encode()) == data
