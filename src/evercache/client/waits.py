"""The few things that differ by nature between a thread and a task: how they wait."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import select
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import Future
from functools import partial
from types import coroutine
from typing import Any, ParamSpec, TypeVar

from evercache.clock import monotonic
from evercache.engine.flights import Owner
from evercache.net.loops import running_loop
from evercache.net.types import AsyncExchange, SyncExchange
from evercache.observe.labelled import labelled
from evercache.process import THREADS, Wakeup, new_lock, start_thread, thread_runs
from evercache.protocol.landing import Landing

__all__ = ["AsyncSpawner", "AsyncWaits", "SyncSpawner", "SyncWaits", "alone", "drive", "in_thread", "yielded"]

T = TypeVar("T")

P = ParamSpec("P")
#: A waiter looks again after so many seconds: a wake-up can be lost to an exception (`Landing`).
_SLICE = 0.05

_logger = labelled("evercache")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work in a thread; where none can be started, in this one, which holds the loop meanwhile.

    `asyncio.to_thread` would raise RuntimeError then, and might still run the work later.
    """
    running_loop()
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # a caller that is cancelled leaves it
    context = contextvars.copy_context()

    def run() -> None:
        try:
            done.set_result(context.run(work, *args, **kwargs))
        except BaseException as error:
            done.set_exception(error)

    try:
        threading.Thread(target=run, name="evercache-work", daemon=True).start()
    except (RuntimeError, MemoryError):
        return work(*args, **kwargs)
    return await asyncio.wrap_future(done)


#: What a user's function returned, and what it raised.
Ran = tuple[Any, Exception | None]


@coroutine
def yielded(function: Callable[[], Any]) -> Generator[Callable[[], Any], Ran, Ran]:
    """Have a function run by whoever drives this coroutine."""
    return (yield function)


async def alone(function: Callable[[], Any]) -> Any:
    """A computation with no cache around it, for `drive`."""
    value, error = await yielded(function)
    if error is not None:
        raise error
    return value


def drive(begin: Callable[..., Coroutine[Callable[[], Any], Ran, Any]], *given: Any) -> Any:
    """Run the coroutine `begin(*given)` to its end in this thread, and each function that it yields.

    While a function runs, no frame of the coroutine is on the stack: a cached function that calls itself goes four
    frames deeper each time, not eleven. An exit (what is no `Exception`) closes the coroutine and passes through.
    """
    steps: Any = begin(*given)
    ran: Ran | None = None
    try:
        while True:
            function = steps.send(ran)
            try:
                ran = function(), None
            except Exception as error:
                ran = None, error
    except StopIteration as end:
        return end.value
    except RuntimeError as error:
        own = ran is not None and error is ran[1]
        if not own and isinstance(error.__cause__, StopIteration):  # of the function: no coroutine can raise it
            raise error.__cause__ from None
        raise
    finally:
        steps.close()


class SyncWaits:
    """For threads."""

    @staticmethod
    def pause(seconds: float) -> None:
        """Sleep."""
        THREADS.sleep(max(0.0, seconds))

    @staticmethod
    def owner() -> Owner:
        """What a call of this kind owns things by; kept by its frame only."""
        return Owner()

    @staticmethod
    def loop() -> asyncio.AbstractEventLoop | None:
        """The loop that the caller runs on: none."""
        return None

    @staticmethod
    def stops() -> asyncio.AbstractEventLoop | None:
        """The loop that stands still while the caller waits: that of its thread, if there is one."""
        return asyncio._get_running_loop()

    @staticmethod
    def result(landing: Landing[T], seconds: float) -> T | None:
        """The result that another thread or task sets, or None after `seconds`."""
        end = monotonic() + seconds
        woken = Wakeup()
        landing.add(woken.wake)
        try:
            while not landing.done and (left := end - monotonic()) > 0:
                woken.wait(min(left, _SLICE))
        finally:
            landing.discard(woken.wake)
        return landing.result if landing.done else None

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
            try:
                if poll is None:
                    poll = THREADS.poll()
                    for exchange in exchanges:
                        poll.register(exchange.fileno(), select.POLLIN)
                poll.poll(math.ceil(left * 1000))
            except (OSError, MemoryError):  # the kernel, or this process, has no memory for it
                poll = None
                THREADS.sleep(min(left, 0.002))


