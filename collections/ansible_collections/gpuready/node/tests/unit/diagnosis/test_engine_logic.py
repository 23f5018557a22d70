"""Conditions: what is unknown stays unknown, unless it cannot matter."""

from __future__ import annotations

import pytest
from gpuready.diagnosis.logic import complaint, holds, leaves
from hypothesis import given
from hypothesis import strategies as st

NAMES = ["a", "b", "c"]
STATES = st.fixed_dictionaries({name: st.sampled_from([True, False, None]) for name in NAMES})
CONDITIONS = st.recursive(
    st.sampled_from(NAMES),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda rows: {"all": rows}),
        st.lists(inner, min_size=1, max_size=3).map(lambda rows: {"any": rows}),
        inner.map(lambda row: {"not": row}),
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("a", True),
        ({"not": "a"}, False),
        ({"not": "c"}, None),
        ({"all": ["a", "b"]}, False),
        ({"all": ["a", "c"]}, None),
        ({"all": ["b", "c"]}, False),
        ({"any": ["a", "c"]}, True),
        ({"any": ["b", "c"]}, None),
        ({"any": ["b", "b"]}, False),
        ({"all": [{"any": ["b", "c"]}, {"not": "b"}]}, None),
    ],
)
def test_condition_has_kleenes_value(condition, expected):
    assert holds(condition, {"a": True, "b": False, "c": None}.get) is expected


@given(CONDITIONS, STATES)
def test_what_is_decided_stays_so_whatever_is_learnt(condition, states):
    before = holds(condition, states.get)
    for name in NAMES:
        if states[name] is None:
            for learnt in (True, False):
                after = holds(condition, {**states, name: learnt}.get)
                assert before is None or after is before


@given(CONDITIONS, STATES)
def test_undecided_means_that_it_can_still_fall_either_way_or_hangs_on_the_unknown(condition, states):
    if holds(condition, states.get) is None:
        assert any(states[name] is None for name, _wanted in leaves(condition))


@given(st.lists(CONDITIONS, min_size=1, max_size=3), STATES)
def test_de_morgan(parts, states):
    no_all = holds({"not": {"all": parts}}, states.get)
    assert no_all is holds({"any": [{"not": part} for part in parts]}, states.get)


@given(CONDITIONS, STATES)
def test_a_condition_is_true_when_every_sign_is_as_its_leaf_wants_it(condition, states):
    wanted: dict = {}
    clash = False
    for name, state in leaves(condition):
        clash = clash or wanted.setdefault(name, state) is not state
    if not clash:
        assert holds(condition, wanted.get) is True


@pytest.mark.parametrize(
    ("condition", "word"),
    [
        ({"all": []}, "not empty"),
        ({"some": ["a"]}, "'some'"),
        ({"all": ["a"], "any": ["b"]}, "neither"),
        ({"not": {"all": "a"}}, "list"),
        (["a"], "neither"),
        ("", "empty"),
        ({"any": [{"not": 3}]}, "3"),
    ],
)
def test_what_is_no_condition_is_refused(condition, word):
    assert word in complaint(condition)


@given(CONDITIONS)
def test_every_condition_is_one(condition):
    assert complaint(condition) is None
