"""Counters, and the ratio that people look at first."""

from __future__ import annotations

from dataclasses import fields

import pytest

from evercache.observe import Counters
from evercache.results import Stats


def test_counters_add_up_name_by_name() -> None:
    names = [field.name for field in fields(Counters)]
    one = Counters(**{name: n for n, name in enumerate(names)})
    kept = {name: n for n, name in enumerate(names)}
    assert one.as_dict() == {"hits": one.hits} | kept
    assert (one + one).as_dict() == {"hits": 2 * one.hits} | {name: 2 * n for name, n in kept.items()}
    assert sum((one,), Counters()) == one


@pytest.mark.parametrize(
    "kind", ["near_hits", "replica_hits", "master_hits", "stale_served", "gutter_hits", "joined"]
)
def test_every_call_that_ran_no_function_is_a_hit(kind: str) -> None:
    counters = Counters(misses=1, **{kind: 3})
    assert counters.hit_ratio == 0.75
    assert Stats(counters).hit_ratio == 0.75


def test_the_ratio_of_nothing_is_0() -> None:
    assert Counters().hit_ratio == 0.0
    assert Counters(corrupt=5, computed=5).hit_ratio == 0.0
