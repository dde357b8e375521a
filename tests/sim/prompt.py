"""How soon an invalidation arrives: an undisturbed process receives it within milliseconds, an idle one with its
next read of the log (rule 14)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.sim.issued import Mark

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Promptness"]

#: Seconds within which an undisturbed process has heard a mark, beside what the network takes for its messages.
PROMPT = 0.045
#: And where other threads of the process take turns with its background, at each lock that it takes.
_TURNS = 0.03
#: A process has been undisturbed for so long (seconds) before that.
_BEFORE = 0.6
#: Where there are more lines than one read brings, those that came this much earlier (seconds) are still ahead.
_AHEAD = 0.5


@dataclass(slots=True)
class _Follower:
    """A process that followed the primary when a mark was issued."""

    process: Any
    connection: Any
    resyncs: int
    #: When what its tail had under way then arrived, and what its messages had taken by then.
    arrives: float
    delayed: float

    def until(self) -> float:
        """When it must have heard the mark."""
        turns = _TURNS if self.process.threads is not None else 0.0
        return self.arrives + PROMPT + turns + self.connection.delayed - self.delayed


class Promptness:
    """Judges each mark that a primary issues: every process that follows this primary, and to which nothing else
    happens, has heard it 45 ms later, beside what the network took for the messages of its tail."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: Of marks that are still waited for: who has heard them.
        self._heard: dict[str, set[Any]] = {}
        self._lately: deque[float] = deque(maxlen=world.plan.limits["count"])

    def __repr__(self) -> str:
        return f"<Promptness waits for {len(self._heard)}>"

    def issued(self, node: Any, mark: Mark) -> None:
        """A primary has issued a mark just now."""
        world = self._world
        self._lately.append(world.now)
        followers = []
        for process in world.processes:
            if process is not None and process.tag.alive and self._follows(process, node):
                connection = process.engine.tail._connection
                arrives = max(world.now, connection.busy_until())
                if process.engine.state.idle:
                    arrives += 2.5 * world.max_staleness
                resyncs = process.engine.state.resyncs
                followers.append(_Follower(process, connection, resyncs, arrives, connection.delayed))
        if followers and mark.id not in self._heard:
            self._heard[mark.id] = set()
            world.later(PROMPT, lambda: self._look(node, mark, followers))

    def heard(self, process: Any, id: str) -> None:
        """A process has heard a line of a log."""
        if id in self._heard:
            self._heard[id].add(process)

    @staticmethod
    def _follows(process: Any, node: Any) -> bool:
        state = process.engine.state
        connection = process.engine.tail._connection
        return bool(
            state.ready and state.generation == node.replid and connection is not None and connection.server is node
        )

    def _look(self, node: Any, mark: Mark, followers: list[_Follower]) -> None:
        world, heard = self._world, self._heard[mark.id]
        missing = [it for it in followers if it.process not in heard and self._should_have(it, node, mark)]
        until = max((it.until() for it in missing), default=0.0)
        if until > world.now:
            world.later(until - world.now, lambda: self._look(node, mark, missing))
            return
        del self._heard[mark.id]
        for it in missing:
            ms = 1000 * (world.now - mark.at)
            world.oracle.bad("prompt", f"{it.process.name} has not heard {mark} after {ms:.0f} ms")

    def _should_have(self, it: _Follower, node: Any, mark: Mark) -> bool:
        process = it.process
        full = len(self._lately) == self._lately.maxlen and self._lately[0] > mark.at - _AHEAD
        return bool(
            process.tag.alive
            and not full
            and process.engine.state.resyncs == it.resyncs
            and self._follows(process, node)
            and process.engine.tail._connection is it.connection
            and self._world.oracle.undisturbed(process, mark.at - _BEFORE, self._world.now)
        )
