"""What the kernel said in this boot about the GPU, its driver, module signatures and memory."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Sequence

from .node import MissingTool, Node, ProbeError

LIMIT = 200  # lines
WIDTH = 600  # characters of one line
# The start of a boot is where most drivers fail: a part of the room is kept for it.
HEAD = 60

_TELLING = re.compile(
    r"nvidia|nvrm|nouveau|nova[-_]core|\bxid\b|lockdown|secure ?boot|module verification failed"
    r"|loading of (?:unsigned )?module|out of memory|oom[-_ ](?:kill|reaper)|killed process",
    re.I,
)
# Named alike and of no use: the GPU's sound devices, AppArmor's list of profiles, what systemd started.
_NOISE = re.compile(
    r'input: .*HD[A ]|snd_hda|apparmor="(?:STATUS|ALLOWED)"|systemd\[1\]: (?:Start|Stop|Finish|Reach)'
)
# The stamps of dmesg, dmesg -T and journalctl: where a line's own words begin.
_STAMP = re.compile(r"^(?:<\d+>)?\s*(?:\[[^\]]*\]\s*)?(?:kernel: )?")
_BOOT = "Linux version "


def select(text: str, addresses: Sequence[str] = ()) -> List[str]:
    """The telling lines, each distinct one at most twice: when it came first, and when it came last."""
    named = [address.lower() for address in addresses]
    # PCI errors name a GPU by its address only: "pci 0000:3b:00.0: BAR 1: no space for ...".
    lines = []
    for line in text.splitlines():
        lower = line.lower()
        if not _TELLING.search(line) and not any(address in lower for address in named):
            continue
        if not _NOISE.search(line):
            lines.append(line.rstrip()[:WIDTH])
    first: Dict[str, int] = {}
    last: Dict[str, int] = {}
    for index, line in enumerate(lines):
        words = _STAMP.sub("", line)
        first.setdefault(words, index)
        last[words] = index
    kept = sorted({*first.values(), *last.values()})
    if len(kept) > LIMIT:
        kept = kept[:HEAD] + kept[HEAD - LIMIT :]
    return [lines[index] for index in kept]


def kernel_log(node: Node, addresses: Sequence[str] = ()) -> Dict[str, Any]:
    """This boot's telling lines. dmesg is fastest; what its ring has lost since the boot, the journal has."""
    complaint = ""
    ring = None
    try:
        result = node.run(["dmesg"])
        if result.rc == 0:
            ring = result.out
        else:
            complaint = result.message
    except MissingTool as error:
        complaint = str(error)
    # An empty ring is a container's, which has no log of its own.
    if ring is not None and (_BOOT in ring[:20000] or not ring.strip()):
        return {"source": "dmesg", "lines": select(ring, addresses)}
    try:
        command = ["journalctl", "--dmesg", "--boot", "--no-pager", "--quiet"]
        result = node.run([*command, "--output=short-monotonic", "--no-hostname"])
        if result.rc == 0 and result.out.strip():
            return {"source": "journalctl", "lines": select(result.out, addresses)}
    except ProbeError:
        pass  # dmesg's own words say more
    if ring is None:
        raise ProbeError(complaint)
    return {"source": "dmesg", "lines": select(ring, addresses)}
