"""Computations and fetches under way in this process, so that one key is asked for once at a time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, final

from msgspec import Struct, field

from evercache.process import THREADS
from evercache.protocol.envelope import Envelope
from evercache.protocol.landing import Landing
from evercache.protocol.scope import Scope, Subject

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = [
    "ABSENT",
    "PROMPT",
    "UNSET",
    "Alive",
    "Flight",
    "Flights",
    "Outcome",
    "Overdue",
    "Owner",
    "Wait",
    "computes_here",
    "computing",
]


class _Named:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


UNSET: Final = _Named("UNSET")
#: A question that is answered within so many seconds costs no budget while somebody else computes.
PROMPT: Final = 0.02
#: In the place of a value: the function computed a batch and left this one out.
ABSENT: Final = _Named("ABSENT")


class Owner:
    """A call that has something to give back: a flight that it leads, a lease, an invalidation that it sends.

    Only the frame of the call references it strongly; the registries keep `alive`. A signal handler can raise
    between any two steps of a call, also within `finally`, so bookkeeping alone cannot say that a call has ended:
    the end of its frame does, and the background reclaims what the call owned (`State.reclaim`).

    `loop` is that of a task, None for a blocking call. A task whose loop does not run cannot go on either.
    `keys` are those that it computes, if it is a computation.
    """

    __slots__ = ("__weakref__", "keys", "loop", "over", "thread")

    def __init__(self, loop: AbstractEventLoop | None = None, keys: frozenset[str] = frozenset()) -> None:
        self.loop = loop
        self.keys = keys
        self.thread = THREADS.ident()
        #: Set when the call ends: a traceback that somebody stores keeps the frame, and so this object.
        self.over = False

    def __repr__(self) -> str:
        return f"<Owner {'over' if self.over else 'alive'} keys={len(self.keys)}>"

    @property
    def alive(self) -> Alive:
        """Says whether the call goes on, without keeping it."""
        return Alive(self)


@final
class Alive(weakref.ref[Owner]):
    """Says whether a call goes on. Compared by identity."""

    __slots__ = ()

    def owner(self) -> Owner | None:
        """The call, if it goes on."""
        owner = weakref.ref.__call__(self)
        if owner is None or owner.over or (owner.loop is not None and not owner.loop.is_running()):
            return None
        return owner

    def __call__(self) -> bool:  # type: ignore[override]
        """Whether the call goes on."""
        return self.owner() is not None


#: What the present thread or task computes, or the one that started it; a task may outlive the computation.
_computing: ContextVar[tuple[Alive, ...]] = ContextVar("evercache_computing", default=())


@contextmanager
def computing(keys: Iterable[str], loop: AbstractEventLoop | None = None) -> Iterator[Alive]:
    """Within it, the present thread or task, and those that it starts, compute these keys."""
    mine = Owner(loop, frozenset(keys))
    alive = mine.alive
    token = _computing.set((*(one for one in _computing.get() if one()), alive))
    try:
        yield alive
    finally:
        mine.over = True
        with suppress(ValueError):  # the collector ends a task of a loop that was closed, in another context
            _computing.reset(token)


def computes_here(key: str) -> bool:
    """Whether the present thread or task computes a key: to wait for it would be to wait for oneself."""
    return any((owner := one.owner()) is not None and key in owner.keys for one in _computing.get())


class Outcome(Struct, frozen=True):
    """What a flight brought home.

    `envelope` is the form that can be shared (each caller decodes a copy of its own), `value` the object that
    the function returned to the leader, `error` what it raised. `sequence` is None for what a server had or a
    lease covered; otherwise the journal's sequence when the computation began. `batch` are the keys that were
    computed in the same call, if there were several.
    """

    stamp: int
    source: str
    envelope: Envelope | None = None
    value: Any = UNSET
    error: BaseException | None = None
    sequence: int | None = None
    stale: bool = False
    batch: frozenset[str] | None = None


class Flight(Struct, eq=False):
    """One leader's request for a key; it lands once, with an outcome or None (ask again)."""

    subject: Subject
    need: int
    started: float
    #: Whether its leader goes on.
    led: Alive
    #: The function's run for it, if it runs in this process.
    run: Alive | None = None
    #: Of the lease that its leader asks for.
    token: str = ""
    #: What its leader does: asks a server, waits while another process runs the function, or runs it.
    phase: Literal["asking", "waiting", "running"] = "asking"
    #: Seconds that the function took of it, here or in another process; written by the leader before it lands.
    spent: float = 0.0
    #: Until when nothing will come of it: the end of a leader's pause, or a moment after its next question.
    idle: float = 0.0
    done: Landing[Outcome] = field(default_factory=Landing)

    def waits(self, until: float) -> None:
        """Another process runs the function; the leader asks again then."""
        self.phase, self.idle = "waiting", until + PROMPT

    def asks(self, now: float, took: float) -> None:
        """It asks now, after the function took so long."""
        self.spent += took
        self.phase, self.idle = "asking", now + PROMPT

    def land(self, outcome: Outcome | None) -> None:
        """Wake who waits."""
        self.done.set(outcome)


