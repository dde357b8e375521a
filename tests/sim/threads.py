"""Threads of simulated processes: greenlets that run one at a time, on the simulated clock.

A thread runs until it waits. Each lock that it takes, each look at the clock and each wait is a point at which
others may run first: the seed decides. Whatever goes on is a step of the loop, as the steps of tasks are, so that
faults stop, kill and hold back threads as they do tasks.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from math import inf, log
from types import FrameType
from typing import TYPE_CHECKING, Any
from unittest import mock

from greenlet import GreenletExit, getcurrent, greenlet

from evercache.client import waits
from evercache.net import blocking, connection
from evercache.process import LOGGING, THREADS
from tests.sim.loop import SimHandle, Tag, tag_of_task

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["LoopThread", "SimLock", "SimThread", "Threads", "outside"]

#: What is replaced of `evercache.process.THREADS`.
_REPLACED = ("lock", "gate", "sleep", "poll", "ident", "current", "main", "new")
#: What shares nothing with other threads, and takes many lines.
_ALONE = (
    "evercache.codecs.", "evercache.net.resp", "evercache.net.frames",
    # They remember what earlier schedules asked: how many lines they run is no matter of the seed.
    "evercache.protocol.scope", "evercache.protocol.canonical",
)  # fmt: skip
#: A look at the clock is a point in one of so many cases, beside locks and waits.
_CLOCK_POINTS = 0.15


class SimThread(greenlet):
    """One thread. `context` is that of its steps: it has the tag of the process, or of its application."""

    def __init__(
        self, threads: Threads, context: contextvars.Context, work: Callable[[], object], name: str
    ) -> None:
        super().__init__(parent=threads.hub)
        self.gr_context = context.copy()
        self.threads, self.context, self.work, self.name = threads, context, work, name
        tag = context[tag_of_task]
        assert tag is not None
        self.tag = tag
        self.ident = threads.number()
        self.started = False
        self._turn = 0
        self._woken = False
        #: Locks that it holds, the one that it waits for, and whether it waits with no end.
        self.held = 0
        self.wants: SimLock | None = None
        self.forever = False
        #: Called if it ends before it begins.
        self.never: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<SimThread {self.name} of {self.tag.name}>"

    # -- as `threading.Thread`

    def start(self) -> None:
        self.started = True
        self.threads.alive[self] = None
        self.threads.loop.call_soon(self._go, self._turn, context=self.context)

    def is_alive(self) -> bool:
        return self.started and not self.dead

    # -- running

    def run(self) -> None:
        threads = self.threads
        asyncio._set_running_loop(None)
        threads.look_at_lines()
        try:
            self.work()
        except GreenletExit:
            pass
        except Exception as error:
            threads.loop.errors.append({"message": f"in {self!r}", "exception": error})
        finally:
            threads.alive.pop(self, None)
            asyncio._set_running_loop(threads.loop)

    def _go(self, turn: int) -> None:
        if turn == self._turn and not self.threads.over:
            self.switch()

    def park(self, until: float | None) -> bool:
        """Let others run until `wake`, or until a moment; whether it was woken."""
        threads, loop = self.threads, self.threads.loop
        if threads.over:
            raise GreenletExit
        self._turn += 1
        self._woken, self.forever = False, until is None
        timer = None
        if until is not None:
            timer = loop.call_at(until, self._go, self._turn, context=self.context)
        running = asyncio._get_running_loop()
        asyncio._set_running_loop(loop)
        try:
            self._away()
        finally:
            asyncio._set_running_loop(running)
            self._turn += 1
            self.forever = False
            if timer is not None:
                timer.cancel()
        return self._woken

    def _away(self) -> None:
        self.threads.hub.switch()

    def wake(self) -> None:
        """It goes on, in a step of its own."""
        if not self._woken:
            self._woken = True
            self.threads.loop.call_soon(self._go, self._turn, context=self.context)

    def wait(self, until: float | None) -> bool:
        """As `park`, for something outside of the process: nobody may wait for that with a lock.

        No point: between a look for what it waits for and this, nothing may happen.
        """
        if self.held:
            self.threads.bad("lock", f"{self!r} waits with {self.held} locks")
        return self.park(until)

    # -- where others may run

    def point(self) -> None:
        """Others may run here; the plan may hold it back here."""
        threads = self.threads
        if threads.preempt is not None and (seconds := threads.preempt(self, _place())):
            self.park(threads.loop.now + seconds)
        if threads.points.hit():
            self.give_way()

    def give_way(self) -> None:
        """Others run."""
        rng, loop = self.threads.rng, self.threads.loop
        self.threads.world.oracle.counts["preempted"] += 1
        draw = rng.random()
        most = 0.0 if draw < 0.5 else 0.001 if draw < 0.95 else 0.005
        self.park(loop.now + most * rng.random())

    def finish(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine of the simulator to its end; what it awaits is waited for."""
        loop = self.threads.loop
        running = asyncio._get_running_loop()
        asyncio._set_running_loop(loop)
        try:
            while True:
                try:
                    future = coroutine.send(None)
                except StopIteration as end:
                    return end.value
                if future is None:
                    self.park(loop.now)
                    continue
                future._asyncio_future_blocking = False
                while not future.done():
                    future.add_done_callback(self._future_done, context=self.context)
                    self.park(None)
        finally:
            coroutine.close()
            asyncio._set_running_loop(running)

    def _future_done(self, _: object) -> None:
        self.wake()

    def stack(self) -> str:
        """Where it is, for people."""
        frame = sys._getframe(1) if getcurrent() is self else self.gr_frame
        lines = traceback.format_stack(frame)[-14:] if frame is not None else ["  not running\n"]
        wants = "" if self.wants is None else f" wants {self.wants!r}"
        return f"{self!r}{wants}\n{''.join(lines)}"


