"""The code that is made for a function binds, names and returns exactly what the long way does."""

from __future__ import annotations

import asyncio
import enum
import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercache import Cache
from evercache.api.core import FunctionCore
from evercache.api.template import Template, make_template
from evercache.client.serving import NOT_ASKED, Unserved


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    __slots__ = ()


class Pair(tuple[Any, ...]):
    __slots__ = ()


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    ONE = "1"


class Liar:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(1)

    def __repr__(self) -> str:
        return "1"

    def __cache_key__(self) -> str:
        return "liar"


class Rude:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    def __hash__(self) -> int:
        raise RuntimeError("not hashable")

    def __repr__(self) -> str:
        raise RuntimeError("not shown")

    def __cache_key__(self) -> int:
        return 7


plain = (
    st.integers()
    | st.text(alphabet=st.characters(), max_size=40)  # lone surrogates included
    | st.booleans()
    | st.floats()
    | st.none()
    | st.sampled_from([0.0, -0.0, float("nan"), 10**400, -(10**5000), "x" * 300, "é" * 60, "'\"\\{}\n", 1, True])
)
ODD: list[Any] = [Text("a"), Text("1"), Whole(1), Real(1.0), Pair((1,)), Level.LOW, Word.ONE, Liar(), Rude(), 1j]
ODD += [(1,), (True,), (1.0,), [1], {"a": 1}, frozenset({1}), b"1", bytearray(b"x")]
odd = st.integers(0, len(ODD) - 1).map(ODD.__getitem__)  # hypothesis would compare them
arguments = plain | odd


class Hits:
    """In the place of the client's hot path: notes what it is asked, and has nothing."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.tags: list[tuple[bytes, ...]] = []
        self.named: list[tuple[Any, ...]] = []

    def get(self, plan: Any, key: str, tags: tuple[bytes, ...]) -> Unserved:
        self.keys.append(key)
        self.tags.append(tags)
        return NOT_ASKED

    def near(self, arguments: tuple[Any, ...], counters: Any) -> Unserved:
        self.named.append(arguments)
        return NOT_ASKED

    def near_again(self, arguments: tuple[Any, ...], plan: Any, key: str, tags: tuple[bytes, ...]) -> Unserved:
        return self.get(plan, key, tags)


class Made:
    """A function's template with `Hits`, and what of its calls came to the long way."""

    def __init__(self, fn: Callable[..., Any], **options: Any) -> None:
        self.core: FunctionCore = Cache("memory://").cached(**options)(fn)._core
        self.hits = Hits()
        self.calls: list[tuple[Any, ...]] = []
        self.core.cache._hot.take(self.hits, None)  # type: ignore[arg-type]
        template = make_template(self.core, lambda: self.hits, self._long)
        assert isinstance(template, Template)
        self.call = template.call

    def _long(self, args: Any, kwargs: Any, seen: Any = None) -> Any:
        self.calls.append((args, kwargs, seen))
        return self.core.fn(*args, **kwargs)


def whole(a: Any, b: Any = 7, /, c: Any = "x", *, d: Any, e: Any = None) -> Any:
    return a, b, c, d, e


@given(st.lists(arguments, min_size=1, max_size=3), arguments, st.none() | arguments)
def test_the_key_and_the_tags_are_those_of_the_long_way(args: list[Any], d: Any, e: Any) -> None:
    for options in ({}, {"ignore": ("c",)}, {"near": 5}, {"tags": ("t:{d}", "{{}}")}):
        made = Made(whole, **options)
        kwargs = {"d": d} | ({} if e is None else {"e": e})
        result = made.call(*args, **kwargs)
        bound = inspect.signature(whole).bind(*args, **kwargs)
        bound.apply_defaults()
        ((passed, named, _),) = made.calls
        assert all(map(operator.is_, (*passed, *named.values()), bound.arguments.values()))
        for got, given_ in zip(result, bound.arguments.values(), strict=True):
            assert got is given_
        for key, tags in zip(made.hits.keys, made.hits.tags, strict=True):
            subject = made.core.subject(tuple(args), kwargs)
            assert key == subject.key
            assert dict.fromkeys(tags) == dict.fromkeys(subject.tags)


@given(st.lists(st.tuples(arguments, arguments), min_size=2, max_size=2))
def test_near_names_are_equal_only_where_the_keys_are(calls: list[tuple[Any, Any]]) -> None:
    made = Made(lambda a, b: 0, near=5)
    for call in calls:
        made.call(*call)
    if len(made.hits.named) == 2:
        one, other = (made.core.subject(call, {}).key for call in calls)
        assert (made.hits.named[0] == made.hits.named[1]) is (one == other)


@pytest.mark.parametrize(
    "value", [Text("a"), Whole(1), Real(1.0), Level.LOW, Word.ONE, Liar(), Rude(), (1,), [1], {}, object(), b"1"]
)
def test_what_is_not_of_a_plain_type_itself_goes_the_long_way(value: Any) -> None:
    made = Made(lambda a: 0)
    made.call(value)
    assert made.hits.keys == []
    ((passed, _, _),) = made.calls
    assert passed[0] is value


def test_numbers_of_any_length_have_a_key() -> None:
    f = Cache("memory://").cached(near=0)(lambda n: n % 7)
    for number in (10**249, 10**4301, -(10**10_000)):
        assert f(number) == f(number) == number % 7
    assert f.stats().counters.hits == 3


NAMES = (
    "type",
    "len",
    "hits",
    "plan",
    "self",
    "cls",
    "key",
    "args",
    "kwargs",
    "seen",
    "_",
    "match",
    "case",
    "call",
)
MORE = ("int", "str", "ValueError", "exec", "tuple", "é", "ﬁ", "名", "bind", "values", "near", "__x__"[1:-1])


