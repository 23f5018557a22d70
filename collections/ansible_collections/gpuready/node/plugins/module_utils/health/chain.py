# Apache-2.0 (see LICENSE)
"""The packages of the chain, as dpkg's own status file has them: has one of them changed? Python 3.8."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import time
from typing import Dict

STATUS = "/var/lib/dpkg/status"
LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock")
PAUSE_SECONDS = 3
# Driver, container toolkit, Docker and what starts its containers, kernels.
_CHAIN = re.compile(
    r"^(?:nvidia-|libnvidia|xserver-xorg-video-nvidia|linux-(?:image|modules|objects|signatures|headers)-|"
    r"docker|containerd|runc$|cuda-drivers|libcuda1|firmware-nvidia|datacenter-gpu-manager)"
)

_FIELD = {name: re.compile(r"^%s: (.+)$" % name, re.M) for name in ("Package", "Version", "Status")}


def packages(path: str = STATUS) -> Dict[str, str]:
    """Package → version and state, of those that a workload's way to its GPU leads through."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            text = handle.read()
    except OSError:
        return {}
    found: Dict[str, str] = {}
    for paragraph in text.split("\n\n"):
        name = _FIELD["Package"].search(paragraph)
        if not name or not _CHAIN.match(name.group(1)):
            continue
        version, status = (_FIELD[field].search(paragraph) for field in ("Version", "Status"))
        state = status.group(1).rsplit(None, 1)[-1] if status else "unknown"
        if state != "config-files":
            found[name.group(1)] = "%s %s" % (version.group(1) if version else "", state)
    return found


def locked(path: str) -> bool:
    """Does somebody hold it? Only asks: taking it, however briefly, would make apt fail."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(handle, fcntl.F_GETLK, question)
        return bool(struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(handle)


def wait_for_dpkg(seconds: float, quiet: float = 0) -> bool:
    """Until nobody installs any more, and has not for a while; False when that takes too long."""
    end = time.monotonic() + seconds + quiet
    while any(locked(path) for path in LOCKS) or changed_ago(STATUS) < quiet:
        if time.monotonic() >= end:
            return False
        time.sleep(min(PAUSE_SECONDS, max(0.1, quiet)) if quiet else PAUSE_SECONDS)
    return True


def changed_ago(path: str) -> float:
    """How many seconds ago a file was written; long ago where there is none, or where the clock was set."""
    try:
        ago = time.time() - os.stat(path).st_mtime
    except OSError:
        return float("inf")
    return ago if ago >= 0 else float("inf")
