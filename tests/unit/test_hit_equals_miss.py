"""Property: what a hit returns equals what the function returned, over the whole decorated path."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit import codec_values as cv

from evercache import Cache, CachedFunction
from evercache.testing import memory

Path = tuple[Cache, list[Any], CachedFunction[[int], Any]]
SETTINGS = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(params=[(0, False), (60, False), (0, True), (60, True)], ids=["store", "near", "hot", "hot-near"])
def path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A cache, the values that its function returns, and the function. In a test mode, the hot path is off."""
    values: list[Any] = []
    near, hot = request.param
    with contextlib.nullcontext() if hot else memory():
        # A machine that stalls is no miss: the budget is far over any stall.
        cache = Cache("memory://", jitter=0, beta=0, compress_above=64, budget=30)
        for cls in (cv.Color, cv.Level, cv.Right, cv.Number, cv.Items, cv.Point, cv.Open, cv.Shut, cv.Box):
            cache.register(cls)
        for cls in (cv.Structure, cv.Model, cv.Cut):
            cache.register(cls)

        @cache.cached(near=near)
        def f(n: int) -> Any:
            return values[n]

        yield cache, values, f


def shape(value: Any) -> str:
    """A text that differs when anything differs: types, contents, and the order of what has one."""
    name = type(value).__name__
    if isinstance(value, Enum):
        return f"{name}:{value.value!r}"
    if isinstance(value, dict):
        factory = getattr(value, "default_factory", None)
        return f"{name}{factory}{{{','.join(f'{shape(k)}={shape(v)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple, deque)):
        return f"{name}{getattr(value, 'maxlen', '')}[{','.join(map(shape, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"{name}({','.join(sorted(map(shape, value)))})"
    if dataclasses.is_dataclass(value):
        return f"{name}<{','.join(shape(getattr(value, f.name)) for f in dataclasses.fields(value))}>"
    if isinstance(value, (cv.Structure, cv.Cut)):
        return f"{name}<{shape(value.a)},{shape(value.b)}>"
    if isinstance(value, cv.Model):
        return f"{name}<{shape(value.__dict__)},{shape(value.__pydantic_extra__)}>"
    return f"{name}:{value!r}"


def same(one: Any, other: Any) -> bool:
    return shape(one) == shape(other)


def ruin(value: Any) -> None:
    """Change everything that can be changed, all the way down."""
    if isinstance(value, (list, tuple, deque)):
        for item in value:
            ruin(item)
    if isinstance(value, dict):
        for item in value.values():
            ruin(item)
        value.clear()
    elif isinstance(value, (list, bytearray, set, deque)):
        value.clear()
    elif isinstance(value, (cv.Open, cv.Box, cv.Cut)):
        held = {"a": value.a, "b": value.b} if isinstance(value, cv.Cut) else vars(value)
        for name, item in list(held.items()):
            ruin(item)
            setattr(value, name, "ruined")


def check(path: Path, value: Any) -> None:
    _, values, f = path
    values.append(value)
    call = len(values) - 1
    original = copy.deepcopy(value)
    before = f.stats().counters
    hits, uncacheable = before.hits, before.uncacheable
    first = f(call)
    assert first is value  # the caller of the computation gets the very object
    assert same(first, original)
    ruin(first)
    if f.stats().counters.uncacheable > uncacheable:
        return  # not cached, and counted
    second = f(call)
    assert f.stats().counters.hits == hits + 1
    assert same(second, original)
    ruin(second)
    assert same(f(call), original)
    assert same(f.peek(call), original)


@given(value=cv.values)
@SETTINGS
def test_a_hit_equals_a_miss(path: Path, value: Any) -> None:
    check(path, value)


@given(
    value=st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=30)
)
@SETTINGS
def test_a_hit_equals_a_miss_for_plain_data(path: Path, value: Any) -> None:
    check(path, value)


@given(value=cv.values)
@SETTINGS
def test_a_set_value_is_what_a_get_returns(path: Path, value: Any) -> None:
    cache, _, _ = path
    original = copy.deepcopy(value)
    ack = cache.set("k", value)
    assert same(value, original)
    if not ack:
        assert ack.reason == "uncacheable"
        assert cache.get("k") is None
        return
    got = cache.get("k")
    assert same(got, original)
    ruin(got)
    assert same(cache.get("k"), original)


@pytest.mark.parametrize(
    "value", [1, True, 1.0, "1", b"1", (1,), [1], {1}, None, 2**53, -(2**53) + 1, 2**70], ids=repr
)
def test_types_that_compare_equal_stay_apart(path: Path, value: Any) -> None:
    check(path, value)
    cache, _, _ = path
    assert cache.set("k", value)
    assert type(cache.get("k")) is type(value)
    assert cache.get("k") == value


def test_a_class_that_nobody_named_is_not_cached(path: Path) -> None:
    _, values, f = path
    values.append(cv.Mixed(1, 2))
    assert f(len(values) - 1) is values[-1]
    assert f.stats().counters.uncacheable == 1


def test_classes_named_by_the_annotation_are_rebuilt(path: Path) -> None:
    cache, _, _ = path

    @cache.cached
    def typed() -> list[cv.Mixed]:
        return [cv.Mixed(1, 2)]

    assert typed() == typed() == [cv.Mixed(1, 2)]
    assert typed.stats().counters.hits == 1
    assert inspect.signature(typed).return_annotation == "list[cv.Mixed]"
