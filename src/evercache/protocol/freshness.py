"""What one process knows of invalidations, and the one rule of freshness.

Stamps are logical (a Lamport clock kept by the master: see docs/protocol.md). A value is fresh when its
stamp is not older than any mark that covers it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from evercache.protocol.scope import ALL, FUNCTION, KEY, TAG, Scope, Subject

__all__ = ["Marks"]


class Marks:
    """The marks that this process heard of.

    Changes are guarded by the lock of the owner; reads need none (each is one look-up in a dict). An exception in
    the middle of a change loses no mark that was known: what replaces a mark is there before the mark leaves.
    """

    __slots__ = (
        "_limit",
        "everything",
        "functions",
        "horizon",
        "key_floor",
        "keys",
        "newest",
        "tag_floor",
        "tags",
        "version",
    )

    def __init__(self, *, limit: int = 100_000) -> None:
        self._limit = limit
        #: The newest mark heard of at all; whatever has this stamp is fresh without a look at the rest.
        self.newest = 0
        self.everything = 0
        #: Below it, everything that has a tag is dead: the oldest tag marks were folded into it.
        self.tag_floor = 0
        #: Below it, a replica is not believed: key marks were dropped for want of room.
        self.key_floor = 0
        #: What is joined or kept near must not be older: newest key mark dropped, or tip at the last resync.
        self.horizon = 0
        self.functions: dict[str, int] = {}
        #: In the order in which they were heard, the oldest first.
        self.tags: OrderedDict[bytes, int] = OrderedDict()
        self.keys: OrderedDict[str, tuple[int, float]] = OrderedDict()
        #: Changes after anything came that may outdate what was fresh before.
        self.version = 0

    def __repr__(self) -> str:
        return (
            f"<Marks newest={self.newest} functions={len(self.functions)} tags={len(self.tags)}"
            f" keys={len(self.keys)} horizon={self.horizon}>"
        )

    def need(self, subject: Subject, tags: Iterable[bytes] = ()) -> int:
        """The newest mark that covers the subject; `tags` are those of its envelope (rule 16)."""
        need = self.everything
        mark = self.keys.get(subject.key)
        if mark is not None and mark[0] > need:
            need = mark[0]
        if subject.function:
            need = max(need, self.functions.get(subject.function, 0))
        for group in (subject.tags, tags):
            for tag in group:
                need = max(need, self.tags.get(tag, 0), self.tag_floor)
        return need

    def fresh(self, stamp: int, subject: Subject, tags: Iterable[bytes] = ()) -> bool:
        """The rule of freshness."""
        return stamp >= self.newest or stamp >= self.need(subject, tags)

    def joinable(self, stamp: int, subject: Subject, tags: Iterable[bytes] = ()) -> bool:
        """Whether a result that was under way may be joined or kept near (rules 6 and 8)."""
        return stamp >= max(self.horizon, self.tag_floor, self.key_floor) and self.fresh(stamp, subject, tags)

    def hear(self, scope: Scope, stamp: int, now: float) -> None:
        """Take in one mark; marks merge by maximum, so order and repetition do not matter."""
        if stamp > self.newest:
            self.newest = stamp
        match scope.kind:
            case kind if kind == KEY:
                old = self.keys.get(scope.name)
                self.keys[scope.name] = (max(stamp, old[0]) if old else stamp, now)
                self.keys.move_to_end(scope.name)
                if len(self.keys) > self._limit:
                    self._drop_key(next(iter(self.keys)))
                    self.key_floor = max(self.key_floor, self.horizon)
            case kind if kind == FUNCTION:
                if stamp > self.functions.get(scope.name, 0):
                    self.functions[scope.name] = stamp
                    if len(self.functions) > self._limit:
                        oldest = min(self.functions, key=self.functions.__getitem__)
                        self.everything = max(self.everything, self.functions[oldest])
                        del self.functions[oldest]
            case kind if kind == TAG:
                self._hear_tag(bytes.fromhex(scope.name), stamp)
            case _:  # ALL, and kinds of a later version: too wide is safe
                self.everything = max(self.everything, stamp)
        self.version += 1

    def _hear_tag(self, tag: bytes, stamp: int) -> None:
        if stamp <= self.tags.get(tag, 0):
            return
        self.tags[tag] = stamp
        self.tags.move_to_end(tag)
        if len(self.tags) > self._limit:
            oldest = next(iter(self.tags))
            self.tag_floor = max(self.tag_floor, self.tags[oldest])
            del self.tags[oldest]

    def learn(
        self,
        subject: Subject,
        *,
        tip: int,
        everything: int,
        function: int,
        tag_floor: int,
        tags: Iterable[tuple[bytes, int]],
    ) -> None:
        """Take in the marks that the master returned with its answer about a subject (rule 2)."""
        known = self.everything, self.tag_floor, self.functions.get(subject.function, 0)
        self.newest = max(self.newest, tip, everything, function, tag_floor)
        self.everything = max(self.everything, everything)
        self.tag_floor = max(self.tag_floor, tag_floor)
        if function > self.functions.get(subject.function, 0):
            self.functions[subject.function] = function
        changed = known != (self.everything, self.tag_floor, self.functions.get(subject.function, 0))
        for tag, stamp in tags:
            changed = changed or stamp > self.tags.get(tag, 0)
            self.newest = max(self.newest, stamp)
            self._hear_tag(tag, stamp)
        self.version += changed

    def expire_keys(self, now: float, keep: float) -> None:
        """Drop key marks heard more than `keep` seconds ago: no replica that serves is that far behind."""
        while self.keys:
            key = next(iter(self.keys))
            if now - self.keys[key][1] <= keep:
                return
            self._drop_key(key)

    def _drop_key(self, key: str) -> None:
        self.horizon = max(self.horizon, self.keys[key][0])
        del self.keys[key]

    def scopes(self) -> Iterable[tuple[Scope, int]]:
        """Function and tag marks and the mark of everything, as a process writes them back (rule 18)."""
        if self.everything:
            yield Scope(ALL), self.everything
        for name, stamp in list(self.functions.items()):
            yield Scope(FUNCTION, name), stamp
        for tag, stamp in list(self.tags.items()):
            yield Scope(TAG, tag.hex()), stamp
