"""Hostile schedules of calls on `memory://`, with hooks where a race needs a certain order."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.unit.call_tools import parts, within

from evercache import Cache
from evercache.client.serving import NOT_ASKED
from evercache.errors import DeadlineExceeded, MasterUnknown, UnavailableError
from evercache.protocol.commands import ScriptCall


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache("memory://", namespace="attack", jitter=0, beta=0) as cache:
        cache.get("warm")
        yield cache


class NoMaster:
    """A link on which no command arrives."""

    def run(self, *_: Any, **__: Any) -> Any:
        raise MasterUnknown("cut by the test")

    run_many = run


def test_a_queued_tag_is_obeyed_by_hits_that_carry_it_from_their_result(cache: Cache) -> None:
    versions = iter(range(100))

    @cache.cached(ttl=60, tags_from=lambda value: ("x",))
    def page(number: int) -> int:
        return next(versions)

    @cache.cached(ttl=60, near=60, tags_from=lambda value: ("x",))
    def near(number: int) -> int:
        return next(versions)

    assert (page(1), near(1)) == (0, 1)
    assert (page(1), near(1)) == (0, 1)
    client = parts(cache)
    client.writes._link = NoMaster()
    client.engine.chores._run = NoMaster().run  # type: ignore[method-assign]
    ack = cache.invalidate_tag("x")
    assert ack.queued
    assert page(1) >= 2
    assert near(1) >= 2
    assert page.peek(1) is None


def test_more_tags_than_an_envelope_holds_are_not_cached_and_do_no_harm(cache: Cache) -> None:
    @cache.cached(ttl=60, tags_from=lambda value: [f"t{i}" for i in range(300)])
    def page(number: int) -> int:
        return number

    assert within(2.0, lambda: page(1)) == 1
    assert within(2.0, lambda: page(1)) == 1
    assert page.stats().counters.uncacheable == 2


def test_rule_6_callers_that_may_not_join_ask_for_themselves_and_compute_nothing(cache: Cache) -> None:
    """The horizon is past the entry, so that no result is joined: sixteen callers, no computation."""
    computed = []

    @cache.cached(ttl=60)
    def page(number: int) -> int:
        computed.append(number)
        return number

    page(1)
    client = parts(cache)
    client.engine.state.marks.horizon = 1 << 52
    client.reads.look = lambda *_: None
    ask = client.leads._ask

    def slow(*args: Any, **more: Any) -> Any:
        time.sleep(0.02)
        return ask(*args, **more)

    client.leads._ask = slow
    start = threading.Barrier(16)

    def call() -> int:
        start.wait()
        return page(1)

    with ThreadPoolExecutor(16) as pool:
        assert {future.result() for future in [pool.submit(call) for _ in range(16)]} == {1}
    assert computed == [1]


def test_rule_5_an_answer_to_a_question_from_before_a_resync_is_not_used(cache: Cache) -> None:
    @cache.cached(ttl=60)
    def page(number: int) -> int:
        return number

    page(1)
    client = parts(cache)
    state = client.engine.state
    client.hits.get = lambda *_: NOT_ASKED
    client.reads.look = lambda *_: None
    run, asked = client.leads._link.run, []

    def resynced_meanwhile(build: Any, deadline: float, **more: Any) -> Any:
        reply = run(build, deadline, **more)
        asked.append(reply[7][0])
        if len(asked) == 1:
            state.resyncs += 1
        return reply

    client.leads._link.run = resynced_meanwhile
    assert page(1) == 1
    assert asked == [b"entry", b"entry"]
    asked.clear()
    assert page.peek(1) == 1
    assert asked == [b"entry", b"entry"]


def test_rule_11_the_last_moment_of_a_write_is_told_in_the_time_of_who_gets_it(cache: Cache) -> None:
    """Between two tries the master changes to one whose clock is an hour behind."""
    client = parts(cache)
    state = client.engine.state
    sent: list[int] = []

    class Link:
        def run_many(self, builds: Any, deadline: float, **_: Any) -> Any:
            with state.lock:
                hour_ago = state.clock.offset_us - 3_600_000_000
                state.clock.reset()
                state.clock.observe(int(state.now() * 1e6) + hour_ago, state.now())
            for build in builds:
                call: ScriptCall = build(state.generation, state.marks.newest)
                marks = state.marks.newest  # what was queued is sent meanwhile, and gets a stamp
                sent.extend(a for a in call.args if isinstance(a, int) and a > 10**15 and a != marks)
            raise DeadlineExceeded("cut by the test", maybe_run=True)

        def run(self, build: Any, deadline: float, **more: Any) -> Any:
            return self.run_many([build], deadline, **more)

    client.writes._link = Link()
    truth = state.clock.server_us(state.now())
    assert cache.set("k", 1).queued
    assert cache.touch("other") is False
    assert cache.incr("third") is None
    late = [moment for moment in sent if truth - 1_800_000_000 < moment]
    assert len(sent) >= 3
    assert late == [], "an hour too late on the new master"


def test_a_refused_increment_resets_the_clock(cache: Cache) -> None:
    client = parts(cache)
    state = client.engine.state
    with state.lock:
        state.clock.reset()
        state.clock.observe(1, state.now())  # 1970: whatever is sent now arrives late
    assert cache.incr("n") is None
    assert cache.incr("n") == 1


@pytest.mark.parametrize("name", ["incr", "add"])
def test_a_queued_delete_is_brought_before_what_builds_on_its_key(cache: Cache, name: str) -> None:
    client = parts(cache)
    link = client.writes._link
    assert cache.set("n", 5)
    client.writes._link = NoMaster()
    assert cache.delete("n").queued
    client.writes._link = link
    if name == "incr":
        assert cache.incr("n") == 1
    else:
        assert cache.add("n", 7)
        assert cache.get("n") == 7
    assert not client.engine.state.journal.pending


def test_an_increment_that_cannot_bring_the_delete_first_does_nothing(cache: Cache) -> None:
    client = parts(cache)
    assert cache.set("n", 5)
    client.engine.chores._run = NoMaster().run  # type: ignore[method-assign]
    client.writes._link, link = NoMaster(), client.writes._link
    assert cache.delete("n").queued

    def refuse(*_: Any) -> None:
        raise MasterUnknown("cut by the test")

    client.writes._link, client.writes.bring = link, refuse
    assert cache.incr("n") is None


def test_a_value_that_cannot_be_added_leaves_the_one_that_is_there(cache: Cache) -> None:
    assert cache.set("k", 1)
    assert not cache.add("k", object())
    assert not cache.add("k", 2, ttl=0)
    assert cache.get("k") == 1


def test_who_allows_no_stale_value_does_not_join_one(cache: Cache) -> None:
    assert cache.get_or_compute("k", lambda: "old", ttl=0.05, stale=60) == "old"
    time.sleep(0.06)
    client = parts(cache)
    client.reads.look = lambda *_: None
    ask, asking = client.leads._ask, threading.Event()

    def slow(*args: Any, **more: Any) -> Any:
        reply = ask(*args, **more)
        asking.set()
        time.sleep(0.1)
        return reply

    client.leads._ask = slow
    with ThreadPoolExecutor(1) as pool:
        stale = pool.submit(cache.get_or_compute, "k", lambda: "new", stale=60)
        assert asking.wait(2)
        assert cache.get_or_compute("k", lambda: "new") == "new"
        assert stale.result() == "old"


def test_promise_1_the_store_gets_only_what_is_left_of_the_budget(cache: Cache) -> None:
    client = parts(cache)
    given: list[float] = []
    run, state = client.leads._link.run, client.engine.state

    def slow(build: Any, deadline: float, **more: Any) -> Any:
        given.append(deadline - state.now())
        time.sleep(0.15)
        return run(build, deadline, **more)

    client.leads._link.run = slow

    @cache.cached(ttl=60)
    def page(number: int) -> int:
        time.sleep(0.3)
        return number

    assert page(1) == 1
    lease, store = given
    assert lease > 0.2
    assert store < 0.11, "150 of 250 ms were spent before the function ran"


@pytest.mark.parametrize("reply", [[b"lead", b"soon", b"x"], [b"lead", None, b"x"], b"?", None, {}, [1, 2, 3]])
def test_an_answer_of_no_known_shape_never_reaches_the_caller(cache: Cache, reply: Any) -> None:
    @cache.cached(ttl=60)
    def page(number: int) -> int:
        return number

    client = parts(cache)
    endpoint = client.engine.endpoint_sync(client.engine.view.master)

    class Mad:
        def execute(self, commands: Any, *_: Any) -> Any:
            return [reply for _ in commands]

        def disconnect(self) -> None: ...

        def __getattr__(self, name: str) -> Any:
            return getattr(endpoint, name)

    client.engine.sync_endpoints._by_address[client.engine.view.master] = Mad()
    assert page(1) == 1
    assert cache.get("k", "none") == "none"
    assert cache.get_many(["a", "b"]) == {"a": None, "b": None}
    assert not cache.set("k", 1)
    assert not cache.delete("k")
    assert cache.incr("k") is None
    assert cache.touch("k") is False
    assert cache.stamp() is None


async def test_a_cancelled_caller_leaves_no_lease_behind(cache: Cache) -> None:
    """Its lease was granted, but the answer was on its way when it was cancelled."""

    @cache.cached(ttl=60)
    async def page(number: int) -> int:
        return number

    client = cache._client_async()
    assert client is not None
    link: Any = client.leads._link
    run, granted = link.run, asyncio.Event()

    async def late(build: Any, deadline: float, **more: Any) -> Any:
        reply = await run(build, deadline, **more)
        if not granted.is_set():
            granted.set()
            await asyncio.sleep(30)
        return reply

    link.run = late
    task = asyncio.create_task(page(1))
    await granted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(2):
        assert await page(1) == 1


async def test_a_caller_cancelled_while_it_stores_leaves_no_lease_behind(cache: Cache) -> None:
    @cache.cached(ttl=60)
    async def page(number: int) -> int:
        return number

    client = cache._client_async()
    assert client is not None
    link: Any = client.leads._link
    run, storing, calls = link.run, asyncio.Event(), 0

    async def lost(build: Any, deadline: float, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            storing.set()
            await asyncio.sleep(30)
        return await run(build, deadline, **more)

    link.run = lost
    task = asyncio.create_task(page(1))
    await storing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(2):
        assert await page(1) == 1


async def test_a_task_that_a_computation_left_behind_is_served_like_any_other(cache: Cache) -> None:
    """It was begun within the computation, but that is over: its calls are cached again."""
    computed = []
    go = asyncio.Event()
    left: list[asyncio.Task[int]] = []

    @cache.cached(ttl=60)
    async def page(number: int) -> int:
        computed.append(number)
        if not left:
            left.append(asyncio.create_task(afterwards()))
        return number

    async def afterwards() -> int:
        await go.wait()
        return await page(1)

    await page(1)
    await page.ainvalidate(1)
    go.set()
    await left[0]
    assert await page(1) == 1
    assert computed == [1, 1], "the computation of the task left behind was stored"


def test_a_failing_refresh_in_the_background_is_said(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    wrong = threading.Event()

    def cache_if(value: Any) -> bool:
        if wrong.is_set():
            raise ZeroDivisionError("in cache_if")
        return True

    @cache.cached(ttl=0.05, stale=60, cache_if=cache_if)
    def page(number: int) -> int:
        return number

    page(1)
    wrong.set()
    time.sleep(0.06)
    assert page(1) == 1
    end = time.monotonic() + 5
    while "in cache_if" not in caplog.text:
        assert time.monotonic() < end, caplog.text
        time.sleep(0.01)


def test_raise_means_raise_also_for_refresh(cache: Cache) -> None:
    @cache.cached(ttl=60, on_error="raise")
    def page(number: int) -> int:
        return number

    parts(cache).leads._link = NoMaster()
    with pytest.raises(UnavailableError):
        page.refresh(1)


def test_values_that_cannot_be_walked_are_returned_and_not_cached(cache: Cache) -> None:
    @cache.cached(ttl=60)
    def cyclic(number: int) -> list[Any]:
        value: list[Any] = [number]
        value.append(value)
        return value

    @cache.cached(ttl=60)
    def deep(number: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(50_000):
            value = [value]
        return value

    for function in (cyclic, deep):
        for _ in range(2):
            assert len(within(5.0, lambda f=function: f(1))) >= 1  # type: ignore[misc]


def test_a_long_outage_leaves_nothing_that_slows_down_each_line_of_the_log(cache: Cache) -> None:
    """The gutter is full: a heard key must not walk through all of it."""
    from evercache.near import Gutter
    from evercache.protocol.scope import Scope, Subject

    def cost(entries: int) -> float:
        gutter: Gutter[int] = Gutter(seconds=60)
        for number in range(entries):
            gutter.put(Subject(f"k{number}"), number, 1.0)
        best = 1.0
        for _ in range(5):
            began = time.perf_counter()
            for number in range(100):
                gutter.hear(Scope.of_key(f"other{number}"))
            best = min(best, time.perf_counter() - began)
        return best

    assert cost(1_000) < 10 * cost(2)


def test_rule_13_callers_who_waited_long_enough_share_one_computation(cache: Cache) -> None:
    """The function is slower than it was ever seen: the database does not get a query from each of them."""
    computed: list[int] = []

    @cache.cached(ttl=60)
    def page(number: int) -> int:
        computed.append(number)
        time.sleep(1.6 if number else 0)
        return number

    page(0)
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(page, [1] * 12)) == [1] * 12
    assert 1 <= computed.count(1) <= 3
