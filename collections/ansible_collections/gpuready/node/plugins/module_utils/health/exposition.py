# Apache-2.0 (see LICENSE)
"""Prometheus' text format, version 0.0.4. Pure; runs on nodes: Python 3.8.

What is not known is left out: a value of None is no sample, and a family without a sample is not named.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Tuple, Union

PREFIX = "gpuready_"
Number = Union[int, float, bool]


class Exposition:
    """Families in the order in which they were begun, each with all its samples, as the format wants them."""

    def __init__(self) -> None:
        self._families: Dict[str, Tuple[str, str]] = {}
        self._samples: Dict[str, Dict[Tuple[Tuple[str, str], ...], str]] = {}

    def add(self, name: str, kind: str, text: str, value: Any, labels: Mapping[str, Any] = {}) -> None:
        """One sample. The same labels again replace it: node_exporter refuses a file that repeats itself."""
        if value is None:
            return
        self._families.setdefault(name, (kind, text))
        # A label that is empty is the same as one that is not there.
        key = tuple(
            (label, str(labels[label])) for label in sorted(labels) if labels[label] not in (None, "")
        )
        self._samples.setdefault(name, {})[key] = number(value)

    def text(self) -> str:
        lines: List[str] = []
        for name, (kind, text) in self._families.items():
            lines.append("# HELP %s%s %s" % (PREFIX, name, _escape(text, quotes=False)))
            lines.append("# TYPE %s%s %s" % (PREFIX, name, kind))
            for key, value in self._samples[name].items():
                written = ",".join('%s="%s"' % (label, _escape(word)) for label, word in key)
                lines.append("%s%s%s %s" % (PREFIX, name, "{%s}" % written if written else "", value))
        return "\n".join(lines) + "\n"


def _escape(text: str, quotes: bool = True) -> str:
    r"""
    >>> print(_escape('a "b"\n\\'))
    a \"b\"\n\\
    """
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def number(value: Number) -> str:
    """
    >>> number(True), number(3), number(0.25), number(81920 * 1024 * 1024)
    ('1', '3', '0.25', '85899345920')
    """
    if isinstance(value, (bool, int)):
        return str(int(value))
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
