"""OpenPGP public keys: which ones a file holds, by fingerprint, and nothing more.

Minimal nodes have no gpg, and apt must not be handed a key before somebody has looked at it. This reads the
packets of RFC 9580 (and of LibrePGP) far enough to name every primary key and to cut single keys out of a
keyring. It checks no signature: what makes a key trusted here is its pinned fingerprint.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

SIGNATURE, PUBLIC_KEY, PUBLIC_SUBKEY = 2, 6, 14
SECRET_KEY, SECRET_SUBKEY = 5, 7
USER_ID = 13
MARKER, PADDING = 10, 21
# Signatures by which a key speaks about itself: certifications of a user ID, and direct ones.
SELF_SIGNATURES = (0x10, 0x11, 0x12, 0x13, 0x1F)
SIGNED_AT, KEY_LIVES, ISSUER, ISSUER_FINGERPRINT = 2, 9, 16, 33

_ARMOR = re.compile(
    r"^-----BEGIN PGP (?P<what>[A-Z ]+)-----[ \t]*\r?\n(?P<body>.*?)^-----END PGP (?P=what)-----[ \t]*\r?$",
    re.M | re.S,
)
_FINGERPRINT = re.compile(r"^(?:[0-9A-F]{40}|[0-9A-F]{64})$")


class OpenPGPError(ValueError):
    """This is not a public key that can be read; the text says why."""


class Packet(NamedTuple):
    tag: int
    body: bytes
    raw: bytes


class Key(NamedTuple):
    """A transferable public key: its primary key with everything that belongs to it."""

    fingerprint: str
    version: int
    user_ids: List[str]
    subkeys: List[str]
    raw: bytes
    expires: Optional[int] = None


def normalise_fingerprint(text: str) -> str:
    """Forty or sixty-four upper-case hexadecimal digits, from any of the ways people write them."""
    plain = re.sub(r"[\s:]", "", text).upper()
    if plain.startswith("0X"):
        plain = plain[2:]
    if not _FINGERPRINT.match(plain):
        hint = ""
        if re.match(r"^[0-9A-F]{8}$|^[0-9A-F]{16}$", plain):
            hint = ": this is a key ID, which anybody can make a key for"
        raise OpenPGPError("'%s' is not a fingerprint (40 or 64 hexadecimal digits)%s" % (text, hint))
    return plain


def crc24(data: bytes) -> int:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _bit in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc & 0xFFFFFF


def _dearmor_block(what: str, body: str) -> bytes:
    if what == "PRIVATE KEY BLOCK":
        raise OpenPGPError("it holds a PRIVATE key; publish the public one only, and consider this one lost")
    if what != "PUBLIC KEY BLOCK":
        raise OpenPGPError("it holds a PGP %s, not a public key" % what.lower())
    lines = [line.strip() for line in body.splitlines()]
    # Headers ("Version: …", "Comment: …") end with an empty line; some exporters leave them out altogether.
    if any(":" in line for line in lines[:1]) or "" in lines:
        if "" not in lines:
            raise OpenPGPError("its armor's headers do not end")
        lines = lines[lines.index("") + 1 :]
    lines = [line for line in lines if line]
    checksum = lines.pop()[1:] if lines and re.match(r"^=[A-Za-z0-9+/]{4}$", lines[-1]) else None
    try:
        data = base64.b64decode("".join(lines), validate=True)
        expected = (
            None if checksum is None else int.from_bytes(base64.b64decode(checksum, validate=True), "big")
        )
    except (binascii.Error, ValueError):
        raise OpenPGPError("its armor is not base64") from None
    if not data:
        raise OpenPGPError("its armor is empty")
    if expected is not None and crc24(data) != expected:
        raise OpenPGPError("its armor's checksum is wrong: the text was cut or changed")
    return data


def dearmor(data: bytes) -> bytes:
    """The binary packets of an armored file (several blocks are joined), or of one that is binary already."""
    if b"-----BEGIN PGP" not in data:
        if not data.strip():
            raise OpenPGPError("it is empty")
        if not data[0] & 0x80:
            start = data[:60].decode("utf-8", "replace").strip()
            raise OpenPGPError("it is not an OpenPGP key; it begins: %s" % " ".join(start.split()))
        return data
    blocks = list(_ARMOR.finditer(data.decode("utf-8", "replace")))
    if len(blocks) != data.count(b"-----BEGIN PGP"):
        raise OpenPGPError("an armored block has no end: the text was cut")
    return b"".join(_dearmor_block(block.group("what"), block.group("body")) for block in blocks)


def armor(data: bytes) -> str:
    """One armored block, as apt reads it from a .asc file."""
    text = base64.b64encode(data).decode("ascii")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    checksum = base64.b64encode(crc24(data).to_bytes(3, "big")).decode("ascii")
    return "\n".join(
        [
            "-----BEGIN PGP PUBLIC KEY BLOCK-----",
            "",
            *lines,
            "=" + checksum,
            "-----END PGP PUBLIC KEY BLOCK-----",
            "",
        ]
    )


def _new_length(data: bytes, at: int) -> Tuple[int, int, bool]:
    """(length, where the body begins, is only a part of it) of a new-format header."""
    first = data[at]
    if first < 192:
        return first, at + 1, False
    if first < 224:
        return ((first - 192) << 8) + data[at + 1] + 192, at + 2, False
    if first < 255:
        return 1 << (first & 0x1F), at + 1, True
    return int.from_bytes(data[at + 1 : at + 5], "big"), at + 5, False


def packets(data: bytes) -> Iterator[Packet]:
    """The packets, in both header formats."""
    at = 0
    cut = OpenPGPError("it ends in the middle of a packet: the file was cut")
    while at < len(data):
        start = at
        head = data[at]
        if not head & 0x80:
            raise OpenPGPError("byte %d begins no OpenPGP packet" % at)
        at += 1
        body = b""
        try:
            if head & 0x40:
                tag = head & 0x3F
                partial = True
                while partial:
                    length, at, partial = _new_length(data, at)
                    body += data[at : at + length]
                    at += length
            else:
                tag = (head >> 2) & 0x0F
                size = head & 0x03
                if size == 3:  # of indeterminate length: up to the end
                    length = len(data) - at
                else:
                    width = 1 << size
                    if at + width > len(data):
                        raise cut
                    length = int.from_bytes(data[at : at + width], "big")
                    at += width
                body = data[at : at + length]
                at += length
        except IndexError:
            raise cut from None
        if at > len(data):
            raise cut
        yield Packet(tag, body, data[start:at])


def fingerprint(body: bytes) -> Tuple[str, int]:
    """(fingerprint, version) of a public key packet."""
    if not body:
        raise OpenPGPError("it holds an empty key packet")
    version = body[0]
    if version == 4:
        # SHA-1 is the format's own choice for version 4, not ours.
        digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest()
    elif version == 5:
        digest = hashlib.sha256(b"\x9a" + len(body).to_bytes(4, "big") + body).hexdigest()
    elif version == 6:
        digest = hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest()
    else:
        raise OpenPGPError("it holds a key of version %d; versions 4, 5 and 6 can be pinned" % version)
    return digest.upper(), version


def _subpackets(data: bytes) -> Dict[int, bytes]:
    """Type → content of a signature's subpackets, the last one of each type."""
    found = {}
    at = 0
    while at < len(data):
        length, at, partial = _new_length(data, at)
        # Subpackets know no partial lengths: what packets read as one is a two-octet length here.
        if partial:
            length, at = ((data[at - 1] - 192) << 8) + data[at] + 192, at + 1
        if length:
            found[data[at] & 0x7F] = data[at + 1 : at + length]
        at += length
    return found


