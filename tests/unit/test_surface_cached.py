"""`cache.cached` with each of its options, on a store inside the process."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.memory_time import Calls, cache, eventually, stores

from evercache import AsyncCachedFunction, Cache, CachedFunction
from evercache.errors import ConfigurationError
from evercache.testing import MemoryStores

__all__ = ["cache", "stores"]


def test_without_options(cache: Cache) -> None:
    ran = Calls()

    @cache.cached
    def f(a: int, b: int = 2) -> list[int]:
        """Doc."""
        ran(1)
        return [a, b]

    assert isinstance(f, CachedFunction)
    assert f(1) == f(1, 2) == f(a=1) == f(b=2, a=1) == [1, 2]
    assert f(2) == [2, 2]
    assert len(ran) == 2
    assert (f.__name__, f.__doc__, f.__module__) == ("f", "Doc.", __name__)
    assert repr(f).startswith("<cached ")


async def test_coroutine_functions(cache: Cache) -> None:
    ran = Calls()

    @cache.cached(ttl=10)
    async def f(a: int) -> list[int]:
        ran(1)
        return [a]

    assert isinstance(f, AsyncCachedFunction)
    assert await f(1) == await f(a=1) == [1]
    assert len(ran) == 1


@pytest.mark.parametrize(
    "ttl", [10, 10.0, timedelta(seconds=10), lambda v: v[0], lambda v: timedelta(seconds=v[0])]
)
def test_ttl(cache: Cache, stores: MemoryStores, ttl: Any) -> None:
    ran = Calls()

    @cache.cached(ttl=ttl)
    def f() -> list[int]:
        ran(1)
        return [10]

    f()
    stores.advance(9.9)
    f()
    assert len(ran) == 1
    stores.advance(0.2)
    f()
    assert len(ran) == 2


def test_the_default_ttl_and_the_longest(stores: MemoryStores) -> None:
    cache = Cache("memory://", default_ttl=20, max_ttl=30, jitter=0)
    plain, long = Calls(), Calls()
    f = cache.cached(name="plain")(lambda: plain(1))
    g = cache.cached(ttl=1000, name="long")(lambda: long(1))
    for step, counts in ((0, (1, 1)), (19.9, (1, 1)), (0.2, (2, 1)), (9.8, (2, 1)), (0.2, (2, 2))):
        stores.advance(step)
        f(), g()
        assert (len(plain), len(long)) == counts


def test_jitter_shortens_at_random(stores: MemoryStores) -> None:
    cache = Cache("memory://", beta=0)

    @cache.cached(ttl=100, jitter=0.5)
    def f(n: int) -> int:
        return n

    for n in range(60):
        f(n)
    left = [f.explain(n).stale_in or 0 for n in range(60)]
    assert all(49 < seconds <= 100 for seconds in left)
    assert max(left) - min(left) > 20


def test_stale_is_served_while_one_caller_refreshes(cache: Cache, stores: MemoryStores) -> None:
    ran = Calls()

    @cache.cached(ttl=10, stale=5)
    def f() -> int:
        ran(1)
        return len(ran)

    assert f() == 1
    stores.advance(11)
    assert f() == 1
    eventually(lambda: f.stats().counters.stored == 2)
    assert f() == 2
    stores.advance(15.1)
    assert f() == 3
    counters = f.stats().counters
    assert (counters.stale_served, counters.refreshed) == (1, 1)


async def test_stale_with_tasks(cache: Cache, stores: MemoryStores) -> None:
    import asyncio

    ran = Calls()

    @cache.cached(ttl=10, stale=5)
    async def f() -> int:
        ran(1)
        return len(ran)

    assert await f() == 1
    stores.advance(11)
    assert await f() == 1
    async with asyncio.timeout(5):
        while f.stats().counters.stored < 2:
            await asyncio.sleep(0.001)
    assert await f() == 2


def test_stale_if_error(cache: Cache, stores: MemoryStores) -> None:
    ran = Calls()

    @cache.cached(ttl=10, stale_if_error=30)
    def f() -> int:
        ran(1)
        if len(ran) > 1:
            raise OSError("the database is away")
        return 1

    assert f() == 1
    stores.advance(11)
    assert f() == 1
    assert len(ran) == 2
    stores.advance(30)
    with pytest.raises(OSError, match="away"):
        f()


def test_stale_if_error_never_serves_what_was_invalidated(cache: Cache, stores: MemoryStores) -> None:
    ran = Calls()

    @cache.cached(ttl=10, stale_if_error=30)
    def f() -> int:
        ran(1)
        if len(ran) > 1:
            raise OSError
        return 1

    f()
    f.invalidate()
    with pytest.raises(OSError):
        f()


def test_an_error_is_raised_and_does_not_hold_up_the_next_call(cache: Cache) -> None:
    ran = Calls()

    @cache.cached
    def f() -> int:
        ran(1)
        if len(ran) == 1:
            raise ValueError("first")
        return 2

    with pytest.raises(ValueError, match="first"):
        f()
    assert f() == 2


def test_cache_errors(cache: Cache, stores: MemoryStores) -> None:
    ran = Calls()

    @cache.cached(ttl=10, cache_errors={KeyError: 5, ValueError: timedelta(seconds=2)})
    def f(kind: str) -> int:
        ran(1)
        raise {"key": KeyError, "value": ValueError, "other": IndexError}[kind]("no", kind)

    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            f("key")
        assert caught.value.args == ("no", "key")
    assert len(ran) == 1
    stores.advance(5.1)
    with pytest.raises(KeyError):
        f("key")
    assert len(ran) == 2
    for _ in range(2):
        with pytest.raises(IndexError):
            f("other")
    assert len(ran) == 4


def test_near(cache: Cache, stores: MemoryStores) -> None:
    @cache.cached(ttl=10, near=2)
    def f(n: int) -> list[int]:
        return [n]

    f(1).append(9)
    assert f(1) == [1]
    f(1).append(9)
    assert f(1) == [1]
    assert f.stats().counters.near_hits == 3
    assert cache.stats().near_entries == 1
    stores.advance(2.1)
    assert f(1) == [1]
    assert f.stats().counters.near_hits == 3
    f.invalidate_all()
    f(1)
    assert f.stats().counters.computed == 2


def test_version(cache: Cache) -> None:
    def make(version: str | int | None) -> CachedFunction[[], Any]:
        def f() -> object:
            return version

        return cache.cached(version=version)(f)

    assert [make(v)() for v in (None, 1, "2.0")] == [None, 1, "2.0"]
    assert make(1).key() != make(2).key()
    with pytest.raises(ConfigurationError, match="version="):
        make("no spaces")


def test_name(cache: Cache) -> None:
    f = cache.cached(name="stats.v2")(lambda: 1)
    assert f.key() == "evercache:f:stats.v2()"


def test_ignore(cache: Cache) -> None:
    ran = Calls()

    @cache.cached(ignore=["session"])
    def f(a: int, session: object = None) -> int:
        ran(session)
        return a

    f(1, object())
    f(1, session=object())
    f(1)
    assert len(ran) == 1
    with pytest.raises(TypeError, match="ignore= names nobody"):
        cache.cached(ignore=["nobody"])(f.__wrapped__)


def test_key(cache: Cache) -> None:
    ran = Calls()

    @cache.cached(key=lambda request: (request["path"], request["user"]))
    def f(request: dict[str, Any]) -> int:
        ran(1)
        return 1

    f({"path": "/", "user": 1, "noise": object()})
    f({"path": "/", "user": 1})
    f({"path": "/", "user": 2})
    assert len(ran) == 2


def test_cache_if(cache: Cache) -> None:
    ran = Calls()

    @cache.cached(cache_if=lambda value: value > 1)
    def f(n: int) -> int:
        ran(1)
        return n

    for n, count in ((1, 1), (1, 2), (2, 3), (2, 3)):
        assert f(n) == n
        assert len(ran) == count


def test_ttl_if_none(cache: Cache, stores: MemoryStores) -> None:
    ran = Calls()

    @cache.cached(ttl=100, ttl_if_none=5)
    def f(value: object) -> object:
        ran(value)
        return value

    f(None), f(0), f(""), f(None), f(0), f("")
    assert len(ran) == 3
    stores.advance(6)
    f(None), f(0), f("")
    assert len(ran) == 4


def test_none_and_empty_values_are_values(cache: Cache) -> None:
    ran = Calls()

    @cache.cached
    def f(n: int) -> object:
        ran(1)
        return [None, 0, "", [], {}, False, b"", ()][n]

    for n in range(8):
        assert f(n) == f(n)
        assert type(f(n)) is type(f.uncached(n))
    assert len(ran) == 16


def test_tags(cache: Cache) -> None:
    ran = Calls()

    @cache.cached(tags=("project:{project_id}", "all", lambda project_id, user="me": [f"user:{user}", "x"]))
    def f(project_id: int, user: str = "me") -> int:
        ran(1)
        return project_id

    def count() -> int:
        f(7)
        f(8)
        return len(ran)

    assert count() == 2
    assert cache.invalidate_tag("project:7")
    assert count() == 3
    for tag in ("user:me", "all", "x"):
        before = count()
        cache.invalidate_tag(tag)
        assert count() == before + 2
    before = count()
    cache.invalidate_tag("project:9")
    cache.invalidate_tag("user:you")
    assert count() == before


def test_tags_from_the_result(cache: Cache) -> None:
    ran = Calls()

    @cache.cached(tags_from=lambda rows: (f"row:{row}" for row in rows), near=5)
    def f(n: int) -> list[int]:
        ran(n)
        return [n, n + 1]

    f(1), f(5)
    cache.invalidate_tag("row:2")
    f(1), f(5)
    assert ran == [1, 5, 1]


def test_a_codec_of_its_own(cache: Cache) -> None:
    from evercache import JSONCodec, SignedPickleCodec

    signed = cache.cached(codec=SignedPickleCodec([b"k" * 32]))(lambda: {1, complex(1, 2)})
    assert signed() == signed() == {1, complex(1, 2)}
    assert signed.stats().counters.hits == 1

    @cache.cached(codec=JSONCodec())
    def tuples() -> tuple[int]:
        return (1,)

    assert tuples() == tuples() == (1,)


def test_a_value_that_cannot_be_kept_is_returned_counted_and_said_once(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    @cache.cached
    def f() -> object:
        return object()

    first, second = f(), f()
    assert first is not second
    counters = f.stats().counters
    assert (counters.uncacheable, counters.computed, counters.stored) == (2, 2, 0)
    assert len(caplog.records) == 1


def test_a_value_over_the_limit_is_returned_and_counted(stores: MemoryStores) -> None:
    cache = Cache("memory://", max_value_bytes=1000, compress_above=10**6)
    f = cache.cached(lambda: "x" * 2000)
    assert len(f()) == len(f()) == 2000
    assert f.stats().counters.uncacheable == 2


def test_registered_classes_are_rebuilt(cache: Cache) -> None:
    from dataclasses import dataclass

    @cache.register
    @dataclass
    class Point:
        x: int

    @cache.cached
    def f() -> Any:
        return Point(1)

    assert f() == f() == Point(1)
    assert f.stats().counters.hits == 1


def test_early_refresh_needs_beta(stores: MemoryStores) -> None:
    cache = Cache("memory://", jitter=0)
    clock = stores

    def slow(_: object = None) -> int:
        clock.advance(5)  # the computation takes five seconds
        return 1

    eager = cache.cached(ttl=10, beta=1000, name="eager")(slow)
    never = cache.cached(ttl=10, beta=0, name="never")(slow)
    eager(), never()
    eager(), never()
    eventually(lambda: eager.stats().counters.refreshed == 1)
    assert never.stats().counters.refreshed == 0
