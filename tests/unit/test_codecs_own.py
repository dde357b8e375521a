"""Classes that the codec does not know: what the log says of them works, and `register` takes functions."""

from __future__ import annotations

import logging
import re
from array import array
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from tests.unit.codec_values import CODEC, NOTHING, Color, Money, Plain, trip

from evercache import Cache, SignedPickleCodec
from evercache.codecs import TypeRegistry
from evercache.errors import CannotEncode, ConfigurationError, CorruptEnvelope


class Base(DeclarativeBase):
    pass


class Project(Base):
    __tablename__ = "project"
    id: Mapped[int] = mapped_column(primary_key=True)


def row() -> Any:
    with create_engine("sqlite://").connect() as connection:
        return connection.execute(text("select 1 as id")).one()


def encode(money: Money) -> tuple[int, str]:
    return money.cents, money.currency


def decode(parts: Any) -> Money:
    return Money(*parts)


# -- what the log says


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (row, "return tuple(row) or dict(row._mapping)"),
        (lambda: Project(id=1), "return what you need of it as a dict or a dataclass"),
        (lambda: np.array([1, 2]), "return value.tolist()"),
        (lambda: np.int64(1), "return value.tolist()"),
        (lambda: array("i", [1]), "return value.tolist()"),
        (lambda: Money(1, "CHF"), "return plain values"),
    ],
)
def test_the_remedy_in_the_log_works(make: Any, plain: str, caplog: pytest.LogCaptureFixture) -> None:
    """A function that returns such a value without an annotation, as somebody new writes it."""
    value = make()
    cache = Cache("memory://", namespace="shop")

    @cache.cached(ttl=60)
    def f():  # type: ignore[no-untyped-def]
        return make()

    with caplog.at_level(logging.WARNING, "evercache"):
        f()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("evercache[shop]: ")
    assert plain in line
    assert "fallback_codec=SignedPickleCodec([key])" in line
    assert f"cache.register({type(value).__qualname__}, encode=..., decode=...)" in line
    assert f.peek() is None

    key = b"k" * 32
    pickled = Cache("memory://", namespace="shop", fallback_codec=SignedPickleCodec([key]))
    again = pickled.cached(ttl=60)(f.uncached)
    again()
    assert type(again.peek()) is type(value)


def test_an_enum_that_nothing_names_is_allowed_by_what_the_log_says(caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache("memory://", namespace="shop")

    @cache.cached(ttl=60)
    def f():  # type: ignore[no-untyped-def]
        return Color.RED

    with caplog.at_level(logging.WARNING, "evercache"):
        assert f() is Color.RED
    (line,) = [record.getMessage() for record in caplog.records]
    assert "(-> Color), or call cache.register(Color)" in line
    assert "pickle" not in line.lower()
    cache.register(Color)
    f()
    assert f.peek() is Color.RED


# -- functions of the application


def test_a_class_is_written_and_read_by_functions_of_the_application() -> None:
    cache = Cache("memory://")
    assert cache.register(Money, encode=encode, decode=decode) is Money

    @cache.cached(ttl=60, near=1)
    def prices():  # type: ignore[no-untyped-def]
        return {"tea": [Money(350, "CHF")]}

    for _ in range(3):
        assert prices() == {"tea": [Money(350, "CHF")]}
    assert prices.stats().counters.computed == 1
    cache.register(
        np.ndarray,
        encode=lambda a: (a.dtype.str, a.shape, a.tobytes()),
        decode=lambda p: np.frombuffer(p[2], p[0]).reshape(p[1]),
    )
    cache.set("matrix", np.arange(6).reshape(2, 3))
    assert np.array_equal(cache.get("matrix"), np.arange(6).reshape(2, 3))


def test_functions_may_use_other_allowed_classes() -> None:
    types = TypeRegistry()
    types.register(
        Money, encode=lambda money: {"cents": money.cents, "of": {1, 2}}, decode=lambda p: Money(p["cents"], "x")
    )
    assert trip([Money(5, "x")], types) == [Money(5, "x")]


def test_what_goes_wrong_in_them_is_no_error_of_the_caller() -> None:
    def fails(value: Any) -> Any:
        raise OSError("the disk")

    writes, reads, wrong = TypeRegistry(), TypeRegistry(), TypeRegistry()
    writes.register(Money, encode=fails, decode=decode)
    reads.register(Money, encode=encode, decode=fails)
    wrong.register(Money, encode=encode, decode=lambda parts: "money")
    with pytest.raises(CannotEncode, match=r"encode= \(OSError\('the disk'\)\)"):
        CODEC.encode(Money(1, "CHF"), writes)
    data = CODEC.encode(Money(1, "CHF"), reads)
    for types in (reads, wrong, NOTHING):
        with pytest.raises(CorruptEnvelope):
            CODEC.decode(data, types)
    with pytest.raises(CannotEncode):
        CODEC.encode(Money(1, "CHF"), NOTHING)
    nothing = TypeRegistry()
    nothing.register(Plain, encode=lambda value: Plain(), decode=lambda parts: Plain())
    with pytest.raises(CannotEncode, match="contains itself"):
        CODEC.encode(Plain(), nothing)


@pytest.mark.parametrize(
    ("cls", "functions", "words"),
    [
        (Money, {}, r"cache\.register\(Money, encode=\.\.\., decode=\.\.\.\)"),
        (Money, {"encode": encode}, "takes two functions"),
        (Money, {"encode": encode, "decode": "Money"}, "takes two functions"),
        (Money(1, "CHF"), {"encode": encode, "decode": decode}, "takes a class"),
        (dict, {"encode": encode, "decode": decode}, "cached as it is"),
        (range, {"encode": encode, "decode": decode}, "cached as it is"),
        (range, {}, "cached as it is"),
    ],
)
def test_what_cannot_be_registered_says_how(cls: Any, functions: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Cache("memory://").register(cls, **functions)
    assert re.search(words, str(caught.value))
