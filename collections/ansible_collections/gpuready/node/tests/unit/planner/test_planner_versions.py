"""Debian's order of versions, checked against dpkg itself."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from gpuready.versions import (
    Version,
    at_least,
    compare,
    driver_branch,
    driver_version,
    matches,
    newest,
    split,
    upstream,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg is not here to compare with")

UPSTREAM = st.from_regex(r"\A[0-9][0-9a-zA-Z.+~]{0,9}\Z")
REVISION = st.from_regex(r"\A[0-9a-zA-Z.+~]{1,6}\Z")


@st.composite
def versions(draw: st.DrawFn) -> str:
    epoch = draw(st.sampled_from(["", "", "0:", "1:", "5:"]))
    revision = draw(st.one_of(st.just(""), REVISION.map(lambda text: "-" + text)))
    return epoch + draw(UPSTREAM) + revision


def dpkg_says(left: str, right: str) -> int:
    for operator, answer in (("lt", -1), ("eq", 0), ("gt", 1)):
        command = ["dpkg", "--compare-versions", left, operator, right]
        if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return answer
    raise AssertionError(f"dpkg has no answer for {left} and {right}")


@needs_dpkg
@settings(max_examples=150, deadline=None)
@given(versions(), versions())
@example("1.0~rc1", "1.0")
@example("1.0", "1.0-0")
@example("1.0a", "1.0+")
@example("1:0.1", "9")
@example("1.00", "1.0")
@example("580.95.05-0ubuntu0.22.04.2", "580.105.08-0ubuntu0.22.04.1")
def test_compare_agrees_with_dpkg(left: str, right: str) -> None:
    assert compare(left, right) == dpkg_says(left, right)


@given(versions(), versions(), versions())
def test_compare_is_an_order(a: str, b: str, c: str) -> None:
    assert compare(a, b) == -compare(b, a)
    first, second, third = sorted([a, b, c], key=Version)
    assert compare(first, second) <= 0 and compare(second, third) <= 0 and compare(first, third) <= 0


@given(versions(), versions())
def test_equal_versions_have_equal_hashes(a: str, b: str) -> None:
    if Version(a) == Version(b):
        assert hash(Version(a)) == hash(Version(b))


@pytest.mark.parametrize(
    ("version", "floor", "expected"),
    [
        ("460.27.03", "460.27", True),
        ("460.27", "460.27.03", False),
        ("450.80.02", "460.27", False),
        ("580.95.05", "580.105.08", False),
        ("570.26", "570", True),
        ("1000.1", "999.9", True),
    ],
)
def test_at_least(version: str, floor: str, expected: bool) -> None:
    assert at_least(version, floor) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("580.95.05-0ubuntu0.22.04.2", "580.95.05"),
        ("/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05", "580.95.05"),
        ("535.261.03-1~deb12u1", "535.261.03"),
        ("5.15.0-157.167", None),
        ("libcuda.so.1", None),
        ("", None),
        (None, None),
    ],
)
def test_driver_version(text: str | None, expected: str | None) -> None:
    assert driver_version(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("580.95.05-0ubuntu1", 580),
        ("470", 470),
        ("5.15.0-157.167", None),
        ("20.10.24", None),
        (None, None),
    ],
)
def test_driver_branch(text: str | None, expected: int | None) -> None:
    assert driver_branch(text) == expected


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("5:28.5.1-1~ubuntu.22.04~jammy", "28.5.1"),
        ("20.10.24+dfsg1-1", "20.10.24"),
        ("1.17.8-1", "1.17.8"),
        ("24.0.7-0ubuntu4.1", "24.0.7"),
        ("2.0~rc1-1", "2.0"),
    ],
)
def test_upstream(package: str, expected: str) -> None:
    assert upstream(package) == expected


def test_matches_full_or_upstream_version() -> None:
    assert matches("580.95.05-0ubuntu0.22.04.2", "580.95.05")
    assert matches("580.95.05-0ubuntu0.22.04.2", "580.95.05-0ubuntu0.22.04.2")
    assert matches("5:28.5.1-1", "28.5.1")
    assert not matches("580.95.05-0ubuntu0.22.04.2", "580.95")


def test_newest_of_nothing_is_none() -> None:
    assert newest([]) is None
    assert newest(["580.95.05", "580.105.08", "580.82.07"]) == "580.105.08"


def test_split_refuses_a_bad_epoch() -> None:
    with pytest.raises(ValueError, match="epoch"):
        split("a:1")
