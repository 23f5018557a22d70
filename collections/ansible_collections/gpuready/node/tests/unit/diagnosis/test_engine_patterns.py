"""Patterns: spaces that match any white space, and the words that every match contains."""

from __future__ import annotations

import itertools
import re

import pytest
from gpuready.diagnosis.patterns import BROKEN_LINES, MAX_SPAN, PatternError, Shape, Text, shape, translate


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("driver not loaded", "driver not\n   loaded"),
        ("driver  not", "driver not"),
        ("[ab c]x", " x"),
        (r"a\ b", "a b"),
        ("in (?:use|a loop)", "in\ta  loop"),
        ("colour *red", "colourred"),
        ("colour *red", "colour \n red"),
        ("a ?b", "ab"),
        ("a +b", "a    b"),
        ("a {0,3}b", "a \n b"),
    ],
)
def test_a_space_matches_any_white_space(pattern, text):
    assert re.search(translate(pattern), text)


@pytest.mark.parametrize(("pattern", "text"), [(r"a\ b", "a\nb"), ("[ ]x", "\nx"), ("a b", "ab")])
def test_no_more_than_that(pattern, text):
    assert not re.search(translate(pattern), text)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("driver not loaded", ("driver",)),
        ("(?:rejected|restricted) by", ("rejected", "restricted")),
        (r"Xid \(PCI:[^)]+\): 79", ("(PCI:",)),
        ("libcud(?:a|nn)x?_stub", ("libcud",)),
        ("colou?rful", ("colo",)),
        ("no*|maybe", ("n", "maybe")),
        ("(?:abcd){2} x", ("abcd",)),
        ("(?:abcdefgh)? wxyz", ("wxyz",)),
        ("(?P<what>abcdef)-(?P=what)", ("abcdef",)),
        ("(?!never)always", ("always",)),
        (r"four\.five", ("four.five",)),
        ("ab+cdef", ("cdef",)),
        ("wxyz{0,3}abcd", ("abcd",)),
    ],
)
def test_needles_are_the_surest_words(pattern, expected):
    if any(len(word) < 3 for word in expected):
        with pytest.raises(PatternError, match="3 fixed characters"):
            shape(pattern)
    else:
        assert shape(pattern).needles == expected


def test_ignored_case_is_a_needle_in_lower_case():
    assert shape("(?i)Key was Rejected")[:3] == (("rejected",), (("key",), ("was",)), True)


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        (".*error", "begin or end"),
        ("some error.*", "begin or end"),
        ("[a-z]+", "fixed characters"),
        (r"\d+|\w+", "fixed characters"),
        ("(?s)anything", "not allowed"),
        ("closed)", "bracket"),
    ],
)
def test_a_pattern_that_costs_or_says_nothing_is_refused(pattern, word):
    with pytest.raises(PatternError, match=word):
        shape(pattern)


def test_windows_cover_what_is_near_a_needle_and_do_not_overlap():
    text = Text(
        "log",
        "\n".join(
            [f"{number:079}" for number in range(400)]
            + ["needle"]
            + [f"{number:078}" for number in range(400)]
            + ["needle again"]
            + ["y" * 9000]
        ),
    )
    found = list(text.windows(Shape(("needle",), (), False, 200)))
    assert len(found) == 2
    assert all(end - begin < 600 for begin, end in found)
    assert text.text[found[0][1]] == "\n"
    assert found[0][1] <= found[1][0]


def test_lower_case_keeps_every_place():
    text = Text("log", "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE} ERROR")
    assert len(text.lowered) == len(text.text)
    assert list(text.windows(Shape(("error",), (), True, 50)))


@pytest.mark.parametrize(
    ("pattern", "span"),
    [
        ("fixed", 5),
        ("two words", 3 + 2 + 5),
        ("(?:long|longer)s?", 7),
        (r"file \S+ gone", 4 + 2 + 200 + 2 + 4),
        ("x{3,5}abc", 8),
        ("abcd.*efgh", MAX_SPAN),
        (r"abcd[^\n]{0,80}efgh", 88),
        ("(?:abcd )+", MAX_SPAN),
        (r"^\s*abcd$", 44),
    ],
)
def test_a_match_is_no_longer_than_the_span(pattern, span):
    assert shape(pattern).span == min(span + BROKEN_LINES, MAX_SPAN)


def test_long_texts_lose_what_they_repeat_between_the_same_neighbours():
    block = "one\ntwo\nthree\n"
    whole = block * 5000 + "two\none\n" + block * 5000 + "last"
    kept = Text("log", whole).text
    assert len(kept) < 100
    assert set(itertools.pairwise(whole.split("\n"))) <= set(itertools.pairwise(kept.split("\n")))
