"""A node's lasting state, kept in a file and compared with it later: `fingerprint.py keep|compare NODE FILE`.

What a removal must restore is defined once, for all tests: tests/kit/fingerprint.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from kit.fingerprint import Fingerprint
from kit.nodes import Node


def main() -> int:
    verb, node, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    now = Node.existing(node).fingerprint().lasting()
    if verb == "keep":
        path.write_text(json.dumps(now.sections), encoding="utf-8")
        return 0
    kept = json.loads(path.read_text(encoding="utf-8"))
    before = Fingerprint({name: tuple(lines) for name, lines in kept.items()})
    differences = before.differences(now)
    print("\n".join(differences))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
