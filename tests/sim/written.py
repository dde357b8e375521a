"""Keys that several tasks and processes write at the same time: the order of the writes is that of the master.

A value is a number that no other write has. What a read may return is judged by the stamps of the writes, since
nobody can say which of two writes that overlap comes last until the master has said so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.oracle import Invalidation, Oracle

__all__ = ["WRITTEN", "Written"]

#: Such keys: one that is written by itself, and two that are written together.
WRITTEN = ("w", "b0", "b1")


class Written:
    """Told of the writes before they are sent, and of every script that ran."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        #: The values, and the stamp of each once a master has executed its write.
        self._values: dict[Invalidation, int] = {}
        self._stamps: dict[int, int] = {}
        self._executed: set[str] = set()
        #: Those that waited for a master, until a later write took their place.
        self._replaced: set[Invalidation] = set()
        self._newest = 0

    def __repr__(self) -> str:
        return f"<Written values={len(self._values)} newest={self._newest}>"

    def next(self) -> int:
        """What is older than a write that begins now has a stamp below this."""
        return self._newest + 1

    def value(self, it: Invalidation) -> int:
        """A value for a write."""
        self._values[it] = number = len(self._values) + 1
        return number

    def ran(self, name: str, reply: list[Any], words: list[bytes]) -> None:
        """A script ran on a node."""
        if name not in ("set", "invalidate") or reply[0] != b"ok":
            return
        if name == "set" and not int(words[16]) <= int(reply[1]) <= int(words[17]):
            self._oracle.bad("late", f"a write for {words[16:18]} was executed at {reply[1]} by the server's clock")
        stamp = int(reply[3])
        it = self._oracle.by_id(words[15 if name == "set" else 14].decode())
        if it is None or it.wanted.keys().isdisjoint(WRITTEN):
            return
        self._newest = max(self._newest, stamp)
        if it.id not in self._executed:  # a replay of it has a later stamp, which says nothing of what it outdated
            self._executed.add(it.id)
            for key in it.wanted.keys() & WRITTEN:
                if it not in self._replaced:
                    it.wanted[key] = stamp  # that of a former master may be lower than the present one's
                for other in self._oracle.of_key(key):
                    if self._replaces(other, it):
                        self._replaced.add(other)  # it may be under way all the same, and outdates more then
                        other.wanted[key] = min(other.wanted[key], stamp)
        if name != "set":
            return
        self._stamps[self._values[it]] = stamp
        entries = self._oracle.entries
        if it.returned is not None and not entries.clocks_changed(it.began - 3):
            self._oracle.bad("late", f"a write of {it.scope} was executed after its call had returned")

    def _replaces(self, other: Invalidation, by: Invalidation) -> bool:
        """Whether a write that no master has executed waited for one, until a later one took its place (rule 4)."""
        if other.scope != by.scope or other.returned is None or other.id in self._executed:
            return False
        if other.returned > by.number:  # they overlap: the one that is executed last counts
            return False
        return by.process is other.process or by.process in other.heard

    def stamp(self, value: int) -> int | None:
        """Of the write of a value; None: no master has executed it."""
        return self._stamps.get(value)
