# Apache-2.0 (see LICENSE)
"""Watches GPUs while they work, and sums up what they did: section 16's `watch`. Runs on nodes: Python 3.8.

Who reads, waits and asks whether it is over goes in, so that a test needs no GPU and no time.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from .health import xids

#: Where a watch keeps its files; gone with the boot, as the watch is.
FOLDER = "/run/gpuready/watch"
#: How often the kernel's log is read and what was seen is put down.
NOTE_SECONDS = 5.0
#: As many of the driver's errors are quoted.
XID_LINES = 50

Read = Callable[[], Dict[str, Any]]


#: Of these, the highest and the mean are told.
RANGES = ("temperature_c", "power_watts", "utilization_percent", "memory_used_mib", "clock_sm_mhz")


class Range:
    """Highest and mean of a value that may not always be known."""

    def __init__(self) -> None:
        self.highest: Optional[float] = None
        self.total = 0.0
        self.number = 0

    def add(self, value: Optional[float]) -> None:
        if value is None:
            return
        self.highest = value if self.highest is None else max(self.highest, value)
        self.total += value
        self.number += 1

    def told(self) -> Optional[Dict[str, float]]:
        if self.highest is None:
            return None
        return {"max": round(self.highest, 1), "mean": round(self.total / self.number, 1)}


class Gpu:
    """What one GPU did."""

    def __init__(self, index: int, first: Dict[str, Any]) -> None:
        self.index = index
        self.name, self.uuid, self.pci = first.get("name"), first.get("uuid"), first.get("pci")
        self.ranges = {key: Range() for key in RANGES}
        self.ecc_first: Dict[str, int] = {}
        self.ecc_last: Dict[str, int] = {}
        self.rows_first: Optional[Dict[str, Any]] = None
        self.rows_last: Optional[Dict[str, Any]] = None
        self.throttled: Optional[Dict[str, float]] = None
        self.samples = 0
        self.lost: Optional[str] = None

    def add(self, sample: Dict[str, Any], passed: float) -> None:
        """One look; `passed`: the seconds for which it stands."""
        self.samples += 1
        self.lost = None
        for key, values in self.ranges.items():
            values.add(sample.get(key))
        ecc = sample.get("ecc")
        if ecc:
            self.ecc_first = self.ecc_first or dict(ecc)
            # A driver that is loaded anew begins at nought: what there was, was.
            for kind, number in ecc.items():
                self.ecc_last[kind] = max(number, self.ecc_last.get(kind, 0))
        rows = sample.get("remapped_rows")
        if rows:
            self.rows_first = self.rows_first or dict(rows)
            self.rows_last = dict(rows)
        reasons = sample.get("throttled")
        if reasons is not None:
            self.throttled = self.throttled or {}
            for reason, holds in reasons.items():
                if holds:
                    self.throttled[reason] = self.throttled.get(reason, 0.0) + passed

    def told(self) -> Dict[str, Any]:
        rows = None
        if self.rows_first is not None and self.rows_last is not None:
            rows = dict(self.rows_last)
            before, now = self.rows_first, self.rows_last
            grown = [int(now[kind]) - int(before[kind]) for kind in ("corrected", "uncorrected")]
            rows["new"] = sum(max(0, number) for number in grown)

        def new(kind: str) -> Optional[int]:
            return None if kind not in self.ecc_first else self.ecc_last[kind] - self.ecc_first[kind]

        return {
            "index": self.index,
            "name": self.name,
            "uuid": self.uuid,
            "pci": self.pci,
            "samples": self.samples,
            **{key: values.told() for key, values in self.ranges.items()},
            "ecc_uncorrected": self.ecc_last.get("uncorrected"),
            "ecc_corrected": self.ecc_last.get("corrected"),
            "ecc_new": {"uncorrected": new("uncorrected"), "corrected": new("corrected")},
            "throttled": None
            if self.throttled is None
            else {reason: round(seconds, 1) for reason, seconds in sorted(self.throttled.items())},
            "remapped_rows": rows,
            "lost": self.lost,
        }


class Summary:
    """All looks so far."""

    def __init__(self, interval: float = 1.0) -> None:
        self.interval = interval
        self._gpus: Dict[str, Gpu] = {}
        self._order: List[str] = []
        self.samples = 0
        self.failures = 0
        self.error: Optional[str] = None
        self.xids: List[Dict[str, Any]] = []
        self.xid_count = 0
        self.log_read = True
        self.longest_gap = 0.0

    def add(self, said: Dict[str, Any], passed: float) -> None:
        """What NVML said in one look (`nvml_metrics.read`)."""
        gpus = said.get("gpus")
        if gpus is None:
            self.failures += 1
            self.error = said.get("error") or "NVML did not answer"
            return
        self.samples += 1
        seen = set()
        for gpu in gpus:
            key = self._key(gpu, len(gpus))
            if key is None:
                continue
            seen.add(key)
            if key not in self._gpus:
                self._gpus[key] = Gpu(len(self._order), gpu)
                self._order.append(key)
            if gpu.get("error"):
                self._gpus[key].lost = str(gpu["error"])
            else:
                self._gpus[key].add(gpu, passed)
        for key in self._order:
            if key not in seen:
                self._gpus[key].lost = self._gpus[key].lost or "the driver does not list it any more"

    def _key(self, gpu: Dict[str, Any], number: int) -> Optional[str]:
        """Who it is. A lost one has only its place, which holds while the driver lists as many."""
        if gpu.get("uuid"):
            return str(gpu["uuid"])
        place = int(gpu.get("index") or 0)
        if not self._order:
            return "place-%d" % place
        if number >= len(self._order):
            return self._order[place] if place < len(self._order) else "place-%d" % place
        return None

    def read_log(
        self, text: Optional[str], state: Optional[Dict[str, Any]], old: bool = False
    ) -> Optional[Dict[str, Any]]:
        """What the driver wrote into the kernel's log since the state before; `old`: before the watch."""
        if text is None:
            self.log_read = False
            return state
        state, lines = xids.follow(text, state, None)
        if not old:
            self.xid_count += len(lines)
            self.xids += lines[: max(0, XID_LINES - len(self.xids))]
        return state

    def told(self, seconds: float) -> Dict[str, Any]:
        return {
            "seconds": round(seconds, 1),
            "interval_seconds": self.interval,
            "longest_gap_seconds": round(self.longest_gap, 1),
            "samples": self.samples,
            "failures": self.failures,
            "error": self.error,
            "gpus": [self._gpus[key].told() for key in self._order],
            "xids": self.xids if self.log_read else None,
            "xid_count": self.xid_count,
        }


