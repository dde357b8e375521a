"""Two different functions never share entries by accident, and one function has one name in all processes."""

from __future__ import annotations

import enum
import functools
import gc
import json
import logging
import os
import subprocess
import sys
import textwrap
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests.unit.memory_time import Calls, cache, stores

from evercache import Cache
from evercache.protocol.keys import ReadableNaming

__all__ = ["cache", "stores"]


class Opaque:
    """What an application or a session is: nothing that could be written into a key."""


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Price:
    amount: int


def name_of(fn: Callable[..., Any]) -> str:
    return ReadableNaming().function_name(fn)


def plain(n: int) -> int:
    return n


# -- what differs in its free variables


def test_closures_of_one_code_do_not_share(cache: Cache) -> None:
    def make(factor: object) -> Any:
        @cache.cached
        def times(n: int) -> Any:
            return factor, n

        return times

    for factors in [(2, 3), ("a", "b"), (1, True, 1.0), (None, 0), ((1,), [1]), (Colour.RED, Colour.BLUE)]:
        functions = [make(factor) for factor in factors]
        for fn, factor in zip(functions, factors, strict=True):
            got = fn(5)
            assert got == (factor, 5)
            assert type(got[0]) is type(factor)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (plain, name_of),
        (Colour, Price),
        (Price(1), Price(2)),
        (date(2026, 1, 1), date(2026, 1, 2)),
        ({"a": 1}, {"a": 2}),
        (json, os),
        (functools.partial(plain, 1), functools.partial(plain, 2)),
        (functools.partial(plain, 1), functools.partial(name_of, 1)),
        ((plain, 1), (name_of, 1)),
        (lambda n: n + 1, lambda n: n + 2),
        ([lambda: 1], [lambda: 2]),
        ({"f": lambda: 1}, {"f": lambda: 2}),
        ({1: lambda: 1}, {2: lambda: 1}),
        (b"a", "a"),
    ],
    ids=range(14),
)
def test_what_makes_a_difference(one: object, other: object) -> None:
    def make(value: object) -> Any:
        return lambda n: (value, n)

    def named(value: object) -> Any:
        def inner(n: int) -> Any:
            return value, n

        return inner

    for factory in (make, named):
        assert name_of(factory(one)) == name_of(factory(one))
        assert name_of(factory(one)) != name_of(factory(other))


def test_a_decorator_without_wraps_on_two_functions(cache: Cache) -> None:
    def noisy(fn: Any) -> Any:
        def wrapper(n: int) -> Any:
            return fn(n)

        return wrapper

    @cache.cached
    @noisy
    def one(n: int) -> str:
        return f"one {n}"

    @cache.cached
    @noisy
    def two(n: int) -> str:
        return f"two {n}"

    assert (one(1), two(1), one(1)) == ("one 1", "two 1", "one 1")


def test_functions_in_free_variables_are_looked_into(cache: Cache) -> None:
    def adder(n: int) -> Any:
        return lambda m: n + m

    def make(fn: Any) -> Any:
        def inner(n: int) -> int:
            return fn(n)  # type: ignore[no-any-return]

        return inner

    assert name_of(make(adder(1))) == name_of(make(adder(1)))
    assert name_of(make(adder(1))) != name_of(make(adder(2)))
    assert name_of(make(functools.lru_cache(adder(1)))) != name_of(make(functools.lru_cache(adder(2))))
    assert name_of(make(cache.cached(adder(1)))) != name_of(make(cache.cached(adder(2))))
    deep: list[Any] = [adder(1), adder(2)]
    for _ in range(500):  # deeper than anybody looks: a name all the same
        deep = [make(fn) for fn in deep]
    assert name_of(deep[0]).endswith(name_of(deep[1])[-10:])


def test_lambdas_of_one_scope_with_different_code_do_not_share(cache: Cache) -> None:
    class Service:
        def __init__(self, factor: int) -> None:
            self.twice = cache.cached(lambda n: n * 2)
            self.thrice = cache.cached(lambda n: n * 3)
            self.times = cache.cached(lambda n: n * factor)

    four, five = Service(4), Service(5)
    assert [four.twice(7), four.thrice(7), four.times(7)] == [14, 21, 28]
    assert [five.twice(7), five.thrice(7), five.times(7)] == [14, 21, 35]
    assert five.twice.stats().counters.computed == 0  # the same code, so the same entries


