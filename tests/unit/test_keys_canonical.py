"""The text of values: typed, stable, and different for different values."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import textwrap
from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from fractions import Fraction
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.codec_values import Cut, Etched

from evercache.protocol.canonical import MAX_DEPTH, canonical, instance_state

NONE = object()


class Color(Enum):
    RED = 1
    GREEN = 2


class Level(IntEnum):
    LOW = 1


class Right(Flag):
    READ = 1
    WRITE = 2


class Text(str):
    pass


class Number(int):
    pass


class Row(tuple):
    __slots__ = ()


Point = namedtuple("Point", "x y")
Spot = namedtuple("Spot", "x y")


@dataclass
class Open:
    a: int
    b: str = "b"

    @cached_property
    def twice(self) -> int:
        return self.a * 2


@dataclass(frozen=True, slots=True)
class Shut:
    a: int
    b: str = "b"


@dataclass
class Held:
    a: int
    fixed: int = field(init=False, default=3)


class Structure(msgspec.Struct):
    a: int


class Model(pydantic.BaseModel):
    a: int
    _hidden: int = pydantic.PrivateAttr(default=3)


class Cart:
    def __init__(self, number: int) -> None:
        self.number = number

    def __cache_key__(self) -> object:
        return self.number


class Wagon(Cart):
    pass


def module_function() -> None:
    pass


def other_function() -> None:
    pass


UNLIKE: list[Any] = [
    1, True, 1.0, "1", b"1", bytearray(b"1"), 1 + 0j, Decimal(1), Decimal("1.0"), Number(1), Text("1"),
    Level.LOW, Right.READ, Right.READ | Right.WRITE, Color.RED, Color.GREEN, "RED", "Color.RED",
    0, False, 0.0, -0.0, None, "", b"", (), [], {}, set(), frozenset(), "None", "nan", float("nan"),
    float("inf"), -float("inf"), 10**400, -(10**400), 10**5000,
    (1,), (True,), [1], {1}, frozenset({1}), {1: None}, ((1,),), Row((1,)), (1, 2), Point(1, 2), Spot(1, 2),
    ("x", "y"), ("x:y",), ("x,y",), ("x", ("y",)), "('x', 'y')", "'x','y'", "x'", 'x"', "x\\'", "(", "[1]",
    "\ud800", "\\ud800", "é", "e\u0301", "a\0b",
    {"a": 1, "b": 2}, {"a": 2, "b": 1}, {("a", 1): 2}, OrderedDict(a=1, b=2), OrderedDict(b=2, a=1),
    defaultdict(int, a=1), defaultdict(list, a=1), defaultdict(None, a=1), {"a": 1}, Counter(a=1), range(3),
    UUID(int=1), dt.date(2020, 1, 1), dt.datetime(2020, 1, 1), dt.time(0, 0), dt.timedelta(1),
    dt.timedelta(0, 1),
    dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2020, 1, 1, fold=1),
    dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1), "X")),
    dt.datetime(2020, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")),
    dt.datetime(2020, 1, 1, tzinfo=ZoneInfo("Europe/Paris")), dt.time(1, tzinfo=ZoneInfo("Europe/Paris")),
    dt.time(1), dt.time(1, fold=1), PurePosixPath("a"),
    Open(1), Open(2), Open(1, "c"), Shut(1), Shut(2), Held(3), Structure(1), Structure(2), Model(a=1),
    Model(a=2),
    Fraction(1, 2), Fraction(1), Fraction(10**5000, 3), IPv4Address("10.0.0.1"), IPv4Network("10.0.0.1"),
    IPv4Interface("10.0.0.1"), IPv6Address("::1"), IPv6Address("fe80::1%a"), IPv6Address("fe80::1%b"), "10.0.0.1",
    Cut(1), Cut(2), Etched(1), Etched(1, b=3),
    Cart(1), Cart(2), Wagon(1), int, str, Color, module_function, other_function, len, type(None),
]  # fmt: skip


def test_values_that_differ_have_texts_that_differ() -> None:
    texts = [canonical(value) for value in UNLIKE]
    for text in texts:
        assert text.isascii()
    twins = [(a, b) for i, a in enumerate(UNLIKE) for j, b in enumerate(UNLIKE[:i]) if texts[i] == texts[j]]
    assert twins == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        (frozenset(range(50)), frozenset(reversed(range(50)))),
        (float("nan"), -float("nan")),
        (Cart(7), Cart(7)),
        (Open(1), Open(1)),
        (Cut({"a": 1}), Cut({"a": 1})),
        (Fraction(2, 4), Fraction(1, 2)),
        (dt.timedelta(seconds=90), dt.timedelta(minutes=1, seconds=30)),
    ],
)
def test_values_that_are_alike_share_a_text(one: object, other: object) -> None:
    assert canonical(one) == canonical(other)


def test_texts_are_readable() -> None:
    assert canonical(7) == "7"
    assert canonical("it's") == '"it\'s"'
    assert canonical(("a", 1, None)) == "('a',1,None)"
    assert canonical({"b": 1, "a": [True]}) == "{'a':[True],'b':1}"
    assert canonical(Color.RED) == f"{__name__}.Color{{'RED'}}"
    assert canonical(Cart(7)) == f"{__name__}.Cart{{7}}"
    assert canonical(Shut(1)) == f"{__name__}.Shut{{a=1,b='b'}}"


def test_a_cached_property_does_not_change_the_text() -> None:
    value = Open(1)
    before = canonical(value)
    assert value.twice == 2
    assert canonical(value) == before


def test_attributes_beside_the_fields_take_part() -> None:
    value, named = Open(1), Text("x")
    value.extra = 1  # type: ignore[attr-defined]
    named.extra = 1  # type: ignore[attr-defined]
    assert canonical(value) != canonical(Open(1))
    assert canonical(named) != canonical(Text("x"))
    assert instance_state(named) == {"extra": 1}


@pytest.mark.parametrize("attribute", ["zone", "key"])
def test_zones_of_other_libraries_differ_by_their_names(attribute: str) -> None:
    """These two have one offset and abbreviation in winter; pytz calls the name `zone`, others call it `key`."""

    class Zone(dt.tzinfo):
        def __init__(self, name: str) -> None:
            setattr(self, attribute, name)

        def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
            return dt.timedelta(hours=1)

        def tzname(self, when: dt.datetime | None) -> str:
            return "CET"

    one, other = (
        canonical(dt.datetime(2020, 1, 1, tzinfo=Zone(name))) for name in ("Europe/Berlin", "Europe/Rome")
    )
    assert one != other


def test_private_and_extra_values_of_a_model_take_part() -> None:
    one, other = Model(a=1), Model(a=1)
    other._hidden = 4
    assert canonical(one) != canonical(other)


def _local() -> Any:
    def local() -> None:
        pass

    return local


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (object(), "builtins.object"),
        (lambda: 1, "lambda"),
        (_local(), "local"),
        ((i for i in ()), "generator"),
        (memoryview(b""), "memoryview"),
        ([object()], "builtins.object"),
        ({"a": (1, {"b": object()})}, "builtins.object"),
        (sys, "module"),
        ([].append, "append"),
    ],
)
def test_what_has_no_stable_text_is_refused(value: object, names: str) -> None:
    with pytest.raises(TypeError, match=names):
        canonical(value)


def test_cycles_and_deep_nesting_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match="contains itself"):
        canonical(endless)
    nested: Any = 1
    for _ in range(MAX_DEPTH):
        nested = [nested]
    assert canonical(nested) == "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH
    with pytest.raises(TypeError, match="deeper"):
        canonical([nested])


@pytest.mark.parametrize("as_module", [True, False])
def test_main_has_its_import_name(tmp_path: Any, as_module: bool) -> None:
    (tmp_path / "program.py").write_text(
        textwrap.dedent(
            """
            from enum import Enum
            from evercache.protocol.keys import DEFAULT_NAMING, canonical
            class Color(Enum):
                RED = 1
            def f(): pass
            print(DEFAULT_NAMING.function_name(f), canonical(Color.RED), canonical(f))
            """
        )
    )
    command = ["-m", "program"] if as_module else ["program.py"]
    out = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["program.f", "program.Color{'RED'}", "function{'program.f'}"]


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(alphabet=st.characters(codec=None))
    | st.text(alphabet="x'\",:()[]{}#\\")
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.sampled_from([*Color, Level.LOW, Number(1), Text("x"), UUID(int=5)])
)
hashable = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.sets(hashable, max_size=3)
    ),
    max_leaves=8,
)


def identical(one: Any, other: Any) -> bool:
    """Equal with equal types all the way down, order of dicts and sets aside; NaN is like NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(identical, one, other))
    if isinstance(one, (set, frozenset, dict)):
        if len(one) != len(other):
            return False
        left = list(one.items()) if isinstance(one, dict) else list(one)
        right = list(other.items()) if isinstance(other, dict) else list(other)
        for item in left:
            twin = next((x for x in right if identical(item, x)), NONE)
            if twin is NONE:
                return False
            right.remove(twin)
        return True
    if isinstance(one, (float, Decimal)):
        return repr(float(one) if type(one) is float else one) == repr(other)
    return bool(one == other)


@given(values, values)
def test_one_text_for_one_value(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == identical(one, other)


similar = st.recursive(
    st.sampled_from([0, 1, True, False, 0.0, 1.0, "", "1", "x", "'", ",", "x,y", "1,", b"", b"1", None]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(st.sampled_from(["x", "", 1, "1", (1,), ("1",)]), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(st.lists(similar, min_size=2, max_size=12))
def test_small_values_of_like_looks_do_not_collide(many: list[Any]) -> None:
    for one in many:
        for other in many:
            assert (canonical(one) == canonical(other)) == identical(one, other)
