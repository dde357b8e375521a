"""Who holds which lease, who computes what, and how long calls may wait for it (promises 1 and 5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.oracle import Oracle

__all__ = ["LEASE", "Grant", "Leases", "Running"]

LEASE = 1.0
SLACK = 0.05


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
    granted: float
    until: float
    dropped: bool = False
    stored: bool = False
    #: When it was dropped, or its value stored.
    over: float = inf


class Leases:
    """Told of the scripts by the oracle, and of computations by the processes."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        #: token -> what was granted.
        self.grants: dict[str, Grant] = {}
        self._latest: dict[tuple[str, str], Grant] = {}
        self._granted: dict[str, list[Grant]] = defaultdict(list)
        self.computing: dict[str, tuple[str, Any]] = {}
        self._running: dict[Running, None] = {}
        self._busy: dict[str, int] = defaultdict(int)
        self._busy_since: dict[str, float] = {}
        self._spells: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def __repr__(self) -> str:
        return f"<Leases granted={len(self.grants)} computing={len(self.computing)}>"

    def all_gone(self, node: Any) -> None:
        """Everything was flushed there, leases too; not those of a former master that goes on."""
        for grant in self._latest.values():
            if grant.place[0] == node.replid:
                grant.dropped, grant.over = True, self._oracle.now

    # -- how long a call may take

    def call_took(self, process: Any, began: float, *keys: str, budget: float) -> None:
        """A cached call is over: beyond the computations of its keys, and leases on them that nobody computes under
        (of a process that was killed or cut off, or whose answer was lost), it may spend its budget (promise 1).
        """
        oracle = self._oracle
        now = oracle.now
        if oracle.over or now - began <= budget + SLACK:
            return
        busy = [spell for key in keys for spell in self._busy_spells(key)]
        leased = [spell for key in keys for spell in self._lease_spells(key, began, now)]
        waited = self._covered(began, now, busy)
        held = self._covered(began, now, busy + leased) - waited
        limit = budget + SLACK + oracle.stopped(process.name, began, now)
        if oracle.clock_at > began - 5:
            limit += LEASE
        if now - began - waited - held > limit:
            text = f"{now - began:.3f} s, {waited:.3f} of it computing, {held:.3f} leased to nobody"
            oracle.bad("P1", f"{process.name}: a call of {', '.join(keys)} took {text}")

    def _busy_spells(self, key: str) -> list[tuple[float, float]]:
        since = self._busy_since.get(key)
        return [*self._spells[key], *([(since, inf)] if since is not None else [])]

    def _lease_spells(self, key: str, began: float, now: float) -> list[tuple[float, float]]:
        return [(g.granted, min(g.until, g.over)) for g in self._granted[key]]

    @staticmethod
    def _covered(begin: float, end: float, spells: list[tuple[float, float]]) -> float:
        """Seconds between two moments that any of the spells covers."""
        total, at = 0.0, begin
        for b, e in sorted(spells):
            b, e = max(b, at), min(e, end)
            if e > b:
                total, at = total + e - b, e
        return total

    # -- computations

    def began_computing(self, process: Any, key: str, token: str) -> Running:
        """Somebody's function begins; returns what `ended_computing` takes."""
        self._oracle.counts["computations"] += 1
        if token:
            self.computing[token] = (key, process)
        now = self._oracle.now
        spells = [] if token else [*self._busy_spells(key), *self._lease_spells(key, now - 1.0, now)]
        running = self.began_leading(process, key, token)
        self._oracle.judges.once.began(running, self._covered(now - 1.0, now, spells))
        return running

    def began_leading(self, process: Any, key: str, token: str = "") -> Running:
        """Somebody has the lease of a key until its store is over: who waits for that waits for the function."""
        running = Running(key, process, token)
        self._running[running] = None
        self._busy[key] += 1
        if self._busy[key] == 1:
            self._busy_since[key] = self._oracle.now
        return running

    def ended_computing(self, running: Running) -> None:
        """It ended, or its process did."""
        if running not in self._running:
            return
        del self._running[running]
        self._oracle.judges.once.ended(running)
        key = running.key
        self.computing.pop(running.token, None)
        self._busy[key] -= 1
        if not self._busy[key]:
            self._spells[key].append((self._busy_since.pop(key), self._oracle.now))

    def all_ended(self, process: Any) -> None:
        """A process is gone in the middle of whatever it computed."""
        for running in [r for r in self._running if r.process is process]:
            self.ended_computing(running)

    # -- at the master

    def ran(self, node: Any, name: str, reply: list[Any], words: list[bytes]) -> None:
        """A script has run on a node."""
        handler: Callable[..., None] | None = getattr(self, f"_script_{name}", None)
        if handler is not None:
            handler(node, reply, words)

    def _script_lease(self, node: Any, reply: list[Any], words: list[bytes]) -> None:
        oracle, now = self._oracle, self._oracle.now
        args = words[7:]
        tags = int(args[7])
        token, key = args[8 + tags].decode(), words[5].decode()
        place = (node.replid, key)
        if reply[0] == b"wait" and place not in self._latest:
            oracle.bad("lease", f"{token} waits for {key}, of which this master granted and renewed no lease")
        if reply[0] != b"lead" or not token:
            return
        stamp = int(reply[4])
        marks = reply[3]
        least = max(int(args[5]), int(marks[1]), int(marks[2]), *(int(m) for m in marks[4][1::2]))
        if tags or marks[4]:
            least = max(least, int(marks[3]))
        if stamp < least:
            oracle.bad("stamps", f"a lease on {key} was granted with stamp {stamp} below a mark {least}")
        before = self._latest.get(place)
        if before is not None and before.token == token and before.stamp == stamp and not before.dropped:
            return  # the same call again
        if before is not None and not before.dropped and before.stamp >= least and before.token in self.computing:
            _, process = self.computing[before.token]
            expired = now >= before.until
            excused = expired and oracle.in_trouble(process.name, now - 2 * LEASE, now)
            # A clock that jumps ahead ends leases early (rule 19).
            jumped = now - oracle.clock_at < 2 * LEASE
            if process.tag.alive and not excused and not jumped:
                whose = f"{process.name} computes it under {before.token}"
                oracle.bad("P5", f"{key} is leased to {token} while {whose}")
        grant = Grant(token, place, stamp, now, now + int(args[9 + tags]) / 1e3)
        self.grants[token] = self._latest[place] = grant
        self._granted[key].append(grant)

    def _script_renew(self, node: Any, reply: list[Any], words: list[bytes]) -> None:
        if reply[0] != b"ok":
            return
        token, place, now = words[12].decode(), (node.replid, words[5].decode()), self._oracle.now
        until = now + int(words[13]) / 1e3
        here, known = self._latest.get(place), self.grants.get(token)
        if here is not None and here.token == token:
            here.until = until
        elif known is not None:  # a former master had granted it; from now on it is this one's
            self._latest[place] = grant = Grant(token, place, known.stamp, now, until)
            self._granted[place[1]].append(grant)

    def drop(self, node: Any, key: bytes) -> None:
        """The lease of a key was removed."""
        grant = self._latest.get((node.replid, key.decode()))
        if grant is not None:
            grant.dropped, grant.over = True, self._oracle.now

    def _script_release(self, node: Any, reply: list[Any], words: list[bytes]) -> None:
        if reply[0] == b"ok":
            self.drop(node, words[5])

    def _script_store(self, node: Any, reply: list[Any], words: list[bytes]) -> None:
        """Only the last holder of the lease may store."""
        if reply[0] != b"ok":
            return
        self._oracle.counts["stores"] += 1
        token, key = words[12].decode(), words[5].decode()
        mine = self.grants.get(token)
        if mine is not None and mine.stored:
            return  # the same call again, its first answer was lost
        grant = self._latest.get((node.replid, key))
        if grant is not None and (grant.token != token or grant.dropped) and not grant.stored:
            holder = "gone" if grant.dropped else grant.token
            self._oracle.bad("lease", f"{token} stored {key}, but the lease is {holder}")
        elif grant is not None and grant.token == token:
            grant.stored, grant.over = True, self._oracle.now
