"""Classes and values for the tests of the codecs."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
from hypothesis import strategies as st
from markupsafe import Markup

from evercache.codecs import StrictCodec, TypeRegistry

CODEC = StrictCodec()
NOTHING = TypeRegistry()
T = TypeVar("T")


class Color(Enum):
    RED = "r"
    GREEN = (1, 2)
    CRIMSON = "r"  # noqa: PIE796 - an alias


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


class Right(Flag):
    READ = 1
    WRITE = 2


class Number(int):
    pass


class Items(list):  # type: ignore[type-arg]
    pass


class Table(dict):  # type: ignore[type-arg]
    pass


class Bag(set):  # type: ignore[type-arg]
    pass


class Pair(tuple):  # type: ignore[type-arg]
    __slots__ = ()


Point = namedtuple("Point", "x y")


class Place(NamedTuple):
    name: str
    at: Point


RUN: list[str] = []


@dataclass
class Open:
    a: Any
    b: Any = "b"
    made: Any = field(init=False, default=3)
    seed: InitVar[int] = 0

    def __post_init__(self, seed: int) -> None:
        RUN.append("init")

    @cached_property
    def twice(self) -> Any:
        return self.a * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shut:
    a: Any
    b: Any = None


@dataclass(slots=True)
class ShutBase:
    a: int


@dataclass
class Mixed(ShutBase):
    b: int = 2


@dataclass
class Box(Generic[T]):
    item: T


@dataclass(eq=False)
class Unequal:
    a: int


@dataclass
class OnDict(dict):  # type: ignore[type-arg]
    a: int = 1


class Structure(msgspec.Struct, frozen=True, kw_only=True):
    a: Any
    b: Any = 2


class Settled(msgspec.Struct):
    a: list[int]

    def __post_init__(self) -> None:
        self.a = [*self.a, 0]


class Loose(msgspec.Struct, eq=False):
    a: int


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: Any
    b: Any = 2
    _hidden: Any = pydantic.PrivateAttr(default=3)


@attrs.define
class Cut:
    a: Any
    b: Any = 2


@attrs.frozen(slots=False)
class Etched:
    a: Any
    _b: Any = attrs.field(default=2, alias="b")


@attrs.define(eq=False)
class Uncut:
    a: int


class Plain:
    pass


class Money:
    """Known to nothing: by functions of the application only."""

    def __init__(self, cents: int, currency: str) -> None:
        self.cents, self.currency = cents, currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


ALLOWED = TypeRegistry(
    [
        *(Color, Level, Word, Right, Number, Items, Table, Bag, Pair, Point, Place),
        *(Open, Shut, Mixed, Box, Structure, Settled, Model, Cut, Etched),
    ]
)


def same(one: Any, other: Any) -> bool:
    """Equal with equal types all the way down, and equal order where there is one."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Enum):
        return one is other
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=False)
        factory = getattr(one, "default_factory", None) is getattr(other, "default_factory", None)
        return len(one) == len(other) and factory and all(same(a, b) for a, b in pairs)
    if isinstance(one, (tuple, list, deque)):
        longest = getattr(one, "maxlen", None) == getattr(other, "maxlen", None)
        return longest and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (set, frozenset)):
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    if isinstance(one, (float, Decimal, dt.datetime, dt.time, UUID, complex)):
        return repr(one) == repr(other) and getattr(one, "is_safe", 0) == getattr(other, "is_safe", 0)
    if isinstance(one, range):
        return repr(one) == repr(other)
    names = getattr(one, "__struct_fields__", None)
    if attrs.has(type(one)):
        names = tuple(field.name for field in attrs.fields(type(one)))
    if dataclasses.is_dataclass(one):
        names = tuple(field.name for field in dataclasses.fields(one))
    if names is None and hasattr(one, "__dict__"):
        return same(one.__dict__, other.__dict__)
    if names:
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    return bool(one == other)


def trip(value: Any, types: TypeRegistry = NOTHING) -> Any:
    return CODEC.decode(CODEC.encode(value, types), types)


BERLIN = ZoneInfo("Europe/Berlin")


zones = st.none() | st.just(dt.UTC) | st.sampled_from([BERLIN, dt.timezone(dt.timedelta(hours=3), "N")])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**60, max_value=2**70)
    | st.floats()
    | st.text(alphabet=st.characters(codec=None), max_size=10)
    | st.binary(max_size=10)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.datetimes(timezones=zones)
    | st.times()
    | st.timedeltas()
    | st.complex_numbers()
    | st.fractions()
    | st.ip_addresses()
    | st.builds(range, st.integers(), st.integers(), st.integers().filter(bool))
    | st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=10).map(PurePosixPath)
    | st.sampled_from([*Color, *Level, Right.READ | Right.WRITE, Markup("x"), Number(3)])
)
hashables = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.frozensets(inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Shut, a=inner, b=inner)
    ),
    max_leaves=5,
)
values = st.recursive(
    hashables | st.binary(max_size=5).map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashables, inner, max_size=4)
        | st.dictionaries(hashables, inner, max_size=4).map(OrderedDict)
        | st.dictionaries(hashables, inner, max_size=2).map(lambda d: defaultdict(list, d))
        | st.dictionaries(hashables, st.integers(), max_size=2).map(Counter)
        | st.sets(hashables, max_size=4)
        | st.lists(inner, max_size=4).map(deque)
        | st.lists(inner, max_size=4).map(lambda items: deque(items, 3))
        | st.builds(Cut, inner, inner)
        | st.builds(Open, inner, inner)
        | st.builds(Box, inner)
        | st.builds(Structure, a=inner, b=inner)
        | st.builds(Model, a=inner, b=inner)
        | st.lists(inner, max_size=3).map(Items)
    ),
    max_leaves=12,
)
