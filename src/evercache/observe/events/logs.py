"""Of the log of invalidations, and of those that wait for a master."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar, Literal

from evercache.observe.event import Begins, Ends, Event, Occasion

__all__ = [
    "BookkeepingElsewhere",
    "BookkeepingFound",
    "InvalidationQueued",
    "InvalidationsReissued",
    "LogFollowed",
    "LogNotFollowed",
    "MarksRestored",
    "PendingMerged",
    "QueueEmptied",
    "Resynced",
    "SpoolRead",
    "SpoolUnreadable",
    "Spooled",
    "TailBlind",
    "TailSure",
]


class _Counted:
    """An event about several invalidations."""

    __slots__ = ()
    count: int

    @property
    def invalidations(self) -> str:
        """`1 invalidation`, `2 invalidations`."""
        return f"{self.count} invalidation{'' if self.count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class LogNotFollowed(Begins):
    """The master refuses what following the log needs."""

    text: ClassVar[str] = (
        "the log of invalidations on {e.address} cannot be followed, so every read asks the master: {e.why}"
    )
    opens: ClassVar[str] = "log"
    address: str
    why: str


@dataclass(frozen=True, slots=True)
class LogFollowed(Ends):
    """The log is followed again."""

    text: ClassVar[str] = "the log of invalidations on {e.address} is followed again"
    closes: ClassVar[tuple[str, ...]] = ("log",)
    address: str


@dataclass(frozen=True, slots=True)
class TailBlind(Begins):
    """An invalidation could have passed unheard: neither near nor replicas are read."""

    text: ClassVar[str] = "the log of invalidations cannot be read: reads go to the master"
    opens: ClassVar[str] = "blind"


@dataclass(frozen=True, slots=True)
class TailSure(Ends):
    """Every invalidation is heard again."""

    text: ClassVar[str] = "the log of invalidations is read again"
    closes: ClassVar[tuple[str, ...]] = ("blind",)


@dataclass(frozen=True, slots=True)
class Resynced(Occasion):
    """Everything was learnt anew. `reason`: start, fork, master, generation, life, flush, gap or unreadable."""

    text: ClassVar[str] = "the marks of {e.address} were read anew ({e.reason})"
    about: ClassVar[str] = "{e.reason}"
    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class BookkeepingElsewhere(Begins):
    """Other processes of the namespace have another `bookkeeping_db=`, and were first: theirs is used."""

    text: ClassVar[str] = (
        "bookkeeping_db={e.own}, but the processes of namespace {e.namespace!r} have their bookkeeping in database"
        " {e.db}, which is used instead: set bookkeeping_db={e.db} here as well, or stop all of them and remove"
        " {e.key} from that database"
    )
    opens: ClassVar[str] = "bookkeeping"
    namespace: str
    own: str
    db: int
    key: str

    @property
    def phase(self) -> str:
        """Told again where it is yet another database."""
        return str(self.db)


@dataclass(frozen=True, slots=True)
class BookkeepingFound(Ends):
    """The bookkeeping is where this process was told that it is."""

    text: ClassVar[str] = "the bookkeeping is in database {e.db}, as bookkeeping_db= says"
    closes: ClassVar[tuple[str, ...]] = ("bookkeeping",)
    db: int


@dataclass(frozen=True, slots=True)
class MarksRestored(Occasion):
    """The bookkeeping was gone (`FLUSHALL`, a wiped restart, an eviction): what this process remembers was written
    back. Entries that are still there count as outdated."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "the bookkeeping on the master was gone; marks that were written back: {e.count}"
    count: int


@dataclass(frozen=True, slots=True)
class InvalidationsReissued(_Counted, Begins):
    """The present master lacks invalidations that were acknowledged."""

    text: ClassVar[str] = "a failover lost {e.invalidations}, which this process issues again"
    opens: ClassVar[str] = "lost"
    count: int


@dataclass(frozen=True, slots=True)
class InvalidationQueued(_Counted, Begins):
    """Invalidations wait for a master; this process obeys them already."""

    text: ClassVar[str] = (
        "the master does not have {e.invalidations} yet (a write that failed counts as one), which this process"
        " sends again until a master acknowledges: {e.why}"
    )
    opens: ClassVar[str] = "queue"
    before_contact: ClassVar[Literal["", "quiet", "later"]] = "quiet"
    count: int
    why: str


@dataclass(frozen=True, slots=True)
class QueueEmptied(Ends):
    """No invalidation waits any more."""

    text: ClassVar[str] = "the master has every invalidation that waited"
    closes: ClassVar[tuple[str, ...]] = ("queue", "lost")


@dataclass(frozen=True, slots=True)
class PendingMerged(Occasion):
    """Too many invalidations waited: some were widened to their functions, or to everything."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "too many invalidations wait for the master: they were widened, to {e.left} in all"
    before_contact: ClassVar[Literal["", "quiet", "later"]] = "quiet"
    left: int


@dataclass(frozen=True, slots=True)
class Spooled(_Counted, Event):
    """The process ends with invalidations that no master had; `kept` says what became of them."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "no master had {e.invalidations} when this process ended; {e.kept}"
    count: int
    kept: str


@dataclass(frozen=True, slots=True)
class SpoolRead(_Counted, Event):
    """An earlier process had left invalidations."""

    text: ClassVar[str] = "an earlier process left {e.invalidations}, which are sent to the master now"
    count: int


@dataclass(frozen=True, slots=True)
class SpoolUnreadable(Event):
    """The file of `spool=` cannot be read."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "invalidations of an earlier process cannot be read: {e.why}; check spool="
    why: str