class LoopThread(SimThread):
    """The thread of an event loop, that of the background or of the application, in a process that has others too.

    It runs the steps of the tasks with its tag, one after the other.
    """

    def __init__(self, threads: Threads, tag: Tag) -> None:
        context = contextvars.copy_context()
        # Not the tag of the tasks: what has that comes to `take`.
        context.run(tag_of_task.set, Tag(tag.name, tag))
        super().__init__(threads, context, lambda: None, "event loop")
        self._handle: SimHandle | None = None
        self._behind: deque[SimHandle] = deque()
        self.start()

    def take(self, handle: SimHandle) -> None:
        """Run one step, or put it behind the one that waits for a lock."""
        if self.threads.over:
            handle.context.run(handle.callback, *handle.args)
        elif self._handle is not None or not self:
            self._behind.append(handle)
        else:
            self._handle = handle
            self.switch()

    def run(self) -> None:
        loop = self.threads.loop
        self.threads.look_at_lines()
        try:
            while not self.threads.over:
                handle = self._handle
                if handle is not None:
                    try:
                        handle.context.run(handle.callback, *handle.args)
                    except Exception as error:
                        loop.errors.append({"message": f"in {handle.callback!r}", "exception": error})
                    self._handle = None
                loop._ready.extendleft(reversed(self._behind))
                self._behind.clear()
                self._turn += 1
                self.threads.hub.switch()
        except GreenletExit:
            pass
        finally:
            self.threads.alive.pop(self, None)

    def _away(self) -> None:
        loop = self.threads.loop
        task = asyncio.current_task(loop)
        if task is None:
            self.threads.hub.switch()
            return
        asyncio.tasks._leave_task(loop, task)
        try:
            self.threads.hub.switch()
        finally:
            asyncio.tasks._enter_task(loop, task)


class SimLock:
    """A re-entrant lock of a simulated process. The world itself passes through: it only looks."""

    __slots__ = ("__weakref__", "_depth", "_waiting", "owner", "threads")

    def __init__(self, threads: Threads) -> None:
        self.threads = threads
        self.owner: SimThread | None = None
        self._depth = 0
        self._waiting: deque[SimThread] = deque()

    def __repr__(self) -> str:
        return f"<SimLock {id(self) % 10_000} of {self.owner!r}>"

    def __enter__(self) -> bool:
        me = getcurrent()
        if self.owner is me:
            self._depth += 1
        elif isinstance(me, SimThread):
            me.point()
            while self.owner is not None:
                self._wait(me)
            self.owner, self._depth = me, 1
            me.held += 1
        return True

    def __exit__(self, *_: object) -> None:
        if self.owner is getcurrent():
            self._depth -= 1
            if not self._depth:
                me, self.owner = self.owner, None
                me.held -= 1
                if self._waiting:
                    self._waiting.popleft().wake()

    def _wait(self, me: SimThread) -> None:
        me.wants = self
        lock: SimLock | None = self
        while lock is not None and (other := lock.owner) is not None:
            if other is me or other.dead:
                self.threads.bad("deadlock", f"{me!r} can never have {self!r}\n{self.threads.stacks()}")
                break
            lock = other.wants
        self._waiting.append(me)
        try:
            me.park(None)
        finally:
            me.wants = None

    def acquire(self) -> bool:
        return self.__enter__()

    def release(self) -> None:
        self.__exit__()

    def _is_owned(self) -> bool:
        return self.owner is getcurrent()

    def _at_fork_reinit(self) -> None:
        self.owner, self._depth = None, 0
        self._waiting.clear()


