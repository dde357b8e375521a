"""Of the replicas."""

from __future__ import annotations

import logging
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


class ReplicaEjected(Begins, frozen=True):
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


class ReplicaReturned(Ends, frozen=True):
    """A replica is sound again."""

    text: ClassVar[str] = "replica {e.address} answers and is sound again"
    closes: ClassVar[tuple[str, ...]] = ("replica {e.address}",)
    address: str


class ReplicaAdmitted(Event, frozen=True):
    """A replica was verified for the first time: reads may go there."""

    text: ClassVar[str] = "replica {e.address} is in sync and takes reads"
    closes: ClassVar[tuple[str, ...]] = ("replica {e.address}",)
    address: str


class ReplicaRemoved(Event, frozen=True):
    """It is listed as a replica no more (promoted, perhaps)."""

    text: ClassVar[str] = "{e.address} is no replica of this master any more"
    closes: ClassVar[tuple[str, ...]] = ("replica {e.address}", "lag {e.address}")
    address: str


class ReplicaLags(Begins, frozen=True):
    """A replica is further behind than `lag_bound`."""

    text: ClassVar[str] = "replica {e.address} is {e.seconds:.1f} s behind, more than lag_bound, and not read"
    opens: ClassVar[str] = "lag {e.address}"
    address: str
    seconds: float


class ReplicaCaughtUp(Ends, frozen=True):
    """A replica is within `lag_bound` again."""

    text: ClassVar[str] = "replica {e.address} has caught up"
    closes: ClassVar[tuple[str, ...]] = ("lag {e.address}",)
    address: str


class HedgedRead(Occasion, frozen=True):
    """A replica was slow: the same read was sent to another one as well, and the first answer taken."""

    text: ClassVar[str] = "replica {e.address} was slow: a read was sent to another replica as well"
    about: ClassVar[str] = "{e.address}"
    address: str


class HedgesExhausted(Begins, frozen=True):
    """So many reads were sent twice lately that no more are: the replicas are slow altogether."""

    level: ClassVar[int] = logging.INFO
    text: ClassVar[str] = "reads are not sent twice for a while: the share that may be is spent"
    opens: ClassVar[str] = "hedges"


class HedgesAvailable(Ends, frozen=True):
    """Slow reads may be sent twice again."""

    text: ClassVar[str] = "slow reads may be sent twice again"
    closes: ClassVar[tuple[str, ...]] = ("hedges",)


class RetriesExhausted(Begins, frozen=True):
    """So many calls were sent to the master again lately that no more are: each has one attempt."""

    text: ClassVar[str] = "calls that fail at the master are not sent again for a while: too many fail"
    opens: ClassVar[str] = "retries"


class RetriesAvailable(Ends, frozen=True):
    """Calls that fail may be sent again."""

    text: ClassVar[str] = "calls that fail at the master may be sent again"
    closes: ClassVar[tuple[str, ...]] = ("retries",)
