"""Copies by a plan equal the value, and no change of one shows in the next."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict, namedtuple
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercache.near import copier

Pair = namedtuple("Pair", "a b")


class Colour(Enum):
    RED = 1


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.just(Colour.RED)
    | st.just(Decimal("1.5"))
    | st.just(datetime(2026, 3, 1, tzinfo=UTC))
    | st.just(UUID(int=7))
)
values = st.recursive(
    leaves | st.binary(max_size=4).map(bytearray) | st.sets(st.integers(), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4)
        | st.tuples(leaves, leaves)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=20,
)


def same(a: Any, b: Any) -> bool:
    """Equal, with the same types at every level."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def spoil(value: Any) -> None:
    """Change everything in a value that can be changed."""
    if isinstance(value, dict):
        for item in value.values():
            spoil(item)
        value.clear()
    elif isinstance(value, list):
        for item in value:
            spoil(item)
        value.clear()
    elif isinstance(value, (set, bytearray)):
        value.clear()


@given(values)
def test_no_change_of_a_copy_shows_in_the_next(value: Any) -> None:
    plan = copier(copy.deepcopy(value))
    assert plan is not None
    make, size = plan
    first = make()
    assert same(first, value)
    spoil(first)
    assert same(make(), value)
    assert size >= sys.getsizeof(value)


@pytest.mark.parametrize(
    "value",
    [
        ([1],),
        Pair(1, 2),
        OrderedDict(a=1),
        {"a": object()},
        {1: {2: [Pair(1, [2])]}},
        [{"a": ([],)}],
        [[] for _ in range(10_001)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_no_plan_takes_is_decoded_anew(value: Any) -> None:
    assert copier(value) is None


def test_what_cannot_be_changed_is_shared() -> None:
    for value in (7, "text", (1, "a"), frozenset({1}), Colour.RED, None):
        plan = copier(value)
        assert plan is not None
        assert plan[0]() is value


def test_what_is_twice_in_a_value_or_in_itself_has_no_plan() -> None:
    part: list[Any] = [1]
    assert copier([part, part]) is None
    assert copier({"a": part, "b": [part]}) is None
    cycle: list[Any] = []
    cycle.append(cycle)
    assert copier(cycle) is None
    ring: dict[str, Any] = {}
    ring["ring"] = [ring]
    assert copier(ring) is None
    pair = (1, 2)
    plan = copier([pair, pair, "a", "a"])
    assert plan is not None
    assert plan[0]() == [pair, pair, "a", "a"]


def test_a_plan_does_not_need_more_of_the_stack_than_a_few_frames() -> None:
    value: Any = "x"
    for kind in (list, tuple) * 400:
        value = kind([value])
    assert copier(value) is None
    deep: Any = 1
    for _ in range(19):
        deep = {"a": [deep]} if type(deep) is list else [deep]
    assert copier(deep) is None
