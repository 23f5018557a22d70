#!/usr/bin/env python3
"""Offer the fault lab's stand-in for TensorFlow at `gpulab-registry:5000/standin` (tests/faults/standin.py).

It answers verification's probe as TensorFlow 2.9.0 would and says that it is simulated: for scenarios in
which workloads are verified, and TensorFlow itself is not the point.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "faults"))

from standin import publish

if __name__ == "__main__":
    print(publish())
