"""The names that keys have: any text, any arguments."""

from __future__ import annotations

import math
from typing import Any

from evercache.codecs import StrictCodec, TypeRegistry
from evercache.errors import ConfigurationError, CorruptEnvelope
from evercache.protocol import canonical as canonicals
from evercache.protocol import keys, scope
from evercache.protocol.keys import MAX_KEY_BYTES, ReadableNaming
from tests.edits import edit, put
from tests.fuzz.target import Bug, Target, must

__all__ = ["TARGETS"]

_CODEC, _TYPES, _NAMING = StrictCodec(), TypeRegistry(), ReadableNaming()


def _names(data: bytes) -> None:
    """Two texts, parted by a null byte: names of keys, functions, namespaces, tags."""
    one, _, other = (
        part.decode("utf-8", "surrogateescape" if data[:1] == b"\x00" else "replace") for part in _halves(data)
    )
    for text in (one, other):
        try:
            plain = keys.check_namespace(text)
        except ConfigurationError:
            continue
        must(plain.isascii() and 0 < len(plain) <= 32 and ":" not in plain, "a namespace that is not plain")
    made = [_key(text) for text in (one, other)]
    must(None in made or (made[0] == made[1]) == (one == other), "two keys have one name")
    if one and other and one != other and all(_plain(text) for text in (one, other)):
        must(scope.tag_hash(one) != scope.tag_hash(other), "two tags have one hash")


def _halves(data: bytes) -> tuple[bytes, bytes, bytes]:
    return data.strip(b"\x00").partition(b"\x00")


def _plain(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _key(text: str) -> str | None:
    try:
        key = _NAMING.direct_key("shop", text)
    except TypeError:
        must(not text, "a text that makes no key")
        return None
    must(len(key.encode()) <= MAX_KEY_BYTES, "a key that is too long")
    must(key.startswith("shop:k:"), "a key outside of its namespace")
    called = _NAMING.entry_key("shop", "app.f", ascii(text))
    must(
        len(called.encode()) <= MAX_KEY_BYTES and called.startswith("shop:f:app.f("),
        "a key outside of its function",
    )
    return key


def _arguments(data: bytes) -> None:
    """Two values: what is the same has one text, what differs has two."""
    half = data[0] if data else 0
    values: list[Any] = []
    for part in (data[1 : 1 + half], data[1 + half :]):
        try:
            values.append(_CODEC.decode(part, _TYPES))
        except CorruptEnvelope:
            return
    texts = []
    for value in values:
        try:
            text = canonicals.canonical(value)
        except TypeError:
            return
        must(text.isascii(), "a text that is not plain")
        must(text == canonicals.canonical(value), "a text that is not stable")
        texts.append(text)
    if texts[0] == texts[1]:
        must(_alike(*values), f"two values have one text: {texts[0]!r:.80}")


def _alike(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_alike, one, other))
    return repr(one) == repr(other) or bool(one == other)


def _pair(one: object, other: object) -> bytes:
    first, second = _CODEC.encode(one, _TYPES), _CODEC.encode(other, _TYPES)
    return bytes([len(first)]) + first + second


TARGETS = (
    Target(
        "names",
        _names,
        (
            b"user:7\x00user:8",
            b"#0123456789abcdef0123456789abcdef\x00a",
            b"x" * 243 + b"\x00" + b"x" * 244,
            b"shop\x00Shop!",
        ),
        (b"\x00", b":", b"#", b"(", b"\xed\xa0\x80", "ü".encode(), b" ", b"\n", b"A", b"-"),
        (
            Bug("long keys are cut", edit(keys.ReadableNaming, "direct_key", ("_digest(key)", "key[:200]"))),
            Bug(
                "any text is a namespace",
                edit(keys, "check_namespace", ("not _NAMESPACE.fullmatch(", "not _NAMESPACE.match(")),
            ),
        ),
    ),
    Target(
        "arguments",
        _arguments,
        (
            _pair([1, "a", None, 2.5], (1, "a", None, 2.5)),
            _pair({"a": 1, "b": [True]}, {"b": [1], "a": 1}),
            _pair(True, 2),
            _pair(b"x", "x"),
            _pair({1, 2}, frozenset({1, 2})),
        ),
        (
            b"\xc3",
            b"\x01",
            b"\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00",
            b"\x93",
            b"\x81",
            b"\xa1",
            b"\xc4\x01",
            b"\x00",
        ),
        (
            Bug(
                "a list is a tuple",
                edit(
                    canonicals,
                    "_text",
                    ("_CONTAINERS.get(kind)", "_CONTAINERS.get(tuple if kind is list else kind)"),
                ),
            ),
            Bug(
                "true is one",
                put(canonicals, "_SCALARS", {**canonicals._SCALARS, bool: lambda value: repr(int(value))}),
            ),
        ),
    ),
)
