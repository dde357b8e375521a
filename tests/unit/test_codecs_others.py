"""JSON, signed pickle, compression, exceptions, and the whole way from value to payload."""

from __future__ import annotations

import base64
import os
import pickle
import random
import threading
from decimal import Decimal
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from evercache.codecs import Compression, Encoder, JSONCodec, SignedPickleCodec, StrictCodec, TypeRegistry
from evercache.codecs.compression import _local
from evercache.errors import CannotEncode, ConfigurationError, CorruptEnvelope, ValueTooLarge

TYPES = TypeRegistry()
KEY, OLD = b"k" * 32, "o" * 32

# JSON

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
)


def typed(value: Any) -> Any:
    """A form in which `==` sees types and the order of keys."""
    if isinstance(value, dict):
        return (dict, [(key, typed(item)) for key, item in value.items()])
    if isinstance(value, list):
        return (list, [typed(item) for item in value])
    return (type(value), repr(value))


@given(json_values)
def test_json_round_trip(value: Any) -> None:
    codec = JSONCodec()
    assert typed(codec.decode(codec.encode(value, TYPES), TYPES)) == typed(value)


class Text(str):
    pass


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "value",
    [
        (1,), {1: 2}, {None: 1}, {Text("a"): 1}, Text("a"), float("nan"), float("-inf"), {1}, b"x",
        Decimal(1),
        "\ud800", {"\ud83d\ude00": 1}, 10**5000, LOOP, [[(1,)]],
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_json_refuses_what_it_would_change(value: Any) -> None:
    with pytest.raises(CannotEncode):
        JSONCodec().encode([value], TYPES)


@pytest.mark.parametrize("data", [b"", b"{", b"NaN", b"\xff", b"[" * 100_000, b"9" * 5000, b'{"a":1}x'])
def test_json_of_others_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptEnvelope):
        JSONCodec().decode(data, TYPES)


@given(st.binary(max_size=50))
def test_any_bytes_do_json_no_harm(data: bytes) -> None:
    try:
        JSONCodec().decode(data, TYPES)
    except CorruptEnvelope:
        pass


# Signed pickle

LOADED: list[str] = []


def _spring(word: str) -> None:
    LOADED.append(word)


class Trap:
    def __reduce__(self) -> Any:
        return (_spring, ("x",))


def test_pickle_round_trip_and_rotation() -> None:
    codec = SignedPickleCodec([KEY])
    value = {"a": (1, {2}, range(3))}
    data = codec.encode(value, TYPES, b"shop:k:a")
    assert codec.decode(data, TYPES, b"shop:k:a") == value
    rotated = SignedPickleCodec([OLD, KEY])
    assert rotated.decode(data, TYPES, b"shop:k:a") == value
    with pytest.raises(CorruptEnvelope, match="signature"):
        codec.decode(rotated.encode(value, TYPES, b"shop:k:a"), TYPES, b"shop:k:a")


def test_nothing_is_unpickled_without_a_right_signature() -> None:
    codec = SignedPickleCodec([KEY])
    good = codec.encode(Trap(), TYPES, b"a")
    raw = pickle.dumps(Trap())
    LOADED.clear()
    for data in (
        b"",
        raw,
        bytes(32) + raw,
        good[:-1],
        good[32:],
        SignedPickleCodec([OLD]).encode(1, TYPES, b"a"),
    ):
        with pytest.raises(CorruptEnvelope, match="signature"):
            codec.decode(data, TYPES, b"a")
    for context in (b"", b"b", b"a\0"):
        with pytest.raises(CorruptEnvelope, match="signature"):
            codec.decode(good, TYPES, context)
    assert LOADED == []
    codec.decode(good, TYPES, b"a")
    assert LOADED == ["x"]


@given(st.binary(min_size=1, max_size=8), st.integers(0, 7))
def test_the_border_of_key_and_data_is_signed(moved: bytes, at: int) -> None:
    codec = SignedPickleCodec([KEY])
    data = codec.encode("value", TYPES, b"a" + moved)
    with pytest.raises(CorruptEnvelope):
        codec.decode(data[:32] + moved + data[32:], TYPES, b"a")


@given(st.data())
def test_a_changed_bit_is_found(data: st.DataObject) -> None:
    codec = SignedPickleCodec([KEY])
    good = bytearray(codec.encode([1, 2, 3], TYPES, b"a"))
    good[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptEnvelope):
        codec.decode(bytes(good), TYPES, b"a")


