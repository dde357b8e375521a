"""Of the replicas."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar, Literal

from evercache.observe.event import Begins, Ends, Event, Occasion

__all__ = [
    "HedgedRead",
    "HedgesAvailable",
    "HedgesExhausted",
    "ReplicaAdmitted",
    "ReplicaCaughtUp",
    "ReplicaEjected",
    "ReplicaLags",
    "ReplicaRemoved",
    "ReplicaReturned",
    "RetriesAvailable",
    "RetriesExhausted",
]


@dataclass(frozen=True, slots=True)
class ReplicaEjected(Begins):
    """A replica takes no reads. `cause` is the kind of trouble, told anew when it changes."""

    text: ClassVar[str] = "replica {e.address}: {e.why}"
    opens: ClassVar[str] = "replica {e.address}"
    before_contact: ClassVar[Literal["", "quiet", "later"]] = "later"
    address: str
    why: str
    cause: str = ""

    @property
    def phase(self) -> str:
        """The kind of trouble, not each wording of it."""
        return self.cause


@dataclass(frozen=True, slots=True)
class ReplicaReturned(Ends):
    """A replica is sound again."""

    text: ClassVar[str] = "replica {e.address} answers and is sound again"
    closes: ClassVar[tuple[str, ...]] = ("replica {e.address}",)
    address: str


@dataclass(frozen=True, slots=True)
class ReplicaAdmitted(Event):
    """A replica was verified for the first time: reads may go there."""

    text: ClassVar[str] = "replica {e.address} is in sync and takes reads"
    closes: ClassVar[tuple[str, ...]] = ("replica {e.address}",)
    address: str


@dataclass(frozen=True, slots=True)
class ReplicaRemoved(Event):
    """It is listed as a replica no more (promoted, perhaps)."""

    text: ClassVar[str] = "{e.address} is no replica of this master any more"
    closes: ClassVar[tuple[str, ...]] = ("replica {e.address}", "lag {e.address}")
    address: str


@dataclass(frozen=True, slots=True)
class ReplicaLags(Begins):
    """A replica is further behind than `lag_bound`."""

    text: ClassVar[str] = "replica {e.address} is {e.seconds:.1f} s behind, more than lag_bound, and not read"
    opens: ClassVar[str] = "lag {e.address}"
    address: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ReplicaCaughtUp(Ends):
    """A replica is within `lag_bound` again."""

    text: ClassVar[str] = "replica {e.address} has caught up"
    closes: ClassVar[tuple[str, ...]] = ("lag {e.address}",)
    address: str


@dataclass(frozen=True, slots=True)
class HedgedRead(Occasion):
    """A replica was slow: the same read was sent to another one as well, and the first answer taken."""

    text: ClassVar[str] = "replica {e.address} was slow: a read was sent to another replica as well"
    about: ClassVar[str] = "{e.address}"
    address: str


@dataclass(frozen=True, slots=True)
class HedgesExhausted(Begins):
    """So many reads were sent twice lately that no more are: the replicas are slow altogether."""

    level: ClassVar[int] = logging.INFO
    text: ClassVar[str] = "reads are not sent twice for a while: the share that may be is spent"
    opens: ClassVar[str] = "hedges"


@dataclass(frozen=True, slots=True)
class HedgesAvailable(Ends):
    """Slow reads may be sent twice again."""

    text: ClassVar[str] = "slow reads may be sent twice again"
    closes: ClassVar[tuple[str, ...]] = ("hedges",)


@dataclass(frozen=True, slots=True)
class RetriesExhausted(Begins):
    """So many calls were sent to the master again lately that no more are: each has one attempt."""

    text: ClassVar[str] = "calls that fail at the master are not sent again for a while: too many fail"
    opens: ClassVar[str] = "retries"


@dataclass(frozen=True, slots=True)
class RetriesAvailable(Ends):
    """Calls that fail may be sent again."""

    text: ClassVar[str] = "calls that fail at the master may be sent again"
    closes: ClassVar[tuple[str, ...]] = ("retries",)
