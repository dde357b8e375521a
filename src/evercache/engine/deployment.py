"""The servers of one URL as this process sees them: sockets, topology, monitor, and the background thread."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import random
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from evercache.clock import monotonic
from evercache.engine.background import Background, Job, cancel, keep
from evercache.engine.endpoints import Endpoints
from evercache.engine.idleness import LAG_POLL, SELDOM
from evercache.net.types import AsyncEndpoint, AsyncWire, SyncEndpoint, SyncWire
from evercache.observe import EventHub, events
from evercache.process import (
    background_trouble,
    close_at_exit,
    gevent_patched,
    living,
    new_lock,
    notice_fork,
    reset_after_fork,
)
from evercache.protocol.canonical import shown
from evercache.protocol.topology import View
from evercache.protocol.types import Address
from evercache.topology import Monitor, ReplicaSet, Topology
from evercache.topology.base import SharedEndpoints
from evercache.topology.facts import NodeFacts
from evercache.url import Location

if TYPE_CHECKING:
    from evercache.engine.engine import Engine

__all__ = ["Deployment"]

#: Seconds between two looks for engines that nobody needs any more.
_TICK = 0.5
#: For so long, as a share of `lag_bound`, what a replica in use has answered is enough.
_SPARED = 0.04


class Follower(Protocol):
    """Notified of each new view, on the background's loop; returns at once and raises nothing."""

    def changed(self) -> None: ...


