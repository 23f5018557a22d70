"""Says again and again who uses a node's GPUs, a line of JSON each; `gpuready watch` sends it there.

Ends when nobody listens any more, for its standard input is closed with the connection. Runs on nodes
(Python 3.8).
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import Any, Dict, Optional, TextIO

from . import nvml_bindings, usage_sample
from .health import nvml_metrics
from .usage_processes import Processes, container_names

SHORTEST = 0.2


def _left(stdin: TextIO, seconds: float) -> bool:
    """Wait; whether the listener has gone meanwhile."""
    deadline = time.monotonic() + seconds
    while True:
        readable = select.select([stdin], [], [], max(0.0, deadline - time.monotonic()))[0]
        if not readable:
            return False
        if not os.read(stdin.fileno(), 4096):
            return True


def run(options: Dict[str, Any], stdin: TextIO = sys.stdin, stdout: TextIO = sys.stdout) -> int:
    """Look, say, wait."""
    interval = max(SHORTEST, float(options["interval"]))
    try:
        library = nvml_bindings.find(options.get("bindings"))
    except nvml_bindings.NoBindings as error:
        print(json.dumps({"error": str(error), "gpus": [], "processes": []}), file=stdout, flush=True)
        return 1
    sampler = usage_sample.Sampler(
        lambda since_seconds: nvml_metrics.read(library, since_seconds=since_seconds),
        Processes(),
        container_names,
    )
    rounds: Optional[int] = options.get("rounds")
    while rounds is None or rounds > 0:
        look = dict(sampler.look(), load=usage_sample.load(), root=os.geteuid() == 0)
        try:
            print(json.dumps(look), file=stdout, flush=True)
        except BrokenPipeError:
            return 0
        if rounds is not None:
            rounds -= 1
        if rounds != 0 and _left(stdin, interval):
            return 0
    return 0
