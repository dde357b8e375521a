"""What is judged of each entry by itself: counters, `add`, `touch`, sweeps, expiry, requests that come too late.

The oracle looks at an entry before and after each script that ran, with the marks that cover it, and at what
processes got. Rules 9, 11, 19 and 21 of the protocol.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["COUNTERS", "Entries", "Entry"]

#: Entries that are counters.
COUNTERS = ("c", "e")
#: Of clocks and of the way of an answer (seconds): by so much a process may be wrong about the master's time.
_SLACK = 0.06
_HEADER = 38
#: The flag of an entry that reads renew.
_RENEWED = 8
#: And the version, of which there is one.
_MAGIC = b"\xe7\xca\x01"


@dataclass(frozen=True, slots=True)
class Entry:
    """An envelope, read without the library: stamp, expiries (ms of the server), id, tags, and the number of a
    counter."""

    raw: bytes
    stamp: int
    soft: int
    hard: int
    id: str
    tags: tuple[str, ...]
    number: int | None

    @classmethod
    def of(cls, raw: Any) -> Entry | None:
        """What lies on a server; None for nothing."""
        if not isinstance(raw, bytes) or len(raw) < _HEADER or raw[:3] != _MAGIC:
            return None  # what else is there the library treats as nothing, or only reads its stamp
        flags, stamp = raw[3], int.from_bytes(raw[4:12], "big")
        soft, span = int.from_bytes(raw[12:18], "big"), int.from_bytes(raw[18:22], "big")
        count = raw[_HEADER] if flags & 2 else 0
        at = _HEADER + 1
        tags = tuple(raw[at + 8 * i : at + 8 * i + 8].hex() for i in range(count))
        payload = raw[at + 8 * count if flags & 2 else _HEADER :]
        number = int(payload) if flags & 1 else None
        return cls(raw, stamp, soft, soft + span, raw[22:30].hex(), tags, number)


class Entries:
    """Told of every script by the oracle, and of what processes got by the processes."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: Id of an entry -> its latest soft and hard expiry, in ms of the master that wrote it.
        self._expiries: dict[str, tuple[int, int]] = {}
        #: (generation, counter) -> since when it has which value; None for none.
        self._history: dict[tuple[str, str], list[tuple[float, int | None]]] = defaultdict(list)
        #: Increments by their delta, which is unique: until when each may be executed, and what came of it.
        self._until: dict[int, float] = {}
        self._counted: dict[int, int] = {}
        self._added: set[int] = set()
        #: Token of a lease -> until when its caller waits for it.
        self._asked: dict[str, float] = {}
        self.master_clock_at = -inf
        #: The newest stamp that the node had issued before the present script: what is above is of a lost life.
        self._tip = 0
        #: The database in which the present script keeps its bookkeeping. A state that was begun anew after an
        #: eviction does not name it.
        self._book_db = 0

    def __repr__(self) -> str:
        return f"<Entries increments={len(self._until)} added={len(self._added)}>"

    def _bad(self, promise: str, text: str) -> None:
        self._world.oracle.bad(promise, text)

    # -- marks, as they are on the server

    def _alive(self, node: Any, entry: Entry | None, least: int, name: str, tags: tuple[str, ...]) -> bool:
        if entry is None or node.now_us() // 1000 >= entry.hard or entry.stamp > self._tip:
            return False
        book = node.data.dbs[self._book_db]
        state = book[b"sim~state"][0] if b"sim~state" in book else {}
        marks = book[b"sim~marks"][0] if b"sim~marks" in book else {}
        least = max(least, int(state.get(b"*", 0)))
        if name:
            least = max(least, marks.get(b"f:" + name.encode(), 0))
        tags = (*tags, *entry.tags)
        if tags:
            least = max(least, int(state.get(b"tagfloor", 0)))
            least = max(least, *(marks.get(b"t:" + tag.encode(), 0) for tag in tags))
        return entry.stamp >= least

    def alive(self, node: Any, entry: Entry, name: str) -> bool:
        """Whether a node would serve an entry of this function, by the marks that it has now."""
        self._book_db = node.data.book()
        state = node.data.dbs[self._book_db].get(b"sim~state", ({}, None))[0]
        self._tip = int(state.get(b"tip", 0))
        return self._alive(node, entry, 0, name, ())

    # -- scripts

    def ran(self, node: Any, name: str, reply: list[Any], words: list[bytes], before: Any) -> None:
        """A script with an entry has run on a node; `before` is what the entry and the tip were."""
        key, args = words[5].decode(), [w.decode("latin-1") for w in words[7:]]
        was, self._tip = Entry.of(before[0]), before[1]
        if name == "lease":
            self._lease(node, reply, args, key)
            return
        if name not in ("store", "set", "touch", "incr", "sweep", "invalidate"):
            return
        self._book_db = int(args[3])
        now = Entry.of(node.data.find(0, words[5], node.now_us()))
        if now is not None and reply[0] == b"ok":
            soft, hard = self._expiries.get(now.id, (0, 0))
            self._expiries[now.id] = max(soft, now.soft), max(hard, now.hard)
        if name in ("store", "set") and now is not None and node.full_until > self._world.now and now != was:
            self._bad("memory", f"{key} was stored on a server that is above maxmemory")
        if key.startswith("sim:k:") and key[6:] in COUNTERS:
            self._value(node.replid, key[6:], was, now)
        if name in ("set", "touch", "incr", "sweep"):
            getattr(self, f"_{name}")(node, reply, args, key, was, now)

    def _lease(self, node: Any, reply: list[Any], args: list[str], key: str) -> None:
        token, not_after = args[8 + int(args[7])], int(args[14 + int(args[7])])
        until = self._asked.get(token)
        if reply[0] != b"lead" or not not_after or until is None:
            return
        if self._world.now > until + 0.002 and not self.clocks_changed(until - 3):
            ago = self._world.now - until
            self._bad("late", f"a lease on {key} for {token}, whose caller gave up {ago:.3f} s ago")

    def clocks_changed(self, since: float) -> bool:
        """Whether a clock of a server stepped since: what is late is then told by a wrong clock."""
        return self._world.oracle.clock_at > since or self.master_clock_at > since

    def _set(
        self, node: Any, reply: list[Any], args: list[str], key: str, was: Entry | None, now: Entry | None
    ) -> None:
        """`add` wins only where nothing alive is."""
        if args[7] != "add":
            return
        count = int(args[15])
        alive = self._alive(node, was, int(args[5]), args[6], tuple(args[16 : 16 + count]))
        if reply[0] == b"ok":
            self._added.add(int(reply[3]))
            if alive:
                self._bad("add", f"an add of {key} replaced a live entry of stamp {was.stamp if was else 0}")
        elif reply[0] == b"exists" and not alive:
            self._bad("add", f"an add of {key} was refused for an entry that is dead: {was}")

    def _touch(
        self, node: Any, reply: list[Any], args: list[str], key: str, was: Entry | None, now: Entry | None
    ) -> None:
        """Only of a live entry, and only its expiry and whether reads renew it."""
        count = int(args[13])
        alive = self._alive(node, was, int(args[5]), args[6], tuple(args[14 : 14 + count]))
        again = args[11] == "2" and was is not None and not was.raw[3] & _RENEWED
        if reply[0] == b"miss" and alive and not again:
            self._bad("touch", f"a touch of {key} did not find its live entry")
        if reply[0] != b"ok":
            return
        if not alive or was is None or now is None:
            self._bad("touch", f"a touch of {key} revived {was}")
        elif was.raw[:3] + was.raw[4:12] + was.raw[22:] != now.raw[:3] + now.raw[4:12] + now.raw[22:]:
            self._bad("touch", f"a touch changed {was} to {now}")

    def _sweep(
        self, node: Any, reply: list[Any], args: list[str], key: str, was: Entry | None, now: Entry | None
    ) -> None:
        """Only what is dead."""
        alive = was is not None and was.stamp >= int(args[5]) and node.now_us() // 1000 < was.hard
        if alive and now is None:
            self._bad("sweep", f"a sweep of {key} removed {was}")

    def _incr(
        self, node: Any, reply: list[Any], args: list[str], key: str, was: Entry | None, now: Entry | None
    ) -> None:
        """Adds once, to what was there; keeps stamp, id and expiry."""
        delta = int(args[9])
        alive = self._alive(node, was, int(args[5]), "", ())
        if reply[0] == b"type" and not (alive and was is not None and was.number is None):
            self._bad("counter", f"{key} counts as no counter: {was}")
        if reply[0] != b"ok":
            return
        value = int(reply[3])
        start = was.number if alive and was is not None else int(args[12])
        if start is None or value != start + delta or now is None or now.number != value:
            self._bad("counter", f"{key} went from {start} by {delta} to {value} ({now})")
            return
        if alive and was is not None and was.raw[:_HEADER] != now.raw[:_HEADER]:
            self._bad("counter", f"an increment of {key} changed {was} to {now}")
        if (node.data.dbs[0][key.encode()][1] or 0) // 1000 != now.hard:
            self._bad("counter", f"{key} leaves the server at another time than its expiry {now.hard}")
        if delta in self._counted:
            self._bad("counter", f"the increment of {key} by {delta} was executed twice")
        self._counted[delta] = value
        until = self._until.get(delta, inf)
        if self._world.now > until + 0.002 and not self.clocks_changed(until - 3):
            late = self._world.now - until
            self._bad("late", f"the increment of {key} by {delta} was executed {late:.3f} s late")

    def _value(self, generation: str, key: str, was: Entry | None, now: Entry | None) -> None:
        history = self._history[generation, key]
        if not history:
            history.append((-inf, was.number if was is not None else None))
        history.append((self._world.now, now.number if now is not None else None))

    # -- processes

    def asked(self, token: str, deadline: float) -> None:
        """A process asks for a lease until a deadline."""
        self._asked[token] = max(deadline, self._asked.get(token, 0.0))

    def increment(self, until: float) -> int:
        """A delta that no other call has; executed until then, or never."""
        delta = len(self._until) + 1
        self._until[delta] = until
        return delta

    def incremented(self, key: str, delta: int, value: int | None) -> None:
        """What a call returned."""
        if value is not None and self._counted.get(delta) != value:
            self._bad("counter", f"{key} by {delta} returned {value}; the master said {self._counted.get(delta)}")

    def counter_read(self, process: Any, key: str, value: int, began: float) -> None:
        """A counter is read at the master: what it was at some moment of the call."""
        for (_, name), history in self._history.items():
            if name == key:
                for i, (_, held) in enumerate(history):
                    if held == value and (i + 1 == len(history) or history[i + 1][0] >= began):
                        return
        for node in self._world.nodes:  # a generation in which nobody has counted yet
            entry = Entry.of(node.data.find(0, b"sim:k:" + key.encode(), 0))
            if node.role == "master" and entry is not None and entry.number == value:
                return
        self._bad("counter", f"{process.name} read {key} = {value}, which it was not since {began:.4f}")

    def added(self, key: str, ack: Any) -> None:
        """What an `add` returned."""
        if ack.done and ack.stamp not in self._added:
            self._bad("add", f"an add of {key} at {ack.stamp} was acknowledged, but the master did not take it")

    def served(self, process: Any, key: str, envelope: Any, stale: bool, began: float, source: str) -> None:
        """An entry was served to a call that began then: it must have been within its time (rule 19)."""
        known = self._expiries.get(envelope.id.hex())
        oracle = self._world.oracle
        if known is None or self.master_clock_at > began - 3 or oracle.in_trouble(process.name, began - 2, began):
            return
        end = known[1] if stale else known[0]
        at = min(n.now_us() for n in self._world.nodes if n.role == "master") / 1e6 - (self._world.now - began)
        if at > end / 1e3 + _SLACK:
            after = f"{at - end / 1e3:.3f} s after its {'hard' if stale else 'soft'} expiry"
            self._bad("expiry", f"{process.name} got {key} from {source} {after}")
