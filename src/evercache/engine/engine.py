"""The engine of one namespace: its state and its background jobs, begun at the first use."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from evercache.engine.alone import Alone
from evercache.engine.background import Job
from evercache.engine.chores import Chores
from evercache.engine.endpoints import Endpoints
from evercache.engine.former import FormerMasters
from evercache.engine.hot import HotSample
from evercache.engine.idleness import Idleness
from evercache.engine.readers import Reader
from evercache.engine.replica_logs import ReplicaLogs
from evercache.engine.routing import Routing
from evercache.engine.spool import Spool, owner_of
from evercache.engine.state import Hold, State
from evercache.engine.tail import Tail
from evercache.engine.watch import Watch
from evercache.errors import Loading, MasterUnknown, ReadOnly, ServerChanged, ServerError, UnavailableError
from evercache.net.memory import SyncMemoryWire
from evercache.net.types import AsyncConnection, AsyncEndpoint, AsyncWire, SyncEndpoint, SyncWire
from evercache.observe import Counters, EventHub, events
from evercache.policy import Settings
from evercache.process import living, notice_fork
from evercache.protocol.balance import Hedges, Retries
from evercache.protocol.commands import Bookkeeping, Commands, Limits
from evercache.protocol.topology import View
from evercache.protocol.types import Address

if TYPE_CHECKING:
    from evercache.engine.deployment import Deployment

__all__ = ["Engine", "User"]


class User(Protocol):
    """What uses an engine: it lives as long as one of them is referenced."""

    def after_fork(self) -> None:
        """In the child of a fork."""

    def divert(self, wanted: bool) -> None:
        """Send the next call of a cached function the slow path, or let calls take the fast path again."""


class Engine:
    """One namespace on one deployment: its state, its journal, and its background jobs.

    Shared by the caches with equal settings. It lives while it is needed (`needed`). `now` and `token` (16 hex
    digits) are all that is not decided by what comes in: the simulator gives its own. `wires` replace those of the
    deployment where each engine has its own store (`memory://`).
    """

    def __init__(
        self,
        deployment: Deployment,
        settings: Settings,
        *,
        wires: tuple[SyncWire, AsyncWire] | None = None,
        now: Callable[[], float] | None = None,
        token: Callable[[], str] = lambda: os.urandom(8).hex(),
    ) -> None:
        self.deployment = deployment
        self.location = location = deployment.location
        self.settings = settings
        self.topology = topology = deployment.topology
        now = now or deployment.now
        self.events = EventHub(now, beside=deployment.events, namespace=settings.namespace)
        self.state = State(settings, now, deployment.rng, token)
        db = location.node_options.db
        book_db = db if settings.bookkeeping_db is None else settings.bookkeeping_db
        self.bookkeeping = Bookkeeping(settings.namespace, db, book_db)
        limits = Limits(
            journal_ms=int(settings.journal_time * 1000),
            marks_ms=int((settings.max_ttl + settings.max_compute) * 1000),
        )
        self.hedges = Hedges(settings.hedge)
        self.retries = Retries(now())
        self.commands = Commands(self.bookkeeping, limits, self.state.new_life)
        self.replicas = deployment.replicas
        self.monitor = deployment.monitor
        self._refusals: set[str] = set()
        self._why: UnavailableError | None = None
        options = location.node_options
        #: For a connection in the database of the bookkeeping.
        self.tail_options = replace(options, db=book_db)
        self.sync_endpoints, self.async_endpoints = deployment.sync_endpoints, deployment.async_endpoints
        if wires is not None:
            sync_wire, async_wire = wires
            self.sync_endpoints = Endpoints(lambda a: sync_wire.endpoint(a, options))
            self.async_endpoints = Endpoints(lambda a: async_wire.endpoint(a, options))
        owner = owner_of(location, settings.namespace)
        self.spool = Spool(None if owner is None else settings.spool, self.events.emit, owner)
        self.routing = Routing(self)
        self._make_jobs()
        self.hot = HotSample(self)
        self.hot.divert = self.divert
        self._view_event: asyncio.Event | None = None
        #: Of a store in memory that is there for want of a URL.
        self.alone: Alone | None = None
        self._started = False
        self.closed = False
        #: Set while no jobs run.
        self.ended = threading.Event()
        self.ended.set()
        #: The caches that use it.
        self.users: weakref.WeakSet[User] = weakref.WeakSet()
        #: Whether this code runs inside a command of a server in this process.
        self._in_server: Callable[[], bool] = lambda: False
        if wires is not None and isinstance(wires[0], SyncMemoryWire):
            self._in_server = wires[0].server.busy_here
        if topology.local:
            self.state.local = True
            self.state.ready = True
            self.state.tau = float("-inf")
            self.state.covers = float("inf")
        deployment.enter(self)

    def _make_jobs(self) -> None:
        """What belongs to one life of the background's loop."""
        self.idleness = Idleness(self)
        self.tail = Tail(self)
        self.former = FormerMasters(self)
        self.replica_logs = ReplicaLogs(self)
        self.chores = Chores(self)
        self.watch = Watch(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "started" if self._started else "not started"
        return f"<Engine {self.location.redacted()} namespace={self.settings.namespace!r} {state}>"

    # -- life

    @property
    def view(self) -> View:
        """Who is who now."""
        return self.deployment.view

    @property
    def trouble(self) -> str | None:
        """Why there can be no background; None while there can."""
        return self.deployment.trouble

    def start(self) -> bool:
        """Begin the background jobs, or begin them again; False when there can be none, so that calls compute."""
        notice_fork()
        if self.inside():
            return False
        if self._started:
            self.idleness.wake()
            self.deployment.ensure()
            return True
        if self.closed:
            return False
        self._started = self.deployment.start(self)
        return self._started

    def inside(self) -> bool:
        """Whether this code runs inside the cache's own: a signal handler or a finalizer in a critical section of
        its thread, or on the thread of the background, which must not wait for itself."""
        return self.state.lock._is_owned() or self._in_server() or self.deployment.inside()

    def jobs(self) -> list[Job]:
        """The background jobs of this namespace, on another loop: what they hold of the last one is dropped."""
        self._view_event = None
        for part in (self.idleness, self.tail, self.former, self.replica_logs, self.chores):
            part.attach()
        jobs: list[Job] = [self.chores.renew, self.chores.forget, self.chores.bring]
        if not self.topology.local:
            jobs += [self.tail.run, self.former.run]
            if self.settings.hot_samples:
                jobs.append(self.hot.run)
        return jobs

    def needed(self) -> bool:
        """Whether a cache uses it, or something that a caller began is not over: a computation, an invalidation
        that waits for the master, a fill block."""
        state = self.state
        return bool(self.users) or bool(
            state.journal.pending or state.leases or state.refreshing or state.holds or len(state.flights)
        )

    def leave(self, user: User) -> int:
        """A cache was closed: close the engine if no other one uses it. As `close`."""
        with self.deployment.lock:
            self.users.discard(user)
            # Decided under the lock: a new cache that comes from now on makes an engine of its own.
            if self.users or self.closed:
                return 0
            self.closed = True
        return self._finish(1.0)

    def close(self, timeout: float = 1.0) -> int:
        """Bring what is pending once more, end the background jobs.

        Returns the number of invalidations that no master had; they are in the spool file if there is one.
        """
        with self.deployment.lock:
            if self.closed:
                return 0
            self.closed = True
        return self._finish(timeout)

    def _finish(self, timeout: float) -> int:
        """The rest of `close`, once for each engine."""
        started, self._started = self._started, False
        left = 0
        if self.inside():
            timeout = 0.0  # what it would wait for waits for this thread
        if started:
            if timeout and self.state.journal.pending and self.state.ready and self.deployment.running:
                self._drain(min(timeout, self.settings.budget * 2))
            self.deployment.end(self, timeout)
            pending = list(self.state.journal.pending.values())  # calls of other threads may go on
            left = len(pending)
            self.spool.settle(pending)
            if left:
                self.events.emit(events.Spooled(left, self.spool.save(pending)))
        self.events.flush(timeout)
        return left

    def _drain(self, seconds: float) -> None:
        end = self.state.now() + seconds
        self.post(self.chores.wake)
        while self.state.journal.pending and self.state.now() < end:
            time.sleep(0.005)

    def after_fork(self) -> None:
        """In the child: nothing of the parent's background or connections is here."""
        self._started = False
        self.ended = threading.Event()
        self.ended.set()
        self.state.after_fork()
        for endpoints in (self.sync_endpoints, self.async_endpoints):
            endpoints.forget()
        self.routing.leave_master()
        self._view_event = None
        self._make_jobs()
        self.hot.after_fork()
        if self.alone is not None:
            self.alone.after_fork()
        for user in living(self.users):
            user.after_fork()

    # -- what the background tells

    def divert(self, wanted: bool) -> None:
        """Send the next call of a cached function the slow path, or let calls take the fast path again."""
        for user in living(self.users):
            user.divert(wanted)

    def post(self, callback: Callable[[], None]) -> None:
        """Have something run on the background's loop."""
        self.deployment.post(callback)

    def background_lost(self, why: str) -> None:
        """No loop of the background can run now: callers must not wait for what only a loop brings."""
        if not self.state.local and (self.state.master_down or not self.state.ready):
            self._why = MasterUnknown(why)
            self._nobody_listens()

    def _nobody_listens(self) -> None:
        """The master does not answer and no log is followed: nothing that was known is relied on (rule 14)."""
        self.state.unready("start")
        self.state.down()

    async def view_changed(self, timeout: float) -> None:
        """Wait for the next view, `timeout` seconds at most. On the background's loop."""
        if self._view_event is None:
            self._view_event = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._view_event.wait(), timeout)
        self._view_event.clear()

    def tail_may_go_on(self) -> None:
        """End a pause of the tail. On the background's loop."""
        if self._view_event is not None:
            self._view_event.set()

    async def connect_tail(self, address: Address) -> AsyncConnection:
        """A connection of the tail's own, in the database of the bookkeeping."""
        deadline = self.state.now() + 2 * self.location.node_options.connect_timeout
        return await self.deployment.async_wire.connect(address, self.tail_options, deadline)

    def use_bookkeeping(self, db: int) -> None:
        """Other processes of the namespace have their bookkeeping in that database. On the background's loop."""
        self.bookkeeping = self.commands.bookkeeping = replace(self.bookkeeping, book_db=db)
        self.tail_options = replace(self.tail_options, db=db)
        own, namespace = self.settings.bookkeeping_db, self.settings.namespace
        if db == (self.location.node_options.db if own is None else own):
            self.events.emit(events.BookkeepingFound(db))
        else:
            self.events.emit(events.BookkeepingElsewhere(namespace, repr(own), db, self.bookkeeping.state))

    def still_kept_in(self, book: Bookkeeping) -> None:
        """Raise where another bookkeeping is used by now: nobody hears what was logged in the one that was left."""
        if self.bookkeeping is not book:
            raise ServerChanged(f"the bookkeeping is in database {self.bookkeeping.book_db} now", maybe_run=True)

    def leave_master(self, old: View, view: View) -> None:
        """The master of the old view is another one's now, or nobody's."""
        self.idleness.wake()
        self.state.unready("master", master=view.master is not None)
        self.events.end("log")
        if old.master is not None:
            self.former.leave(old.master, self.state.generation, self.state.position)

    def enter_view(self, view: View) -> None:
        """A new view: no connection to a server that is not in it is open any more."""
        if view.problem is not None and view.master is None:
            self.state.down()
        self.routing.leave_master()
        self.state.leave_route()
        self.tail_may_go_on()

    # -- endpoints, and the budgets of what is asked twice

    def may_hedge(self) -> bool:
        """Use one hedge of the budget, if there is one."""
        with self.state.lock:
            may = self.hedges.take()
        if not may:
            self.events.emit(events.HedgesExhausted())  # `watch` tells its end
        return may

    def may_retry(self) -> bool:
        """Use one retry of the budget, if there is one: a call to the master is about to be sent again."""
        with self.state.lock:
            may = self.retries.take(self.state.now())
        if not may:
            self.events.emit(events.RetriesExhausted())  # `watch` tells its end
        return may

    def attach_sync(self, reader: Reader) -> SyncEndpoint:
        """Give a reader its blocking endpoint."""
        endpoint = reader.endpoint_sync = self.sync_endpoints.get(reader.address)
        return endpoint

    def attach_async(self, reader: Reader) -> AsyncEndpoint:
        """Give a reader its asynchronous endpoint."""
        endpoint = reader.endpoint_async = self.async_endpoints.get(reader.address)
        return endpoint

    def endpoint_sync(self, address: Address) -> SyncEndpoint:
        """The blocking endpoint of an address."""
        return self.sync_endpoints.get(address)

    def endpoint_async(self, address: Address) -> AsyncEndpoint:
        """The asynchronous endpoint of an address."""
        return self.async_endpoints.get(address)

    def waiting_async(self, address: Address) -> AsyncEndpoint:
        """The asynchronous endpoint of an address for what waits there for replicas."""
        return self.deployment.waiting_endpoints.get(address)

    def disconnect(self, address: Address) -> None:
        """Close the connections to an address once their calls are done."""
        for endpoints in (self.sync_endpoints, self.async_endpoints, self.deployment.waiting_endpoints):
            endpoints.disconnect(address)

    # -- what callers and the background meet

    def changed_generation(self, replid: str = "") -> None:
        """The data of the master began another life: nothing is relied on until the resync (rule 5)."""
        if self.state.ready:
            if replid == self.state.generation:
                return
            self.state.unready(master=bool(replid))
        self.post(self.tail.interrupt)

    def flushed(self) -> None:
        """This process emptied the master by other means: no replica is read that has not heard of it (rule 5)."""
        self.state.unready("flush", master=not self.state.master_down)
        self.post(self.tail.interrupt)

    def master_trouble(self, address: Address, error: UnavailableError) -> None:
        """The master did not answer, or not as a master."""
        if address != self.view.master:
            return  # a connection to the last one was closed, or a caller still waited for it
        self.idleness.wake()
        self._why = copy.copy(error)  # its traceback would keep the frames of the caller, and so its objects, alive
        if self.deployment.running:
            self.state.down()
        else:
            self._nobody_listens()
        self.topology.nudge()
        self.post(self.replica_logs.visit)
        # What a server says (a wrong password, say) is another trouble than its silence before.
        refuses = isinstance(error, ServerError) and not isinstance(error, (ReadOnly, Loading))
        refused = error.code if refuses and isinstance(error, ServerError) else ""
        self.deployment.events.emit(events.MasterLost(str(address), str(error), refused))

    def no_master(self) -> UnavailableError:
        """Why no master can be asked now: the words of whoever met it, as an error of its own."""
        why = self.view.problem
        if why is None and self.state.master_down:
            why = self._why
        if why is None:
            return MasterUnknown("no master could be followed before the deadline")
        # A server's own words (a wrong password, an ACL) and those of the topology tell the most.
        kind = type(why) if isinstance(why, (ServerError, MasterUnknown)) else MasterUnknown
        return kind(str(why))

    def log_refused(self, address: Address, error: ServerError) -> None:
        """The master answers, but not what the tail asks: it is not down, reads go to it by script (rule 14)."""
        with self.state.lock:
            self.state.master_down = False
            # It may acknowledge invalidations that are not heard here: blind at once, not after `max_staleness`.
            self.state.covers = float("-inf")
        self.events.emit(events.LogNotFollowed(str(address), str(error)))

    def master_heard(self, address: Address) -> None:
        """The master answered the tail."""
        self.state.master_down = False
        if self.events.open:
            self.events.emit(events.LogFollowed(str(address)))
        if self.deployment.events.open:
            self.deployment.events.emit(events.MasterServes(str(address)))

    def resynced(self, address: Address, lost: int) -> None:
        """The tail learnt everything anew."""
        self.events.emit(events.Resynced(str(address), self.state.unready_why))
        self.deployment.events.reached()
        if lost:
            self.events.emit(events.InvalidationsReissued(lost))
        self.chores.wake()

    def heard_at_former(self, lost: int) -> None:
        """A master that was replaced had invalidations acknowledged that the present one lacks."""
        self.events.emit(events.InvalidationsReissued(lost))
        self.chores.wake()

    def heard_lately(self) -> bool:
        """Whether the tail hears the master well."""
        state = self.state
        heard = max(state.covers, state.awake_since)
        return state.local or state.unread or state.now() - heard < 2 * self.settings.block

    def observe_time(self, time_us: int, generation: str, sent: float) -> None:
        """The master's time came with a reply to what was sent at that moment."""
        state = self.state
        with state.lock, state.change:
            # Not ready: it may be a late word of the former master, whose clock is another one.
            if state.ready and state.generation == generation:
                state.observe_time(time_us, state.now(), sent)
                state.answered = sent
        if self._refusals:
            for code in list(self._refusals):
                self._refusals.discard(code)
                self.events.emit(events.CommandsTaken(code))

    def failed(self, error: UnavailableError, counters: Counters) -> None:
        """A caller's trip to the master failed: count it, and say what the tail does not see."""
        counters.failures += 1
        counters.retries_refused += error.retry_refused
        self.events.emit(events.CallFailed(type(error).__name__, str(error)))
        if isinstance(error, ServerError) and not self.state.master_down:
            self._refusals.add(error.code)
            self.events.emit(events.CommandsRefused(error.code, str(error)))

    def release_soon(self, *leases: tuple[str, str]) -> None:
        """Give leases (key, token) back, in the background."""
        if leases:
            self.post(lambda: self.chores.release_later(leases))

    def let_go_soon(self, hold: Hold) -> None:
        """Let go of what was held, in the background."""
        self.post(lambda: self.chores.holds.let_go_later(hold))

    def wake_bringer(self, error: BaseException | None = None) -> None:
        """Something became pending; with an error, for want of a master."""
        self.post(self.chores.wake)
        if isinstance(error, UnavailableError):
            self.events.emit(events.InvalidationQueued(len(self.state.journal.pending), str(error)))
