# Apache-2.0 (see LICENSE)
"""Message patterns: how they are written, and how they are found quickly in much text.

A pattern is a Python regex. A literal space in it stands for any white space, a line's end included, because
what people paste is wrapped anywhere. Most patterns do not occur in a text: so none is compiled before one of
its *needles* (words that every match contains) is found, and it is only tried around those.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

#: No match is looked for that is longer, in characters.
MAX_SPAN = 1500
#: How long a run of blanks (a line's end and an indent), and one of word characters (a path) may be.
BLANKS, WORD = 40, 200
#: A blank between two words is one or two characters; so much more is allowed for where lines are broken.
BLANK, BROKEN_LINES = 2, 160
#: From so many characters on, it pays to look at a text's words and repetitions first.
MUCH = 50_000
#: A word that every match contains must have at least so many characters.
MIN_NEEDLE = 3

_QUANTIFIER = re.compile(r"[*+?]|\{(\d*)(,?)(\d*)\}")
_FLAG = re.compile(r"\(\?([a-zA-Z]+)\)")
_SPECIAL_GROUP = re.compile(r"\?(?:P<\w+>|:|=|!|<=|<!|P=\w+|#|>|[a-zA-Z]*-?[a-zA-Z]*:|\()")

Needles = tuple[str, ...]


class PatternError(ValueError):
    """A pattern that must not be used, and what is wrong with it."""


def _class_end(pattern: str, start: int) -> int:
    """The index behind a character class that opens at ``start``."""
    at = start + 1
    if pattern[at : at + 1] == "^":
        at += 1
    if pattern[at : at + 1] == "]":
        at += 1
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1


def translate(pattern: str) -> str:
    """The pattern with each run of literal spaces as any run of white space.

    >>> translate("a b[ c] *d")
    'a\\\\s+b[ c]\\\\s*d'
    """
    made, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            made.append(pattern[at : at + 2])
            at += 2
        elif char == "[":
            end = _class_end(pattern, at)
            made.append(pattern[at:end])
            at = end
        elif char == " ":
            while pattern[at : at + 1] == " ":
                at += 1
            follows = pattern[at : at + 1]
            if follows and follows in "*?":
                made.append(r"\s*")
                at += 1
            elif _QUANTIFIER.match(pattern, at) and follows == "{":
                made.append(r"\s")
            else:
                made.append(r"\s+")
                at += follows == "+"
        else:
            made.append(char)
            at += 1
    return "".join(made)


class Shape(NamedTuple):
    """What is known of a pattern's matches without compiling it."""

    #: One of these is in every match; in lower case where case is ignored.
    needles: Needles
    #: One of each of these, too.
    also: tuple[Needles, ...]
    any_case: bool
    #: No match is longer than that.
    span: int


def _surest(sure: list[Needles]) -> Needles:
    """Of several sets of words, the one whose words are the longest and the fewest."""
    return max(sure, key=lambda words: (min(map(len, words)), -len(words)), default=())


class _Scanner:
    """Finds the words that every match of a pattern contains, and how long a match can be."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def alternatives(self) -> tuple[list[Needles], int]:
        """What stands up to the bracket: sets of words, one of each is in it for sure; its length."""
        branches = [self.branch()]
        while self.pattern[self.at : self.at + 1] == "|":
            self.at += 1
            branches.append(self.branch())
        width = max(width for _sure, width in branches)
        if len(branches) == 1:
            return branches[0]
        if not all(sure for sure, _width in branches):
            return [], width
        return [tuple(dict.fromkeys(word for sure, _width in branches for word in _surest(sure)))], width

    def branch(self) -> tuple[list[Needles], int]:
        found: list[Needles] = []
        run = ""
        total = 0
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            literal, inner, width, endless = self.atom()
            least, most = self.quantifier()
            total += endless if most is None else width * most
            if literal is not None and least:
                run += literal
            if literal is None or (least, most) != (1, 1):
                found.append((run,))
                run = ""
            if least:
                found += inner
        found.append((run,))
        return [words for words in found if all(words)], min(total, MAX_SPAN)

    def atom(self) -> tuple[str | None, list[Needles], int, int]:
        """What stands here: the literal character or a group's words, its length, and the length of many."""
        char = self.pattern[self.at]
        if char == "\\":
            escaped = self.pattern[self.at + 1 : self.at + 2]
            self.at += 2
            if escaped in "bBAZ":
                return None, [], 0, 0
            if escaped.isalnum():
                return None, [], 1, BLANKS if escaped == "s" else WORD
            return escaped, [], 1, WORD
        if char == "[":
            begin, self.at = self.at, _class_end(self.pattern, self.at)
            return None, [], 1, MAX_SPAN if self.pattern[begin + 1] == "^" else WORD
        if char == "(":
            self.at += 1
            special = _SPECIAL_GROUP.match(self.pattern, self.at)
            kind = special.group() if special else ""
            self.at += len(kind)
            inner, width = self.alternatives()
            self.at += 1
            if kind in ("?=", "?!", "?<=", "?<!", "?#"):
                # A look ahead may need what stands behind the match.
                return None, [], width, width
            if kind.startswith("?P="):
                return None, [], WORD, WORD
            return None, inner if kind in ("", "?:", "?>") or kind.startswith("?P<") else [], width, MAX_SPAN
        self.at += 1
        if char == " ":
            return None, [], BLANK, BLANKS
        if char in "^$":
            return None, [], 0, 0
        return (None, [], 1, MAX_SPAN) if char == "." else (char, [], 1, WORD)

    def quantifier(self) -> tuple[int, int | None]:
        """How often what stands before is there, at least and at most."""
        found = _QUANTIFIER.match(self.pattern, self.at)
        if not found:
            return 1, 1
        self.at = found.end()
        if self.pattern[self.at : self.at + 1] in ("?", "+"):
            self.at += 1
        word = found.group()
        if word in "*+?":
            return int(word == "+"), 1 if word == "?" else None
        least = int(found[1] or 0)
        return least, int(found[3]) if found[3] else None if found[2] else least


