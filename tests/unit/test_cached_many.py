"""`cache.cached_many`: what a function of many ids becomes, on a store inside the process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from typing import Any

import pytest
from tests.unit.memory_time import cache, eventually, stores

from evercache import AsyncCachedMany, Cache, CachedMany, Key
from evercache.errors import ConfigurationError, SyncInLoopError
from evercache.testing import MemoryStores, record

__all__ = ["cache", "stores"]


class Doubles:
    """Doubles numbers, leaves out negative ones, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.seconds = 0.0
        self.error: Exception | None = None

    def __call__(self, ids: list[int]) -> dict[int, int]:
        self.asked.append(ids)
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return {id: 2 * id for id in reversed(ids) if id >= 0}


def test_only_what_is_missing_is_computed_in_one_call(cache: Cache) -> None:
    run = Doubles()

    @cache.cached_many(ttl=10)
    def doubled(ids: Iterable[int]) -> dict[int, int]:
        """Doc."""
        return run(list(ids))

    assert isinstance(doubled, CachedMany)
    assert (doubled.__name__, doubled.__doc__) == ("doubled", "Doc.")
    assert list(doubled([3, 1, 2]).items()) == [(3, 6), (1, 2), (2, 4)]
    assert list(doubled([4, 2, 5, 3]).items()) == [(4, 8), (2, 4), (5, 10), (3, 6)]
    assert run.asked == [[3, 1, 2], [4, 5]]
    assert doubled(iter([5, 5, 4])) == {5: 10, 4: 8}
    assert doubled(ids=(1,)) == {1: 2}
    assert doubled([]) == {}
    assert len(run.asked) == 2
    stats = doubled.stats().counters
    assert (stats.misses, stats.computed, stats.stored, stats.hits) == (5, 2, 5, 5)


def test_what_the_function_leaves_out_is_not_cached(cache: Cache) -> None:
    run = Doubles()
    doubled = cache.cached_many(ttl=10, name="doubled")(lambda ids: run(ids))
    assert doubled([-1, 1, -2]) == {1: 2}
    assert doubled([-1, 1]) == {1: 2}
    assert run.asked == [[-1, 1, -2], [-1]]
    assert doubled.peek([1, -1]) == {1: 2}


def test_none_is_a_value(cache: Cache, stores: MemoryStores) -> None:
    asked: list[list[int]] = []

    @cache.cached_many(ttl=10, ttl_if_none=1)
    def nothing(ids: list[int]) -> dict[int, None]:
        asked.append(ids)
        return dict.fromkeys(ids)

    assert nothing([1, 2]) == nothing([1, 2]) == {1: None, 2: None}
    assert asked == [[1, 2]]
    stores.advance(2)
    nothing([1])
    assert len(asked) == 2


def test_other_arguments_are_part_of_each_key(cache: Cache) -> None:
    asked: list[Any] = []

    @cache.cached_many(ignore=("trace",))
    def named(ids: list[int], lang: str = "en", *, trace: str = "") -> dict[int, str]:
        asked.append((ids, lang, trace))
        return {id: f"{lang}{id}" for id in ids}

    assert named([1], "de") == {1: "de1"}
    assert named([1, 2], lang="de", trace="x") == {1: "de1", 2: "de2"}
    assert named([1]) == named(lang="en", ids=[1]) == {1: "en1"}
    assert asked == [([1], "de", ""), ([2], "de", "x"), ([1], "en", "")]
    assert named.key([1, 2], "de").keys() == {1, 2}
    assert all(isinstance(key, Key) for key in named.key([1]).values())
    assert len({named.key([1])[1], named.key([1], "de")[1], named.key([2])[2]}) == 3


