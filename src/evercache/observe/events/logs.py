"""Of the log of invalidations, and of those that wait for a master."""

from __future__ import annotations

import logging
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


class LogNotFollowed(Begins, frozen=True):
    """The master refuses what following the log needs."""

    text: ClassVar[str] = (
        "the log of invalidations on {e.address} cannot be followed, so every read asks the master: {e.why}"
    )
    opens: ClassVar[str] = "log"
    address: str
    why: str


class LogFollowed(Ends, frozen=True):
    """The log is followed again."""

    text: ClassVar[str] = "the log of invalidations on {e.address} is followed again"
    closes: ClassVar[tuple[str, ...]] = ("log",)
    address: str


class TailBlind(Begins, frozen=True):
    """An invalidation could have passed unheard: neither near nor replicas are read."""

    text: ClassVar[str] = "the log of invalidations cannot be read: reads go to the master"
    opens: ClassVar[str] = "blind"


class TailSure(Ends, frozen=True):
    """Every invalidation is heard again."""

    text: ClassVar[str] = "the log of invalidations is read again"
    closes: ClassVar[tuple[str, ...]] = ("blind",)


class Resynced(Occasion, frozen=True):
    """Everything was learnt anew. `reason`: start, fork, master, generation, life, flush, gap or unreadable."""

    text: ClassVar[str] = "the marks of {e.address} were read anew ({e.reason})"
    about: ClassVar[str] = "{e.reason}"
    address: str
    reason: str


class BookkeepingElsewhere(Begins, frozen=True):
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


class BookkeepingFound(Ends, frozen=True):
    """The bookkeeping is where this process was told that it is."""

    text: ClassVar[str] = "the bookkeeping is in database {e.db}, as bookkeeping_db= says"
    closes: ClassVar[tuple[str, ...]] = ("bookkeeping",)
    db: int


class MarksRestored(Occasion, frozen=True):
    """The bookkeeping was gone (`FLUSHALL`, a wiped restart, an eviction): what this process remembers was written
    back. Entries that are still there count as outdated."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "the bookkeeping on the master was gone; marks that were written back: {e.count}"
    count: int


class InvalidationsReissued(_Counted, Begins, frozen=True):
    """The present master lacks invalidations that were acknowledged."""

    text: ClassVar[str] = "a failover lost {e.invalidations}, which this process issues again"
    opens: ClassVar[str] = "lost"
    count: int


class InvalidationQueued(_Counted, Begins, frozen=True):
    """Invalidations wait for a master; this process obeys them already."""

    text: ClassVar[str] = (
        "the master does not have {e.invalidations} yet (a write that failed counts as one), which this process"
        " sends again until a master acknowledges: {e.why}"
    )
    opens: ClassVar[str] = "queue"
    before_contact: ClassVar[Literal["", "quiet", "later"]] = "quiet"
    count: int
    why: str


class QueueEmptied(Ends, frozen=True):
    """No invalidation waits any more."""

    text: ClassVar[str] = "the master has every invalidation that waited"
    closes: ClassVar[tuple[str, ...]] = ("queue", "lost")


class PendingMerged(Occasion, frozen=True):
    """Too many invalidations waited: some were widened to their functions, or to everything."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "too many invalidations wait for the master: they were widened, to {e.left} in all"
    before_contact: ClassVar[Literal["", "quiet", "later"]] = "quiet"
    left: int


class Spooled(_Counted, Event, frozen=True):
    """The process ends with invalidations that no master had; `kept` says what became of them."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "no master had {e.invalidations} when this process ended; {e.kept}"
    count: int
    kept: str


class SpoolRead(_Counted, Event, frozen=True):
    """An earlier process had left invalidations."""

    text: ClassVar[str] = "an earlier process left {e.invalidations}, which are sent to the master now"
    count: int


class SpoolUnreadable(Event, frozen=True):
    """The file of `spool=` cannot be read."""

    level: ClassVar[int] = logging.WARNING
    text: ClassVar[str] = "invalidations of an earlier process cannot be read: {e.why}; check spool="
    why: str
