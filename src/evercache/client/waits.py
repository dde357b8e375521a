"""The few things that differ by nature between a thread and a task: how they wait."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import select
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from evercache.clock import monotonic
from evercache.wire.types import AsyncExchange, SyncExchange

__all__ = ["AsyncWaits", "SyncWaits"]

T = TypeVar("T")

_logger = logging.getLogger("evercache")


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
    def first(exchanges: Sequence[SyncExchange], seconds: float) -> SyncExchange | None:
        """One that is over, as soon as there is one; None when there is none after `seconds`."""
        end = monotonic() + seconds
        poll = None
        while True:
            for exchange in exchanges:
                if exchange.settle():
                    return exchange
            left = end - monotonic()
            if left <= 0:
                return None
            if poll is None:
                poll = select.poll()
                for exchange in exchanges:
                    poll.register(exchange.fileno(), select.POLLIN)
            poll.poll(math.ceil(left * 1000))

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
            with contextlib.suppress(RuntimeError):  # the loop ended before what it waited for
                loop.call_soon_threadsafe(wake)

        future.add_done_callback(resolved)
        timer = loop.call_later(max(0.0, seconds), wake)
        try:
            await waiter
        finally:
            timer.cancel()
        return future.result() if future.done() else None

    @staticmethod
    async def first(exchanges: Sequence[AsyncExchange], seconds: float) -> AsyncExchange | None:
        """One that is over, as soon as there is one; None when there is none after `seconds`."""
        futures = [exchange.future for exchange in exchanges]
        if seconds > 0 and not any(future.done() for future in futures):
            await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return next((exchange for exchange in exchanges if exchange.future.done()), None)

    @staticmethod
    async def call(function: Callable[[], Awaitable[T]]) -> T:
        """Run a user's coroutine function."""
        return await function()


class SyncSpawner:
    """Background refreshes of blocking functions: a few threads, begun when there is work and ended after it.

    They are daemons: a process that ends does not wait for a refresh. `_lock` guards the rest.
    """

    def __init__(self, *, limit: int = 4) -> None:
        self._limit = limit
        self.forget()

    def __repr__(self) -> str:
        return f"<SyncSpawner threads={self._threads} waiting={len(self._waiting)}>"

    def spawn(self, job: Callable[[], Any]) -> None:
        """Run a job soon, in a copy of the caller's context. RuntimeError once closed, or without threads."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the cache is closed")
            self._waiting.append((contextvars.copy_context(), job))
            if self._threads >= self._limit:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._work, name="evercache-refresh", daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._threads -= 1
                if not self._threads:
                    self._waiting.clear()
            raise

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                context, job = self._waiting.popleft()
            try:
                context.run(job)
            except Exception:
                # A defect of ours must not take the thread from the jobs behind.
                _logger.exception("a refresh in the background failed")

    def close(self) -> None:
        """Let those under way end; begin none any more."""
        with self._lock:
            self._closed = True
            self._waiting.clear()

    def forget(self) -> None:
        """After a fork, in the child: the threads are not here."""
        self._lock = threading.Lock()
        self._waiting: deque[tuple[contextvars.Context, Callable[[], Any]]] = deque()
        self._threads = 0
        self._closed = False


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
