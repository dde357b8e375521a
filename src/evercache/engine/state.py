"""What one process knows and has under way for one cache; every caller and the background share it."""

from __future__ import annotations

import os
import random
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from math import inf
from types import TracebackType
from typing import Any, Literal

from msgspec import Struct

from evercache.engine.flights import Alive, Flight, Flights, Outcome, Overdue, Owner, Wait
from evercache.engine.route import NOWHERE, Route
from evercache.near import Gutter, Near
from evercache.policy import Settings
from evercache.process import new_lock
from evercache.protocol.clock import ServerClock
from evercache.protocol.envelope import Envelope
from evercache.protocol.freshness import Marks
from evercache.protocol.journal import Journal, Pending
from evercache.protocol.landing import Landing
from evercache.protocol.lease import LEASE
from evercache.protocol.replies import KnownMarks, LogLine, ResyncReply
from evercache.protocol.scope import Scope, Subject

__all__ = ["HeldLease", "Hold", "State", "Why"]

#: What others issued and the present master lacks is issued again within this time (seconds), not all at once.
REPLAY_JITTER = 0.2
#: What is more than this (microseconds) is a step of a clock, and no answer that took long.
STEP = 1_000_000
#: Why everything is read anew.
Why = Literal["start", "fork", "master", "generation", "flush", "gap", "life", "unreadable"]
#: Those where the data is the same, though not all that was logged could be heard (see `tail`).
_UNHEARD: frozenset[Why] = frozenset({"gap", "life", "unreadable"})


class HeldLease(Struct, eq=False):
    """A lease that this process asks for or holds, renewed in the background while the function runs."""

    key: str
    token: str
    lease: float
    granted: float
    renewed: float
    #: When the background last came by, and the longest that it stayed away.
    seen: float
    #: Whether the call that asked for it goes on; if not, the background releases it.
    held: Alive
    #: Whether it is renewed: while the function runs.
    running: bool = False
    #: The function's run.
    run: Alive | None = None
    gap: float = 0.0
    lost: bool = False

    def visit(self, now: float) -> None:
        """The background comes by."""
        self.gap, self.seen = max(self.gap, now - self.seen), now

    def starved(self, now: float) -> bool:
        """Whether the background could not come by for longer than the lease lives: the function holds the
        interpreter. A lease that was lost, or a master that did not answer, says nothing of the kind."""
        return max(self.gap, now - self.seen) > self.lease


class Hold(Struct, eq=False):
    """What this process changes at present, so that nobody may fill it (rule 22). `until`: monotonic seconds."""

    id: str
    scopes: tuple[Scope, ...]
    until: float
    #: Whether its block goes on; if not, the background ends it.
    open: Alive
    #: Its caller is asking the master for it.
    asking: bool = True
    #: As it was when a master answered; after another resync it is to be asked for anew.
    resyncs: int = -1
    #: The master refuses fills.
    held: bool = False


class _Change:
    """Marks the state as torn while it is being changed: `with state.lock, state.change:`.

    An exception that a signal handler raises in the middle of a change leaves the mark. Whoever changes the state
    next repairs it first, at the latest the background after a tenth of a second.
    """

    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        self._state = state

    def __enter__(self) -> None:
        state = self._state
        if state.torn:
            state.repair()
        state.torn = True
        if state.journal.pending.unsorted:
            state.sort()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            if self._state.journal.pending.unsorted:
                self._state.sort()
            self._state.torn = False


