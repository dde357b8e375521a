"""The audit: what could be served, at a primary whenever it issues a mark, and everywhere at the end."""

from __future__ import annotations

from sys import maxsize
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

from evercache.protocol.scope import Subject
from tests.sim.entries import Entry
from tests.sim.issued import Issued, Mark

if TYPE_CHECKING:
    from tests.sim.oracle import Invalidation
    from tests.sim.world import World

__all__ = ["Audit", "function_of", "version_in"]

_FUNCTIONS = "sim:f:"
#: Before the payload, if there are no tags.
_HEADER = 38
#: The flag of a cached error.
_ERROR = 16


def function_of(key: str) -> str:
    """The name of the function whose entry this is; "" for a key that is set explicitly."""
    return key[len(_FUNCTIONS) :].partition("(")[0] if key.startswith(_FUNCTIONS) else ""


def version_in(entry: Entry) -> int:
    """The version of the row in an entry: the last number of its value. Of a cached error, or of what is damaged,
    which is served to nobody: more than any invalidation wants."""
    if entry.raw[3] & _ERROR or crc32(entry.raw[_HEADER:]) != int.from_bytes(entry.raw[_HEADER - 4 : _HEADER]):
        return maxsize
    start = _HEADER + 1 + 8 * len(entry.tags) if entry.tags else _HEADER
    value = msgspec.msgpack.decode(entry.raw[start + 1 :])
    return int(value[-1])


class Audit:
    """Judges two things.

    - A primary obeys what it has executed: whenever it issues a mark, each entry that its own marks let pass is as
      new as every invalidation that it has.
    - When everything has come together, no entry at the primary that its own marks let pass, and none that is near
      in a process, is older than an invalidation that was acknowledged.
    """

    def __init__(self, world: World, issued: Issued) -> None:
        self._world, self._issued = world, issued
        self._places: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Audit of {self._world!r}>"

    def _keys(self) -> dict[str, str]:
        """Each key that was ever invalidated, and the name of its entry."""
        keys, places = self._world.oracle.keys(), self._places
        if len(keys) != len(places):
            some = self._world.processes[0]
            places.update((key, some.entry(key)) for key in keys)
        return places

    def issued(self, node: Any, marks: list[Mark]) -> None:
        """A primary has issued these marks just now."""
        oracle, now_us = self._world.oracle, node.now_us()
        for key, place in self._keys().items():
            entry = Entry.of(node.data.find(0, place.encode(), now_us))
            if entry is None or not oracle.entries.alive(node, entry, function_of(place)):
                continue
            for it in oracle.outdating(key, version_in(entry)):
                if any(mark in marks or self._issued.has(node, mark) for mark in self._bound(it)):
                    what = f"{it.scope} {it.id} of {it.process.name} wants v{it.wanted[key]}"
                    return oracle.bad("audit", f"node {node.index} would serve {key} from {entry}, but {what}")
        return None

    def _bound(self, it: Invalidation) -> list[Mark]:
        """The marks of an invalidation, but for those that were evicted since."""
        evicted = self._world.oracle.evicted_at
        return [mark for mark in self._issued.by_id.get(it.id, ()) if mark.at > evicted]

    def final(self) -> list[tuple[str, str]]:
        """What is wrong."""
        world = self._world
        found: list[tuple[str, str]] = []
        master = world.master
        for key, place in self._keys().items():
            entry = Entry.of(master.data.find(0, place.encode(), master.now_us()))
            if entry is not None and world.oracle.entries.alive(master, entry, function_of(place)):
                world.oracle.counts["audited at the primary"] += 1
                found += self._outdated(key, version_in(entry), f"the primary has {entry}")
        for process in world.processes:
            if process.tag.alive:
                found += self._near(process)
        return found

    def _near(self, process: Any) -> list[tuple[str, str]]:
        state, found = process.engine.state, []
        if not state.sure(process.clock()):
            return []
        for key, place in self._keys().items():
            kept = state.near.look(place)
            if kept is None or kept.until <= process.clock() or kept.envelope.error:
                continue
            envelope = kept.envelope
            if state.marks.fresh(envelope.stamp, Subject(place, function_of(place)), envelope.tags):
                version = int(msgspec.msgpack.decode(envelope.payload[1:])[-1])
                found += self._outdated(key, version, f"it is near in {process.name}")
        return found

    def _outdated(self, key: str, version: int, where: str) -> list[tuple[str, str]]:
        for it in self._world.oracle.outdating(key, version):
            if not self._world.oracle.excused(it):
                what = f"{it.scope} {it.id} of {it.process.name} wants v{it.wanted[key]}"
                return [("audit", f"{key} v{version} may be served: {where}; {what}")]
        return []
