from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import pytest
from flask import Flask, current_app

from evercache.integrations.flask import Cache
from evercache.testing import MemoryStores


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    app.config["CACHE_TYPE"] = "SimpleCache"
    return app


@pytest.fixture
def cache(app: Flask, evercache_memory: MemoryStores) -> Cache:
    return Cache(app)


def test_arguments_that_flask_caching_confuses(cache: Cache) -> None:
    @cache.memoize()
    def f(a: object, b: object = "") -> str:
        return repr((a, b))

    calls = [(1,), ("1",), (True,), (1.0,), ("x", "y"), ("x,y",), ("a", None), ("a", "None")]
    for _ in range(2):
        assert [f(*call) for call in calls] == [repr((*call, "")[:2]) for call in calls]


def test_the_usual_call_goes_by_code_made_for_the_function(cache: Cache) -> None:
    @cache.memoize(tags=("project:{project_id}",))
    def stats(project_id: int) -> int:
        return time.perf_counter_ns()

    first = stats(7)
    assert stats(7) == first
    memo = stats._evercache_memo  # type: ignore[attr-defined]
    assert "__hits.get(__plan" in memo.fast.explain_code()
    assert cache.invalidate_tag("project:7")
    assert stats(7) != first


def test_one_computation_for_all_who_wait(cache: Cache) -> None:
    computed = []

    @cache.memoize()
    def slow(a: int) -> int:
        computed.append(a)
        time.sleep(0.1)
        return a

    threads = [threading.Thread(target=slow, args=(1,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert computed == [1]


def test_a_value_that_was_computed_during_a_delete_does_not_come_back(cache: Cache) -> None:
    value, computing, go_on = ["old"], threading.Event(), threading.Event()

    @cache.memoize()
    def f() -> str:
        seen = value[0]
        computing.set()
        go_on.wait(5)
        return seen

    thread = threading.Thread(target=f)
    thread.start()
    computing.wait(5)
    value[0] = "new"
    cache.delete_memoized(f)
    go_on.set()
    thread.join()
    assert f() == "new"


def test_objects_take_part_by_their_repr_and_it_is_said_once(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    class Thing:
        pass

    @cache.memoize()
    def f(thing: object) -> float:
        return time.perf_counter()

    one, two = Thing(), Thing()
    with caplog.at_level(logging.WARNING, "evercache.flask"):
        assert f(one) == f(one) != f(two)
    assert len(caplog.records) == 1
    assert "__cache_key__" in caplog.records[0].message


def test_the_old_value_while_a_new_one_is_made(app: Flask, cache: Cache, evercache_memory: MemoryStores) -> None:
    seen: list[tuple[str, bool]] = []

    @cache.memoize(timeout=10, stale=60)
    def f() -> int:
        seen.append((current_app.name, threading.current_thread() is threading.main_thread()))
        return len(seen)

    with app.app_context():
        assert f() == 1
        evercache_memory.advance(20)
        assert f() == 1
    deadline = time.monotonic() + 5
    while f() != 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert seen == [(app.name, True), (app.name, False)]


def test_coroutine_functions(cache: Cache) -> None:
    calls = []

    @cache.memoize()
    async def double(a: int) -> int:
        calls.append(a)
        return 2 * a

    async def main() -> list[int]:
        return [await double(1), *await asyncio.gather(double(1), double(2))]

    assert asyncio.run(main()) == [2, 2, 4]
    assert double(1) == 2  # without a loop, as in Flask-Caching
    assert calls == [1, 2]
    cache.delete_memoized(double, 1)
    assert (double(1), calls) == (2, [1, 2, 1])


def test_methods(cache: Cache) -> None:
    class Adder:
        def __init__(self, start: int) -> None:
            self.start = start

        def __caching_id__(self) -> int:
            return self.start

        @cache.memoize()
        def add(self, b: int) -> float:
            return self.start + b + time.perf_counter()

    one, two = Adder(1), Adder(2)
    kept = one.add(1), two.add(1)
    assert (Adder(1).add(1), two.add(1)) == kept
    cache.delete_memoized(one.add)
    assert one.add(1) != kept[0]
    assert two.add(1) == kept[1]


def test_a_function_that_is_no_memoized_one(cache: Cache) -> None:
    with pytest.raises(TypeError, match="no memoized function"):
        cache.delete_memoized("f")
    with pytest.raises(TypeError, match="give a sequence of tags"):
        cache.memoize(tags="project")


def test_a_subclass_that_counts_sees_every_call(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    class Counting(Cache):
        def get(self, *args: object, **kwargs: object) -> object:
            asked.append(args)
            return super().get(*args, **kwargs)

    cache = Counting(app)

    @cache.memoize()
    def f(a: int) -> int:
        return a

    with caplog.at_level(logging.WARNING, "evercache.flask"):
        assert [f(1), f(1), f(2)] == [1, 1, 2]
    assert len(asked) == 3
    assert ["overridden" in record.message for record in caplog.records] == [True]


def test_with_all_servers_down_every_call_is_answered() -> None:
    app = Flask(__name__)
    app.config.update(EVERCACHE_URL="redis://127.0.0.1:1", SECRET_KEY="k", CACHE_OPTIONS={"budget": 0.05})
    cache = Cache(app)

    @cache.memoize()
    def f(a: int) -> int:
        return a

    @app.route("/")
    @cache.cached()
    def page() -> str:
        return "page"

    assert f(1) == 1
    assert app.test_client().get("/").data == b"page"
    cache.delete_memoized(f)
    assert cache.delete_many("one", "other") == cache.unlink("one") == []
    result = app.test_cli_runner().invoke(args=["cache", "status"])
    assert result.exit_code == 1
    assert "  ! " in result.output
    assert app.test_cli_runner().invoke(args=["cache", "clear"]).exit_code == 1
    cache.cache.evercache.close()


def test_closures_of_one_name_share_as_in_flask_caching_and_are_reported_once(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    def make(factor: int, make_name: Any = None) -> Any:
        @cache.memoize(make_name=make_name)
        def times(n: int) -> int:
            return n * factor

        return times

    kept = [make(2), make(2)]
    assert [f(5) for f in kept] == [10, 10]
    assert not caplog.records
    kept += [make(3), make(4)]
    assert [f(5) for f in kept[2:]] == [10, 10]  # under one key, as Flask-Caching has it
    (record,) = caplog.records
    assert "factor" in record.getMessage()
    assert "make_name=" in record.getMessage()
    assert make(6, lambda name: f"{name}6")(5) == 30


def test_a_mutated_default_is_keyed_as_it_was(cache: Cache) -> None:
    ran = []

    @cache.memoize()
    def f(n: int, calls: list[int] = []) -> int:  # noqa: B006
        ran.append(n)
        calls.append(n)
        return len(calls)

    class Shop:
        def __repr__(self) -> str:
            return "shop"

        @cache.memoize()
        def rows(self, n: int, calls: list[int] = []) -> int:  # noqa: B006
            ran.append(n)
            calls.append(n)
            return len(calls)

    key = f.make_cache_key(f.uncached, 1)  # type: ignore[attr-defined]
    f.uncached(0)  # type: ignore[attr-defined]
    shop = Shop()
    assert [f(1), f(1), shop.rows(1), shop.rows(1)] == [2, 2, 1, 1]
    assert ran == [0, 1, 1]
    assert f.make_cache_key(f.uncached, 1) == key  # type: ignore[attr-defined]
