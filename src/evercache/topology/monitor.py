"""Keeps the table of replicas true: asks the master for its offset, then every replica for its own.

A round every quarter of a second; in between, every 50 ms, only the replicas that are about to be admitted
are asked (against the offsets known so far, so that no extra question reaches the master).
"""

from __future__ import annotations

import asyncio
import random as _random
from collections.abc import Callable, Sequence

from msgspec import Struct

from evercache.clock import monotonic
from evercache.net.types import AsyncWire, ConnectionOptions
from evercache.observe import EventHub, events
from evercache.protocol.canonical import shown
from evercache.protocol.caught import NEVER, ReplicaTable
from evercache.protocol.types import Address
from evercache.topology.base import GAP, Bell, Clock, Endpoints, SharedEndpoints, Topology
from evercache.topology.facts import NodeFacts, ask
from evercache.topology.replicas import Replica, ReplicaSet

__all__ = ["Monitor", "Round"]

#: For so long (seconds) a replica that is not verified is asked every 50 ms.
HURRY = 5.0
#: What the master answered to the tail of an idle process counts for this share of the interval.
_TOLD = 0.4


class Round(Struct, frozen=True):
    """What one full round saw, for status and tests. `master` is None when there was none to ask.

    A replica in use may be left out (`Monitor.spared`).
    """

    sent: float
    master: NodeFacts | None
    replicas: tuple[NodeFacts, ...]


