"""The decorators and deletes of the drop-in for PyBossa, on a store inside the process."""

from __future__ import annotations

import datetime as dt
import inspect
import logging
import pickle
import sys
import threading
import types
import unittest.mock
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

import evercache.integrations.pybossa as module
from evercache.errors import ConfigurationError
from evercache.integrations.pybossa import Sentinel, provide
from evercache.integrations.pybossa.decorators import DISABLED, disabled

MEMORY = {"EVERCACHE_URL": "memory://", "SECRET_KEY": "a secret of the site's"}


class Site:
    """A module of a site: its names, and a function that counts."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"sentinel": Sentinel()}
        provide(self.names)
        self.runs: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return self.names[name]

    def listed(self) -> list[str]:
        home = self.names["sentinel"].home
        client = home.cache._client_sync()
        return sorted(key for keys in client.sweeping._walk("*", 1e18) for key in keys)

    def function(self, result: Callable[..., Any] = lambda *args: args) -> Any:
        def f(x: Any = 0, y: Any = 0) -> Any:
            """What it does."""
            self.runs.append((x, y))
            return result(x, y)

        return f


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.delenv(DISABLED, raising=False)
    site = Site()
    assert site.sentinel.configure(MEMORY)
    yield site
    site.sentinel.close()


def test_names_and_constants() -> None:
    assert (module.ONE_DAY, module.ONE_HOUR, module.HALF_HOUR, module.FIVE_MINUTES) == (86400, 3600, 1800, 300)
    assert all(hasattr(module, name) for name in module.__all__)
    assert str(inspect.signature(module.memoize)).startswith("(timeout")
    assert list(inspect.signature(module.memoize).parameters) == ["timeout", "debug"]
    assert list(inspect.signature(module.cache).parameters) == ["key_prefix", "timeout"]
    assert module.sentinel.home is None


def test_the_function_stays_an_ordinary_one(site: Site) -> None:
    plain = site.function()
    for f in (site.memoize(timeout=60)(plain), site.memoize(60, True)(plain), site.cache("key")(plain)):
        assert type(f) is types.FunctionType
        assert f.__name__ == "f"
        assert f.__doc__ == "What it does."
        assert f.__module__ == plain.__module__
        assert f.__wrapped__ is plain
        assert inspect.signature(f) == inspect.signature(plain)


def test_memoize(site: Site) -> None:
    f = site.memoize(timeout=60)(site.function())
    for _ in range(3):
        assert [f(1), f("1"), f(1, 2), f(1.0), f(True)] == [(1, 0), ("1", 0), (1, 2), (1.0, 0), (True, 0)]
        assert type(f(True)[0]) is bool
        assert f(x=1) == f(1, y=0) == (1, 0)
    assert len(site.runs) == 5
    assert len(site.listed()) == 5


def test_cache(site: Site) -> None:
    f = site.cache("front_page", timeout=None)(site.function(lambda x, y: x))
    assert [f(1), f(2), f()] == [1, 1, 1]
    assert site.runs == [(1, 0)]
    assert site.listed() == ["pybossa_cache::front_page"]
    assert site.delete_cached("front_page") is True
    assert site.delete_cached("front_page") is False
    assert site.listed() == []
    assert f(3) == 3


def test_any_arguments_under_one_key(site: Site) -> None:
    @site.cache("all")  # type: ignore[untyped-decorator]
    def f(*args: Any, **kwargs: Any) -> Any:
        return len(args), len(kwargs)

    assert f(object(), 2, a=3) == (2, 1)
    assert f() == (2, 1)


class Row(NamedTuple):
    id: int


class Own:
    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Own({self.value})"


@pytest.mark.parametrize(
    "value",
    [None, [], {}, 0, "", False, {"a": [1, (2, None)]}, [{"n": 1}], dt.datetime(2013, 11, 1, 12), Decimal("1.5"),
     Row(1), Own(7), {"own": Own(8)}, b"x", {1, 2}],
    ids=repr,
)  # fmt: skip
def test_values_come_back_as_they_were(site: Site, value: Any) -> None:
    f = site.memoize()(site.function(lambda *_: value))
    assert f() == f() == value
    assert type(f()) is type(value)
    assert len(site.runs) == 1


def test_without_a_secret_own_classes_are_not_cached(site: Site) -> None:
    assert site.sentinel.configure({"EVERCACHE_URL": "memory://"})
    f = site.memoize()(site.function(lambda *_: Own(7)))
    assert f() == f() == Own(7)
    assert len(site.runs) == 2


def test_delete_memoized(site: Site) -> None:
    f = site.memoize()(site.function())
    f(1), f(2), f(2, 3)
    assert site.delete_memoized(f, 1) is True
    assert site.delete_memoized(f, 1) is False
    assert site.delete_memoized(f, 2, y=3) is True
    assert len(site.listed()) == 1
    assert site.delete_memoized(f) is True
    assert site.listed() == []
    assert site.delete_memoized(f) is False
    runs = len(site.runs)
    f(2)
    assert len(site.runs) == runs + 1


def test_one_name_in_two_modules(site: Site) -> None:
    plain = site.function()
    other = site.function(lambda *_: "other")
    other.__module__ = "elsewhere"
    f, g = site.memoize()(plain), site.memoize()(other)
    assert (f(1), g(1)) == ((1, 0), "other")
    assert len(site.listed()) == 2
    assert site.delete_memoized(f) is True
    assert len(site.listed()) == 1
    runs = len(site.runs)
    assert g(1) == "other"
    assert len(site.runs) == runs


def test_delete_memoized_of_2013(site: Site) -> None:
    f = site.memoize()(site.function())
    f(1), f(2)
    assert site.delete_memoized(f, arg=1) is True
    assert len(site.listed()) == 1
    assert site.delete_memoized(f, arg=None) is True
    assert site.listed() == []

    @site.memoize()  # type: ignore[untyped-decorator]
    def h(arg: int) -> int:
        return arg

    h(1), h(2)
    assert site.delete_memoized(h, arg=1) is True
    assert len(site.listed()) == 1


def test_delete_memoized_takes_what_stands_for_the_function(site: Site) -> None:
    import functools

    plain = site.function()
    f = site.memoize()(plain)

    @functools.wraps(f)
    def outer(*args: Any) -> Any:
        return f(*args)

    for name in (plain, outer, f):
        f(1)
        assert site.delete_memoized(name, 1) is True
    front = site.cache("front")(site.function())
    front()
    assert site.delete_memoized(front) is True


def test_no_mistake_in_a_delete_reaches_a_page(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    f = site.memoize()(site.function())
    assert site.delete_memoized(f, 1, 2, 3, 4) is False
    assert site.delete_memoized(f, object()) is False
    assert "no call has such arguments" in caplog.text


def test_arguments_that_make_no_key(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    f = site.memoize()(site.function(lambda x, y: "value"))
    thing = object()
    assert f(thing) == f(thing) == "value"
    assert site.runs == [(thing, 0)] * 2
    assert "make no key" in caplog.text


def test_errors_of_the_function_are_its_own(site: Site) -> None:
    def fail(*_: Any) -> Any:
        raise TypeError("mine")

    f = site.memoize()(site.function(fail))
    for runs in (1, 2):
        with pytest.raises(TypeError, match="mine"):
            f(1)
        assert len(site.runs) == runs
    with pytest.raises(TypeError, match=r"argument|positional"):
        f(1, 2, 3)


def test_what_cannot_be_cached_runs(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    @site.memoize()  # type: ignore[untyped-decorator]
    def numbers(n: int) -> Iterator[int]:
        yield from range(n)

    assert list(numbers(3)) == list(numbers(3)) == [0, 1, 2]
    assert site.delete_memoized(numbers) is False
    assert "is not cached" in caplog.text


def test_methods_and_pickling(site: Site) -> None:
    class Model:
        @site.memoize()  # type: ignore[untyped-decorator]
        def total(self) -> int:
            site.runs.append(self)
            return 7

    model = Model()
    assert [model.total(), model.total()] == [7, 7]
    assert pickle.loads(pickle.dumps(decorated)) is decorated


@module.memoize()
def decorated() -> int:
    return 1


def test_the_environment_is_read_at_each_call(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    f, front = site.memoize()(site.function()), site.cache("front")(site.function())
    f(1), front(1)
    for value in ("1", "", "0"):
        monkeypatch.setenv(DISABLED, value)
        runs = len(site.runs)
        f(1), front(1)
        assert len(site.runs) == runs + 2
        assert site.delete_memoized(f) is site.delete_memoized(f, 1) is site.delete_cached("x") is True
    monkeypatch.delenv(DISABLED)
    runs = len(site.runs)
    f(1), front(1)
    assert len(site.runs) == runs
    with monkeypatch.context() as patch:
        patch.setattr("os.environ", {DISABLED: "1"})
        assert disabled()
    assert not disabled()


def test_another_sentinel_is_taken_at_each_call(site: Site) -> None:
    f = site.memoize()(site.function())
    f(1)
    first, second = site.sentinel, Sentinel()
    second.configure(MEMORY | {"REDIS_KEYPREFIX": "other"})
    site.names["sentinel"] = second
    f(1)
    assert len(site.runs) == 2
    assert all(key.startswith("other:") for key in site.listed())
    assert site.delete_memoized(f) is True
    site.names["sentinel"] = first
    f(1)
    assert len(site.runs) == 2
    second.close()


def test_the_module_looks_its_own_sentinel_up(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Sentinel()
    mine.configure(MEMORY)
    monkeypatch.setattr(module, "sentinel", mine)
    runs: list[int] = []
    f = module.memoize()(lambda: runs.append(1))
    f(), f()
    assert runs == [1]
    monkeypatch.setattr(module, "sentinel", object())  # whatever else a test puts there
    f()
    assert runs == [1, 1]
    assert module.delete_memoized(f) is True
    mine.close()


def test_not_configured(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DISABLED, raising=False)
    monkeypatch.setitem(sys.modules, "settings_local", None)
    site = Site()
    f = site.memoize()(site.function())
    assert (f(1), f(1)) == ((1, 0), (1, 0))
    assert len(site.runs) == 2
    assert len([r for r in caplog.records if "init_app" in r.message or "settings_local" in r.message]) == 1
    assert site.sentinel.connection is None


def test_settings_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DISABLED, raising=False)
    local: Any = types.ModuleType("settings_local")
    local.__spec__ = types.SimpleNamespace(name="settings_local")
    local.EVERCACHE_URL, local.REDIS_KEYPREFIX = "memory://", "local"
    monkeypatch.setitem(sys.modules, "settings_local", local)
    site = Site()
    f = site.memoize()(site.function())
    f(1), f(1)
    assert len(site.runs) == 1
    assert all(key.startswith("local:f_args::") for key in site.listed())
    site.sentinel.close()


def test_wrong_settings_are_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    with caplog.at_level(logging.INFO):
        site.sentinel.init_app(types.SimpleNamespace(config={"REDIS_DB": "zero", "REDIS_PASSWORD": "hush"}))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "REDIS_DB" in record.message
    assert "hush" not in caplog.text
    assert site.memoize()(site.function())(1) == (1, 0)


def test_the_clients_stay_the_same(site: Site) -> None:
    sentinel = Sentinel()
    master, slave = sentinel.master, sentinel.slave
    sentinel.init_app(types.SimpleNamespace(config={"REDIS_HOST": "127.0.0.1", "REDIS_SOCKET_TIMEOUT": 0.125}))
    assert sentinel.master is master
    assert sentinel.slave is slave
    assert master.connection_pool.connection_kwargs["socket_timeout"] == 0.125
    assert sentinel.home is not None
    assert sentinel.home.settings.budget == 0.125
    sentinel.close()
    repr(sentinel)


def test_a_warning_that_is_an_error_reaches_no_page(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Two functions of one name: said once; here warnings are errors."""

    def first(x: int) -> int:
        return x

    name = first.__qualname__

    def second(x: int) -> int:
        return -x

    second.__qualname__, second.__name__ = name, "first"
    f, g = site.memoize()(first), site.memoize()(second)
    assert (f(1), g(1)) == (1, -1)
    assert "share their entries" in caplog.text


