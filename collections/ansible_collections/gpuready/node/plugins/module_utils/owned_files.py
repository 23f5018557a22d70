# Apache-2.0 (see LICENSE)
"""gpuready's own files on a node: what a plan wants there, against `application.files` of the observation.

A wanted file is `{path, mode, content, owner}` (owner: root where left out). What only its owner may read is
a secret: its content is in no observation, so only its presence, mode and owner are compared.
"""

from __future__ import annotations

import hashlib
from typing import Any, Dict, List, Mapping, Optional, Sequence


def is_secret(mode: str) -> bool:
    """May its owner alone read it?

    >>> is_secret("0600"), is_secret("0644"), is_secret("0640")
    (True, False, False)
    """
    return not int(mode, 8) & 0o044


def wrong(
    observed: Optional[Mapping[str, Mapping[str, Any]]], wanted: Sequence[Mapping[str, Any]]
) -> List[str]:
    """Evidence, a line per file that is not as it should be; nothing where all are."""
    found = []
    for want in wanted:
        have = (observed or {}).get(want["path"])
        if have is None:
            found.append("%s is missing" % want["path"])
            continue
        owner = want.get("owner", "root")
        if have["link"] is not None:
            found.append("%s is a link to %s" % (want["path"], have["link"]))
        elif have["mode"] != want["mode"] or have["owner"] != owner:
            found.append(
                "%s has mode %s and belongs to %s, not %s and %s"
                % (want["path"], have["mode"], have["owner"], want["mode"], owner)
            )
        elif not is_secret(want["mode"]) and have["sha256"] != sha256_of(want["content"]):
            found.append("%s has another content" % want["path"])
    return found


def surplus(observed: Optional[Mapping[str, Any]], folder: str, wanted: Sequence[str]) -> List[str]:
    """gpuready's files below a folder that nothing wants any more."""
    return sorted(
        path for path in observed or {} if path.startswith(folder.rstrip("/") + "/") and path not in wanted
    )


def sha256_of(content: str) -> str:
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


def row(path: str, content: str, mode: str = "0644", owner: str = "root") -> Dict[str, Any]:
    """A wanted file, as plans carry it."""
    return {"path": path, "mode": mode, "owner": owner, "content": content}
