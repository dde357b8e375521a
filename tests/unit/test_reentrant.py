"""Signal handlers and finalizers that use the cache, wherever they run: no deadlock, nothing torn, nothing lost."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from tests.server import wait_for

from evercache import Ack, Cache


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache("memory://", namespace="reentrant") as cache:
        cache.get("warm")
        yield cache


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A deadlock of the main thread ends the tests, instead of waiting for ever."""
    import faulthandler

    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def engine_of(cache: Cache) -> Any:
    return cache._find().engine  # type: ignore[union-attr]


def settled(cache: Cache) -> None:
    state = engine_of(cache).state
    wait_for(lambda: not state.journal.pending and not state.torn, 5, "the background to send what was queued")
    assert not state.journal.pending.unsorted
    assert not state.journal.pending._by_scope
    assert state.flights.under_way == len(state.leases) == 0


def inside(point: int, state: Any, call: Callable[[], object], handler: Callable[[], object]) -> bool:
    """Call, and run the handler at the point of that number within critical sections; False if there is none."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        if event in ("call", "line") and "evercache" in frame.f_code.co_filename and state.lock._is_owned():
            count += 1
            if count == point:
                sys.settrace(None)
                handler()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count >= point


def test_a_handler_in_every_critical_section_of_a_call(cache: Cache) -> None:
    version = 0

    @cache.cached(name="f", near=5, tags=(lambda key: f"t{key}",))
    def f(key: int) -> int:
        return version

    acks: list[Ack] = []

    def handler() -> None:
        nonlocal version
        version += 1
        acks.append(f.invalidate(1))
        assert f(1) == version, "older than its own invalidation"
        acks.append(cache.invalidate_tag("t2"))
        assert f(2) == version
        assert cache.set("s", version).queued
        assert cache.get("s") is None

    def calls() -> None:
        f(1)
        f(1)
        f.invalidate(1)
        f(2)
        cache.set("s", 0)
        cache.delete("s")

    state = engine_of(cache).state
    for point in range(1, 2_000):
        if not inside(point, state, calls, handler):
            break
        assert f(1) == version
        assert f(2) == version
        if point % 50 == 0:
            settled(cache)
    else:
        raise AssertionError("more points than expected")
    assert point > 100
    assert all(ack.queued for ack in acks)
    settled(cache)
    assert f(1) == version


def test_signal_handlers_that_invalidate(cache: Cache) -> None:
    version = 0

    @cache.cached(name="f", near=5)
    def f(key: int) -> int:
        return version

    def handler(_signal: int, _frame: Any) -> None:
        nonlocal version
        version += 1
        ack = f.invalidate(1)
        assert ack.done or ack.queued
        assert f(1) == version
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + version % 7 * 0.0001)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            f(1)
            f(2)
            f.invalidate(2)
            cache.set("k", 1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert version > 100
    assert f(1) == version
    settled(cache)


def test_finalizers_that_invalidate(cache: Cache) -> None:
    """Collected by whichever thread allocates: this one, others, and the background."""
    ran: set[str] = set()

    @cache.cached(name="f", near=5)
    def f(key: int) -> int:
        return key

    class Row:
        def __init__(self) -> None:
            self.me = self  # only the collector frees it

        def __del__(self) -> None:
            ran.add(threading.current_thread().name)
            ack = f.invalidate(1)
            assert ack.done or ack.queued

    thresholds, over = gc.get_threshold(), threading.Event()

    def work() -> None:
        while not over.is_set():
            Row()
            f(1)
            f(2)
            f.invalidate(2)

    def allocate() -> None:
        """On the background: the collector runs there, too."""
        for _ in range(20):
            [[] for _ in range(50)]
        if not over.is_set():
            asyncio.get_running_loop().call_later(0.001, allocate)

    gc.set_threshold(40)
    others = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    try:
        engine_of(cache).post(allocate)
        for thread in others:
            thread.start()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            Row()
            f(1)
            f.invalidate(2)
    finally:
        over.set()
        gc.set_threshold(*thresholds)
    for thread in others:
        thread.join(10)
        assert not thread.is_alive()
    gc.collect()
    assert {"MainThread", "evercache-background"} <= ran
    settled(cache)


def test_an_invalidation_on_the_thread_of_the_background_is_queued(cache: Cache) -> None:
    version = 0

    @cache.cached(name="f", near=5)
    def f(key: int) -> int:
        return version

    assert f(1) == 0
    found: list[Any] = []
    done = threading.Event()

    def there() -> None:
        nonlocal version
        version = 1
        began = time.monotonic()
        found.extend([f.invalidate(1), f(1), time.monotonic() - began])
        done.set()

    engine_of(cache).post(there)
    assert done.wait(10)
    ack, value, took = found
    assert ack.queued
    assert value == 1
    assert took < 0.2, "it waited for itself"
    assert f(1) == 1
    settled(cache)


def test_a_handler_while_the_cache_begins(cache: Cache) -> None:
    """Two engines would be one too many."""
    engines = []
    with Cache("memory://", namespace="begins") as young:
        original = young._connect

        def connect(location: Any) -> Any:
            young._connect = original  # type: ignore[method-assign]
            engines.append(young._find())
            return original(location)

        young._connect = connect  # type: ignore[method-assign]
        young.set("k", 1)
        assert young.get("k") == 1
        assert young._find() is engines[0]
