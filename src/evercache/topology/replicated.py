"""A fixed primary and its replicas, as managed services offer them: no sentinels, no CONFIG.

The names are resolved to all their address records, and again whenever a role changes or the master does not
answer; the master is the node that says so. The epoch of the view counts the changes that were seen.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any

from evercache.clock import monotonic
from evercache.errors import MasterUnknown, UnavailableError
from evercache.net.names import resolver
from evercache.net.sockets import known_records
from evercache.net.types import AsyncWire, ConnectionOptions
from evercache.protocol.topology import View
from evercache.protocol.types import Address
from evercache.topology.base import INTERVAL, AddressMap, Bell, Clock, Endpoints, SharedEndpoints, mapper
from evercache.topology.facts import NodeFacts, ask

__all__ = ["ReplicatedTopology", "elect"]

#: A node without followers that calls itself master, unrelated to the last one, is believed after this time
#: (seconds) without a master: it may be a server that never belonged here.
DOUBT = 3.0
#: Names are resolved again after this time (seconds) in any case.
RESOLVE = 30.0


def elect(facts: Sequence[NodeFacts], current: Address | None, replid: str, doubtful: bool) -> NodeFacts | None:
    """Which of the nodes that call themselves master is the one (earlier in the list wins a tie).

    Followers decide, then descent (its former replication id is that of the last master), then custom.
    `doubtful`: a stranger without followers is not believed.
    """
    slaves = [f.replication for f in facts if f.replication and f.replication.role == "slave"]
    best: NodeFacts | None = None
    best_rank: tuple[int, bool, bool] = (-1, False, False)
    for node in facts:
        said = node.replication
        if said is None or said.role != "master":
            continue
        followers = sum(s.link_up and s.replid == said.replid for s in slaves)
        descends = bool(replid) and said.replid2 == replid
        rank = (followers, descends, node.address == current)
        if doubtful and not any(rank):
            continue
        if rank > best_rank:
            best, best_rank = node, rank
    return best


class ReplicatedTopology:
    """Primary and replicas from a list.

    Guarded by: written on the loop of `run` only; `view` is immutable.
    """

    local = False

    def __init__(
        self,
        wire: AsyncWire,
        primary: Address,
        replicas: Iterable[Address],
        options: ConnectionOptions,
        *,
        address_map: AddressMap | None = None,
        interval: float = INTERVAL,
        timeout: float = 0.3,
        clock: Clock = monotonic,
    ) -> None:
        self._configured = (primary, *replicas)
        self.view = View(0, primary, self._configured[1:])
        self._wire, self._options, self._mapped = wire, options, mapper(address_map)
        self._interval, self._timeout, self._clock = interval, timeout, clock
        self._bell = Bell()
        self._nodes = self._configured
        self._resolved_at = -inf
        self._life = ("", "")
        self._confirmed = -inf
        #: When the first round was over that found no master, since one was found; inf: none was missing.
        self._missed_since = inf
        self._errors: dict[Address, UnavailableError] = {}

    def __repr__(self) -> str:
        return f"<ReplicatedTopology {self.view.master} replicas={len(self.view.replicas)}>"

    async def run(self, changed: Callable[[View], None], nodes: SharedEndpoints | None = None) -> None:
        """Ask every node for its role each second, and at once when nudged; until cancelled."""
        self._bell.attach()
        endpoints = Endpoints(nodes or SharedEndpoints(self._wire, self._options))
        self._missed_since = inf
        changed(self.view)
        try:
            while True:
                await self._resolve()
                asked = self._nodes
                endpoints.keep(asked)
                facts = await asyncio.gather(*(ask(endpoints.get(a), self._timeout, self._clock) for a in asked))
                if self._judge(facts):
                    # A name may lead elsewhere now; connections made before stay where they were.
                    self._resolved_at = -inf
                    endpoints.reconnect()
                    changed(self.view)
                await self._bell.pace(self._interval)
        finally:
            endpoints.close()

    async def _resolve(self) -> None:
        now = self._clock()
        if now - self._resolved_at < RESOLVE:
            return
        found: dict[Address, None] = {}
        for address in self._configured:
            records = await self._records(address)
            if records is None:
                return  # nobody could be asked: in the next round
            found.update(dict.fromkeys(records))
        self._nodes = tuple(found)
        self._resolved_at = now

    async def _records(self, address: Address) -> list[Address] | None:
        """All addresses of a name; the name itself where it has but one (or TLS has to check it).

        None where this process lacks what it needs to ask.
        """
        if address.path is not None or self._options.tls is not None:
            return [address]
        try:
            records = known_records(address) or await resolver.arecords(address, monotonic() + 2.0)
        except (TimeoutError, socket.gaierror):
            return [address]
        except OSError:
            return None
        hosts = dict.fromkeys(str(where[0]) for _, where in records)
        families = {family for family, _ in records}
        if len(hosts) < 2 or (len(hosts) == 2 and len(families) == 2):  # one server, by IPv4 and IPv6
            return [address]
        return [self._mapped(Address(host, address.port)) for host in hosts]

    def _judge(self, facts: Sequence[NodeFacts]) -> bool:
        """Take in one round; True when the view changed."""
        self._errors = {f.address: f.error for f in facts if f.error is not None}
        old = self.view
        # By the times of the questions: while the process is suspended nobody is missed.
        asked = min(f.sent for f in facts)
        doubtful = bool(self._life[1]) and asked - self._missed_since < DOUBT
        master = elect(facts, old.master, self._life[1], doubtful)
        if master is None:
            self._missed_since = min(self._missed_since, self._clock())
            view = self._without_master(facts)
        else:
            assert master.replication is not None
            life = (master.run_id, master.replication.replid)
            moved = master.address != old.master or (life != self._life and self._life != ("", ""))
            self._life = life
            self._missed_since = inf
            ids = {master.run_id}
            replicas: list[Address] = []
            for node in facts:
                # One server may have several names: a reader's name leads to the primary when it is alone.
                if node.address == master.address or (node.run_id and node.run_id in ids):
                    continue
                ids.add(node.run_id)
                replicas.append(node.address)
            view = View(old.epoch + moved, master.address, tuple(replicas))
            self._confirmed = master.sent
        if view == old:
            return False
        self.view = view
        return True

    def _without_master(self, facts: Sequence[NodeFacts]) -> View:
        self._resolved_at = -inf
        old = self.view
        roles = {f.address: f.role for f in facts}
        said = ", ".join(f"{a}: {role or 'no answer'}" for a, role in roles.items())
        problem: UnavailableError = MasterUnknown(
            f"none of the configured servers is a reachable master ({said}); check the addresses in the URL"
        )
        if old.problem is not None and repr(old.problem) == repr(problem):
            problem = old.problem
        # One that says it is a replica is certainly not the master; one that is silent may come back.
        master = None if old.master is not None and roles.get(old.master) == "slave" else old.master
        return View(old.epoch, master, old.replicas, problem)

    def nudge(self) -> None:
        """Ask now."""
        self._bell.ring()

    def rest(self, idle: bool, confirm: bool) -> None:
        """See `Topology`; each answer confirms."""
        self._bell.rest(idle)

    def confirmed_since(self) -> float:
        """When the last question was sent to which the master of the view answered that it is one."""
        return self._confirmed

    def down_after(self) -> float | None:
        """See `Topology`."""
        return None

    def discovered(self, replicas: Iterable[Address]) -> None:
        """Not used: the list in the configuration says which replicas may be read."""

    def describe(self) -> dict[str, Any]:
        """For health reports."""
        return {
            "kind": "replicated",
            "configured": [str(a) for a in self._configured],
            "nodes": [str(a) for a in self._nodes],
            "errors": {str(a): str(e) for a, e in self._errors.items()},
        }