class SelfSignature(NamedTuple):
    """When a key spoke about itself, and how long it then said to live (in seconds; 0: for ever)."""

    at: int
    lives: int


def self_signature(body: bytes, primary: str) -> Optional[SelfSignature]:
    """What a signature packet says about its own key's life; null where it says nothing about that."""
    try:
        version, kind = body[0], body[1]
        if version not in (4, 5, 6) or kind not in SELF_SIGNATURES:
            return None
        width = 4 if version == 6 else 2
        size = int.from_bytes(body[4 : 4 + width], "big")
        hashed = _subpackets(body[4 + width : 4 + width + size])
        rest = body[4 + width + size :]
        loose = _subpackets(rest[width : width + int.from_bytes(rest[:width], "big")])
    except IndexError:
        return None
    issuer = hashed.get(ISSUER_FINGERPRINT, loose.get(ISSUER_FINGERPRINT, b""))[1:]
    short = hashed.get(ISSUER, loose.get(ISSUER, b""))
    # A version 4 key's ID is the end of its fingerprint, a later one's its beginning.
    ours = (primary[-16:] if version == 4 else primary[:16]).lower()
    if (issuer.hex().upper() != primary) if issuer else (short.hex() != ours):
        return None
    return SelfSignature(
        int.from_bytes(hashed.get(SIGNED_AT, b""), "big"), int.from_bytes(hashed.get(KEY_LIVES, b""), "big")
    )


def keys(data: bytes) -> List[Key]:
    """Every public key in a file, armored or binary."""
    found: List[Key] = []
    unsupported: List[OpenPGPError] = []
    skipping = False
    made = latest = 0
    for packet in packets(dearmor(data)):
        if packet.tag in (SECRET_KEY, SECRET_SUBKEY):
            raise OpenPGPError(
                "it holds a PRIVATE key; publish the public one only, and consider this one lost"
            )
        if packet.tag == PUBLIC_KEY:
            try:
                primary, version = fingerprint(packet.body)
            except OpenPGPError as error:  # an ancient key among good ones spoils only itself
                unsupported.append(error)
                skipping = True
                continue
            skipping = False
            made, latest = int.from_bytes(packet.body[1:5], "big"), -1
            found.append(Key(primary, version, [], [], packet.raw))
            continue
        if skipping or packet.tag in (MARKER, PADDING):
            continue
        if not found:
            raise OpenPGPError("it does not begin with a public key (packet type %d)" % packet.tag)
        key = found[-1]
        if packet.tag == PUBLIC_SUBKEY:
            key.subkeys.append(fingerprint(packet.body)[0])
        elif packet.tag == SIGNATURE:
            # The newest word counts: an expired key is renewed by signing itself once more.
            said = self_signature(packet.body, key.fingerprint)
            if said is not None and said.at >= latest:
                latest = said.at
                key = key._replace(expires=made + said.lives if said.lives else None)
        elif packet.tag == USER_ID:
            key.user_ids.append(packet.body.decode("utf-8", "replace"))
        found[-1] = key._replace(raw=key.raw + packet.raw)
    if not found:
        raise unsupported[0] if unsupported else OpenPGPError("it holds no public key")
    return found


def select(found: Iterable[Key], pinned: Iterable[str]) -> List[Key]:
    """The keys whose primary fingerprint is pinned, each once, in the file's order."""
    wanted = set(pinned)
    chosen: Dict[str, Key] = {}
    for key in found:
        if key.fingerprint in wanted:
            chosen.setdefault(key.fingerprint, key)
    return list(chosen.values())


def keyring(chosen: Iterable[Key], armored: bool = True) -> bytes:
    """A file of just these keys."""
    data = b"".join(key.raw for key in chosen)
    return armor(data).encode("ascii") if armored else data
