"""What is unusual in a call reaches the function and comes back: no error of the cache's own is in between."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.memory_time import Calls, cache, stores

from evercache import Cache
from evercache.errors import ConfigurationError
from evercache.protocol.canonical import shown
from evercache.protocol.envelope import MAX_SPAN_MS
from evercache.protocol.scope import tag_hash
from evercache.testing import MemoryStores

__all__ = ["cache", "stores"]

HUGE = 10**5000


class Unspeakable(Exception):
    """Its repr and its text raise."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


# -- tags


@pytest.mark.parametrize("value", ["\ud800", HUGE, -HUGE, "", "a" * 100_000], ids=range(5))
@pytest.mark.parametrize("ignore", [(), ("n",)], ids=["in the key", "not in the key"])
@pytest.mark.parametrize("near", [0, 5])
def test_any_text_is_a_tag(cache: Cache, value: Any, ignore: tuple[str, ...], near: int) -> None:
    ran = Calls()

    @cache.cached(tags=("{n}", "t:{n}"), ignore=ignore, near=near)
    def f(n: Any) -> int:
        ran(1)
        return len(ran)

    for _ in range(2):
        assert f(value) == 1
    text = value if isinstance(value, str) else f"-{-value:#x}" if value < 0 else f"{value:#x}"
    assert cache.invalidate_tag(text)
    assert f(value) == 2
    assert cache.invalidate_tag(f"t:{text}")
    assert f(value) == 3
    assert f.explain(value).verdict == "hit"


@pytest.mark.parametrize("tag", ["\ud800", "", "a\udfffb"])
def test_any_text_is_a_tag_of_a_result_a_key_and_a_batch(cache: Cache, tag: str) -> None:
    f = cache.cached(tags_from=lambda value: [tag], tags=(lambda: tag,))(lambda: 1)
    many = cache.cached_many(tags=("{id}",))(lambda ids: dict.fromkeys(ids, 1))
    assert f() == 1
    assert many([tag, HUGE]) == {tag: 1, HUGE: 1}
    assert cache.set("k", 1, tags=[tag])
    with cache.changing(tag=tag):
        pass
    assert f.peek() is None
    assert cache.get("k") is None
    assert many.peek([tag, HUGE]) == {HUGE: 1}


def test_tags_of_plain_texts_hash_as_they_always_did() -> None:
    assert [tag_hash(text).hex() for text in ("red", "ü")] == ["0de917af2f0a48a3", "55f19df5c1392f37"]
    assert len({tag_hash(text) for text in ("\ud800", "\ud801", "", "?")}) == 4


def test_a_literal_tag_that_is_empty_is_refused_at_decoration(cache: Cache) -> None:
    with pytest.raises(TypeError, match="not empty"):
        cache.cached(tags=("",))(lambda: 1)


# -- exceptions


def test_an_exception_without_a_repr_leaves_the_stale_value(cache: Cache, stores: MemoryStores) -> None:
    fail = False

    @cache.cached(ttl=10, stale_if_error=100)
    def f() -> int:
        if fail:
            raise Unspeakable
        return 1

    @cache.cached_many(ttl=10, stale_if_error=100)
    def many(ids: list[int]) -> dict[int, int]:
        if fail:
            raise Unspeakable
        return dict.fromkeys(ids, 1)

    assert (f(), many([1, 2])) == (1, {1: 1, 2: 1})
    stores.advance(20)
    fail = True
    assert f() == 1
    assert many([1, 2]) == {1: 1, 2: 1}
    stores.advance(1000)
    with pytest.raises(Unspeakable):
        f()


def test_an_exception_without_a_repr_in_a_refresh_and_among_cached_ones(cache: Cache, stores: MemoryStores) -> None:
    fail = threading.Event()

    @cache.cached(ttl=10, stale=100, cache_errors={Unspeakable: 5})
    def f() -> int:
        if fail.is_set():
            raise Unspeakable
        return 1

    assert f() == 1
    stores.advance(20)
    fail.set()
    assert f() == 1  # refreshed in the background
    stores.advance(1000)
    with pytest.raises(Unspeakable):
        f()


async def test_tasks_too(cache: Cache, stores: MemoryStores) -> None:
    fail = False

    @cache.cached(ttl=10, stale_if_error=100)
    async def f() -> int:
        if fail:
            raise Unspeakable
        return 1

    assert await f() == 1
    stores.advance(20)
    fail = True
    assert await f() == 1


