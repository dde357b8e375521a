"""The checks of nearly every read, on the bytes that a node answered, with no object made on the way.

What is out of the ordinary (stale, damaged, outdated, a counter, an error, a later version) is not decided here:
`reads.judge` does that, and both must agree on what is served.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from msgspec import Struct

from evercache.client.request import Plan
from evercache.codecs import PLAIN, SMALL, STRICT, decode_plain
from evercache.errors import CorruptEnvelope
from evercache.near import NearEntry, copier
from evercache.observe import Counters
from evercache.protocol.envelope import COMPRESSED, HEADER_BYTES, MAGIC, RENEWED, TAGGED, VERSION
from evercache.protocol.lease import refresh_early
from evercache.protocol.scope import Subject
from evercache.protocol.types import Address

if TYPE_CHECKING:
    from evercache.engine.engine import Engine

__all__ = ["NOT_ASKED", "Serving", "Unserved"]

#: Of the header what matters here, in as few numbers as hold it, since each is an object: magic, version and flags;
#: the stamp; the soft expiry and half of the span; compute time and codec; the checksum; the byte that follows.
_HEADER: Final = struct.Struct(">IQQ2x8xIIB")
_ORDINARY: Final = int.from_bytes(MAGIC + bytes([VERSION, 0]))
_USUAL: Final = TAGGED | COMPRESSED
#: The units of the soft expiry with what shares its number (half of the span, below a millisecond): so many make a
#: millisecond, and a second. What has less than one millisecond left is not decided here.
_MS: Final = 1 << 16
_SECOND: Final = 1e3 * _MS
#: Where the MessagePack of most entries begins: no tags, and behind the first byte of the payload, which says that
#: nothing in it is special. The checksum of that byte, from which that of the rest goes on.
_PLAIN_AT: Final = HEADER_BYTES + 1
_PLAIN_CRC: Final = crc32(bytes([PLAIN]))


class Unserved(Struct, frozen=True):
    """What a first look brought when it could not be served as it is: the long way goes on from there.

    `began` (monotonic seconds) is when the call began, None when nothing was asked. `resyncs` and `obeyed` (see
    `Marks.remembers`) are as they were when the node was asked. `tried` is a node that failed. `early`: served it
    may be, but it must be refreshed in the background.
    """

    began: float | None = None
    data: bytes | None = None
    source: str = ""
    resyncs: int = 0
    obeyed: int = 0
    tried: Address | None = None
    early: bool = False


NOT_ASKED: Final = Unserved()


class Serving:
    """What both twins of the hot path check. No state of its own; safe for threads and tasks."""

    def __init__(self, engine: Engine) -> None:
        self.attach(engine)

    def attach(self, engine: Engine) -> None:
        """Take what is looked at most from the engine."""
        self._state = engine.state
        self._now = engine.state.now
        self._marks = engine.state.marks
        self._by_arguments = engine.state.near.by_arguments
        self._available = engine.settings.consistency == "available"

    def __repr__(self) -> str:
        return f"<Serving of {self._state!r}>"

    def near(self, arguments: tuple[Any, ...], counters: Counters) -> Any:
        """The value of a call whose entry this process keeps, else `NOT_ASKED`."""
        entry = self._by_arguments(arguments)
        if entry is None:
            return NOT_ASKED
        now = self._now()
        if now >= entry.until or entry.version != self._marks.version or now > self._state.sure_until:
            return NOT_ASKED
        entry.visited = True
        counters.near_hits += 1
        try:
            return entry.copy()
        except MemoryError:
            counters.near_hits -= 1
            return NOT_ASKED

    def near_again(self, arguments: tuple[Any, ...], plan: Plan, key: str, tags: tuple[bytes, ...]) -> Any:
        """The same by the key, at the first hit and after each mark that was heard. Then `near` is enough."""
        state, marks = self._state, self._marks
        if state.lock._is_owned():
            return NOT_ASKED  # a signal handler or a finalizer inside a change (`Engine.inside`)
        version, now = marks.version, self._now()
        entry = state.near.look(key)
        if (
            entry is None
            or now >= entry.until
            or now > state.sure_until
            or state.journal.pending
            or not self._available
        ):
            return NOT_ASKED
        envelope = entry.envelope
        if not marks.fresh(envelope.stamp, Subject(key, plan.function, tags), envelope.tags):
            return NOT_ASKED
        try:
            copy = entry.copy if entry.maker is plan else self._copier(plan, entry)
            if copy is None:
                return NOT_ASKED
            value = copy()
        except MemoryError:
            return NOT_ASKED
        if entry.maker is plan and entry.arguments is None:
            with state.lock, state.change:
                state.near.name(entry, arguments)
        entry.version, entry.visited = version, True
        plan.counters.near_hits += 1
        return value

    def _copier(self, plan: Plan, entry: NearEntry) -> Callable[[], Any] | None:
        """What gives a value of its own to each caller, made at the first hit."""
        envelope = entry.envelope
        if envelope.error or envelope.counter:
            return None
        context = entry.key.encode()
        decode = partial(plan.encoder.decode, envelope.payload, envelope.codec, envelope.compressed, context)
        try:
            value = decode()
        except CorruptEnvelope:
            return None
        copy, more = copier(value) or (decode, 0)
        with self._state.lock, self._state.change:
            if self._state.near.keep_copy(entry, copy, more, plan):
                return copy
            self._state.near.keep_copy(entry, decode, 0, plan)
        return decode

    def value(
        self,
        plan: Plan,
        key: str,
        tags: tuple[bytes, ...],
        data: bytes,
        source: str,
        resyncs: int,
        began: float,
        now: float,
        obeyed: int,
    ) -> Any:
        """The decoded value of an entry that is whole, live and fresh, else `Unserved`.

        `resyncs` and `obeyed` as in `Unserved`.
        """
        state, marks = self._state, self._marks
        try:
            head, stamp, soft, compute, crc, first = _HEADER.unpack_from(data)
        except struct.error:
            return Unserved(began, data, source, resyncs, obeyed)
        newest, offset = marks.newest, state.clock.offset
        if (
            stamp > newest
            or offset is None
            or resyncs != state.resyncs
            or now > state.sure_until
            or state.journal.pending
        ):
            return Unserved(began, data, source, resyncs, obeyed)
        flags, start = 0, HEADER_BYTES
        if head != _ORDINARY:
            flags = (head ^ _ORDINARY) & ~RENEWED
            if flags & ~_USUAL:
                return Unserved(began, data, source, resyncs, obeyed)
            if flags & TAGGED:
                start += 1 + 8 * first
                if not first or len(data) <= start:
                    return Unserved(began, data, source, resyncs, obeyed)
        if stamp < newest:
            # Not newer than every mark that was heard of: look up the marks that cover it, and then the floors that
            # stand for marks which were dropped or forgotten.
            mark = marks.keys.get(key)
            if mark is not None and stamp < mark[0]:
                return Unserved(began, data, source, resyncs, obeyed)
            if tags or flags & TAGGED:
                known = marks.tags.get
                for tag in tags:
                    if stamp < known(tag, 0):
                        return Unserved(began, data, source, resyncs, obeyed)
                for at in range(HEADER_BYTES + 1, start, 8):
                    if stamp < known(data[at : at + 8], 0):
                        return Unserved(began, data, source, resyncs, obeyed)
                if stamp < marks.tag_floor:
                    return Unserved(began, data, source, resyncs, obeyed)
            if (
                stamp < marks.functions.get(plan.function, 0)
                or stamp < marks.everything
                or (stamp < marks.key_floor and source != "master")
                or (obeyed < marks.horizon and stamp < marks.horizon)
            ):
                return Unserved(began, data, source, resyncs, obeyed)
        left = soft - (now + offset) * _SECOND
        plain = not (flags or first) and compute & 0xFF == plan.plain
        if plain:
            payload = data[_PLAIN_AT:] if len(data) < SMALL else memoryview(data)[_PLAIN_AT:]
            found = crc32(payload, _PLAIN_CRC)
        else:
            found = crc32(memoryview(data)[HEADER_BYTES:])
        if left < _MS or found != crc:
            return Unserved(began, data, source, resyncs, obeyed)
        if left < compute * plan.early and refresh_early(
            left / _MS, (compute >> 8) / 10, plan.beta, 1.0 - state.rng.random()
        ):
            return Unserved(began, data, source, resyncs, obeyed, early=True)
        try:
            if not plain:
                value = plan.encoder.decode(data[start:], compute & 0xFF, bool(flags & COMPRESSED), key.encode())
            else:
                try:
                    value = decode_plain(payload)
                except Exception:  # damaged, or what only the codec reads: text with lone surrogates, great depth
                    value = plan.encoder.decode(data[start:], STRICT, False, b"")
        except (CorruptEnvelope, MemoryError):
            return Unserved(began, data, source, resyncs, obeyed)
        if source == "master":
            plan.counters.master_hits += 1
        else:
            plan.counters.replica_hits += 1
        return value
