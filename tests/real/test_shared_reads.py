"""Tasks that read one key at the same moment share one round trip."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.real.fault_watch import CountingProxy
from tests.servers import Server

from evercache import Cache

TASKS = 64


def run(server: Server, work: Callable[[Any, Cache, CountingProxy], Awaitable[None]], **options: Any) -> None:
    """Some work on a function that has an entry, with a proxy that holds everything up for 10 ms."""
    with (
        CountingProxy(server.port) as proxy,
        Cache(f"redis://127.0.0.1:{proxy.port}", beta=0, budget=2, **options) as cache,
    ):

        @cache.cached(ttl=60)
        async def f(n: int) -> list[int]:
            return [n]

        async def main() -> None:
            assert await f(1) == await f(1) == [1]
            await f(2)
            proxy.set_delay(0.01)
            proxy.gets.clear()
            await work(f, cache, proxy)

        asyncio.run(main())


@pytest.mark.parametrize(("share", "gets"), [(True, 1), (False, TASKS)])
def test_one_get_for_many_tasks(valkey: Server, share: bool, gets: int) -> None:
    async def work(f: Any, cache: Cache, proxy: CountingProxy) -> None:
        values = await asyncio.gather(*(f(1) for _ in range(TASKS)))
        assert values == [[1]] * TASKS
        values[0].append(2)
        assert values[1] == [1]  # each has a value of its own
        assert len(proxy.gets) == gets
        assert cache.stats().counters.master_hits == TASKS + 1
        await asyncio.gather(f(1), f(2))
        assert len(proxy.gets) == gets + 2  # other keys, and later reads, are asked for

    run(valkey, work, share_reads=share)


def test_nobody_joins_what_was_sent_before_an_invalidation(valkey: Server) -> None:
    async def work(f: Any, cache: Cache, proxy: CountingProxy) -> None:
        before = asyncio.create_task(f(1))
        await asyncio.sleep(0.001)
        invalidation = asyncio.create_task(f.ainvalidate(2))  # a mark that has nothing to do with it is enough
        await asyncio.sleep(0.001)
        after = [asyncio.create_task(f(1)) for _ in range(3)]
        assert await asyncio.gather(before, *after) == [[1]] * 4
        assert (await invalidation).done
        proxy.gets.clear()
        early = asyncio.create_task(f(1))
        await asyncio.sleep(0.001)
        await f.arefresh(1)
        assert await f(1) == await early == [1]
        assert len(proxy.gets) == 2  # nor what was sent before a store of this process

    run(valkey, work)


def test_a_cancelled_leader_takes_nobody_along(valkey: Server) -> None:
    async def work(f: Any, cache: Cache, proxy: CountingProxy) -> None:
        leader = asyncio.create_task(f(1))
        await asyncio.sleep(0.001)
        others = [asyncio.create_task(f(1)) for _ in range(TASKS)]
        await asyncio.sleep(0.001)
        leader.cancel()
        assert await asyncio.gather(*others) == [[1]] * TASKS
        with contextlib.suppress(asyncio.CancelledError):
            await leader
        assert leader.cancelled()
        assert len(proxy.gets) == 2
        assert f.stats().counters.computed == 2

    run(valkey, work)


def test_a_dead_server_is_met_once_and_the_function_runs_once(valkey: Server) -> None:
    async def work(f: Any, cache: Cache, proxy: CountingProxy) -> None:
        tasks = [asyncio.create_task(f(1)) for _ in range(TASKS)]
        await asyncio.sleep(0.001)
        await asyncio.to_thread(proxy.cut)
        assert await asyncio.gather(*tasks) == [[1]] * TASKS
        assert len(proxy.gets) == 1
        assert f.stats().counters.computed == 3

    run(valkey, work)