class Gone:
    pass


def test_what_cannot_be_pickled_and_what_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = SignedPickleCodec([KEY])
    with pytest.raises(CannotEncode, match="pickled"):
        codec.encode(lambda: 1, TYPES, b"a")
    data = codec.encode(Gone(), TYPES, b"a")
    monkeypatch.delitem(globals(), "Gone")
    with pytest.raises(CorruptEnvelope, match="no class"):
        codec.decode(data, TYPES, b"a")


@pytest.mark.parametrize("keys", [[], b"x" * 32, "x" * 32, [b"short"], [KEY, b""]])
def test_weak_keys_are_refused(keys: Any) -> None:
    with pytest.raises(ConfigurationError, match="key"):
        SignedPickleCodec(keys)


def test_keys_are_not_shown() -> None:
    assert "kkkk" not in repr(SignedPickleCodec([KEY]))


# Compression


def test_compression_only_where_it_pays() -> None:
    compression = Compression()
    assert compression.compress(b"a" * 1023) is None
    small = compression.compress(b"a" * 1024)
    assert small is not None
    assert compression.decompress(small) == b"a" * 1024
    noise = random.Random(1).randbytes(5000)
    assert compression.compress(noise) is None
    assert Compression(above=None).compress(b"a" * 5000) is None
    assert Compression(max_inflated=2000).compress(b"a" * 5000) is None


@pytest.mark.parametrize("size", [2_000, 10_000, 100_000])
def test_random_text_is_left_as_it_is(size: int) -> None:
    """Base64 shrinks by a quarter, and each hit would pay more for that than the bytes are worth."""
    noise = base64.b64encode(random.Random(size).randbytes(size))
    compression = Compression()
    assert compression.compress(noise) is None
    small = compression.compress(noise, needed=True)
    assert small is not None
    assert compression.decompress(small) == noise
    text = b" ".join(noise[at % 600 : at % 600 + 6] for at in range(0, size, 7))
    assert compression.compress(text) is not None


def test_a_value_over_the_limit_is_compressed_for_any_gain() -> None:
    noise = base64.b64encode(random.Random(1).randbytes(90_000)).decode()
    payload, number, compressed = Encoder(max_value_bytes=100_000).encode(noise, b"key")
    assert compressed
    assert Encoder().decode(payload, number, compressed, b"key") == noise


def test_random_data_is_known_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    compression, sizes = Compression(), list[int]()
    assert compression.compress(b"a" * 2000) is not None
    real = _local.compressors[compression.level]

    class Counting:
        def compress(self, data: bytes) -> bytes:
            sizes.append(len(data))
            return real.compress(data)

    monkeypatch.setitem(_local.compressors, compression.level, Counting())
    assert compression.compress(random.Random(1).randbytes(1 << 20)) is None
    assert sum(sizes) < 20_000
    # What is random at its beginning only is not taken for random.
    assert compression.compress(random.Random(1).randbytes(5000) + b"word " * 50_000) is not None


def test_inflated_size_is_bounded() -> None:
    bomb = zstandard.compress(bytes(1 << 20))
    assert len(Compression().decompress(bomb)) == 1 << 20
    with pytest.raises(CorruptEnvelope, match="at most"):
        Compression(max_inflated=(1 << 20) - 1).decompress(bomb)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 5000)
    liar = b"\x28\xb5\x2f\xfd\xe0" + (1 << 60).to_bytes(8, "little") + unsized[6:]
    good = zstandard.compress(b"a" * 5000)
    for data in (unsized, liar, b"", b"x", good[:-1], good + b"x", good + good, zstandard.compress(b"")):
        with pytest.raises(CorruptEnvelope):
            Compression().decompress(data)


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_do_the_inflater_no_harm(data: bytes, magic: bool) -> None:
    try:
        Compression(max_inflated=1 << 16).decompress(b"\x28\xb5\x2f\xfd" + data if magic else data)
    except CorruptEnvelope:
        pass


def test_compression_in_many_threads() -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        data = bytes([seed]) * 100_000
        for _ in range(20):
            small = Compression().compress(data)
            if small is None or Compression().decompress(small) != data:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# The whole way


