"""The in-process tier: entries of functions that asked for it, for a few seconds, bounded by bytes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from evercache.protocol.envelope import Envelope
from evercache.protocol.scope import KEY, Scope

__all__ = ["Near", "NearEntry"]

#: What an entry costs beside its payload, in bytes (measured with tracemalloc, rounded up).
_OVERHEAD = 600


@dataclass(frozen=True, slots=True)
class NearEntry:
    """An envelope as a server gave it (its payload is decoded anew for each caller), and until when."""

    envelope: Envelope
    until: float


class Near:
    """Least recently used entries leave when `limit_bytes` is passed; guarded by the owner's lock.

    Holds no rule of freshness: who reads checks the stamp. A key's entry is dropped when a mark of the key is
    heard, since key marks are forgotten sooner than entries (rule 8).
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._size = 0
        self._entries: OrderedDict[str, NearEntry] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Near entries={len(self._entries)} bytes={self._size} of {self._limit}>"

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes held, by estimate."""
        return self._size

    def get(self, key: str, now: float) -> Envelope | None:
        """The entry, if its time is not over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until <= now:
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.envelope

    def put(self, key: str, envelope: Envelope, until: float) -> None:
        """Keep an entry until a moment of the monotonic clock."""
        self.drop(key)
        cost = len(envelope.payload) + _OVERHEAD
        if cost > self._limit // 8:
            return
        self._entries[key] = NearEntry(envelope, until)
        self._size += cost
        while self._size > self._limit:
            self.drop(next(iter(self._entries)))

    def drop(self, key: str) -> None:
        """Forget one entry."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= len(entry.envelope.payload) + _OVERHEAD

    def hear(self, scope: Scope) -> None:
        """A mark was heard: what it covers must never be served again."""
        if scope.kind == KEY:
            self.drop(scope.name)
        elif scope.kind == "*":
            self.clear()
        # Function and tag marks stay known as long as an entry lives; the reader's check finds them.

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._size = 0
