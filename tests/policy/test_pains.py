"""docs/pains.md names a test for every pain, and the tests that it names exist."""

from __future__ import annotations

import ast
import re

from repository import ROOT

PAGE = ROOT / "docs" / "pains.md"
#: What this project promises to have a test for so far, by peers' numbers.
PROMISED = {1, 3, 6, 7, 8, 9, 12, 13, 14}
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
TEST = re.compile(r"`([\w/.]+\.py)::(test_\w+)`")


def rows() -> dict[int, str]:
    """The cell of tests, by the number of the pain."""
    return {int(number): tests for number, _pain, _answer, tests in ROW.findall(PAGE.read_text("utf-8"))}


def names_in(name: str) -> set[str]:
    """The names of a file's tests."""
    tree = ast.parse((ROOT / name).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_promised_pain_has_a_row_with_a_test_of_its_name() -> None:
    found = rows()
    assert PROMISED - set(found) == set()
    unnamed = [
        number
        for number in PROMISED
        if not any(test.startswith(f"test_pain_{number:02}_") for _path, test in TEST.findall(found[number]))
    ]
    assert unnamed == []


def test_tests_that_the_page_names_exist() -> None:
    named = TEST.findall(PAGE.read_text("utf-8"))
    assert named
    assert [f"{path}::{test}" for path, test in named if test not in names_in(path)] == []


def test_every_test_of_a_pain_is_on_the_page() -> None:
    page = PAGE.read_text("utf-8")
    names = {
        test
        for path in (ROOT / "tests").rglob("test_*.py")
        for test in names_in(str(path.relative_to(ROOT)))
        if re.match(r"test_pain_\d\d_", test)
    }
    assert sorted(name for name in names if f"::{name}`" not in page) == []