def shape(pattern: str) -> Shape:
    """Words of which every match contains one, whether case is ignored, and how long a match can be.

    >>> shape(r"Driver(?:-not|n't) (?:loaded|running)")
    Shape(needles=('Driver',), also=(('-not', "n't"), ('loaded', 'running')), any_case=False, span=179)
    """
    flags = "".join(_FLAG.findall(pattern))
    if set(flags) - {"i"}:
        raise PatternError(f"(?{flags}) is not allowed: a pattern is multi-line, and (?i) may ignore case")
    bare = _FLAG.sub("", pattern)
    if bare.startswith((".*", ".+")) or re.search(r"(?<!\\)\.[*+]\??$", bare):
        raise PatternError("must not begin or end with .* or .+ (they say nothing)")
    scanner = _Scanner(bare)
    sure, width = scanner.alternatives()
    found = _surest(sure)
    if scanner.at < len(bare):
        raise PatternError("has a bracket too many")
    if not found or min(map(len, found)) < MIN_NEEDLE:
        raise PatternError(
            f"every match must contain a word of at least {MIN_NEEDLE} fixed characters; this one is sure of "
            f"{' or '.join(repr(word) for word in found) or 'none'}"
        )
    others = [words for words in sure if words != found and min(map(len, words)) >= MIN_NEEDLE]
    if "i" in flags:
        found = tuple(word.lower() for word in found)
        others = [tuple(word.lower() for word in words) for words in others]
    return Shape(found, tuple(others), "i" in flags, min(width + BROKEN_LINES, MAX_SPAN))


class Text:
    """One text and what is asked of it again and again."""

    def __init__(self, name: str, text: str) -> None:
        if len(text) > MUCH:
            text = _without_repetition(text)
        self.name, self.text = name, text
        # Lower case that keeps every character's place.
        lowered = text.lower()
        self.lowered = (
            lowered
            if len(lowered) == len(text)
            else "".join(char.lower() if len(char.lower()) == 1 else char for char in text)
        )

    @functools.cached_property
    def vocabulary(self) -> tuple[str, str]:
        """Each of the text's words once, and the same in lower case: much text repeats itself."""
        if len(self.text) < MUCH:
            return self.text, self.lowered
        words = "\n".join(set(self.text.split()))
        return words, words.lower()

    def line(self, at: int) -> tuple[int, str]:
        """Where the line begins that holds this place, and the line."""
        begin = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        return begin, self.text[begin : end if end >= 0 else len(self.text)]

    def windows(self, shape: Shape) -> Iterator[tuple[int, int]]:
        """Stretches around every place of a needle, wide enough for a match; they do not overlap."""
        known = self.vocabulary[shape.any_case]
        sure = []
        for words in (shape.needles, *shape.also):
            there = tuple(word for word in words if word in known or word.split() != [word])
            if not there:
                return iter(())
            sure.append(there)
        text = self.lowered if shape.any_case else self.text
        found = _around(text, sure[0], shape.span)
        # Where a word is everywhere, another one may be rarer.
        for words in sure[1:3]:
            if sum(high - low for low, high in found) < MUCH:
                break
            found = _common(found, _around(text, words, shape.span))
        return iter(found)


def _around(text: str, words: Needles, span: int) -> list[tuple[int, int]]:
    """Stretches around every place of one of the words, in order; those that overlap are one."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(part for word in words for part in _stretches(text, word, span)):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def _common(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What lies in stretches of both."""
    found = []
    rest = iter(others)
    low, high = next(rest, (0, -1))
    for begin, end in some:
        while high >= 0:
            if min(end, high) > max(begin, low):
                found.append((max(begin, low), min(end, high)))
            if high > end:
                break
            low, high = next(rest, (0, -1))
    return found


def _without_repetition(text: str) -> str:
    """A long text without the lines that stand there already, between the same neighbours.

    Neighbours count because a message may go on in the next line.
    """
    seen: set[tuple[str, str]] = set()
    lines = text.split("\n")
    new = []
    for pair in zip(["", *lines], [*lines, ""], strict=True):
        new.append(pair not in seen)
        seen.add(pair)
    return "\n".join(line for number, line in enumerate(lines) if new[number] or new[number + 1])


def _stretches(text: str, word: str, span: int) -> Iterator[tuple[int, int]]:
    """Around every place of a word, the span to both sides; those that touch are one."""
    at = text.find(word)
    while at >= 0:
        low, high = max(0, at - span), at + len(word) + span
        while (last := text.rfind(word, at + 1, high)) >= 0:
            at, high = last, last + len(word) + span
        # To the line's end, so that nothing seems to end before.
        line = text.find("\n", high, high + MAX_SPAN)
        yield low, min(high if line < 0 else line, len(text))
        at = text.find(word, at + 1)
