"""Simulated sentinels: what each believes is told to it by the schedule, sooner, later or differently."""

from __future__ import annotations

import random
from typing import Any

from evercache.net.resp import error_from
from evercache.protocol.types import Address
from tests.sim.loop import Tag
from tests.sim.network import Session
from tests.sim.node import EPOCH

__all__ = ["FAILOVER_TIMEOUT", "Sentinel"]

#: Seconds: `failover-timeout` of all of them.
FAILOVER_TIMEOUT = 1.0


class Sentinel:
    """One sentinel with its configuration: epoch, master, flags and last vote."""

    def __init__(self, index: int, loop: Any, rng: random.Random, nodes: list[Address], service: str) -> None:
        self.address = Address(f"10.0.1.{index + 1}", 26379)
        self._loop, self._service = loop, service
        self.ident = f"{rng.getrandbits(160):040x}"
        self.run_id = self.ident
        self.alive, self.died = True, 0.0
        self.frozen_until = 0.0
        self.sessions: set[Session] = set()
        self.parked: set[Session] = set()
        self.nodes = nodes
        self.epoch, self.master = 1, nodes[0]
        self.flags = {"master"}
        #: The newest epoch in which it voted; and in which epochs the others voted for it.
        self.vote_epoch = 0
        self.votes: dict[str, int] = {}
        #: The replica that it has chosen, as the leader of a failover.
        self.chosen: Address | None = None
        self.others: list[Sentinel] = []
        #: By the tag of a process: when the last question that arrived was sent, which primary it named (None:
        #: this one saw it down, or led a failover), and since when its votes are followed.
        self.asked: dict[Tag, float] = {}
        self.named: dict[Tag, Address | None] = {}
        self.followed: dict[Tag, float] = {}

    def __repr__(self) -> str:
        return f"<Sentinel {self.address.host} epoch={self.epoch} master={self.master.host}>"

    def greet(self) -> Any:
        """For a new connection."""
        return self.run_id, "sentinel", "", int((EPOCH + self._loop.now) * 1e6)

    def believe(self, epoch: int, master: Address, *, event: str = "+switch-master") -> None:
        """Another configuration."""
        if epoch <= self.epoch:
            return
        old, self.epoch, self.master = self.master, epoch, master
        self.flags = {"master"}
        self.chosen = None
        self.tell(event, f"{self._service} {old.host} 6379 {master.host} 6379")

    def choose(self, epoch: int, node: Address) -> None:
        """As the leader of a failover: this replica is to be promoted."""
        if epoch <= self.epoch:
            return
        self.chosen = node
        self.flags.add("failover_in_progress")
        self.tell("+selected-slave", f"slave {node.host}:6379 @ {self._service} {self.master.host} 6379")

    def lead(self, epoch: int) -> None:
        """Ask the others for their votes, as one that sees the master down. Who is down itself gives none."""
        if epoch <= self.epoch:
            return
        for name in ("s_down", "o_down", "failover_in_progress"):
            self.flag(name, True)
        for voter in (self, *self.others):
            if voter.alive and voter.frozen_until <= self._loop.now and epoch > max(voter.vote_epoch, voter.epoch):
                voter.vote_epoch = epoch
                voter.tell("+vote-for-leader", f"{self.ident} {epoch}")
                self.votes[voter.ident] = epoch

    def tell(self, channel: str, text: str) -> None:
        """Publish to whoever is subscribed."""
        if not self.alive:
            return
        for session in sorted(self.sessions, key=lambda s: s.number):
            if session.patterns:
                session.client.push([b"pmessage", b"*", channel.encode(), text.encode()])

    def flag(self, name: str, on: bool) -> None:
        """A flag of SENTINEL MASTER."""
        (self.flags.add if on else self.flags.discard)(name)
        self.tell(("+" if on else "-") + name.replace("_", ""), f"master {self._service} {self.master.host} 6379")

    def execute(self, session: Session, words: list[bytes]) -> Any:
        """One command."""
        name = words[0].upper()
        if name == b"PSUBSCRIBE":
            session.patterns = True
            self.followed[session.client.tag] = self._loop.now
            return [b"psubscribe", words[-1], 1]
        if name == b"PING":
            return b"PONG"
        if name != b"SENTINEL":
            return error_from("ERR unknown command (not simulated)")
        match words[1].upper():
            case b"GET-MASTER-ADDR-BY-NAME":
                return [self.master.host.encode(), b"6379"]
            case b"MASTER":
                against = self.flags & {"o_down", "failover_in_progress"}
                self.asked[session.client.tag] = session.sent
                self.named[session.client.tag] = None if against else self.master
                return self._map(
                    ip=self.master.host, port=6379, flags=",".join(sorted(self.flags)),
                    **{"config-epoch": self.epoch, "num-other-sentinels": len(self.others)},
                    **{"failover-timeout": int(FAILOVER_TIMEOUT * 1000)},
                )  # fmt: skip
            case b"REPLICAS":
                return [
                    self._map(
                        ip=n.host,
                        port=6379,
                        flags="slave,promoted" if n == self.chosen else "slave",
                        **{"slave-priority": 100},
                    )
                    for n in self.nodes
                    if n != self.master
                ]
            case b"SENTINELS":
                return [self._other(o) for o in self.others]
            case b"MYID":
                return self.ident.encode()
        return error_from("ERR unknown subcommand (not simulated)")

    def _other(self, other: Sentinel) -> dict[bytes, bytes]:
        """Another one as this one lists it: what it voted shows here only if this one asked it."""
        vote = self.votes.get(other.ident)
        silent = 0.5 if other.alive else self._loop.now - other.died + 0.5
        return self._map(
            ip=other.address.host, port=26379, runid=other.ident,
            **{"last-hello-message": int(silent * 1000), "voted-leader": self.ident if vote else "?"},
            **{"voted-leader-epoch": vote or 0},
        )  # fmt: skip

    @staticmethod
    def _map(**fields: Any) -> dict[bytes, bytes]:
        return {k.encode(): str(v).encode() for k, v in fields.items()}
