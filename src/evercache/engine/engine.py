"""The engine of one cache: its state, its connections and its background, begun at the first use."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from evercache.engine.background import Background, Job
from evercache.engine.chores import Chores
from evercache.engine.endpoints import Endpoints
from evercache.engine.former import FormerMasters
from evercache.engine.hot import HotSample
from evercache.engine.process import background_trouble, close_at_exit, gevent_patched, reset_after_fork
from evercache.engine.readers import Reader
from evercache.engine.replica_logs import ReplicaLogs
from evercache.engine.routing import Routing
from evercache.engine.spool import Spool, owner_of
from evercache.engine.state import Hold, State
from evercache.engine.tail import Tail
from evercache.engine.watch import Watch
from evercache.errors import Loading, MasterUnknown, ReadOnly, ServerError, UnavailableError
from evercache.observe import Counters, EventHub, events
from evercache.policy import Settings
from evercache.protocol.balance import Hedges, Retries
from evercache.protocol.commands import Bookkeeping, Commands, Limits
from evercache.protocol.topology import View
from evercache.topology import Monitor, ReplicaSet, Topology
from evercache.topology.facts import NodeFacts
from evercache.url import Location
from evercache.wire.types import Address, AsyncConnection, AsyncEndpoint, AsyncWire, SyncEndpoint, SyncWire

__all__ = ["Engine"]


class Engine:
    """Owns everything that lives as long as a cache does in one process.

    `_lifecycle` guards start, close and fork; the rest is in `state`, under its lock. `now`, `rng`, `token` (16 hex
    digits) and `background` are all that is not decided by what comes in: the simulator gives its own.
    """

    def __init__(
        self,
        location: Location,
        settings: Settings,
        topology: Topology,
        sync_wire: SyncWire,
        async_wire: AsyncWire,
        *,
        now: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        token: Callable[[], str] = lambda: secrets.token_hex(8),
        background: Callable[[str, Sequence[Job]], Background] = Background,
        hub: EventHub | None = None,
    ) -> None:
        self.location = location
        self.settings = settings
        self.topology = topology
        self.events = hub or EventHub(now)
        self.state = State(settings, now, rng or random.Random(), token)
        self._make_background = background
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
        self.view: View = topology.view
        self.replicas = ReplicaSet(self.state.rng.random)
        self.monitor = Monitor(
            topology,
            async_wire,
            location.node_options,
            self.replicas,
            random=self.state.rng.random,
            clock=now,
            changed_generation=self._monitor_saw_change,
            on_master=self._monitor_heard_master,
            hub=self.events,
        )
        self.replicas.on_change = self.state.leave_route
        self._refusals: set[str] = set()
        self._why: UnavailableError | None = None
        self._async_wire = async_wire
        options = location.node_options
        #: For a connection in the database of the bookkeeping.
        self.tail_options = replace(options, db=book_db)
        self.sync_endpoints: Endpoints[SyncEndpoint] = Endpoints(lambda a: sync_wire.endpoint(a, options))
        self.async_endpoints: Endpoints[AsyncEndpoint] = Endpoints(lambda a: async_wire.endpoint(a, options))
        owner = owner_of(location, settings.namespace)
        self.spool = Spool(None if owner is None else settings.spool, self.events.emit, owner)
        self.routing = Routing(self)
        self.tail = Tail(self)
        self.former = FormerMasters(self)
        self.replica_logs = ReplicaLogs(self)
        self.chores = Chores(self)
        self.watch = Watch(self)
        self.hot = HotSample(self)
        self._lifecycle = threading.Lock()
        self._background: Background | None = None
        self._view_event: asyncio.Event | None = None
        self.trouble: str | None = None
        self.closed = False
        #: Told of each new view, on the background's loop; they return at once and raise nothing.
        self.on_view: list[Callable[[View], None]] = []
        #: Told after the engine itself, in the child of a fork.
        self.on_fork: Callable[[], None] = lambda: None
        if topology.local:
            self.state.local = True
            self.state.ready = True
            self.state.tau = float("-inf")
            self.state.covers = float("inf")
        self._atexit = close_at_exit(self)
        reset_after_fork(self)

    def __repr__(self) -> str:
        return f"<Engine {self.location.redacted()} {self._background or 'not started'}>"

    # -- life

    def start(self) -> bool:
        """Begin the background, once; False when there can be none, so that every call computes."""
        if self._background is not None:
            return True
        if self.closed or self.trouble is not None:
            return False
        with self._lifecycle:
            if self._running() or self.closed:  # another thread was quicker
                return not self.closed
            self.trouble = None if self.topology.local else background_trouble()
            if self.trouble is not None:
                self.events.emit(events.BackgroundUnavailable(self.trouble))
                return False
            if gevent_patched():
                self.events.emit(events.GeventPatched())
            background = self._make_background("evercache-background", self._jobs())
            background.failed = self._job_failed
            self.chores.take_spooled()
            try:
                background.start()
            except RuntimeError as error:  # no more threads, or the interpreter ends
                why = f"the background of the cache cannot begin, so every call computes: {error}"
                self.events.emit(events.BackgroundUnavailable(why))
                return False
            self.events.emit(events.BackgroundRuns())
            self._background = background
        return True

    def _running(self) -> bool:
        return self._background is not None

    def _jobs(self) -> list[Job]:
        jobs: list[Job] = [self.chores.renew, self.chores.forget]
        if not self.topology.local:
            jobs += [self._topology, self.monitor.run, self.tail.run, self.former.run, self.chores.bring]
            if self.settings.hot_samples:
                jobs.append(self.hot.run)
        return jobs

    def _job_failed(self, job: Job, error: Exception) -> None:
        name = getattr(job, "__qualname__", repr(job))
        self.events.emit(events.Defect(f"a background job of the cache ({name})", repr(error)), error)

    async def _topology(self) -> None:
        await self.topology.run(self._on_view)

    def close(self, timeout: float = 1.0) -> int:
        """Bring what is pending once more, end the background, close the connections.

        Returns the number of invalidations that no master had; they are in the spool file if there is one.
        """
        with self._lifecycle:
            if self.closed:
                return 0
            self.closed = True
            background, self._background = self._background, None
        left = 0
        if background is not None:
            if self.state.journal.pending and self.state.ready:
                self._drain(min(timeout, self.settings.budget * 2))
            background.stop(timeout)
            left = len(self.state.journal.pending)
            self.spool.settle(self.state.journal.pending.values())
            if left:
                kept = self.spool.save(self.state.journal.pending.values())
                self.events.emit(events.Spooled(left, kept))
        self.sync_endpoints.keep(())
        self.async_endpoints.keep(())
        self.events.subscribers.flush(timeout)
        atexit.unregister(self._atexit)
        return left

    def _drain(self, seconds: float) -> None:
        end = self.state.now() + seconds
        self.post(self.chores.wake)
        while self.state.journal.pending and self.state.now() < end:
            time.sleep(0.005)

    def after_fork(self) -> None:
        """In the child: nothing of the parent's background or connections is here."""
        self._lifecycle = threading.Lock()
        self.events.after_fork()
        self.state.after_fork()
        for endpoints in (self.sync_endpoints, self.async_endpoints):
            endpoints.forget()
        self._async_wire.forget()  # the tail's connection, and those of the monitor and the topology
        self.monitor.replicas.after_fork()
        self.routing.leave_master()
        self._background = None
        self._view_event = None
        self.tail = Tail(self)
        self.former = FormerMasters(self)
        self.replica_logs = ReplicaLogs(self)
        self.chores = Chores(self)
        self.watch = Watch(self)
        self.hot.after_fork()
        self.on_fork()

    # -- what the background tells

    def post(self, callback: Callable[[], None]) -> None:
        """Have something run on the background's loop."""
        if self._background is not None:
            self._background.post(callback)

    async def view_changed(self, timeout: float) -> None:
        """Wait for the next view, `timeout` seconds at most. On the background's loop."""
        if self._view_event is None:
            self._view_event = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._view_event.wait(), timeout)
        self._view_event.clear()

    async def connect_tail(self, address: Address) -> AsyncConnection:
        """A connection of the tail's own, in the database of the bookkeeping."""
        deadline = self.state.now() + 2 * self.location.node_options.connect_timeout
        return await self._async_wire.connect(address, self.tail_options, deadline)

    def use_bookkeeping(self, db: int) -> None:
        """Other processes of the namespace have their bookkeeping in that database. On the background's loop."""
        self.bookkeeping = self.commands.bookkeeping = replace(self.bookkeeping, book_db=db)
        self.tail_options = replace(self.tail_options, db=db)
        own, namespace = self.settings.bookkeeping_db, self.settings.namespace
        if db == (self.location.node_options.db if own is None else own):
            self.events.emit(events.BookkeepingFound(db))
        else:
            self.events.emit(events.BookkeepingElsewhere(namespace, repr(own), db, self.bookkeeping.state))

    def _on_view(self, view: View) -> None:
        old, self.view = self.view, view
        if view.master != old.master:
            # An older master may go on answering for seconds: not one more command goes there, but what others
            # get acknowledged there is heard.
            self.state.unready("master", master=view.master is not None)
            if old.master is not None:
                self.former.leave(old.master, self.state.generation, self.state.position)
                self.sync_endpoints.disconnect(old.master)
                self.async_endpoints.disconnect(old.master)
            if view.master is not None:
                before = "" if old.master is None else str(old.master)
                self.events.emit(events.MasterChanged(before, str(view.master), view.epoch))
            self.tail.interrupt()
        self.monitor.nudge()
        if view.problem is not None:
            self.events.emit(events.TopologyUnknown(str(view.problem)))
            if view.master is None:
                self.state.down()
        else:
            self.events.emit(events.TopologyKnown(str(view.master)))
        addresses = {a for a in (view.master, *view.replicas) if a is not None}
        self.sync_endpoints.keep(addresses)
        self.async_endpoints.keep(addresses)
        self.routing.leave_master()
        for replica in self.replicas.members:
            replica.endpoint_sync = replica.endpoint_async = None
        self.state.leave_route()
        if self._view_event is not None:
            self._view_event.set()
        for tell in self.on_view:
            tell(view)

    def _monitor_saw_change(self) -> None:
        # The tail may have been quicker, and has learnt everything anew already.
        self.changed_generation(self.monitor.generation)
        if self.monitor.generation and self._view_event is not None:
            self._view_event.set()  # it may pause, since the master was dead the last time

    def _monitor_heard_master(self, facts: NodeFacts) -> None:
        # However few calls go to the master: a step of its clock is known after a few rounds (rule 19).
        said, state = facts.replication, self.state
        if said is not None and facts.time_us is not None:
            with state.lock:
                if state.ready and state.generation == said.replid:
                    state.observe_time(facts.time_us, facts.received, facts.sent)

    def proved_before(self) -> float:
        """What was heard before this moment is on every replica that could be promoted (rule 20)."""
        return self.monitor.table.proved_before() if self.view.replicas else float("-inf")

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
        self._why = error
        self.state.down()
        self.topology.nudge()
        self.post(self.replica_logs.visit)
        # What a server says (a wrong password, say) is another trouble than its silence before.
        refuses = isinstance(error, ServerError) and not isinstance(error, (ReadOnly, Loading))
        refused = error.code if refuses and isinstance(error, ServerError) else ""
        self.events.emit(events.MasterLost(str(address), str(error), refused))

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
            self.events.emit(events.MasterServes(str(address)))

    def resynced(self, address: Address, lost: int) -> None:
        """The tail learnt everything anew."""
        self.events.emit(events.Resynced(str(address), self.state.unready_why))
        if lost:
            self.events.emit(events.InvalidationsReissued(lost))
        self.chores.wake()

    def heard_at_former(self, lost: int) -> None:
        """A master that was replaced had invalidations acknowledged that the present one lacks."""
        self.events.emit(events.InvalidationsReissued(lost))
        self.chores.wake()

    def heard_lately(self) -> bool:
        """Whether the tail hears the master well."""
        return self.state.local or self.state.now() - self.state.covers < 2 * self.settings.block

    def observe_time(self, time_us: int, generation: str, sent: float) -> None:
        """The master's time came with a reply to what was sent at that moment."""
        state = self.state
        with state.lock:
            # Not ready: it may be a late word of the former master, whose clock is another one.
            if state.ready and state.generation == generation:
                state.observe_time(time_us, state.now(), sent)
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
