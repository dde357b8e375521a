"""The binary wrapping of every entry: a fixed header, the hashes of the tags, the payload.

    0  2  magic e7 ca            22  8  id of the computation or of the set
    2  1  version                30  3  compute time in 0.1 ms
    3  1  flags                  33  1  codec
    4  8  stamp, µs              34  4  CRC-32 of all that follows the header; 0 for a counter
    12 6  soft expiry, ms        38  -  one byte n and n tag hashes of 8 bytes, if there are tags
    18 4  span to hard expiry, ms    -  payload

All numbers are big endian. Magic, version, stamp, soft expiry and span stay where they are in every
later version: a reader of today can tell how old an envelope of tomorrow is.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple
from zlib import crc32

from msgspec import Struct

from evercache.errors import CannotEncode, CorruptEnvelope

__all__ = [
    "COMPRESSED",
    "COUNTER",
    "ERROR",
    "HEADER_BYTES",
    "MAGIC",
    "MAX_SPAN_MS",
    "MAX_TAGS",
    "RENEWED",
    "TAGGED",
    "VERSION",
    "Envelope",
    "Header",
    "draw_of",
    "own_id",
    "pack",
    "peek_header",
    "repack",
    "unpack",
]

MAGIC = b"\xe7\xca"
VERSION = 1
COUNTER, TAGGED, COMPRESSED, RENEWED, ERROR = 1, 2, 4, 8, 16
#: Tags that one entry can carry.
MAX_TAGS = 255

_HEADER = struct.Struct(">2sBBQHII8sBHBI")
_FIXED = struct.Struct(">2sBBQHII")
#: Where the id is.
_ID = slice(_FIXED.size, _FIXED.size + 8)
HEADER_BYTES = _HEADER.size
_MAX_STAMP = 1 << 53
#: Milliseconds between the soft and the hard expiry.
MAX_SPAN_MS = (1 << 32) - 1
_MAX_COMPUTE = (1 << 24) - 1
_NUMBER = re.compile(rb"-?[0-9]{1,16}")


class Header(NamedTuple):
    """The fields that never move."""

    version: int
    stamp: int
    soft_ms: int
    hard_ms: int


class Envelope(Struct, frozen=True):
    """One entry as it lies on a server. `soft_ms` and `hard_ms` are points in server time, milliseconds.

    Of an envelope of a newer version (`readable` is False) only version, stamp and the two expiries mean
    anything.
    """

    version: int
    flags: int
    stamp: int
    soft_ms: int
    hard_ms: int
    id: bytes
    compute_seconds: float
    codec: int
    tags: tuple[bytes, ...]
    payload: bytes

    @property
    def readable(self) -> bool:
        """Whether this version of the library can read the payload."""
        return self.version <= VERSION

    @property
    def counter(self) -> bool:
        """Whether the payload is a decimal number that `incr` changes."""
        return bool(self.flags & COUNTER)

    @property
    def compressed(self) -> bool:
        """Whether the payload is compressed."""
        return bool(self.flags & COMPRESSED)

    @property
    def renewed(self) -> bool:
        """Whether a read between the two expiries renews them (`ttl=inf`)."""
        return bool(self.flags & RENEWED)

    @property
    def error(self) -> bool:
        """Whether the payload is an exception that the function raised."""
        return bool(self.flags & ERROR)

    @property
    def number(self) -> int:
        """The value of a counter."""
        return int(self.payload)


def draw_of(id: bytes) -> float:
    """The random number from 0 to 1 by which an entry with this id expires earlier (the jitter).

    Made of the id, which is random, so that a reader can tell how old the entry is.
    """
    return int.from_bytes(id[:4]) / (1 << 32)


def pack(
    *,
    payload: bytes,
    codec: int = 0,
    id: bytes = bytes(8),
    stamp: int = 0,
    soft_ms: int = 0,
    span_ms: int = 0,
    compute_seconds: float = 0.0,
    tags: tuple[bytes, ...] = (),
    compressed: bool = False,
    error: bool = False,
    counter: bool = False,
    renewed: bool = False,
) -> bytes:
    """The bytes of an entry. The scripts put stamp, soft expiry and span in at the server, by its own clock.

    Spans over 49 days and compute times over 27 minutes are cut to these. `CannotEncode` for more than
    255 tags.
    """
    if len(id) != 8:
        raise ValueError(f"an envelope's id has 8 bytes, not {len(id)}")
    if not 0 <= stamp < _MAX_STAMP:
        raise ValueError(f"a stamp is a number from 0 to 2**53, not {stamp}")
    if counter and not _NUMBER.fullmatch(payload):
        raise ValueError("the payload of a counter is a decimal number")
    flags = (
        (COUNTER if counter else 0)
        | (TAGGED if tags else 0)
        | (COMPRESSED if compressed else 0)
        | (ERROR if error else 0)
        | (RENEWED if renewed else 0)
    )
    body = payload
    if tags:
        if len(tags) > MAX_TAGS:
            raise CannotEncode(f"{len(tags)} tags on one entry: at most {MAX_TAGS} are possible")
        body = b"%c%b%b" % (len(tags), b"".join(tags), payload)
        if len(body) != 1 + 8 * len(tags) + len(payload):
            raise ValueError("a tag's hash has 8 bytes")
    compute = min(max(round(compute_seconds * 10_000), 0), _MAX_COMPUTE)
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        flags,
        stamp,
        soft_ms >> 32,
        soft_ms & 0xFFFFFFFF,
        min(max(span_ms, 0), MAX_SPAN_MS),
        id,
        compute >> 16,
        compute & 0xFFFF,
        codec,
        0 if counter else crc32(body),
    )
    return header + body


def unpack(data: bytes) -> Envelope:
    """Read an entry; `CorruptEnvelope` for bytes that are foreign, cut short or damaged."""
    try:
        magic, version, flags, stamp, soft_hi, soft_lo, span, id, slow, quick, codec, crc = _HEADER.unpack_from(
            data
        )
    except (struct.error, TypeError) as error:
        raise CorruptEnvelope("shorter than an envelope's header, or not bytes: a foreign value") from error
    if magic != MAGIC or not version or stamp >= _MAX_STAMP:
        raise CorruptEnvelope("not an envelope: a foreign value under this key")
    soft_ms = soft_hi << 32 | soft_lo
    if version > VERSION:
        return Envelope(version, 0, stamp, soft_ms, soft_ms + span, id, 0.0, 0, (), b"")
    start = HEADER_BYTES
    tags: tuple[bytes, ...] = ()
    if flags & TAGGED:
        count = data[start] if len(data) > start else 0
        start += 1 + 8 * count
        if not count or len(data) < start:
            raise CorruptEnvelope("an envelope cut short inside its tags")
        tags = tuple([data[i : i + 8] for i in range(HEADER_BYTES + 1, start, 8)])
    payload = data[start:]
    if flags & COUNTER:
        if not _NUMBER.fullmatch(payload):
            raise CorruptEnvelope("a counter that holds no number")
    elif crc32(payload, crc32(data[HEADER_BYTES:start])) != crc:
        raise CorruptEnvelope("the checksum of an envelope does not fit: damaged or cut short")
    compute = (slow << 16 | quick) / 10_000
    return Envelope(version, flags, stamp, soft_ms, soft_ms + span, id, compute, codec, tags, payload)


def peek_header(data: bytes) -> Header | None:
    """The fields that never move, or None for a foreign value; the rest is not looked at."""
    if len(data) < HEADER_BYTES or data[:2] != MAGIC:
        return None
    _, version, _, stamp, soft_hi, soft_lo, span = _FIXED.unpack_from(data)
    soft_ms = soft_hi << 32 | soft_lo
    return Header(version, stamp, soft_ms, soft_ms + span)


def own_id(data: bytes) -> str:
    """The id of an entry of this version, in hexadecimal digits, even if it is damaged; "" for all other bytes."""
    header = peek_header(data)
    return data[_ID].hex() if header is not None and 0 < header.version <= VERSION else ""


def repack(envelope: Envelope) -> bytes:
    """The bytes of an envelope made in memory, its stamp and expiries included."""
    return pack(
        payload=envelope.payload,
        codec=envelope.codec,
        id=envelope.id,
        stamp=envelope.stamp,
        soft_ms=envelope.soft_ms,
        span_ms=envelope.hard_ms - envelope.soft_ms,
        compute_seconds=envelope.compute_seconds,
        tags=envelope.tags,
        compressed=envelope.compressed,
        error=envelope.error,
        counter=envelope.counter,
        renewed=envelope.renewed,
    )