class _Gate:
    """A lock that any thread may release: what `Wakeup` waits by."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._locked = False
        self._waiting: deque[SimThread] = deque()

    def locked(self) -> bool:
        return self._locked

    def acquire(self, timeout: float | None = None) -> bool:
        if self._locked:
            me = getcurrent()
            assert isinstance(me, SimThread), "the world waits for nobody"
            until = None if timeout is None else self._threads.loop.now + timeout
            me.point()
            while self._locked:
                self._waiting.append(me)
                woken = me.wait(until)
                if me in self._waiting:
                    self._waiting.remove(me)
                if not woken:
                    break
            if self._locked:
                return False
        self._locked = True
        return True

    def release(self) -> None:
        if not self._locked:
            raise RuntimeError("release unlocked lock")
        self._locked = False
        if self._waiting:
            self._waiting.popleft().wake()


class _Poll:
    """`select.poll` for simulated sockets."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._sockets: list[Any] = []

    def register(self, it: Any, events: int = 0) -> None:
        self._sockets.append(self._threads.sockets[it] if isinstance(it, int) else it)

    def poll(self, milliseconds: float | None = None) -> list[Any]:
        loop = self._threads.loop
        until = None if milliseconds is None else loop.now + milliseconds / 1e3
        if milliseconds != 0 and isinstance(me := getcurrent(), SimThread):
            me.point()
        while not (found := [(it.fileno(), 1) for it in self._sockets if it.readable()]):
            if until is not None and loop.now >= until:
                break
            me = getcurrent()
            assert isinstance(me, SimThread)
            for it in self._sockets:
                it.waiters.append(me)
            try:
                me.wait(until)
            finally:
                for it in self._sockets:
                    it.waiters.remove(me)
        return found


class _ThreadFuture(asyncio.Future[Any]):
    """The end of a thread, for whoever began it. A thread is not cancelled."""

    def cancel(self, msg: object = None) -> bool:
        return False


class _Draws:
    """Draws that hit with one chance; a number is drawn for each hit only."""

    __slots__ = ("_rng", "chance", "left")

    def __init__(self, rng: random.Random, chance: float) -> None:
        self._rng, self.chance = rng, chance
        self.left = self._gap()

    def _gap(self) -> float:
        if not 0.0 < self.chance < 1.0:
            return 1.0 if self.chance else inf
        return 1.0 + log(1.0 - self._rng.random()) // log(1.0 - self.chance)

    def hit(self) -> bool:
        self.left -= 1.0
        if self.left > 0.0:
            return False
        self.left = self._gap()
        return True