def test_a_function_that_was_not_decorated(site: Site) -> None:
    plain = site.function()
    assert [site.delete_memoized(plain), site.delete_memoized(plain, 1)] == [False, False]
    assert len(site.sentinel.home._made) == 1


def test_a_mock_in_the_place_of_the_sentinel(site: Site) -> None:
    site.names["sentinel"] = unittest.mock.MagicMock()
    f = site.memoize()(site.function())
    assert f(1) == (1, 0)
    assert site.delete_memoized(f) is site.delete_cached("x") is True


def test_one_execution_for_20_threads(site: Site) -> None:
    started = threading.Barrier(20)

    def slow(*_: Any) -> int:
        threading.Event().wait(0.1)
        return 7

    f = site.memoize()(site.function(slow))

    def call() -> Any:
        started.wait(5)
        return f(1)

    with ThreadPoolExecutor(20) as pool:
        assert [r.result(10) for r in [pool.submit(call) for _ in range(20)]] == [7] * 20
    assert len(site.runs) == 1


def test_a_timeout_that_is_none_of_a_number(site: Site) -> None:
    f = site.memoize(timeout="soon")(site.function())
    assert f(1) == (1, 0)
    with pytest.raises(ConfigurationError):
        site.sentinel.home.cache.cached(ttl="soon")(lambda: 1)


