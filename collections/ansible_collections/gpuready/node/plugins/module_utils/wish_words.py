# Apache-2.0 (see LICENSE)
"""What the rules of wishes share: a problem with one, and the names nearest to a misspelt one.

Apart from `wishes`, so that a role's own rules can live in its own module, which `wishes` imports.
"""

from __future__ import annotations

import difflib
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple


class Problem(NamedTuple):
    """One wish that cannot be understood."""

    variable: str
    what: str
    options: List[str]


def nearest(value: Any, known: Sequence[Any], count: int = 3) -> List[str]:
    """The known names that look most like `value`, best first; never more than `count`."""
    names = [str(name) for name in known]
    found = difflib.get_close_matches(str(value), names, n=count, cutoff=0.5)
    return found or names[:count]


def truth(value: Any) -> Optional[bool]:
    """A boolean as people write it in inventories and on command lines; None when it is none."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "yes", "on", "1"):
        return True
    if text in ("false", "no", "off", "0"):
        return False
    return None


def given_rows(name: str, value: Any, example: str) -> Tuple[Sequence[Any], Optional[Problem]]:
    """The rows of a wish that is a list of mappings, each still to be read; a problem where it is no list."""
    if value in (None, ""):
        return (), None
    if not isinstance(value, (list, tuple)):
        return (), Problem(name, "%s is %r, but must be a list of mappings" % (name, value), [example])
    return value, None
