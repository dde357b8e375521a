"""Calls where no server can be used: no thread, no confirmed master, a closed cache, a server that is not there."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from evercache import Cache
from evercache.clock import monotonic
from evercache.errors import ConnectionFailed
from evercache.net.blocking import BlockingWire
from evercache.net.pipelined import PipelinedWire
from evercache.net.types import ConnectionOptions
from evercache.protocol.scope import Scope
from evercache.protocol.types import Address


def test_no_thread_can_be_started_and_the_cache_works(
    monkeypatch: pytest.MonkeyPatch, own_deployments: None
) -> None:
    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    with Cache("memory://", namespace="attack") as cache:

        @cache.cached(ttl=60)
        def page(number: int) -> int:
            return number

        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", refuse)
            assert page(1) == 1
            assert page(1) == 1
        assert page(1) == 1
        assert page.stats().counters.hits == 2, "memory of the process needs no background"


def test_rule_17_strict_serves_nothing_from_a_master_that_is_not_confirmed() -> None:
    """Neither what its lease script hands out nor what was computed a while ago: others may have invalidated it."""
    versions = iter(range(100))
    with Cache("memory://", namespace="strict", consistency="strict") as cache:

        @cache.cached(ttl=60)
        def page(number: int) -> int:
            return next(versions)

        @cache.cached(ttl=0.05, stale=60)
        def stale(number: int) -> int:
            return next(versions)

        first, old = page(1), stale(1)
        assert page(1) == first
        time.sleep(0.06)
        engine = cache._client_sync().engine  # type: ignore[union-attr]
        engine.routing.confirmed = lambda now: False
        assert page(1) > first
        assert stale(1) > old
        engine.state.master_down = True
        second = page(1)
        assert page(1) > second


def test_a_closed_cache_acknowledges_nothing() -> None:
    """An invalidation that was never sent must not be taken for one that the master has."""
    cache = Cache("memory://", namespace="closed")

    @cache.cached(ttl=60)
    def page(number: int) -> int:
        return number

    assert page(1) == 1
    cache.close()
    acks = [
        page.invalidate(1),
        page.invalidate_all(),
        cache.clear(),
        cache.invalidate_tag("t"),
        cache.set("k", 1),
        cache.add("k", 1),
        cache.delete("k"),
        *cache.set_many({"k": 1}).values(),
    ]
    assert [ack.reason for ack in acks if not ack] == ["closed"] * len(acks)
    assert page(1) == 1


def test_a_host_without_a_server_never_reaches_the_caller() -> None:
    with Cache("redis://127.0.0.1:1", namespace="nohost") as cache:

        @cache.cached(ttl=60)
        def page(number: int) -> int:
            return number

        assert [page(1) for _ in range(3)] == [1, 1, 1]
        assert cache.get("k", "none") == "none"
        assert not cache.set("k", 1)


def test_callers_share_a_computation_though_the_key_was_invalidated_before_the_servers_were_lost() -> None:
    """Until the resync what servers say is outdated by all that was recorded (rule 5), and what is computed here is
    not: each caller waited for the one before it, and then computed by itself."""
    runs = 0

    async def calls() -> list[int]:
        async with Cache("redis://127.0.0.1:1", namespace="nohost", gutter=0) as cache:

            @cache.cached(ttl=60)
            async def page(number: int) -> int:
                nonlocal runs
                runs += 1
                await asyncio.sleep(0.1)
                return number

            await page(0)  # begins the background
            state = cache._client_async().engine.state  # type: ignore[union-attr]
            state.journal.heard("1", Scope.of_key(str(page.key(1))), 10, "former", state.now())
            state.unready("generation")
            state.down()
            return await asyncio.gather(*(page(1) for _ in range(8)))

    assert asyncio.run(calls()) == [1] * 8
    assert runs == 2


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_a_host_that_is_no_host_name_cannot_be_connected_to(host: str) -> None:
    """A sentinel may announce one: an error of the connection like any other, that ends no job of the cache."""
    address, options, limit = Address(host, 6379), ConnectionOptions(), monotonic() + 5
    with pytest.raises(ConnectionFailed, match="no host name"):
        BlockingWire().endpoint(address, options).execute([("PING",)], limit)

    async def connect() -> None:
        await PipelinedWire().connect(address, options, limit)

    with pytest.raises(ConnectionFailed, match="no host name"):
        asyncio.run(connect())
