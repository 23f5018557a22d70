"""The helpers of the host suite serve here too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests" / "host"))

from fixtures import host

__all__ = ["host"]
