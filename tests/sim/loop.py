"""An event loop without a clock, a thread or a socket: time jumps to the next thing that is due."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["SimLoop", "Tag", "tag_of_task"]


class Tag:
    """Which simulated process a callback belongs to; dead ones run no more, stopped ones run later.

    The application's event loop has a tag of its own, a part of the `whole`: it can stand still while the
    background goes on.
    """

    __slots__ = ("alive", "asleep", "asleep_until", "name", "parts", "stopped_until", "thread", "whole")

    def __init__(self, name: str, whole: Tag | None = None) -> None:
        self.name = name
        self.alive = True
        self.stopped_until = 0.0
        #: Of the machine: until when it is suspended, and for how long (seconds) it has been in all.
        self.asleep_until = self.asleep = 0.0
        self.whole = self if whole is None else whole
        #: The thread that runs the steps with this tag, in a process that has others (`tests.sim.threads`).
        self.thread: Any = None
        self.parts: list[Tag] = []
        self.whole.parts.append(self)

    def __repr__(self) -> str:
        return f"<Tag {self.name} {'alive' if self.alive else 'dead'}>"

    def stop(self, until: float) -> None:
        """The whole process stands still."""
        for part in self.whole.parts:
            part.block(until)

    def block(self, until: float) -> None:
        """Only what has this very tag stands still."""
        self.stopped_until = max(self.stopped_until, until)

    def suspend(self, now: float, seconds: float) -> None:
        """The whole process stands still, with its machine: `CLOCK_MONOTONIC` does, too."""
        until = max(self.whole.asleep_until, now + seconds)
        self.whole.asleep += until - max(now, self.whole.asleep_until)
        self.whole.asleep_until = until
        self.stop(until)

    def behind(self) -> float:
        """Seconds by which the clock of the process is behind: none, as `CLOCK_BOOTTIME` goes on."""
        return 0.0

    def reads_again(self) -> float:
        """Until when it reads nothing: what comes waits in its sockets. Then it reads that first, and looks at the
        time after it. (A process that was stopped looks at the time only, which is worse.)"""
        blocked = self is not self.whole and self.stopped_until > self.whole.stopped_until
        return self.stopped_until if blocked else self.whole.asleep_until

    def end(self) -> None:
        """The process is dead."""
        for part in self.whole.parts:
            part.alive = False


#: Inherited by every task and callback, as all context is.
tag_of_task: contextvars.ContextVar[Tag | None] = contextvars.ContextVar("sim_tag", default=None)


class SimHandle:
    """A callback and when it is due: `asyncio.TimerHandle`, but lighter."""

    __slots__ = ("args", "callback", "context", "moment", "off")

    def __init__(
        self, moment: float, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context
    ) -> None:
        self.moment, self.callback, self.args, self.context = moment, callback, args, context
        self.off = False

    def cancel(self) -> None:
        self.off = True

    def cancelled(self) -> bool:
        return self.off

    def when(self) -> float:
        return self.moment


class _Future(asyncio.Future[Any]):
    """A future that knows whose event loop it belongs to, where threads may set its result from outside."""

    def __init__(self, loop: SimLoop) -> None:
        super().__init__(loop=loop)
        self.tag = tag_of_task.get()


class SimLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in the order of their virtual time, and of their scheduling within one moment."""

    def __init__(self) -> None:
        #: A plain attribute: it is looked at several times a step.
        self.now = 0.0
        self._ready: deque[SimHandle] = deque()
        self._timers: list[tuple[float, int, SimHandle]] = []
        #: Of dead processes: run at the very end, when their tasks are cancelled.
        self._dropped: list[SimHandle] = []
        self._count = 0
        self._closed = False
        self._tasks: list[asyncio.Task[Any]] = []  # those that run, as asyncio holds them, and those that raised
        self.steps = 0
        #: Of every process that there was.
        self.tags: list[Tag] = []
        #: What reached the loop's exception handler: always a defect.
        self.errors: list[dict[str, Any]] = []
        self.neutral = contextvars.copy_context()
        #: Asked before each step of a process: for how long (seconds) it is held back; None: never.
        self.preempt: Callable[[SimHandle, Tag], float] | None = None
        #: Asked for a thread that runs a new task, where there are threads; and what ends those.
        self.make_thread: Callable[[Coroutine[Any, Any, Any]], Any] | None = None
        self.ending: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<SimLoop t={self.now:.6f} ready={len(self._ready)} timers={len(self._timers)}>"

    # -- running

    def run_until(self, end: float) -> None:
        """Run everything that is due before `end`; the clock stands there afterwards."""
        asyncio._set_running_loop(self)
        ready, timers, pop, next_ready = self._ready, self._timers, heapq.heappop, self._ready.popleft
        held = self.preempt is not None
        try:
            while True:
                if ready:
                    handle = next_ready()
                    if handle.off:
                        continue
                else:
                    if not timers or timers[0][0] > end:
                        break
                    when, _, handle = pop(timers)
                    if handle.off:
                        continue
                    if when > self.now:
                        self.now = when
                context = handle.context
                tag = context.get(tag_of_task)
                if (
                    tag is not None
                    and (held or not tag.alive or tag.stopped_until > self.now)  # else it need not be asked
                    and not self._may_run(handle, tag)
                ):
                    continue
                self.steps += 1
                if tag is not None and tag.thread is not None:
                    tag.thread.take(handle)
                    continue
                try:
                    context.run(handle.callback, *handle.args)
                except Exception as error:
                    self.errors.append({"message": f"in {handle.callback!r}", "exception": error})
            self.now = max(self.now, end)
        finally:
            asyncio._set_running_loop(None)

    def _may_run(self, handle: SimHandle, tag: Tag) -> bool:
        """Whether its process takes this step now; otherwise it is put where it belongs."""
        if not tag.alive:
            self._dropped.append(handle)
            return False
        if tag.stopped_until > self.now:
            self._push(tag.stopped_until, handle)
            return False
        if self.preempt is not None and (seconds := self.preempt(handle, tag)):
            self._push(self.now + seconds, handle)
            return False
        return True

    def next_due(self) -> float:
        """When the next step is due."""
        return self.now if self._ready or not self._timers else self._timers[0][0]

    def forget_done(self) -> None:
        """Let go of tasks that have ended well: memory that is used again is faster."""
        self._tasks = [t for t in self._tasks if not t.done() or not (t.cancelled() or t.exception() is None)]

    def wind_up(self) -> None:
        """End every task, those of dead processes too, and close: nothing is left to the collector."""
        self.preempt = None
        for end in self.ending:
            end()
        for tag in self.tags:
            tag.alive, tag.stopped_until = True, 0.0
        # Steps that were put off, because their process stood still or they were held back.
        self._ready.extend(handle for when, _, handle in self._timers if when > handle.moment)
        self._timers = [item for item in self._timers if item[0] <= item[2].moment]
        heapq.heapify(self._timers)
        for _ in range(50):
            left = [task for task in self._tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            self._ready.extend(self._dropped)
            self._dropped.clear()
            self.run_until(self.now + 0.001)
        self.close()

    # -- the interface that asyncio uses

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> SimHandle:
        handle = SimHandle(self.now, callback, args, contextvars.copy_context() if context is None else context)
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> SimHandle:
        """Run it in the thread of the event loop that a future among `args` is of: here one loop is for all."""
        tag = next((it.tag for it in args if isinstance(it, _Future)), None)
        if tag is not None:
            context = contextvars.copy_context() if context is None else context
            context.run(tag_of_task.set, tag)
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> SimHandle:
        when = self.now + delay
        handle = SimHandle(when, callback, args, contextvars.copy_context() if context is None else context)
        self._push(when, handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> SimHandle:
        handle = SimHandle(when, callback, args, contextvars.copy_context() if context is None else context)
        self._push(when, handle)
        return handle

    def _push(self, when: float, handle: SimHandle) -> None:
        if self._closed:
            return
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self) if self.make_thread is None else _Future(self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        if self.make_thread is not None and context is None and (thread := self.make_thread(coro)) is not None:
            return thread  # type: ignore[no-any-return]
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a killed process leaves them so
        self._tasks.append(task)
        return task

    def get_task_factory(self) -> None:
        return None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)