class Deployment:
    """Shared by the engines of all namespaces on these servers; a process may have several deployments.

    The thread runs, and sockets are open, while at least one engine is started. `lock` guards which engines there
    are, and their start and end; it is never held during I/O with a server.
    """

    def __init__(
        self,
        location: Location,
        topology: Topology,
        sync_wire: SyncWire,
        async_wire: AsyncWire,
        *,
        now: Callable[[], float] = monotonic,
        rng: random.Random | None = None,
        background: Callable[[str, Callable[[], Sequence[Job]]], Background] = Background,
        hub: EventHub | None = None,
    ) -> None:
        self.location = location
        self.topology = topology
        self.now = now
        self.rng = rng or random.Random()
        #: For events of the servers; those of one namespace are its engine's.
        self.events = hub or EventHub(now)
        self.lock = new_lock()
        self.view: View = topology.view
        self.replicas = ReplicaSet(self.rng.random)
        self.replicas.on_change = self._routes_changed
        self.monitor = Monitor(
            topology,
            async_wire,
            location.node_options,
            self.replicas,
            random=self.rng.random,
            clock=now,
            changed_generation=self._monitor_saw_change,
            on_master=self._monitor_heard_master,
            hub=self.events,
        )
        self.async_wire = async_wire
        options = location.node_options
        self.sync_endpoints: Endpoints[SyncEndpoint] = Endpoints(lambda a: sync_wire.endpoint(a, options))
        self.async_endpoints: Endpoints[AsyncEndpoint] = Endpoints(lambda a: async_wire.endpoint(a, options))
        #: For strict writes of tasks: `WAIT` holds up whatever is behind it on its connection.
        self.waiting_endpoints: Endpoints[AsyncEndpoint] = Endpoints(lambda a: async_wire.endpoint(a, options))
        #: One connection to each node for what the background asks; made anew for each loop.
        self.nodes = SharedEndpoints(async_wire, options)
        #: Whether all engines are idle.
        self.idle = False
        #: Whether one of them is under "strict".
        self._strict = True
        #: Notified of each new view.
        self.followers: weakref.WeakSet[Follower] = weakref.WeakSet()
        #: Why there can be no background; None while there can.
        self.trouble: str | None = None
        #: All engines that are referenced, and those whose jobs run.
        self._members: weakref.WeakSet[Engine] = weakref.WeakSet()
        self._started: list[Engine] = []
        self._new_background = background
        self._background: Background | None = None
        #: Whether it was stopped: what it knows of the servers may be of long ago.
        self.over = False
        #: The last one that was stopped; it may not have ended.
        self._former: Background | None = None
        self._wake: asyncio.Event | None = None
        self._atexit: Callable[[], None] | None = None
        reset_after_fork(self)

    def __repr__(self) -> str:
        return f"<Deployment {self.location.redacted()} {self._background or 'not started'}>"

    # -- life

    def enter(self, engine: Engine) -> None:
        """An engine on these servers was made."""
        self._members.add(engine)

    def start(self, engine: Engine) -> bool:
        """Run the jobs of an engine in the background; False when there can be no background."""
        notice_fork()
        with self.lock:
            if engine in self._started:
                return True
            if engine.closed or not self._make_background():
                return False
            engine.chores.take_spooled()
            self._started.append(engine)
            self.over = False
        self.ensure()
        self.post(self._look)
        return True

    @property
    def running(self) -> bool:
        """Whether the background runs now."""
        background = self._background
        return background is not None and background.running

    def inside(self) -> bool:
        """Whether this code runs in a critical section of its own thread, or on the thread of the background."""
        background = self._background
        return self.lock._is_owned() or (background is not None and background.here)

    def ensure(self) -> None:
        """Start the thread of the background again if it lacked something. Cheap; waits for nothing."""
        background = self._background
        if background is not None:
            background.ensure()

    def _make_background(self) -> bool:
        """Under the lock; False when there can be none."""
        if self._background is not None:
            return True
        if self.trouble is not None:
            return False
        self.trouble = None if self.topology.local else background_trouble()
        if self.trouble is not None:
            self.events.emit(events.BackgroundUnavailable(self.trouble))
            return False
        if gevent_patched():
            self.events.emit(events.GeventPatched())
        background = self._new_background("evercache-background", self._jobs)
        background.failed = self.job_failed
        background.lost = self._background_lost
        background.runs = self._background_runs
        background.former, self._former = self._former, None
        self._background = background
        self._atexit = self._atexit or close_at_exit(self)
        return True

    def _jobs(self) -> list[Job]:
        self.nodes = SharedEndpoints(self.async_wire, self.location.node_options)
        jobs: list[Job] = [self._tend]
        if not self.topology.local:
            jobs += [self._topology, self._monitor]
        return jobs

    def _background_runs(self) -> None:
        self.events.emit(events.BackgroundRuns())

    def _background_lost(self, error: BaseException) -> None:
        why = f"the background of the cache cannot run, and is begun again until it can: {shown(error)}"
        for engine in list(self._started):
            engine.background_lost(why)
        self.events.emit(events.BackgroundUnavailable(why))

    def job_failed(self, job: Callable[..., object], error: BaseException) -> None:
        """Report a job or a callback of the background that raised; a job is begun again."""
        name = getattr(job, "__qualname__", None) or shown(job)
        self.events.emit(events.Defect(f"a background job of the cache ({name})", shown(error)), error)

    async def _topology(self) -> None:
        await self.topology.run(self._on_view, self.nodes)

    async def _monitor(self) -> None:
        await self.monitor.run(self.nodes)

    def look_for_idle(self) -> None:
        """Ask the servers seldom if all engines are idle, else as often as usual. On the background's loop."""
        started = list(self._started)
        if not started:
            return
        idle = all(engine.state.idle for engine in started)
        strict = any(engine.settings.consistency == "strict" for engine in started)
        bound = min(engine.settings.lag_bound for engine in started)
        self.monitor.spared = bound * _SPARED
        if (idle, strict) != (self.idle, self._strict):
            was_idle, self.idle, self._strict = self.idle, idle, strict
            self.topology.rest(idle, strict)
            self.monitor.rest(bound * LAG_POLL if idle else None)
            if was_idle and not idle:
                self._look()

    def post(self, callback: Callable[[], None]) -> None:
        """Have a callback run on the background's loop; nothing happens when it is not running."""
        background = self._background
        if background is not None:
            background.post(callback)

    def _look(self) -> None:
        if self._wake is not None:
            self._wake.set()

    async def _tend(self) -> None:
        """Run the jobs of each engine that was started, and end the engines that nobody needs any more."""
        background, wake = self._background, asyncio.Event()
        self._wake = wake
        running: dict[Engine, _Group] = {}
        try:
            while True:
                await self._visit(running, background)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SELDOM if self.idle else _TICK):
                        await wake.wait()
                wake.clear()
        except GeneratorExit:  # the loop was dropped with its tasks: nothing can be awaited any more
            running.clear()
            raise
        finally:
            for engine, group in running.items():
                await group.end()
                engine.ended.set()

    async def _visit(self, running: dict[Engine, _Group], background: Background | None) -> None:
        # A function of its own: none of its variables keeps an engine alive until the next visit.
        started = self._end_unneeded(background, running)
        for engine in started:
            if engine not in running:
                running[engine] = _Group(engine.jobs(), self.job_failed)
            running[engine].check()
        self.look_for_idle()
        for engine in [engine for engine in running if engine not in started]:
            await running[engine].end()  # may be cancelled: then `_tend` ends it
            del running[engine]
            engine.ended.set()

    def _end_unneeded(self, background: Background | None, running: Collection[Engine]) -> list[Engine]:
        """On the background's loop; returns the engines that it serves from now on.

        Nothing of those that end is pending, so there is nothing to wait for.
        """
        with self.lock:
            if background is not self._background:
                return []  # it was stopped: what was started since then is for the next one
            for engine in [engine for engine in self._started if not engine.needed()]:
                engine.closed = True
                self._started.remove(engine)
            if not self._started:
                self._stop()
            for engine in self._started:
                if engine not in running:
                    engine.ended.clear()
            return list(self._started)

    def end(self, engine: Engine, timeout: float) -> None:
        """End the jobs of an engine; waits `timeout` seconds for it at most, and not on the background's loop."""
        with self.lock:
            if engine not in self._started:
                return
            self._started.remove(engine)
            background = self._background
        self.post(self._look)
        if background is None or not background.here:
            engine.ended.wait(timeout)
        with self.lock:
            last = not self._started
            if last:
                self._stop()
        if last and background is not None:
            background.stop(timeout)  # without the lock, which the thread may need before it ends

    def _stop(self) -> None:
        """Under the lock: end the thread and close every socket. The next engine that starts opens them again."""
        background, self._background = self._background, None
        self.over = True
        if background is not None:
            background.stop(0.0)
            self._former = background
        self._keep(())
        self._detach_replicas()
        if self._atexit is not None:
            atexit.unregister(self._atexit)
            self._atexit = None

    def close(self) -> None:
        """End every engine, all of them within a second or so: at the end of the process."""
        engines, end = list(self._started), self.now() + 1.0
        for engine in engines:
            self.post(engine.chores.wake)  # all bring what is pending at the same time
        for engine in engines:
            engine.close(max(0.02, end - self.now()))

    def after_fork(self) -> None:
        """In the child: nothing of the parent's background or connections is here."""
        for endpoints in self._all_endpoints():
            endpoints.forget()
        self.async_wire.forget()  # the connections of the tails, the monitor and the topology
        self._background = self._former = None
        self._wake = None
        self._started = []
        self.replicas.after_fork()
        for engine in living(self._members):
            engine.after_fork()

    # -- what the background learns

    def _routes_changed(self) -> None:
        for engine in living(self._members):
            engine.state.leave_route()

    def _on_view(self, view: View) -> None:
        old, self.view = self.view, view
        engines = list(self._started)
        if view.master != old.master:
            # An older master may go on answering for seconds: not one more command goes there, but what others
            # get acknowledged there is heard.
            for engine in engines:
                engine.leave_master(old, view)
            if old.master is not None:
                for endpoints in self._all_endpoints():
                    endpoints.disconnect(old.master)
            if view.master is not None:
                before = "" if old.master is None else str(old.master)
                self.events.emit(events.MasterChanged(before, str(view.master), view.epoch))
            for engine in engines:
                engine.tail.interrupt()
        self.monitor.nudge()
        if view.problem is not None:
            self.events.emit(events.TopologyUnknown(str(view.problem)))
        else:
            self.events.emit(events.TopologyKnown(str(view.master)))
        addresses = {a for a in (view.master, *view.replicas) if a is not None}
        self._keep(addresses)
        self._detach_replicas()
        for engine in engines:
            engine.enter_view(view)
        for follower in living(self.followers):
            with contextlib.suppress(RuntimeError):  # a connection of a loop that has ended
                follower.changed()

    def _all_endpoints(self) -> tuple[Endpoints[Any], ...]:
        return self.sync_endpoints, self.async_endpoints, self.waiting_endpoints

    def _keep(self, addresses: Collection[Address]) -> None:
        """Close the connections to all other addresses."""
        for endpoints in self._all_endpoints():
            endpoints.keep(addresses)

    def _detach_replicas(self) -> None:
        """Their endpoints may be closed now: each read takes the present one."""
        for replica in self.replicas.members:
            replica.endpoint_sync = replica.endpoint_async = None

    def _monitor_saw_change(self) -> None:
        for engine in list(self._started):
            # The tail may have been quicker, and has learnt everything anew already.
            engine.changed_generation(self.monitor.generation)
            if self.monitor.generation:
                engine.tail_may_go_on()  # it may pause, since the master was dead the last time

    def _monitor_heard_master(self, facts: NodeFacts) -> None:
        # However few calls go to the master: a step of its clock is known after a few rounds (rule 19).
        said = facts.replication
        if said is None or facts.time_us is None:
            return
        for engine in list(self._started):
            engine.state.master_time(facts.time_us, said.replid, facts.received, facts.sent)


class _Group:
    """The jobs of one engine on one loop."""

    def __init__(self, jobs: Sequence[Job], failed: Callable[[Callable[..., object], BaseException], None]) -> None:
        self._stopping = asyncio.Event()
        self._tasks = [asyncio.ensure_future(keep(job, self._stopping, failed)) for job in jobs]

    def __repr__(self) -> str:
        return f"<_Group of {len(self._tasks)} jobs>"

    def check(self) -> None:
        """Raise what ended a job that could not be begun again."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def end(self) -> None:
        """Cancel the jobs and wait for their end."""
        self._stopping.set()
        await cancel(self._tasks)