@pytest.mark.parametrize("name", [*NAMES, *MORE])
@pytest.mark.parametrize("near", [0, 5])
def test_no_name_of_a_parameter_or_a_function_is_in_the_way(name: str, near: float) -> None:
    cache = Cache("memory://")
    scope: dict[str, Any] = {"__name__": "some"}
    exec(f"def {name}({name}, *, other=3):\n    return [{name}, other]", scope)
    (fn,) = (value for value in scope.values() if inspect.isfunction(value))
    name = next(iter(inspect.signature(fn).parameters))  # as Python normalises it
    f = cache.cached(near=near, tags=(f"x:{{{name}}}",))(fn)
    assert ("__find" in f.explain_code()) is name.isascii()
    for argument in ("a", 1, True, None):
        expected = [argument, 3]
        assert [f(argument), f(argument), f(**{name: argument}), f(argument, other=3)] == [expected] * 4
        assert type(f(argument)[0]) is type(argument)
    assert f.stats().counters.misses == 4
    assert f.key(**{name: 1}) == f.key(1)


def test_a_name_that_is_none_makes_no_difference() -> None:
    for name in ("<lambda>", "class", "__init__", "not a name", "", "ﬁ"):
        fn = eval("lambda a: a + 1")
        fn.__name__ = name
        f = Cache("memory://").cached(name="f")(fn)
        assert (f(1), f(1)) == (2, 2)
        assert f.__name__ == name


def test_wrong_calls_raise_what_the_function_raises() -> None:
    f = Cache("memory://").cached(whole)
    calls: Any = [
        ((), {}),
        ((1,), {}),
        ((1, 2, 3, 4), {"d": 1}),
        ((1,), {"d": 1, "z": 1}),
        ((1,), {"b": 1, "d": 1}),
        ((1, 2, 3), {"c": 3, "d": 1}),
    ]
    for args, kwargs in calls:
        with pytest.raises(TypeError) as plain_error:
            whole(*args, **kwargs)
        with pytest.raises(TypeError) as error:
            f(*args, **kwargs)
        assert str(error.value) == str(plain_error.value)


def test_a_wrapper_gets_its_arguments_as_they_were_given() -> None:
    def by_name_only(fn: Any) -> Any:
        @functools.wraps(fn)
        def inner(a: Any, **more: Any) -> Any:
            return fn(a, **more), sorted(more)

        return inner

    @Cache("memory://").cached
    @by_name_only
    def f(a: int, b: int = 2, c: int = 3) -> int:
        return a + b + c

    assert f(1, b=5) == f(1, b=5) == (9, ["b"])
    assert f.stats().counters.hits == 1
    assert f.explain_code() == ""


def test_a_signature_that_was_put_on_is_not_believed() -> None:
    def fn(*args: Any, **kwargs: Any) -> Any:
        return len(args), sorted(kwargs)

    fn.__signature__ = inspect.Signature([inspect.Parameter("a", inspect.Parameter.POSITIONAL_OR_KEYWORD)])  # type: ignore[attr-defined]
    f = Cache("memory://").cached(fn)
    assert f(a=1) == f(a=1) == (0, ["a"])


def test_defaults_are_the_very_objects() -> None:
    held: list[int] = []

    @Cache("memory://").cached
    def f(n: int, into: list[int] = held) -> int:
        into.append(n)
        return n

    f(1)
    f(1)  # the object has changed; the key is of what it was
    f(2)
    assert held == [1, 2]


shops = Cache("memory://")


class Shop:
    def __init__(self, n: int) -> None:
        self.n = n

    def __cache_key__(self) -> int:
        return self.n

    @shops.cached
    def plain(self, a: int) -> list[int]:
        return [self.n, a]

    @shops.cached
    @classmethod
    def of_class(cls, a: int) -> list[Any]:
        return [cls.__name__, a]

    @shops.cached
    @staticmethod
    def static(self: int, cls: int = 2) -> list[int]:
        return [self, cls]


class Branch(Shop):
    pass


def test_methods_of_all_kinds_and_functions_of_a_class() -> None:
    one, two = Shop(1), Branch(2)
    for _ in range(2):
        assert (one.plain(5), two.plain(5), Shop.plain(one, 5)) == ([1, 5], [2, 5], [1, 5])
        assert (Shop.of_class(5), two.of_class(5)) == (["Shop", 5], ["Branch", 5])
        assert (Shop.static(1), one.static(self=1), Branch.static(1, cls=2)) == ([1, 2],) * 3
    counters = shops.stats().counters
    assert (counters.misses, counters.hits) == (5, 11)


def test_a_coroutine_function_stays_one_and_binds_at_the_call() -> None:
    @Cache("memory://").cached
    async def type(type: int, *, len: int = 1) -> list[int]:
        return [type, len]

    assert asyncio.iscoroutinefunction(type)
    assert inspect.iscoroutinefunction(type.__call__)

    async def calls() -> list[Any]:
        return [await type(1), await type(type=1), await type(1, len=1), await type(10**5000)]

    assert asyncio.run(calls())[:3] == [[1, 1]] * 3
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'type'"):
        type()  # type: ignore[call-arg]


def test_two_functions_of_one_name_do_not_take_each_others_arguments() -> None:
    cache = Cache("memory://")

    @cache.cached(name="f", near=9, tags=("t:{b}",), ignore=("b",))
    def one(a: int, b: int) -> str:
        return f"one {a}"

    @cache.cached(name="f", near=9)
    def two(a: int, b: int) -> str:
        return f"two {a} {b}"

    assert [one(1, 2), one(1, 2), one(1, 2)] == ["one 1"] * 3
    assert [two(1, 2), two(1, 2), two(1, 2)] == ["two 1 2"] * 3
    assert one(1, 3) == "one 1"
