"""The operations on keys that the user names, in both forms; settings from the environment; life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from tests.unit.memory_time import Calls, cache, eventually, stores

from evercache import Ack, Cache
from evercache.errors import NotACounter
from evercache.testing import MemoryStores

__all__ = ["cache", "stores"]

Ask = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, cache: Cache) -> Ask:
    """`ask("get", "k")`: the operation, or its twin in a loop of its own."""

    def sync(name: str, *args: Any, **options: Any) -> Any:
        return getattr(cache, name)(*args, **options)

    def twin(name: str, *args: Any, **options: Any) -> Any:
        return asyncio.run(getattr(cache, f"a{name}")(*args, **options))

    return sync if request.param == "sync" else twin


def test_get_and_set(ask: Ask, stores: MemoryStores) -> None:
    assert ask("get", "k") is None
    assert ask("get", "k", 7) == 7
    ack = ask("set", "k", [1], ttl=10)
    assert isinstance(ack, Ack)
    assert (bool(ack), ack.existed, ack.queued) == (True, False, False)
    ask("get", "k").append(2)
    assert ask("get", "k") == [1]
    assert ask("set", "k", None).existed
    assert ask("get", "k", 7) is None
    ask("set", "k", 1, ttl=10)
    stores.advance(10.1)
    assert ask("get", "k", 7) == 7


def test_a_set_with_no_time_to_live_is_a_delete(ask: Ask) -> None:
    ask("set", "k", 1)
    assert ask("set", "k", 2, ttl=0).reason == "expired"
    assert ask("get", "k") is None


def test_since_refuses_what_was_invalidated_meanwhile(ask: Ask) -> None:
    before = ask("stamp")
    assert isinstance(before, int)
    assert ask("set", "k", 1, since=before)
    ask("delete", "k")
    ack = ask("set", "k", 1, since=before)
    assert (ack.done, ack.reason) == (False, "outdated")
    assert ask("get", "k") is None
    assert ask("set", "k", 1, since=ask("stamp"))


@pytest.mark.parametrize("wide", [("invalidate_tag", "t"), ("clear",)], ids=str)
def test_since_knows_wide_invalidations(ask: Ask, wide: tuple[str, ...]) -> None:
    ask("set", "other", 1)
    before = ask("stamp")
    ask(*wide)
    assert ask("set", "k", 1, tags=["t"], since=before).reason == "outdated"


def test_add(ask: Ask, stores: MemoryStores) -> None:
    assert ask("add", "k", 1, ttl=10)
    ack = ask("add", "k", 2)
    assert (ack.done, ack.existed, ack.reason) == (False, True, "exists")
    assert ask("get", "k") == 1
    stores.advance(11)
    assert ask("add", "k", 3)
    ask("clear")
    assert ask("add", "k", 4)  # rule 9: what an invalidation killed is not there
    assert ask("get", "k") == 4


def test_delete(ask: Ask) -> None:
    ask("set", "k", 1)
    assert ask("delete", "k").existed
    ack = ask("delete", "k")
    assert ack
    assert not ack.existed


def test_touch(ask: Ask, stores: MemoryStores) -> None:
    assert ask("touch", "k", ttl=10) is False
    ask("set", "k", 1, ttl=10)
    assert ask("touch", "k", ttl=100) is True
    stores.advance(50)
    assert ask("get", "k") == 1
    ask("touch", "k", ttl=10)
    stores.advance(11)
    assert ask("get", "k") is None


DAY = 86_400


@pytest.mark.parametrize("form", ["sync", "async"])
def test_what_never_expires_is_renewed_by_reads(form: str, cache: Cache, stores: MemoryStores) -> None:
    """`max_ttl` is 30 days: a read in the last ten begins it anew; what nobody reads leaves."""

    async def read() -> Any:
        found = await cache.aget("read")
        while cache.stats().counters.refreshed < renewals:
            await asyncio.sleep(0.001)
        return found

    cache.set_many({"read": [1], "unread": [2]}, ttl=inf)
    assert cache.expires_in("read") == inf
    stores.advance(19 * DAY)
    assert cache.get("read") == [1]
    stores.advance(6 * DAY)
    for renewals in range(1, 4):
        if form == "async":
            assert asyncio.run(asyncio.wait_for(read(), 5)) == [1]
        else:
            assert cache.get("read") == [1]
            eventually(lambda expected=renewals: cache.stats().counters.refreshed == expected)  # type: ignore[misc]
        stores.advance(25 * DAY)
    assert cache.get("unread") is None
    assert cache.expires_in("unread") is None
    assert cache.stats().counters.misses == 1


def test_what_never_expires_may_be_invalidated_and_written_over(ask: Ask, stores: MemoryStores) -> None:
    ask("set", "k", 1, ttl=inf, tags=["t"])
    ask("invalidate_tag", "t")
    assert ask("get", "k") is None
    ask("add", "k", 2, ttl=inf)
    assert ask("touch", "k", ttl=10)
    assert 9 < ask("expires_in", "k") <= 10
    assert ask("touch", "k", ttl=inf)
    assert (ask("expires_in", "k"), ask("incr", "k"), ask("expires_in", "k")) == (inf, 3, inf)
    ask("set", "k", 1, ttl=10)
    stores.advance(10.1)
    assert ask("get", "k") is None


def test_touch_does_not_bring_back_what_was_invalidated(ask: Ask) -> None:
    ask("set", "k", 1, tags=["t"])
    ask("invalidate_tag", "t")
    assert ask("touch", "k", ttl=10) is False
    assert ask("get", "k") is None


def test_incr(ask: Ask, stores: MemoryStores) -> None:
    assert ask("incr", "n", ttl=10) == 1
    assert ask("incr", "n", 5) == 6
    assert ask("incr", "n", -7) == -1
    assert ask("get", "n") == -1
    assert type(ask("get", "n")) is int
    assert ask("incr", "m", initial=10) == 11
    ask("set", "n", 41, ttl=10)
    assert ask("incr", "n") == 42
    stores.advance(11)  # it keeps its expiry
    assert ask("incr", "n") == 1


def test_incr_refuses_what_is_no_counter(ask: Ask) -> None:
    ask("set", "text", "1")
    with pytest.raises(NotACounter, match="set it to an int first"):
        ask("incr", "text")
    for wrong in (1.5, True, "1", 2**53):
        with pytest.raises(NotACounter):
            ask("incr", "n", wrong)
    ask("set", "big", 2**53 - 1)
    with pytest.raises(OverflowError):
        ask("incr", "big")
    assert ask("get", "big") == 2**53 - 1


def test_many(ask: Ask) -> None:
    assert ask("get_many", []) == {}
    acks = ask("set_many", {"a": 1, "b": [2]}, tags=(t for t in ("t",)))
    assert all(acks.values())
    assert list(acks) == ["a", "b"]
    assert ask("get_many", ["b", "none", "a", "b"], default=0) == {"b": [2], "none": 0, "a": 1}
    acks = ask("delete_many", iter(["a", "none"]))
    assert {key: ack.existed for key, ack in acks.items()} == {"a": True, "none": False}
    ask("set", "c", 3)
    ask("invalidate_tag", "t")
    assert ask("get_many", ["a", "b", "c"]) == {"a": None, "b": None, "c": 3}
    assert ask("set_many", {}) == {}
    assert ask("delete_many", []) == {}


def test_invalidate_tag_and_clear(ask: Ask) -> None:
    ask("set", "a", 1, tags=["x", "y"])
    ask("set", "b", 2, tags=["y"])
    ask("set", "c", 3)
    assert ask("invalidate_tag", "x")
    assert ask("get_many", "abc") == {"a": None, "b": 2, "c": 3}
    ask("set", "a", 4, tags=["x"])
    assert ask("get", "a") == 4
    assert ask("clear").stamp > 0
    assert ask("get_many", "abc") == {"a": None, "b": None, "c": None}
    ask("set", "a", 5)
    assert ask("get", "a") == 5


def test_a_string_is_no_sequence_of_tags(ask: Ask) -> None:
    for name in ("set", "add"):
        with pytest.raises(TypeError, match="sequence of tags"):
            ask(name, "k", 1, tags="abc")
    with pytest.raises(TypeError, match="sequence of tags"):
        ask("set_many", {"k": 1}, tags="abc")


@pytest.mark.parametrize("key", ["", 3, None, b"k"])
def test_a_key_is_a_text(ask: Ask, key: Any) -> None:
    with pytest.raises(TypeError, match="a key is a text that is not empty"):
        ask("get", key)


def test_a_value_that_cannot_be_kept_is_refused_and_ends_its_predecessor(ask: Ask, cache: Cache) -> None:
    ask("set", "k", 1)
    ack = ask("set", "k", object())
    assert (ack.done, ack.reason) == (False, "uncacheable")
    assert ask("get", "k") is None
    assert cache.stats().counters.uncacheable == 1
    with pytest.raises(TypeError):
        ask("set", "k", object(), on_error="raise")


def test_get_or_compute(cache: Cache, stores: MemoryStores) -> None:
    ran = Calls()

    def compute() -> list[int]:
        ran(1)
        return [len(ran)]

    assert cache.get_or_compute("k", compute, ttl=10, tags=["t"]) == [1]
    assert cache.get_or_compute("k", compute) == [1]
    assert cache.get("k") == [1]
    cache.invalidate_tag("t")
    assert cache.get_or_compute("k", compute, ttl=10, stale_if_error=60) == [2]
    stores.advance(11)
    assert cache.get_or_compute("k", lambda: 1 / 0, stale_if_error=60) == [2]  # type: ignore[comparison-overlap]
    cache.delete("k")
    with pytest.raises(ZeroDivisionError):
        cache.get_or_compute("k", lambda: 1 / 0)


async def test_aget_or_compute(cache: Cache, stores: MemoryStores) -> None:
    ran = Calls()

    async def compute() -> list[int]:
        ran(1)
        return [len(ran)]

    results = await asyncio.gather(*(cache.aget_or_compute("k", compute, ttl=10, tags=["t"]) for _ in range(8)))
    assert results == [[1]] * 8
    await cache.ainvalidate_tag("t")
    assert await cache.aget_or_compute("k", compute) == [2]


def test_health_and_stats(ask: Ask, cache: Cache) -> None:
    ask("set", "k", 1)
    ask("get", "k"), ask("get", "none")
    health = ask("health")
    assert health.ok
    assert health.problems == ()
    assert [(node.role, node.use) for node in health.nodes] == [("master", "writes and reads of this process only")]
    stats = cache.stats()
    assert (stats.counters.hits, stats.counters.misses, stats.counters.acknowledged, stats.pending) == (1, 1, 1, 0)
    assert stats.hit_ratio == 0.5


def test_caches_of_one_url_in_memory_do_not_meet(stores: MemoryStores) -> None:
    one, other = Cache("memory://"), Cache("memory://")
    one.set("k", 1)
    assert other.get("k") is None
