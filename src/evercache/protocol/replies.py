"""What the scripts answer, as values.

Each script has one parser. All accept `GEN` (the server is another generation and has done nothing: the
other fields keep their defaults), raise an error reply that they are given, and raise `ProtocolError` for a
shape that can't be. Additional elements of a later version are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from evercache.errors import ServerError
from evercache.protocol.loglines import LogLine, parse_log, parse_marks
from evercache.protocol.shapes import to_int, to_str, wrong
from evercache.wire.types import Reply

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
    "parse_lease",
    "parse_log",
    "parse_marks",
    "parse_release",
    "parse_renew",
    "parse_restore",
    "parse_resync",
    "parse_set",
    "parse_store",
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

    def stale(self) -> bytes | None:
        return _bytes(self.next()) or None

    def marks(self) -> KnownMarks:
        part = self.next()
        if not isinstance(part, list) or len(part) < 5 or not isinstance(part[4], list) or len(part[4]) % 2:
            raise wrong("marks", part)
        try:
            tags = tuple(
                (bytes.fromhex(to_str(tag)), to_int(mark))
                for tag, mark in zip(part[4][::2], part[4][1::2], strict=True)
            )
        except ValueError:
            raise wrong("tags", part[4]) from None
        return KnownMarks(to_int(part[0]), to_int(part[1]), to_int(part[2]), to_int(part[3]), tags)


def parse_lease(reply: Reply) -> LeaseReply:
    """The reply of `lease` and `peek`."""
    fields = _Fields(reply, "entry lead wait held miss late")
    if fields.status == "GEN":
        return LeaseReply(*fields.head)
    marks = fields.marks()
    match fields.status:
        case "entry":
            return LeaseReply(*fields.head, marks, entry=_bytes(fields.next()))
        case "lead":
            return LeaseReply(*fields.head, marks, stamp=fields.int(), entry=fields.stale())
        case "wait":
            left, elapsed, expected = fields.int(), fields.int(), fields.int()
            return LeaseReply(*fields.head, marks, 0, fields.stale(), left, elapsed, expected)
        case "held":
            return LeaseReply(*fields.head, marks, entry=fields.stale())
        case _:
            return LeaseReply(*fields.head, marks)


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
    fields = _Fields(reply, "ok refused")
    match fields.status:
        case "ok":
            return StoreReply(*fields.head, soft_expiry_ms=fields.int())
        case "refused":
            return StoreReply(*fields.head, reason=fields.str())
        case _:
            return StoreReply(*fields.head)


def parse_invalidate(reply: Reply) -> InvalidateReply:
    """The reply of `invalidate`."""
    fields = _Fields(reply, "ok dup")
    match fields.status:
        case "ok":
            return InvalidateReply(*fields.head, fields.int(), bool(fields.int()), fields.str())
        case "dup":
            return InvalidateReply(*fields.head, fields.int())
        case _:
            return InvalidateReply(*fields.head)


def parse_set(reply: Reply) -> SetReply:
    """The reply of `set`."""
    fields = _Fields(reply, "ok late cancelled exists outdated")
    if fields.status == "ok":
        return SetReply(*fields.head, fields.int(), bool(fields.int()), fields.int())
    return SetReply(*fields.head)


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
