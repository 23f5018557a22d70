# Apache-2.0 (see LICENSE)
"""Signs of the container runtime: Docker, the toolkit, the image, the container's request."""

from __future__ import annotations
