"""What a user's own callables may do wrong: the caller hears of it, and nobody hangs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.memory_time import Calls, cache, stores

from evercache import Cache
from evercache.errors import ConfigurationError
from evercache.testing import MemoryStores

__all__ = ["cache", "stores"]


def wrong(_: Any) -> Any:
    raise ArithmeticError("a mistake of the user's")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": wrong}, ArithmeticError),
        ({"ttl": lambda value: "5"}, ConfigurationError),
        ({"cache_if": wrong}, ArithmeticError),
        ({"tags_from": wrong}, ArithmeticError),
        ({"tags_from": lambda value: [3]}, (TypeError, AttributeError)),
    ],
    ids=["ttl raises", "ttl is no time", "cache_if raises", "tags_from raises", "a tag is no text"],
)
def test_a_callable_of_the_result_that_fails_is_heard_each_time_at_once(
    cache: Cache, stores: MemoryStores, options: dict[str, Any], error: type[Exception]
) -> None:
    ran = Calls()
    f = cache.cached(**options)(lambda: ran(1))
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(error):
            f()
    assert len(ran) == 3
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "options", [{"key": lambda n: 1 / 0}, {"tags": (lambda n: 1 / 0,)}], ids=["key raises", "a tag raises"]
)
def test_a_callable_of_the_arguments_that_fails_is_heard(cache: Cache, options: dict[str, Any]) -> None:
    ran = Calls()
    f = cache.cached(**options)(lambda n: ran(n))
    with pytest.raises(ZeroDivisionError):
        f(1)
    assert not ran


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exit_inside_the_function_passes_through_and_frees_the_key(
    cache: Cache, error: type[BaseException]
) -> None:
    ran = Calls()

    @cache.cached
    def f() -> int:
        ran(1)
        if len(ran) == 1:
            raise error
        return 2

    with pytest.raises(error):
        f()
    assert f() == 2


@pytest.mark.parametrize("wrap", [lambda e: [e], lambda e: {"e": e}], ids=["list", "dict"])
def test_an_exception_that_is_returned_is_no_raised_one(cache: Cache, wrap: Callable[[Any], Any]) -> None:
    f = cache.cached(lambda: wrap(ValueError("v")))
    for _ in range(2):
        assert type(f()) in (list, dict)
    assert f.stats().counters.raised == 0