def test_methods_of_classes_that_a_function_makes(cache: Cache) -> None:
    def make(table: str) -> Any:
        class Rows:
            @cache.cached
            @staticmethod
            def count() -> str:
                return table

            @cache.cached
            def of(self, n: int) -> str:
                return f"{table} {n}"

            def __cache_key__(self) -> int:
                return 1

        return Rows

    tasks, runs = make("tasks"), make("runs")
    assert (tasks.count(), runs.count()) == ("tasks", "runs")
    assert (tasks().of(1), runs().of(1)) == ("tasks 1", "runs 1")


def test_a_class_that_a_function_makes_counts_by_what_it_holds() -> None:
    def make(number: int) -> Any:
        class Table:
            size = number

            @staticmethod
            def double() -> int:
                return number * 2

        class Bare:
            @staticmethod
            def double() -> int:
                return number * 2

        def one() -> int:
            return Table.size

        def other() -> int:
            return Bare.double()

        return one, other

    for index in (0, 1):
        assert name_of(make(1)[index]) == name_of(make(1)[index]) != name_of(make(2)[index])


def test_partials_and_bound_methods(cache: Cache) -> None:
    class Known:
        def __init__(self, number: int) -> None:
            self.number = number

        def __cache_key__(self) -> int:
            return self.number

        def rows(self) -> int:
            return self.number

        @classmethod
        def kind(cls) -> str:
            return cls.__name__

    class Other(Known):
        pass

    assert [cache.cached(Known(n).rows)() for n in (1, 2, 1)] == [1, 2, 1]
    assert [cache.cached(one.kind)() for one in (Known, Other)] == ["Known", "Other"]
    halves = [functools.update_wrapper(functools.partial(lambda a, b: (a, b), n), plain) for n in (1, 2)]
    del halves[0].__wrapped__, halves[1].__wrapped__
    assert [cache.cached(half)(9) for half in halves] == [(1, 9), (2, 9)]


def test_cached_many_and_coroutine_functions(cache: Cache) -> None:
    import asyncio

    def make(factor: int) -> Any:
        @cache.cached_many
        def many(ids: list[int]) -> dict[int, int]:
            return {id: id * factor for id in ids}

        @cache.cached
        async def one(n: int) -> int:
            return n * factor

        return many, one

    (two, atwo), (three, athree) = make(2), make(3)
    assert (two([5]), three([5])) == ({5: 10}, {5: 15})
    assert (asyncio.run(atwo(5)), asyncio.run(athree(5))) == (10, 15)


# -- what has the name that it always had


@functools.lru_cache
def cached_elsewhere(n: int) -> int:
    return n


class Base:
    def method(self) -> str:
        return super().__repr__()  # the free variable `__class__`

    @classmethod
    def made(cls) -> int:
        return 1


def test_functions_without_free_variables_keep_their_names() -> None:
    def local(n: int) -> int:
        return n

    def recursive(n: int) -> int:
        return recursive(n - 1) if n else 0

    def wrapping(fn: Any) -> Any:
        @functools.wraps(fn)
        def wrapper(*args: Any) -> Any:
            return fn(*args)

        return wrapper

    opaque = Opaque()

    def of_application() -> object:
        return opaque

    here = f"{__name__}.test_functions_without_free_variables_keep_their_names.<locals>"
    for fn, name in [
        (plain, f"{__name__}.plain"),
        (wrapping(plain), f"{__name__}.plain"),
        (wrapping(wrapping(plain)), f"{__name__}.plain"),
        (cached_elsewhere, f"{__name__}.cached_elsewhere"),
        (Base.method, f"{__name__}.Base.method"),
        (Base.made, f"{__name__}.Base.made"),
        (Base().method.__func__, f"{__name__}.Base.method"),
        (local, f"{here}.local"),
        (recursive, f"{here}.recursive"),
        (of_application, f"{here}.of_application"),
        (len, "builtins.len"),
    ]:
        assert name_of(fn) == name, name


def test_a_recursive_function_has_one_name_before_and_after_it_is_bound(cache: Cache) -> None:
    names = []

    def decorated(fn: Any) -> Any:
        names.append(name_of(fn))
        return cache.cached(fn)

    @decorated
    def f(n: int) -> int:
        return f(n - 1) if n else 0  # type: ignore[no-any-return]

    @decorated
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)  # type: ignore[no-any-return]

    assert names == [name_of(f.__wrapped__), names[1]]
    assert not f(3)
    assert even(4)
    assert name_of(odd) == name_of(odd)  # in a circle


