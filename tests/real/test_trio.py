"""The asynchronous methods under trio, which has no event loop of asyncio: said in words, nothing left behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
from tests.servers import Server

from evercache import Cache
from evercache.errors import ConfigurationError


@pytest.fixture(params=["memory", "server"])
def cache(request: pytest.FixtureRequest, valkey: Server) -> Iterator[Cache]:
    with Cache("memory://" if request.param == "memory" else valkey.url, namespace="trio") as cache:
        yield cache
        cache.clear()


def test_each_asynchronous_method_says_what_is_missing(cache: Cache) -> None:
    @cache.cached(ttl=60)
    async def f(number: int) -> int:
        return number

    @cache.cached(ttl=60)
    def plain(number: int) -> int:
        return number

    @cache.cached_many(ttl=60)
    async def many(ids: list[int]) -> dict[int, int]:
        return {number: number for number in ids}

    async def changing() -> None:
        async with cache.achanging(tag="t"):
            pass

    async def compute() -> int:
        return 1

    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: f(2),
        lambda: f.ainvalidate(1),
        lambda: f.arefresh(1),
        lambda: many([1]),
        lambda: plain.arefresh(1),
        lambda: cache.aset("k", 1),
        lambda: cache.adelete("k"),
        lambda: cache.aget_or_compute("k", compute),
        lambda: cache.ainvalidate_tag("t"),
        changing,
    ]

    async def main() -> None:
        for call in calls:
            with pytest.raises(ConfigurationError, match=r"trio has none.*trio\.to_thread\.run_sync"):
                await call()
        assert await trio.to_thread.run_sync(plain, 7) == 7
        assert await trio.to_thread.run_sync(plain, 7) == 7

    for warm in (False, True):
        trio.run(main)
        if not warm:
            assert f.refresh(1) == 1  # from here on there is something to serve, on the fast path
    assert plain.stats().counters.computed == 1
    assert f.invalidate(1).done
