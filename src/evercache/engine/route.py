"""Where plain reads go, found once and good until something changes: all that the hot path asks about nodes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from math import inf
from typing import TYPE_CHECKING

from evercache.engine.readers import Reader
from evercache.protocol.balance import Hedges

if TYPE_CHECKING:
    from evercache.topology import Replica

__all__ = ["NOWHERE", "Route"]


class Route:
    """Immutable but for the turns that are taken from `readers`.

    It is replaced after every change of what it was made from (`State.leave_route`). Whoever read by it holds the
    answer against the state again: that it was left meanwhile is not looked at.
    """

    __slots__ = ("even", "hedges", "members", "readers", "resyncs", "until")

    def __init__(
        self,
        until: float,
        resyncs: int,
        readers: Iterator[Reader],
        *,
        members: tuple[Replica, ...] | None = None,
        even: bool = False,
        hedges: Hedges | None = None,
    ) -> None:
        #: The tail is sure, and the replicas lag by no more than they may, until this moment (monotonic seconds).
        self.until = until
        #: Of the state, when it was made.
        self.resyncs = resyncs
        #: Gives the node for one read after the other, without end.
        self.readers = readers
        #: The replicas among which it is chosen; none while only the master is read; None where the view has none.
        self.members = members
        #: They take turns, as long as none has a queue: where one has, `ReplicaSet.weigh` chooses.
        self.even = even
        #: When a read is late; None where there is no second node, or no hedging.
        self.hedges = hedges

    def __repr__(self) -> str:
        return f"<Route until={self.until:.3f} members={self.members}>"


#: There is none: the long way finds out.
NOWHERE = Route(-inf, -1, repeat(None))  # type: ignore[arg-type]
