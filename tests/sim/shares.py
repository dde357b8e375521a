"""Where reads go, at all times: not to a node that is silent, and to each healthy replica (rule 7)."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from evercache.protocol.balance import EQUAL, NOISE

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Shares"]

_READS = (b"GET", b"MGET")
#: A read that was on its way to a node when another one timed out there may leave this much later (seconds).
_CHOSEN = 0.05
#: A replica is healthy when nothing has happened to it for so long (seconds).
_HEALTHY = 1.3
#: Of so many reads of a process each healthy replica gets one at least.
_SOME = 24


class Shares:
    """Judges each read that a process sends to a replica.

    - None goes to a replica at which a read of this process has timed out, before it has answered a question that
      was sent after that.
    - While nothing happens to servers and network, each replica gets its share of the reads, unless the process has
      found it slower than the others.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        #: (process, server) -> when a read timed out there; since then nothing was answered.
        self._silent: dict[tuple[Any, Any], float] = {}
        #: Questions that were asked there since.
        self._asked: dict[Any, tuple[Any, Any]] = {}
        #: Reads in the present quiet time, by process and server.
        self._got: dict[Any, Counter[int]] = defaultdict(Counter)
        self._busy = _merged([(f.at, f.at + _lasts(f.args) + _HEALTHY) for f in world.plan.faults])

    def __repr__(self) -> str:
        return f"<Shares silent={len(self._silent)}>"

    def sent(self, connection: Any, request: Any) -> None:
        """A process sends something."""
        words, key = request.commands[0], (connection.tag, connection.server)
        if words[0] not in _READS:
            if key in self._silent:
                self._asked[request] = key
            return
        if connection.server.role != "slave":
            return
        self._to_silent(key)
        self._share(connection)

    def late(self, connection: Any, request: Any) -> None:
        """The time of something that was sent is over, without an answer."""
        if request.commands[0][0] in _READS and connection.server.role == "slave":
            self._silent.setdefault((connection.tag, connection.server), self._world.now)

    def answered(self, request: Any) -> None:
        """Something was answered."""
        key = self._asked.pop(request, None)
        if key is not None:
            self._silent.pop(key, None)

    def _to_silent(self, key: tuple[Any, Any]) -> None:
        since, world = self._silent.get(key), self._world
        if since is None or world.now < since + _CHOSEN:
            return
        tag, node = key
        process = next((p for p in world.processes if p is not None and p.tag is tag), None)
        spared = process is None or world.oracle.stopped(process.name, since, world.now)
        if spared or any(w.end >= since for w in world.oracle.windows):
            del self._silent[key]  # another primary: the replicas begin anew
            return
        world.oracle.bad("routing", f"{tag.name} reads at node {node.index}, which is silent since {since:.4f}")

    def _share(self, connection: Any) -> None:
        world, tag = self._world, connection.tag
        process = next((p for p in world.processes if p is not None and p.tag is tag), None)
        quiet = process is not None and not any(begin <= world.now <= end for begin, end in self._busy)
        if process is None or not quiet or not world.oracle.undisturbed(process, world.now - _HEALTHY, world.now):
            self._got.pop(tag, None)
            return
        got = self._got[tag]
        got[connection.server.index] += 1
        if got.total() < _SOME:
            return
        world.oracle.counts["shares looked at"] += 1
        for node in world.nodes:
            if node.role == "slave" and node.alive and not got[node.index] and not self._slower(process, node):
                world.oracle.bad(
                    "routing", f"{tag.name} reads never at node {node.index}, though it is healthy: {got}"
                )
        got.clear()

    @staticmethod
    def _slower(process: Any, node: Any) -> bool:
        replicas, now = process.engine.replicas, process.clock()
        scores = {replica.address: replica.score.decayed(now) for replica in replicas.members}
        return bool(node.address in scores and scores[node.address] > EQUAL * max(min(scores.values()), NOISE))


def _lasts(args: dict[str, Any]) -> float:
    return sum(value for value in args.values() if isinstance(value, float) and value < 10)


def _merged(spells: list[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spells):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged
