"""What lies under an entry's key: the envelope, and the payload in it."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple
from unittest import mock
from zlib import crc32

import zstandard

from evercache.codecs import Compression, Encoder, JSONCodec, SignedPickleCodec, TypeRegistry, pipeline
from evercache.codecs.strict import StrictCodec
from evercache.errors import CannotEncode, CorruptEnvelope
from evercache.protocol import envelope as envelopes
from evercache.protocol.envelope import HEADER_BYTES, Envelope, pack, peek_header, repack
from tests.edits import edit
from tests.fuzz.target import Bug, Target, must

__all__ = ["TARGETS"]

#: No payload is inflated beyond this here: a bomb must not need much to show.
_MOST = 1 << 16
_KEY = b"fuzz:k:key"
_SECRET = b"a key of sixteen bytes, or more"


class Colour(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class Point:
    x: int
    y: Any


class Pair(NamedTuple):
    left: int
    right: Any


_TYPES = TypeRegistry([Colour, Point, Pair])
_CODEC = SignedPickleCodec([_SECRET])
_ENCODER = Encoder(
    types=_TYPES, compression=Compression(above=256, max_inflated=_MOST), also_read=(_CODEC,), max_value_bytes=_MOST
)


def _envelope(data: bytes) -> None:
    try:
        found = envelopes.unpack(data)
    except CorruptEnvelope:
        found = None
    head = peek_header(data)
    if found is None:
        return
    must(len(data) >= HEADER_BYTES, "an envelope shorter than its header")
    must(head is not None, "unpack and peek_header differ")
    assert head is not None
    fields = (found.version, found.stamp, found.soft_ms, found.hard_ms)
    must(tuple(head) == fields, "unpack and peek_header differ")
    must(0 <= found.stamp < 1 << 53 and found.soft_ms <= found.hard_ms, "a stamp or an expiry that cannot be")
    if not found.readable:
        must(found.payload == b"" and found.tags == (), "something was read of a later version")
        return
    must(all(len(tag) == 8 for tag in found.tags), "a tag's hash that has not 8 bytes")
    if found.counter:
        must(abs(found.number) < 10**16, "a counter out of range")
    else:
        must(crc32(data[HEADER_BYTES:]) == int.from_bytes(data[34:38], "big"), "a damaged entry was read")
    again = envelopes.unpack(repack(found))
    must(_facts(again) == _facts(found), "repack changed the entry")


def _facts(one: Envelope) -> tuple[Any, ...]:
    # The checksum is over the payload, so both are covered.
    return (one.stamp, one.soft_ms, one.hard_ms, one.id, one.codec, one.tags, one.payload, one.counter, one.error)


def _payload(data: bytes) -> None:
    """The first byte says by which codec, and whether it is compressed and an exception."""
    if not data:
        return
    codec, compressed, error = data[0] & 3, bool(data[0] & 4), bool(data[0] & 8)
    payload = data[1:]
    calls: list[bytes] = []
    with mock.patch.object(_CODEC, "_loads", calls.append):
        try:
            if error:
                value: object = _ENCODER.decode_error(payload, codec, compressed, (ValueError, OSError), _KEY)
            else:
                value = _ENCODER.decode(payload, codec, compressed, _KEY)
        except CorruptEnvelope:
            return
    for pickled in calls:
        must(_signed(pickled) in payload or compressed, "a pickle was read that nobody had signed")
    if codec == 3:
        return
    if error:
        must(isinstance(value, (ValueError, OSError)), "an exception of a class that is not allowed")
        return
    _again(value, codec)


def _signed(pickled: bytes) -> bytes:
    """The signature by the letter of the documentation."""
    person = b"evercache-pickle"
    secret = blake2b(_SECRET, digest_size=64, person=person).digest()
    said = len(_KEY).to_bytes(8, "big") + _KEY + pickled
    return blake2b(said, key=secret, digest_size=32, person=person).digest()


def _again(value: object, codec: int) -> None:
    """What was read and can be written comes out the same."""
    encoder = _ENCODER.with_codec(JSONCodec()) if codec == 2 else _ENCODER
    try:
        payload, number, compressed = encoder.encode(value, _KEY)
    except CannotEncode:
        return
    again = encoder.decode(payload, number, compressed, _KEY)
    must(_alike(value, again), "a value changed on its way through the codec")


def _alike(one: object, other: object) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        assert isinstance(other, float)
        return one == other or (math.isnan(one) and math.isnan(other))
    return repr(one) == repr(other) or one == other


def _compressed(data: bytes) -> None:
    try:
        inflated = _ENCODER.compression.decompress(data)
    except CorruptEnvelope:
        return
    must(0 < len(inflated) <= _MOST, f"{len(data)} bytes became {len(inflated)}")


def _payload_seeds() -> tuple[bytes, ...]:
    values: list[object] = [
        {"id": 7, "tags": ["a", "b"], "when": None, "share": 0.25},
        [1, True, (2, 3), {4}, b"bytes", 1 << 70],
        [Colour.RED, Point(1, "y"), Pair(2, [3])],
        "text " * 100,
    ]
    seeds = []
    for value in values:
        payload, number, compressed = _ENCODER.encode(value, _KEY)
        seeds.append(bytes([number | (4 if compressed else 0)]) + payload)
    seeds.append(bytes([2]) + JSONCodec().encode({"a": [1, 2.5, None]}, _TYPES))
    seeds.append(bytes([3]) + _CODEC.encode({"a": 1}, _TYPES, _KEY))
    seeds.append(bytes([1 | 8]) + _ENCODER.encode({"no": "exception"}, _KEY)[0])
    for error in (ValueError("no"), FileNotFoundError(2, "no", "file")):
        payload, number, _ = _ENCODER.encode_error(error, (ValueError, OSError), _KEY)
        seeds.append(bytes([number | 8]) + payload)
    return tuple(seeds)


_TAG = bytes(range(8))
TARGETS = (
    Target(
        "envelope",
        _envelope,
        (
            pack(payload=b"\x00\xa1x", codec=1, stamp=5, soft_ms=1_700_000_000_000, span_ms=60_000),
            pack(payload=b"payload", codec=1, tags=(_TAG, _TAG[::-1]), compute_seconds=0.5, stamp=1 << 52),
            pack(payload=b"-12", counter=True, span_ms=1),
            pack(payload=b"", codec=2, error=True, compressed=True),
        ),
        (envelopes.MAGIC, b"\x01", b"\x02", b"\xff\xff\xff\xff", b"\x00\x20", b"9" * 17, _TAG),
        (
            Bug(
                "a checksum is not looked at",
                edit(envelopes, "unpack", ("crc32(payload, crc32(data[HEADER_BYTES:start])) != crc", "not crc")),
            ),
            Bug(
                "a counter is any text",
                edit(envelopes, "unpack", ("not _NUMBER.fullmatch(payload)", "not payload")),
            ),
        ),
    ),
    Target(
        "payload",
        _payload,
        _payload_seeds(),
        (
            b"\x00",
            b"\x01",
            b"\xc7\x01\x40t",
            b"\xd4\x40s",
            b"\xc1",
            b"\x09",
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\xd4\x41",
            b"\xc7",
            b"\x91",
            b"\x81",
            b"[",
            b'{"',
            b"NaN",
            b"1e999",
            b"\xd8\x08",
        ),
        (
            Bug(
                "a wrong extension is any error",
                edit(StrictCodec, "decode", ("except Exception as error:", "except ValueError as error:")),
            ),
            Bug(
                "signatures are not looked at",
                edit(SignedPickleCodec, "decode", ("if not any(right):", "if False:")),
            ),
            Bug(
                "an exception of any shape",
                edit(pipeline, "build_exception", ("except Exception as error:", "except KeyError as error:")),
            ),
        ),
    ),
    Target(
        "compressed",
        _compressed,
        (
            zstandard.compress(b"text " * 100),
            zstandard.compress(bytes(_MOST)),
            zstandard.compress(bytes(_MOST + 1)),
            zstandard.ZstdCompressor(write_content_size=False).compress(b"of unknown size"),
        ),
        (zstandard.compress(b"")[:4], b"\x00", b"\xff", b"\x60", b"\xa0", b"\x01\x00\x00"),
        (
            Bug(
                "a bomb goes off",
                edit(Compression, "decompress", ("if not 0 < size <= self.max_inflated:", "if size <= 0:")),
            ),
            Bug(
                "damage is an error of zstandard",
                edit(
                    Compression, "decompress", ("except (zstandard.ZstdError, MemoryError)", "except MemoryError")
                ),
            ),
        ),
    ),
)
