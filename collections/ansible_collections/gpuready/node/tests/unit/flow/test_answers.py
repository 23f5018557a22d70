"""What is said when a module gave no answer."""

from __future__ import annotations

import pytest
from gpuready.answers import failure


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"msg": "the disk is full"}, "it failed: the disk is full"),
        ({"msg": "x", "module_stderr": "boom\n"}, "it failed: x\nThe node said: boom"),
        (
            {"exception": "Traceback (most recent call last):\n  File x\nRuntimeError: no text"},
            "it failed: RuntimeError: no text",
        ),
        ({"msg": "", "exception": None}, "it failed: no reason was given"),
        ({}, "it failed: no reason was given"),
    ],
)
def test_reason_is_the_module_s_own(result, text):
    assert failure("it failed", result) == text
