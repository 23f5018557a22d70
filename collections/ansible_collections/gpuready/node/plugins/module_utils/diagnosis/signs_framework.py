# Apache-2.0 (see LICENSE)
"""Signs of the framework and the application: floors, libraries, architectures, the real operation."""

from __future__ import annotations
