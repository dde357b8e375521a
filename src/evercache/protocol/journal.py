"""The invalidations that a process issued or heard, kept until they are safe (rules 3, 4, 5 and 20)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from msgspec import Struct, field

from evercache.protocol.landing import Landing
from evercache.protocol.scope import ALL, EVERYTHING, FUNCTION, KEY, TAG, Scope, Subject

__all__ = ["Journal", "Pending", "Recorded", "is_lost"]

#: A generation's replication id and the tip at which it began, oldest first.
Generations = Sequence[tuple[str, int]]

#: Generations that a master surely still names when the next one comes; it names 32.
_RECENT = 16
_KNOWN_KINDS = frozenset((KEY, FUNCTION, TAG, ALL))


class Recorded(Struct, frozen=True):
    """An invalidation that a master had: its stamp, and the generation of that master."""

    id: str
    scope: Scope
    stamp: int
    generation: str
    heard: float
    own: bool


class Sender(Protocol):
    """The call that sends an invalidation for the first time."""

    def __call__(self) -> bool:
        """Whether it still does."""


class Pending(Struct, eq=False):
    """An invalidation that no master has acknowledged: an infinite mark. Guarded by the journal's owner."""

    id: str
    scope: Scope
    sequence: int
    function: str = ""
    #: When it may be sent again (monotonic seconds); None while its first caller is still sending it.
    due: float | None = None
    #: The journal's sequence when its first sender gave it up.
    given: int = 0
    own: bool = True
    #: A master had acknowledged it once; the present one lacks it.
    replay: bool = False
    #: A master has it. One that leaves the list without this was replaced by another one, of another id.
    had: bool = False
    #: Set when the attempt under way ends, either way.
    settled: Landing[None] = field(default_factory=Landing)
    #: Who sends it while `due` is None; one without a sender is given up by nobody else.
    sender: Sender | None = None


def is_lost(generation: str, stamp: int, generations: Generations) -> bool:
    """Whether the present master lacks what `generation` acknowledged at `stamp` (rule 3)."""
    for position, (replid, _) in enumerate(generations):
        if replid == generation:
            following = position + 1
            return following < len(generations) and generations[following][1] < stamp
    return True


class _PendingItems(dict[str, Pending]):
    """Pending invalidations by id, and by scope as well: a read looks up the few scopes that cover it, however
    many wait. Guarded by the journal's owner; the questions may be asked without the lock.

    The items by id count; `_by_scope` is made from them and can be made anew (`repair`).
    """

    def __init__(self) -> None:
        super().__init__()
        self._by_scope: dict[Scope, dict[str, Pending]] = {}
        #: Begun inside a critical section of their own thread; by id they are here, by scope not yet.
        self.unsorted: deque[Pending] = deque()

    def __setitem__(self, id: str, item: Pending) -> None:
        if id in self:
            del self[id]
        self._by_scope.setdefault(_widened(item.scope), {})[id] = item
        super().__setitem__(id, item)

    def __delitem__(self, id: str) -> None:
        scope = _widened(self[id].scope)
        super().__delitem__(id)
        group = self._by_scope.get(scope)
        if group is not None:
            group.pop(id, None)
            if not group:
                self._by_scope.pop(scope, None)

    def add_unsorted(self, item: Pending) -> None:
        """Add an item while this thread may be in the middle of another change: each step is a single one."""
        self.unsorted.append(item)
        super().__setitem__(item.id, item)

    def repair(self) -> None:
        """Make the index anew, after an exception in the middle of a change."""
        by_scope: dict[Scope, dict[str, Pending]] = {}
        for id, item in list(self.items()):
            by_scope.setdefault(_widened(item.scope), {})[id] = item
        self._by_scope = by_scope

    def discard(self, id: str) -> bool:
        """Remove one; False when it is not here."""
        here = id in self
        if here:
            del self[id]
        return here

    def of_scope(self, scope: Scope) -> list[Pending]:
        """Those of just this scope."""
        group = self._by_scope.get(_widened(scope), {})
        return [item for item in group.values() if item.scope == scope]

    def covering(self, subject: Subject, tags: Iterable[bytes]) -> list[Pending]:
        """What covers a subject, or one of the tags of its envelope."""
        scopes = _scopes_over(subject, tags)
        found = [item for item in list(self.unsorted) if _widened(item.scope) in scopes] if self.unsorted else []
        for scope in scopes:
            group = self._by_scope.get(scope)
            if group:
                found += list(group.values())
        return found


