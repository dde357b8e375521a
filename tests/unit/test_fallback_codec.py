"""`fallback_codec=`: what the first codec cannot hold is written by a second one."""

from __future__ import annotations

from typing import Any

import pytest

from evercache import Cache
from evercache.codecs import Encoder, JSONCodec, SignedPickleCodec
from evercache.codecs.strict import STRICT
from evercache.errors import CannotEncode, CorruptEnvelope

SIGNED = SignedPickleCodec(["a key of sixteen bytes or more"])


class Own:
    def __init__(self, value: int) -> None:
        self.value = value


def test_only_what_the_first_one_refuses() -> None:
    encoder = Encoder(fallback=SIGNED)
    assert encoder.ordinary
    assert encoder.encode({"a": (1, None)}, b"key")[1] == STRICT
    payload, number, compressed = encoder.encode(Own(7), b"key")
    assert number == SIGNED.number
    value: Any = encoder.decode(payload, number, compressed, b"key")
    assert value.value == 7
    with pytest.raises(CorruptEnvelope):
        encoder.decode(payload, number, compressed, b"another key")


def test_what_neither_holds() -> None:
    with pytest.raises(CannotEncode):
        Encoder(fallback=SIGNED).encode(lambda: 1, b"key")
    with pytest.raises(CannotEncode):
        Encoder(codec=JSONCodec(), fallback=JSONCodec()).encode(Own(7), b"key")


def test_in_a_cache() -> None:
    runs: list[int] = []

    def own(n: int) -> Own:
        runs.append(n)
        return Own(n)

    with Cache("memory://", fallback_codec=SIGNED) as cache:
        cached = cache.cached(own)
        assert [cached(1).value, cached(1).value] == [1, 1]
    assert runs == [1]
    with Cache("memory://") as cache:
        cached = cache.cached(own)
        assert [cached(2).value, cached(2).value] == [2, 2]
    assert runs == [1, 2, 2]
