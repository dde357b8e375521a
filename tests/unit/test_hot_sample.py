"""What is kept of the calls that are often made: how two counts become one, and what stands for a call."""

from __future__ import annotations

from math import log2
from typing import Any

import pytest

from evercache.codecs import StrictCodec, TypeRegistry
from evercache.engine.hot import LOST, TAKEN, member, weight


@pytest.mark.parametrize(("one", "other"), [(1, 1), (1, 1024), (1024, 1), (3, 5), (5, 3)])
def test_counts_add_up(one: int, other: int) -> None:
    assert weight(log2(one), log2(other)) == pytest.approx(log2(one + other))


@pytest.mark.parametrize(("first", "second"), [(500_000.0, 500_001.0), (500_001.0, 500_000.0), (0.0, 500_000.0)])
def test_scores_of_days_ago_and_of_now_add_up_without_an_overflow(first: float, second: float) -> None:
    """A score is a number of half-lives since 1970, plus the logarithm of the count."""
    assert max(first, second) <= weight(first, second) <= max(first, second) + 1.0


def test_a_call_is_kept_with_its_arguments() -> None:
    kept = member("shop.stats", "key", (7,), {"deep": True})
    function, _, given = kept.partition(TAKEN)
    assert function == b"shop.stats"
    assert StrictCodec().decode(given, TypeRegistry()) == ((7,), {"deep": True})


@pytest.mark.parametrize("argument", [object(), "x" * 2000])
def test_a_call_whose_arguments_cannot_be_kept_is_kept_by_its_key(argument: Any) -> None:
    assert member("shop.stats", "ns:1", (argument,), {}) == b"shop.stats" + LOST + b"ns:1"
