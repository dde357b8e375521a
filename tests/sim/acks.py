"""Whether what is acknowledged is there: at the moment of an `Ack` the servers are looked into (rule 17)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sim.issued import Issued

if TYPE_CHECKING:
    from evercache.results import Ack
    from tests.sim.loop import Tag
    from tests.sim.oracle import Invalidation
    from tests.sim.world import World

__all__ = ["Acks"]


class Acks:
    """Judges each acknowledged invalidation and write: a primary had executed it; under "strict" as many replicas
    have it as were in sync all the time, when it began, whenever it was sent, and when it ended; one at least.

    A replica that lost data since (it was restarted or copied anew) excuses one missing.
    """

    def __init__(self, world: World, issued: Issued) -> None:
        self._world, self._issued = world, issued
        #: Id of an invalidation -> its process, replicas in sync so far, and the lives of all nodes when it began.
        self._begun: dict[bytes, tuple[Any, int, list[Any]]] = {}
        if world.strict:
            world.network.sending.append(self._sent)

    def __repr__(self) -> str:
        return f"<Acks {len(self._begun)} begun>"

    def _lives(self) -> list[Any]:
        return [(node.run_id, node.base_data) for node in self._world.nodes]

    def began(self, process: Any, id: str) -> None:
        """A process begins an invalidation or a write."""
        if not self._world.strict:
            return
        self._begun[id.encode()] = process, self._in_sync(process), self._lives()

    def _sent(self, tag: Tag | None, server: Any, words: list[bytes]) -> None:
        """A process sends commands to a server, perhaps an invalidation or a write once more."""
        for id in self._begun.keys() & words:
            process, in_sync, lives = self._begun[id]
            if tag is not None and tag.whole is process.tag:
                self._begun[id] = process, min(in_sync, self._in_sync(process)), lives

    @staticmethod
    def _in_sync(process: Any) -> int:
        engine, state = process.engine, process.engine.state
        return len(engine.replicas.admitted(state.tau, process.clock(), engine.settings.lag_bound))

    def acknowledged(self, process: Any, it: Invalidation, ack: Ack) -> None:
        """The call that issued it returned an `Ack` that says "done"."""
        oracle, what = self._world.oracle, f"{process.name} {it.scope} {it.id}"
        marks = self._issued.by_id.get(it.id)
        if not marks:
            oracle.bad("ack", f"{what} was acknowledged at {ack.stamp}, but no server executed it")
            return
        if not self._world.strict or it.id.encode() not in self._begun:
            return
        _, in_sync, lives = self._begun[it.id.encode()]
        wanted = max(1, min(in_sync, self._in_sync(process)))
        nodes = self._world.nodes
        wanted = min(wanted, len(nodes) - 1)
        here = max(sum(self._issued.has(n, mark) for n in nodes if n is not mark.node) for mark in marks)
        lost = sum(before != now for before, now in zip(lives, self._lives(), strict=True))
        oracle.counts["strict acks looked at"] += 1
        if here + lost < wanted:
            oracle.bad("ack", f"{what} was acknowledged under strict; {here} replicas have it, not {wanted}")
