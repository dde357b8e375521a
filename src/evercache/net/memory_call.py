"""What the scripts of the server inside the process share: `common.lua` in Python."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct, field

from evercache.protocol.types import Reply

if TYPE_CHECKING:
    from evercache.net.memory import MemoryServer

__all__ = [
    "HEADER",
    "LIMIT",
    "MAGIC",
    "REMEMBERED_MS",
    "SKEW_MS",
    "Book",
    "Call",
    "Entry",
    "Limits",
    "View",
    "expiries",
    "parse",
    "patched",
]

MAGIC, HEADER, LIMIT = b"\xe7\xca", 38, 2**53
#: As in `common.lua`: by how much a later life or generation of the bookkeeping begins higher, and where that ends.
LEAP, LEAPT = 2**32, 2**52
#: As in `common.lua`: no hold lasts longer, and for how long one that nobody let go of is remembered (ms).
LONGEST_MS, REMEMBERED_MS, SKEW_MS = 600_000, 300_000, 1000
_PATCH = struct.Struct(">QHIL")  # stamp, soft expiry (its 6 bytes in two parts), span
_SCAN = 2000


def _leapt(tip: int, by: int = LEAP) -> int:
    return max(tip, min(tip + by, LEAPT))


class Book(Struct):
    """The bookkeeping of one namespace; guarded by the lock of its server."""

    tip: int = 0
    star: int = 0
    #: Whether the mark of everything was raised without a line in the log.
    silent: bool = False
    tagfloor: int = 0
    gens: list[tuple[str, int]] = field(default_factory=list)
    last: bytes = b"0-0"
    life: bytes = b""
    #: Members by score, oldest first.
    marks: dict[bytes, int] = field(default_factory=dict)
    #: Ids by time, oldest first.
    ids: dict[bytes, int] = field(default_factory=dict)
    #: `kind:name` -> who holds it, until when (ms); and the latest of those times.
    holds: dict[bytes, dict[bytes, int]] = field(default_factory=dict)
    held: int = 0
    #: How long marks stay (ms).
    lifetime: int = 0
    #: Newest last: id of the line before, kind, name, stamp.
    log: deque[tuple[bytes, bytes, bytes, int]] = field(default_factory=lambda: deque(maxlen=_SCAN))


class Limits(Struct, frozen=True):
    """How much bookkeeping is kept."""

    lines: int
    journal_ms: int
    marks_ms: int
    marks: int
    every: int


class Entry(Struct):
    """A parsed value, for the length of one script. `raw` is empty for what is no envelope."""

    raw: bytes = b""
    stamp: int = 0
    soft: int = 0
    hard: int = 0
    newer: bool = False
    id: bytes = b""
    counter: bool = False
    tags: list[bytes] = field(default_factory=list)
    payload_at: int = HEADER


def parse(raw: bytes | None) -> Entry | None:
    """Read the header of a value."""
    if raw is None:
        return None
    if len(raw) < HEADER or not raw.startswith(MAGIC):
        return Entry()
    stamp, high, low, span = _PATCH.unpack_from(raw, 4)
    soft = (high << 32) | low
    if raw[2] < 1 or stamp >= LIMIT:
        return Entry()
    if raw[2] > 1:
        return Entry(raw, stamp, soft, soft + span, newer=True)
    entry = Entry(raw, stamp, soft, soft + span, False, raw[22:30].hex().encode(), bool(raw[3] & 1))
    if raw[3] & 2:
        end = HEADER + 1 + 8 * raw[HEADER] if len(raw) > HEADER else len(raw) + 1
        if len(raw) < end:
            return Entry()
        entry.tags = [raw[at : at + 8].hex().encode() for at in range(HEADER + 1, end, 8)]
        entry.payload_at = end
    return entry


def expiries(soft: int, span: int) -> bytes:
    """The two expiries as they stand in an envelope."""
    return struct.pack(">HIL", soft >> 32, soft & 0xFFFFFFFF, span)


def patched(envelope: bytes, stamp: int, soft: int, span: int) -> bytes:
    """The envelope with this stamp and these expiries."""
    return envelope[:4] + struct.pack(">Q", stamp) + expiries(soft, span) + envelope[22:]


class View(Struct):
    """What covers an entry: marks, their maximum, and whether the entry is alive."""

    entry: Entry | None
    function: int
    tags: list[tuple[bytes, int]]
    least: int
    fresh: bool

    @property
    def existed(self) -> int:
        """1 if a live entry, or a foreign value, is there."""
        return int(self.fresh or (self.entry is not None and not self.entry.raw))


class Call:
    """One call of a script: its arguments and what all scripts do. Lives under the server's lock."""

    __slots__ = (
        "_entries", "_left", "book", "count", "entry_key", "head", "lease_key", "newest", "now_ms", "now_us",
        "server",
    )  # fmt: skip

    def __init__(self, server: MemoryServer, keys: tuple[bytes, ...], argv: list[bytes], now_us: int) -> None:
        self.server = server
        self.head = argv[:5]
        self._left = iter(argv[5:])
        self.book = server.book(keys[1])
        self.count = (len(keys) - 5) // 2
        self._entries = list(zip(keys[5 : 5 + self.count], keys[5 + self.count :], strict=True))
        #: The entry that the script is about at the moment, and its lease.
        self.entry_key, self.lease_key = self._entries[0] if self._entries else (b"", b"")
        self.newest = int(argv[4])
        self.now_us, self.now_ms = now_us, now_us // 1000

    def __repr__(self) -> str:
        return f"<Call on {self.entry_key!r} at {self.now_us}>"

    def entries(self) -> Iterator[None]:
        """Go through the entries: in each turn the script is about the next one."""
        for keys in self._entries:
            self.entry_key, self.lease_key = keys
            yield

    def text(self) -> bytes:
        """The next argument."""
        return next(self._left)

    def number(self) -> int:
        """The next argument, a whole number."""
        return int(next(self._left))

    def texts(self, count: int) -> list[bytes]:
        """So many of the next arguments."""
        return [self.text() for _ in range(count)]

    def words(self) -> list[bytes]:
        """The next arguments: their number, then they."""
        return self.texts(self.number())

    def limits(self) -> Limits:
        """The next arguments: the limits of the bookkeeping."""
        return Limits(*(self.number() for _ in range(5)))

    def reply(self, status: bytes, *rest: Reply) -> Reply:
        """A reply with its common head."""
        return [status, self.now_us, self.server.replid.encode(), *rest]

    def entry(self) -> Entry | None:
        """The parsed entry; None if nothing is there."""
        return parse(self.server.get(self.entry_key, self.now_ms))

    def put(self, value: bytes, ttl_ms: int) -> None:
        """Write the entry, with a life in ms."""
        self.server.put(self.entry_key, value, self.now_ms + ttl_ms)

    def lease(self) -> tuple[bytes, int, int, int] | None:
        """Token, stamp, time of the grant and expected ms of the lease that is held now."""
        value = self.server.get(self.lease_key, self.now_ms)
        if value is None:
            return None
        token, stamp, granted, expected, _ = value.split()
        return token, int(stamp), int(granted), int(expected)

    def covering(self, least: int, name: bytes, tags: list[bytes]) -> tuple[int, list[tuple[bytes, int]], int]:
        """Mark of the function, marks of the tags, and the maximum of all that cover and `least`."""
        book = self.book
        function = book.marks.get(b"f:" + name, 0) if name else 0
        marks = [(tag, book.marks.get(b"t:" + tag, 0)) for tag in dict.fromkeys(tags)]
        floor = book.tagfloor if marks else 0
        return function, marks, max(least, book.star, function, floor, *(mark for _, mark in marks))

    def believable(self, expiry: int) -> int:
        """The expiry of a hold, or 0 where the clock must have been set back since."""
        return expiry if expiry <= self.now_ms + LONGEST_MS + SKEW_MS else 0

    def held_since(self, since: int, key: bytes, name: bytes, tags: list[bytes]) -> bool:
        """Whether any of these was held at some moment from `since` (ms) on."""
        holds = self.book.holds
        if not holds or self.believable(self.book.held) < since:
            return False
        scopes = [b"k:" + key, b"f:" + name, *(b"t:" + tag for tag in tags)]
        return any(self.latest(holds.get(scope, {})) >= since for scope in scopes)

    def latest(self, holders: dict[bytes, int]) -> int:
        """Until when a scope is held; 0 if it never was."""
        return max(map(self.believable, holders.values()), default=0)

    def look(self, least: int, name: bytes, tags: list[bytes]) -> View:
        """The entry and what covers it and what the caller says of it."""
        entry = self.entry()
        function, marks, least = self.covering(least, name, tags + (entry.tags if entry else []))
        fresh = (
            entry is not None
            and bool(entry.raw)
            and least <= entry.stamp <= self.book.tip
            and self.now_ms < entry.hard
        )
        return View(entry, function, marks, least, fresh)

    def ensure_generation(self, life: bytes) -> None:
        """Before any other write: name the generation and the tip that it started from."""
        book = self.book
        if book.gens and book.gens[-1][0] == self.server.replid:
            return
        book.gens = [*book.gens, (self.server.replid, book.tip)][-32:]
        if not book.life:
            book.life = life
            if self.newest > 0:
                # Without a replication id: the caller does a resync.
                by = (1 if self.head[1] else 5) * LEAP // 4 + self.now_us % (LEAP // 8)
                book.tip = book.star = _leapt(max(self.now_us, self.newest), by)
        else:
            book.tip = _leapt(max(self.now_us, book.tip))

    def raise_tip(self, tip: int, life: bytes) -> None:
        """Let the tip reach what the caller knows."""
        if tip > self.book.tip:
            self.ensure_generation(life)
            book = self.book
            unknown = self.newest > book.tip  # the caller knows of a life that is not known here
            book.tip = max(book.tip, tip, self.newest + 1 if unknown else 0)
            if unknown:
                book.star, book.silent = book.tip, True

    def fold(self, cap: int, most: int) -> None:
        """Fold the oldest marks, when there are too many, into a wider one."""
        book = self.book
        excess = min(len(book.marks) - cap, most)
        for member in list(islice(book.marks, max(0, excess))):
            score = book.marks.pop(member)
            if member.startswith(b"t:"):
                book.tagfloor = max(book.tagfloor, score)
            else:
                book.star = max(book.star, score)

    def mark(
        self, kind: bytes, name: bytes, id: bytes, remember: bool, limit: Limits, life: bytes
    ) -> tuple[int, bytes]:
        """Issue a mark: its stamp and the id of its line in the log."""
        self.ensure_generation(life)
        if self.newest > self.book.tip and kind != b"*":
            self._issue(b"*", b"")  # as in raise_tip
        stamp, line = self._issue(kind, name)
        if remember:
            self.book.ids[id] = self.now_ms
        self.keep_marks(limit.marks_ms)
        if stamp % limit.every == 0:
            self._trim(limit)
            self.fold(limit.marks, 200)
        return stamp, line

    def _issue(self, kind: bytes, name: bytes) -> tuple[int, bytes]:
        book = self.book
        stamp = max(self.now_us, book.tip + 1, self.newest + 1)
        before = tuple(int(part) for part in book.last.split(b"-"))
        ms, sequence = max((self.now_ms, 0), (before[0], before[1] + 1))
        book.log.append((book.last, kind, name, stamp))
        book.tip, book.last = stamp, b"%d-%d" % (ms, sequence)
        if kind in (b"f", b"t"):
            book.marks.pop(kind + b":" + name, None)
            book.marks[kind + b":" + name] = stamp
        elif kind == b"*":
            book.star = stamp
        return stamp, book.last

    def keep_marks(self, ms: int) -> None:
        """Marks stay as long as the longest time that any caller told."""
        self.book.lifetime = max(self.book.lifetime, ms)

    def _trim(self, limit: Limits) -> None:
        book = self.book
        old = self.now_ms - limit.journal_ms
        for id in [id for id, at in islice(book.ids.items(), 200) if at < old]:
            del book.ids[id]
        for id in list(islice(book.ids, max(0, min(len(book.ids) - limit.lines, 200)))):
            del book.ids[id]
        oldest = self.now_us - book.lifetime * 1000
        for member in [member for member, score in islice(book.marks.items(), 200) if score < oldest]:
            del book.marks[member]
