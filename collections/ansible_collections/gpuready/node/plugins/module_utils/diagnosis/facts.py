# Apache-2.0 (see LICENSE)
"""What is known when a diagnosis begins: one read-only view of it (docs/contracts.md, section 8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..catalog import Catalog


class Facts:
    """Facts by dotted path. What nobody has said is None, exactly like what is explicitly unknown."""

    def __init__(self, data: Mapping[str, Any], catalog: Catalog) -> None:
        self.data = data
        self.catalog = catalog
        self._worked_out: dict[str, Any] = {}

    @property
    def observed(self) -> bool:
        """Were they seen on a node? Then null says "there is none"; in a text it says "nobody said"."""
        return self.get("gpu_stack.schema") is not None

    def recall(self, key: str, work_out: Callable[[], Any]) -> Any:
        """What follows from the facts, worked out once."""
        if key not in self._worked_out:
            self._worked_out[key] = work_out()
        return self._worked_out[key]

    def get(self, path: str) -> Any:
        """What lies under the path; None where the way ends.

        >>> Facts({"gpu_stack": {"driver": {"dkms": []}}}, None).get("gpu_stack.driver.dkms")
        []
        """
        value: Any = self.data
        for name in path.split("."):
            if not isinstance(value, Mapping):
                return None
            value = value.get(name)
        return value

    def variables(self, *paths: str) -> dict[str, str] | None:
        """The environment variables under these paths, the last path's first; None where nobody tells any.

        >>> Facts({"container": {"env": {"USE_CPU": 1}}}, None).variables("framework.env", "container.env")
        {'USE_CPU': '1'}
        """
        known = [value for value in map(self.get, paths) if isinstance(value, Mapping)]
        if not known:
            return None
        return {str(name): str(text) for value in known for name, text in value.items() if text is not None}

    def rows(self, path: str) -> list[Mapping[str, Any]]:
        """A list of mappings; empty where there is none (ask :meth:`get` whether it is known at all)."""
        value = self.get(path)
        return [row for row in value if isinstance(row, Mapping)] if isinstance(value, (list, tuple)) else []
