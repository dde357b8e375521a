"""The default codec: a hit equals a miss, types included, or the value is refused."""

from __future__ import annotations

import datetime as dt
import inspect
import io
import sys
import threading
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID, uuid1
from zoneinfo import ZoneInfo

import msgpack
import pytest
from markupsafe import Markup
from tests.unit.codec_values import (
    ALLOWED,
    BERLIN,
    CODEC,
    NOTHING,
    RUN,
    Bag,
    Box,
    Color,
    Cut,
    Etched,
    Items,
    Level,
    Loose,
    Mixed,
    Model,
    Money,
    Number,
    OnDict,
    Open,
    Pair,
    Place,
    Plain,
    Point,
    Right,
    Settled,
    Shut,
    Structure,
    Table,
    Uncut,
    Unequal,
    Word,
    same,
    trip,
)

from evercache.codecs import TypeRegistry
from evercache.errors import CannotEncode, CorruptEnvelope

SIMPLE: list[Any] = [
    None, True, False, 0, 1, -1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**500, -(10**500),
    0.0, -0.0, 1.5, float("inf"), float("nan"), "", "text", "é\0", "\ud800", "a\udfff", b"", b"\xff",
    bytearray(),
    bytearray(b"x"), 1 + 2j, (), (1,), (1, (2, [3, (4,)])), [], [[]], {}, {"a": {"b": [1]}}, {1: 2, "1": 3},
    {(1, (2,)): "tuple", frozenset({1}): "set", None: 0, True: 1, 2.5: 2, b"k": 3, dt.date(2020, 1, 1): 4},
    {"z": 1, "a": 2, "m": 3}, set(), {1, "a", (2,)}, frozenset(), frozenset({frozenset({1})}),
    [bytearray(b"x"), 1],
    {"k": [{"l": bytearray(b"y")}]}, (bytearray(b"z"), [bytearray()]), OrderedDict(b=1, a=bytearray(b"q")),
    OrderedDict(), Counter("abca"), defaultdict(list, a=[1]), defaultdict(None), defaultdict(int, {1: 2}),
    [True, 1, 1.0, "1"], {"t": (True,)},
    Decimal("1.10"), Decimal("NaN"), Decimal("sNaN7"), Decimal("-0"), Decimal("1e999"), Decimal("Infinity"),
    UUID(int=5), uuid1(), dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.time(1, 2, 3, 4), dt.time(1, fold=1),
    dt.time(1, tzinfo=dt.UTC), dt.time(2, tzinfo=BERLIN), dt.datetime(2020, 1, 1, 2, 3, 4, 999999),
    dt.datetime(2020, 10, 25, 2, 30, fold=1, tzinfo=BERLIN), dt.datetime(2020, 10, 25, 2, 30, tzinfo=BERLIN),
    dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-5))),
    dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(0, 1, 1), "X=")), dt.timedelta(-1, 2, 3),
    dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(0), "")), dt.timedelta.max, dt.timedelta.min,
    Path("/srv/a b"), Path(), PurePosixPath("a/../b"), PureWindowsPath(r"C:\x"),
    Path(b"\xff".decode(errors="surrogateescape")),
    ip_address("10.0.0.1"), ip_address("fe80::1%eth0"), ip_network("10.0.0.0/8"), ip_network("::/0"),
    ip_interface("10.0.0.1/8"), ip_interface("::1/64"), {ip_address("::1"): Path("x")},
    Fraction(1, 3), Fraction(-7), Fraction(2**20000, 3), range(3), range(5, -5, -2), range(0), range(2**70),
    deque(), deque([1, (2,)], 5), deque([bytearray(b"x")], 0), [deque([{1}])],
    Markup("<b>"), {Markup("k"): [Markup()]},
]  # fmt: skip


@pytest.mark.parametrize("value", SIMPLE)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    assert same(trip(value), value)
    assert same(trip([value, {"in": (value,)}]), [value, {"in": (value,)}])