def test_closures_do_not_share_and_keep_their_names(site: Site) -> None:
    def make(factor: int) -> Any:
        @site.memoize()
        def times(n: int) -> int:
            site.runs.append(n)
            return n * factor

        return times

    two, three = make(2), make(3)
    assert (two(5), three(5), make(2)(5)) == (10, 15, 10)
    assert site.runs == [5, 5]
    assert site.delete_memoized(two)
    assert (two(5), three(5)) == (10, 15)
    assert len(site.runs) == 3


def test_a_mutated_default_hits_and_is_found_by_deletes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    @site.memoize()
    def f(n: int, calls: list[int] = held) -> int:
        site.runs.append(n)
        calls.append(n)
        return len(calls)

    monkeypatch.setenv(DISABLED, "1")
    assert f(0) == 1  # it runs, and changes its default before it is cached for the first time
    monkeypatch.delenv(DISABLED)
    assert [f(1), f(1), f(1, []), f(1)] == [2, 2, 2, 2]
    assert site.runs == [0, 1]
    assert held == [0, 1]
    assert site.delete_memoized(f, 1)
    assert f(1) == 3


def test_a_function_without_a_key_is_said_once_for_each(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    one, two = site.memoize()(site.function()), site.memoize()(site.function())
    for _ in range(5):
        for f in (one, two):
            assert len(f(threading.Lock())) == 2
            site.delete_memoized(f, threading.Lock())
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4, lines
    assert len(set(lines)) == 2


def test_functions_that_are_made_again_and_again_leave_nothing_behind(site: Site) -> None:
    import gc

    def make() -> None:
        @site.memoize()
        def f(n: int) -> int:
            return n

        assert f(1) == 1

    home = site.sentinel.home
    for _ in range(20):
        make()
    gc.collect()
    assert len(home.calls) == len(home._made) == len(home._recipes) == 0


def test_a_key_without_utf_8_reaches_no_page(site: Site) -> None:
    f = site.cache("\ud800")(site.function())
    assert f(1) == f(1) == (1, 0)
    assert site.delete_cached("\ud800") in (True, False)
    assert site.delete_memoized(f) in (True, False)