class State:
    """Marks, journal, clock, flights and the tiers inside the process.

    `lock` guards every change; it is held for microseconds and never across I/O. A change of more than one step is
    made within `change` as well. Single look-ups need no lock.

    The lock is re-entrant, but a signal handler or a finalizer that runs inside a change must not begin another:
    `Engine.inside` tells, and `begin_inside` is what may be done there.
    """

    def __init__(
        self,
        settings: Settings,
        now: Callable[[], float],
        rng: random.Random,
        token: Callable[[], str] = lambda: os.urandom(8).hex(),
    ) -> None:
        self.settings = settings
        self.now = now
        self.rng = rng
        self._token = token
        self.lock = new_lock()
        self.torn = False
        self.change = _Change(self)
        self.marks = Marks()
        self.journal = Journal()
        self.clock = ServerClock()
        self.near = Near(settings.near_bytes)
        self.gutter: Gutter[Outcome] = Gutter(seconds=settings.gutter)
        self.flights = Flights()
        #: Single reads under way that other tasks may join, by key; all were sent after the last mark and resync,
        #: each of which brings another dict. Without the lock; see client/sharing.py.
        self.reading: dict[str, Any] = {}
        #: Who waits for one of them, by its future.
        self.joining: dict[Any, list[Any]] = {}
        self.leases: dict[str, HeldLease] = {}
        #: The refreshes under way in the background, by key.
        self.refreshing: dict[str, Alive] = {}
        #: What is being changed, by id.
        self.holds: dict[str, Hold] = {}
        self._life, self._lives = token(), count()
        #: The replication id of the master's data that all the rest was learnt from (rule 5).
        self.generation = ""
        self.known_life: str | None = None
        self.master_run_id = ""
        #: Where the hot path reads; and what stands for the last change of that: a new object each time, since a
        #: number that two threads raise at once may be the same again.
        self.route = NOWHERE
        self.turn = object()
        self.ready = False
        #: Whether marks of the bookkeeping have still to be read: then only the master can judge what is cached.
        self.unread = False
        self.local = False
        self.resyncs = 0
        #: Told with the next resync.
        self.unready_why: Why = "start"
        self.position = "0-0"
        #: Replicas serve only when known to have caught up past this moment (rule 7).
        self.tau = float("inf")
        #: Since when the process is in use; inf while it is idle. What was heard before does not count as current.
        self.awake_since = float("-inf")
        self._covers = float("-inf")
        self.covers = float("-inf")
        #: When the newest request of a call that the master answered was sent. Guarded by `lock`.
        self.answered = float("-inf")
        self._master_down = False
        self._readiness: Landing[None] = Landing()

    def __repr__(self) -> str:
        return (
            f"<State ready={self.ready} generation={self.generation[:8]!r} resyncs={self.resyncs}"
            f" {self.marks!r} {self.journal!r} {self.flights!r}>"
        )

    # -- can what was heard be relied on?

    @property
    def covers(self) -> float:
        """Everything that the master logged before this moment was heard (rule 14)."""
        return self._covers

    @covers.setter
    def covers(self, moment: float) -> None:
        back, self._covers = moment < self._covers, moment
        #: Until when the tail is sure, for the hot path; without a resync, and while the process is idle, never.
        self.sure_until = moment + self.settings.max_staleness if moment >= self.awake_since else -inf
        if back:
            self.leave_route()

    @property
    def master_down(self) -> bool:
        """The master did not answer, and nothing was heard of it since."""
        return self._master_down

    @master_down.setter
    def master_down(self, down: bool) -> None:
        changed, self._master_down = down is not self._master_down, down
        if changed:
            self.leave_route()

    def leave_route(self) -> None:
        """What decides where reads go has changed: the next one finds out anew. From any thread."""
        self.turn = object()
        self.route = NOWHERE

    def take_route(self, route: Route, turn: object) -> None:
        """Go there from now on, unless something changed since that `turn`, when it was looked for."""
        self.route = route
        if self.turn is not turn:
            self.route = NOWHERE

    def blind(self, now: float) -> bool:
        """Whether an invalidation could have passed unheard (rule 14)."""
        return not self.local and now - self.covers > self.settings.max_staleness

    def sure(self, now: float) -> bool:
        """Whether near and replicas may be read."""
        return self.ready and not self.blind(now) and self._covers >= self.awake_since

    @property
    def idle(self) -> bool:
        """Whether nobody calls, so that the log is read seldom."""
        return self.awake_since == inf

    def rest(self) -> None:
        """The process is idle from now on."""
        with self.lock:
            self.awake_since = inf
            self.covers = self._covers
            self.leave_route()

    def wake(self) -> None:
        """The process is in use; what is heard from now on counts."""
        with self.lock:
            if self.idle:
                self.awake_since = self.now()

    def new_id(self) -> str:
        """16 random hex digits: the id of an invalidation or an entry, and the token of a lease."""
        return self._token()

    def new_life(self) -> str:
        """A name for bookkeeping that is created now; never given twice."""
        return f"{self._life}{next(self._lives):x}"

    # -- readiness

    @property
    def same_data(self) -> bool:
        """Whether the data of the master is still of `generation`, as far as is known, though not all may have been
        heard of it."""
        return self.ready or self.unready_why in _UNHEARD

    def when_ready(self) -> Landing[None]:
        """Set at the next resync or once the master is known to be down; at once if it is so already."""
        with self.lock:
            if self._readiness.done is not (self.ready or self.master_down):
                self._readiness, before = Landing(), self._readiness
                before.set(None)
                if self.ready or self.master_down:
                    self._readiness.set(None)
            return self._readiness

    @property
    def awaited(self) -> bool:
        """Whether a caller waits for the next resync."""
        return self._readiness.awaited

    def down(self) -> None:
        """The master does not answer: who waits for a resync goes on without it, instead of to its deadline."""
        with self.lock:
            self.master_down = True
            self._readiness.set(None)

    def unready(self, why: Why = "generation", *, master: bool = False) -> None:
        """Another master, or another life of its data: nothing is relied on until the resync (rule 5).

        With `master`, there is one that was not met dead: callers wait for the resync, instead of computing what
        is cached. `why` is told with the resync.
        """
        with self.lock, self.change:
            # Of several reasons that tell most which came first; but that the data is another, of any.
            if self.ready or why == "fork" or (self.unready_why in _UNHEARD and why not in _UNHEARD):
                self.unready_why = why
            self.ready = self.unread = False
            if master:
                self.master_down = False
            self.tau = float("inf")
            self.covers = float("-inf")
            self.journal.suspended = True
            self.near.clear()
            self.clock.reset()
            self.reading = {}

    def resynced(
        self,
        reply: ResyncReply,
        run_id: str,
        marks: Sequence[tuple[Scope, int]],
        began: float,
        *,
        unread: bool = False,
    ) -> int:
        """Everything is known anew; returns how many invalidations turned out to be lost (rules 3 and 5).

        `unread`: `marks` are not all. Until `learnt` the process counts as blind (rule 14).
        """
        now = self.now()
        with self.lock, self.change:
            for scope, stamp in marks:
                self.marks.hear(scope, stamp, now)
            self.marks.everything = max(self.marks.everything, reply.everything)
            self.marks.tag_floor = max(self.marks.tag_floor, reply.tagfloor)
            self.marks.newest = max(self.marks.newest, reply.tip)
            self.marks.horizon = max(self.marks.horizon, reply.tip)
            self.marks.version += 1
            self.near.clear()
            self.flights.clear()
            self.generation = reply.replid
            self.known_life = reply.life
            self.master_run_id = run_id
            self.position = reply.last
            self.resyncs += 1
            self.tau = now
            lost = self.journal.resynced(
                reply.gens, now, lambda: self.rng.uniform(0, REPLAY_JITTER), self.new_id, reply.tip
            )
            self.unread = unread
            self.covers = float("-inf") if unread else began
            self.reading = {}  # after the count of resyncs: who joins looks at that first
            self.ready = True
            self.master_down = False
            self.leave_route()
            self._readiness.set(None)
        return lost

    def hear_marks(self, marks: Sequence[tuple[Scope, int]], everything: int, tag_floor: int) -> None:
        """Marks and floors that were read while none of what they cover is served without the master."""
        now = self.now()
        with self.lock, self.change:
            for scope, stamp in marks:
                self.marks.hear(scope, stamp, now)
            self.marks.everything = max(self.marks.everything, everything)
            self.marks.tag_floor = max(self.marks.tag_floor, tag_floor)

    def learnt(self, began: float) -> None:
        """No mark is `unread` any more, of those that were there when the resync began."""
        with self.lock, self.change:
            self.marks.version += 1
            self.near.clear()
            self.reading = {}
            self.unread = False
            self.covers = began
            self.leave_route()

    # -- marks

    def hear_line(self, line: LogLine) -> None:
        """One line of the log."""
        scope, now = line.scope, self.now()
        with self.lock, self.change:
            self._mark(scope, line.stamp, now)
            self.flights.detach(scope, line.stamp)
            self.journal.heard(line.id, scope, line.stamp, line.generation, now)

    def hear_former(self, line: LogLine) -> bool:
        """One line of the log of a master that has been replaced; True when the present one lacks it."""
        scope, now = line.scope, self.now()
        with self.lock, self.change:
            self._mark(scope, line.stamp, now)
            self.flights.detach(scope, line.stamp)
            due = now + self.rng.uniform(0, REPLAY_JITTER)
            pending = self.journal.heard_late(line.id, scope, line.stamp, line.generation, now, due)
            if pending:
                self.leave_route()
            return pending

    def learn(self, subject: Subject, known: KnownMarks) -> None:
        """The marks that came with an answer of the master (rule 2)."""
        if known.tip <= self.marks.newest and known.tip < 1:
            return
        with self.lock, self.change:
            version = self.marks.version
            self.marks.learn(
                subject,
                tip=known.tip,
                everything=known.everything,
                function=known.function,
                tag_floor=known.tagfloor,
                tags=known.tags,
            )
            if version != self.marks.version:
                self.reading = {}

    def _mark(self, scope: Scope, stamp: int, now: float) -> None:
        self.marks.hear(scope, stamp, now)
        self.reading = {}
        self.near.hear(scope)
        self.gutter.hear(scope)

    def clock_was_wrong(self, now_us: int, generation: str) -> None:
        """The master of that generation refused something as too late, and told its time (rule 11)."""
        with self.lock, self.change:
            if self.ready and self.generation == generation:
                self.clock.reset()
                self.clock.observe(now_us, self.now())
                self.near.clear()

    def observe_time(self, time_us: int, received: float, sent: float = float("-inf")) -> None:
        """The server told its time; the caller holds the lock. See `ServerClock.observe`."""
        before = self.clock.offset_us
        self.clock.observe(time_us, received, sent)
        after = self.clock.offset_us
        if before is not None and after is not None and after - before > STEP:
            # How long an entry may stay near was told by the time before: an hour too long, perhaps (rule 19).
            self.near.clear()

    def master_time(self, time_us: int, generation: str, received: float, sent: float) -> None:
        """The monitor asked a master of that generation for its time."""
        with self.lock:
            if self.ready and self.generation == generation:
                self.observe_time(time_us, received, sent)

    def expire(self) -> None:
        """Forget what is safe to forget; called by the background now and then."""
        now, settings = self.now(), self.settings
        with self.lock, self.change:
            self.marks.expire_keys(now, settings.lag_bound + 2 * settings.budget)
            self.journal.prune(now, keep=settings.journal_time)

    # -- an invalidation's way

    def begin(self, scope: Scope, function: str = "", sender: Owner | None = None) -> Pending:
        """Before it is sent: obeyed here from now on (rule 4); flights under way are not joined any more.

        Once its `sender` has ended without a word, the background sends it.
        """
        with self.lock, self.change:
            alive = None if sender is None else sender.alive
            item = self.journal.begin(self.new_id(), scope, function, alive)
            self._begun(scope)
            self.reading = {}
        return item

    def _begun(self, scope: Scope) -> None:
        self.leave_route()
        self.marks.version += 1  # what was found fresh may be outdated by it
        self.flights.detach(scope)
        self.near.hear(scope)
        self.gutter.hear(scope)

    def begin_inside(self, scope: Scope, function: str = "") -> None:
        """The same from a signal handler or a finalizer inside a change (or on the thread of the background): it is
        obeyed from here on, and the background sends it."""
        self.journal.begin_inside(self.new_id(), scope, function, self.now())
        self.leave_route()
        self.marks.version += 1
        self.reading = {}

    def sort(self) -> None:
        """Take in what was begun inside changes; within `change`."""
        for item in self.journal.sort():
            self._begun(item.scope)
            self.reading = {}

    def repair(self) -> None:
        """Make whole what an exception left in the middle of a change; under the lock.

        Marks, records and pending invalidations are never lost (see there). What only saves time is dropped.
        """
        self.journal.repair()
        self.near.clear()
        self.gutter.clear()
        self.flights.clear()
        self.reading = {}
        self.marks.version += 1
        self.leave_route()
        self.torn = False

    def supersedes(self, item: Pending) -> None:
        """The master has a write or an invalidation of a key: earlier ones of the key need not be sent."""
        with self.lock, self.change:
            self.journal.cancel_key(item.scope.name, item.sequence)

    def acknowledged(self, item: Pending, stamp: int, generation: str) -> None:
        """The master has it."""
        now = self.now()
        with self.lock, self.change:
            self._mark(item.scope, stamp, now)
            present = self.generation if self.ready else None
            self.journal.acknowledged(item, stamp, generation, now, present=present)

    def given_up(self, item: Pending) -> None:
        """It stays pending; the background goes on trying."""
        with self.lock, self.change:
            self.journal.given_up(item, self.now())

    def withdrawn(self, item: Pending) -> None:
        """It did nothing and is not wanted."""
        with self.lock, self.change:
            self.journal.withdrawn(item)

    # -- what a call owns

    def reclaim(self) -> tuple[list[tuple[str, str]], list[Hold], bool]:
        """Take back what calls owned that ended without a word, because an exception came at a bad moment.

        Called by the background every tenth of a second. Returns the leases (key, token) and the holds to release,
        and whether there are invalidations to send.
        """
        with self.lock, self.change:
            flights = self.flights.abandoned()
            for flight in flights:
                self.flights.end(flight)
            dead = [lease for lease in list(self.leases.values()) if not lease.held()]
            for lease in dead:
                self.leases.pop(lease.token, None)
            for key, alive in list(self.refreshing.items()):
                if not alive():
                    self.refreshing.pop(key, None)
            self._drop_reads()
            holds = [hold for hold in list(self.holds.values()) if not hold.open()]
            for hold in holds:
                self.holds.pop(hold.id, None)
                for scope in hold.scopes:
                    self.journal.given_up(self.journal.begin(self.new_id(), scope), self.now())
                    self._begun(scope)
                self.reading = {}
            unsent = self.journal.unsent(self.now())
        for flight in flights:
            if flight.phase == "running":
                flight.spent = inf  # what others waited was the function's own time, not theirs
            flight.land(None)
        return [(lease.key, lease.token) for lease in dead], holds, bool(unsent or holds)

    def _drop_reads(self) -> None:
        """Forget shared reads whose time is over, and those who waited on a loop that was closed."""
        now = self.now()
        for key, (_, _, since, plan, _) in list(self.reading.items()):
            if since + plan.patience < now - 1.0:
                self.reading.pop(key, None)
        for read in list(self.joining):
            loop = getattr(read, "_loop", None)
            if loop is not None and loop.is_closed():
                self.joining.pop(read, None)

    # -- flights

    def join_or_lead(
        self,
        subject: Subject,
        need: int,
        caller: Owner,
        *,
        joinable: bool,
        overdue: Overdue | None = None,
        at_once: bool = True,
    ) -> tuple[Flight, bool]:
        """The flight of a key, and whether the caller leads it.

        A caller that is not `joinable` joins only a flight that runs the function already and began with all that
        the caller knows of invalidations. With `at_once`, a caller that leads one because another is `overdue` runs
        the function now.
        """
        now = self.now()
        with self.lock:
            flight = self.flights.get(subject.key)
            # Two leaders of a key that cannot ask the primary would each run the function (rule 13).
            if flight is not None and not joinable and (flight.phase != "running" or flight.need < need):
                flight = None
            # A flight that began while the tail was blind may have missed an invalidation (rule 6).
            if flight is not None and self.blind(now) and now - flight.started > self.settings.max_staleness:
                flight = None
            if flight is not None:
                late = overdue is not None and flight is overdue.flight
                # Its leader may have begun to run the function when the caller gave up.
                if not late or (overdue is not None and not overdue.outwaited and flight.phase == "running"):
                    return flight, False
            flight = self.flights.begin(subject, need, now, caller)
            if overdue is not None and at_once:
                flight.phase = "running"
            return flight, True

    def wait_for(self, flight: Flight, stops: AbstractEventLoop | None = None) -> Wait | None:
        """Note that the caller waits for a flight, for as long as it keeps the answer; None when it must not, since
        the wait could never end. `stops` is the loop that stands still meanwhile."""
        with self.lock:
            return self.flights.wait(flight, stops, self._holders)

    def waits_for_itself(self, flight: Flight) -> bool:
        """Whether the leader of a flight waits for a lease that a run of this process holds, and that run, perhaps
        through others, for what the leader's caller computes."""
        with self.lock:
            return self.flights.waits_for_itself(flight, self._holders)

    def _holders(self, key: str) -> Iterable[Alive]:
        return [one.run for one in list(self.leases.values()) if one.key == key and one.run is not None]

    def overtaken(self, flight: Flight) -> bool:
        """Whether a later flight of the key runs the function: of a caller whose budget ended sooner.

        If not, the leader of this one runs it now, and this flight takes its place back: later callers join it, and
        so does whoever leads one that still asks, if its budget ends meanwhile.
        """
        with self.lock:
            other = self.flights.get(flight.subject.key)
            if other is not None and other is not flight and other.phase == "running":
                return True
            self.flights.resume(flight)
            flight.phase = "running"
            return False

    def landed(self, flight: Flight, outcome: Outcome | None) -> None:
        """The leader is done. Without an outcome, `reclaim` releases the lease that it may have been granted."""
        with self.lock:
            self.flights.end(flight)
        flight.land(outcome)
        if outcome is not None:
            held = self.leases.get(flight.token)
            if held is not None and held.held is flight.led:
                self.let_go(held)

    def acceptable(self, outcome: Outcome, subject: Subject, need: int) -> bool:
        """What a joiner accepts (rule 6)."""
        tags = outcome.envelope.tags if outcome.envelope is not None else ()
        after = -1 if outcome.sequence is None else outcome.sequence
        return (
            outcome.stamp >= need
            and not self.journal.covers(subject, tags, after=after)
            and self.marks.joinable(outcome.stamp, subject, tags)
        )

    # -- near

    def put_near(self, subject: Subject, envelope: Envelope, seconds: float, resyncs: int, obeyed: int) -> None:
        """Keep an entry in the process, if nothing outdates it; checked and put under the lock (rule 8).

        `resyncs` as when the server was asked, `obeyed` as in `Marks.remembers`.
        """
        server_ms = self.clock.server_ms(now := self.now())
        if seconds <= 0 or server_ms is None:
            return
        until = now + min(seconds, (envelope.soft_ms - server_ms) / 1e3)
        with self.lock, self.change:
            if resyncs != self.resyncs or not self.ready or until <= now:
                return
            tags = envelope.tags
            fresh = self.marks.holds(envelope.stamp, obeyed, subject, tags)
            if fresh and not self.journal.covers(subject, tags):
                self.near.put(subject.key, envelope, until)

    # -- leases

    def hold(
        self, key: str, token: str, holder: Alive, lease: float = LEASE, *, running: bool = False
    ) -> HeldLease:
        """Note a lease that is asked for, or whose function runs: then it is renewed. Until `let_go`."""
        now = self.now()
        held = HeldLease(key, token, lease, now, now, now, holder, running)
        self.leases[token] = held
        return held

    def ask_for(self, flight: Flight) -> str:
        """The token of the lease that the leader of a flight asks for now."""
        token = flight.token = self.new_id()
        self.hold(flight.subject.key, token, flight.led)
        return token

    def let_go(self, *leases: HeldLease) -> None:
        """Nothing of them is left to be released, or others see to it."""
        for held in leases:
            if self.leases.get(held.token) is held:
                self.leases.pop(held.token, None)

    # -- refreshes

    def claim(self, keys: Iterable[str], claimant: Owner) -> set[str]:
        """Those of the keys that nobody refreshes here; from now on somebody does."""
        with self.lock:
            mine = {key for key in keys if (other := self.refreshing.get(key)) is None or not other()}
            alive = claimant.alive
            for key in mine:
                self.refreshing[key] = alive
        return mine

    def refreshed(self, keys: Iterable[str]) -> None:
        """Their refresh is over."""
        for key in keys:
            self.refreshing.pop(key, None)

    # -- holds

    def begin_change(self, scopes: Sequence[Scope], seconds: float, block: Owner) -> Hold:
        """Something is about to be changed; until it is over, each new master is told."""
        hold = Hold(self.new_id(), tuple(scopes), self.now() + seconds, block.alive)
        with self.lock:
            self.holds[hold.id] = hold
        return hold

    def ending(self, hold: Hold) -> bool:
        """It is about to end: no new master is told of it. False when it is another process's (after a fork)."""
        hold.asking = True
        return hold.id in self.holds

    def changed(self, hold: Hold) -> bool:
        """It is over; False when that was another process's matter (after a fork)."""
        return self.holds.pop(hold.id, None) is not None

    def holding(self, hold: Hold) -> bool:
        """Whether the master that is followed refuses fills for it now."""
        here = self.ready and hold.held and hold.resyncs == self.resyncs
        return here and hold.id in self.holds and self.now() < hold.until

    # -- fork

    def after_fork(self) -> None:
        """In the child: the parent's threads, and whatever they had under way, are not here."""
        self._readiness = Landing()
        self.leases.clear()
        self.refreshing.clear()
        self.holds.clear()
        self.flights.forget()
        self.joining = {}
        self.repair()  # another thread may have been in the middle of a change
        self.sort()
        now = self.now()
        for item in self.journal.pending.values():
            if item.due is None:
                # The parent sends it too: the id makes the second one do nothing.
                item.due, item.given = now, self.journal.sequence
            item.settled = Landing()
        self._life = self._token()
        self.rng.seed(self._token())
        if not self.local:
            self.unready("fork")
