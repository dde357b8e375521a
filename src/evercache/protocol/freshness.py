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

    Changes are guarded by the lock of the owner. Reads take no lock, and an exception may end a change half-way.
    So a mark is raised before what it replaces is removed, and a reader looks up the single marks before the floors
    that they are folded into.
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
        #: The newest key mark that was forgotten, or the tip at the last resync. See `remembers`.
        self.horizon = 0
        self.functions: dict[str, int] = {}
        #: In the order in which they were heard last, like `keys`.
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
        mark = self.keys.get(subject.key)
        need = 0 if mark is None else mark[0]
        if subject.function:
            need = max(need, self.functions.get(subject.function, 0))
        tagged = False
        for group in (subject.tags, tags):
            for tag in group:
                need, tagged = max(need, self.tags.get(tag, 0)), True
        return max(need, self.tag_floor if tagged else 0, self.everything)

    def fresh(self, stamp: int, subject: Subject, tags: Iterable[bytes] = ()) -> bool:
        """The rule of freshness, by the marks that are remembered; of a reply, ask `holds`."""
        return stamp >= self.newest or stamp >= self.need(subject, tags)

    def remembers(self, stamp: int, obeyed: int) -> bool:
        """Whether every key mark that could outdate a stamp is still here (rule 7).

        `obeyed`: whoever gave the value obeyed the key marks up to this one. That is the horizon before a node that
        may serve was chosen, or the tip that the master named in its reply. Look up the marks first, then ask this.
        """
        horizon = self.horizon
        return obeyed >= horizon or stamp >= horizon

    def holds(self, stamp: int, obeyed: int, subject: Subject, tags: Iterable[bytes] = ()) -> bool:
        """The rule of freshness for a reply, by the marks remembered and those forgotten since it was asked for."""
        return self.fresh(stamp, subject, tags) and self.remembers(stamp, obeyed)

    def joinable(self, stamp: int, subject: Subject, tags: Iterable[bytes] = ()) -> bool:
        """Whether a result that was under way may be joined (rule 6)."""
        return self.fresh(stamp, subject, tags) and stamp >= max(self.tag_floor, self.key_floor, self.horizon)

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
                    self._forget_key(next(iter(self.keys)), for_room=True)
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
        """Forget key marks heard more than `keep` seconds ago: no replica that may be asked is that far behind."""
        while self.keys:
            key = next(iter(self.keys))
            if now - self.keys[key][1] <= keep:
                return
            self._forget_key(key)

    def _forget_key(self, key: str, *, for_room: bool = False) -> None:
        self.horizon = max(self.horizon, self.keys[key][0])
        if for_room:
            self.key_floor = max(self.key_floor, self.horizon)
        del self.keys[key]

    def scopes(self) -> Iterable[tuple[Scope, int]]:
        """Function and tag marks and the mark of everything, as a process writes them back (rule 18)."""
        if self.everything:
            yield Scope(ALL), self.everything
        for name, stamp in list(self.functions.items()):
            yield Scope(FUNCTION, name), stamp
        for tag, stamp in list(self.tags.items()):
            yield Scope(TAG, tag.hex()), stamp