def test_a_value_that_cannot_be_pickled_for_a_reason_without_a_text_is_returned() -> None:
    from evercache import SignedPickleCodec

    class Value:
        def __reduce__(self) -> Any:
            raise Unspeakable

    with Cache("memory://", codec=SignedPickleCodec(["k" * 32])) as cache:
        assert isinstance(cache.cached(lambda: Value())(), Value)


def test_shown() -> None:
    assert shown(ValueError("x")) == "ValueError('x')"
    assert shown("x" * 10_000).endswith("...")
    assert len(shown("x" * 10_000)) < 1100
    assert "Unspeakable" in shown(Unspeakable())
    assert shown(HUGE)


@pytest.mark.parametrize(
    "call",
    [
        lambda cache, odd: cache.get(odd),
        lambda cache, odd: cache.invalidate_tag(odd),
        lambda cache, odd: cache.incr("k", odd),
        lambda cache, odd: cache.cached(ttl=odd)(lambda: 1),
        lambda cache, odd: cache.cached_many(lambda ids: {})(odd),
        lambda cache, odd: cache.cached(ttl=lambda value: odd)(lambda: 1)(),
        lambda cache, odd: cache.cached(tags=(odd,))(lambda: 1)(),
        lambda cache, odd: cache.cached(version=odd)(lambda: 1),
        lambda cache, odd: cache.cached(on_error=odd)(lambda: 1),
        lambda cache, odd: cache.cached(name=odd)(lambda: 1),
        lambda cache, odd: cache.changing("k", at_most=odd),
        lambda cache, odd: Cache("memory://", hedge=odd),
    ],
    ids=range(12),
)
def test_a_mistake_with_what_has_no_repr_is_told_as_ours(cache: Cache, call: Callable[..., Any]) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ZeroDivisionError

        __str__ = __repr__

    with pytest.raises((TypeError, ConfigurationError), match=r"Odd|not callable"):
        call(cache, Odd())


@pytest.mark.parametrize("name", ["ttl", "stale", "near", "budget", "version"])
def test_a_huge_number_is_refused_as_ours(cache: Cache, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        cache.cached(**{name: HUGE})(lambda: 1)  # type: ignore[call-overload]


# -- times


DAY = 86400


@pytest.mark.parametrize("name", ["stale", "stale_if_error"])
def test_times_that_cannot_be_stored_are_refused_at_decoration(stores: MemoryStores, name: str) -> None:
    cache = Cache("memory://", max_ttl=200 * DAY, jitter=0, beta=0)
    with pytest.raises(ConfigurationError, match=rf"{name}.*49"):
        cache.cached(ttl=10, **{name: 50 * DAY})(lambda: 1)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match=name):
        cache.cached_many(ttl=10, **{name: timedelta(days=50)})(lambda ids: {})  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match=name):
        cache.get_or_compute("k", lambda: 1, **{name: 50 * DAY})  # type: ignore[arg-type]


def test_the_longest_times_are_stored_exactly(stores: MemoryStores) -> None:
    cache = Cache("memory://", max_ttl=1000 * DAY, jitter=0, beta=0)
    longest = MAX_SPAN_MS / 1000
    ran = Calls()

    @cache.cached(ttl=500 * DAY, stale=longest)
    def f() -> int:
        ran(1)
        return 1

    f()
    told = f.explain()
    assert abs((told.stale_in or 0) - 500 * DAY) < 1
    assert abs((told.expires_in or 0) - 500 * DAY - longest) < 1
    stores.advance(500 * DAY + longest - 10)
    assert f.peek() == 1
    # What max_ttl cuts off need not be stored.
    capped = Cache("memory://", jitter=0, beta=0).cached(ttl=10, stale_if_error=60 * DAY)(lambda: 1)
    assert capped() == 1
    assert abs((capped.explain().expires_in or 0) - 30 * DAY) < 1


# -- recursion


@pytest.fixture
def small_stack() -> Any:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(before)


def in_a_thread(work: Callable[[], Any]) -> Any:
    """On a stack of its own, so that no frame of the test runner counts."""
    got: list[Any] = []

    def run() -> None:
        try:
            got.append(work())
        except BaseException as error:
            got.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    if isinstance(got[0], BaseException):
        raise got[0]
    return got[0]


