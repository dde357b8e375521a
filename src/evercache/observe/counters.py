"""Counters of one function, or of the direct operations of one cache."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Counts since the process began. No lock: under load a count may be lost, none is ever invented."""

    #: Answered by a value that was cached in the process, at a replica, at the master.
    near_hits: int = 0
    replica_hits: int = 0
    master_hits: int = 0
    #: Answered by what another call of this process was already fetching or computing.
    joined: int = 0
    #: Answered by a value past its soft expiry (stale-while-revalidate, stale-if-error).
    stale_served: int = 0
    #: Answered by what was kept while no server could be reached.
    gutter_hits: int = 0
    #: Not cached.
    misses: int = 0
    #: Runs of the function, those of them in the background, those without a lease, those that raised.
    computed: int = 0
    refreshed: int = 0
    computed_unleased: int = 0
    raised: int = 0
    #: Results brought to the master, refused by it (invalidated meanwhile), and not cacheable at all.
    stored: int = 0
    store_refused: int = 0
    uncacheable: int = 0
    #: Entries that were damaged or foreign, or of a later version of the envelope.
    corrupt: int = 0
    newer: int = 0
    #: Replicas asked that did not answer, or answered something too old.
    replica_failures: int = 0
    replica_outdated: int = 0
    #: Reads that were late and so sent to a second node too, and those of them that the second one answered first.
    hedged: int = 0
    hedge_wins: int = 0
    #: Calls to the master that were not sent again, as too many had been.
    retries_refused: int = 0
    #: Invalidations and writes: acknowledged, and queued for want of a master.
    acknowledged: int = 0
    queued: int = 0
    #: Operations that a server's failure left without a result.
    failures: int = 0
    #: Served while the master could not be confirmed (`consistency="available"`).
    unconfirmed: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Counters)))

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return {"hits": self.hits} | {f.name: getattr(self, f.name) for f in fields(Counters)}

    @property
    def hits(self) -> int:
        """Answered by a value that was cached."""
        return self.near_hits + self.replica_hits + self.master_hits

    @property
    def hit_ratio(self) -> float:
        """Hits of all kinds among the calls that were answered."""
        served = self.hits + self.stale_served + self.gutter_hits + self.joined
        total = served + self.misses
        return served / total if total else 0.0