OBJECTS: list[Any] = [
    Color.RED, Color.CRIMSON, Color.GREEN, Level.LOW, Word.YES, Right.READ, Right.READ | Right.WRITE,
    Right(0),
    Number(5), Number(2**70), Items([1, (2,)]), Table(a=1), Bag({1}), Pair((1, 2)), Point(1, (2,)),
    Place("x", Point(1, 2)), Open(1), Open((1, 2), {"x": {1}}),
    Shut(a=1), Shut(a=(1,), b=Shut(a=2)), {Shut(a=1): 1}, {Shut(a=2)}, Mixed(1, 3), Box([Point(1, 2)]),
    Box[int](1),
    Structure(a=1), Structure(a=(1,), b=bytearray(b"x")), Settled([1]), Model(a=1),
    Model(a=(1, 2), b={3}, extra=Level.LOW), Cut(1), Cut((1, 2), {"x": {1}}), Etched(1, b=[(2,)]),
]  # fmt: skip


@pytest.mark.parametrize("value", OBJECTS)
def test_allowed_classes_are_rebuilt(value: Any) -> None:
    assert same(trip(value, ALLOWED), value)
    assert trip(value, ALLOWED) == value
    assert same(trip([value, (value,)], ALLOWED), [value, (value,)])


@pytest.mark.parametrize("value", OBJECTS)
def test_classes_that_are_not_allowed_are_refused(value: Any) -> None:
    for nested in (value, [value], {"x": (value,)}):
        with pytest.raises(CannotEncode, match=r"return type \(-> \w+\), or call cache\.register"):
            CODEC.encode(nested, NOTHING)


def test_what_is_not_allowed_any_more_is_a_miss() -> None:
    data = CODEC.encode([Shut(a=1)], ALLOWED)
    with pytest.raises(CorruptEnvelope, match="Shut"):
        CODEC.decode(data, NOTHING)


def test_no_constructor_runs() -> None:
    value = Open(1)
    RUN.clear()
    assert trip(value, ALLOWED) == value
    assert RUN == []


def test_fields_set_and_private_values_of_a_model_come_back() -> None:
    value = Model(a=1, extra=2)
    value._hidden = {"x": (1,)}
    copy = trip(value, ALLOWED)
    assert copy == value
    assert copy.model_fields_set == {"a", "extra"}
    assert copy._hidden == {"x": (1,)}
    assert copy.model_dump(exclude_unset=True) == {"a": 1, "extra": 2}
    copy.b = 5
    assert value.b == 2


def test_a_field_that_is_not_set_stays_so() -> None:
    value = Shut(a=1)
    object.__delattr__(value, "b")
    copy = trip(value, ALLOWED)
    assert copy.a == 1
    assert not hasattr(copy, "b")


class Window(io.StringIO):
    pass


def _with_attribute(value: Any) -> Any:
    value.extra = 1
    return value


def _computed() -> Open:
    value = Open(1)
    assert value.twice == 2
    return value


class Zone(dt.tzinfo):
    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(0)

    def tzname(self, when: dt.datetime | None) -> str:
        return "Z"


class Date(dt.date):
    pass


