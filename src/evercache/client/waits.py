"""The few things that differ by nature between a thread and a task: how they wait."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

__all__ = ["AsyncWaits", "SyncWaits"]

T = TypeVar("T")


class SyncWaits:
    """For threads."""

    @staticmethod
    def pause(seconds: float) -> None:
        """Sleep."""
        time.sleep(max(0.0, seconds))

    @staticmethod
    def result(future: Future[T], seconds: float) -> T | None:
        """The result of a future that another thread or task resolves, or None after `seconds`."""
        try:
            return future.result(max(0.0, seconds))
        except (FutureTimeout, CancelledError):
            return None

    @staticmethod
    def call(function: Callable[[], T]) -> T:
        """Run a user's function."""
        return function()


class AsyncWaits:
    """For tasks."""

    @staticmethod
    async def pause(seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(max(0.0, seconds))

    @staticmethod
    async def result(future: Future[T], seconds: float) -> T | None:
        """The result of a future that another thread or task resolves, or None after `seconds`."""
        if future.done():
            return future.result()
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def resolved(_: Future[T]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake)

        future.add_done_callback(resolved)
        timer = loop.call_later(max(0.0, seconds), wake)
        try:
            await waiter
        finally:
            timer.cancel()
        return future.result() if future.done() else None

    @staticmethod
    async def call(function: Callable[[], Awaitable[T]]) -> T:
        """Run a user's coroutine function."""
        return await function()


class SyncSpawner:
    """Background refreshes of blocking functions: a few threads, made when first needed."""

    def __init__(self, *, limit: int = 4) -> None:
        self._limit = limit
        self._executor: ThreadPoolExecutor | None = None

    def spawn(self, job: Callable[[], Any]) -> None:
        """Run a job soon, in a copy of the caller's context."""
        executor = self._executor
        if executor is None:
            executor = self._executor = ThreadPoolExecutor(self._limit, "evercache-refresh")
        executor.submit(contextvars.copy_context().run, job)

    def close(self) -> None:
        """Let those under way end; begin none any more."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def forget(self) -> None:
        """After a fork, in the child: the threads are not here."""
        self._executor = None


class AsyncSpawner:
    """Background refreshes of coroutine functions: tasks of the caller's loop, kept from the collector."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, job: Callable[[], Any]) -> None:
        """Run a job soon, in a copy of the caller's context."""
        task = asyncio.get_running_loop().create_task(job())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Tasks end with their loop."""
        for task in list(self._tasks):
            loop = task.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
        self._tasks.clear()

    def forget(self) -> None:
        """After a fork, in the child: the parent's tasks are not here."""
        self._tasks = set()
