"""What sentinels and data nodes say of who is master: values."""

from __future__ import annotations

from math import inf

from msgspec import Struct

from evercache.errors import UnavailableError
from evercache.protocol.types import Address

__all__ = ["Promotion", "ReplicaSeen", "RoleReport", "SentinelAnswer", "SentinelSeen", "View"]


class View(Struct, frozen=True):
    """Who is who now. A new epoch may be lower than the last one (sentinels created anew): compare with `!=`.

    `master` stays the last known one while nobody can be asked; `problem` then says what is wrong.
    """

    epoch: int
    master: Address | None
    replicas: tuple[Address, ...] = ()
    problem: UnavailableError | None = None


class ReplicaSeen(Struct, frozen=True):
    """A replica as a sentinel lists it."""

    address: Address
    flags: frozenset[str] = frozenset()
    priority: int = 100


class SentinelSeen(Struct, frozen=True):
    """Another sentinel as a sentinel lists it."""

    address: Address
    ident: str = ""
    #: Seconds since its last greeting. They greet each other every 2 s as long as they are connected.
    silent_for: float = 0.0
    #: For whom it voted when the sentinel that lists it asked, and in which epoch.
    voted_for: str = ""
    vote_epoch: int = 0


class SentinelAnswer(Struct, frozen=True):
    """What one sentinel said to one question (one pipeline), or the error with which it failed."""

    sentinel: Address
    #: When the question was sent.
    sent: float
    #: From GET-MASTER-ADDR-BY-NAME.
    master: Address | None = None
    #: `config-epoch` and the flags of SENTINEL MASTER.
    epoch: int = -1
    flags: frozenset[str] = frozenset()
    #: Since when (monotonic) all votes of this sentinel are known, as its events are followed; inf: they are not.
    followed_since: float = inf
    #: Itself and those that it knows; and what it says of those.
    known_sentinels: int = 1
    others: tuple[SentinelSeen, ...] = ()
    replicas: tuple[ReplicaSeen, ...] = ()
    error: UnavailableError | None = None
    #: SENTINEL MYID: one sentinel may be reachable under two addresses. Empty: unknown.
    ident: str = ""
    #: `failover-timeout` in seconds.
    failover_timeout: float = 180.0
    #: `down-after-milliseconds`, in seconds; 0: unknown.
    down_after: float = 0.0


class Promotion(Struct, frozen=True):
    """A replica that the leader of a failover has chosen: master at `epoch`, once it says itself that it is one.

    The leader finds out by its next INFO only (a second), and the other sentinels after it.
    """

    address: Address
    #: The epoch of the leader's election, which becomes the configuration epoch.
    epoch: int
    #: When the question was sent that first brought it.
    since: float


class RoleReport(Struct, frozen=True):
    """What ROLE on a data node said; an empty role: it did not answer."""

    address: Address
    sent: float
    role: str
