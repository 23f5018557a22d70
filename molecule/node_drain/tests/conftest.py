"""The fixtures of every suite that reaches its nodes by testinfra."""

from __future__ import annotations

from kit.fixtures import host, inventory, site

__all__ = ["host", "inventory", "site"]
