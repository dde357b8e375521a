"""Property tests of the default codec: a hit equals a miss, and any bytes do no harm."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.codec_values import ALLOWED, CODEC, same, trip, values

from evercache.errors import CorruptEnvelope


@given(values)
@settings(max_examples=300)
def test_a_hit_equals_a_miss(value: Any) -> None:
    copy = trip(value, ALLOWED)
    assert same(copy, value)


@given(st.binary(max_size=200))
def test_any_bytes_do_no_harm(data: bytes) -> None:
    for form in (b"", b"\x00", b"\x01"):
        try:
            CODEC.decode(form + data, ALLOWED)
        except CorruptEnvelope:
            pass


@given(values, st.randoms(use_true_random=False))
def test_damaged_values_do_no_harm(value: Any, rng: random.Random) -> None:
    data = bytearray(CODEC.encode(value, ALLOWED))
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        CODEC.decode(bytes(data[: rng.randint(0, len(data))] if rng.random() < 0.3 else data), ALLOWED)
    except CorruptEnvelope:
        pass


_A_LIST_AS_KEY = b"\x81\x91\x01\x01"


@pytest.mark.parametrize(
    "data",
    [
        b"\x91" * 100_000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\x00\x0f\xff\xff" * 1000,
        b"\xc6\xff\xff\xff\xff",
        b"\x91\xc7\x00\x41",
        b"\xc7\x01\x40t",
        b"\x92\x01\xc7\x01\x40t",
        _A_LIST_AS_KEY,
        b"\x92\xc7\x01\x40s\x90",
        b"\x91\xc7\x01\x40x",
        b"\xc7\x00\x42",
        b"\x91\xc7\x00\x42",
        b"\xd4\x7f\x00",
        msgpack.packb(msgpack.ExtType(5, bytes(12) + b"z../../etc/passwd")),
        msgpack.packb(msgpack.ExtType(5, b"\x07\xe4\x01\x01" + bytes(8) + b"zos.path")),
        msgpack.packb(msgpack.ExtType(5, b"\x07\xe4\x01\x01" + bytes(8) + b"zNo/Where")),
        msgpack.packb(msgpack.ExtType(7, b"1_x")),
        msgpack.packb(msgpack.ExtType(8, b"short")),
        msgpack.packb([msgpack.ExtType(65, b"xxxxos.system"), "true"]),
        msgpack.packb([msgpack.ExtType(64, b"dos.system"), {}]),
        b"\xc0\xc0",
        b"",
    ],
)
@pytest.mark.parametrize("form", [b"\x00", b"\x01", b"\x02"])
def test_hostile_bytes_are_corrupt(data: bytes, form: bytes) -> None:
    if (data, form) == (_A_LIST_AS_KEY, b"\x00"):
        # The quicker decoder makes a tuple of it: nothing that we wrote, and harmless.
        assert CODEC.decode(form + data, ALLOWED) == {(1,): 1}
        return
    with pytest.raises(CorruptEnvelope):
        CODEC.decode(form + data, ALLOWED)