def test_invalidations(cache: Cache) -> None:
    run = Doubles()

    @cache.cached_many(tags=("parity:{parity}", "id:{id}", lambda ids, parity=0: f"f:{ids}"))
    def doubled(ids: list[int], parity: int = 0) -> dict[int, int]:
        return run(ids)

    doubled([1, 2, 3])
    acks = doubled.invalidate([1, 3])
    assert list(acks) == [1, 3]
    assert all(ack.done and ack.existed for ack in acks.values())
    doubled([1, 2, 3])
    cache.invalidate_tag("id:2")
    doubled([1, 2, 3])
    cache.invalidate_tag("f:3")
    doubled([1, 2, 3])
    cache.invalidate_tag("parity:0")
    doubled([1, 2, 3])
    assert doubled.invalidate_all()
    doubled([1, 2, 3])
    assert run.asked == [[1, 2, 3], [1, 3], [2], [3], [1, 2, 3], [1, 2, 3]]


def test_tags_of_the_value(cache: Cache) -> None:
    run = Doubles()
    doubled = cache.cached_many(tags_from=lambda value: [f"v:{value}"], name="doubled")(lambda ids: run(ids))
    doubled([1, 2])
    cache.invalidate_tag("v:4")
    doubled([1, 2])
    assert run.asked == [[1, 2], [2]]


def test_peek_refresh_explain_and_uncached(cache: Cache) -> None:
    run = Doubles()

    @cache.cached_many(ttl=100)
    def doubled(ids: list[int]) -> dict[int, int]:
        return run(ids)

    assert doubled.peek([1, 2]) == {}
    assert {id: e.verdict[:4] for id, e in doubled.explain([1]).items()} == {1: "miss"}
    doubled([1])
    assert doubled.peek([2, 1]) == {1: 2}
    assert {id: e.verdict[:4] for id, e in doubled.explain([1, 2]).items()} == {1: "hit", 2: "miss"}
    assert doubled.refresh([2, 1, -1]) == {2: 4, 1: 2}
    assert doubled.uncached([1]) == {1: 2}
    assert run.asked == [[1], [2, 1, -1], [1]]
    assert doubled.peek([1, 2]) == {1: 2, 2: 4}
    assert cache.get(doubled.key([1])[1]) == 2


def test_stale_values_are_served_and_refreshed_in_one_call(cache: Cache, stores: MemoryStores) -> None:
    run = Doubles()
    doubled = cache.cached_many(ttl=10, stale=60, name="doubled")(lambda ids: run(ids))
    doubled([1, 2])
    stores.advance(11)
    assert doubled([1, 2, 3]) == {1: 2, 2: 4, 3: 6}
    eventually(lambda: len(run.asked) == 3)
    assert sorted(map(sorted, run.asked)) == [[1, 2], [1, 2], [3]]


def test_stale_values_in_the_place_of_an_error(cache: Cache, stores: MemoryStores) -> None:
    run = Doubles()
    doubled = cache.cached_many(ttl=10, stale_if_error=60, name="doubled")(lambda ids: run(ids))
    doubled([1, 2])
    stores.advance(11)
    run.error = OSError("no database")
    assert doubled([2, 1]) == {2: 4, 1: 2}
    with pytest.raises(OSError, match="no database"):
        doubled([1, 3])
    run.error = None
    assert doubled([1, 3]) == {1: 2, 3: 6}


def test_near(cache: Cache) -> None:
    run = Doubles()
    doubled = cache.cached_many(near=5, name="doubled")(lambda ids: run(ids))
    doubled([1, 2])
    assert doubled([2, 3]) == {2: 4, 3: 6}
    assert doubled.stats().counters.near_hits == 1
    doubled.invalidate([2])
    doubled([1, 2])
    assert run.asked == [[1, 2], [3], [2]]


def test_each_caller_has_values_of_its_own(cache: Cache) -> None:
    lists = cache.cached_many(name="lists")(lambda ids: {id: [id] for id in ids})
    lists([1])
    lists([1])[1].append(2)
    assert lists([1]) == {1: [1]}


