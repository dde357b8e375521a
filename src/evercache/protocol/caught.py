"""Which replica has everything that the master had at a known moment (rule 7 of the protocol).

The monitor asks the master for its replication offset and remembers *when it sent* the question: whatever
was acknowledged before that moment lies at or below the offset in the answer. A replica that reports at
least this offset, under the same replication id, has caught up with that moment. Times: monotonic seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from math import inf

from msgspec import Struct
from msgspec.structs import replace

from evercache.protocol.types import Address

__all__ = ["NEVER", "ReplicaTable", "Standing"]

#: The caught-up time of a replica that is not verified.
NEVER = -inf
#: Targets remembered; at four a second this is two minutes, far more than any sensible lag bound.
MAX_TARGETS = 512


class Standing(Struct, frozen=True):
    """What is known of one replica: one value, so that a reader in another thread sees no mixture of two."""

    address: Address
    caught: float = NEVER
    run_id: str = ""
    role: str = ""
    link_up: bool = False
    loading: bool = False
    replid: str = ""
    offset: int = -1
    received: float = NEVER


class ReplicaTable:
    """The caught-up time of each replica. Guarded by: used by one thread (the monitor's loop) only."""

    def __init__(self, replicas: Iterable[Address] = ()) -> None:
        self._rows: dict[Address, Standing] = {a: Standing(a) for a in replicas}
        self._replid = ""
        # Two parallel lists, both ascending: the offset, and when the question for it was sent.
        self._offsets: list[int] = []
        self._sent: list[float] = []

    def __repr__(self) -> str:
        rows = " ".join(f"{a}:{row.caught:.3f}" for a, row in self._rows.items())
        return f"<ReplicaTable replid={self._replid[:8]} targets={len(self._sent)} {rows}>"

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The replicas in the table."""
        return tuple(self._rows)

    @property
    def replid(self) -> str:
        """The replication id of the master's last answer; empty before the first."""
        return self._replid

    def keep(self, replicas: Iterable[Address]) -> None:
        """Make these the replicas of the table; new ones start unverified, others are forgotten."""
        self._rows = {a: self._rows.get(a, Standing(a)) for a in replicas}

    def reset(self) -> None:
        """Another master: nothing that was verified against the old one counts."""
        self._replid = ""
        self._offsets.clear()
        self._sent.clear()
        for address in self._rows:
            self.failed(address)

    def master_answer(self, sent: float, replid: str, offset: int) -> None:
        """The master answered a question sent at `sent`; another replication id resets the table."""
        if replid == self._replid and self._sent and sent <= self._sent[-1]:
            return  # an answer that was overtaken teaches nothing
        if replid != self._replid or (self._offsets and offset < self._offsets[-1]):
            self.reset()
            self._replid = replid
        if self._offsets and offset == self._offsets[-1]:
            self._sent[-1] = sent  # an idle master: one target, ever newer
            return
        self._offsets.append(offset)
        self._sent.append(sent)
        if len(self._sent) > MAX_TARGETS:
            del self._offsets[: MAX_TARGETS // 4], self._sent[: MAX_TARGETS // 4]

    def replica_answer(
        self,
        address: Address,
        role: str,
        link_up: bool,
        loading: bool,
        replid: str,
        offset: int,
        run_id: str,
        received: float,
    ) -> None:
        """A replica spoke for itself; ignored for an address that is not in the table."""
        row = self._rows.get(address)
        if row is None:
            return
        # A restarted process may have lost what its predecessor had: only what it says itself counts.
        before = row.caught if row.run_id == run_id and offset >= row.offset else NEVER
        same_history = role == "slave" and not loading and replid == self._replid != ""
        caught = NEVER
        if same_history:
            # A broken link takes nothing away; it only lets nothing new arrive. A replica that did not answer for a
            # moment is verified again without one: while the master is dead, none has a link.
            again = row.caught == NEVER and row.run_id == run_id
            reached = bisect_right(self._offsets, offset)
            caught = max(before, self._sent[reached - 1]) if reached and (link_up or again) else before
        self._rows[address] = Standing(address, caught, run_id, role, link_up, loading, replid, offset, received)

    def failed(self, address: Address) -> None:
        """The replica did not answer, or broke a promise: unverified until it speaks again."""
        row = self._rows.get(address)
        if row is not None:
            self._rows[address] = replace(row, caught=NEVER, link_up=False)

    def standing(self, address: Address) -> Standing:
        """All that is known of a replica (an empty `Standing` for an unknown one)."""
        return self._rows.get(address) or Standing(address)

    def caught(self, address: Address) -> float:
        """The moment up to which the replica has everything; `NEVER` when unverified."""
        return self.standing(address).caught

    def run_id(self, address: Address) -> str:
        """The process that was verified; a connection to another one is not to be trusted."""
        return self.standing(address).run_id

    def admitted(self, address: Address, tau: float, now: float, lag_bound: float) -> bool:
        """Whether reads may go there: linked, caught up with `tau`, and at most `lag_bound` seconds behind."""
        caught = self.caught(address)
        return self.standing(address).link_up and caught >= tau and now - caught <= lag_bound

    def lag_seconds(self, address: Address, now: float) -> float:
        """For people: seconds behind the master; 0 with the newest offset asked for, inf unverified."""
        caught = self.caught(address)
        if self._sent and caught >= self._sent[-1]:
            return 0.0
        return now - caught
