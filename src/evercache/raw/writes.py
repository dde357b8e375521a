"""What this process wrote through the master, and when: which replicas have it (read-your-writes)."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from evercache.process import new_lock
from evercache.raw.commands import KeyTable, words

__all__ = ["Writes"]

#: More keys than this are not told apart: then everything counts as written.
_MOST = 10_000


class Writes:
    """The moment (monotonic) after which each written key is on the master. Guarded by: `_lock`.

    A replica has a key when it has caught up with that moment. What is older than `bound` seconds is on every
    replica that may be read at all.
    """

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._lock = new_lock()
        self._stamps: dict[bytes, float] = {}
        #: Of writes whose keys are not known.
        self._all = -inf
        self._newest = -inf
        #: Empty until a server told its own: everything counts as a write of everything.
        self.table: KeyTable | None = None

    def __repr__(self) -> str:
        return f"<Writes keys={len(self._stamps)}>"

    def keys_of(self, commands: Iterable[tuple[object, ...]]) -> frozenset[bytes] | None:
        """The keys that commands write; None: any."""
        table = self.table or KeyTable({})
        keys: set[bytes] = set()
        for arguments in commands:
            touch = table.touch(words(arguments))
            if touch.writes:
                if touch.keys is None:
                    return None
                keys.update(touch.keys)
        return frozenset(keys)

    def wrote(self, keys: frozenset[bytes] | None, now: float) -> None:
        """Commands that write these keys (None: any) were answered, or failed and may have run."""
        if keys is not None and not keys:
            return
        with self._lock:
            self._newest = max(self._newest, now)
            if keys is None:
                self._all = max(self._all, now)
                return
            self._stamps.update(dict.fromkeys(keys, now))
            if len(self._stamps) > _MOST:
                self._stamps = {k: at for k, at in self._stamps.items() if now - at <= self._bound}
                if len(self._stamps) > _MOST // 2:
                    self._all = self._newest
                    self._stamps.clear()

    def needed(self, commands: Iterable[tuple[object, ...]]) -> float:
        """The moment with which a replica must have caught up to answer these; `-inf`: any moment."""
        newest = self._newest
        if newest == -inf:
            return -inf
        table = self.table or KeyTable({})
        need = self._all
        for arguments in commands:
            keys = table.touch(words(arguments)).keys
            if not keys:  # unknown, or all of them: KEYS, SCAN, DBSIZE
                return newest
            need = max(need, *(self._stamps.get(key, -inf) for key in keys))
        return need
