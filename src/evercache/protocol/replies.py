"""What the scripts answer, as values.

Each script has one parser. All accept `GEN` (the server is another generation and has done nothing: the
other fields keep their defaults), raise an error reply that they are given, and raise `ProtocolError` for a
shape that can't be. Additional elements of a later version are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsIndex

from msgspec import Struct

from evercache.errors import ServerError
from evercache.protocol.loglines import LogLine, parse_log, parse_marks
from evercache.protocol.shapes import to_int, to_str, wrong
from evercache.protocol.types import Reply

__all__ = [
    "IncrReply",
    "InvalidateReply",
    "KnownMarks",
    "LeaseReply",
    "LogLine",
    "ResyncReply",
    "ScriptReply",
    "SetReply",
    "StoreReply",
    "SweepReply",
    "TipReply",
    "TouchReply",
    "parse_hold",
    "parse_incr",
    "parse_invalidate",
    "parse_invalidates",
    "parse_lease",
    "parse_leases",
    "parse_log",
    "parse_marks",
    "parse_release",
    "parse_renew",
    "parse_restore",
    "parse_resync",
    "parse_set",
    "parse_sets",
    "parse_store",
    "parse_stores",
    "parse_sweep",
    "parse_tip",
    "parse_touch",
]


class KnownMarks(Struct, frozen=True):
    """The marks that the master has for a subject: of everything, its function and its tags (0 = none)."""

    tip: int = 0
    everything: int = 0
    function: int = 0
    tagfloor: int = 0
    tags: tuple[tuple[bytes, int], ...] = ()


class ScriptReply(Struct, frozen=True):
    """What every script tells: its verdict, the server's time in µs, and its replication id."""

    status: str
    now_us: int
    replid: str


class LeaseReply(ScriptReply, frozen=True):
    """`entry` (a live entry), `lead` (compute; `stamp`), `wait` (somebody else computes), `held` (compute, store
    nothing), `miss` (peek) or `late`.

    With `lead`, `wait` and `held`, `entry` is the stale entry if there is one. `left_ms`: until the other's lease
    ends; `elapsed_ms`: since it was granted; `expected_ms`: the usual time of the computation (0 = unknown).
    """

    marks: KnownMarks = KnownMarks()
    stamp: int = 0
    entry: bytes | None = None
    left_ms: int = 0
    elapsed_ms: int = 0
    expected_ms: int = 0


class StoreReply(ScriptReply, frozen=True):
    """`ok`, or `refused` with a reason: `lease` (lost), `newer`, `expired`, `full` (out of memory) or `held`."""

    soft_expiry_ms: int = 0
    reason: str = ""


class InvalidateReply(ScriptReply, frozen=True):
    """`ok`, or `dup` (this id has been obeyed before; `stamp` is then the tip)."""

    stamp: int = 0
    existed: bool = False
    log_id: str = ""


class SetReply(ScriptReply, frozen=True):
    """`ok`, or `late`, `cancelled`, `exists` (add) or `outdated` (since)."""

    stamp: int = 0
    existed: bool = False
    soft_expiry_ms: int = 0


class TouchReply(ScriptReply, frozen=True):
    """`ok`, `miss` or `late`."""

    soft_expiry_ms: int = 0


class IncrReply(ScriptReply, frozen=True):
    """`ok`, `late`, `type` (no counter) or `range` (2**53 or more; nothing was changed)."""

    value: int = 0


class ResyncReply(ScriptReply, frozen=True):
    """The state: `gens` are (replication id, tip at its start) in order, `last` the id of the last log line.

    `life` is empty while there is no bookkeeping. `elsewhere`: nothing was read, since other processes of the
    namespace have their bookkeeping in database `book`.
    """

    tip: int = 0
    everything: int = 0
    tagfloor: int = 0
    gens: tuple[tuple[str, int], ...] = ()
    last: str = "0-0"
    life: str = ""
    book: int = 0


class TipReply(ScriptReply, frozen=True):
    """The newest stamp issued."""

    tip: int = 0


class SweepReply(ScriptReply, frozen=True):
    """Whether the entry was removed."""

    removed: bool = False


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise wrong("bytes", value)
    return value


