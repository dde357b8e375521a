"""How soon an invalidation arrives: an undisturbed process receives it within milliseconds (rule 14)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from tests.sim.issued import Mark

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Promptness"]

#: Seconds within which an undisturbed process has heard a mark, but for messages that the network delays.
PROMPT = 0.05
#: A process has been undisturbed for so long (seconds) before that.
_BEFORE = 0.6
#: Between the arrival of the network's latest message and the look at what came of it (seconds).
_AFTER = 0.005


class Promptness:
    """Judges each mark that a primary issues: every process that follows this primary, and to which nothing else
    happens, has heard it 50 ms later, or when what its tail had under way by then has arrived."""

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
        following = [
            (process, process.engine.state.resyncs)
            for process in world.processes
            if process is not None and process.tag.alive and self._follows(process, node)
        ]
        if following and mark.id not in self._heard:
            self._heard[mark.id] = set()
            world.later(PROMPT, lambda: self._look(node, mark, following, last=False))

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

    def _look(self, node: Any, mark: Mark, following: list[tuple[Any, int]], *, last: bool) -> None:
        world = self._world
        missing = [
            (process, resyncs)
            for process, resyncs in following
            if process not in self._heard[mark.id] and self._should_have(process, node, mark, resyncs)
        ]
        late = [
            arrives
            for process, _ in missing
            if (arrives := process.engine.tail._connection.busy_until() + _AFTER) > world.now
        ]
        if late and not last:
            world.later(max(late) - world.now, lambda: self._look(node, mark, missing, last=True))
            return
        del self._heard[mark.id]
        for process, _ in missing:
            ms = 1000 * (world.now - mark.at)
            world.oracle.bad("prompt", f"{process.name} has not heard {mark} after {ms:.0f} ms")

    def _should_have(self, process: Any, node: Any, mark: Mark, resyncs: int) -> bool:
        oracle, state = self._world.oracle, process.engine.state
        full = len(self._lately) == self._lately.maxlen and self._lately[0] > mark.at - PROMPT
        return bool(
            process.tag.alive
            and not full  # more lines than one read brings
            and state.resyncs == resyncs
            and self._follows(process, node)
            and oracle.undisturbed(process, mark.at - _BEFORE, self._world.now)
        )