class Monitor:
    """The one watcher of the data nodes in a process.

    Guarded by: used on the loop of `run` only, but for `nudge` (any thread) and `replicas` (see there).
    """

    def __init__(
        self,
        topology: Topology,
        wire: AsyncWire,
        options: ConnectionOptions,
        replicas: ReplicaSet | None = None,
        table: ReplicaTable | None = None,
        *,
        random: Callable[[], float] = _random.random,
        interval: float = 0.25,
        timeout: float = 0.3,
        changed_generation: Callable[[], None] = lambda: None,
        on_master: Callable[[NodeFacts], None] = lambda _: None,
        on_round: Callable[[Round], None] = lambda _: None,
        clock: Clock = monotonic,
        hub: EventHub | None = None,
    ) -> None:
        self.replicas = replicas if replicas is not None else ReplicaSet()
        self.table = table if table is not None else ReplicaTable()
        #: The newest full round.
        self.last = Round(NEVER, None, ())
        self._topology, self._wire, self._options = topology, wire, options
        self._interval, self._timeout, self._clock, self._random = interval, timeout, clock, random
        #: The interval while the process is idle; None: it is not.
        self._idle: float | None = None
        #: A replica in use that answered so lately (seconds) is not asked in the next round.
        self.spared = 0.0
        #: The last answer of the master to the tail.
        self._told: NodeFacts | None = None
        self._changed_generation, self._on_master, self._on_round = changed_generation, on_master, on_round
        self._bell = Bell()
        self._master: Address | None = None
        #: Replication id under which the generation was last told.
        self._generation = ""
        self._unverified: dict[Address, float] = {}
        self._hub = hub or EventHub(clock)
        #: Of the replicas of this master, those that were verified once.
        self._admitted: set[Address] = set()

    def __repr__(self) -> str:
        return f"<Monitor master={self._master} {self.table!r}>"

    @property
    def generation(self) -> str:
        """The replication id that the master gave last; empty when it is none."""
        return self._generation

    def nudge(self) -> None:
        """Start a full round now (at most every 50 ms)."""
        self._bell.ring()

    def rest(self, interval: float | None) -> None:
        """Ask only so often (seconds) while the process is idle; None: as often as usual again. On the loop."""
        if self._idle is not None and interval is None:
            self.nudge()
        self._idle = interval

    def told(self, facts: NodeFacts) -> None:
        """Take over what the master answered to the tail of an idle process, and do not ask it too. On the loop."""
        self._told = facts

    async def run(self, nodes: SharedEndpoints | None = None) -> None:
        """Until cancelled. Whatever the servers do is taken in; a bug is logged and the next round comes."""
        self._bell.attach()
        self.replicas.on_failure = self.nudge
        endpoints = Endpoints(nodes or SharedEndpoints(self._wire, self._options))
        next_full = self._clock()
        try:
            while True:
                rung = await self._bell.wait(self._pause(next_full))
                try:
                    if rung or self._clock() >= next_full:
                        # All processes hear of a new master at once: they must not ask it in step from then on.
                        interval = self._interval if self._idle is None else self._idle
                        next_full = self._clock() + interval * (0.9 + 0.2 * self._random())
                        await self._full(endpoints)
                    else:
                        await self._ask_replicas(endpoints, self._waiting())
                except Exception as error:
                    # A watcher that dies would leave every read at the master for ever, in silence.
                    self._hub.emit(events.Defect("a round of the monitor", shown(error)), error)
                await asyncio.sleep(min(GAP, self._interval))
        finally:
            endpoints.close()

    def _pause(self, next_full: float) -> float:
        """How long to wait: what is asked for `GAP` is slept after each round already."""
        return 0.0 if self._waiting() else max(next_full - self._clock(), 0.0)

    def _waiting(self) -> list[Replica]:
        """Replicas that may be admitted any moment: due for a probe, or answering but not yet verified.

        One that copies a large data set is hurried for a while only; a full round is soon enough then.
        """
        now = self._clock()
        waiting: list[Replica] = []
        for r in self.replicas.members:
            if r.standing.caught != NEVER:
                self._unverified.pop(r.address, None)
            elif now - self._unverified.setdefault(r.address, now) <= HURRY and r.standing.received != NEVER:
                waiting.append(r)
                continue
            if r.open and self._idle is None:
                waiting.append(r)
        return waiting

    # -- one round

    async def _full(self, endpoints: Endpoints) -> None:
        view = self._topology.view
        if self._topology.local:
            return
        self._enter(view.master, view.replicas)
        endpoints.keep((*self.table.addresses, *([view.master] if view.master is not None else [])))
        sent = self._clock()
        master: NodeFacts | None = None
        if view.master is not None:
            master = self._told_of(view.master, sent)
            if master is None:
                master = await ask(endpoints.get(view.master), self._timeout, self._clock)
            self._take_master(master)
        now = self._clock()
        due = [r for r in self.replicas.members if not self._spare(r, now)]
        facts = await self._ask_replicas(endpoints, due)
        self.last = Round(sent, master, tuple(facts))
        self._on_round(self.last)

    def _told_of(self, master: Address, now: float) -> NodeFacts | None:
        told, idle = self._told, self._idle
        if told is None or idle is None or told.address != master or now - told.sent > _TOLD * idle:
            return None
        return told

    def _spare(self, replica: Replica, now: float) -> bool:
        """Whether nothing seems to change at a replica, so that every other round is enough for it."""
        standing = replica.standing
        in_use = standing.caught != NEVER and standing.link_up and not replica.open
        return in_use and now - standing.received < self.spared

    def _enter(self, master: Address | None, replicas: Sequence[Address]) -> None:
        """Take over the view of the topology."""
        if master != self._master:
            self._master = master
            self.table.reset()
            self.replicas.unverify()
        if tuple(replicas) != self.table.addresses:
            for gone in self.table.addresses:
                if gone not in replicas:
                    self._admitted.discard(gone)
                    self._hub.emit(events.ReplicaRemoved(str(gone)))
            self.table.keep(replicas)
            self.replicas.keep(replicas)
            self._unverified = {a: t for a, t in self._unverified.items() if a in replicas}

    def _take_master(self, facts: NodeFacts) -> None:
        said = facts.replication
        if said is None or said.role != "master" or facts.error is not None:
            # Whoever follows the master says so; twice is no clearer.
            self._topology.nudge()
            if said is not None and said.role != "master" and facts.error is None and self._generation:
                self._generation = ""
                self.replicas.unverify()
                self._changed_generation()
            return
        self.table.master_answer(facts.sent, said.replid, said.offset)
        if said.replid != self._generation:
            first = not self._generation
            self._generation = said.replid
            self.replicas.unverify()
            if not first:
                self._topology.nudge()
                self._changed_generation()
        self._topology.discovered(said.replicas)
        self._on_master(facts)

    async def _ask_replicas(self, endpoints: Endpoints, members: Sequence[Replica]) -> list[NodeFacts]:
        """Ask all at once; one that is silent holds up none of the others."""
        now = self._clock()
        due = [r for r in members if r.probe(now)]
        return list(await asyncio.gather(*(self._ask_replica(endpoints, r) for r in due)))

    async def _ask_replica(self, endpoints: Endpoints, replica: Replica) -> NodeFacts:
        facts = await ask(endpoints.get(replica.address), self._timeout, self._clock)
        said = facts.replication
        if said is None:
            self.table.failed(replica.address)
        else:
            self.table.replica_answer(
                replica.address,
                said.role,
                said.link_up,
                said.syncing,
                said.replid,
                said.offset,
                facts.run_id,
                facts.received,
            )
        # The standing first: once the breaker is closed, reads come.
        replica.standing = self.table.standing(replica.address)
        replica.probed(facts.sent, facts.received, answered=said is not None)
        self._tell(replica, facts, self._trouble(facts))
        return facts

    def _trouble(self, facts: NodeFacts) -> str:
        said = facts.replication
        if said is None or facts.error is not None:
            return str(facts.error)
        if said.role != "slave":
            return f"is a {said.role}"
        if not said.link_up:
            return "its link to the master is down" + (" (it is copying the data)" if said.syncing else "")
        if said.replid != self.table.replid:
            return "follows another history than the master's"
        return ""

    def _tell(self, replica: Replica, facts: NodeFacts, trouble: str) -> None:
        """Tell a change of state once: the kind of trouble, not each wording of it."""
        address = str(facts.address)
        if trouble:
            # Silence has many wordings, and a read may have met it before.
            cause = trouble if facts.error is None else getattr(facts.error, "code", "")
            self._hub.emit(events.ReplicaEjected(address, trouble, cause))
        elif not replica.open:
            if self._hub.open:
                self._hub.emit(events.ReplicaReturned(address))
            if facts.address not in self._admitted and replica.standing.caught != NEVER:
                self._admitted.add(facts.address)
                self._hub.emit(events.ReplicaAdmitted(address))