class _Fields:
    """Reads the elements of one reply in order; used by one call of a parser only."""

    def __init__(self, reply: Reply, statuses: str) -> None:
        if isinstance(reply, ServerError):
            raise reply
        if not isinstance(reply, list) or len(reply) < 3:
            raise wrong("a list", reply)
        self._left: Iterator[Any] = iter(reply)
        self.status = to_str(next(self._left))
        if self.status != "GEN" and self.status not in statuses.split():
            raise wrong(f"one of GEN {statuses}", self.status)
        self.head = (self.status, self.int(), self.str())

    def __repr__(self) -> str:
        return f"<_Fields {self.head}>"

    def next(self) -> Any:
        try:
            return next(self._left)
        except StopIteration:
            raise wrong("more", self.head) from None

    def int(self) -> int:
        return to_int(self.next())

    def str(self) -> str:
        return to_str(self.next())

    def rest(self, count: SupportsIndex) -> list[Any]:
        """The elements that stand for each of so many entries."""
        rest = list(self._left)
        if len(rest) < count.__index__():
            raise wrong("more", self.head)
        return rest[:count]


def _item(value: Any, least: int) -> list[Any]:
    if not isinstance(value, list) or len(value) < least:
        raise wrong("a list", value)
    return value


def _tag_marks(words: list[Any]) -> tuple[tuple[bytes, int], ...]:
    if len(words) % 2:
        raise wrong("tags", words)
    try:
        return tuple(
            (bytes.fromhex(to_str(tag)), to_int(mark)) for tag, mark in zip(words[::2], words[1::2], strict=True)
        )
    except ValueError:
        raise wrong("tags", words) from None


#: How many elements stand before the tags in what the lease script answers for an entry.
_BEFORE_TAGS = {"entry": 2, "lead": 3, "wait": 5, "held": 2, "miss": 1, "late": 1}


def parse_lease(reply: Reply) -> LeaseReply:
    """The reply of `lease` and `peek`."""
    return parse_leases(reply, 1)[0]


def parse_leases(reply: Reply, count: int) -> list[LeaseReply]:
    """The reply of `lease_many` and `peek_many`, for each of so many entries."""
    fields = _Fields(reply, "ok")
    status, now_us, replid = fields.head
    if status == "GEN":
        return [LeaseReply(status, now_us, replid)] * count
    tip, everything, function, tagfloor = (fields.int() for _ in range(4))
    replies = []
    for item in fields.rest(count):
        status = to_str(_item(item, 1)[0])
        before = _BEFORE_TAGS.get(status)
        if before is None:
            raise wrong(f"one of {' '.join(_BEFORE_TAGS)}", status)
        _item(item, before)
        marks = KnownMarks(tip, everything, function, tagfloor, _tag_marks(item[before:]) if item[before:] else ())
        match status:
            case "lead":
                stamp = to_int(item[1])
                replies.append(LeaseReply(status, now_us, replid, marks, stamp, _bytes(item[2]) or None))
            case "wait":
                left, elapsed, expected = (to_int(word) for word in item[1:4])
                stale = _bytes(item[4]) or None
                replies.append(LeaseReply(status, now_us, replid, marks, 0, stale, left, elapsed, expected))
            case "entry" | "held":
                replies.append(LeaseReply(status, now_us, replid, marks, 0, _bytes(item[1]) or None))
            case _:
                replies.append(LeaseReply(status, now_us, replid, marks))
    return replies


def parse_renew(reply: Reply) -> ScriptReply:
    """The reply of `renew`: `ok` or `lost`."""
    return ScriptReply(*_Fields(reply, "ok lost").head)


def parse_release(reply: Reply) -> ScriptReply:
    """The reply of `release`: `ok` or `lost`."""
    return parse_renew(reply)


def parse_hold(reply: Reply) -> ScriptReply:
    """The reply of `hold`: `ok`, `late`, or `full` (too much is held already)."""
    return ScriptReply(*_Fields(reply, "ok late full").head)


def parse_store(reply: Reply) -> StoreReply:
    """The reply of `store`."""
    return parse_stores(reply, 1)[0]