class AsyncWaits:
    """For tasks."""

    @staticmethod
    async def pause(seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(max(0.0, seconds))

    @staticmethod
    def owner() -> Owner:
        """What a call of this kind owns things by; kept by its frame only."""
        return Owner(running_loop())

    @staticmethod
    def loop() -> asyncio.AbstractEventLoop | None:
        """The loop that the caller runs on."""
        return asyncio.get_running_loop()

    @staticmethod
    def stops() -> asyncio.AbstractEventLoop | None:
        """The loop that stands still while the caller waits: none."""
        return None

    @staticmethod
    async def result(landing: Landing[T], seconds: float) -> T | None:
        """The result that another thread or task sets, or None after `seconds`."""
        if landing.done:
            return landing.result
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not landing.done and (left := end - loop.time()) > 0:
            waiter: asyncio.Future[None] = loop.create_future()
            waker = partial(_wake_from_anywhere, loop, waiter)
            landing.add(waker)
            timer = loop.call_later(min(left, _SLICE), _wake, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                landing.discard(waker)
        return landing.result if landing.done else None

    @staticmethod
    async def first(exchanges: Sequence[AsyncExchange], seconds: float) -> AsyncExchange | None:
        """One that is over, as soon as there is one; None when there is none after `seconds`."""
        futures = [exchange.future for exchange in exchanges]
        if seconds > 0 and not any(future.done() for future in futures):
            await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return next((exchange for exchange in exchanges if exchange.future.done()), None)


def _wake(waiter: asyncio.Future[None]) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):  # over; perhaps just now, by the handler of a signal
        waiter.set_result(None)


def _wake_from_anywhere(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop ended before what it waited for
        loop.call_soon_threadsafe(_wake, waiter)


class SyncSpawner:
    """Background refreshes of blocking functions: a few threads, begun when there is work and ended after it.

    They are daemons: a process that ends does not wait for a refresh. `_lock` guards the rest.
    """

    def __init__(self, *, limit: int = 4) -> None:
        self._limit = limit
        self._threads = set[threading.Thread]()
        self.forget()

    def __repr__(self) -> str:
        return f"<SyncSpawner threads={len(self._threads)} waiting={len(self._waiting)}>"

    def spawn(self, job: Callable[[], Any], over: Callable[[], None]) -> bool:
        """Run a job soon, in a copy of the caller's context. False if it will not run: closed, or no thread.

        `over` is called once: after the job, or because it will not run.
        """
        dropped: list[Callable[[], None]] = []
        with self._lock:
            try:
                if self._closed:
                    raise RuntimeError("the cache is closed")
                # Counted by looking: whatever ended a thread, or kept one from starting, leaves no gap.
                self._threads = {thread for thread in list(self._threads) if thread_runs(thread)}
                if len(self._threads) < self._limit:
                    thread = THREADS.new(self._work, "evercache-refresh")
                    start_thread(thread)  # under the lock, so that it cannot end before it is known
                    self._threads.add(thread)
            except (RuntimeError, MemoryError):
                if self._closed or not self._threads:
                    dropped = [over, *(other for _, _, other in self._waiting)]
                    self._waiting.clear()
            if not dropped:
                # Last, so that a job is never left to wait for a thread that did not start.
                self._waiting.append((contextvars.copy_context(), job, over))
        for release in dropped:
            release()
        return not dropped

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads.discard(THREADS.current())
                    return
                context, job, over = self._waiting.popleft()
            try:
                context.run(job)
            except Exception:
                # A defect of ours must not take the thread from the jobs behind.
                _logger.exception("a refresh in the background failed")
            except BaseException:
                # SystemExit and the like, raised by the function: the job reported it. The thread goes on.
                continue
            finally:
                over()

    def sweep(self) -> None:
        """Nothing: every job that waits has a thread."""

    def close(self) -> None:
        """Let those under way end; begin none any more."""
        with self._lock:
            self._closed = True
            self._waiting.clear()

    def forget(self) -> None:
        """After a fork, in the child: the threads are not here."""
        self._lock = new_lock()
        self._waiting: deque[tuple[contextvars.Context, Callable[[], Any], Callable[[], None]]] = deque()
        self._threads = set()
        self._closed = False


class AsyncSpawner:
    """Background refreshes of coroutine functions: tasks of the caller's loop, kept from the collector.

    No lock: single steps of a dict; each loop adds and removes its own tasks.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], Callable[[], None]] = {}

    def spawn(self, job: Callable[[], Any], over: Callable[[], None]) -> bool:
        """Run a job soon, in a copy of the caller's context. False if it will not run.

        `over` is called once: after the job, or because it will not run.
        """
        work = job()
        try:
            task = asyncio.get_running_loop().create_task(work)
            self._tasks[task] = over
            task.add_done_callback(self._ended)
        except (RuntimeError, MemoryError):
            work.close()
            over()
            return False
        return True

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._over(task)
        if not task.cancelled():
            task.exception()  # the job reported it

    def sweep(self) -> None:
        """Give up tasks whose loop was closed before they ended: nothing runs them, nor their callbacks."""
        for task in list(self._tasks):
            if task.get_loop().is_closed():
                self._over(task)
                work = task.get_coro()
                if work is not None:
                    with contextlib.suppress(Exception):
                        work.close()  # releases its lease

    def _over(self, task: asyncio.Task[Any]) -> None:
        over = self._tasks.pop(task, None)
        if over is not None:
            over()

    def close(self) -> None:
        """Tasks end with their loop."""
        for task in list(self._tasks):
            loop = task.get_loop()
            if not loop.is_closed():
                with contextlib.suppress(RuntimeError):  # it closed between the two lines
                    loop.call_soon_threadsafe(task.cancel)
        self._tasks.clear()

    def forget(self) -> None:
        """After a fork, in the child: the parent's tasks are not here."""
        self._tasks = {}
