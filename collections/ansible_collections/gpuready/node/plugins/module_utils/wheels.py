# Apache-2.0 (see LICENSE)
"""Frameworks that come as Python wheels: from which index, what to ask pip for, and whether all agree.

"Three agree": the framework's wheel, the CUDA that it was built with (the channel that it comes from), and
the driver. The driver's part is the resolver's, as for any workload; here is the rest: index and Python.
Pure; for environments on the host and for derived images alike.
"""

from __future__ import annotations

import re
from typing import List, NamedTuple, Optional, Tuple
from urllib.parse import urlsplit, urlunsplit

from .catalog import Framework
from .versions import Version

TAG = "$(TAG)"
_TAG_IN_PATH = re.compile(r"^(?:cu\d{2,3}|cpu|rocm[\d.]+|xpu)$")


class Disagreement(NamedTuple):
    """Two that contradict each other: a conflict without its place."""

    id: str
    what: str
    because: List[str]
    options: List[str]


def index_url(template: str, workload: Framework) -> str:
    """The index that a wheel comes from; the catalog's own where the template is empty."""
    own = workload.wheel.url if workload.wheel else ""
    return (template or own).replace(TAG, workload.variant or "")


def without_login(url: str) -> str:
    """An address as plans may carry it: without user and password.

    >>> without_login("https://bob:secret@mirror.example:8443/whl/cu124")
    'https://mirror.example:8443/whl/cu124'
    """
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def tag_of(url: str) -> Optional[str]:
    """The channel that an index says it is; None for one that does not tell (PyPI and its mirrors).

    >>> tag_of("http://mirror/whl/cu124/"), tag_of("https://pypi.example/simple")
    ('cu124', None)
    """
    named = [part for part in urlsplit(url).path.split("/") if _TAG_IN_PATH.match(part)]
    return named[-1] if named else None


def requirements(workload: Framework, url: str) -> List[str]:
    """What to ask pip for. With the channel in the version, pip takes this very build or none."""
    assert workload.wheel is not None
    version = workload.version if tag_of(url) is None else "%s+%s" % (workload.version, workload.variant)
    return ["%s==%s" % (workload.wheel.package, version)]


def python_range(workload: Framework) -> Optional[Tuple[str, str]]:
    """The oldest and the newest Python that there are wheels for."""
    first, _dash, last = (workload.wheel_python or "").partition("-")
    return (first, last or first) if first else None


def python_suits(workload: Framework, python: str) -> bool:
    """Is there a wheel for this Python (its first two numbers count)? True where nobody knows."""
    known = python_range(workload)
    if known is None:
        return True
    short = ".".join(python.split(".")[:2])
    return Version(known[0]) <= Version(short) <= Version(known[1])


def disagreements(
    workload: Framework,
    *,
    index_url: str,
    python: Optional[str],
    subject: str,
    variable: str = "framework_venv_index_url",
    alternatives: Tuple[Framework, ...] = (),
    python_options: Tuple[str, ...] = (),
) -> List[Disagreement]:
    """Where wheel, channel and Python contradict each other; `python` None = not known.

    `subject`: who holds it ("environment research"); `variable`: who names the index. `alternatives`: the
    workloads that a way out may name; `python_options`: ways to another Python.
    """
    found = []
    tag = tag_of(index_url)
    shown = without_login(index_url)
    if tag is None and not workload.default_variant:
        found.append(
            Disagreement(
                "framework.channel_mismatch",
                "%s wants %s, but the index %s names no CUDA variant, and a plain %s is another one's there"
                % (subject, workload.name, shown, workload.wheel.package if workload.wheel else "wheel"),
                [
                    "%s is built with CUDA %s (%s)" % (workload.name, workload.cuda, workload.variant),
                    "%s: %s" % (variable, shown),
                ],
                [
                    "set %s to an index per CUDA variant, such as https://HOST/whl/$(TAG)" % variable,
                    *[
                        "use %s, which is what such an index has" % row.name
                        for row in _siblings(workload, alternatives, "default")
                    ],
                ],
            )
        )
    elif tag is not None and tag != workload.variant:
        what = "for CPUs only" if tag == "cpu" else "of another channel"
        found.append(
            Disagreement(
                "framework.channel_mismatch",
                "%s wants %s, but the index %s has wheels %s (%s)"
                % (subject, workload.name, shown, what, tag),
                [
                    "%s is built with CUDA %s (%s)" % (workload.name, workload.cuda, workload.variant),
                    "%s: %s" % (variable, shown),
                ],
                [
                    "write $(TAG) where %s says %s" % (variable, tag),
                    *["use %s" % row.name for row in _siblings(workload, alternatives, tag)],
                ],
            )
        )
    if python is not None and not python_suits(workload, python):
        known = python_range(workload)
        assert known is not None
        others = [
            row for row in alternatives if row.framework == workload.framework and python_suits(row, python)
        ]
        newest = max(others, key=lambda row: (Version(row.version), row.default_variant)) if others else None
        found.append(
            Disagreement(
                "framework.python_mismatch",
                "%s wants %s, for which there are wheels for Python %s to %s, but its Python is %s"
                % (subject, workload.name, known[0], known[1], python),
                ["%s: wheels for Python %s" % (workload.name, workload.wheel_python)],
                [
                    *python_options,
                    *(["use %s, which has wheels for Python %s" % (newest.name, python)] if newest else []),
                ],
            )
        )
    return found


def _siblings(workload: Framework, known: Tuple[Framework, ...], tag: str) -> List[Framework]:
    """The same release of another variant; `default`: of the one that plain indexes have."""
    return [
        row
        for row in known
        if (row.framework, row.version) == (workload.framework, workload.version)
        and (row.default_variant if tag == "default" else row.variant == tag)
        and row is not workload
    ]
