"""JSON, for entries that other programs read."""

from __future__ import annotations

import json
from typing import Any

from evercache.codecs.registry import TypeRegistry
from evercache.errors import CannotEncode, CorruptEnvelope
from evercache.protocol.canonical import describe

__all__ = ["JSONCodec"]

_MAX_DEPTH = 100
_PLAIN: frozenset[type] = frozenset({int, bool, type(None)})
_INFINITE = (float("inf"), float("-inf"))


class JSONCodec:
    """UTF-8 JSON of exact dict (with text keys), list, str, int, finite float, bool and None. Number 2."""

    number = 2

    def __repr__(self) -> str:
        return "JSONCodec()"

    def encode(self, value: object, types: TypeRegistry, context: bytes = b"") -> bytes:
        """See `Codec.encode`: whatever JSON would change is refused."""
        _check(value, _MAX_DEPTH)
        try:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        except ValueError as error:  # lone surrogates, integers beyond Python's limit of digits
            raise CannotEncode(f"JSON cannot hold the value ({error}): use the default codec") from error

    def decode(self, data: bytes, types: TypeRegistry, context: bytes = b"") -> object:
        """See `Codec.decode`."""
        try:
            return json.loads(data.decode(), parse_constant=_refuse_constant)
        except (ValueError, RecursionError, MemoryError) as error:
            raise CorruptEnvelope(f"not a JSON value: {error}") from error


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _check(value: Any, left: int) -> None:
    kind = type(value)
    if kind is str or kind in _PLAIN:
        return
    if kind is float:
        if value != value or value in _INFINITE:
            raise CannotEncode(f"JSON has no {value!r}: use the default codec")
        return
    if not left:
        raise CannotEncode(
            f"the value is nested deeper than {_MAX_DEPTH} levels, or contains itself: return something flatter"
        )
    if kind is list:
        for item in value:
            _check(item, left - 1)
        return
    if kind is not dict:
        raise CannotEncode(
            f"JSON would change {describe(value)}, so it is not cached: "
            "use the default codec or return plain values"
        )
    for key, item in value.items():
        if type(key) is not str:
            raise CannotEncode(f"JSON would change a key that is {describe(key)}: use the default codec")
        _check(item, left - 1)