@pytest.mark.parametrize(
    "value",
    [
        object(), Plain(), memoryview(b"x"), (i for i in ()), iter([]), Window(), lambda: 1,
        Plain, len,
        ValueError("x"), UserDict(), {}.keys(), NotImplemented, Ellipsis, Date(2020, 1, 1),
        msgpack.ExtType(1, b"x"),
        msgpack.ExtType(64, b"t"), msgpack.Timestamp(1), Unequal(1), OnDict(), Loose(1), Uncut(1), Money(1, "CHF"),
        defaultdict(lambda: 1), defaultdict(Plain), _with_attribute(Open(1)), _with_attribute(Number(1)),
        _with_attribute(OrderedDict()), _with_attribute(Counter()), _computed(),
        dt.datetime(2020, 1, 1, tzinfo=Zone()), dt.time(1, tzinfo=ZoneInfo.no_cache("Europe/Paris")),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_would_differ_is_refused(value: Any) -> None:
    for nested in (value, [value], (value,), {"k": value}, {"k": [1, {"l": value}]}, Shut(a=[value])):
        with pytest.raises(CannotEncode, match=r"cached|return|use"):
            CODEC.encode(nested, ALLOWED)


def test_keys_that_would_differ_are_refused() -> None:
    for key in (memoryview(b"x"), msgpack.ExtType(64, b"t"), msgpack.Timestamp(1), Plain()):
        with pytest.raises(CannotEncode):
            CODEC.encode({key: 1}, ALLOWED)


def test_cycles_and_bottomless_nesting_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    ring: dict[str, Any] = {}
    ring["x"] = ([ring],)
    box = Box(None)
    box.item = [box]  # type: ignore[assignment]
    tall: Any = ()
    for _ in range(2000):
        tall = (tall,)
    wide: list[Any] = []
    wide.extend([wide] * 1000)
    mixed: list[Any] = [bytearray()]
    mixed.append(mixed)
    for value in (loop, ring, box, tall, wide, mixed):
        with pytest.raises(CannotEncode, match=r"contains itself"):
            CODEC.encode(value, ALLOWED)
    nested: Any = 1
    for _ in range(90):
        nested = [nested]
    assert trip(nested) == nested


def test_a_fraction_that_would_take_long_to_read_is_refused() -> None:
    with pytest.raises(CannotEncode, match="return a float"):
        CODEC.encode(Fraction(3**50_000, 2**50_000), NOTHING)
    number = (1 << 400_000).to_bytes(50_001, "big")
    hostile = b"\x00" + msgpack.packb(msgpack.ExtType(12, (len(number).to_bytes(4, "big") + number) * 2))
    with pytest.raises(CorruptEnvelope):
        CODEC.decode(hostile, NOTHING)


@pytest.mark.parametrize(
    ("code", "data"),
    [
        (10, b""),
        (10, b"xa"),
        (11, b"a4300.1.1.1"),
        (11, b"n410.0.0.1/8"),
        (12, b"\0\0\0\1\1\0\0\0\1\0"),
        (13, b"\0\0\0\5"),
    ],
)
def test_what_no_codec_wrote_is_a_miss(code: int, data: bytes) -> None:
    with pytest.raises(CorruptEnvelope):
        CODEC.decode(b"\x00" + msgpack.packb(msgpack.ExtType(code, data)), NOTHING)


@pytest.mark.parametrize("mark", [b"q-1", b"qx", b"q99999999999999999999999", b"z"])
def test_a_mark_that_no_codec_wrote_is_a_miss(mark: bytes) -> None:
    with pytest.raises(CorruptEnvelope):
        CODEC.decode(b"\x01" + msgpack.packb([msgpack.ExtType(64, mark), 1]), NOTHING)


def test_what_a_caller_changes_does_not_reach_the_next() -> None:
    data = CODEC.encode({"a": [1]}, NOTHING)
    first: Any = CODEC.decode(data, NOTHING)
    first["a"].append(2)
    assert CODEC.decode(data, NOTHING) == {"a": [1]}


def test_one_codec_serves_many_threads() -> None:
    wrong: list[Any] = []

    def work(seed: int) -> None:
        value = [(seed, i, {seed: Shut(a=i)}) for i in range(50)]
        wrong.extend([seed] * sum(trip(value, ALLOWED) != value for _ in range(20)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_class_with_other_fields_is_a_miss() -> None:
    @dataclass
    class Old:
        a: int

    @dataclass
    class New:
        a: int
        b: int = 2

    writer, reader = TypeRegistry(), TypeRegistry()
    writer.register(Old, name="app.Thing")
    reader.register(New, name="app.Thing")
    with pytest.raises(CorruptEnvelope, match=r"app\.Thing"):
        CODEC.decode(CODEC.encode(Old(1), writer), reader)


def test_the_depth_of_the_caller_makes_no_difference() -> None:
    nested: Any = "x"
    for _ in range(90):
        nested = [nested]
    data = CODEC.encode(nested, TypeRegistry())

    def decoded(depth: int) -> Any:
        return decoded(depth - 1) if depth else CODEC.decode(data, TypeRegistry())

    room = sys.getrecursionlimit() - len(inspect.stack())
    for depth in range(room - 120, room - 20, 5):
        value = decoded(depth)
        for _ in range(90):
            (value,) = value
        assert value == "x"
