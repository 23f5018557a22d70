"""Can this node open a TCP connection to the places it will need?"""

from __future__ import annotations

import socket
from typing import Any, Dict, Tuple

from .node import error_text


def split_address(address: str) -> Tuple[str, int]:
    """host:port, [IPv6]:port; raises ValueError with a sentence."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("'%s' is not host:port" % address)
    return host, int(port)


def check(name: str, address: str, timeout: float) -> Dict[str, Any]:
    error = None
    try:
        with socket.create_connection(split_address(address), timeout=timeout):
            pass
    except (OSError, ValueError) as failure:
        error = str(failure) if isinstance(failure, ValueError) else error_text(failure)
    return {"name": name, "address": address, "reachable": error is None, "error": error}