class Threads:
    """All threads of one schedule, and what the library makes instead of those of the system."""

    def __init__(self, world: World, chance: float, lines: float) -> None:
        self.world, self.loop = world, world.loop
        self.hub = getcurrent()
        self.rng = random.Random(f"threads {world.plan.seed}")
        #: Whether others run first at a point, at a look at the clock, and before a line of the library.
        self.points = _Draws(self.rng, chance)
        self._looks = _Draws(self.rng, chance * _CLOCK_POINTS)
        self._lines = _Draws(self.rng, lines)
        #: Asked at each point for how long (seconds) a thread is held back there; None: nowhere.
        self.preempt: Callable[[SimThread, str], float] | None = None
        self.over = False
        self.alive: dict[SimThread, None] = {}
        self.sockets: dict[int, Any] = {}
        self._numbers = 0
        self._locks: list[SimLock] = []
        self._replaced = ExitStack()
        self.loop.make_thread = self._of_harness
        self.loop.ending.append(self.end)

    def __repr__(self) -> str:
        return f"<Threads {len(self.alive)} alive>"

    def begin(self) -> None:
        """From now on the library makes simulated threads and locks."""
        replace = self._replaced.enter_context
        for name in _REPLACED:
            replace(mock.patch.object(THREADS, name, getattr(self, name)))
        for module in (waits, blocking, connection):
            replace(mock.patch.object(module, "monotonic", self.clock))
        LOGGING.entered()  # what it does the first time takes more lines
        # No frame is dropped without a word here, and the collector takes its time.
        replace(mock.patch.object(blocking, "collect_dropped"))

    def end(self) -> None:
        """End every thread where it is."""
        self.over = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a coroutine that it was about to begin
            for thread in list(self.alive):
                if thread:
                    thread.throw(GreenletExit)
                elif thread.never is not None:
                    thread.never()
        self.alive.clear()
        if self._lines.chance:
            sys.settrace(None)
        for tag in self.loop.tags:
            tag.thread = None
        asyncio._set_running_loop(None)
        self._replaced.close()

    def bad(self, promise: str, text: str) -> None:
        self.world.oracle.bad(promise, text)

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def stacks(self) -> str:
        """Where all threads are."""
        return "\n".join(thread.stack() for thread in self.alive)

    def check(self) -> None:
        """At the end: nobody waits for something that cannot come."""
        for thread in self.alive:
            if thread.tag.alive and thread.wants is None and thread.forever and not _in_harness(thread):
                self.bad("liveness", f"a thread waits without an end\n{thread.stack()}")

    def forked(self) -> None:
        """Locks that nobody lives to release are free in the child."""
        for lock in self._locks:
            if lock.owner is not None and not lock.owner.tag.alive:
                lock._at_fork_reinit()

    def spawn(self, work: Coroutine[Any, Any, Any], context: contextvars.Context) -> asyncio.Future[Any]:
        """A thread that runs a coroutine of the simulator."""
        future = _ThreadFuture(loop=self.loop)

        def run() -> None:
            me = getcurrent()
            assert isinstance(me, SimThread)
            try:
                future.set_result(me.finish(work))
            except (Exception, asyncio.CancelledError) as error:
                future.set_exception(error)

        thread = SimThread(self, context, run, getattr(work, "__qualname__", ""))
        thread.never = work.close
        self.loop._tasks.append(future)  # type: ignore[arg-type]
        thread.start()
        return future

    def _of_harness(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any] | None:
        """What the simulator's own code in a thread begins is a thread; None for all others."""
        me = getcurrent()
        if type(me) is not SimThread or asyncio._get_running_loop() is None:
            return None
        return self.spawn(work, contextvars.copy_context())

    # -- lines

    def look_at_lines(self) -> None:
        """Make each line that this thread runs of the library a point."""
        if self._lines.chance:
            sys.settrace(self._called)

    def _called(self, frame: Any, event: str, argument: object) -> Any:
        name = frame.f_globals.get("__name__", "")
        return self._line if name.startswith("evercache.") and not name.startswith(_ALONE) else None

    def _line(self, frame: Any, event: str, argument: object) -> Any:
        if event == "line":
            lines = self._lines
            if lines.left > 1.0:  # as `hit` does it, without a call for each line
                lines.left -= 1.0
            elif lines.hit() and not self.over:
                me = getcurrent()
                if isinstance(me, SimThread):
                    me.give_way()
        return self._line

    # -- in the place of the system's (`evercache.process.Threads`)

    def lock(self) -> SimLock:
        made = SimLock(self)
        self._locks.append(made)
        return made

    def gate(self) -> _Gate:
        return _Gate(self)

    def sleep(self, seconds: float) -> None:
        me = getcurrent()
        assert isinstance(me, SimThread)
        me.point()
        me.wait(self.loop.now + seconds)

    def poll(self) -> _Poll:
        return _Poll(self)

    def ident(self) -> int:
        return getattr(getcurrent(), "ident", 0)

    def current(self) -> Any:
        return getcurrent()

    def main(self) -> Any:
        return None

    def new(self, work: Callable[[], object], name: str) -> SimThread:
        me = getcurrent()
        assert isinstance(me, SimThread)
        return SimThread(self, me.context, work, name)

    def clock(self) -> float:
        """Of the process whose thread runs, in the place of `evercache.clock.monotonic`."""
        me = getcurrent()
        if isinstance(me, SimThread):
            self.tick()
            return self.loop.now - me.tag.behind()
        return self.loop.now

    def tick(self) -> None:
        """Somebody looks at the clock."""
        looks = self._looks
        if looks.left > 1.0:
            looks.left -= 1.0
        elif looks.hit():
            me = getcurrent()
            if isinstance(me, SimThread):
                me.give_way()


def outside(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call the library in a thread, where no event loop runs."""
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return call(*args, **kwargs)
    finally:
        asyncio._set_running_loop(running)


def _place() -> str:
    """The innermost line of the library that runs."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("evercache.") and name != "evercache.process":
            return f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _in_harness(thread: SimThread) -> bool:
    """Whether it waits for a future of the simulator."""
    frame = thread.gr_frame
    while frame is not None:
        if frame.f_code is SimThread.finish.__code__:
            return True
        if frame.f_globals.get("__name__", "").startswith("evercache."):
            return False
        frame = frame.f_back
    return True
