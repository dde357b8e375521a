"""A wait that could never end is found before it begins, and the caller computes at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from evercache import Cache

#: What none of these calls may take (s), on a busy machine; without the check it is 300.
SOON = 5.0


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache("memory://", namespace="endless") as cache:
        cache.get("warm")
        yield cache


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Run each in a thread of its own; their results. Fails if one takes too long."""
    results: list[Future[Any]] = [Future() for _ in works]

    def run(work: Callable[[], Any], result: Future[Any]) -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    for work, result in zip(works, results, strict=True):
        threading.Thread(target=run, args=(work, result), daemon=True).start()
    return [result.result(SOON) for result in results]


class Meeting:
    """Where two computations wait for each other once, so that both run; not again when one is run twice."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2)

    def __call__(self) -> None:
        try:
            self._barrier.wait(1)
        except threading.BrokenBarrierError:
            return


def test_two_functions_that_call_each_other_in_two_threads(cache: Cache) -> None:
    both, runs = Meeting(), [0, 0]

    @cache.cached(name="one")
    def one() -> int:
        runs[0] += 1
        both()
        return 1 + (two() if runs[0] < 4 else 0)

    @cache.cached(name="two")
    def two() -> int:
        runs[1] += 1
        both()
        return 1 + (one() if runs[1] < 4 else 0)

    assert all(value > 0 for value in at_once(one, two))


async def test_in_two_tasks(cache: Cache) -> None:
    begun = [asyncio.Event(), asyncio.Event()]
    runs = [0, 0]

    async def compute(mine: int) -> int:
        runs[mine] += 1
        begun[mine].set()
        await begun[1 - mine].wait()
        if runs[mine] > 3:
            return 0
        return 1 + await cache.aget_or_compute(f"k{1 - mine}", lambda: compute(1 - mine))

    async with asyncio.timeout(SOON):
        values = await asyncio.gather(*(cache.aget_or_compute(f"k{n}", lambda n=n: compute(n)) for n in range(2)))
    assert all(value >= 0 for value in values)
    assert sum(runs) <= 8


def test_in_a_thread_and_a_task(cache: Cache) -> None:
    both = Meeting()
    count = [0, 0]

    def of_thread() -> int:
        count[0] += 1
        both()
        return 1 + (cache.get_or_compute("task", lambda: 0) if count[0] < 4 else 0)

    async def of_task() -> int:
        count[1] += 1
        await asyncio.to_thread(both)

        async def zero() -> int:
            return 0

        return 1 + (await cache.aget_or_compute("thread", zero) if count[1] < 4 else 0)

    values = at_once(
        lambda: cache.get_or_compute("thread", of_thread),
        lambda: asyncio.run(cache.aget_or_compute("task", of_task)),
    )
    assert all(value >= 1 for value in values)


def test_a_batch_and_a_function(cache: Cache) -> None:
    both = Meeting()
    count = [0, 0]

    @cache.cached_many(name="many")
    def many(keys: list[int]) -> dict[int, int]:
        count[0] += 1
        both()
        more = one(1) if count[0] < 4 else 0
        return dict.fromkeys(keys, more + 1)

    @cache.cached(name="single")
    def one(key: int) -> int:
        count[1] += 1
        both()
        return 1 + (many([7])[7] if count[1] < 4 else 0)

    values = at_once(lambda: many([6, 7, 8]), lambda: one(1))
    assert values[0].keys() == {6, 7, 8}
    assert values[1] >= 1


def test_three_threads_in_a_ring(cache: Cache) -> None:
    all_three = threading.Barrier(3)
    runs = [0, 0, 0]

    def compute(mine: int) -> int:
        runs[mine] += 1
        if runs[mine] == 1:
            all_three.wait(SOON)
        other = (mine + 1) % 3
        return 1 + (cache.get_or_compute(f"r{other}", lambda: compute(other)) if runs[mine] < 4 else 0)

    works = [lambda n=n: cache.get_or_compute(f"r{n}", lambda: compute(n)) for n in range(3)]
    assert all(value >= 1 for value in at_once(*works))


async def test_a_blocking_call_on_the_loop_whose_task_computes_the_key(cache: Cache) -> None:
    begun = asyncio.Event()

    async def compute() -> str:
        begun.set()
        await asyncio.sleep(0.2)
        return "task"

    task = asyncio.create_task(cache.aget_or_compute("k", compute))
    await begun.wait()
    began = time.monotonic()
    assert cache.get_or_compute("k", lambda: "blocking") == "blocking"
    assert time.monotonic() - began < SOON
    assert await task == "task"


async def test_a_blocking_call_that_waits_for_its_own_loop_through_a_thread(cache: Cache) -> None:
    """The loop waits for a thread, which waits for a task of the loop."""
    begun, waits = asyncio.Event(), threading.Event()

    async def of_task() -> str:
        begun.set()
        await asyncio.sleep(0.2)
        return "task"

    def of_thread() -> str:
        waits.set()
        return "thread " + cache.get_or_compute("inner", lambda: "alone")

    task = asyncio.create_task(cache.aget_or_compute("inner", of_task))
    await begun.wait()
    with ThreadPoolExecutor(1) as pool:
        outer = pool.submit(cache.get_or_compute, "outer", of_thread)
        assert waits.wait(SOON)
        time.sleep(0.05)
        began = time.monotonic()
        assert cache.get_or_compute("outer", lambda: "blocking") in ("blocking", "thread alone")
        assert time.monotonic() - began < SOON
        await task
        await asyncio.wrap_future(outer)


async def test_a_thread_that_would_wait_for_a_loop_that_waits_for_it(cache: Cache) -> None:
    """The same, but the thread comes second."""
    begun, blocked = asyncio.Event(), threading.Event()
    go = threading.Event()

    async def of_task() -> str:
        begun.set()
        await asyncio.sleep(0.2)
        return "task"

    def of_thread() -> str:
        blocked.set()
        assert go.wait(SOON)
        return "thread " + cache.get_or_compute("inner", lambda: "alone")

    task = asyncio.create_task(cache.aget_or_compute("inner", of_task))
    await begun.wait()
    with ThreadPoolExecutor(1) as pool:
        outer = pool.submit(cache.get_or_compute, "outer", of_thread)
        assert blocked.wait(SOON)
        threading.Timer(0.2, go.set).start()
        began = time.monotonic()
        assert cache.get_or_compute("outer", lambda: "blocking") == "thread alone"
        assert time.monotonic() - began < SOON
        await task
        await asyncio.wrap_future(outer)


@pytest.mark.parametrize("close", [True, False], ids=["closed", "stopped"])
def test_a_leader_whose_loop_is_closed_or_stands_still(cache: Cache, close: bool) -> None:
    loop = asyncio.new_event_loop()
    begun = threading.Event()

    async def compute() -> str:
        begun.set()
        await asyncio.sleep(100)
        return "never"

    async def lead() -> None:
        await cache.aget_or_compute("k", compute)

    def run() -> None:
        task = loop.create_task(lead())
        loop.run_until_complete(asyncio.sleep(0.3))
        assert not task.done()
        if close:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(SOON)
    began = time.monotonic()
    assert cache.get_or_compute("k", lambda: "mine") == "mine"
    assert time.monotonic() - began < SOON
    thread.join()
    assert cache.get("k") == "mine"
    if not close:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_a_function_that_a_signal_handler_calls_while_its_own_thread_asks_for_it(cache: Cache) -> None:
    """The handler runs on top of the call that leads: it cannot wait for it."""
    engine: Any = cache._find().engine  # type: ignore[union-attr]
    from evercache.client._sync.link import SyncLink

    calls: list[str] = []
    original = SyncLink.run

    def run(self: SyncLink, *args: Any, **options: Any) -> Any:
        if not calls:
            calls.append("handler")
            began = time.monotonic()
            calls.append(cache.get_or_compute("k", lambda: "handler"))
            assert time.monotonic() - began < 0.15, "the budget of a call is 0.25"
        return original(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SyncLink, "run", run)
        cache.get_or_compute("k", lambda: "leader")
    assert calls == ["handler", "handler"]
    assert engine.state.flights.under_way == 0


def test_through_a_lease_of_this_process(cache: Cache) -> None:
    """A resync detaches flights, but their leases live on: a new leader waits at the server, not for the flight."""
    state: Any = cache._find().engine.state  # type: ignore[union-attr]
    outer, inner = threading.Event(), threading.Event()

    def first() -> int:
        outer.set()
        assert inner.wait(SOON)
        return 1 + cache.get_or_compute("second", lambda: 0)

    def second() -> int:
        inner.set()
        return 10 + cache.get_or_compute("first", lambda: 5)

    def begin_second() -> int:
        assert outer.wait(SOON)
        state.flights.clear()
        return cache.get_or_compute("second", second)

    values = at_once(lambda: cache.get_or_compute("first", first), begin_second)
    assert values == [16, 15]
    assert not state.leases