def _widened(scope: Scope) -> Scope:
    # A kind of a later version may cover anything.
    return scope if scope.kind in _KNOWN_KINDS else EVERYTHING


def _scopes_over(subject: Subject, tags: Iterable[bytes]) -> list[Scope]:
    """Every scope that covers a subject with these tags in its envelope. The narrow ones come first: pending ones
    merge into wider ones while a reader looks."""
    scopes = [Scope(KEY, subject.key)]
    if subject.function:
        scopes.append(Scope(FUNCTION, subject.function))
    scopes += [Scope(TAG, tag.hex()) for tag in dict.fromkeys((*subject.tags, *tags))]
    return [*scopes, EVERYTHING]


class Journal:
    """Recorded and pending invalidations of one process; guarded by the lock of the owner.

    Of those that a master had, the newest of each scope and generation is recorded; each resync leaves only the
    newest of each scope.

    `covers` may be asked without the lock: it errs on the side of "yes" only while a change is under way.
    """

    def __init__(self, *, limit: int = 20_000, pending_limit: int = 1_000) -> None:
        self._limit = limit
        self._pending_limit = pending_limit
        self._recorded: dict[str, Recorded] = {}
        #: The newest of each scope and generation. One master's stamps are in order, so that whoever lacks an
        #: earlier one lacks this one too: the earlier ones need not be kept.
        self._newest: dict[tuple[str, Scope], Recorded] = {}
        self._scopes: Counter[Scope] = Counter()
        self.pending = _PendingItems()
        #: Until a resync is done, all that was recorded counts as pending (rule 5).
        self.suspended = False
        #: generation -> newest stamp of what is not recorded any more, or never was (rule 20). If a master lacks
        #: that, it was restored from an older file, and nobody knows what else it lacks.
        self.forgotten: dict[str, int] = {}
        #: The first resync that `forgotten` does not have yet, and the last: when, the generation, its tip. This
        #: process may never have heard what was invalidated before a resync.
        self._begun: list[tuple[float, str, int]] = []
        #: As the last resync told them; empty before the first, and where there was no bookkeeping.
        self._generations: Generations = ()
        self.sequence = 0
        #: How often pending ones were widened.
        self.merges = 0
        #: The sequence when something was last recorded while suspended.
        self._recorded_at = 0

    def __repr__(self) -> str:
        state = " suspended" if self.suspended else ""
        return f"<Journal recorded={len(self._recorded)} pending={len(self.pending)}{state}>"

    def __len__(self) -> int:
        return len(self._recorded)

    # -- one invalidation's way

    def begin(self, id: str, scope: Scope, function: str = "", sender: Sender | None = None) -> Pending:
        """Before it is sent: from here on it outdates every value that a server has."""
        self.sequence += 1
        item = Pending(id, scope, self.sequence, function, sender=sender)
        self.pending[id] = item
        return item

    def begin_inside(self, id: str, scope: Scope, function: str, now: float) -> None:
        """The same from a signal handler or a finalizer that runs inside a critical section of its own thread: it
        is obeyed from here on, due at once, and `sort` does the rest."""
        self.sequence += 1
        self.pending.add_unsorted(Pending(id, scope, self.sequence, function, due=now, given=self.sequence))

    def sort(self) -> list[Pending]:
        """Take in what was begun inside critical sections; returns it."""
        unsorted, taken = self.pending.unsorted, []
        while unsorted:
            item = unsorted[0]
            if item.id in self.pending:
                self.pending[item.id] = item
            taken.append(item)
            unsorted.popleft()
        return taken

    def unsent(self, now: float) -> int:
        """Give up what its first sender sends no more, since an exception ended it; returns how many."""
        lost = [item for item in list(self.pending.values()) if item.due is None and item.sender is not None]
        lost = [item for item in lost if item.sender is not None and not item.sender()]
        for item in lost:
            self.given_up(item, now)
        return len(lost)

    def repair(self) -> None:
        """Make every index anew from `pending` and the records, after an exception in the middle of a change.

        No change drops an invalidation before the one that stands for it is there, so none is lost.
        """
        self.pending.repair()
        recorded: dict[str, Recorded] = {}
        newest: dict[tuple[str, Scope], Recorded] = {}
        for item in list(self._recorded.values()):
            other = newest.get((item.generation, item.scope))
            if other is not None:
                if other.stamp > item.stamp:
                    continue
                del recorded[other.id]
            recorded[item.id] = newest[item.generation, item.scope] = item
        self._recorded, self._newest = recorded, newest
        self._scopes = Counter(_widened(item.scope) for item in recorded.values())

    def acknowledged(
        self, item: Pending, stamp: int, generation: str, now: float, *, present: str | None = None
    ) -> None:
        """A master of this generation has it, under this stamp.

        If that of the `present` generation is known to lack it, it stays pending (rule 3): a failover may be
        learnt between the answer and this call.
        """
        if item.id in self.pending:
            record = Recorded(item.id, item.scope, stamp, generation, now, item.own)
            if present not in (None, generation) and is_lost(generation, stamp, self._generations):
                self._replay(record, now)
                if record.id in self._recorded:
                    self._unrecord(self._recorded[record.id])
            else:
                self._record(record)
                self.pending.discard(item.id)
        item.had = True
        item.settled.set(None)

    def given_up(self, item: Pending, now: float) -> None:
        """Its sender ran out of time; it stays pending and is tried again from now on.

        Earlier ones of the same scope that wait as well need not wait any longer: this one does what they would.
        """
        item.due, item.given = now, self.sequence
        settled, item.settled = item.settled, Landing()
        settled.set(None)
        if item.id in self.pending:
            for other in self.pending.of_scope(item.scope):
                waits = other.due is not None and other.sequence < item.sequence
                if waits and other.own and not other.replay:
                    self.withdrawn(other)
        if len(self.pending) > self._pending_limit:
            self._merge(now)

    def withdrawn(self, item: Pending) -> None:
        """It certainly did nothing and is not wanted any more (a refused `add`, say)."""
        self.pending.discard(item.id)
        item.settled.set(None)

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

    def heard_late(self, id: str, scope: Scope, stamp: int, generation: str, now: float, due: float) -> bool:
        """A line of a master that has been replaced; True when the present one lacks it, so that it is pending now
        (rule 3). Before a resync is done nothing is known of that yet: the resync finds out."""
        newer = self._newest.get((generation, scope))
        if id in self.pending or id in self._recorded or (newer is not None and newer.stamp > stamp):
            return False
        record = Recorded(id, scope, stamp, generation, now, False)
        if self.suspended or not is_lost(generation, stamp, self._generations):
            self._record(record)
            return False
        self._replay(record, due)
        return True

    def cancel_key(self, key: str, before: int) -> None:
        """An acknowledged write of a key, begun at sequence `before`, supersedes our own earlier ones of it that
        had been given up by then (rule 4)."""
        for item in self.pending.of_scope(Scope(KEY, key)):
            if item.own and item.due is not None and item.given < before and not item.replay:
                self.withdrawn(item)

    # -- questions

    def covers(self, subject: Subject, tags: Iterable[bytes] = (), *, after: int = -1) -> bool:
        """Whether something pending outdates what servers say of the subject; `tags` are those of the envelope in
        question (rule 16). With the sequence `after` which this process began to compute it without a lease: only
        what was begun or recorded since counts."""
        if self.pending and any(item.sequence > after for item in self.pending.covering(subject, tags)):
            return True
        if not self.suspended or self._recorded_at <= after:
            return False
        return any(self._scopes[scope] for scope in _scopes_over(subject, tags))

    def covering(self, subject: Subject) -> list[Pending]:
        """What is pending for the subject, oldest first."""
        if not self.pending:
            return []
        return sorted(self.pending.covering(subject, ()), key=lambda item: item.sequence)

    def due(self, now: float) -> list[Pending]:
        """What may be sent again now, oldest first."""
        return [item for item in list(self.pending.values()) if item.due is not None and item.due <= now]

    # -- after a resync

    def resynced(
        self,
        generations: Generations,
        now: float,
        jitter: Callable[[], float],
        new_id: Callable[[], str],
        tip: int = 0,
    ) -> int:
        """Make pending what the present master lacks, whose newest mark is `tip`; returns how many.

        Own ones are due at once, heard ones after `jitter()` seconds, so that not everybody sends at once.
        """
        lost = [item for item in self._recorded.values() if is_lost(item.generation, item.stamp, generations)]
        self._generations = tuple(generations)
        for item in lost:
            self._replay(item, now if item.own else now + jitter())
            self._unrecord(item)
        if any(is_lost(generation, stamp, generations) for generation, stamp in self.forgotten.items()):
            # What exactly was lost is not known any more: everything is invalidated, once.
            self.sequence += 1
            id = new_id()
            self.pending[id] = Pending(id, EVERYTHING, self.sequence, due=now)
        self._forget_outdone()
        # What was lost is dealt with now: the next resync must not do it again.
        self.forgotten = self._last_forgotten()
        self._begun = [one for one in self._begun if not is_lost(one[1], one[2], generations)][:1]
        if tip and generations:
            self._begun.append((now, generations[-1][0], tip))
        self.suspended = False
        return len(lost)

    def _last_forgotten(self) -> dict[str, int]:
        """The last one that the present master has. The histories of its successors begin with its own: a master
        that has this one has all others. It moves on long before masters drop its generation from their list."""
        generations = self._generations
        place = {generation: position for position, (generation, _) in enumerate(generations)}
        had = {g: s for g, s in self.forgotten.items() if not is_lost(g, s, generations)}
        if not had:
            return {}
        last = max(had, key=place.__getitem__)
        recent = max(0, len(generations) - _RECENT)
        return {last: had[last]} if place[last] >= recent else dict([generations[recent]])

    def _forget_outdone(self) -> None:
        """All that is recorded now is in the history of the present master, which those of its successors begin
        with: whoever lacks one lacks what came after it, so that the last of each scope says enough."""
        place = {generation: position for position, (generation, _) in enumerate(self._generations)}
        in_order = sorted(self._recorded.values(), key=lambda item: (place[item.generation], item.stamp))
        last = {item.scope: item for item in in_order}
        for item in in_order:
            if last[item.scope] is not item:
                self._unrecord(item)

    def _replay(self, item: Recorded, due: float) -> None:
        self.sequence += 1
        self.pending[item.id] = Pending(
            item.id, item.scope, self.sequence, due=due, given=self.sequence, own=item.own, replay=True
        )

    # -- memory

    def prune(self, now: float, *, keep: float) -> None:
        """Drop what is older than `keep` seconds, and note it in `forgotten`.

        It makes no difference whether every replica has it: a master that is restored from an older file makes its
        replicas forget as well.
        """
        while self._begun and now - self._begun[0][0] > keep:
            _, generation, tip = self._begun.pop(0)
            self._forget(generation, tip)
        for item in list(self._recorded.values()):
            if now - item.heard <= keep:
                break
            self._drop(item)

    def _record(self, item: Recorded) -> None:
        if self.suspended:  # its stamp may be of a former master, and below what was known when a computation began
            self.sequence += 1
            self._recorded_at = self.sequence
        if item.id in self._recorded:  # heard before its own reply came
            self._unrecord(self._recorded[item.id])
        before = self._newest.get((item.generation, item.scope))
        if before is not None:
            if before.stamp > item.stamp:
                return
            self._unrecord(before)
        self._recorded[item.id] = self._newest[item.generation, item.scope] = item
        self._scopes[_widened(item.scope)] += 1
        if len(self._recorded) > self._limit:
            self._drop(next(iter(self._recorded.values())))

    def _unrecord(self, item: Recorded) -> None:
        self._recorded.pop(item.id, None)
        self._newest.pop((item.generation, item.scope), None)
        scope = _widened(item.scope)
        self._scopes[scope] -= 1
        if self._scopes[scope] <= 0:
            del self._scopes[scope]

    def _drop(self, item: Recorded) -> None:
        self._forget(item.generation, item.stamp)
        self._unrecord(item)

    def _forget(self, generation: str, stamp: int) -> None:
        self.forgotten[generation] = max(self.forgotten.get(generation, 0), stamp)

    def _merge(self, now: float) -> None:
        """Past the bound: keys merge into their functions, then everything into everything (rule 4)."""
        self.merges += 1
        waiting = [item for item in list(self.pending.values()) if item.due is not None]
        functions = {item.function for item in waiting if item.scope.kind == KEY and item.function}
        groups: dict[Scope, list[Pending]] = {}
        for item in waiting:
            if item.scope.kind == KEY and item.function:
                groups.setdefault(Scope(FUNCTION, item.function), []).append(item)
            elif item.scope.kind == FUNCTION and item.scope.name in functions:
                groups.setdefault(item.scope, []).append(item)
        left = len(self.pending) - sum(map(len, groups.values())) + len(groups)
        if left > self._pending_limit and waiting:
            groups = {EVERYTHING: waiting}
        for scope, absorbed in groups.items():
            self.sequence += 1
            # An id of its own, also where the function waited already: that one may have been sent, and obeyed
            # before what merges into it began.
            id = f"{absorbed[0].id.partition('~')[0]}~{self.sequence}"
            # Before what it stands for is removed: readers take no lock.
            self.pending[id] = Pending(id, scope, self.sequence, due=now, given=self.sequence)
            for item in absorbed:
                self.pending.discard(item.id)
                item.settled.set(None)
