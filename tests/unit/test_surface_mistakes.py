"""What cannot be cached is refused where it is written, with the mend."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.memory_time import cache, stores

from evercache import Cache
from evercache.errors import ConfigurationError

__all__ = ["cache", "stores"]


def test_what_cannot_be_cached_is_a_type_error_at_decoration(cache: Cache) -> None:
    def generator() -> Any:
        yield 1

    async def async_generator() -> Any:
        yield 1

    for wrong, said in (
        (generator, "generator"),
        (async_generator, "generator"),
        (property(lambda self: 1), "property"),
        (int, "class"),
        (3, "not a function"),
    ):
        with pytest.raises(TypeError, match=said):
            cache.cached(wrong)  # type: ignore[call-overload]


def test_an_unkeyable_argument_is_named_with_the_mend(cache: Cache) -> None:
    @cache.cached
    def f(a: int, connection: object) -> int:
        return a

    with pytest.raises(TypeError, match=r"(?s)connection.*ignore="):
        f(1, object())


def test_an_unknown_name_in_a_tag_is_a_type_error_at_decoration(cache: Cache) -> None:
    with pytest.raises(TypeError, match="names 'nobody'"):
        cache.cached(tags=("p:{nobody}",))(lambda project: 1)
    with pytest.raises(TypeError, match="sequence of tags"):
        cache.cached(tags="p:{project}")(lambda project: 1)


@pytest.mark.parametrize(
    "options", [{"ttl": "5"}, {"ttl": -1}, {"stale": -1}, {"near": "1"}, {"cache_errors": {KeyError: -1}}], ids=str
)
def test_options_that_cannot_work_are_refused_at_decoration(cache: Cache, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        cache.cached(**options)(lambda: 1)


def test_two_local_functions_of_one_name_warn_once(cache: Cache) -> None:
    def decorated(number: int) -> Any:
        if number == 1:
            return cache.cached(first)
        if number == 2:

            def f() -> int:
                return 2
        else:

            def f() -> int:
                return 3

        f.__qualname__ = first.__qualname__
        return cache.cached(f)

    def first() -> int:
        return 1

    kept = [decorated(1), decorated(1)]
    with pytest.warns(UserWarning, match="version= or name="):
        kept.append(decorated(2))
    kept.append(decorated(3))  # a warning is an error here