class Overdue(Struct, frozen=True, eq=False):
    """A flight that a caller waited for in vain.

    `outwaited`: for as long as anybody waits for a function that runs; else for its own budget, in which the leader
    did not begin to run it.
    """

    flight: Flight
    outwaited: bool


class Wait(Struct, frozen=True, eq=False, weakref=True):
    """A computation, or a blocking call on the thread of an event loop, waits for a flight.

    Referenced by the frame that waits only.
    """

    flight: Flight
    computations: tuple[Alive, ...]
    #: The loop that stands still meanwhile.
    stops: AbstractEventLoop | None


#: The runs in this process that hold a lease of a key.
Holders: TypeAlias = Callable[[str], Iterable[Alive]]


class Flights:
    """Flights by key, and who waits for them; guarded by the owner's lock."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight] = {}
        #: All that have not landed, those that cannot be joined any more included.
        self._under_way: set[Flight] = set()
        self._waits: list[weakref.ref[Wait]] = []

    def __repr__(self) -> str:
        return f"<Flights {list(self._by_key)}>"

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: str) -> Flight | None:
        """The flight that may be joined."""
        flight = self._by_key.get(key)
        return flight if flight is not None and flight.led() else None

    def begin(self, subject: Subject, need: int, now: float, leader: Owner) -> Flight:
        """Begin one; an older one of the key goes on by itself and can't be joined any more."""
        flight = Flight(subject, need, now, leader.alive)
        self._under_way.add(flight)
        self._by_key[subject.key] = flight
        return flight

    def resume(self, flight: Flight) -> None:
        """Make one that is under way the flight of its key again, after the later one has ended."""
        if flight in self._under_way:
            self._by_key[flight.subject.key] = flight

    def end(self, flight: Flight) -> None:
        """It landed."""
        self._under_way.discard(flight)
        if self._by_key.get(flight.subject.key) is flight:
            self._by_key.pop(flight.subject.key, None)

    @property
    def under_way(self) -> int:
        """How many have not landed, those that cannot be joined any more included."""
        return len(self._under_way)

    def abandoned(self) -> list[Flight]:
        """Those whose leader ended without landing them, or cannot go on."""
        return [flight for flight in list(self._under_way) if not flight.led()]

    # -- waits that cannot end

    def wait(self, flight: Flight, stops: AbstractEventLoop | None, holders: Holders) -> Wait | None:
        """Note that this thread or task waits for a flight; None when that could never end.

        It could not if the flight waits, perhaps through others, for what the caller computes, or for a call that
        the caller's own thread or loop would have to go on with. `stops` is the loop of a thread that blocks.
        """
        mine = tuple(one for one in _computing.get() if one())
        leader = flight.led.owner()
        if leader is not None and leader.loop is None and leader.thread == THREADS.ident():
            return None
        if mine or stops is not None:
            if self._leads_to(flight, mine, stops, holders):
                return None
            wait = Wait(flight, mine, stops)
            self._waits = [one for one in self._waits if one() is not None]
            self._waits.append(weakref.ref(wait))
            return wait
        return Wait(flight, (), None)

    def waits_for_itself(self, flight: Flight, holders: Holders) -> bool:
        """Whether a leader that waits for a lease waits, perhaps through others, for what it computes itself."""
        mine = tuple(one for one in _computing.get() if one())
        return bool(mine) and self._leads_to(flight, mine, None, holders)

    def _leads_to(
        self, flight: Flight, mine: tuple[Alive, ...], stops: AbstractEventLoop | None, holders: Holders
    ) -> bool:
        waits = [wait for one in self._waits if (wait := one()) is not None and not wait.flight.done.done]
        wanted = set(map(id, mine))
        seen, left = set[Flight](), [flight]
        while left:
            present = left.pop()
            if present in seen or present.done.done:
                continue
            seen.add(present)
            runs = [present.run] if present.run is not None else list(holders(present.subject.key))
            running = set(map(id, runs))
            owners = [owner for one in (present.led, *runs) if (owner := one.owner()) is not None]
            loops = {owner.loop for owner in owners if owner.loop is not None}
            if running & wanted or stops in loops:
                return True
            for wait in waits:
                if wait.stops in loops or any(id(one) in running for one in wait.computations):
                    left.append(wait.flight)
        return False

    def detach(self, scope: Scope, stamp: int | None = None) -> None:
        """An invalidation: who comes from now on does not join what began before it (rule 6).

        With its `stamp`, those stay that began when the mark was known already.
        """
        if not self._by_key:
            return
        flights = list(self._by_key.values())
        if scope.kind == "k":
            flights = [f for f in (self._by_key.get(scope.name),) if f is not None]
        for flight in flights:
            if scope.covers(flight.subject) and (stamp is None or flight.need < stamp):
                self._by_key.pop(flight.subject.key, None)

    def clear(self) -> None:
        """A resync: none may be joined any more."""
        self._by_key.clear()

    def forget(self) -> None:
        """After a fork, in the child: none is under way here."""
        self._by_key, self._under_way, self._waits = {}, set(), []