@pytest.mark.parametrize("codec", [StrictCodec(), JSONCodec(), SignedPickleCodec([KEY])], ids=repr)
@pytest.mark.parametrize("value", [{"a": [1, "x"]}, ["row"] * 5000])
def test_encoder_round_trip(codec: Any, value: Any) -> None:
    encoder = Encoder(codec, TYPES)
    payload, number, compressed = encoder.encode(value, b"key")
    assert number == codec.number
    assert compressed == (len(value) > 1000)
    assert encoder.decode(payload, number, compressed, b"key") == value
    assert Encoder(also_read=(codec,)).decode(payload, number, compressed, b"key") == value


def test_encoder_limits() -> None:
    encoder = Encoder(max_value_bytes=100, compression=Compression(above=None))
    assert encoder.encode("x" * 90, b"")[2] is False
    with pytest.raises(ValueTooLarge, match="max_value_bytes"):
        encoder.encode("x" * 100, b"")
    assert Encoder(max_value_bytes=100).encode("x" * 5000, b"")[2] is True
    with pytest.raises(ValueTooLarge):
        Encoder(compression=Compression(max_inflated=1000)).encode("x" * 5000, b"")
    with pytest.raises(ValueTooLarge):
        Encoder().encode(os.urandom(1 << 20), b"")


def test_encoder_reads_only_configured_codecs() -> None:
    payload, number, compressed = Encoder(SignedPickleCodec([KEY])).encode(1, b"key")
    with pytest.raises(CorruptEnvelope, match="codec 3"):
        Encoder().decode(payload, number, compressed, b"key")
    with pytest.raises(CorruptEnvelope):
        Encoder().decode(b"\x00\x01", 1, True, b"key")


def test_encoder_with_other_types() -> None:
    other = TypeRegistry()
    assert Encoder(max_value_bytes=7).with_types(other).types is other
    assert Encoder(max_value_bytes=7).with_types(other).max_value_bytes == 7


# Exceptions


class NotFound(Exception):
    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(f"no {what}")
        self.what = what
        self.hint = hint


class Missing(NotFound):
    pass


class Hidden(Exception):
    __slots__ = ("secret",)


class Odd(Exception):
    def __str__(self) -> str:
        return f"odd {id(self)}"


def noted() -> Exception:
    error = ValueError("x")
    error.add_note("a note")
    return error


@pytest.mark.parametrize(
    "error",
    [
        NotFound("user", "try again"), Missing("page"), ValueError("x", (1, 2), Decimal(1)), KeyError("k"),
        LookupError(),
        FileNotFoundError(2, "No such file", "name"), OSError(2, "x"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        StopIteration(5), noted(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_exceptions_come_back(error: BaseException) -> None:
    encoder, allowed = Encoder(), (NotFound, ValueError, LookupError, OSError, StopIteration)
    payload, number, compressed = encoder.encode_error(error, allowed, b"key")
    copy = encoder.decode_error(payload, number, compressed, allowed, b"key")
    assert type(copy) is type(error)
    assert (copy.args, copy.__dict__, str(copy)) == (error.args, error.__dict__, str(error))
    assert getattr(copy, "errno", None) == getattr(error, "errno", None)
    with pytest.raises(CorruptEnvelope, match="not allowed"):
        encoder.decode_error(payload, number, compressed, (ZeroDivisionError,), b"key")


def secret() -> Hidden:
    error = Hidden("x")
    error.secret = 1
    return error


def with_object() -> Exception:
    try:
        object().missing  # type: ignore[attr-defined]
    except AttributeError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "allowed"),
    [
        (RuntimeError("x"), (ValueError,)),
        (secret(), (Hidden,)),
        (with_object(), (AttributeError,)),
        (Odd("x"), (Odd,)),
        (ValueError(object()), (ValueError,)),
        (ImportError("x", name="y"), (ImportError,)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exceptions_that_would_differ_are_refused(error: BaseException, allowed: Any) -> None:
    with pytest.raises(CannotEncode):
        Encoder().encode_error(error, allowed, b"key")


@pytest.mark.parametrize("parts", [1, [1], ["x", (), {}], [1, 2, 3], ["builtins.ValueError", [], {}]])
def test_other_payloads_are_no_exceptions(parts: Any) -> None:
    payload, number, compressed = Encoder().encode(parts, b"key")
    with pytest.raises(CorruptEnvelope):
        Encoder().decode_error(payload, number, compressed, (ValueError,), b"key")
    with pytest.raises(CorruptEnvelope, match="codec 2"):
        Encoder().decode_error(payload, 2, compressed, (ValueError,), b"key")
