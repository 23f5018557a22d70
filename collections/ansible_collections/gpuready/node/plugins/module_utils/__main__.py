# Apache-2.0 (see LICENSE)
"""`python -m gpuready` is the same as `gpuready`."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
