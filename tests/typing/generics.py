"""Functions whose types a checker must not guess: type variables, `Any`, unions, coroutines in disguise.

Read by mypy and pyright, never run. Each call has the type of the plain function's.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, Never, TypedDict, TypeVar, assert_type, overload

from evercache import AsyncCachedFunction, Cache, CachedFunction

cache = Cache("memory://")
T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
S = TypeVar("S", bound=str)
N = TypeVar("N", int, float)


class Row(TypedDict):
    id: int


class Point(NamedTuple):
    x: int


# -- type variables


@cache.cached
def first(items: Sequence[T]) -> T:
    return items[0]


@cache.cached(ttl=60)
def last(items: Sequence[T], *, default: T | None = None) -> T:
    return items[-1]


@cache.cached
def pair(one: T, two: K) -> tuple[T, K]:
    return one, two


@cache.cached(ttl=60)
def inverted(items: Mapping[K, V]) -> dict[V, K]:
    return {value: key for key, value in items.items()}


@cache.cached
def named(text: S) -> S:
    return text


@cache.cached(ttl=60)
def doubled(number: N) -> N:
    return number * 2


@cache.cached
def maybe(items: Sequence[T]) -> T | None:
    return items[0] if items else None


@cache.cached(ttl=60)
def listed(items: Iterable[T]) -> list[T]:
    return list(items)


@cache.cached
async def afirst(items: Sequence[T]) -> T:
    return items[0]


@cache.cached(ttl=60)
async def alisted(items: Iterable[T]) -> list[T]:
    return list(items)


async def type_variables() -> None:
    assert_type(first([1]), int)
    assert_type(first(["a"]), str)
    assert_type(first([Point(1)]), Point)
    assert_type(last([1, 2]), int)
    assert_type(last(["a"], default="b"), str)
    assert_type(pair(1, "a"), tuple[int, str])
    assert_type(inverted({"a": 1}), dict[int, str])
    assert_type(named("a"), str)
    assert_type(doubled(1), int)
    assert_type(doubled(1.5), float)
    assert_type(maybe([1]), int | None)
    assert_type(listed([1]), list[int])
    assert_type(listed({"a": 1}), list[str])
    assert_type(await afirst([1]), int)
    assert_type(await alisted({"a": 1}), list[str])
    takes_a_cached(first)

    first(1)  # type: ignore[arg-type]
    first([1]).upper()  # type: ignore[attr-defined]
    pair(1)  # type: ignore[call-arg]
    last([1], default="a", other=1)  # type: ignore[call-arg]
    named(1)  # type: ignore[type-var]


def takes_a_cached(function: CachedFunction[..., Any]) -> None:
    function.invalidate_all()


# -- Any, None, and what looks like a coroutine


@cache.cached
def untold(a: int) -> Any:
    return a


@cache.cached(ttl=60)
def nothing(a: int) -> None:
    return None


@cache.cached
def union(a: int) -> int | str | None:
    return a


@cache.cached(ttl=60)
def row(a: int) -> Row:
    return {"id": a}


@cache.cached
def literal(a: int) -> Literal["on", "off"]:
    return "on" if a else "off"


@cache.cached
def rows(a: int, *more: str, **options: bool) -> list[Row]:
    return [{"id": a}]


@cache.cached
def position(a: int, /, b: str = "", *, c: float) -> Point:
    return Point(a)


@cache.cached
def a_class(a: int) -> type[Point]:
    return Point


@cache.cached(ttl=60)
async def anothing(a: int) -> None:
    return None


@cache.cached
async def aunion(a: int) -> int | str:
    return a


@cache.cached
async def auntold(a: int) -> Any:
    return a


@cache.cached
def by_hand(a: int) -> Coroutine[Any, Any, str]:
    return aunion_of(a)


async def aunion_of(a: int) -> str:
    return str(a)


async def plain_types() -> None:
    assert_type(untold(1), Any)
    untold.invalidate(1)
    assert_type(union(1), int | str | None)
    assert_type(row(1), Row)
    assert_type(literal(1), Literal["on", "off"])
    assert_type(rows(1, "a", "b", fast=True), list[Row])
    assert_type(position(1, "b", c=1.5), Point)
    assert_type(position.peek(1, c=1.5), Point | None)
    assert_type(a_class(1), type[Point])
    assert_type(await aunion(1), int | str)
    assert_type(await auntold(1), Any)
    assert_type(await by_hand(1), str)
    assert_type(row.peek(1), Row | None)
    assert_type(union.refresh(1), int | str | None)
    nothing(1)
    await anothing(1)
    a_row: CachedFunction[[int], Row] = row
    assert_type(a_row(1), Row)
    a_union: AsyncCachedFunction[[int], int | str] = aunion
    assert_type(await a_union(1), int | str)

    rows(1, fast="yes")  # type: ignore[arg-type]
    position(a=1, c=1.5)  # type: ignore[call-arg]
    position(1)  # type: ignore[call-arg]
    await by_hand("a")  # type: ignore[arg-type]


# -- methods of generic classes


class Box(Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item

    def __cache_key__(self) -> str:
        return repr(self.item)

    @cache.cached
    def get(self) -> T:
        return self.item

    @cache.cached(ttl=60)
    def together(self, other: T) -> tuple[T, T]:
        return self.item, other

    @cache.cached(ttl=60)
    async def aget(self) -> T:
        return self.item

    @cache.cached
    @staticmethod
    def count(items: Sequence[int]) -> int:
        return len(items)


async def methods(box: Box[str], pick: Callable[[Sequence[int]], int]) -> None:
    assert_type(box.get(), str)
    assert_type(Box(1).get(), int)
    assert_type(box.together("a"), tuple[str, str])
    assert_type(await box.aget(), str)
    assert_type(Box.count([1]), int)
    pick = first
    pick([1])

    box.together(1)  # type: ignore[arg-type]


# -- callables that are given to the decorator as they are


def caching(function: Callable[[int], T]) -> Callable[[int], T]:
    return cache.cached(ttl=60)(function)


def acaching(function: Callable[[int], Awaitable[T]]) -> None:
    cache.cached(function)


@overload
def size(a: int) -> int: ...
@overload
def size(a: str) -> str: ...
def size(a: int | str) -> int | str:
    return a


def never(a: int) -> Never:
    raise ValueError(a)


async def given() -> None:
    assert_type(cache.cached(aunion_of).key(1).function, str)
    assert_type(await cache.cached(aunion_of)(1), str)
    assert_type(cache.cached(lambda: 1)(), int)
    assert_type(cache.cached(ttl=1)(len)([1]), int)
    assert_type(caching(str)(1), str)
    cache.cached(size)
    cache.cached(never)


# -- methods that are generic in a type variable of their own: their types are `Any`


class Picker:
    def __cache_key__(self) -> str:
        return "picker"

    @cache.cached
    def pick(self, items: Sequence[T]) -> T:
        return items[0]

    @cache.cached
    async def apick(self, items: Sequence[T]) -> T:
        return items[0]

    @cache.cached(ttl=60)
    async def alater(self, items: Sequence[K], *, default: K | None = None) -> K:
        return items[-1] if items else default or items[0]

    @cache.cached(ttl=60)
    @classmethod
    async def amade(cls, item: T) -> T:
        return item

    @cache.cached
    async def anything(self, a: int) -> Any:
        return a

    @cache.cached
    async def plain(self, a: int) -> list[Any]:
        return [a]


class ABox(Box[T]):
    @cache.cached
    async def either(self, other: K) -> K:
        return other


async def generic_methods(picker: Picker, box: ABox[str]) -> None:
    text: str = picker.pick(["a"])
    text = await picker.apick(["a"])
    text = await picker.alater(["a"], default="b")
    text = await Picker.amade(text)
    text = await box.either("a")
    assert_type(await box.aget(), str)
    await picker.apick.ainvalidate([1])
    await picker.alater.arefresh([1])
    picker.apick.invalidate([1])
    await afirst.ainvalidate([1])
    await picker.anything(1)
    assert_type(await picker.plain(1), list[Any])

    await picker.plain("a")  # type: ignore[arg-type]
    await picker.plain.ainvalidate("a")  # type: ignore[arg-type]
