"""Strict writes wait for replicas: what else a process does with its primary meanwhile is not held up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from tests.servers import Server

from evercache import Cache


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    with Server.start("valkey") as master, Server.start("valkey", replica_of=master) as replica:
        yield master, replica


def strict(pair: tuple[Server, Server], budget: float) -> Cache:
    master, replica = pair
    url = f"redis://127.0.0.1:{master.port}?replicas=127.0.0.1:{replica.port}"
    return Cache(url, consistency="strict", budget=budget)


async def until_strict_writes_pass(cache: Cache) -> None:
    end = time.monotonic() + 15
    while not (await cache.aset("first", 0)).done:
        assert time.monotonic() < end


async def test_a_fill_is_stored_while_a_strict_write_waits_for_a_frozen_replica(
    pair: tuple[Server, Server],
) -> None:
    """`WAIT` holds up its connection on the server; the store of the fill was behind it, and late."""
    master, replica = pair
    async with strict(pair, budget=3.0) as cache:

        @cache.cached(ttl=60)
        async def fill(n: int) -> int:
            return n

        await until_strict_writes_pass(cache)
        replica.freeze()
        try:
            write = asyncio.create_task(cache.aset("k", 1))
            while not master.cli("EXISTS", "evercache:k:k"):
                await asyncio.sleep(0.01)
            assert await fill(1) == 1
            assert not write.done(), "the fill waited for the replica"
            assert fill.stats().counters.stored == 1
        finally:
            replica.thaw()
        assert (await write).done


async def test_strict_writes_that_wait_in_vain_do_not_make_the_primary_look_dead(
    pair: tuple[Server, Server],
) -> None:
    """What was written behind a `WAIT` ran when that was over, and its answer was late."""
    _, replica = pair
    async with strict(pair, budget=0.5) as cache:
        await until_strict_writes_pass(cache)
        lost = cache.health().events.get("MasterLost", 0)
        replica.freeze()
        try:
            for _ in range(2):
                acks = await asyncio.gather(*(cache.aset(f"k{n}", n) for n in range(3)))
                assert all(ack.queued for ack in acks)
        finally:
            replica.thaw()
        assert cache.health().events.get("MasterLost", 0) == lost
