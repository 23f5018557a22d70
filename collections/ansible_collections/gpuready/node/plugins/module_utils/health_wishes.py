# Apache-2.0 (see LICENSE)
"""The rules for the wishes of the role gpu_health that are more than a choice or a truth. Pure."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, Optional, Tuple

from .wish_words import Problem

Checked = Tuple[Any, Optional[Problem]]
# Looking more often than this costs more than it tells; less often, and an alert comes too late.
LIMITS = {
    "gpu_health_metrics_interval_seconds": (5, 3600, 15),
    "gpu_health_check_interval_seconds": (30, 86400, 300),
    "gpu_health_verify_timeout_seconds": (10, 7200, 300),
    "gpu_health_verify_package_delay_seconds": (0, 86400, 120),
}


def _seconds(name: str, value: Any) -> Checked:
    low, high, usual = LIMITS[name]
    text = str(value).strip()
    if isinstance(value, bool) or not re.match(r"^\d+$", text) or not low <= int(text) <= high:
        return value, Problem(
            name,
            "%s is %r, but must be a whole number of seconds from %d to %d" % (name, value, low, high),
            ["set %s: %d" % (name, usual)],
        )
    return int(text), None


def _directory(name: str, value: Any) -> Checked:
    text = value.strip() if isinstance(value, str) else value
    if not isinstance(text, str) or not re.match(r"^(/[A-Za-z0-9._+@-]+)+/?$", text) or "/.." in text:
        return value, Problem(
            name,
            "%s is %r, but must be the absolute path of a directory, without spaces" % (name, value),
            ["set %s: /var/lib/prometheus/node-exporter" % name],
        )
    return text.rstrip("/"), None


def _time(name: str, value: Any) -> Checked:
    if value in (None, ""):
        return "", None
    # YAML reads 4:30 as the number 270, and 04:30 as a text.
    text = str(value).strip()
    if isinstance(value, bool) or not re.match(r"^([01]\d|2[0-3]):[0-5]\d$", text):
        return value, Problem(
            name,
            "%s is %r, but must be a time of day, HH:MM, in quotes" % (name, value),
            [
                'set %s: "04:30"' % name,
                "leave it empty: each node then has its own time between 02:00 and 05:00",
            ],
        )
    return text, None


RULES: Dict[str, Callable[[str, Any], Checked]] = {
    **dict.fromkeys(LIMITS, _seconds),
    "gpu_health_textfile_directory": _directory,
    "gpu_health_verify_time": _time,
}
