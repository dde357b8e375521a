"""What was computed while no server could be reached, for a second or two (the name is from Memcache at Facebook,
NSDI 2013)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from msgspec import Struct

from evercache.protocol.scope import KEY, Scope, Subject

__all__ = ["Gutter"]

T = TypeVar("T")


class _Kept(Struct, Generic[T], frozen=True):
    subject: Subject
    outcome: T
    until: float


class Gutter(Generic[T]):
    """A few outcomes by key; guarded by the owner's lock. An invalidation drops what it covers at once."""

    def __init__(self, *, seconds: float, limit: int = 1_000) -> None:
        self._seconds = seconds
        self._limit = limit
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Gutter entries={len(self._kept)} seconds={self._seconds}>"

    def get(self, key: str, now: float) -> T | None:
        """The outcome kept for a key, if its time is not over."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until <= now:
            self._kept.pop(key, None)
            return None
        return kept.outcome

    def put(self, subject: Subject, outcome: T, now: float) -> None:
        """Keep an outcome for the gutter's time."""
        self._kept.pop(subject.key, None)
        self._kept[subject.key] = _Kept(subject, outcome, now + self._seconds)
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)

    def hear(self, scope: Scope) -> None:
        """A mark was heard or an invalidation begun: drop what it covers."""
        if scope.kind == KEY:
            self._kept.pop(scope.name, None)
            return
        for key in [key for key, kept in list(self._kept.items()) if scope.covers(kept.subject)]:
            self._kept.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
