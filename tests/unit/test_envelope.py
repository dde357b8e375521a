"""The envelope: what is packed comes out, and any other bytes do no harm."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercache.errors import CannotEncode, CorruptEnvelope
from evercache.protocol.envelope import (
    HEADER_BYTES,
    MAGIC,
    VERSION,
    pack,
    peek_header,
    repack,
    unpack,
)

parts = st.fixed_dictionaries(
    {
        "payload": st.binary(max_size=100),
        "codec": st.integers(0, 255),
        "id": st.binary(min_size=8, max_size=8),
        "stamp": st.integers(0, 2**53 - 1),
        "soft_ms": st.integers(0, 2**48 - 1),
        "span_ms": st.integers(0, 2**32 - 1),
        "compute_seconds": st.floats(0, 1600),
        "tags": st.lists(st.binary(min_size=8, max_size=8), max_size=255).map(tuple),
        "compressed": st.booleans(),
        "error": st.booleans(),
    }
)


@given(parts)
def test_round_trip(given_parts: dict[str, Any]) -> None:
    envelope = unpack(pack(**given_parts))
    assert envelope.readable
    assert not envelope.counter
    assert envelope.version == VERSION
    for name in ("payload", "codec", "id", "stamp", "soft_ms", "tags", "compressed", "error"):
        assert getattr(envelope, name) == given_parts[name]
    assert envelope.hard_ms == given_parts["soft_ms"] + given_parts["span_ms"]
    assert envelope.compute_seconds == pytest.approx(given_parts["compute_seconds"], abs=0.0001)


def test_layout_is_fixed() -> None:
    data = pack(
        payload=b"value", codec=1, id=b"ABCDEFGH", stamp=0x0102030405, soft_ms=0x010203040506, span_ms=7,
        compute_seconds=0.5, tags=(b"12345678",),
    )  # fmt: skip
    assert HEADER_BYTES == 38
    assert data[:34].hex() == ("e7ca0102000000010203040501020304050600000007414243444546474800138801")
    assert data[38:] == b"\x0112345678value"


@given(parts, st.data())
def test_damage_to_tags_or_payload_is_found(given_parts: dict[str, Any], data: st.DataObject) -> None:
    good = pack(**given_parts)
    if len(good) == HEADER_BYTES:
        return
    at = data.draw(st.integers(HEADER_BYTES, len(good) - 1))
    bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    with pytest.raises(CorruptEnvelope):
        unpack(bad)


@given(parts, st.data())
def test_a_cut_envelope_is_found(given_parts: dict[str, Any], data: st.DataObject) -> None:
    good = pack(**given_parts)
    with pytest.raises(CorruptEnvelope):
        unpack(good[: data.draw(st.integers(0, len(good) - 1))])


@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_do_no_harm(data: bytes, ours: bool) -> None:
    data = MAGIC + b"\x01" + data if ours else data
    header = peek_header(data)
    try:
        envelope = unpack(data)
    except CorruptEnvelope:
        return
    assert header is not None
    assert (header.stamp, header.soft_ms, header.hard_ms) == (
        envelope.stamp,
        envelope.soft_ms,
        envelope.hard_ms,
    )


@given(st.binary(min_size=0, max_size=60), st.integers(2, 255), st.binary(min_size=1, max_size=1))
def test_an_envelope_of_the_future_tells_its_age(rest: bytes, version: int, flags: bytes) -> None:
    base = pack(payload=b"", stamp=5, soft_ms=1000, span_ms=500)
    data = MAGIC + bytes([version]) + flags + base[4:22] + bytes(16) + rest
    envelope = unpack(data)
    assert not envelope.readable
    assert (envelope.version, envelope.stamp, envelope.soft_ms, envelope.hard_ms) == (version, 5, 1000, 1500)
    assert peek_header(data) == (version, 5, 1000, 1500)


@pytest.mark.parametrize("number", [0, -1, 7, 2**53 - 1, -(2**53 - 1)])
def test_counters(number: int) -> None:
    data = pack(payload=b"%d" % number, counter=True, tags=(b"12345678",))
    envelope = unpack(data)
    assert envelope.counter
    assert envelope.number == number
    assert envelope.tags == (b"12345678",)
    assert data[34:38] == bytes(4)
    with pytest.raises(CorruptEnvelope, match="counter"):
        unpack(data + b"x")


def test_limits() -> None:
    assert unpack(pack(payload=b"", span_ms=2**40, compute_seconds=1e9)).hard_ms == 2**32 - 1
    assert unpack(pack(payload=b"", compute_seconds=-1.0)).compute_seconds == 0
    with pytest.raises(CannotEncode, match="255"):
        pack(payload=b"", tags=(b"12345678",) * 256)
    for wrong in (
        {"id": b"short"},
        {"tags": (b"short",)},
        {"stamp": 2**53},
        {"stamp": -1},
        {"counter": True, "payload": b"x"},
    ):
        with pytest.raises(ValueError):
            pack(**{"payload": b"", **wrong})  # type: ignore[arg-type]
    assert peek_header(b"foreign") is None


@given(parts)
def test_repack_gives_the_same_bytes(given_parts: dict[str, Any]) -> None:
    data = pack(**given_parts)
    assert repack(unpack(data)) == data