def test_a_free_variable_that_raises_when_it_is_looked_at_is_opaque() -> None:
    class Proxy:
        @property
        def __class__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("outside of an application's context")

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("outside of an application's context")

        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    class Broken:
        def __cache_key__(self) -> Any:
            raise ValueError("not yet")

    def make(value: object) -> Any:
        def f() -> object:
            return value

        return f

    bare = name_of(make(Opaque()))
    endless: list[Any] = []
    endless.append(endless)
    assert {name_of(make(value)) for value in (Proxy(), Broken(), "\ud800")} == {bare, name_of(make("\ud800"))}
    assert name_of(make(endless))


def test_a_long_name_with_a_digest_fits_into_a_key() -> None:
    def factory(value: object) -> Any:
        def a_function_with_a_name_that_is_far_too_long_for_any_key_and_goes_on_and_on_and_on() -> object:
            return value

        return a_function_with_a_name_that_is_far_too_long_for_any_key_and_goes_on_and_on_and_on

    name = ReadableNaming().function_name(factory(1), "9" * 32)
    assert len(name) <= 160
    key = ReadableNaming().entry_key("n" * 32, name, "x" * 300)
    assert len(key) <= 250
    assert name != ReadableNaming().function_name(factory(2), "9" * 32)


def test_the_names_are_equal_in_all_processes(tmp_path: Path) -> None:
    (tmp_path / "closures.py").write_text(
        textwrap.dedent(
            """
            import enum, functools, json, sys
            from datetime import date
            from decimal import Decimal
            from pathlib import PurePosixPath
            from evercache.protocol.keys import ReadableNaming

            class Colour(enum.Enum):
                RED = 1

            def make(value, extra=None):
                def inner(n):
                    return value, extra, n
                return inner

            class Thing:
                pass

            def names():
                values = [
                    1, "x", {"b": 1, "a": 2}, {"x", "y", "z"}, frozenset("abc"), Colour.RED, date(2026, 1, 1),
                    Decimal("1.0"), PurePosixPath("/a"), make, Colour, json, lambda n: n in {"a", "b", "c"},
                    make(1), make(make({"p", "q", "r"})), functools.partial(make, {"k", "l"}), Thing(),
                    [make(1), {"s": make, "t": lambda: {1, 2}}],
                ]
                return [ReadableNaming().function_name(make(value, Thing())) for value in values] + [
                    ReadableNaming().function_name(lambda n: n in {"a", "b", "c"} and (lambda: {"d", "e"}))
                ]
            """
        )
    )

    def names(seed: str, main: bool) -> list[str]:
        more = "\nimport json as j\nprint(j.dumps(names()))"
        code = (tmp_path / "closures.py").read_text() + more if main else "from closures import names" + more
        if main:
            (tmp_path / "run").mkdir(exist_ok=True)
            (tmp_path / "run" / "closures.py").write_text(code)
        command = [sys.executable, str(tmp_path / "run" / "closures.py")] if main else [sys.executable, "-c", code]
        environ = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    first = names("1", main=False)
    assert names("2", main=False) == first
    assert names("3", main=True) == first  # run as a script
    assert len(set(first)) == len(first)


# -- opaque values


def make_opaque(cache: Cache, value: object, factor: int = 1) -> Any:
    @cache.cached
    def f(n: int) -> Any:
        return value is not None, n * factor

    return f


def test_two_living_closures_over_opaque_objects_are_reported_once(cache: Cache) -> None:
    first = make_opaque(cache, Opaque())
    with pytest.warns(UserWarning, match="share their entries") as caught:
        second = make_opaque(cache, Opaque())
    (warning,) = caught
    text = str(warning.message)
    line = make_opaque.__code__.co_firstlineno + 1
    assert text.count(f"{__file__}:{line}") == 2, text
    assert "value" in text
    assert "name=" in text
    here = sys._getframe().f_code.co_firstlineno
    assert f"{__file__}:{here + 1})" in text  # where each was made
    assert f"{__file__}:{here + 3})" in text
    assert warning.filename == __file__
    third = make_opaque(cache, Opaque())  # a warning is an error here
    assert first.key(1) == second.key(1) == third.key(1)


