"""Documents in which every text is somebody's attempt, and documents that have not the right shape."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

#: What a page, an XML parser or a spreadsheet may stumble over.
ATTEMPTS = (
    "<script>window.poisoned=1</script>",
    "</script><script>window.poisoned=1</script>",
    "</style></title></textarea><img src=x onerror=window.poisoned=1>",
    '" onmouseover="window.poisoned=1" x=\'',
    "' autofocus onfocus='window.poisoned=1",
    "javascript:window.poisoned=1",
    "<!-- --!> ]]> <![CDATA[ &lt;b&gt; &#60;i&#62;",
    '=cmd|" /C calc"!A0',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\x00\x08\x1b[31m\ud800\ufffe\uffff",
    "\u202egnp.exe\u2066",
    "a\r\nb\rc\nd",
    "<svg/onload=window.poisoned=1>",
)
texts = st.one_of(st.sampled_from(ATTEMPTS), st.text(max_size=30))
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)

#: What the report itself decides, and no node.
OWN = frozenset({"status", "schema", "state", "layer", "standing"})


def poisoned(value: Any, attempt: Any, key: str = "") -> Any:
    """The same document, each of its texts being what ``attempt()`` gives."""
    if isinstance(value, dict):
        return {name: poisoned(item, attempt, name) for name, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, attempt, key) for item in value]
    return attempt() if isinstance(value, str) and key not in OWN else value