def test_methods_of_all_kinds(cache: Cache) -> None:
    class Shop:
        run = Doubles()

        def __cache_key__(self) -> str:
            return "shop"

        @cache.cached_many
        def own(self, ids: list[int]) -> dict[int, int]:
            return self.run(ids)

        @cache.cached_many(ignore=("cls",))
        @classmethod
        def of_class(cls, ids: list[int]) -> dict[int, int]:
            return cls.run(ids)

        @cache.cached_many
        @staticmethod
        def static(ids: list[int]) -> dict[int, int]:
            return Shop.run(ids)

    shop = Shop()
    for method in (shop.own, Shop.of_class, shop.static):
        assert method([1, 2]) == method([2, 1]) == {1: 2, 2: 4}
        assert method.invalidate([1]).keys() == {1}
        assert method.peek([1, 2]) == {2: 4}
    assert Shop.own(shop, [1]) == {1: 2}
    assert shop.own.uncached([3]) == {3: 6}
    assert shop.own == shop.own
    assert Shop.run.asked == [[1, 2]] * 3 + [[1], [3]]


async def test_coroutine_functions(cache: Cache) -> None:
    run = Doubles()

    @cache.cached_many(ttl=10, stale=5)
    async def doubled(ids: list[int]) -> dict[int, int]:
        await asyncio.sleep(0)
        return run(ids)

    assert isinstance(doubled, AsyncCachedMany)
    assert await doubled([1, 2]) == {1: 2, 2: 4}
    assert await doubled([2, -3, 3]) == {2: 4, 3: 6}
    assert await doubled.apeek([1, 4]) == {1: 2}
    assert list(await doubled.ainvalidate([1])) == [1]
    assert await doubled.arefresh([1]) == {1: 2}
    assert (await doubled.aexplain([1]))[1].verdict == "hit"
    assert await doubled.ainvalidate_all()
    assert run.asked == [[1, 2], [-3, 3], [1]]
    with pytest.raises(SyncInLoopError):
        doubled.invalidate([1])
    assert doubled.key([1]).keys() == {1}


async def test_the_other_kind_of_methods(cache: Cache) -> None:
    run = Doubles()
    doubled = cache.cached_many(name="doubled")(lambda ids: run(ids))
    assert await doubled.arefresh([1]) == {1: 2}
    assert await doubled.apeek([1]) == {1: 2}
    assert (await doubled.ainvalidate([1]))[1].existed


def test_a_refresh_that_waited_for_another_call_still_computes_under_a_lease(cache: Cache) -> None:
    """It took eight polls for eight renewals of the entry by others, and its result was not kept."""
    run = Doubles()
    doubled = cache.cached_many(name="doubled")(lambda ids: run(ids))
    run.seconds = 0.4  # with a poll every 50 ms at least
    other = threading.Thread(target=doubled.refresh, args=([1],))
    other.start()
    eventually(lambda: run.asked == [[1]])
    assert doubled.refresh([1]) == {1: 2}
    other.join(20)
    assert run.asked == [[1], [1]]
    assert doubled.stats().counters.stored == 2


