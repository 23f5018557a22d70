# Apache-2.0 (see LICENSE)
"""Message patterns: how they are written, and how they are found quickly in much text.

A pattern is a Python regex. A literal space in it stands for any white space, a line's end included, because
what people paste is wrapped anywhere. Most patterns do not occur in a text: so none is compiled before one of
its *needles* (words that every match contains) is found, and it is only tried around those.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

#: How far around a needle its pattern is tried, in characters.
MAX_SPAN = 1500
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


class _Scanner:
    """Finds the words that every match of a pattern contains."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def alternatives(self) -> Needles:
        """One of these is in every match of what stands up to the bracket; () when nothing is sure."""
        branches = [self.branch()]
        while self.pattern[self.at : self.at + 1] == "|":
            self.at += 1
            branches.append(self.branch())
        if not all(branches):
            return ()
        return tuple(dict.fromkeys(needle for branch in branches for needle in branch))

    def branch(self) -> Needles:
        found: list[Needles] = []
        run = ""
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            literal, inner = self.atom()
            optional, repeated = self.quantifier()
            if literal is not None and not optional:
                run += literal
            if literal is None or optional or repeated:
                found.append((run,))
                run = ""
            if inner and not optional:
                found.append(inner)
        found.append((run,))
        return max(found, key=lambda words: (min(map(len, words)), -len(words))) if any(found) else ()

    def atom(self) -> tuple[str | None, Needles]:
        """The literal character that stands here, or what a group contains for sure."""
        char = self.pattern[self.at]
        if char == "\\":
            escaped = self.pattern[self.at + 1 : self.at + 2]
            self.at += 2
            return (None, ()) if escaped.isalnum() else (escaped, ())
        if char == "[":
            self.at = _class_end(self.pattern, self.at)
            return None, ()
        if char == "(":
            self.at += 1
            special = _SPECIAL_GROUP.match(self.pattern, self.at)
            sure = True
            if special:
                self.at = special.end()
                sure = special.group().startswith("?P<") or special.group() in ("?:", "?>")
                if special.group().startswith(("?P=", "?#")):
                    sure = False
            inner = self.alternatives()
            self.at += 1
            return None, inner if sure else ()
        self.at += 1
        return (None, ()) if char in ".^$ " else (char, ())

    def quantifier(self) -> tuple[bool, bool]:
        """Whether what stands before may be missing, and whether it may be repeated."""
        found = _QUANTIFIER.match(self.pattern, self.at)
        if not found:
            return False, False
        self.at = found.end()
        if self.pattern[self.at : self.at + 1] in ("?", "+"):
            self.at += 1
        word = found.group()
        optional = word in "*?" or (word[0] == "{" and int(found[1] or 0) == 0)
        return optional, True


def needles(pattern: str) -> tuple[Needles, bool]:
    """Words of which every match contains one, and whether case is ignored.

    >>> needles(r"Driver(?: not|n't) (?:loaded|running)")
    (('loaded', 'running'), False)
    """
    flags = "".join(_FLAG.findall(pattern))
    if set(flags) - {"i"}:
        raise PatternError(f"(?{flags}) is not allowed: a pattern is multi-line, and (?i) may ignore case")
    bare = _FLAG.sub("", pattern)
    if bare.startswith((".*", ".+")) or re.search(r"(?<!\\)\.[*+]\??$", bare):
        raise PatternError("must not begin or end with .* or .+ (they say nothing)")
    scanner = _Scanner(bare)
    found = scanner.alternatives()
    if scanner.at < len(bare):
        raise PatternError("has a bracket too many")
    if not found or min(map(len, found)) < MIN_NEEDLE:
        raise PatternError(
            f"every match must contain a word of at least {MIN_NEEDLE} fixed characters; this one is sure of "
            f"{' or '.join(repr(word) for word in found) or 'none'}"
        )
    ignoring = "i" in flags
    return tuple(word.lower() for word in found) if ignoring else found, ignoring


class Text:
    """One text and what is asked of it again and again."""

    def __init__(self, name: str, text: str) -> None:
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
        if len(self.text) < 50_000:
            return self.text, self.lowered
        words = "\n".join(set(self.text.split()))
        return words, words.lower()

    def line(self, at: int) -> tuple[int, str]:
        """Where the line begins that holds this place, and the line."""
        begin = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        return begin, self.text[begin : end if end >= 0 else len(self.text)]

    def windows(self, words: Sequence[str], any_case: bool) -> Iterator[tuple[int, int]]:
        """Stretches around every place where one of the words stands; they do not overlap."""
        text = self.lowered if any_case else self.text
        words = [word for word in words if word in self.vocabulary[any_case] or word.split() != [word]]
        begin = end = -1
        for low, high in sorted(stretch for word in words for stretch in _stretches(text, word)):
            if low > end:
                if end >= 0:
                    yield begin, end
                # A line's beginning is one, a cut through a line is none.
                line = text.find("\n", low, low + MAX_SPAN) + 1 if low else 0
                begin = line or low
            end = max(end, high)
        if end >= 0:
            yield begin, end


def _stretches(text: str, word: str) -> Iterator[tuple[int, int]]:
    """Around every place of a word, MAX_SPAN to both sides; those that touch are one."""
    at = text.find(word)
    while at >= 0:
        low, high = max(0, at - MAX_SPAN), at + MAX_SPAN
        while (last := text.rfind(word, at + 1, high)) >= 0:
            at, high = last, last + MAX_SPAN
        yield low, min(high, len(text))
        at = text.find(word, at + 1)
