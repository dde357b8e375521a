"""The invalidations that a process issued or heard, kept until they are safe (rules 3, 4, 5 and 20)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from evercache.protocol.scope import ALL, EVERYTHING, FUNCTION, KEY, TAG, Scope, Subject

__all__ = ["Journal", "Pending", "Recorded", "is_lost"]

#: A generation's replication id and the tip at which it began, oldest first.
Generations = Sequence[tuple[str, int]]

_KNOWN_KINDS = frozenset((KEY, FUNCTION, TAG, ALL))


@dataclass(frozen=True, slots=True)
class Recorded:
    """An invalidation that a master had: its stamp, and the generation of that master."""

    id: str
    scope: Scope
    stamp: int
    generation: str
    heard: float
    own: bool


@dataclass(eq=False, slots=True)
class Pending:
    """An invalidation that no master has acknowledged: an infinite mark. Guarded by the journal's owner."""

    id: str
    scope: Scope
    sequence: int
    function: str = ""
    #: When it may be sent again (monotonic seconds); None while its first caller is still sending it.
    due: float | None = None
    own: bool = True
    #: A master had acknowledged it once; the present one lacks it.
    replay: bool = False
    #: Resolved when the attempt under way ends, either way.
    settled: Future[None] = field(default_factory=Future, repr=False)


def is_lost(generation: str, stamp: int, generations: Generations) -> bool:
    """Whether the present master lacks what `generation` acknowledged at `stamp` (rule 3)."""
    for position, (replid, _) in enumerate(generations):
        if replid == generation:
            following = position + 1
            return following < len(generations) and generations[following][1] < stamp
    return True


