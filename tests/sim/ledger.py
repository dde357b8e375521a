"""Whether `stats()` says what happened."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Ledger"]


class Ledger:
    """Judges the counters of each living process at the end: `computed` is the number of runs of its functions
    (more by those that a signal handler kept from beginning), and no more results are `stored` than primaries took
    from it."""

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
            if not runs <= counters.computed <= runs + self._world.happened["interrupt"]:
                found.append(("stats", f"{process.name} computed {runs} times and counts {counters.computed}"))
            if counters.stored > stored:
                found.append(("stats", f"{process.name} stored {stored} results and counts {counters.stored}"))
        return found
