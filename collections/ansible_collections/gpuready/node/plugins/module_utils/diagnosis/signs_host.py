# Apache-2.0 (see LICENSE)
"""Signs of the host: from the bus to the device nodes."""

from __future__ import annotations