class Journal:
    """Recorded and pending invalidations of one process; guarded by the lock of the owner.

    `covers` may be asked without the lock: it errs on the side of "yes" only while a change is under way.
    """

    def __init__(self, *, limit: int = 20_000, pending_limit: int = 1_000) -> None:
        self._limit = limit
        self._pending_limit = pending_limit
        self._recorded: dict[str, Recorded] = {}
        self._scopes: Counter[Scope] = Counter()
        self.pending: dict[str, Pending] = {}
        #: Until a resync is done, all that was recorded counts as pending (rule 5).
        self.suspended = False
        #: generation -> newest stamp of what was dropped before it was proved safe (rule 20).
        self.unproved: dict[str, int] = {}
        self.sequence = 0
        self._proved_before = float("-inf")

    def __repr__(self) -> str:
        state = " suspended" if self.suspended else ""
        return f"<Journal recorded={len(self._recorded)} pending={len(self.pending)}{state}>"

    def __len__(self) -> int:
        return len(self._recorded)

    # -- one invalidation's way

    def begin(self, id: str, scope: Scope, function: str = "") -> Pending:
        """Before it is sent: from here on it outdates every value that a server has."""
        self.sequence += 1
        item = Pending(id, scope, self.sequence, function)
        self.pending[id] = item
        return item

    def acknowledged(self, item: Pending, stamp: int, generation: str, now: float) -> None:
        """The master has it, under this stamp."""
        if self.pending.pop(item.id, None) is not None:
            self._record(Recorded(item.id, item.scope, stamp, generation, now, item.own))
        _settle(item)

    def given_up(self, item: Pending, now: float) -> None:
        """Its sender ran out of time; it stays pending and is tried again from now on."""
        item.due = now
        _settle(item)
        item.settled = Future()
        if len(self.pending) > self._pending_limit:
            self._merge(now)

    def withdrawn(self, item: Pending) -> None:
        """It certainly did nothing and is not wanted any more (a refused `add`, say)."""
        self.pending.pop(item.id, None)
        _settle(item)

    def heard(self, id: str, scope: Scope, stamp: int, generation: str, now: float) -> None:
        """A line of the log: somebody's invalidation, perhaps one of our own that was thought lost."""
        item = self.pending.get(id)
        if item is not None and item.due is not None:
            self.acknowledged(item, stamp, generation, now)
            return
        # Heard anew under another generation: somebody issued it again, and that is the one to watch.
        known = self._recorded.get(id)
        if known is None or known.stamp < stamp:
            own = known is not None and known.own
            if known is not None:
                self._unrecord(known)
            self._record(Recorded(id, scope, stamp, generation, now, own))

    def cancel_key(self, key: str, before: int) -> None:
        """An acknowledged write of a key supersedes our own earlier ones of it that were given up (rule 4)."""
        for item in list(self.pending.values()):
            if (
                item.own
                and item.due is not None
                and item.sequence < before
                and not item.replay
                and item.scope == Scope(KEY, key)
            ):
                self.withdrawn(item)

    # -- questions

    def covers(self, subject: Subject, *, after: int = -1) -> bool:
        """Whether something pending (begun after sequence `after`) outdates what servers say of the subject."""
        if self.pending and any(
            item.sequence > after and item.scope.covers(subject) for item in list(self.pending.values())
        ):
            return True
        return self.suspended and self._records(subject)

    def _records(self, subject: Subject) -> bool:
        scopes = self._scopes
        if scopes[EVERYTHING] or scopes[Scope(KEY, subject.key)]:
            return True
        if subject.function and scopes[Scope(FUNCTION, subject.function)]:
            return True
        return any(scopes[Scope(TAG, tag.hex())] for tag in subject.tags)

    def covering(self, subject: Subject) -> list[Pending]:
        """What is pending for the subject, oldest first."""
        return [item for item in list(self.pending.values()) if item.scope.covers(subject)]

    def due(self, now: float) -> list[Pending]:
        """What may be sent again now, oldest first."""
        return [item for item in list(self.pending.values()) if item.due is not None and item.due <= now]

    # -- after a resync

    def resynced(
        self, generations: Generations, now: float, jitter: Callable[[], float], new_id: Callable[[], str]
    ) -> int:
        """Make pending what the present master lacks; returns how many.

        Own ones are due at once, heard ones after `jitter()` seconds, so that not everybody sends at once.
        """
        lost = [item for item in self._recorded.values() if is_lost(item.generation, item.stamp, generations)]
        for item in lost:
            self._unrecord(item)
            self.sequence += 1
            self.pending[item.id] = Pending(
                item.id,
                item.scope,
                self.sequence,
                due=now if item.own else now + jitter(),
                own=item.own,
                replay=True,
            )
        if any(is_lost(generation, stamp, generations) for generation, stamp in self.unproved.items()):
            # What exactly was lost is not known any more: everything is invalidated, once.
            self.sequence += 1
            id = new_id()
            self.pending[id] = Pending(id, EVERYTHING, self.sequence, due=now)
        known = {replid for replid, _ in generations}
        self.unproved = {g: s for g, s in self.unproved.items() if g in known}
        self.suspended = False
        return len(lost)

    # -- memory

    def prune(self, now: float, *, proved_before: float, keep: float) -> None:
        """Drop what is older than `keep` seconds; every promotable replica has what was heard before
        `proved_before`.

        What is proved is kept as long: a master that restarts in place from an older file makes its replicas
        forget as well.
        """
        self._proved_before = proved_before
        for item in list(self._recorded.values()):
            if now - item.heard <= keep:
                break
            self._drop(item)

    def _record(self, item: Recorded) -> None:
        self._recorded[item.id] = item
        # A kind of a later version may cover anything.
        self._scopes[item.scope if item.scope.kind in _KNOWN_KINDS else EVERYTHING] += 1
        if len(self._recorded) > self._limit:
            self._drop(next(iter(self._recorded.values())))

    def _unrecord(self, item: Recorded) -> None:
        del self._recorded[item.id]
        scope = item.scope if item.scope.kind in _KNOWN_KINDS else EVERYTHING
        self._scopes[scope] -= 1
        if not self._scopes[scope]:
            del self._scopes[scope]

    def _drop(self, item: Recorded) -> None:
        self._unrecord(item)
        if item.heard >= self._proved_before:
            self.unproved[item.generation] = max(self.unproved.get(item.generation, 0), item.stamp)

    def _merge(self, now: float) -> None:
        """Past the bound: keys merge into their functions, then everything into everything (rule 4)."""
        waiting = [item for item in self.pending.values() if item.due is not None]
        functions = {item.function for item in waiting if item.scope.kind == KEY and item.function}
        merged: Iterable[Scope] = (Scope(FUNCTION, name) for name in functions)
        absorbed = [item for item in waiting if item.scope.kind == KEY and item.function]
        if len(self.pending) - len(absorbed) + len(functions) > self._pending_limit:
            merged, absorbed = (EVERYTHING,), waiting
        present = {item.scope for item in waiting if item not in absorbed}
        for item in absorbed:
            del self.pending[item.id]
        for number, scope in enumerate(merged):
            if scope in present:
                continue
            self.sequence += 1
            # An id of its own, made of one that is absorbed: the master cannot have seen it.
            id = f"{absorbed[number].id[:-2]}{'~m'}"
            self.pending[id] = Pending(id, scope, self.sequence, due=now)


def _settle(item: Pending) -> None:
    if not item.settled.done():
        item.settled.set_result(None)
