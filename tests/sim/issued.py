"""What servers really did: each mark that was issued, and which node has which write.

The other oracles ask it; it judges nothing. It reads the effects of commands, not their replies, so a script cannot
report something else than it does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Issued", "Mark"]


@dataclass(frozen=True, eq=False, slots=True)
class Mark:
    """One mark. A node has it when it has the history of `generation` up to `offset`."""

    kind: str
    name: str
    stamp: int
    id: str
    node: Any
    generation: str
    offset: int
    at: float


class Issued:
    """Told of the effects of each command on a master."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.marks: list[Mark] = []
        self.by_id: dict[str, list[Mark]] = defaultdict(list)
        #: (kind, name) -> the newest stamp; of everything under ("*", "").
        self.newest: dict[tuple[str, str], int] = defaultdict(int)
        #: The newest mark of any function or tag: the marks that are folded into wider ones are among these.
        self.newest_folded = 0
        #: Generation -> the one before it, and the offset at which that ended.
        self._parents: dict[str, tuple[str, int]] = {}
        #: Servers have room for all marks, so that none is folded into a wider one.
        self.folds = world.plan.limits["max_marks"] < 1000

    def __repr__(self) -> str:
        return f"<Issued marks={len(self.marks)}>"

    def took(self, node: Any, effects: Iterable[tuple[Any, ...]]) -> list[Mark]:
        """A command had these effects; returns the marks among them."""
        issued = []
        for effect in effects:
            if effect[0] == "xadd" and effect[2].endswith(b"~log"):
                line = dict(zip(effect[4][::2], effect[4][1::2], strict=True))
                issued.append(self._mark(node, line))
        return issued

    def _mark(self, node: Any, line: dict[bytes, bytes]) -> Mark:
        kind, name, id = (line[field].decode() for field in (b"k", b"n", b"i"))
        mark = Mark(kind, name, int(line[b"s"]), id, node, node.replid, node.offset + 1, self._world.now)
        self.marks.append(mark)
        self.by_id[id].append(mark)
        self._raise(kind, name, mark.stamp)
        return mark

    def repeated(self, words: list[bytes], tip: int) -> None:
        """An invalidation was there already; whoever sent it again takes the tip for its mark."""
        self._raise(words[12].decode(), words[13].decode(), tip)

    def _raise(self, kind: str, name: str, stamp: int) -> None:
        scope = (kind, "" if kind == "*" else name)
        self.newest[scope] = max(self.newest[scope], stamp)
        if kind in "ft":
            self.newest_folded = max(self.newest_folded, stamp)

    def covering(self, key: str, function: str, tags: Iterable[str]) -> int:
        """The newest mark that may count for an entry, whichever server issued it."""
        newest = self.newest
        stamps = [newest["*", ""], newest["k", key], *(newest["t", tag] for tag in tags)]
        if function:
            stamps.append(newest["f", function])
        if self.folds:
            stamps.append(self.newest_folded)
        return max(stamps)

    def has(self, node: Any, mark: Mark) -> bool:
        """Whether a node has a mark in its history, as far as it has taken that over by now."""
        for other in self._world.nodes:
            if other.replid2:
                self._parents[other.replid] = (other.replid2, other.second_offset)
        generation, offset = node.replid, node.offset
        while generation != mark.generation:
            if generation not in self._parents:
                return False
            generation, end = self._parents[generation]
            offset = min(offset, end)
        return bool(offset >= mark.offset)
