"""What was asked of the caches while a test ran, and the questions that a test has about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from evercache.cache import Cache
from evercache.engine.flights import Outcome
from evercache.policy import Seconds
from evercache.process import new_lock
from evercache.protocol.scope import ALL, FUNCTION, KEY, TAG, Scope, Subject, tag_hash
from evercache.results import Ack
from evercache.testing.clock import Clock

__all__ = ["Call", "Calls", "Log", "Recording", "served"]

_HITS = ("hit", "stale", "joined")
_READS = ("call", "get", "peek")
_WRITES = ("set", "add", "touch", "incr")
_INVALIDATIONS = ("invalidate", "invalidate_all", "invalidate_tag", "delete", "clear")


@dataclass(frozen=True, slots=True)
class Call:
    """One thing that was asked of a cache, or one run of a cached function.

    `operation` and its `outcome`: `call`, `get`, `peek` (`hit`, `stale`, `joined`: what another caller was
    computing, `miss`); `compute`, a run of the function, for whatever reason (`returned`, `raised`);
    `refresh` (`done`, `raised`); `set`, `add`, `touch`, `incr` (`done`, or why not); `invalidate`, `delete`,
    `invalidate_all`, `invalidate_tag`, `clear` (`done`). `key` is the one on the server, empty for the wide
    ones; `tags` are the hashes of the tags known from the arguments, in hex: ask with `Calls.tag`.
    """

    operation: str
    outcome: str
    key: str = ""
    function: str = ""
    tags: tuple[str, ...] = ()
    cache: Cache | None = field(default=None, repr=False, compare=False)


class Calls(Sequence[Call]):
    """Calls in the order in which they ended; a selection of a recording. Immutable."""

    def __init__(self, calls: Iterable[Call] = ()) -> None:
        self._calls: Sequence[Call] = tuple(calls)

    def __repr__(self) -> str:
        lines = [f"  {c.operation} {c.key or c.function or ' '.join(c.tags)}: {c.outcome}" for c in self]
        return "\n".join([f"<{type(self).__name__} {len(lines)}", *lines]) + ">"

    def __len__(self) -> int:
        return len(self._calls)

    @overload
    def __getitem__(self, index: int) -> Call: ...
    @overload
    def __getitem__(self, index: slice) -> Calls: ...
    def __getitem__(self, index: int | slice) -> Call | Calls:
        return Calls(self._calls[index]) if isinstance(index, slice) else self._calls[index]

    def __iter__(self) -> Iterator[Call]:
        return iter(tuple(self._calls))

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, (Calls, list, tuple)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # compares by what it holds, and a recording grows

    def _where(self, test: Callable[[Call], bool]) -> Calls:
        return Calls(call for call in self if test(call))

    # -- what happened

    @property
    def computed(self) -> Calls:
        """The runs of cached functions, those that raised and those in the background included."""
        return self._where(lambda call: call.operation == "compute")

    @property
    def hits(self) -> Calls:
        """Calls, `get`s and `peek`s that were answered without running a function."""
        return self._where(lambda call: call.operation in _READS and call.outcome in _HITS)

    @property
    def misses(self) -> Calls:
        """Calls, `get`s and `peek`s that were not cached."""
        return self._where(lambda call: call.operation in _READS and call.outcome == "miss")

    @property
    def written(self) -> Calls:
        """`set`, `add`, `touch` and `incr` that were done."""
        return self._where(lambda call: call.operation in _WRITES and call.outcome == "done")

    @property
    def invalidated(self) -> Calls:
        """Invalidations of all kinds, `delete` and `clear` included."""
        return self._where(lambda call: call.operation in _INVALIDATIONS)

    # -- of what

    def of(self, function: Any, *args: Any, **kwargs: Any) -> Calls:
        """Those of a cached function; with arguments (or of a bound method) those of that call's entry."""
        if args or kwargs or function._bound:
            return self.key(function.key(*args, **kwargs))
        name = function._core.name
        return self._where(lambda call: call.function == name)

    def key(self, key: str) -> Calls:
        """Those of one key, named as in `cache.get(key)` or as it stands on the server."""
        return self._where(lambda call: bool(call.key) and call.key in (key, _on_server(call.cache, key)))

    def tag(self, tag: str) -> Calls:
        """Those with this tag: its invalidations, and calls whose arguments make it."""
        hashed = tag_hash(tag).hex()
        return self._where(lambda call: hashed in call.tags)


def _on_server(cache: Cache | None, key: str) -> str | None:
    return None if cache is None else cache.naming.direct_key(cache.settings.namespace, key)


class Recording(Calls):
    """Everything so far, growing while the test runs. Appending is guarded by a lock of its own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = new_lock()
        self._calls: list[Call] = []

    def append(self, call: Call) -> None:
        """One more."""
        with self._lock:
            self._calls.append(call)

    def clear(self) -> None:
        """Forget what was recorded (not what is cached)."""
        with self._lock:
            self._calls = []

    def advance(self, by: Seconds) -> None:
        """Let so many seconds pass at once in the stores."""
        self._clock.advance(by)


class Log:
    """Writes the calls of one cache into a recording. `stored`: whether there is a store behind it."""

    def __init__(self, cache: Cache, recording: Recording, *, stored: bool) -> None:
        self.stored = stored
        self._cache = cache
        self._recording = recording

    def __repr__(self) -> str:
        return f"<Log of {self._cache!r}>"

    def add(self, operation: str, outcome: str, subject: Subject) -> None:
        """One call about a subject."""
        tags = tuple(tag.hex() for tag in subject.tags)
        self._recording.append(Call(operation, outcome, subject.key, subject.function, tags, self._cache))

    def write(self, operation: str, ack: Ack, subject: Subject) -> None:
        """One write."""
        self.add(operation, "done" if ack.done else ack.reason or "refused", subject)

    def invalidation(self, scope: Scope, function: str) -> None:
        """One invalidation."""
        key = scope.name if scope.kind == KEY else ""
        tags = (scope.name,) if scope.kind == TAG else ()
        operation = {
            KEY: "invalidate" if function else "delete",
            FUNCTION: "invalidate_all",
            TAG: "invalidate_tag",
            ALL: "clear",
        }[scope.kind]
        named = scope.name if scope.kind == FUNCTION else function
        self._recording.append(Call(operation, "done", key, named, tags, self._cache))


def served(outcome: Outcome) -> str:
    """How a cached call was answered."""
    if outcome.stale:
        return "stale"
    return {"computed": "miss", "joined": "joined"}.get(outcome.source, "hit")
