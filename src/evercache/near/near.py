"""The in-process tier: entries of functions that asked for it, for a few seconds, bounded by bytes.

What leaves first is found by SIEVE (Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024): a hit only sets a mark
on its entry, so that it needs no lock and moves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import getsizeof
from typing import Any

from evercache.protocol.envelope import Envelope
from evercache.protocol.scope import KEY, Scope

__all__ = ["Near", "NearEntry"]

#: What an entry costs beside its payload, in bytes (measured with tracemalloc, rounded up).
_OVERHEAD = 600
#: What it costs to find it by its arguments as well.
_NAME = 300


def _no_copy() -> Any:
    """Stands where what gives copies was not made yet."""
    raise AssertionError("no copy was made yet")


class NearEntry:
    """An envelope as a server gave it, and until when (monotonic seconds) it is served.

    `copy` gives a caller a value of its own; it is made at the first hit, and for the function of `maker` only:
    another one of the same name may build other classes. `version` is that of the marks by which it was found
    fresh; -1 once it is kept no more.
    """

    __slots__ = (
        "arguments",
        "copy",
        "cost",
        "envelope",
        "key",
        "maker",
        "newer",
        "older",
        "until",
        "version",
        "visited",
    )

    def __init__(self, key: str, envelope: Envelope, until: float) -> None:
        self.key = key
        self.envelope = envelope
        self.until = until
        self.cost = len(envelope.payload) + _OVERHEAD
        self.arguments: tuple[Any, ...] | None = None  # by which it is found, too
        self.copy: Callable[[], Any] = _no_copy
        self.maker: object = None
        self.version = -1
        self.visited = False
        self.older: NearEntry | None = None
        self.newer: NearEntry | None = None

    def __repr__(self) -> str:
        return f"<NearEntry {self.key} bytes={self.cost} {'visited' if self.visited else 'not visited'}>"


class Near:
    """Bounded by `limit_bytes`; changes are guarded by the owner's lock, `look` and `by_arguments` need none.

    Holds no rule of freshness: who reads checks the stamp. A key's entry is dropped when a mark of the key is
    heard, since key marks are forgotten sooner than entries (rule 8).
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._size = 0
        self._entries: dict[str, NearEntry] = {}
        self._newest: NearEntry | None = None
        self._oldest: NearEntry | None = None
        self._hand: NearEntry | None = None
        self._by_arguments: dict[tuple[Any, ...], NearEntry] = {}
        #: The entry of a key, or of a call that was given a name, as it stands, also when its time is over.
        self.look = self._entries.get
        self.by_arguments = self._by_arguments.get

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
        entry.visited = True
        return entry.envelope

    def put(self, key: str, envelope: Envelope, until: float) -> None:
        """Keep an entry until a moment of the monotonic clock."""
        self.drop(key)
        entry = NearEntry(key, envelope, until)
        if entry.cost > self._limit // 8:
            return
        self._make_room(entry.cost)
        entry.older = self._newest
        if self._newest is not None:
            self._newest.newer = entry
        else:
            self._oldest = entry
        self._newest = entry
        self._entries[key] = entry
        self._size += entry.cost

    def keep_copy(self, entry: NearEntry, copy: Callable[[], Any], more: int, maker: object) -> bool:
        """What gives copies of an entry's value was made, and takes so many bytes more; False: too many."""
        if entry.cost + more > self._limit // 8:
            return False
        if self._entries.get(entry.key) is entry and entry.maker is None:
            entry.copy, entry.maker = copy, maker
            entry.cost += more
            self._size += more
            self._make_room(0)
        return True

    def name(self, entry: NearEntry, arguments: tuple[Any, ...]) -> None:
        """Have an entry found by the arguments of its call as well, which is quicker than to write its key."""
        if entry.arguments is None and self._entries.get(entry.key) is entry:
            entry.arguments = arguments
            self._by_arguments[arguments] = entry
            # An argument that only a tag is made of may be longer than any key.
            cost = _NAME + sum(getsizeof(one) for one in arguments if type(one) is str and len(one) > _NAME)
            entry.cost += cost
            self._size += cost
            self._make_room(0)

    def drop(self, key: str) -> None:
        """Forget one entry."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._size -= entry.cost
        entry.version = -1
        if entry.arguments is not None:
            self._by_arguments.pop(entry.arguments, None)
        if self._hand is entry:
            self._hand = entry.newer
        if entry.older is not None:
            entry.older.newer = entry.newer
        else:
            self._oldest = entry.newer
        if entry.newer is not None:
            entry.newer.older = entry.older
        else:
            self._newest = entry.older
        entry.older = entry.newer = None

    def _make_room(self, cost: int) -> None:
        """SIEVE: the hand goes from the oldest to the newest, spares what was visited, and takes what was not."""
        while self._entries and self._size + cost > self._limit:
            hand = self._hand or self._oldest
            while hand is not None and hand.visited:
                hand.visited = False
                hand = hand.newer or self._oldest
            assert hand is not None
            self._hand = hand
            self.drop(hand.key)

    def hear(self, scope: Scope) -> None:
        """A mark was heard: what it covers must never be served again."""
        if scope.kind == KEY:
            self.drop(scope.name)
        elif scope.kind == "*":
            self.clear()
        # Function and tag marks stay known as long as an entry lives; the reader's check finds them.

    def clear(self) -> None:
        """Forget everything."""
        self._by_arguments.clear()
        for entry in list(self._entries.values()):
            entry.version = -1
        self._entries.clear()
        self._newest = self._oldest = self._hand = None
        self._size = 0
