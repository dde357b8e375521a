"""Who knows the true order of everything, and says what may be seen and what not.

The truth is a database of versions: a row is committed, then its entry is invalidated. A value that a
call returns is the version that the function read. Each check names the promise (P2-P6) that it guards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from math import inf
from typing import TYPE_CHECKING, Any

from tests.sim.calls import singles
from tests.sim.entries import Entries
from tests.sim.judges import Judges
from tests.sim.leases import Leases
from tests.sim.written import WRITTEN, Written

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Invalidation", "Oracle", "Violation", "Window"]

_SLACK = 0.03
#: Within so many seconds what was heard of others and lost is issued again: the jitter, and the way to the master.
REPLAYED = 0.3
#: Seconds after which whoever knew what was evicted can speak to the master again.
_TOLD_AGAIN = 3.0
#: What is served from there was stored; else it was computed a moment ago.
_CACHES = ("near", "replica", "master")


@dataclass(frozen=True, slots=True)
class Violation:
    """What was broken, when, and how it showed."""

    promise: str
    at: float
    text: str

    def __str__(self) -> str:
        return f"{self.promise} at {self.at:.4f}: {self.text}"


@dataclass(eq=False, slots=True)
class Invalidation:
    """One invalidation (or set) and what it outdates: for each key, the version from which on a value is good."""

    scope: str
    process: Any
    wanted: dict[str, int]
    began: float
    #: Numbers of events, not times: much happens in one moment. When it began, and when its call returned.
    number: int = 0
    returned: int | None = None
    acknowledged: float | None = None
    #: Its caller was told that it is done: under "strict", what a replica has too and a confirmed master had.
    told: bool = False
    id: str = ""
    heard: dict[Any, int] = field(default_factory=dict)
    exempt: bool = False
    #: A commit while fills were refused: in no cache may be what is older, though nobody was told. The life of the
    #: process that had them refused, and when it began to.
    holder: Any = None
    held_since: float = 0.0


@dataclass(eq=False, slots=True)
class Window:
    """A time in which another master, or another life of its data, comes about; until everybody has settled."""

    kind: str
    begin: float
    hard_end: float
    complete: bool = False
    end: float = inf


class Oracle:
    """Told everything that happens; `violations` holds what must not have happened."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.violations: list[Violation] = []
        #: Tasks are being ended: what they say means nothing any more.
        self.over = False
        self.versions: dict[str, list[float]] = defaultdict(list)
        self.invalidations: list[Invalidation] = []
        self._by_key: dict[str, list[Invalidation]] = defaultdict(list)
        self._by_id: dict[str, Invalidation] = {}
        self.windows: list[Window] = []
        #: Process -> spells in which it was cut off, slow or stopped.
        self._troubled: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._blocked: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._stalled: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._asleep: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._disturbed: list[tuple[float, float]] = []
        self.clock_at = -inf
        self.entries = Entries(world)
        self._ticks = 0
        #: The newest stamp of a generation, in a database of bookkeeping.
        self._stamps: dict[tuple[str, bytes], int] = {}
        #: Generations whose state was evicted, and its stamps with it.
        self._evicted: set[str] = set()
        #: Generations in which a resync began a life: that leaps further than the next generation does (rule 1).
        self.begun_by_resync: set[str] = set()
        #: When bookkeeping was evicted, and the processes that had heard of a mark by then.
        self._evictions: list[tuple[float, set[Any]]] = []
        #: The first stamp of the generation that came after this one.
        self._next: dict[tuple[str, bytes], int] = {}
        #: Generations to which a process came back from the next one.
        self._returned: set[tuple[str, bytes]] = set()
        self.counts: dict[str, int] = defaultdict(int)
        self.leases = Leases(self)
        self.written = Written(self)
        self.judges = Judges(world)

    def __repr__(self) -> str:
        return f"<Oracle violations={len(self.violations)} invalidations={len(self.invalidations)}>"

    @property
    def now(self) -> float:
        return self._world.now

    @property
    def budget(self) -> float:
        return self._world.budget

    def tick(self) -> int:
        """The number of one more event."""
        self._ticks += 1
        return self._ticks

    def bad(self, promise: str, text: str) -> None:
        """A violation."""
        if self.over:
            return
        self.violations.append(Violation(promise, self.now, text))
        self._world.note(f"VIOLATION {promise}: {text}")

    # -- what excuses

    def troubled(self, process: str, begin: float, end: float) -> None:
        self._troubled[process].append((begin, end))

    def blocked(self, process: str, begin: float, end: float) -> None:
        """Its event loop stands still, but it hears everything: only its calls take longer."""
        self._blocked[process].append((begin, end))

    def suspended(self, process: str, begin: float, end: float) -> None:
        """It stands still. When it wakes it knows how much time has passed: no older read is excused."""
        self._asleep[process].append((begin, end))

    def stalled(self, process: str, begin: float, end: float) -> None:
        """Its tail hears nothing, and so it may hold the master for dead: no older read is excused."""
        self._stalled[process].append((begin, end + 0.1))

    def undisturbed(self, process: Any, begin: float, end: float) -> bool:
        """Whether nothing at all happened to a process, to the master or to a clock between two moments."""
        spells = (*self._blocked[process.name], *self._stalled[process.name])
        return (
            process.born < begin - 0.5
            and self.clock_at < begin - 5
            and self.evicted_at < begin - 0.5
            and not self.in_trouble(process.name, begin, end)
            and not any(b <= end and e >= begin for b, e in spells)
        )

    def disturbed(self, begin: float, end: float) -> None:
        self._disturbed.append((begin, end))

    def clock_stepped(self, at: float, *, of_master: bool) -> None:
        self.clock_at = at
        if of_master:
            self.entries.master_clock_at = at

    def lost_data(self, kind: str, begin: float, hard_end: float) -> Window:
        """Something that may lose what was acknowledged begins."""
        window = Window(kind, begin, hard_end)
        self.windows.append(window)
        return window

    def look_at_windows(self) -> None:
        """Close those in which everybody has settled; called now and then."""
        open_ = [w for w in self.windows if w.end == inf]
        if not open_:
            return
        settled = self._world.settled()
        for window in open_:
            if (window.complete and settled) or self.now >= window.hard_end:
                window.end = self.now

    def stopped(self, process: str, begin: float, end: float) -> float:
        """Seconds of trouble of a process, or of its event loop, between two moments."""
        spells = (*self._troubled[process], *self._blocked[process], *self._asleep[process])
        return sum(max(0.0, min(e, end) - max(b, begin)) for b, e in spells)

    def in_trouble(self, process: str, begin: float, end: float) -> bool:
        """Whether something excuses this process between two moments."""
        spells = (*self._troubled[process], *self._asleep[process], *self._disturbed)
        return any(b <= end and e >= begin for b, e in spells) or any(
            w.begin <= end and w.end >= begin for w in self.windows
        )

    def epoch_heard(self, process: Any, epoch: int, since: float) -> None:
        """Some sentinel has named an epoch since a moment; a process that can ask it follows within a poll or two.

        A process whose cache was never used asks nobody.
        """
        spells = (*self._troubled[process.name], *self._asleep[process.name], *self._disturbed)
        if process.used_since is None or process.used_since >= since:
            return
        if any(b <= self.now and e >= since - 0.3 for b, e in spells):
            return
        if self.now - since > 1.7 and process.engine.view.epoch < epoch:
            view = process.engine.view
            self.bad("epoch", f"{process.name} follows {view.epoch} 1.7 s after a sentinel named {epoch}")

    # -- the database

    def version(self, key: str) -> int:
        return len(self.versions[key])

    def commit(self, key: str) -> int:
        self.versions[key].append(self.now)
        return len(self.versions[key])

    # -- invalidations

    def begin(self, process: Any, scope: str, keys: list[str]) -> Invalidation:
        wanted = {k: len(self.versions[k]) for k in keys}
        if "a" in wanted:  # of several that are under way, any may win after this
            wanted["a"] = min((wanted["a"], *self._world.adding.values()))
        wanted |= {key: self.written.next() for key in WRITTEN if key in wanted}
        it = Invalidation(scope, process, wanted, self.now, self.tick())
        self.invalidations.append(it)
        for key in keys:
            self._by_key[key].append(it)
        return it

    def named(self, it: Invalidation, id: str) -> None:
        it.id = id
        self._by_id[id] = it

    def by_id(self, id: str) -> Invalidation | None:
        """The invalidation, or write, of an id."""
        return self._by_id.get(id)

    def of_key(self, key: str) -> list[Invalidation]:
        """All that outdate a key, in the order in which they began."""
        return self._by_key[key]

    def acknowledged(self, process: Any, id: str) -> None:
        it = self._by_id.get(id)
        if it is not None:
            self._hears(process, it)
            if it.process is process and it.acknowledged is None:
                it.acknowledged = self.now

    def heard(self, process: Any, id: str) -> None:
        it = self._by_id.get(id)
        if it is not None:
            self._hears(process, it)

    def _hears(self, process: Any, it: Invalidation) -> None:
        it.heard.setdefault(process, self.tick())
        if it.exempt and it.holder is None and it.acknowledged is not None:
            # It seemed lost with those who had heard of it, and is not: this process brings it to the next master.
            it.exempt, it.acknowledged = False, self.now + REPLAYED
            self.counts["revived"] += 1

    def issued_before(self, id: str, moment: float) -> bool:
        """Whether an invalidation, or any that is not known here, was issued before a moment."""
        it = self._by_id.get(id)
        return it is None or it.began < moment

    def forked(self, parent: Any, child: Any) -> None:
        """The child knows what its parent had heard, and what it had issued."""
        for it in self.invalidations:
            if parent in it.heard:
                it.heard[child] = it.heard[parent]
            elif it.process is parent and it.returned is not None:
                it.heard[child] = it.returned

    def died(self, process: Any) -> None:
        """Promise 6 holds unless everybody who had heard is gone."""
        for it in self.invalidations:
            if not it.exempt and it.holder is None and (process in it.heard or it.process is process):
                it.exempt = not any(p.tag.alive for p in it.heard)

    # -- changes

    def held(self, process: Any, tag: Any, scope: str, key: str, began: float) -> None:
        """A row was committed while the master refused fills of this scope: from now on no older one is cached."""
        self.counts["held commits"] += 1
        it = Invalidation(f"commit under {scope}", process, {key: len(self.versions[key])}, self.now)
        it.acknowledged, it.holder, it.held_since = self.now, tag, began
        self.invalidations.append(it)
        self._by_key[key].append(it)

    def _unheld(self, it: Invalidation) -> bool:
        """What excuses it: its time is that of a clock that was changed, or it was lost with its master and, before
        it could be put there again, with its process."""
        lost = any(w.begin <= self.now and w.end >= it.held_since - 0.3 for w in self.windows)
        return self.clock_at >= it.held_since - 0.3 or (lost and not it.holder.alive)

    @staticmethod
    def _since(it: Invalidation) -> float:
        """When what it rests on began: of a commit while fills were refused, the refusal."""
        return it.began if it.holder is None else it.held_since

    def _awake(self, process: Any, end: float) -> float:
        """When a trouble that ended then was over for a process: who was suspended in it learns so on waking."""
        return max((e for b, e in self._asleep[process.name] if b <= end <= e), default=end)

    def _may_be_lost(self, it: Invalidation) -> bool:
        """Whether its master, or the bookkeeping there, may have been lost: else it is there, whoever died."""
        return any(w.begin <= self.now and w.end >= it.began - 0.3 for w in self.windows) or any(
            at >= it.began - 0.3 for at, _ in self._evictions
        )

    # -- reads

    def outdating(self, key: str, version: int) -> Iterator[Invalidation]:
        """Those that want a newer version of a key, newest first: what began earlier wants no more."""
        if key in WRITTEN:  # the master's order is not that in which they began
            return filter(lambda it: version < it.wanted[key], reversed(self._by_key[key]))
        return takewhile(lambda it: version < it.wanted[key], reversed(self._by_key[key]))

    def keys(self) -> list[str]:
        """All that was ever invalidated."""
        return [key for key in self._by_key if key not in WRITTEN]

    @property
    def evicted_at(self) -> float:
        """When bookkeeping was evicted last."""
        return self._evictions[-1][0] if self._evictions else -inf

    def excused(self, it: Invalidation) -> bool:
        """Whether an invalidation binds nobody, now that everything has come together: no master had it, or all
        that knew it is lost."""
        if it.acknowledged is None or it.exempt or (it.holder is not None and self._unheld(it)):
            return True
        for at, knowing in self._evictions:
            left = [process for process in knowing if process.tag.alive]
            if self._since(it) - 0.3 <= at and (self.now < at + _TOLD_AGAIN or not left or it.holder is not None):
                return True
        return False

    def read(
        self, process: Any, key: str, version: int, began: float, number: int, how: str, *, idle: bool = False
    ) -> None:
        """A call that began at `began`, as event `number`, returned this version now; `idle`: it was the first one
        after a while, so what was invalidated before it counts, if nothing else happened to the process."""
        self.counts["reads"] += 1
        self.counts["first reads of an idle process"] += idle
        self.counts[f"from {how}"] += 1
        if key not in WRITTEN and version > self.version(key):
            return self.bad("value", f"{process.name} got {key} v{version} from {how}, which there never was")
        now = self.now
        for it in self.outdating(key, version):
            wanted = it.wanted[key]
            what = f"{process.name} got {key} v{version} < v{wanted} from {how};"
            what = f"{what} {it.scope} {it.id} of {it.process.name}"
            if it.process is process and it.returned is not None and it.returned < number:
                return self.bad("P3 own", what)
            heard = it.heard.get(process)
            if heard is not None and heard < number:
                return self.bad("P2", f"{what}, heard before it began")
            if it.acknowledged is None or (it.exempt and self._may_be_lost(it)):
                continue
            if it.holder is not None and (not how.startswith(_CACHES) or self._unheld(it)):
                continue
            since = it.acknowledged
            if not (self._world.strict and it.told):
                # What a process that cannot hear the present master may do: "available", or under "strict" with
                # what was not acknowledged to its caller, and was brought to a master in the background.
                for b, e in (*self._troubled[process.name], *self._disturbed):
                    if b <= now and (end := self._awake(process, e)) >= it.began:
                        since = max(since, end)
                for w in self.windows:
                    if w.begin <= now and w.end >= it.began - 0.3:
                        since = max(since, w.end)
            else:
                # "strict": a failover is no excuse, but for a process that had not been there to hear.
                for w in self.windows:
                    unheard = process.born > it.acknowledged or w.kind != "failover"
                    if unheard and w.begin <= now and w.end >= it.began - 0.3:
                        since = max(since, w.end)
            for at, knowing in self._evictions:
                # Who had heard of nothing cannot miss what was evicted, and a hold is gone: until those who know
                # of it have told it again.
                if self._since(it) - 0.3 <= at <= now and (process not in knowing or it.holder is not None):
                    since = max(since, self._awake(it.process, at) + _TOLD_AGAIN)
            limit = self._world.max_staleness + _SLACK
            if idle and self.undisturbed(process, it.acknowledged - 0.6, now):
                limit = 0.0
            if began > since + limit:
                kind = "P6" if any(w.begin <= now for w in self.windows) else "P3 other"
                return self.bad(kind, f"{what}, acknowledged {1000 * (began - it.acknowledged):.0f} ms before")
        return None

    # -- at the master

    def script(self, node: Any, name: str, reply: Any, words: list[bytes], before: Any) -> None:
        """A script has run on a node; `before`: what its entries and the tip were."""
        if not isinstance(reply, list) or reply[0] == b"GEN":
            return
        entries, tip = before
        handler: Callable[..., None] | None = getattr(self, f"_script_{name}", None)
        for told, asked, entry in singles(name, reply, words, entries):
            if entries:
                self.entries.ran(node, name, told, asked, (entry, tip))
            self.leases.ran(node, name, told, asked)
            self.written.ran(name, told, asked)
            self.judges.script(node, name, told, asked, (entry, tip))
            if handler is not None:
                handler(node, told, asked)

    def evicted(self, node: Any, state: bool) -> None:
        """Bookkeeping of a node is gone, perhaps its state with it."""
        knowing = {p for p in self._world.processes if p is not None and p.engine.state.marks.newest > 0}
        self._evictions.append((self.now, knowing))
        if state:
            self._evicted.add(node.replid)

    def flushed(self, node: Any) -> None:
        """All that a node had is gone. A process that knows nothing of it begins by the server's clock.

        That may have been set back.
        """
        self.leases.all_gone(node)
        if self.clock_at > -inf:
            self._stamps = {here: stamp for here, stamp in self._stamps.items() if here[0] != node.replid}

    def _script_invalidate(self, node: Any, reply: list[Any], words: list[bytes]) -> None:
        if reply[0] == b"ok":
            self._issued(node, int(reply[3]), words)
            if words[12] == b"k":
                self.leases.drop(node, words[5])

    def _script_set(self, node: Any, reply: list[Any], words: list[bytes]) -> None:
        if reply[0] == b"ok":
            self._issued(node, int(reply[3]), words)
            self.leases.drop(node, words[5])

    def _script_resync(self, node: Any, reply: list[Any], words: list[bytes]) -> None:
        """Where no sentinels number the masters, a process may go back to the former one, while replicas still
        follow it, and brings the stamps of the next one along."""
        here = (node.replid, words[8])
        if self._world.kind == "fixed" and int(words[9]) >= self._next.get(here, inf):
            self._returned.add(here)

    def _issued(self, node: Any, stamp: int, words: list[bytes]) -> None:
        """Stamps of one generation only grow; a former master that goes on stays below those of the next one.

        Who does not know the newest of those that were evicted cannot stay above it; whoever does mends that
        within milliseconds. Each bookkeeping counts for itself: after a flush the first process may find it in
        another database, and what was sent before that still names the former one.
        """
        book, known = words[10], int(words[11])
        here, before = (node.replid, book), (node.replid2, book)
        if node.replid in self._evicted and known < self._stamps.get(here, 0):
            return
        if stamp <= self._stamps.get(here, 0):
            self.bad("stamps", f"node {node.index} issued {stamp} after {self._stamps[here]}")
        if here not in self._stamps:
            self._next[before] = stamp
        self._stamps[here] = stamp
        for former in (here, before):
            newest, first = self._stamps.get(former, 0), self._next.get(former, inf)
            excused = former[0] in self._evicted or former[0] in self.begun_by_resync or former in self._returned
            if newest >= first and self.clock_at == -inf and not excused:
                self.bad("stamps", f"a former master issued {newest}, and the next one had begun with {first}")