def test_closures_over_the_same_opaque_object_are_one_function(cache: Cache) -> None:
    application = Opaque()
    kept = [make_opaque(cache, application) for _ in range(3)]
    assert len({fn.key(1) for fn in kept}) == 1


def test_two_living_functions_of_one_name_with_different_code_are_reported_with_both_places(cache: Cache) -> None:
    def make(kind: str) -> Any:
        if kind == "a":

            @cache.cached
            def f() -> int:
                return 1

        else:

            @cache.cached
            def f() -> int:
                return 2

        return f

    kept = make("a")
    with pytest.warns(UserWarning, match="share their entries") as caught:
        kept = kept, make("b")
    places = {fn.__wrapped__.__code__.co_firstlineno for fn in kept}
    assert len(places) == 2
    assert all(f"{__file__}:{line}" in str(caught[0].message) for line in places)


def test_what_is_assigned_after_the_decoration_is_reported_when_it_can_differ(cache: Cache) -> None:
    def make(n: int) -> Any:
        @cache.cached
        def f() -> int:
            return late

        late = n
        return f

    kept = make(1)
    with pytest.warns(UserWarning, match="late"):
        kept = kept, make(2)


def test_an_application_factory_warns_never_shares_and_leaves_nothing_behind(cache: Cache) -> None:
    class Application:
        def __init__(self, version: int) -> None:
            application = self

            @cache.cached
            def page(n: int) -> int:
                return n

            @cache.cached
            def of_version(n: int) -> int:
                return n + version

            @cache.cached
            def recursive(n: int) -> int:
                return recursive(n - 1) if n else 0

            def helper(n: int) -> int:
                return recursive(n)

            @cache.cached
            def by_helper(n: int) -> int:
                return helper(n)

            @cache.cached
            def of_application(n: int) -> bool:
                return application is not None

            class Rows:
                table = "rows"

                def __cache_key__(self) -> int:
                    return 1

                @cache.cached
                def count(self) -> int:
                    return application is not None

            assert Rows().count()
            self.functions: list[Any] = [page, of_version, recursive, by_helper, of_application]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = Application(1)
        names = [fn._core.name for fn in first.functions]
        assert first.functions[1](1) == 2
        assert all(fn(0) is not None for fn in first.functions)
        gone = weakref.ref(first.functions[0]._core)
        del first
        for _ in range(5):  # the one before is dead, though nobody has collected it
            assert [fn._core.name for fn in Application(1).functions] == names
        gc.collect()
        assert gone() is None
        again = Application(1)
        assert again.functions[1](1) == 2
        assert again.functions[1].stats().counters.computed == 0
        assert cache.stats().counters.computed >= 5  # of the dead too

        class Pure:
            def __init__(self) -> None:
                @cache.cached
                def page(n: int) -> int:
                    return n

                self.page = page

        living = [Pure() for _ in range(50)]
        assert len({one.page.key(1) for one in living}) == 1

        def size() -> tuple[int, int]:
            gc.collect()
            return len(list(cache._functions)), len(gc.get_objects())

        del living
        for _ in range(20):
            Application(1)
        functions, objects = size()
        for _ in range(200):
            Application(1)
        after, more = size()
        assert after == functions
        assert more - objects < 200, "less than one object for each application"


def test_an_explicit_name_is_taken_as_it_is(cache: Cache) -> None:
    def make(n: int) -> Any:
        @cache.cached(name="app.times", version=None)
        def f() -> int:
            return n

        return f

    assert make(1).key() == make(2).key() == "evercache:f:app.times()"


@pytest.mark.parametrize("name", [5, "\ud800", b"x"])
def test_a_name_that_makes_no_key_is_refused_at_decoration(cache: Cache, name: Any) -> None:
    from evercache.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="name="):
        cache.cached(name=name)(plain)


# -- defaults


def test_a_default_is_keyed_as_it_was_at_decoration(cache: Cache) -> None:
    ran = Calls()

    @cache.cached
    def f(n: int, calls: list[int] = []) -> list[int]:  # noqa: B006
        ran(n)
        calls.append(n)
        return list(calls)

    key = f.key(1)
    assert f(1) == [1]
    assert f(1) == [1]
    assert f(2) == [1, 2]  # the function gets the real default
    assert (f(1), f(2)) == ([1], [1, 2])
    assert len(ran) == 2
    assert f.key(1) == key
    assert f.key(1, []) == key
    assert f.key(1, [1, 2]) != key
    assert f.peek(1) == [1]
    f.invalidate(1)
    assert f.peek(1) is None


