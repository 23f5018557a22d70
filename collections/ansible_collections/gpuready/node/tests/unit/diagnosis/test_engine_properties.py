"""What holds for every world: determinism, facts over strings, and no noise that changes the first cause."""

from __future__ import annotations

import json
import random

from gpuready.diagnosis.chain import LINKS
from hypothesis import given
from hypothesis import strategies as st
from small_world import NAMES, cause, diagnose, knowledge, message, roots

WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot"]
MESSAGES = [message(f"p.{word}", f"{word} broke down") for word in WORDS]
NOISE = [
    "Step 4 of 12: collecting wheels",
    "INFO: listening on 0.0.0.0:8888",
    "",
    "    at line 12",
    "epoch 3/10 - loss: 0.12",
    "Error: could not reach the coffee machine",
    "$ ls -la",
]

WEIGHTS = st.sampled_from([0.2, 0.35, 0.5, 0.7, 0.9])
LINK = st.sampled_from([link.name for link in LINKS])
SIGN = st.sampled_from([f"test.{name}" for name in NAMES])
CAUSES = st.lists(
    st.fixed_dictionaries(
        {
            "link": LINK,
            "messages": st.dictionaries(
                st.sampled_from([f"p.{word}" for word in WORDS]), WEIGHTS, min_size=1
            ),
            "when": st.one_of(st.none(), SIGN, SIGN.map(lambda name: {"not": name})),
            "refuted_by": st.lists(SIGN, max_size=1),
            "explains": st.lists(st.sampled_from([f"p.{word}" for word in WORDS]), max_size=2, unique=True),
        }
    ),
    min_size=1,
    max_size=6,
)
SAID = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5)
STATES = st.fixed_dictionaries({name: st.sampled_from([True, False, None]) for name in NAMES})


def world(rows):
    return knowledge(MESSAGES, [cause(f"cause-{number}", **row) for number, row in enumerate(rows)])


def log(said):
    return "\n".join(f"{word} broke down" for word in said)


def plain(answer):
    return json.dumps({**answer, "seconds": 0}, sort_keys=True)


@given(CAUSES, SAID, STATES)
def test_the_same_question_has_the_same_answer(rows, said, states):
    assert plain(diagnose(world(rows), log(said), **states)) == plain(
        diagnose(world(rows), log(said), **states)
    )


@given(CAUSES, SAID, STATES)
def test_the_order_of_the_knowledge_does_not_matter(rows, said, states):
    named = [cause(f"cause-{number}", **row) for number, row in enumerate(rows)]
    one = diagnose(knowledge(MESSAGES, named), log(said), **states)
    other = diagnose(knowledge(MESSAGES[::-1], named[::-1]), log(said), **states)
    assert [row["cause"] for row in one["causes"]] == [row["cause"] for row in other["causes"]]


@given(CAUSES, SAID, STATES, st.randoms(use_true_random=False))
def test_noise_around_and_between_does_not_change_the_causes(rows, said, states, chance: random.Random):
    known = world(rows)
    lines = []
    for word in said:
        lines += [*chance.sample(NOISE, 2), f"{word} broke down"]
    noisy = "\n".join([*NOISE, *lines, *NOISE])
    assert roots(diagnose(known, noisy, **states)) == roots(diagnose(known, log(said), **states))


@given(CAUSES, SAID, STATES, st.integers(min_value=1, max_value=20))
def test_repetition_and_order_of_lines_do_not_change_the_causes(rows, said, states, times):
    known = world(rows)
    once = roots(diagnose(known, log(said), **states))
    assert roots(diagnose(known, log(said * times), **states)) == once
    assert roots(diagnose(known, log(said[::-1]), **states)) == once


@given(CAUSES, SAID, STATES)
def test_no_string_revives_what_a_fact_refutes(rows, said, states):
    for row in diagnose(world(rows), log(said), **states)["causes"]:
        data = rows[int(row["cause"].rpartition("-")[2])]
        when, wanted = data["when"], True
        if isinstance(when, dict):
            when, wanted = when["not"], False
        if when is not None:
            state = states[when.partition(".")[2]]
            assert state is None or state is wanted
        assert not any(states[name.partition(".")[2]] for name in data["refuted_by"])


@given(CAUSES, SAID, STATES)
def test_what_is_established_is_a_root_or_follows_from_one(rows, said, states):
    known = world(rows)
    answer = diagnose(known, log(said), **states)
    told = set(roots(answer))
    for row in answer["causes"]:
        told |= {item["cause"] for item in row["consequences"] if "cause" in item}
    for name, data in ((f"cause-{number}", row) for number, row in enumerate(rows)):
        when, wanted = data["when"], True
        if isinstance(when, dict):
            when, wanted = when["not"], False
        held = when is not None and states[when.partition(".")[2]] is wanted
        if held and not any(states[sign.partition(".")[2]] for sign in data["refuted_by"]):
            assert name in told


@given(CAUSES, SAID, STATES)
def test_the_answer_is_consistent(rows, said, states):
    answer = diagnose(world(rows), log(said), **states)
    named = [row["cause"] for row in answer["causes"]]
    assert len(named) == len(set(named))
    assert all(0 < row["confidence"] <= 1 for row in answer["causes"])
    assert (answer["status"] == "cause_found") is bool(roots(answer))
    assert [row["link"] for row in answer["chain"]] == [link.name for link in LINKS]
    broken = [row["link"] for row in answer["chain"] if row["state"] is False]
    assert answer["first_broken"] == (broken[0] if broken else None)
    standing = [row["standing"] for row in answer["causes"]]
    assert standing == sorted(standing, reverse=True)


@given(st.text(max_size=300))
def test_any_text_gets_an_answer(text):
    assert diagnose(world([{"messages": {"p.alpha": 0.5}}]), text)["status"] in ("unknown", "cause_found")
