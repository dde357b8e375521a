"""Settings and policies: what can't work is refused with the mend, and how long values live."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercache.errors import ConfigurationError
from evercache.policy import Policy, Settings, seconds


@pytest.mark.parametrize(("value", "result"), [(5, 5.0), (0.5, 0.5), (0, 0.0), (timedelta(minutes=2), 120.0)])
def test_durations(value: Any, result: float) -> None:
    assert seconds(value, "x") == result
    assert type(seconds(value, "x")) is float


@pytest.mark.parametrize(
    "value", ["5", None, True, False, -1, -0.001, timedelta(-1), 1e9, float("nan"), float("inf")]
)
def test_what_is_no_duration_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^stale must be"):
        seconds(value, "stale")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"namespace": ""}, "1 to 32 of a-z"),
        ({"namespace": "Shop"}, "1 to 32 of a-z"),
        ({"namespace": "-shop"}, "beginning with a letter or digit"),
        ({"namespace": "a b"}, "1 to 32 of a-z"),
        ({"namespace": "a" * 33}, "1 to 32 of a-z"),
        ({"namespace": "shop\n"}, "1 to 32 of a-z"),
        ({"budget": 0}, "budget must be above 0 seconds"),
        ({"budget": -1}, "budget must be between 0 and"),
        ({"default_ttl": 0}, "default_ttl must be above 0"),
        ({"max_ttl": 0}, "max_ttl must be above 0"),
        ({"max_compute": 0}, "max_compute must be above 0"),
        ({"max_staleness": 0}, "max_staleness must be above 0"),
        ({"lag_bound": 0}, "lag_bound must be above 0"),
        ({"gutter": -1}, "gutter must be between 0"),
        ({"jitter": 1}, "jitter is a share of the TTL: between 0 and 1"),
        ({"jitter": -0.1}, "jitter is a share"),
        ({"beta": -1}, "beta must not be negative"),
        ({"default_ttl": 11, "max_ttl": 10}, r"default_ttl \(11\) is above max_ttl \(10\)"),
        ({"on_error": "ignore"}, "on_error='ignore': use 'absorb' or 'raise'"),
        ({"consistency": "eventual"}, "consistency='eventual': use 'available' or 'strict'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_cannot_work_say_what_to_do(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Settings(**settings)


def test_settings_that_are_just_possible() -> None:
    Settings(namespace="a" * 32, gutter=0, jitter=0, beta=0, default_ttl=10, max_ttl=10)
    Settings(namespace="0_.-", jitter=0.99)


def test_rule_14_the_tail_blocks_a_quarter_of_the_staleness() -> None:
    assert Settings(max_staleness=2.0).block == 0.5


def policy(**options: Any) -> Policy:
    return Policy(**{"ttl": 10.0, "max_ttl": 100.0, **options})


@pytest.mark.parametrize(
    ("options", "soft", "span"),
    [
        ({}, 10_000, 0),
        ({"stale": 5.0}, 10_000, 5_000),
        ({"stale": 5.0, "stale_if_error": 7.0}, 10_000, 7_000),
        ({"stale": 9.0, "stale_if_error": 7.0}, 10_000, 9_000),
        ({"ttl": 200.0}, 100_000, 0),
        ({"ttl": 95.0, "stale": 50.0}, 95_000, 5_000),
        ({"ttl": lambda value: value}, 20_000, 0),
        ({"ttl": lambda value: timedelta(seconds=value)}, 20_000, 0),
        ({"jitter": 0.5}, 7_500, 0),
        ({"ttl": 200.0, "jitter": 0.5}, 100_000, 0),
        ({"ttl_if_none": 3.0}, 10_000, 0),
        ({"ttl": 0.0}, 0, 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else str(value),
)
def test_lifetimes(options: dict[str, Any], soft: int, span: int) -> None:
    assert policy(**options).lifetime(20, 0.5) == (soft, span)


def test_none_may_have_a_ttl_of_its_own() -> None:
    assert policy(ttl_if_none=3.0).lifetime(None, 0.0) == (3_000, 0)
    assert policy(ttl_if_none=0.0).lifetime(None, 0.0) == (0, 0)
    assert policy().lifetime(None, 0.0) == (10_000, 0)
    assert policy(ttl=lambda value: 7, ttl_if_none=3.0).lifetime(0, 0.0) == (7_000, 0)


@given(st.floats(0, 0.99), st.floats(0, 0.9999))
def test_jitter_only_shortens(jitter: float, draw: float) -> None:
    soft, _ = policy(jitter=jitter).lifetime(1, draw)
    assert 10_000 * (1 - jitter) - 1 <= soft <= 10_000


@pytest.mark.parametrize("ttl", ["5", None, -1])
def test_a_callable_ttl_that_returns_no_duration_is_a_mistake(ttl: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"the TTL that ttl= returned"):
        policy(ttl=lambda value: ttl).lifetime(1, 0.0)


def test_errors_are_cached_for_the_time_of_their_class() -> None:
    errors = policy(cache_errors={KeyError: 5.0, LookupError: 2.0}, stale=60.0)
    assert errors.error_lifetime(KeyError("x"), 0.0) == (5_000, 0)
    assert errors.error_lifetime(LookupError("x"), 0.0) == (2_000, 0)
    assert errors.error_lifetime(ValueError("x"), 0.0) is None
    # A subclass counts by the nearest class that is listed.
    assert errors.error_lifetime(IndexError("x"), 0.0) == (2_000, 0)