@pytest.mark.parametrize("options", [{}, {"near": 5}, {"tags": ("t:{n}",)}], ids=str)
def test_a_recursive_function_reaches_200_levels(small_stack: None, options: dict[str, Any]) -> None:
    with Cache("memory://") as cache:

        @cache.cached(**options)
        def f(n: int) -> int:
            return f(n - 1) + 1 if n else 0

        assert in_a_thread(lambda: f(200)) == 200
        assert f.stats().counters.computed == 201


def test_a_recursive_coroutine_function_reaches_as_deep_as_it_can(small_stack: None) -> None:
    with Cache("memory://") as cache:

        @cache.cached
        async def f(n: int) -> int:
            return await f(n - 1) + 1 if n else 0

        assert in_a_thread(lambda: asyncio.run(f(120))) == 120


def test_recursion_that_is_too_deep_costs_no_more_than_it_has_and_breaks_nothing(small_stack: None) -> None:
    with Cache("memory://") as cache:
        ran = Calls()

        @cache.cached
        def f(n: int) -> int:
            ran(n)
            return f(n - 1) + 1 if n else 0

        for _ in range(2):
            with pytest.raises(RecursionError):
                in_a_thread(lambda: f(5000))
        assert len(ran) < 4000
        state = cache._clients.engine.state  # type: ignore[union-attr]
        assert len(state.flights) == 0
        assert in_a_thread(lambda: f(50)) == 50
        assert f(5) == 5
        assert cache.get_or_compute("k", lambda: 1) == 1


@pytest.mark.parametrize("kind", ["function", "method", "refresh", "get_or_compute", "disabled"])
def test_what_a_function_raises_passes_through_as_it_is(cache: Cache, kind: str) -> None:
    raised: list[BaseException] = []

    def fail(error: BaseException) -> Any:
        raised.append(error)
        raise error

    class Shop:
        def __cache_key__(self) -> int:
            return 1

        @cache.cached
        def method(self, number: int) -> Any:
            return fail(errors[number])

    @cache.cached
    def function(number: int) -> Any:
        return fail(errors[number])

    def inner() -> Any:
        yield next(iter(()))

    def call(number: int) -> Any:
        if kind == "method":
            return Shop().method(number)
        if kind == "refresh":
            return function.refresh(number)
        if kind == "get_or_compute":
            return cache.get_or_compute(f"k{number}", lambda: fail(errors[number]))
        if kind == "disabled":
            with cache.disabled():
                return function(number)
        return function(number)

    try:
        list(inner())
    except RuntimeError as error:  # "generator raised StopIteration": it stays what it is
        own = error
    errors = [
        StopIteration(3),
        own,
        GeneratorExit(),
        KeyboardInterrupt(),
        SystemExit(1),
        ValueError("x"),
        Unspeakable(),
    ]
    for number, error in enumerate(errors):
        for _ in range(2):  # and the next caller waits for nobody
            with pytest.raises(type(error)) as caught:
                call(number)
            assert caught.value is error
    assert len(raised) == 2 * len(errors)


def test_a_stop_iteration_reaches_those_who_wait_for_it(cache: Cache) -> None:
    begun, go = threading.Event(), threading.Event()
    kinds: list[type] = []

    @cache.cached
    def f() -> int:
        begun.set()
        assert go.wait(10)
        raise StopIteration("for all")

    def call() -> None:
        try:
            f()
        except BaseException as error:
            kinds.append(type(error))

    threads = [threading.Thread(target=call) for _ in range(3)]
    threads[0].start()
    assert begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert kinds == [StopIteration] * 3


def test_methods_and_named_keys_recurse_as_deep(small_stack: None) -> None:
    with Cache("memory://") as cache:

        class Tree:
            def __cache_key__(self) -> int:
                return 1

            @cache.cached
            def depth(self, n: int) -> int:
                return self.depth(n - 1) + 1 if n else 0

        def named(n: int) -> int:
            return cache.get_or_compute(f"k{n}", lambda: named(n - 1) + 1 if n else 0)

        assert in_a_thread(lambda: Tree().depth(200)) == 200
        assert in_a_thread(lambda: named(150)) == 150
