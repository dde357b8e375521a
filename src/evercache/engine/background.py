"""The thread that serves the caches of one deployment in the background: an event loop with its jobs.

It survives whatever the process lacks for a while: descriptors, threads, memory. A loop that cannot be made, or
that ends by an exception, is made anew by its thread. A thread that cannot be started is started by a later caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from evercache.clock import monotonic
from evercache.observe.labelled import labelled
from evercache.process import new_lock, start_thread, thread_runs

__all__ = ["Background", "Job", "cancel", "keep"]

Job = Callable[[], Coroutine[Any, Any, None]]
#: Called with a job or callback that raised, and its error.
Failed = Callable[[Callable[..., Any], BaseException], None]

#: The pause before another attempt (seconds): the first one, and the longest after several failures in a row.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.25
#: A loop or a job that ran for so long (seconds) has not failed in a row.
_STEADY: Final = 5.0
#: Callbacks that wait for a loop, at most; the oldest are dropped.
_MOST_POSTED: Final = 1000


def _log(what: Callable[..., Any], error: BaseException) -> None:
    labelled("evercache").error("a background job of the cache failed and is begun again: %r", what, exc_info=error)


class Background:
    """Runs jobs until stopped. A job that fails is reported and begun again, and so are the loop and the thread.

    `jobs` returns the jobs of one loop. It is called on each loop before anything else runs there, so it can make
    the objects that belong to a loop. `ensure`, `post` and `stop` may be called from any thread; only `stop` waits.
    `_lock` guards the start of the thread.
    """

    def __init__(self, name: str, jobs: Callable[[], Sequence[Job]]) -> None:
        self._name = name
        self._jobs = jobs
        self.failed: Failed = _log
        #: Called when no loop can run, with the reason; again after each attempt that fails.
        self.lost: Callable[[BaseException], None] = lambda error: None
        #: Called on each loop that runs.
        self.runs: Callable[[], None] = lambda: None
        #: Its end is waited for before the first loop: what belongs to a loop must not be on two of them.
        self.former: Background | None = None
        self._lock = new_lock()
        #: The one that runs loops; any other ends.
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._posted: deque[Callable[[], None]] = deque(maxlen=_MOST_POSTED)
        self._pause = _FIRST_PAUSE
        self._next_start = 0.0
        self._stopped = False
        #: Set by `stop`: ends a pause.
        self._end = threading.Event()

    def __repr__(self) -> str:
        return f"<Background {self._name} {'running' if self.running else 'not running'}>"

    @property
    def running(self) -> bool:
        """Whether a loop runs the jobs."""
        return self._loop is not None

    @property
    def here(self) -> bool:
        """Whether the caller runs on this thread."""
        thread = self._thread
        return thread is not None and thread.ident == threading.get_ident()

    def ensure(self) -> None:
        """Start the thread if there is none. Cheap when there is one, and waits for no loop.

        After a failure the next attempt is made by a call that comes at least one pause later.
        """
        if self._stopped or (self._thread is not None and thread_runs(self._thread)):
            return
        failure: Exception | None = None
        with self._lock:
            before, now = self._thread, monotonic()
            if self._stopped or now < self._next_start or (before is not None and thread_runs(before)):
                return
            # First, for a signal handler that comes here while the thread is being started.
            self._next_start = now + _FIRST_PAUSE
            try:
                thread = threading.Thread(target=self._main, name=self._name, daemon=True)
                if self._thread is not before:
                    return  # such a handler was quicker
                self._thread = thread
                start_thread(thread)
            except (RuntimeError, MemoryError) as error:  # no more threads, or the interpreter ends
                self._next_start = now + self._next_pause()
                failure = error
        if failure is not None:
            _report(self.lost, failure)

    def post(self, callback: Callable[[], None]) -> None:
        """Run a callback on the loop: now, or once there is one."""
        if self._stopped:
            return
        # First the queue, then the loop: `_run` looks at them in the other order, so none is missed.
        self._posted.append(callback)
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it closed between the two lines
                loop.call_soon_threadsafe(self._run_posted)

    def stop(self, timeout: float) -> None:
        """End every job and the thread; waits `timeout` seconds for it at most."""
        with self._lock:
            self._stopped = True
        self._end.set()
        loop, stopping, thread = self._loop, self._stopping, self._thread
        if loop is not None and stopping is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stopping.set)
        if thread is not None and thread_runs(thread) and not self.here:
            thread.join(timeout)

    # -- the thread

    def _main(self) -> None:
        former, self.former = self.former, None
        if former is not None:
            former.stop(_STEADY)
        # Whatever ends the thread: the next caller starts another one.
        while self._thread is threading.current_thread():
            began = monotonic()
            error = self._serve()
            if self._stopped:
                return
            if monotonic() - began >= _STEADY:
                self._pause = _FIRST_PAUSE
            _report(self.lost, error)
            self._end.wait(self._next_pause())

    def _serve(self) -> BaseException:
        """Run one loop to its end; returns what ended it."""
        try:
            _check_descriptors()
            # Entered here, so that the coroutine is not made in vain where there can be no loop.
            with asyncio.Runner() as runner:
                stopping = asyncio.Event()
                try:
                    ended = runner.run(self._run(stopping))
                finally:
                    # The jobs are cancelled from now on, and must not be begun again.
                    stopping.set()
                    self._loop = self._stopping = None
            return ended or RuntimeError("its event loop was stopped")
        except BaseException as error:
            # Also SystemExit and KeyboardInterrupt: raised by a job, they leave the loop.
            return error

    async def _run(self, stopping: asyncio.Event) -> BaseException | None:
        """Run the jobs until `stopping` is set. Returns the error of a job that could not be begun again."""
        broken: list[BaseException] = []

        def over(task: asyncio.Task[None]) -> None:
            if not stopping.is_set() and (task.cancelled() or task.exception() is not None):
                broken.append(asyncio.CancelledError() if task.cancelled() else task.exception() or RuntimeError())
                stopping.set()

        loop = asyncio.get_running_loop()
        tasks = []
        for job in self._jobs():
            task = loop.create_task(keep(job, stopping, self.failed))
            task.add_done_callback(over)
            tasks.append(task)
        self._stopping = stopping
        self._loop = loop
        if self._stopped:  # by a call that found no loop
            stopping.set()
        _report(self.runs)
        self._run_posted()
        await stopping.wait()
        await cancel(tasks)
        return broken[0] if broken else None

    def _run_posted(self) -> None:
        while self._posted:
            callback = self._posted.popleft()
            try:
                callback()
            except Exception as error:
                _report(self.failed, callback, error)

    def _next_pause(self) -> float:
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return pause


async def keep(job: Job, stopping: asyncio.Event, failed: Failed) -> None:
    """Run a job; one that raises is reported and begun again, unless `stopping` is set."""
    pause = _FIRST_PAUSE
    while True:
        began = monotonic()
        try:
            await job()
            return
        except GeneratorExit:
            raise
        except BaseException as error:
            # A defect, missing memory, SystemExit: none of them may end the background.
            if stopping.is_set():
                raise
            _report(failed, job, error)
        pause = _FIRST_PAUSE if monotonic() - began >= _STEADY else min(2 * pause, 10 * _FIRST_PAUSE)
        await asyncio.sleep(pause)


async def cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end."""
    # Again and again: `wait_for` of Python 3.11 swallows a cancellation that meets its result.
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.05)
    await asyncio.gather(*tasks, return_exceptions=True)


def _report(report: Callable[..., None], *what: Any) -> None:
    """Call one of the callbacks; they may fail for want of memory, too."""
    with contextlib.suppress(Exception):
        report(*what)


def _check_descriptors() -> None:
    """Raise `OSError` unless a loop has the descriptors that it needs: one that lacks some of them leaves the
    others open, and a traceback on the error output, until the garbage collector finds it."""
    pipes: list[int] = []
    try:
        for _ in range(2):
            pipes += os.pipe()
    finally:
        for descriptor in pipes:
            os.close(descriptor)