def parse_stores(reply: Reply, count: int) -> list[StoreReply]:
    """The reply of `store_many`, for each of so many values."""
    fields = _Fields(reply, "ok")
    status, now_us, replid = fields.head
    if status == "GEN":
        return [StoreReply(status, now_us, replid)] * count
    return [
        StoreReply("ok", now_us, replid, soft_expiry_ms=item)
        if isinstance(item, int)
        else StoreReply("refused", now_us, replid, reason=to_str(item))
        for item in fields.rest(count)
    ]


def parse_invalidate(reply: Reply) -> InvalidateReply:
    """The reply of `invalidate`."""
    return parse_invalidates(reply, 1)[0]


def parse_invalidates(reply: Reply, count: int) -> list[InvalidateReply]:
    """The reply of `invalidate_many`, for each of so many scopes."""
    fields = _Fields(reply, "ok")
    status, now_us, replid = fields.head
    if status == "GEN":
        return [InvalidateReply(status, now_us, replid)] * count
    replies = []
    for item in fields.rest(count):
        if isinstance(item, int):
            replies.append(InvalidateReply("dup", now_us, replid, item))
        else:
            stamp, existed, line = _item(item, 3)[:3]
            replies.append(
                InvalidateReply("ok", now_us, replid, to_int(stamp), bool(to_int(existed)), to_str(line))
            )
    return replies


def parse_set(reply: Reply) -> SetReply:
    """The reply of `set`."""
    return parse_sets(reply, 1)[0]


def parse_sets(reply: Reply, count: int) -> list[SetReply]:
    """The reply of `set_many`, for each of so many values."""
    fields = _Fields(reply, "ok late")
    status, now_us, replid = fields.head
    if status != "ok":
        return [SetReply(status, now_us, replid)] * count
    replies = []
    for item in fields.rest(count):
        if isinstance(item, list):
            stamp, existed, soft_ms = _item(item, 3)[:3]
            replies.append(SetReply("ok", now_us, replid, to_int(stamp), bool(to_int(existed)), to_int(soft_ms)))
        else:
            refused = to_str(item)
            if refused not in ("cancelled", "exists", "outdated"):
                raise wrong("one of cancelled exists outdated", refused)
            replies.append(SetReply(refused, now_us, replid))
    return replies


def parse_touch(reply: Reply) -> TouchReply:
    """The reply of `touch`."""
    fields = _Fields(reply, "ok miss late")
    return TouchReply(*fields.head, fields.int()) if fields.status == "ok" else TouchReply(*fields.head)


def parse_incr(reply: Reply) -> IncrReply:
    """The reply of `incr`."""
    fields = _Fields(reply, "ok late type range")
    return IncrReply(*fields.head, fields.int()) if fields.status == "ok" else IncrReply(*fields.head)


def parse_resync(reply: Reply) -> ResyncReply:
    """The reply of `resync`."""
    fields = _Fields(reply, "ok elsewhere")
    if fields.status == "GEN":
        return ResyncReply(*fields.head)
    if fields.status == "elsewhere":
        return ResyncReply(*fields.head, book=fields.int())
    tip, everything, tagfloor = fields.int(), fields.int(), fields.int()
    items = [item.rpartition(":") for item in fields.str().split(",") if item]
    gens = tuple((replid, to_int(start)) for replid, _, start in items)
    return ResyncReply(*fields.head, tip, everything, tagfloor, gens, fields.str(), fields.str())


def parse_tip(reply: Reply) -> TipReply:
    """The reply of `tip`."""
    fields = _Fields(reply, "ok")
    return TipReply(*fields.head, fields.int()) if fields.status == "ok" else TipReply(*fields.head)


def parse_restore(reply: Reply) -> TipReply:
    """The reply of `restore`."""
    return parse_tip(reply)


def parse_sweep(reply: Reply) -> SweepReply:
    """The reply of `sweep`."""
    fields = _Fields(reply, "ok")
    return SweepReply(*fields.head, bool(fields.int())) if fields.status == "ok" else SweepReply(*fields.head)
