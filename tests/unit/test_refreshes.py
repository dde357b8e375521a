"""Refreshes in the background: whatever a function raises, and whatever is missing, the next ones happen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from evercache import Cache
from evercache.client.waits import AsyncSpawner, SyncSpawner

#: More than there are threads.
MANY = 6


class Custom(BaseException):
    pass


def eventually(true: Callable[[], Any], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, Custom, MemoryError])
def test_functions_that_end_their_thread_do_not_end_refreshing(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    fail = threading.Event()
    computed: list[int] = []
    with Cache("memory://", namespace="refreshes") as cache:

        @cache.cached(ttl=0.01, stale=60)
        def page(number: int) -> int:
            computed.append(number)
            if fail.is_set():
                raise error
            return len(computed)

        for number in range(MANY):
            page(number)
        time.sleep(0.05)
        fail.set()
        with caplog.at_level(logging.WARNING, "evercache"):
            for number in range(MANY):
                page(number)
            eventually(lambda: len(computed) == 2 * MANY)
            said = [f"{error.__name__}()", "page"]
            eventually(lambda: any(all(x in r.getMessage() for x in said) for r in list(caplog.records)))
        fail.clear()
        for number in range(MANY):
            before = page(number)
            eventually(lambda: page(number) > before)  # noqa: B023


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, Custom])
def test_tasks_that_end_their_loop_do_not_end_refreshing(error: type[BaseException]) -> None:
    fail = threading.Event()
    with Cache("memory://", namespace="refreshes") as cache:

        @cache.cached(ttl=0.01, stale=60)
        async def page(number: int) -> float:
            if fail.is_set():
                raise error
            return time.monotonic()

        async def visit() -> None:
            await page(1)
            await asyncio.sleep(0.05)

        async def refreshed() -> None:
            before = await page(1)
            for _ in range(500):
                if await page(1) > before:
                    return
                await asyncio.sleep(0.01)
            raise AssertionError("it is refreshed no more")

        asyncio.run(visit())
        fail.set()
        with contextlib.suppress(error):  # what ends a loop may leave it
            asyncio.run(visit())
        fail.clear()
        asyncio.run(refreshed())


@pytest.mark.parametrize("closed", [False, True])
def test_a_task_that_its_loop_never_finished_does_not_end_refreshing(closed: bool) -> None:
    """Cancelled with its loop, or left behind in one that was closed without a word."""
    computed: list[int] = []
    with Cache("memory://", namespace="refreshes") as cache:

        @cache.cached(ttl=0.01, stale=60)
        async def page(number: int) -> int:
            computed.append(number)
            if len(computed) == 2:
                await asyncio.sleep(60)
            return len(computed)

        async def first() -> None:
            await page(1)
            await asyncio.sleep(0.05)

        async def last() -> None:
            await page(1)

        async def refreshed() -> None:
            before = await page(1)
            for _ in range(500):
                if await page(1) > before:
                    return
                await asyncio.sleep(0.01)
            raise AssertionError("it is refreshed no more")

        asyncio.run(first())
        if closed:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(last())
            loop.close()
        else:
            asyncio.run(last())
        assert computed == [1, 1]
        asyncio.run(refreshed())


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_what_waits_for_a_thread_that_cannot_be_started_is_over(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise error

    spawner, over, ran = SyncSpawner(), [], threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not spawner.spawn(lambda: None, lambda: over.append(1))
    assert over == [1]
    assert spawner.spawn(ran.set, lambda: over.append(2))
    assert ran.wait(5)
    eventually(lambda: over == [1, 2])
    spawner.close()
    assert not spawner.spawn(lambda: None, lambda: over.append(3))
    assert over == [1, 2, 3]


def test_a_thread_that_was_lost_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ended it: a handler of the log that raises, an exception from outside."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    spawner, over, ran = SyncSpawner(), [], threading.Event()

    def end() -> None:
        over.append(1)
        raise Custom

    for _ in range(MANY):
        spawner.spawn(lambda: None, end)
        time.sleep(0.02)
    assert len(over) == MANY
    spawner.spawn(ran.set, lambda: None)
    assert ran.wait(5)


async def test_a_task_that_cannot_be_made_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work: Any) -> Any:
        raise MemoryError

    over: list[int] = []

    async def job() -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "create_task", refuse)
        assert not AsyncSpawner().spawn(job, lambda: over.append(1))
    assert over == [1]
