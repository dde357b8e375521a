"""Removing dead entries before their time, and hearing of a flush by a raw client, on real servers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.real.raw_tools import in_use
from tests.servers import Deployment, Server

from evercache import Cache
from evercache.client._sync.sweeping import Swept
from evercache.observe import Counters
from evercache.protocol.scope import Scope


def marked(cache: Cache, function: Any) -> int:
    """The stamp of an invalidation of the function."""
    client = cache._client_sync()
    assert client is not None
    (ack,) = client.operations.invalidate([Scope.of_function(function._core.name)], Counters())
    assert ack.stamp is not None
    return ack.stamp


def swept(cache: Cache, pattern: str, least: int, budget: float = 5.0) -> Swept:
    client = cache._client_sync()
    assert client is not None
    return client.sweeping.sweep(pattern, least, budget, Counters())


def test_what_is_older_than_the_mark_goes(valkey: Server) -> None:
    with Cache(valkey.url) as cache:
        one, two = cache.cached(name="one")(lambda n: n), cache.cached(name="two")(lambda n: n)
        for n in range(2500):
            one(n)
        for n in range(10):
            two(n)
        valkey.cli("SET", "evercache:f:one(foreign)", "no entry")
        stamp = marked(cache, one)
        one(7)
        assert swept(cache, "evercache:f:one(*", stamp) == Swept(2499, True)
        assert swept(cache, "evercache:f:one(*", stamp) == Swept(0, True)
        assert len(valkey.cli("KEYS", "evercache:f:one*")) == 2
        assert len(valkey.cli("KEYS", "evercache:f:two*")) == 10
        client = cache._client_sync()
        assert client is not None
        gone = client.sweeping.remove("evercache:f:one(*", lambda head: head[:2] == b"no", 5.0)
        assert gone == Swept(1, True)


def test_time_ends_it(valkey: Server) -> None:
    with Cache(valkey.url) as cache:
        one = cache.cached(name="one")(lambda n: n)
        for n in range(500):
            one(n)
        stamp = marked(cache, one)
        with valkey.frozen():
            began = time.monotonic()
            assert swept(cache, "*", stamp, 0.1) == Swept(0, False)
            assert time.monotonic() - began < 1.0
        assert swept(cache, "*", stamp, -1.0) == Swept(0, False)


async def test_for_tasks(valkey: Server) -> None:
    async with Cache(valkey.url) as cache:

        @cache.cached(name="one")
        async def one(n: int) -> int:
            return n

        for _ in range(10):  # on a busy machine a budget may end before its store
            await asyncio.gather(*(one(n) for n in range(50)))
            if len(valkey.cli("KEYS", "evercache:f:one(*")) == 50:
                break
        ack = await one.ainvalidate_all()
        assert ack.stamp is not None
        client = cache._client_async()
        assert client is not None
        assert (await client.sweeping.sweep("*", ack.stamp, 5.0, Counters())).removed == 50


@pytest.mark.parametrize(
    "how", ["FLUSHALL", *(pytest.param(how, marks=pytest.mark.long) for how in ("pipeline", "async"))]
)
def test_a_flush_is_heard_at_once(how: str) -> None:
    """A replica that lags would serve what was flushed, for as long as nobody knows of it."""
    runs: list[int] = []
    with (
        Deployment.start(replicas=1, replica_delays=(0.1,)) as deployment,
        in_use(deployment, replicas=1, bookkeeping_db=1) as cache,
    ):

        @cache.cached
        def f(n: int) -> int:
            runs.append(n)
            return n

        for turn in range(10):
            f(1)
            time.sleep(0.15)  # the replica has it
            runs.clear()
            match how:
                case "FLUSHALL":
                    cache.master.flushall()
                case "pipeline":
                    with cache.master.pipeline() as pipe:
                        pipe.flushdb()
                        pipe.set("other", 1)
                        pipe.execute()
                case _:

                    async def flush() -> None:
                        await cache.amaster.flushdb()
                        await cache.amaster.connection_pool.disconnect()

                    asyncio.run(flush())
            assert f(1) == 1
            assert runs == [1], turn
