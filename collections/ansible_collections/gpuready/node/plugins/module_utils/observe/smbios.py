"""What a machine's maker wrote into its firmware: the SMBIOS tables, as the kernel hands them out.

Only what identifies the machine and its parts is read. Pure but for the files; Python 3.8.
"""

from __future__ import annotations

import struct
import uuid
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

BIOS, SYSTEM, BOARD, CHASSIS, PROCESSOR, MEMORY, END = 0, 1, 2, 3, 4, 17, 127

#: What makers leave in fields that they did not fill in.
_EMPTY = {
    "",
    "0",
    "00000000",
    "0123456789",
    "01234567890123456789ab",
    "123456789",
    "asset-1234567890",
    "base board serial number",
    "chassis serial number",
    "default",
    "default string",
    "empty",
    "fill by oem",
    "invalid",
    "n/a",
    "na",
    "no asset information",
    "no asset tag",
    "no dimm",
    "none",
    "not applicable",
    "not available",
    "not provided",
    "not specified",
    "null",
    "o.e.m.",
    "oem",
    "serial number",
    "system manufacturer",
    "system product name",
    "system serial number",
    "system version",
    "to be filled by o.e.m.",
    "tobefilledbyo.e.m.",
    "undefined",
    "unknown",
    "unspecified",
    "xxxxxxxxxx",
}


def meaningful(text: Optional[str]) -> Optional[str]:
    """The text, or null where the maker left a field as it was.

    >>> meaningful(" 7CXJ123 "), meaningful("To Be Filled By O.E.M."), meaningful("00000000")
    ('7CXJ123', None, None)
    """
    words = " ".join((text or "").split())
    return None if words.lower() in _EMPTY or not words.strip("0. -xX") else words


class Structure(NamedTuple):
    """One structure of the table."""

    kind: int
    data: bytes
    texts: List[str]

    def number(self, offset: int, form: str) -> Optional[int]:
        """The field there, by struct's letter; null where this version of the structure has none."""
        if offset + struct.calcsize("<" + form) > len(self.data):
            return None
        return int(struct.unpack_from("<" + form, self.data, offset)[0])

    def text(self, offset: int) -> Optional[str]:
        """The text that the field there points to."""
        which = self.number(offset, "B")
        if not which or which > len(self.texts):
            return None
        return meaningful(self.texts[which - 1])


def structures(table: bytes) -> Iterator[Structure]:
    """Every structure up to the table's end, or up to where it makes no sense any more."""
    at = 0
    while at + 4 <= len(table):
        kind, length = table[at], table[at + 1]
        end = table.find(b"\0\0", at + length)
        if length < 4 or end < 0:
            return
        texts = table[at + length : end].split(b"\0") if end > at + length else []
        yield Structure(
            kind, table[at : at + length], [text.decode("utf-8", "replace") for text in texts if text]
        )
        if kind == END:
            return
        at = end + 2


def machine_uuid(data: bytes, major: int, minor: int) -> Optional[str]:
    """Bytes of the machine's id in the order in which they are read out: another one from SMBIOS 2.6 on."""
    if data in (b"\0" * 16, b"\xff" * 16):
        return None
    modern = (major, minor) >= (2, 6)
    return str(uuid.UUID(bytes_le=data) if modern else uuid.UUID(bytes=data))


def version(entry: bytes) -> "tuple[int, int]":
    """SMBIOS' own version, from its entry point; a recent one where there is none to be read."""
    if entry.startswith(b"_SM3_") and len(entry) > 8:
        return entry[7], entry[8]
    if entry.startswith(b"_SM_") and len(entry) > 7:
        return entry[6], entry[7]
    return 3, 0


def memory_mib(device: Structure) -> Optional[int]:
    """The size of a memory module; 0 for an empty slot, null where it is not known."""
    size = device.number(0x0C, "H")
    if size is None or size == 0xFFFF:
        return None
    if size == 0x7FFF:
        extended = device.number(0x1C, "I")
        return None if extended is None else extended & 0x7FFFFFFF
    # The highest bit: it is in KiB.
    return (size & 0x7FFF) // 1024 if size & 0x8000 else size


def read(table: bytes, entry: bytes = b"") -> Dict[str, Any]:
    """`{vendor, product, serial, uuid, sku, asset_tag, board, bios, memory_modules}` of a table."""
    found: Dict[str, Any] = {
        "vendor": None,
        "product": None,
        "serial": None,
        "uuid": None,
        "asset_tag": None,
        "board": {"vendor": None, "product": None, "serial": None},
        "bios": {"vendor": None, "version": None, "date": None},
        "memory_modules": [],
    }
    seen = set()
    for each in structures(table):
        first = each.kind not in seen
        seen.add(each.kind)
        if each.kind == MEMORY:
            size = memory_mib(each)
            if size:
                found["memory_modules"].append(
                    {
                        "slot": each.text(0x10),
                        "size_mib": size,
                        "speed_mts": each.number(0x20, "H") or each.number(0x15, "H") or None,
                        "vendor": each.text(0x17),
                        "part_number": each.text(0x1A),
                        "serial": each.text(0x18),
                    }
                )
        elif not first:
            continue
        elif each.kind == BIOS:
            found["bios"] = {"vendor": each.text(4), "version": each.text(5), "date": each.text(8)}
        elif each.kind == SYSTEM:
            found.update(vendor=each.text(4), product=each.text(5), serial=each.text(7))
            if len(each.data) >= 0x18:
                found["uuid"] = machine_uuid(each.data[8:24], *version(entry))
        elif each.kind == BOARD:
            found["board"] = {"vendor": each.text(4), "product": each.text(5), "serial": each.text(7)}
        elif each.kind == CHASSIS:
            found["asset_tag"] = each.text(8)
    return found