def test_batches_that_overlap_compute_each_id_once(cache: Cache) -> None:
    run = Doubles()
    run.seconds = 0.05
    doubled = cache.cached_many(name="doubled")(lambda ids: run(ids))
    start = threading.Barrier(8)
    results: list[dict[int, int]] = []

    def work(number: int) -> None:
        ids = [(number * 3 + i) % 12 for i in range(6)]
        start.wait()
        results.append(doubled(ids if number % 2 else ids[::-1]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 8
    assert all(result == {id: 2 * id for id in result} and len(result) == 6 for result in results)
    computed = [id for ids in run.asked for id in ids]
    assert sorted(computed) == sorted(set(computed))


async def test_tasks_share_what_is_absent_too(cache: Cache) -> None:
    run = Doubles()

    @cache.cached_many
    async def doubled(ids: list[int]) -> dict[int, int]:
        await asyncio.sleep(0.05)
        return run(ids)

    results = await asyncio.gather(*(doubled([-1, 1, n]) for n in range(2, 6)))
    assert results == [{1: 2, n: 2 * n} for n in range(2, 6)]
    assert sorted(id for ids in run.asked for id in ids) == [-1, 1, 2, 3, 4, 5]


async def test_an_error_of_a_batch_with_other_ids_is_not_shared(cache: Cache) -> None:
    asked: list[list[int]] = []

    @cache.cached_many
    async def picky(ids: list[int]) -> dict[int, int]:
        asked.append(ids)
        await asyncio.sleep(0.05)
        if 13 in ids:
            raise ValueError("13")
        return {id: id for id in ids}

    first = asyncio.create_task(picky([1, 13]))
    await asyncio.sleep(0.01)
    others = asyncio.gather(picky([1, 2]), picky([1, 13]), return_exceptions=True)
    with pytest.raises(ValueError, match="13"):
        await first
    good, bad = await others
    assert good == {1: 1, 2: 2}
    assert isinstance(bad, ValueError)
    assert asked == [[1, 13], [2], [1]]


async def test_a_cancelled_leader_does_not_take_the_others_down(cache: Cache) -> None:
    run = Doubles()

    @cache.cached_many
    async def doubled(ids: list[int]) -> dict[int, int]:
        await asyncio.sleep(0.05)
        return run(ids)

    leader = asyncio.create_task(doubled([1, 2]))
    await asyncio.sleep(0.01)
    joiner = asyncio.create_task(doubled([2, 3]))
    await asyncio.sleep(0.01)
    leader.cancel()
    assert await joiner == {2: 4, 3: 6}


def test_a_function_may_call_itself(cache: Cache) -> None:
    asked: list[list[int]] = []

    @cache.cached_many
    def chain(ids: list[int]) -> dict[int, int]:
        asked.append(ids)
        inner = chain([4, 5]) if len(asked) == 1 else {}  # not one's own computation is waited for
        return {id: id + sum(inner.values()) for id in ids}

    assert chain([5]) == {5: 14}
    assert sorted(asked) == [[4], [5], [5]]


def test_a_value_that_cannot_be_cached_is_returned_all_the_same(cache: Cache) -> None:
    calls = []

    @cache.cached_many
    def objects(ids: list[int]) -> dict[int, object]:
        calls.append(ids)
        return {id: object() if id == 1 else id for id in ids}

    assert set(objects([1, 2])) == set(objects([1, 2])) == {1, 2}
    assert calls == [[1, 2], [1]]


def test_cache_if_and_ttl_look_at_one_value(cache: Cache, stores: MemoryStores) -> None:
    run = Doubles()
    doubled = cache.cached_many(ttl=lambda v: v, cache_if=lambda v: v < 20, name="doubled")(lambda ids: run(ids))
    doubled([1, 5, 10])
    stores.advance(4)
    doubled([1, 5, 10])
    assert run.asked == [[1, 5, 10], [1, 10]]


@pytest.mark.parametrize(
    "options", [{"ttl": lambda v: 1 / 0}, {"cache_if": lambda v: 1 / 0}, {"tags_from": lambda v: 1 / 0}]
)
def test_a_mistake_in_a_callable_of_a_value_is_heard_each_time(cache: Cache, options: dict[str, Any]) -> None:
    doubled = cache.cached_many(name="doubled", **options)(lambda ids: {id: id for id in ids})
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            doubled([1, 2])
    assert time.monotonic() - began < 2


def test_switched_off_it_is_the_function_in_order(cache: Cache) -> None:
    run = Doubles()
    doubled = cache.cached_many(name="doubled")(lambda ids: run(ids))
    with cache.disabled():
        assert list(doubled([2, -1, 1, 2])) == [2, 1]
        assert doubled.refresh([1]) == {1: 2}
        assert doubled.peek([1]) == {}
        assert doubled.explain([1])[1].verdict == "miss: the cache is switched off"
        assert doubled.invalidate([1])[1].done
        assert doubled([]) == {}
    assert run.asked == [[2, -1, 1], [1]]


def test_mistakes(cache: Cache) -> None:
    doubled = cache.cached_many(name="doubled")(lambda ids: {id: id for id in ids})
    for wrong in ("ab", b"ab", 3, None):
        with pytest.raises(TypeError, match="takes a list of ids"):
            doubled(wrong)
    with pytest.raises(TypeError, match="unhashable"):
        doubled([[1]])
    with pytest.raises(TypeError, match="returns a dict from id to value"):
        cache.cached_many(name="listed")(lambda ids: ids)([1])  # type: ignore[arg-type,type-var]
    with pytest.raises(ConfigurationError, match="whole batch"):
        cache.cached_many(cache_errors={ValueError: 3})(lambda ids: {})  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="no parameter for the ids"):
        cache.cached_many(lambda: {1: 1})
    with pytest.raises(TypeError, match="no parameter for the ids"):
        cache.cached_many(lambda *ids: {})
    with pytest.raises(TypeError, match="cannot be ignored"):
        cache.cached_many(ignore=("ids",))(lambda ids: {})
    with pytest.raises(TypeError, match="stands for one id"):
        cache.cached_many(lambda ids, id: {})
    with pytest.raises(TypeError, match=r"names 'ids'.*parameters id, lang"):
        cache.cached_many(tags=("x:{ids}",))(lambda ids, lang: {})
    with pytest.raises(TypeError, match="makes no cache key"):
        doubled([object()])


@pytest.mark.parametrize("kept", [True, False])
def test_recorded(cache: Cache, kept: bool) -> None:
    doubled = cache.cached_many(name="doubled")(lambda ids: Doubles()(ids))
    with record(store=kept) as calls:
        assert doubled([1, -1]) == {1: 2}
        assert doubled([1, 2]) == {1: 2, 2: 4}
        assert doubled.refresh([2]) == {2: 4}
        doubled.peek([1])
        doubled.invalidate([1, 2])
    assert len(calls.computed) == (4 if kept else 5)
    assert len(calls.of(doubled).misses) == (3 if kept else 5)
    assert len(calls.of(doubled).invalidated) == 2


async def test_a_call_of_one_key_does_not_get_the_error_of_a_batch_with_others(cache: Cache) -> None:
    """The single function shares its name, and so its entries, with the batch."""
    begun = asyncio.Event()

    @cache.cached_many(name="f")
    async def many(ids: list[int]) -> dict[int, int]:
        begun.set()
        await asyncio.sleep(0.02)
        raise ValueError(ids)

    @cache.cached(name="f")
    async def one(n: int) -> int:
        return n

    batch = asyncio.create_task(many([1, 2]))
    await begun.wait()
    assert await one(1) == 1
    with pytest.raises(ValueError, match="1, 2"):
        await batch


async def test_callers_of_one_key_that_a_batch_left_out_compute_it_once_under_a_lease(cache: Cache) -> None:
    """Each of them computed it by itself, and nothing was stored."""
    begun, ended, run = asyncio.Event(), asyncio.Event(), list[int]()

    @cache.cached_many(name="f")
    async def many(ids: list[int]) -> dict[int, int]:
        begun.set()
        await ended.wait()
        return {id: id for id in ids if id != 1}

    @cache.cached(name="f", ttl=10)
    async def one(n: int) -> int:
        run.append(n)
        await asyncio.sleep(0.01)
        return -n

    batch = asyncio.create_task(many([1, 2]))
    await begun.wait()
    callers = [asyncio.create_task(one(1)) for _ in range(5)]
    await asyncio.sleep(0)
    ended.set()
    assert await asyncio.gather(*callers) == [-1] * 5
    assert await batch == {2: 2}
    assert run == [1]
    assert await one(1) == -1
    assert await many([1]) == {1: -1}
    counters = one.stats().counters
    assert (counters.computed, counters.computed_unleased, counters.stored) == (1, 0, 1)
