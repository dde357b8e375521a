"""What can be asked of a cached function, and what happens when many ask at once."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.memory_time import Calls, cache, eventually, stores

from evercache import Cache, Key
from evercache.errors import SyncInLoopError
from evercache.testing import MemoryStores

__all__ = ["cache", "stores"]

HERE = Cache("memory://", namespace="here", jitter=0, beta=0)


@HERE.cached(ttl=10)
def module_level(n: int) -> int:
    return n + 1


@HERE.cached(ttl=10)
async def module_level_coroutine(n: int) -> int:
    return n + 1


class Thing:
    def __cache_key__(self) -> str:
        return "thing"

    @HERE.cached(ttl=10)
    def method(self, n: int) -> int:
        return n + 2

    @classmethod
    @HERE.cached(ttl=10)
    def of_class(cls, n: int) -> int:
        return n + 3


def test_invalidate(cache: Cache) -> None:
    ran = Calls()

    @cache.cached
    def f(n: int) -> int:
        ran(n)
        return n

    f(1), f(2)
    ack = f.invalidate(n=1)
    assert ack
    assert (ack.done, ack.existed, ack.queued, ack.reason) == (True, True, False, None)
    assert isinstance(ack.stamp, int)
    assert not f.invalidate(1).existed
    f(1), f(2)
    assert ran == [1, 2, 1]


def test_invalidate_all(cache: Cache) -> None:
    ran = Calls()
    f = cache.cached(name="f")(lambda n: ran(n))
    g = cache.cached(name="g")(lambda n: ran(n))
    f(1), f(2), g(3)
    assert f.invalidate_all()
    f(1), f(2), g(3)
    assert ran == [1, 2, 3, 1, 2]


def test_an_invalidation_during_a_computation_is_obeyed(cache: Cache) -> None:
    ran = Calls()

    @cache.cached(near=5)
    def f() -> int:
        ran(1)
        if len(ran) == 1:
            f.invalidate()
        return len(ran)

    assert f() == 1  # the leader's own caller gets its value, whatever the store says
    assert f.peek() is None
    assert f() == 2
    assert f.stats().counters.store_refused == 1


@pytest.mark.parametrize("how", ["all", "tag", "clear"])
def test_wide_invalidations_during_a_computation_are_obeyed(cache: Cache, how: str) -> None:
    ran = Calls()

    @cache.cached(tags=("t",), near=5)
    def f() -> int:
        ran(1)
        if len(ran) == 1:
            {"all": f.invalidate_all, "tag": lambda: cache.invalidate_tag("t"), "clear": cache.clear}[how]()
        return len(ran)

    f()
    assert f.peek() is None
    assert f() == f() == 2


def test_refresh(cache: Cache) -> None:
    ran = Calls()

    @cache.cached
    def f(n: int) -> int:
        ran(n)
        return len(ran)

    assert f(1) == 1
    assert f.refresh(1) == 2
    assert f(1) == 2
    assert f.refresh(2) == f(2) == 3


def test_peek(cache: Cache, stores: MemoryStores) -> None:
    @cache.cached(ttl=10, stale=5)
    def f(n: int) -> Any:
        return None if n == 0 else n

    assert f.peek(1) is None
    assert f.peek(1, default="none") == "none"
    f(1), f(0)
    assert f.peek(1, default="none") == 1
    assert f.peek(0, default="none") is None
    stores.advance(12)
    assert f.peek(1) == 1
    stores.advance(5)
    assert f.peek(1, default="none") == "none"
    assert f.stats().counters.computed == 2


def test_uncached_and_wrapped(cache: Cache) -> None:
    ran = Calls()

    def f(n: int) -> int:
        ran(n)
        return n

    cached = cache.cached(f)
    assert cached.uncached is f
    assert cached.__wrapped__ is f
    cached.uncached(1), cached.uncached(1), cached.__wrapped__(1)
    assert len(ran) == 3
    assert cached.peek(1) is None


def test_key(cache: Cache) -> None:
    f = cache.cached(name="app.f")(lambda n, m=2: n)
    key = f.key(1)
    assert isinstance(key, Key)
    assert key == f.key(n=1, m=2) == "evercache:f:app.f(1,2)"
    f(1)
    assert cache.get(key) == 1
    assert cache.delete(key).existed
    assert f.peek(1) is None
    assert cache.set(key, 5)
    assert f(1) == 5


def test_explain(cache: Cache, stores: MemoryStores) -> None:
    @cache.cached(ttl=10, stale=5, tags=("t:{n}",))
    def f(n: int) -> int:
        return n

    assert f.explain(1).verdict.startswith("miss")
    f(1)
    told = f.explain(1)
    assert told.verdict == "hit"
    assert told.node == "master"
    assert told.key == f.key(1)
    assert 9 < (told.stale_in or 0) < 10.001  # a server counts in milliseconds
    assert 14 < (told.expires_in or 0) < 15.001
    assert len(told.tags) == 1
    stores.advance(12)
    assert f.explain(1).verdict.startswith("stale hit")
    f.invalidate_all()
    told = f.explain(1)
    assert told.verdict.startswith("miss")
    assert "the function" in told.marks
    assert told.needed == told.marks["the function"]
    assert "mark of the function" in str(told)
    assert f.stats().counters.computed == 1


def test_explain_tells_the_age(stores: MemoryStores) -> None:
    """Whatever the jitter took off, `max_ttl` cut off, and the result decided."""
    cache = Cache("memory://", namespace="ages", jitter=0.5, max_ttl=6000)

    class Missing(Exception):
        pass

    @cache.cached(ttl=timedelta(days=365), stale=60)
    def capped(n: int) -> int:
        return n

    @cache.cached(ttl=lambda n: 4000 + n, ttl_if_none=3000)
    def by_result(n: int) -> int | None:
        return n or None

    @cache.cached(ttl=300, cache_errors={Missing: 2000})
    def fails(n: int) -> int:
        raise Missing(n)

    @cache.cached(ttl=4000)
    async def later(n: int) -> int:
        return n

    for n in range(8):
        capped(n), by_result(n), asyncio.run(_awaited(later, n))
        with pytest.raises(Missing):
            fails(n)
    for passed in (0, 600):
        stores.advance(passed)
        for function in (capped, by_result, fails, later):
            ages = [function.explain(n).age for n in range(8)]
            assert all(age is not None and passed <= age < passed + 60 for age in ages), (function, ages)


async def _awaited(function: Any, n: int) -> None:
    await function(n)


def test_stats(cache: Cache) -> None:
    f = cache.cached(lambda n: n)
    f(1), f(1), f(1), f(2)
    stats = f.stats()
    counters = stats.counters
    assert (counters.hits, counters.misses, counters.computed, counters.stored) == (2, 2, 2, 2)
    assert stats.hit_ratio == 0.5
    assert cache.stats().counters.hits == 2


async def test_the_twins_of_a_coroutine_function(cache: Cache) -> None:
    ran = Calls()

    @cache.cached
    async def f(n: int) -> int:
        ran(n)
        return len(ran)

    assert await f(1) == 1
    assert await f.apeek(1) == 1
    assert (await f.aexplain(1)).verdict == "hit"
    assert await f.arefresh(1) == 2
    assert (await f.ainvalidate(1)).existed
    assert await f.apeek(1, default=0) == 0
    assert await f(1) == 3
    assert await f.ainvalidate_all()
    assert await f(1) == 4
    assert await f.uncached(1) == 5
    assert f.key(1) == f.key(n=1)


@pytest.mark.parametrize("name", ["invalidate", "invalidate_all", "refresh", "peek", "explain"])
async def test_the_blocking_form_in_a_running_loop_names_the_twin(cache: Cache, name: str) -> None:
    @cache.cached
    async def f() -> int:
        return 1

    with pytest.raises(SyncInLoopError, match=rf"await f\.a{name}\(") as caught:
        getattr(f, name)()
    assert isinstance(caught.value, RuntimeError)


async def test_the_blocking_forms_of_a_coroutine_function_work_from_threads(cache: Cache) -> None:
    ran = Calls()

    @cache.cached
    async def f(n: int) -> int:
        ran(n)
        return len(ran)

    def thread() -> list[object]:
        return [f.refresh(1), f.peek(1), f.explain(1).verdict, f.invalidate(1).existed, f.invalidate_all().done]

    assert await asyncio.to_thread(thread) == [1, 1, "hit", True, True]


async def test_the_twins_of_a_plain_function_work_in_a_loop(cache: Cache) -> None:
    f = cache.cached(lambda n: n)
    assert f(1) == 1
    assert await f.apeek(1) == 1
    assert await f.ainvalidate(1)
    assert await f.arefresh(1) == 1
    assert await f.ainvalidate_all()
    assert (await f.aexplain(1)).verdict.startswith("miss")


def test_a_decorated_function_is_pickled_by_name(stores: MemoryStores) -> None:
    for function in (module_level, module_level_coroutine):
        assert pickle.loads(pickle.dumps(function)) is function
    assert copy.deepcopy(module_level) is module_level
    bound = pickle.loads(pickle.dumps(Thing().method))
    assert bound(1) == 3
    assert pickle.loads(pickle.dumps(Thing.of_class))(1) == 4
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(HERE.cached(name="local")(lambda: 1))


# -- single flight


def test_one_computation_among_threads(cache: Cache) -> None:
    ran = Calls()
    begun, go = threading.Event(), threading.Event()

    @cache.cached
    def f() -> list[int]:
        ran(1)
        begun.set()
        assert go.wait(10)
        return [1]

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(f)
        assert begun.wait(10)
        others = [pool.submit(f) for _ in range(7)]
        go.set()
        results = [future.result(10) for future in (first, *others)]
    assert results == [[1]] * 8
    assert len({id(result) for result in results}) == 8
    assert len(ran) == 1


async def test_one_computation_among_tasks(cache: Cache) -> None:
    ran = Calls()
    go = asyncio.Event()

    @cache.cached
    async def f() -> list[int]:
        ran(1)
        await go.wait()
        return [1]

    tasks = [asyncio.create_task(f()) for _ in range(64)]
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.02, go.set)
    assert await asyncio.gather(*tasks) == [[1]] * 64
    assert len(ran) == 1
    assert f.stats().counters.joined + f.stats().counters.hits == 63


def test_an_error_reaches_all_who_wait_and_is_computed_once(cache: Cache) -> None:
    ran = Calls()
    begun, go = threading.Event(), threading.Event()

    @cache.cached
    def f() -> int:
        ran(1)
        begun.set()
        assert go.wait(10)
        raise LookupError("for all")

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(f)
        assert begun.wait(10)
        others = [pool.submit(f) for _ in range(3)]
        (flight,) = cache._find().engine.state.flights._by_key.values()  # type: ignore[union-attr]
        eventually(lambda: len(flight.done._wakers) == 3)
        go.set()
        for future in (first, *others):
            with pytest.raises(LookupError, match="for all"):
                future.result(10)
    assert len(ran) == 1


async def test_a_cancelled_leader_does_not_take_the_others_along(cache: Cache) -> None:
    ran = Calls()
    go = asyncio.Event()

    @cache.cached
    async def f() -> int:
        ran(1)
        await go.wait()
        return len(ran)

    leader = asyncio.create_task(f())
    while not ran:
        await asyncio.sleep(0)
    waiter = asyncio.create_task(f())
    await asyncio.sleep(0.01)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    go.set()
    assert await asyncio.wait_for(waiter, 10) == 2


def test_different_keys_do_not_wait_for_each_other(cache: Cache) -> None:
    go = threading.Event()

    @cache.cached
    def f(n: int) -> int:
        if n == 1:
            assert go.wait(10)
        return n

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(f, 1)
        assert f(2) == 2
        go.set()
        assert slow.result(10) == 1


def test_recursion_with_the_same_arguments_does_not_deadlock(cache: Cache) -> None:
    depth = Calls()

    @cache.cached
    def f(n: int) -> int:
        depth(n)
        return f(n) + 1 if len(depth) < 4 else 0

    assert f(1) == 3
    assert len(depth) == 4


def test_mutual_recursion_and_other_arguments(cache: Cache) -> None:
    @cache.cached
    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert fibonacci(30) == 832040
    assert fibonacci.stats().counters.computed == 31


async def test_recursion_in_tasks_does_not_deadlock(cache: Cache) -> None:
    depth = Calls()

    @cache.cached
    async def f(n: int) -> int:
        depth(n)
        return await asyncio.create_task(f(n)) + 1 if len(depth) < 4 else 0

    assert await asyncio.wait_for(f(1), 10) == 3
