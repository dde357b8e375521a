"""Settings from the environment, switching off, closing, and life without any server."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from tests.unit.memory_time import Calls, cache, stores

from evercache import Cache, UnavailableError
from evercache.errors import ConfigurationError, URLError
from evercache.testing import MemoryStores

__all__ = ["cache", "stores"]


def test_context_managers_close() -> None:
    ran, before = Calls(), set(threading.enumerate())
    with Cache("memory://") as cache:
        f = cache.cached(lambda: ran(1))
        f(), f()
        assert len(ran) == 1
        cache.set("k", 1)
    f(), f()
    assert len(ran) == 3
    assert cache.get("k", 0) == 0
    assert not cache.health().ok
    cache.close()  # a second time does no harm
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("evercache")]


async def test_async_context_managers_close() -> None:
    async with Cache("memory://") as cache:
        await cache.aset("k", 1)
        assert await cache.aget("k") == 1
    assert await cache.aget("k", 0) == 0
    await cache.aclose()


def test_nothing_is_begun_before_the_first_use() -> None:
    before = threading.active_count()
    cache = Cache("redis://127.0.0.1:1")
    cache.cached(lambda: 1)
    assert threading.active_count() == before
    assert cache._clients is None


def test_the_url_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERCACHE_URL", "redis://:secret@cache.example:6380/3")
    cache = Cache(namespace="shop")
    assert cache.location.kind == "standalone"
    assert "cache.example:6380" in repr(cache)
    assert "secret" not in repr(cache)
    assert "namespace='shop'" in repr(cache)
    assert Cache("memory://").location.kind == "memory"
    monkeypatch.delenv("EVERCACHE_URL")
    assert Cache().location.kind == "memory"


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://x"},
        {"namespace": "NO"},
        {"budget": -1},
        {"on_error": "x"},
        {"consistency": "x"},
        {"jitter": 2},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Cache(**({"url": "memory://"} | options))
    assert isinstance(caught.value, URLError) is ("url" in options)


def switched_off(cache: Cache) -> None:
    """All operations do nothing, and functions run."""
    ran = Calls()
    f = cache.cached(lambda: ran(1))
    f(), f()
    assert len(ran) == 2
    assert f.refresh() == 1
    assert f.invalidate()
    assert f.invalidate_all()
    assert f.peek(default=0) == 0
    assert f.explain().verdict == "miss: the cache is switched off"
    assert cache.set("k", 1)
    assert cache.get("k", 0) == 0
    assert cache.add("k", 1)
    assert cache.get_many(["k"], 0) == {"k": 0}
    assert all(cache.set_many({"k": 1}).values())
    assert cache.delete("k")
    assert cache.touch("k") is False
    assert cache.incr("k") is None
    assert cache.stamp() is None
    assert cache.invalidate_tag("t")
    assert cache.clear()
    assert cache.get_or_compute("k", lambda: 3) == 3
    assert not cache.health().ok


async def aswitched_off(cache: Cache) -> None:
    """The same for the twins."""

    @cache.cached
    async def f() -> int:
        return 1

    async def compute() -> int:
        return 3

    assert await f() == 1
    assert await f.arefresh() == 1
    assert await f.ainvalidate()
    assert await f.ainvalidate_all()
    assert await f.apeek(default=0) == 0
    assert (await f.aexplain()).verdict == "miss: the cache is switched off"
    assert await cache.aset("k", 1)
    assert await cache.aget("k", 0) == 0
    assert await cache.aadd("k", 1)
    assert await cache.aget_many(["k"], 0) == {"k": 0}
    assert all((await cache.aset_many({"k": 1})).values())
    assert await cache.adelete("k")
    assert await cache.atouch("k") is False
    assert await cache.aincr("k") is None
    assert await cache.astamp() is None
    assert await cache.ainvalidate_tag("t")
    assert await cache.aclear()
    assert await cache.aget_or_compute("k", compute) == 3
    assert not (await cache.ahealth()).ok


@pytest.mark.parametrize("value", ["1", "true"])
def test_the_kill_switch(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("EVERCACHE_DISABLED", value)
    cache = Cache("redis://127.0.0.1:1")
    switched_off(cache)
    asyncio.run(aswitched_off(cache))
    assert cache._clients is None


@pytest.mark.parametrize("value", ["", "0"])
def test_the_kill_switch_off(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("EVERCACHE_DISABLED", value)
    with Cache("memory://") as cache:
        cache.set("k", 1)
        assert cache.get("k") == 1


def test_disabled_in_this_thread_only(cache: Cache) -> None:
    cache.set("k", 1)
    seen: list[object] = []
    with cache.disabled():
        switched_off(cache)
        asyncio.run(aswitched_off(cache))
        thread = threading.Thread(target=lambda: seen.append(cache.get("k")))
        thread.start()
        thread.join()
    assert seen == [1]
    assert cache.get("k") == 1


def test_disabled_concerns_the_one_cache_only(cache: Cache, stores: MemoryStores) -> None:
    other = Cache("memory://")
    other.set("k", 1)
    with cache.disabled():
        assert other.get("k") == 1


# -- on_error, with no server at all (nothing listens on port 1)


@pytest.fixture
def nowhere() -> Any:
    with Cache("redis://127.0.0.1:1", budget=0.05) as cache:
        yield cache


def test_absorb(nowhere: Cache) -> None:
    ran = Calls()
    f = nowhere.cached(lambda: ran(1))
    assert f() == f() == 1
    assert len(ran) == 1  # the gutter
    assert nowhere.get("k", 0) == 0
    assert nowhere.incr("k") is None
    assert nowhere.touch("k") is False
    assert nowhere.stamp() is None
    assert nowhere.get_or_compute("k", lambda: 3) == 3
    for ack in (nowhere.set("k", 1), nowhere.delete("k"), f.invalidate(), nowhere.clear()):
        assert not ack
        assert ack.queued
        assert ack.reason == "unavailable"
    assert nowhere.stats().pending == 3, "the set and the delete of one key wait as one"
    assert f.explain().verdict.startswith("miss: an invalidation of it waits")
    assert f() == 1
    assert len(ran) == 2  # the invalidation is obeyed here at once
    assert not nowhere.health().ok


def test_raise(nowhere: Cache) -> None:
    f = nowhere.cached(on_error="raise")(lambda: 1)
    for operation in (
        lambda: nowhere.get_or_compute("k", lambda: 1, on_error="raise"),
        f,
        f.invalidate,
        lambda: nowhere.get("k", on_error="raise"),
        lambda: nowhere.set("k", 1, on_error="raise"),
        lambda: nowhere.delete("k", on_error="raise"),
        lambda: nowhere.incr("k", on_error="raise"),
        lambda: nowhere.touch("k", on_error="raise"),
        lambda: nowhere.clear(on_error="raise"),
    ):
        with pytest.raises(UnavailableError):
            operation()