def watch(
    read: Read,
    kernel_log: Callable[[], Optional[str]],
    over: Callable[[], bool],
    note: Callable[[Dict[str, Any]], None],
    *,
    interval: float,
    limit: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Dict[str, Any]:
    """Look until it is over, or `limit` seconds have passed; `ended` says which: told | limit.

    `kernel_log` answers null where the log cannot be read; then nobody knows of errors in it.
    """
    summary = Summary(interval)
    # What the log has already is none of this watch's.
    state = summary.read_log(kernel_log(), None, old=True)
    began = last = clock()
    noted = began
    ended = "told"
    summary.add(read(), 0.0)
    note(summary.told(0.0))
    while not over():
        now = clock()
        if now - began >= limit:
            ended = "limit"
            break
        sleep(max(0.05, min(interval - (now - last), limit - (now - began))))
        now = clock()
        if now - last < interval and now - began < limit:
            continue
        summary.longest_gap = max(summary.longest_gap, now - last)
        # A pause of the whole machine is not time in which it was seen.
        summary.add(read(), min(now - last, 3 * interval))
        last = now
        if now - noted >= NOTE_SECONDS:
            noted = now
            state = summary.read_log(kernel_log(), state)
            note(summary.told(now - began))
    # What happened between the last look and the end belongs to it.
    summary.longest_gap = max(summary.longest_gap, clock() - last)
    summary.add(read(), 0.0)
    summary.read_log(kernel_log(), state)
    return dict(summary.told(clock() - began), ended=ended)


# -- the files by which a watch is told to end ---------------------------------------------------------


class Busy(Exception):
    """A watch that does not end, in one sentence."""


class Place:
    """A watch's folder: who holds the lock watches, who makes `end` wants it to end."""

    def __init__(self, name: str, folder: str = FOLDER) -> None:
        self.folder = os.path.join(folder, name)
        self._lock: Optional[int] = None

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def take(self, patience: float = 30.0) -> None:
        """Begin here; a watch that an interrupted run left behind is told to end first."""
        os.makedirs(self.folder, mode=0o755, exist_ok=True)
        if not self._acquire(0.0):
            self.tell()
            if not self._acquire(patience):
                raise Busy("another watch in %s did not end within %d s" % (self.folder, patience))
        for name in ("end", "watch.json"):
            if os.path.exists(self._path(name)):
                os.unlink(self._path(name))

    def _acquire(self, patience: float) -> bool:
        """Take the lock, which is held for as long as somebody watches."""
        descriptor = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    return False
                time.sleep(0.1)
                continue
            self._lock = descriptor
            return True

    def leave(self) -> None:
        """Let the lock go."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def tell(self) -> None:
        """Tell who watches here to end."""
        with open(self._path("end"), "w", encoding="ascii"):
            pass

    @property
    def told(self) -> bool:
        return os.path.exists(self._path("end"))

    def note(self, what: Dict[str, Any]) -> None:
        """Put down what was seen so far: nobody ever finds half of it."""
        path = self._path("watch.json")
        with open(path + ".new", "w", encoding="utf-8") as handle:
            json.dump(what, handle)
        os.rename(path + ".new", path)

    def finish(self, patience: float = 30.0) -> Tuple[Optional[Dict[str, Any]], Optional[str]]:
        """End the watch: (what it saw, what is wrong with it). Its files go."""
        if not os.path.isdir(self.folder):
            return None, "there was no watch in %s: the node was rebooted, or nobody began one" % self.folder
        self.tell()
        if not self._acquire(patience):
            return self._noted(), "the watch did not end within %d s after it was told to" % patience
        try:
            found = self._noted()
            if found is None:
                return None, "the watch ended before it had seen anything"
            if "ended" not in found:
                return dict(found, ended="died"), "the watch died after %.0f s" % found["seconds"]
            return found, None
        finally:
            for name in os.listdir(self.folder):
                os.unlink(self._path(name))
            os.rmdir(self.folder)
            self.leave()
            self._tidy()

    def _tidy(self) -> None:
        """Empty folders above it go as well, as far as they are gpuready's."""
        above = os.path.dirname(self.folder)
        while above.startswith(os.path.dirname(FOLDER)):
            try:
                os.rmdir(above)
            except OSError:
                return
            above = os.path.dirname(above)

    def _noted(self) -> Optional[Dict[str, Any]]:
        try:
            with open(self._path("watch.json"), encoding="utf-8") as handle:
                return dict(json.load(handle))
        except (OSError, ValueError):
            return None
