"""Who knows the true order of everything, and says what may be seen and what not.

The truth is a database of versions: a row is committed, then its entry is invalidated. A value that a
call returns is the version that the function read. Each check names the promise (P2-P6) that it guards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Invalidation", "Oracle", "Violation", "Window"]

LEASE = 1.0
_SLACK = 0.03


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
    #: Numbers of events, not times: much happens in one moment.
    returned: int | None = None
    acknowledged: float | None = None
    id: str = ""
    heard: dict[Any, int] = field(default_factory=dict)
    exempt: bool = False


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
        self._disturbed: list[tuple[float, float]] = []
        self._clock_at = -inf
        self._ticks = 0
        #: token -> what was granted.
        self.grants: dict[str, Grant] = {}
        self._latest: dict[tuple[str, str], Grant] = {}
        self.computing: dict[str, tuple[str, Any]] = {}
        self._running: dict[Running, None] = {}
        self._busy: dict[str, int] = defaultdict(int)
        self._busy_since: dict[str, float] = {}
        self._busy_total: dict[str, float] = defaultdict(float)
        self._stamps: dict[str, int] = {}
        self.counts: dict[str, int] = defaultdict(int)

    def __repr__(self) -> str:
        return f"<Oracle violations={len(self.violations)} invalidations={len(self.invalidations)}>"

    @property
    def now(self) -> float:
        return self._world.now

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

    def disturbed(self, begin: float, end: float) -> None:
        self._disturbed.append((begin, end))

    def clock_stepped(self, at: float) -> None:
        self._clock_at = at

    def lost_data(self, kind: str, begin: float, hard_end: float) -> Window:
        """Something that may lose what was acknowledged begins."""
        window = Window(kind, begin, hard_end)
        self.windows.append(window)
        return window

    def leases_gone(self) -> None:
        """Everything was flushed, leases too."""
        for grant in self._latest.values():
            grant.dropped = True

    def look_at_windows(self) -> None:
        """Close those in which everybody has settled; called now and then."""
        open_ = [w for w in self.windows if w.end == inf]
        if not open_:
            return
        settled = self._world.settled()
        for window in open_:
            if (window.complete and settled) or self.now >= window.hard_end:
                window.end = self.now

    def in_trouble(self, process: str, begin: float, end: float) -> bool:
        """Whether something excuses this process between two moments."""
        return any(b <= end and e >= begin for b, e in (*self._troubled[process], *self._disturbed)) or any(
            w.begin <= end and w.end >= begin for w in self.windows
        )

    def epoch_heard(self, process: Any, epoch: int, since: float) -> None:
        """Some sentinel has named an epoch since a moment; whoever can ask it must follow within a poll or two."""
        spells = (*self._troubled[process.name], *self._disturbed)
        if process.born >= since or any(b <= self.now and e >= since - 0.3 for b, e in spells):
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
        it = Invalidation(scope, process, {k: len(self.versions[k]) for k in keys}, self.now)
        self.invalidations.append(it)
        for key in keys:
            self._by_key[key].append(it)
        return it

    def named(self, it: Invalidation, id: str) -> None:
        it.id = id
        self._by_id[id] = it

    def acknowledged(self, process: Any, id: str) -> None:
        it = self._by_id.get(id)
        if it is not None:
            it.heard.setdefault(process, self.tick())
            if it.process is process and it.acknowledged is None:
                it.acknowledged = self.now

    def heard(self, process: Any, id: str) -> None:
        it = self._by_id.get(id)
        if it is not None:
            it.heard.setdefault(process, self.tick())

    def died(self, process: Any) -> None:
        """Promise 6 holds unless everybody who had heard is gone."""
        for it in self.invalidations:
            if not it.exempt and (process in it.heard or it.process is process):
                it.exempt = not any(p.tag.alive for p in it.heard)

    # -- reads

    def read(self, process: Any, key: str, version: int, began: float, number: int, how: str) -> None:
        """A call that began at `began`, as event `number`, returned this version now."""
        self.counts["reads"] += 1
        self.counts[f"from {how}"] += 1
        now = self.now
        for it in reversed(self._by_key[key]):
            wanted = it.wanted[key]
            if version >= wanted:
                break  # what began earlier wants no more
            what = f"{process.name} got {key} v{version} < v{wanted} from {how};"
            what = f"{what} {it.scope} {it.id} of {it.process.name}"
            if it.process is process and it.returned is not None and it.returned < number:
                return self.bad("P3 own", what)
            heard = it.heard.get(process)
            if heard is not None and heard < number:
                return self.bad("P2", f"{what}, heard before it began")
            if it.acknowledged is None or it.exempt:
                continue
            since = it.acknowledged
            if not self._world.strict:
                # "available": what a process that cannot hear the present master may do.
                for b, e in (*self._troubled[process.name], *self._disturbed):
                    if b <= now and e >= it.began:
                        since = max(since, e)
                for w in self.windows:
                    if w.begin <= now and w.end >= it.began - 0.3:
                        since = max(since, w.end)
            else:
                # "strict": a failover is no excuse, but for a process that had not been there to hear.
                for w in self.windows:
                    unheard = process.born > it.acknowledged or w.kind != "failover"
                    if unheard and w.begin <= now and w.end >= it.began - 0.3:
                        since = max(since, w.end)
            limit = self._world.max_staleness + _SLACK
            if began > since + limit:
                kind = "P6" if any(w.begin <= now for w in self.windows) else "P3 other"
                return self.bad(kind, f"{what}, acknowledged {1000 * (began - it.acknowledged):.0f} ms before")
        return None

    def call_took(self, process: Any, key: str, began: float, busy: float) -> None:
        """A cached call is over: beyond the computations of its key it may spend its budget (promise 1)."""
        if self.over:
            return
        took = self.now - began
        waited = self.busy(key) - busy
        spare = took - waited
        limit = 2 * self._world.budget + 0.1
        # One that is killed, or cut off while it asks, leaves a lease to nobody.
        cut_off = any(self.in_trouble(name, began - 1.5, self.now) for name in (process.name, *self._troubled))
        if cut_off or self._world.killed_since(began - 1.5):
            limit += LEASE + 0.5
        if self._clock_at > began - 5:
            limit += LEASE
        stopped = sum(max(0.0, min(e, self.now) - max(b, began)) for b, e in self._troubled[process.name])
        if spare > limit + stopped:
            self.bad("P1", f"{process.name}: a call of {key} took {took:.3f} s, {waited:.3f} of it computing")

    # -- computations

    def busy(self, key: str) -> float:
        """Seconds in which somebody computed a key, so far."""
        since = self._busy_since.get(key)
        return self._busy_total[key] + (self.now - since if since is not None else 0.0)

    def began_computing(self, process: Any, key: str, token: str) -> Running:
        """Somebody's function begins; returns what `ended_computing` takes."""
        self.counts["computations"] += 1
        if token:
            self.computing[token] = (key, process)
        return self.began_leading(process, key, token)

    def began_leading(self, process: Any, key: str, token: str = "") -> Running:
        """Somebody has the lease of a key until its store is over: who waits for that waits for the function."""
        running = Running(key, process, token)
        self._running[running] = None
        self._busy[key] += 1
        if self._busy[key] == 1:
            self._busy_since[key] = self.now
        return running

    def ended_computing(self, running: Running) -> None:
        """It ended, or its process did."""
        if running not in self._running:
            return
        del self._running[running]
        key = running.key
        self.computing.pop(running.token, None)
        self._busy[key] -= 1
        if not self._busy[key]:
            self._busy_total[key] += self.now - self._busy_since.pop(key)

    def all_ended(self, process: Any) -> None:
        """A process is gone in the middle of whatever it computed."""
        for running in [r for r in self._running if r.process is process]:
            self.ended_computing(running)

    # -- at the master

    def script(self, node: Any, name: str, reply: Any, words: list[bytes]) -> None:
        """A script has run on a node."""
        if not isinstance(reply, list) or reply[0] == b"GEN":
            return
        handler: Callable[..., None] | None = getattr(self, f"_script_{name}", None)
        if handler is not None:
            handler(node, reply, words)

    def _script_lease(self, node: Any, reply: list[Any], words: list[bytes]) -> None:
        args = words[7:]
        tags = int(args[7])
        token = args[8 + tags].decode()
        if reply[0] != b"lead" or not token:
            return
        key, stamp = words[5].decode(), int(reply[4])
        marks = reply[3]
        least = max(int(args[5]), int(marks[1]), int(marks[2]), *(int(m) for m in marks[4][1::2]))
        if tags or marks[4]:
            least = max(least, int(marks[3]))
        if stamp < least:
            self.bad("stamps", f"a lease on {key} was granted with stamp {stamp} below a mark {least}")
        place = (node.replid, key)
        before = self._latest.get(place)
        if before is not None and before.token == token and before.stamp == stamp and not before.dropped:
            return  # the same call again
        if before is not None and not before.dropped and before.stamp >= least and before.token in self.computing:
            _, process = self.computing[before.token]
            expired = self.now >= before.until
            excused = expired and self.in_trouble(process.name, self.now - 2 * LEASE, self.now)
            # A clock that jumps ahead ends leases early (rule 19).
            jumped = self.now - self._clock_at < 2 * LEASE
            if process.tag.alive and not excused and not jumped:
                self.bad("P5", f"{key} is leased to {token} while {process.name} computes it under {before.token}")
        grant = Grant(token, place, stamp, self.now + LEASE)
        self.grants[token] = self._latest[place] = grant

    def _script_renew(self, node: Any, reply: list[Any], words: list[bytes]) -> None:
        grant = self.grants.get(words[12].decode())
        if reply[0] == b"ok" and grant is not None:
            grant.until = self.now + LEASE

    def _drop(self, node: Any, key: bytes) -> None:
        grant = self._latest.get((node.replid, key.decode()))
        if grant is not None:
            grant.dropped = True

    def _script_release(self, node: Any, reply: list[Any], words: list[bytes]) -> None:
        if reply[0] == b"ok":
            self._drop(node, words[5])

    def _script_invalidate(self, node: Any, reply: list[Any], words: list[bytes]) -> None:
        if reply[0] == b"ok":
            self._issued(node, int(reply[3]))
            if words[12] == b"k":
                self._drop(node, words[5])

    def _script_set(self, node: Any, reply: list[Any], words: list[bytes]) -> None:
        if reply[0] == b"ok":
            self._issued(node, int(reply[3]))
            self._drop(node, words[5])

    def _script_store(self, node: Any, reply: list[Any], words: list[bytes]) -> None:
        """Only the last holder of the lease may store."""
        if reply[0] != b"ok":
            return
        self.counts["stores"] += 1
        token, key = words[12].decode(), words[5].decode()
        grant = self._latest.get((node.replid, key))
        if grant is not None and (grant.token != token or grant.dropped) and not grant.stored:
            self.bad("lease", f"{token} stored {key}, but the lease is {'gone' if grant.dropped else grant.token}")
        elif grant is not None and grant.token == token:
            grant.stored = True

    def _issued(self, node: Any, stamp: int) -> None:
        """Stamps of one generation only grow."""
        if stamp <= self._stamps.get(node.replid, 0):
            self.bad("stamps", f"node {node.index} issued {stamp} after {self._stamps[node.replid]}")
        self._stamps[node.replid] = stamp


@dataclass(eq=False, slots=True)
class Running:
    """One run of a function."""

    key: str
    process: Any
    token: str


@dataclass(eq=False, slots=True)
class Grant:
    """A lease as the master granted it."""

    token: str
    place: tuple[str, str]
    stamp: int
    until: float
    dropped: bool = False
    stored: bool = False
