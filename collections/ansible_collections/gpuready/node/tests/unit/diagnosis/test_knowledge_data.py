"""The shipped symptom files: sound, connected, and made of patterns that no input can hang."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict

import pytest
from gpuready.diagnosis.chain import LINKS
from gpuready.diagnosis.knowledge import PLACEHOLDER, load_knowledge, main
from gpuready.diagnosis.patterns import MAX_SPAN, Text, translate
from gpuready.diagnosis.signs import load_signs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KNOWN = load_knowledge(skip_broken=True)
MESSAGES = list(KNOWN.messages.values())
CAUSES = list(KNOWN.causes.values())


def test_every_entry_is_sound(capsys):
    assert main() == 0, capsys.readouterr().err


def test_every_link_has_its_sign_and_its_causes():
    signs = load_signs()
    assert [link.name for link in LINKS if f"link.{link.name}" not in signs] == []
    assert [link.name for link in LINKS if not any(cause.link == link.name for cause in CAUSES)] == []


def test_there_are_enough_causes_in_every_layer():
    assert len(CAUSES) >= 80
    count = Counter(cause.layer for cause in CAUSES)
    assert set(count) == {"host", "container_runtime", "framework", "application"}


def test_every_message_speaks_for_a_cause_or_is_noise():
    used = {name for cause in CAUSES for name in (*cause.messages, *cause.explains)}
    assert [row.id for row in MESSAGES if row.id not in used and not row.ignorable] == []


def test_the_weights_of_a_message_are_shares():
    """They say how likely each cause is, given only this line: all of them cannot be likely."""
    total: dict[str, float] = defaultdict(float)
    for cause in CAUSES:
        for name, weight in cause.messages.items():
            total[name] += weight
    assert {name: round(share, 2) for name, share in total.items() if share > 1.6} == {}


def test_no_cause_follows_from_itself_around_a_corner():
    circles = [
        (cause.id, other)
        for cause in CAUSES
        for other in KNOWN.consequences[cause.id]
        if other in KNOWN.causes and cause.id in KNOWN.consequences[other]
    ]
    assert circles == []


def test_no_two_causes_have_one_title():
    count = Counter(cause.title for cause in CAUSES)
    assert [title for title, times in count.items() if times > 1] == []


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.id)
def test_a_cause_is_told_in_words(cause):
    assert len(cause.title) <= 120
    assert cause.title[0] == cause.title[0].strip()
    assert cause.title[-1] not in ".:;"
    assert cause.distinguish
    assert all(PLACEHOLDER.sub("x", text).strip() for text in (*cause.fix, *cause.check))


def _numbers(pattern: str) -> str:
    """Something like what the pattern matches: its fixed words."""
    return re.sub(r"\\[wWsSdDbB]|\(\?P?<?\w*[:>=!]|[()\[\]{}*+?|^$\\]", " ", pattern)


def nasty(pattern: str) -> list[str]:
    """Texts on which careless patterns walk for hours: near misses, long runs, beginnings without an end."""
    words = _numbers(pattern)
    size = 2 * MAX_SPAN
    rows = [
        words * (size // (len(words) or 1) + 1),
        words + " " * size,
        words + "a" * size,
        words + "0." * size,
    ]
    for word in words.split():
        rows += [word + " " * size + "x", word + ":" * size, (word + " ") * (size // len(word)) + "\n"]
        rows += [
            word + "\n" * size,
            word + "[" * size,
            word + "/a" * (size // 2) + "'",
            word + "1,2:3 -" * (size // 7),
        ]
    return [row[:size] for row in rows]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.id)
def test_no_input_hangs_a_pattern(message):
    """One window is searched at a time; a second for it would be a hundred times too much."""
    regex = re.compile(translate(message.pattern), re.MULTILINE)

    def seconds(text):
        began = time.process_time()
        sum(1 for _ in regex.finditer(text))
        return time.process_time() - began

    for text in nasty(message.pattern):
        # Once more where it was slow: a busy machine's caches cost time, too.
        assert seconds(text) < 0.1 or min(seconds(text) for _ in range(3)) < 0.1, repr(text[:80])


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.id)
def test_the_needles_are_in_every_match(message):
    matching = st.from_regex(re.compile(translate(message.pattern), re.MULTILINE), fullmatch=False)

    @settings(max_examples=3, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(matching)
    def check(text):
        shown = Text("made up", text)
        assert any(
            word in (shown.lowered if message.shape.any_case else text) for word in message.shape.needles
        )

    check()
