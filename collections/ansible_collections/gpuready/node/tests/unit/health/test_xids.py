"""Xid errors are counted once each, for as long as the node runs."""

from __future__ import annotations

from gpuready.health.xids import count

BOOT = "boot-1"
LINE = "[{:12.6f}] NVRM: Xid (PCI:0000:3b:00): {}, pid='<unknown>', name=<unknown>, something"


def log(*rows: tuple[float, int]) -> str:
    return "\n".join(LINE.format(stamp, xid) for stamp, xid in rows)


def test_errors_are_counted_by_gpu_and_number() -> None:
    text = log((10.0, 13), (11.5, 13), (12.0, 79))
    text += "\n[   13.000000] NVRM: Xid (PCI:0000:4B:00): 48, pid=7"
    assert count(text, None, BOOT)["counts"] == {"0000:3b:00": {"13": 2, "79": 1}, "0000:4b:00": {"48": 1}}


def test_the_same_log_again_adds_nothing() -> None:
    text = log((10.0, 13), (11.5, 31))
    once = count(text, None, BOOT)
    assert count(text, once, BOOT) == once


def test_what_the_log_has_forgotten_stays_counted() -> None:
    before = count(log((10.0, 13), (11.5, 31)), None, BOOT)
    after = count(log((11.5, 31), (90.0, 31)), before, BOOT)
    assert after["counts"] == {"0000:3b:00": {"13": 1, "31": 2}}


def test_two_gpus_in_the_same_moment_are_two_errors() -> None:
    text = log((10.0, 79)) + "\n" + log((10.0, 79)).replace("3b", "4b")
    before = count(text.splitlines()[0], None, BOOT)
    assert count(text, before, BOOT)["counts"] == {"0000:3b:00": {"79": 1}, "0000:4b:00": {"79": 1}}


def test_a_new_boot_begins_anew() -> None:
    before = count(log((500.0, 79)), None, BOOT)
    assert count(log((10.0, 13)), before, "boot-2")["counts"] == {"0000:3b:00": {"13": 1}}


def test_other_ways_of_writing_are_read() -> None:
    text = "NVRM: Xid (0000:03:00): 13, Graphics\n"  # before driver 396, without a stamp
    text += "[    5.000000] kernel: NVRM: Xid (PCI:0000:3b:00.0): 94, pid=1\n"
    text += "<4>[    6.000000] NVRM: Xid (PCI:00000000:3B:00): 94, pid=1\n"
    text += "[    7.000000] NVRM: GPU at PCI:0000:3b:00: GPU-1 has Xid-like words"
    assert count(text, None, BOOT)["counts"] == {"0000:03:00": {"13": 1}, "0000:3b:00": {"94": 2}}


def test_an_empty_log_keeps_what_was_counted() -> None:
    before = count(log((10.0, 13)), None, BOOT)
    assert count("", before, BOOT) == before
