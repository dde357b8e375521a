"""Whether `stats()` says what happened."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from evercache.client._sync.batch_computing import SyncBatchComputing
from evercache.client._sync.computing import SyncComputing
from tests.sim.threads import SimThread

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Ledger"]

#: What counts a run, and then begins it.
_RUN = {SyncComputing._run.__code__, SyncBatchComputing._run_many.__code__}


class Ledger:
    """Judges the counters of each living process at the end: `computed` is the number of runs of its functions
    (more by those that a signal handler kept from beginning, or that threads are about to begin), and no more
    results are `stored` than primaries took from it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runs: Counter[Any] = Counter()
        self._owners: dict[str, Any] = {}
        self._stored: dict[Any, set[str]] = defaultdict(set)

    def __repr__(self) -> str:
        return f"<Ledger {self._runs.total()} runs>"

    def ran(self, process: Any, *tokens: str) -> None:
        """A function of a process was run, under these leases."""
        self._runs[process] += 1
        for token in tokens:
            self._owners[token] = process

    def script(self, name: str, reply: list[Any], words: list[bytes]) -> None:
        """A script has run on a node."""
        if name == "store" and reply[0] == b"ok":
            token = words[12].decode()
            self._stored[self._owners.get(token)].add(token)

    def final(self) -> list[tuple[str, str]]:
        """What is wrong."""
        found: list[tuple[str, str]] = []
        for process in self._world.processes:
            if not process.tag.alive:
                continue
            counters = process.cache.stats().counters
            runs, stored = self._runs[process], len(self._stored[process])
            # A handler may raise between the count and the function.
            most = runs + self._world.happened["interrupt"] + self._beginning(process)
            if not runs <= counters.computed <= most:
                found.append(("stats", f"{process.name} computed {runs} times and counts {counters.computed}"))
            if counters.stored > stored:
                found.append(("stats", f"{process.name} stored {stored} results and counts {counters.stored}"))
        return found

    def _beginning(self, process: Any) -> int:
        """How many threads of a process stand before a function that they have counted, or behind it."""
        threads = self._world.threads
        return sum(t.tag.whole is process.tag and _stands_in_run(t) for t in threads.alive) if threads else 0


def _stands_in_run(thread: SimThread) -> bool:
    frame = thread.gr_frame
    while frame is not None and frame.f_code is not SimThread.finish.__code__:  # the function itself
        if frame.f_code in _RUN:
            return True
        frame = frame.f_back
    return False