def test_so_are_those_of_keyword_only_parameters_methods_and_batches(cache: Cache) -> None:
    ran = Calls()

    @cache.cached
    def f(*, options: dict[str, int] = {}, seen: set[int] = set()) -> int:  # noqa: B006
        ran(1)
        options["n"] = len(options)
        seen.add(len(seen))
        return len(seen)

    @cache.cached_many
    def many(ids: list[int], seen: list[int] = []) -> dict[int, int]:  # noqa: B006
        ran(2)
        seen.extend(ids)
        return {id: len(seen) for id in ids}

    for _ in range(3):
        assert f() == 1
        assert many([1, 2]) == {1: 2, 2: 2}
    assert ran == [1, 2]


def test_a_default_in_a_loop_is_part_of_the_key(cache: Cache) -> None:
    functions = []
    for n in range(3):

        @cache.cached
        def f(x: int, n: int = n) -> int:
            return x + n

        functions.append(f)
    assert [fn(10) for fn in functions] == [10, 11, 12]


def test_what_is_logged_of_a_report_is_not_said_twice(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="evercache"):
        cache.cached(lambda: 1), cache.cached(lambda: 2)
    assert not caplog.records


# -- names


def test_methods_of_classes_that_a_function_makes_with_other_data(cache: Cache) -> None:
    def make(name: str, places: tuple[str, ...] = ()) -> Any:
        class Table:
            table = name
            rows = places

            def __cache_key__(self) -> int:
                return 1

            @cache.cached
            def count(self) -> str:
                return f"{self.table} {self.rows}"

        return Table

    class Bare:
        def __cache_key__(self) -> int:
            return 1

        @cache.cached
        def count(self) -> str:
            return "bare"

    tasks, runs = make("tasks"), make("runs")
    assert [table().count() for table in (tasks, runs, make("tasks", ("a",)))] == [
        "tasks ()",
        "runs ()",
        "tasks ('a',)",
    ]
    assert make("tasks")().count.key() == tasks().count.key()
    tasks.table = "changed"  # afterwards: it is what it was
    assert tasks().count.key() == make("tasks")().count.key()
    assert Bare().count.key().endswith(".Bare{1})")


def test_enums_that_a_function_makes() -> None:
    from evercache.protocol.canonical import canonical

    def make(value: int) -> Any:
        class Level(enum.Enum):
            LOW = value

        return Level

    assert canonical(make(1).LOW) == canonical(make(1).LOW) != canonical(make(2).LOW)


def test_a_name_takes_its_version_and_is_not_confused_with_that_of_another(cache: Cache) -> None:
    one = cache.cached(name="app.f", version=1)(lambda: 1)
    two = cache.cached(name="app.f", version=2)(lambda: 2)
    assert (one(), two()) == (1, 2)
    assert two.key() == "evercache:f:app.f@2()"


def test_names_of_two_namespaces_never_meet() -> None:
    for namespace in ("a:f", "a:", "A", "a b", "", "\ud800"):
        with pytest.raises(ValueError, match="namespace"):
            Cache("memory://", namespace=namespace)


class Text(str):
    __slots__ = ()


class Number(int):
    pass


def test_arguments_that_are_equal_in_python_are_different_calls(cache: Cache) -> None:
    f = cache.cached(lambda value: (type(value).__name__, value))
    values = [1, True, 1.0, "1", b"1", Number(1), Text("1"), None, "None", (1,), [1], Colour.RED, Colour.BLUE]
    for value in values:
        assert f(value) == (type(value).__name__, value)
    assert len({f.key(value) for value in values}) == len(values)


def test_a_script_and_its_import_have_one_name(tmp_path: Path) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import shop.stats")
    code = "from evercache import Cache\ncache = Cache()\n@cache.cached\ndef f(n):\n    return n\nprint(f.key(1))\n"
    (package / "stats.py").write_text(code)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.strip()

    keys = {run("-m", "shop.stats"), run("-m", "shop"), run("-c", "import shop.stats")}
    assert keys == {"evercache:f:shop.stats.f(1)"}
