"""Computations and fetches under way in this process, so that one key is asked for once at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from evercache.protocol.envelope import Envelope
from evercache.protocol.scope import Scope, Subject

__all__ = ["ABSENT", "PROMPT", "UNSET", "Flight", "Flights", "Outcome", "computes_here", "computing"]


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


@dataclass(eq=False, slots=True)
class _Computation:
    keys: frozenset[str]
    over: bool = False


#: What the present thread or task computes, or who started it; a task may outlive what it was started in.
_computing: ContextVar[tuple[_Computation, ...]] = ContextVar("evercache_computing", default=())


@contextmanager
def computing(*keys: str) -> Iterator[None]:
    """Within it, the present thread or task, and those that it starts, compute these keys."""
    mine = _Computation(frozenset(keys))
    token = _computing.set((*(one for one in _computing.get() if not one.over), mine))
    try:
        yield
    finally:
        mine.over = True
        _computing.reset(token)


def computes_here(key: str) -> bool:
    """Whether the present thread or task computes a key: to wait for it would be to wait for oneself."""
    return any(key in one.keys and not one.over for one in _computing.get())


@dataclass(frozen=True, slots=True)
class Outcome:
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


@dataclass(eq=False, slots=True)
class Flight:
    """One leader's errand for a key; the future is resolved once, with an outcome or None (ask again)."""

    subject: Subject
    need: int
    started: float
    #: What its leader does: asks a server, waits while another process runs the function, or runs it.
    phase: Literal["asking", "waiting", "running"] = "asking"
    #: Seconds that the function took of it, here or in another process; written by the leader before it lands.
    spent: float = 0.0
    #: Until when nothing will come of it: the end of a leader's pause, or a moment after its next question.
    idle: float = 0.0
    done: Future[Outcome | None] = field(default_factory=Future, repr=False)

    def waits(self, until: float) -> None:
        """Another process runs the function; the leader asks again then."""
        self.phase, self.idle = "waiting", until + PROMPT

    def asks(self, now: float, took: float) -> None:
        """It asks now, after the function took so long."""
        self.spent += took
        self.phase, self.idle = "asking", now + PROMPT

    def land(self, outcome: Outcome | None) -> None:
        """Wake who waits."""
        if not self.done.done():
            self.done.set_result(outcome)


class Flights:
    """Flights by key; guarded by the owner's lock."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight] = {}

    def __repr__(self) -> str:
        return f"<Flights {list(self._by_key)}>"

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: str) -> Flight | None:
        """The flight that may be joined."""
        return self._by_key.get(key)

    def begin(self, subject: Subject, need: int, now: float) -> Flight:
        """Begin one; an older one of the key goes on by itself and can't be joined any more."""
        flight = self._by_key[subject.key] = Flight(subject, need, now)
        return flight

    def end(self, flight: Flight) -> None:
        """It landed."""
        if self._by_key.get(flight.subject.key) is flight:
            del self._by_key[flight.subject.key]

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
                del self._by_key[flight.subject.key]

    def clear(self) -> None:
        """A resync: none may be joined any more."""
        self._by_key.clear()
